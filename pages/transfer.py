"""Transfer: attacked images of one network, shown to others."""

import streamlit as st

from robustviz.runs.files import read_json
from robustviz.types import UserError
from robustviz.ui import context, header, shell, stage
from robustviz.views.transfer import panel as transfer, report

here = header.open(transfer.TITLE)


@st.cache_data
def study() -> str:
    """What the shipped alignment study says; empty where its file is gone."""
    try:
        return report.sentence(read_json(report.file_of()))
    except UserError:
        return ""


@shell.fragment
def view() -> None:
    """The first screen, what alignment moves, and the rest on demand."""
    context.follow()
    spot = stage.spot()
    row = st.container(horizontal=True)
    with row, stage.settings():
        chosen = transfer.settings()
    with spot:
        found = transfer.first(here, chosen, row)
    if found is not None:
        transfer.aligned(here, chosen, found)
    with stage.more("transfer") as more:
        if more.open:
            transfer.matrices(here, transfer.controls())
            if text := study():
                transfer.study(text, "python -m robustviz.views.transfer.study --report")


view()
shell.reset_button()
