"""Transfer: attacked images of one network, shown to others."""

import streamlit as st

from robustviz.runs.files import read_json
from robustviz.types import UserError
from robustviz.ui import header, shell
from robustviz.views.transfer import panel as transfer, report

here = header.open("Does a trick for one network fool another?")


@shell.fragment
def view() -> None:
    """Everything that follows the controls."""
    transfer.matrices(here, transfer.controls())


@st.cache_data
def found() -> str:
    """What the shipped alignment study says; empty where its file is gone."""
    try:
        return report.sentence(read_json(report.file_of()))
    except UserError:
        return ""


view()
st.divider()
if text := found():
    transfer.study(text, "python -m robustviz.views.transfer.study --report")
shell.reset_button()
