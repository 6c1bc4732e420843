"""Compare: which network holds, and at what price? The scoreboard of all networks of a data set."""

from robustviz.views.compare import panel

panel.page()
