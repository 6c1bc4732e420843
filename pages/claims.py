"""Claims: does what the papers say hold here?"""

from robustviz.views.claims import panel

panel.page()
