"""Start: how a network is fooled, in three pictures. Reads the precomputed story only; nothing is
computed here.
"""

from robustviz.views.start import panel

panel.page()
