"""Contributions: how few features carry an answer, and what logit pairing does to them."""

import streamlit as st

from robustviz.ui import context, header, shell
from robustviz.views.contributions import panel as contributions

here = header.open("How many features carry the answer?")


@shell.fragment
def view() -> None:
    """Everything that follows the controls."""
    context.follow()
    chosen = contributions.controls()
    contributions.curves(here, chosen)
    st.divider()
    contributions.strips(here, chosen)
    st.divider()
    contributions.scatters(here, chosen)
    st.divider()
    contributions.steps(here)


view()
shell.reset_button()
