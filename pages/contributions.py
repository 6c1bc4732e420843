"""Contributions: how few features carry an answer, and what logit pairing does to them."""

import streamlit as st

from robustviz.ui import context, header, shell, stage
from robustviz.views.contributions import panel as contributions

here = header.open(contributions.TITLE)


@shell.fragment
def view() -> None:
    """Everything below the pickers: the first screen, the pairs that logit pairing acts on, and
    more on demand.
    """
    context.follow()
    spot = stage.spot()
    row = st.container(horizontal=True)
    with row, stage.settings():
        chosen = contributions.settings()
    with spot:
        contributions.first(here, row)
    found = contributions.pairs(here, chosen)
    with stage.more("contributions") as more:
        if more.open:
            contributions.opposing(chosen, found)
            contributions.curves(here, chosen)
            contributions.strips(here, chosen)
            contributions.steps(here)


view()
shell.reset_button()
