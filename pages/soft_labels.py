"""Soft labels and loss: a witness's soft labels, and the surfaces of the loss."""

import streamlit as st

from robustviz.ui import context, header, shell
from robustviz.views.loss import panel as soft_labels

here = header.open("What changes when the target is less sure?")


@shell.fragment
def view() -> None:
    """Everything below the sidebar; a fragment, so that moving T leaves the rest of the
    page alone.
    """
    context.follow()
    chosen = soft_labels.cast(here)
    temperature = soft_labels.bars(here, chosen)
    st.divider()
    soft_labels.surface(here, chosen, temperature)
    st.divider()
    soft_labels.judged(chosen)
    with st.expander(
        "Curvature: how strongly does the loss bend?",
        icon=":material/show_chart:",
        on_change="rerun",
        key="curvature-open",
    ) as bend:
        if bend.open:
            soft_labels.curvature(here, chosen)
    with st.expander(
        "The loss around the weights",
        icon=":material/landscape:",
        on_change="rerun",
        key="weights-open",
    ) as weights:
        if weights.open:
            soft_labels.weights(chosen)


view()
shell.reset_button()
