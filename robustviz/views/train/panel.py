"""The Train page: the form, the estimate, the live view of a job, the list of runs."""

from __future__ import annotations

import streamlit as st

from robustviz.ui import shell
from robustviz.views.train.form import form, submit
from robustviz.views.train.jobs import job_list
from robustviz.views.train.live import watch


def page() -> None:
    """What if it were trained otherwise?"""
    st.title("What if…?")
    config = form()
    if config is not None:
        submit(config)
    watch()
    job_list()
    shell.reset_button()
