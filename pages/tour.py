"""Tour: seven steps, each with a question to guess at before the answer is shown."""

from robustviz.views.tour import panel

panel.page()
