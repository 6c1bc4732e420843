"""Features: what a network makes of clean and attacked images just before its last layer."""

import streamlit as st

from robustviz.ui import context, header, shell
from robustviz.views.features import panel as features
from robustviz.views.misalignment import panel as misaligned

here = header.open("Do attacked images stay with their class?")


@shell.fragment
def view() -> None:
    """The maps, what is chosen in them, the distances; a fragment, so that choosing points leaves
    the rest alone.
    """
    context.follow()
    choice = features.controls(here)
    features.maps(here, choice)
    st.divider()
    features.nearness(here, choice)
    with st.expander(
        "Film: how it came about, epoch by epoch",
        icon=":material/movie:",
        on_change="rerun",
        key="film-open",
    ) as film:
        if film.open:
            features.film(here)
    with st.expander(
        "Why is a class misaligned?", icon=":material/help:", on_change="rerun", key="why-open"
    ) as cause:
        if cause.open:
            misaligned.why(here, choice.map)


view()
shell.reset_button()
