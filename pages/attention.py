"""Attention: where a network looks, and which pixels PART therefore lets an attack change."""

import streamlit as st

from robustviz.ui import context, header, shell, stage
from robustviz.views.attention import panel as attention
from robustviz.views.paint import panel as paint
from robustviz.views.quadrants import panel as quadrants

here = header.open(attention.QUESTION)
if "quadrant" in st.query_params:  # the address contains a guess: show it
    st.session_state.setdefault("more-attention", True)


@shell.fragment
def view() -> None:
    """Everything below the pickers."""
    context.follow()
    spot, row = stage.spot(), st.container(horizontal=True)
    with row, stage.settings():
        chosen = attention.settings(here)
    with spot:
        attention.first(here, chosen, row)
    paint.what_if(here, chosen.levels.steps, chosen.levels.seed)
    if results := attention.measured(here, chosen):
        attention.budgets(results, chosen)
    with stage.more("attention") as more:
        if more.open:
            if results:
                attention.maps(results, chosen)
            attention.overlap(here, chosen, results)
            attention.faithful(here, chosen)
            quadrants.puzzle(here)


view()
shell.reset_button()
