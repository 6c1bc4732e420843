"""What every view shares: the data set, networks A and B, and the image. All of it lives in the
address; `robustviz.ui.header` draws the pickers.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from robustviz.ui import networks, shell

OWN = "Choose freely"  # the Train page's recipe that is none


@dataclass(frozen=True)
class Context:
    """What is looked at: run ids of A and B (`b` may be empty), the data's name, the test image's
    number.
    """

    data: str
    a: str
    b: str
    img: int

    @property
    def sides(self) -> list[tuple[str, str]]:
        """(side, run id) of each network that is chosen."""
        return [(side, run) for side, run in (("a", self.a), ("b", self.b)) if run]


def choose(index: int) -> None:
    """A callback: the image with this number becomes the one that every view shows."""
    st.session_state["img"] = int(index)
    st.session_state.setdefault("choices", {})["img"] = int(index)
    st.session_state["chosen"] = True


def follow() -> None:
    """First line of a fragment in which an image can be chosen: the sidebar stands outside it and
    must hear of it.
    """
    if st.session_state.pop("chosen", False):
        st.rerun()


def follow_data() -> None:
    """The data set changed: take the same methods there, as far as they have been trained."""
    state = st.session_state
    every, here = networks.trained(), networks.on(state["data"])
    state.pop("missing", None)
    for side, usual in zip(("a", "b"), networks.defaults(here), strict=True):
        if side == "b" and state.get("b") == "":
            continue  # one network was asked for
        old = every.get(state.get(side) or "")
        wanted = old.method_key if old else networks.FIRST[side]
        same = networks.nearest(here, wanted, old)
        state[side] = same or usual
        if not same:
            state["missing"] = wanted
    if state["a"] == state["b"]:
        state["b"] = next((run_id for run_id in here if run_id != state["a"]), "")
    shell.forget("img", "eps")
