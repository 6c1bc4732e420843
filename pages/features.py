"""Features: the input of a network's last layer, for clean and attacked images."""

import streamlit as st

from robustviz.ui import context, header, shell, stage
from robustviz.views.features import panel as features
from robustviz.views.misalignment import panel as misaligned

here = header.open(features.TITLE)


@shell.fragment
def view() -> None:
    """Everything below the pickers: the maps, why a class is misaligned, the distances, and more on
    demand. A fragment, so that a choice in it does not rerun the pickers.
    """
    context.follow()
    spot, row = stage.spot(), st.container(horizontal=True)
    with row, stage.settings():
        asked = features.settings(here)
    with spot:
        asked = features.allowed(here, asked)
        sides = features.first(here, asked, row)
    if sides:
        misaligned.why(here, asked, sides)
        features.nearness(sides, asked)
    with stage.more("features") as more:
        if more.open:
            features.explore(here, asked)
            misaligned.everything(here, asked)
            features.film(here)


view()
shell.reset_button()
