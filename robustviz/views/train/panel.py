"""The Train page: the form, the estimate, the live view of a job, the list of runs."""

from __future__ import annotations

import streamlit as st

from robustviz.ui import shell
from robustviz.views.train import form, jobs, live


def page() -> None:
    """What if it were trained otherwise?"""
    st.title("What if…?")
    config = form.form()
    if config is not None:
        form.submit(config)
    live.watch()
    jobs.job_list()
    shell.reset_button()
