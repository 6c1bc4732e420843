"""Attention: where a network looks, and what PART makes of it."""

import streamlit as st

from robustviz.ui import header, shell
from robustviz.views.attention import panel as attention
from robustviz.views.paint import panel as paint
from robustviz.views.quadrants import panel as quadrants

here = header.open("Which pixels matter, and who gets to touch them?")


@shell.fragment
def view() -> None:
    """Everything that follows the controls."""
    chosen = attention.controls(here)
    results = attention.measured(here, chosen)
    if results:
        attention.overview(results)
    by_run = {result.meta["run"]: result for result in results.values()}
    for side, run_id in here.sides:
        if run_id in by_run:
            attention.one_network(side, run_id, by_run[run_id], chosen)
    st.divider()
    attention.spent(results, chosen)
    attention.overlap(here, chosen, results)
    attention.faithful(here, chosen)


view()
paint.what_if(here)
quadrants.puzzle(here)
shell.reset_button()
