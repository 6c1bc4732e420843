"""The layout of a page: its first screen (`views.screen`), the row of buttons below it, and the
expander *More*.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.lib.mutable_expander_container import ExpanderContainer

from robustviz.ui import shell
from robustviz.views.screen import Screen, files


class Seen(NamedTuple):
    """What the user did on a first screen: the control's position as an index into its values (0
    without a control), and the name of what was clicked. The name is empty unless that click caused
    the present run of the script.
    """

    at: int
    clicked: str


@functools.cache
def _component() -> ComponentRenderer:
    html, css, js = files()
    return st.components.v2.component("robustviz.screen", html=html, css=css, js=js)


def spot() -> DeltaGenerator:
    """Make a container for the first screen. Create it before the settings below it, which decide
    what the screen shows, and fill it after they are read.
    """
    return st.container()


def settings(label: str = "Settings") -> DeltaGenerator:
    """Make a popover for settings in the row below the first screen, and return it."""
    return st.popover(label, icon=":material/tune:", type="tertiary")


def more(key: str, label: str = "More") -> ExpanderContainer:
    """Draw an expander titled `label`, at first closed, and return it; draw its content only if it
    is `.open`. `key`: distinguishes it from other expanders of the page.
    """
    return st.expander(label, on_change="rerun", key=f"more-{key}")


def position(key: str, values: Any, start: int) -> int:
    """The position of a control, as an index into `values`: that of the value chosen in this
    session under `key`, else of the one in the address, else `start`. Values are compared as text.
    """
    names = [str(value) for value in values]
    shell.linked(key, names[start], names)
    return names.index(str(st.session_state[key]))


def show(key: str, screen: Screen, asking: bool | None = None) -> Seen:
    """Draw a first screen and return what the user did on it. `asking`: whether to hide the result,
    so that people guess first; None: only in lecture mode, until *Reveal* is pressed.
    """
    control, at = screen.control, 0
    data = screen.data("dark" if st.context.theme.type == "dark" else "light")
    if control is not None:
        at = position(control.key, control.values, control.start)
        data["control"]["start"] = at
    data |= {"present": shell.presenting(), "question": key}
    if asking is not None:
        data["asking"] = asking
    result = _component()(
        key=f"screen-{key}",
        data=data,
        on_at_change=functools.partial(_moved, f"screen-{key}", control),
        on_clicked_change=lambda: None,
    )
    return Seen(at, str(result.get("clicked") or "").partition(" ")[2])


def _moved(key: str, control: Any) -> None:
    """A Streamlit callback for a slider that has stopped: save its value where `write_address`
    reads it.
    """
    at = (st.session_state.get(key) or {}).get("at")
    if control is not None and isinstance(at, int) and 0 <= at < len(control.values):
        st.session_state[control.key] = str(control.values[at])
