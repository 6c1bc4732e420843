"""Attention: where a network looks, and what PART makes of it."""

import streamlit as st

from robustviz.ui import context, shell
from robustviz.views.attention import panel as attention
from robustviz.views.paint import panel as paint
from robustviz.views.quadrants import panel as quadrants

st.title("Which pixels matter, and who gets to touch them?")
here = context.sidebar()


@shell.fragment
def view() -> None:
    """Everything that follows the controls."""
    chosen = attention.controls(here)
    found = attention.measured(here, chosen)
    if found:
        attention.pictures(found)
        attention.legend(found)
    runs = {result.meta["run"]: result for result in found.values()}
    for side, run_id in here.sides:
        if run_id in runs:
            attention.one_network(side, run_id, runs[run_id], here, chosen)
    st.divider()
    attention.spent(found, here, chosen)
    attention.overlap(here, chosen, found)
    attention.faithful(here, chosen)


view()
paint.what_if(here)
quadrants.puzzle(here)
shell.reset_button()
