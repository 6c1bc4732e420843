"""Compare: which network is robust, and at what cost? The scoreboard of a data set's networks."""

from robustviz.views.compare import panel

panel.page()
