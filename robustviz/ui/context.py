"""The choices that all views share: the data set, networks A and B, and the image. They are stored
in the page's address; `robustviz.ui.header` draws the pickers.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from robustviz.runs.folder import Run
from robustviz.ui import networks, shell

OWN = "Choose freely"  # the option of the Train page for no recipe


@dataclass(frozen=True)
class Context:
    """What the user is looking at: the data set's name, the run ids of networks A and B (`b` may be
    empty), and `img`, the index of the test image or the number of the user's own picture.
    """

    data: str
    a: str
    b: str
    img: int

    @property
    def sides(self) -> list[tuple[str, str]]:
        """The chosen networks as (side, run id) pairs, where side is "a" or "b"."""
        return [(side, run) for side, run in (("a", self.a), ("b", self.b)) if run]

    @property
    def own(self) -> bool:
        """Whether the image is the user's own picture. Like `data.singles.is_own`, but without
        torch.
        """
        return self.img >= 1_000_000


def choose(index: int) -> None:
    """A Streamlit callback: select the test image with this index, or the user's own picture with
    this number, in all views.
    """
    st.session_state["img"] = int(index)
    st.session_state.setdefault("choices", {})["img"] = int(index)
    st.session_state["chosen"] = True


def attack(run: Run) -> None:
    """Go to the Attack page with this network and the default image. Which side it is on, and what
    stands beside it, is as in `networks.pair`.
    """
    shell.forget("img")
    st.session_state.update(networks.pair(run, str(st.session_state.get("a", ""))))
    shell.go("attack")


def follow() -> None:
    """Rerun the whole page if an image was chosen. Call this at the start of a fragment in which
    images can be chosen: the pickers are outside the fragment, and would still show the old image.
    """
    if st.session_state.pop("chosen", False):
        st.rerun()


def follow_data() -> None:
    """A Streamlit callback for a new choice of data set: select the networks with the same methods
    on the new data set, or the default network in place of a method that has not been trained on
    it. If no network B was chosen, none is selected. The chosen image and ε are discarded.
    """
    state = st.session_state
    every, here = networks.trained(), networks.on(state["data"])
    state.pop("missing", None)
    for side, usual in zip(("a", "b"), networks.defaults(here), strict=True):
        if side == "b" and state.get("b") == "":
            continue  # the user chose to see one network only
        old = every.get(state.get(side) or "")
        wanted = old.method_key if old else networks.FIRST[side]
        same = networks.nearest(here, wanted, old)
        state[side] = same or usual
        if not same:
            state["missing"] = wanted
    if state["a"] == state["b"]:
        state["b"] = next((run_id for run_id in here if run_id != state["a"]), "")
    shell.forget("img", "eps")
