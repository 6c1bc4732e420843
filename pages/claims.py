"""Claims: do the papers' claims hold here?"""

from robustviz.views.claims import panel

panel.page()
