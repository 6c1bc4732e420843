"""Attack: how little does it take? One image, two networks, one budget; then the same for a hundred
images.
"""

import streamlit as st

from robustviz.ui import header, shell
from robustviz.views.attack import panel as attack

here = header.open("How little does it take?")


@shell.fragment
def view() -> None:
    """Everything that follows the controls; a fragment, so that moving ε leaves the rest of the
    page alone.
    """
    chosen = attack.controls(here)
    columns = st.columns(len(here.sides), gap="large")
    for (side, run_id), column in zip(here.sides, columns, strict=True):
        with column:
            attack.one_network(side, run_id, chosen)
    st.divider()
    left, right = st.columns(2, gap="large")
    with left:
        attack.curve(here, chosen.eps)
    with right:
        attack.histogram(here)
    with st.expander(
        "Step by step", icon=":material/timeline:", on_change="rerun", key="steps-open"
    ) as steps:
        if steps.open:
            attack.steps(here, chosen)


view()
shell.reset_button()
