"""Attack: how little does it take? One image, two networks and one budget; below, the same for many
images.
"""

import streamlit as st

from robustviz.ui import context, header, shell, stage
from robustviz.views.attack import panel as attack

here = header.open(attack.QUESTION)


@shell.fragment
def view() -> None:
    """Everything below the pickers."""
    context.follow()
    spot, row = stage.spot(), st.container(horizontal=True)
    with row, stage.settings():
        chosen = attack.settings(here)
    with spot:
        found = attack.first(here, chosen, row)
    if found:
        attack.bars(found, chosen)
    attack.histogram(here)
    with stage.more("attack") as more:
        if more.open:
            attack.curve(here, chosen)
            attack.steps(here, chosen)
            attack.classes(here, chosen)


view()
shell.reset_button()
