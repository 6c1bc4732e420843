"""What a training method does, wherever its name stands: a sentence and its step drawn."""

from __future__ import annotations

import streamlit as st

from robustviz.runs.naming import method_label
from robustviz.views import sketches


def explain(key: str) -> None:
    """The method's sentence and sketch, here."""
    st.markdown(f"**{method_label(key)}.** {sketches.sketch(key).says}")
    # what `st.html` cleans away is script, not drawings
    st.html(sketches.svg(key), width="stretch")


def about(key: str, place: str = "") -> None:
    """The same behind a small button. `place` tells two of them on one page apart."""
    with st.popover(
        f"What is {method_label(key)}?",
        icon=":material/help:",
        type="tertiary",
        key=f"about-{key}-{place}",
    ):
        explain(key)
