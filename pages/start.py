"""Start: how a network is fooled, in three pictures. Only shows precomputed results; nothing is
computed here.
"""

from robustviz.views.start import panel

panel.page()
