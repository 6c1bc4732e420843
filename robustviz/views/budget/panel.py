"""The Budget page: what a larger training ε costs, and why. This module does not need torch."""

from __future__ import annotations

import streamlit as st

from robustviz.types import eps_text
from robustviz.ui import shell, stage, widgets
from robustviz.views.budget import scene
from robustviz.views.budget.result import Family, balls, family, known

TITLE = "Why can robustness cost accuracy?"
LINES = """from robustviz.views.budget.result import balls, family

print(vars(family({!r})), vars(balls()))"""
PAPERS = """
**Why it can.** Tsipras et al. (2019) show a task on which no classifier is accurate and robust.
Accuracy there comes from many features that an attack can reverse. The robust feature alone is
less accurate. The blobs above are that argument with one feature of each kind.

**Where it need not.** Yang et al. (2020) measured images of common data sets. Different classes lie
further apart than twice the usual ε. So a network that is both accurate and robust exists. If
training loses accuracy there, the cause is learning, not the data.
"""
SOURCES = """
Tsipras et al. 2019, *Robustness May Be at Odds with Accuracy*, arXiv 1805.12152.

Yang et al. 2020, *A Closer Look at Accuracy vs. Robustness*, arXiv 2003.02460.
"""


def page() -> None:
    """Draw the whole page."""
    names = known()
    with st.container(horizontal=True, vertical_alignment="center", key="title-row"):
        st.title(TITLE, anchor=False, width="stretch")
        shell.follow_data("family", names)
        st.selectbox(
            "Data set of the networks",
            names,
            label_visibility="collapsed",
            width=150,
            **shell.linked("family", names[0], names),
        )
    view()


@shell.fragment
def view() -> None:
    """Draw everything below the title and the data set picker."""
    found = family(data := str(st.session_state["family"]))
    blobs = balls()
    screen = scene.first(found, blobs)
    stage.show("budget", screen)
    shell.write_address()  # here: a rerun of the fragment skips the rest of the page
    with st.container(horizontal=True):
        widgets.take_home(
            "budget", TITLE, screen, {"networks": found, "points": blobs}, lines=LINES.format(data)
        )
    st.markdown(PAPERS)
    _below(found)
    with stage.more("budget") as more:
        if more.open:
            st.markdown(SOURCES)
            _table(found)


def _below(found: Family) -> None:
    from robustviz.views.budget.figures import budget

    widgets.draw(budget, found, widgets.Frame("budget-own", None))


def _table(found: Family) -> None:
    """Draw a table of all networks with the numbers of images on which they are right."""
    usual = eps_text(found.meta["usual"])
    st.dataframe(
        [
            {
                "ε in training": eps_text(row["eps"]) if row["eps"] else "0 (ordinary)",
                "seed": row["seed"],
                "images": row["n"],
                "right untouched": row["clean_k"],
                f"attacked with {usual}": row["usual_k"] if row["usual_k"] >= 0 else None,
                "attacked with its training ε": row["own_k"],
            }
            for row in found.rows()
        ],
        hide_index=True,
    )
    st.markdown(f"Measured again with `{found.meta['command']}`.")
