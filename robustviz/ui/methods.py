"""What a training method does, wherever its name stands: a sentence and its step drawn."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz.runs.naming import method_label
from robustviz.views import sketches
from robustviz.views.screen import COLOURS

WIDEST = 440  # pixels of a sketch


def explain(key: str) -> None:
    """The method's sentence and sketch, here."""
    st.markdown(f"**{method_label(key)}.** {sketches.sketch(key).says}")
    colour = COLOURS["dark" if st.context.theme.type == "dark" else "light"]["text"]
    # not as HTML, from which Streamlit cleans drawings away
    st.container(width=WIDEST).image(
        sketches.svg(key, colour), width="stretch", alt=sketches.alt(key)
    )


def about(key: str, place: str = "") -> DeltaGenerator:
    """The same behind a small button; its popover, for more to be said in it. `place` tells two of
    them on one page apart.
    """
    popover = st.popover(
        f"What is {method_label(key)}?",
        icon=":material/help:",
        type="tertiary",
        key=f"about-{key}-{place}",
    )
    with popover:
        explain(key)
    return popover
