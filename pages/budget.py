"""Budget: why robustness can cost accuracy, and where it does not."""

from robustviz.views.budget import panel

panel.page()
