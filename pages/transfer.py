"""Transfer: do images attacked on one network also fool other networks?"""

import functools

import streamlit as st

from robustviz import paths
from robustviz.runs.files import read_json
from robustviz.types import UserError
from robustviz.ui import context, header, shell, stage
from robustviz.views.transfer import panel as transfer, report

here = header.open(transfer.TITLE)


@functools.cache
def study() -> tuple[list[str], ...]:
    """The findings of the shipped alignment study and how sure they are, as two lists of lines;
    empty if its file is missing.
    """
    try:
        return report.lines(read_json(report.file_of()))
    except UserError:
        return [], []


@shell.fragment
def view() -> None:
    """Everything below the pickers: the first screen, what model alignment changes, and more on
    demand.
    """
    context.follow()
    spot = stage.spot()
    row = st.container(horizontal=True)
    with row, stage.settings():
        chosen = transfer.settings()
    with spot:
        found = transfer.first(here, chosen, row)
    if found is not None:
        transfer.aligned(here, chosen, found)
    st.page_link(
        str(paths.ROOT / "pages" / "soft_labels.py"),
        label="What a soft label does: *Hard or soft label* on Loss",
        icon=":material/arrow_forward:",
    )
    with stage.more("transfer") as more:
        if more.open:
            transfer.matrices(here, transfer.controls())
            said, sure = study()
            if said:
                transfer.study(said, sure, "python -m robustviz.views.transfer.study --report")


view()
shell.reset_button()
