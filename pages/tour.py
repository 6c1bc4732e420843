"""Tour: seven steps, each a question to guess at before the answer is seen."""

from robustviz.views.tour import panel

panel.page()
