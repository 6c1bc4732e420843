"""Where a page's first screen stands, the row below it, and *More*."""

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
    """The control's position, and what was clicked just now; empty where nothing was."""

    at: int
    clicked: str


@functools.cache
def _component() -> ComponentRenderer:
    html, css, js = files()
    return st.components.v2.component("robustviz.screen", html=html, css=css, js=js)


def spot() -> DeltaGenerator:
    """Where the screen will stand: settings are below it, and yet read before it is drawn."""
    return st.container()


def settings(label: str = "Settings") -> DeltaGenerator:
    """A popover in the row below the screen for everything that is asked about it."""
    return st.popover(label, icon=":material/tune:", type="tertiary")


def more(key: str, label: str = "More") -> ExpanderContainer:
    """The expander at the page's end; what is in it is made only when it is `.open`."""
    return st.expander(label, on_change="rerun", key=f"more-{key}")


def position(key: str, values: Any, start: int) -> int:
    """Where a control stands: what the address says under its key, else its start. The address
    keeps what a position is called.
    """
    names = [str(value) for value in values]
    shell.linked(key, names[start], names)
    return names.index(str(st.session_state[key]))


def show(key: str, screen: Screen, asking: bool | None = None) -> Seen:
    """Draw a first screen; what a person did on it. `asking`: whether to hide what would tell the
    answer; None: as in a lecture, until somebody presses *Reveal*.
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
    clicked = str(result.get("clicked") or "").partition(" ")[2]
    return Seen(at, clicked)


def _moved(key: str, control: Any) -> None:
    """The slider came to rest: its position goes where the address is written from."""
    at = (st.session_state.get(key) or {}).get("at")
    if control is not None and isinstance(at, int) and 0 <= at < len(control.values):
        st.session_state[control.key] = str(control.values[at])
