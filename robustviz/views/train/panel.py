"""The Train page: the form on the left, the live view on the right, below them sweeps and runs."""

from __future__ import annotations

import streamlit as st

from robustviz.ui import rights, shell
from robustviz.views.train import form, jobs, live, pair, sweeping


def page() -> None:
    """Draw the whole page."""
    with st.container(key="title-row"):
        st.title("What if the network were trained differently?", anchor=False)
    st.space("small")
    line = st.empty()
    left, right = st.columns([5, 6], gap="large")
    with left:
        config = form.form()
        cost = form.submit(config) if config is not None else ""
    if cost or rights.may_act():
        said = "Choose how a network is trained; the time it will take is shown here."
        line.markdown(cost or said)
    with right:
        if not pair.watch():
            live.watch(config)
    sweeping.watch()
    jobs.watch()
    shell.reset_button()
