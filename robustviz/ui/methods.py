"""The explanation of a training method, the same wherever its name appears: a sentence and a sketch
of a training step.
"""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from robustviz.runs.naming import method_label
from robustviz.views import sketches
from robustviz.views.screen import COLOURS

WIDEST = 440  # width of a sketch in pixels


def explain(key: str) -> None:
    """Draw the method's sentence and sketch at this place of the page."""
    st.markdown(f"**{method_label(key)}.** {sketches.sketch(key).says}")
    colour = COLOURS["dark" if st.context.theme.type == "dark" else "light"]["text"]
    # not as HTML, because Streamlit removes SVG from it
    st.container(width=WIDEST).image(
        sketches.svg(key, colour), width="stretch", alt=sketches.alt(key)
    )


def about(key: str, place: str = "") -> DeltaGenerator:
    """Draw a small button whose popover explains the method; returns the popover, to add more to
    it. `place` distinguishes two such buttons on one page.
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
