"""The Claims page: what the papers claim, and whether the runs here show it."""

from __future__ import annotations

import streamlit as st

from robustviz.imports import load
from robustviz.ui import shell, stage, widgets
from robustviz.views.claims import screen_figures
from robustviz.views.claims.result import Found, found

TITLE = "Do the papers' claims hold here?"
LINES = """from robustviz.views.claims.result import found

for row in found().rows:
    print(row.data, row.label, row.says, row.text, sep=" | ")"""


def page() -> None:
    """Draw the whole page."""
    known = found()  # like the other pages, this one opens on shapes
    known = Found(tuple(sorted(known.rows, key=lambda row: row.data != "shapes")), known.pilots)
    with st.container(key="title-row"):
        st.title(TITLE, anchor=False)
    st.space("xsmall")
    _view(known)
    shell.reset_button()


@shell.fragment
def _view(known: Found) -> None:
    drawn = screen_figures.screen(known, 0)
    assert drawn.control is not None
    shell.follow_data(drawn.control.key, known.data)
    stage.show("claims", drawn)
    start = stage.position(drawn.control.key, known.data, 0)
    shell.write_address()  # here: a rerun of the fragment skips the rest of the page
    with st.container(horizontal=True):
        drawn = screen_figures.screen(known, start)
        widgets.take_home(
            "claims",
            TITLE,
            drawn,
            {},
            rows=lambda: [vars(row) for row in known.rows if row.data == known.data[start]],
            lines=LINES,
        )
    _table(known, known.data[start])


def _table(known: Found, data: str) -> None:
    """Draw a table of the claims' expectations on one data set, and the command that measures them
    again.
    """
    rows = [
        {
            "claim of": row.label,
            "expected": row.says,
            "verdict": row.text,
            "difference": row.effect,
            "from": row.low,
            "to": row.high,
            "smallest difference that counts": -row.smallest if row.not_worse else row.smallest,
            "of": row.measured,
        }
        for row in known.rows
        if row.data == data
    ]
    st.dataframe(
        load("pandas").DataFrame(rows),
        hide_index=True,
        alt=f"{len(rows)} expectations on {data}: verdict, difference, interval",
    )
    st.markdown("The same command trains what is missing, measures it, and writes this table:")
    st.code(f"python -m robustviz claims {data}", language="bash")
