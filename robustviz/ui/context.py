"""What every view shares: the data set, networks A and B, and the image. All of it lives in the
address.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from robustviz import paths, terms
from robustviz.runs import folder
from robustviz.runs.naming import SEEDS, method_label
from robustviz.types import UserError
from robustviz.ui.networks import (
    FIRST as FIRST,
    GROUPS as GROUPS,
    _l2 as _l2,
    data_name as data_name,
    default_image as default_image,
    defaults as _defaults,
    group as group,
    label as label,
    method_option as method_option,
    methods as methods,
    nearest as _nearest,
    on as on,
    option as option,
    ordered as ordered,
    test_count as test_count,
    thumbnail as thumbnail,
    trained as trained,
)
from robustviz.ui.shell import linked

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
    st.session_state["chosen"] = True


def follow() -> None:
    """First line of a fragment in which an image can be chosen: the sidebar stands outside it and
    must hear of it.
    """
    if st.session_state.pop("chosen", False):
        st.rerun()


def sidebar() -> Context:
    """Draw the pickers and return what is chosen. Raises UserError where no trained model
    exists.
    """
    st.session_state.pop("chosen", None)  # this is the run that shows it
    known = folder.all_runs()
    every = trained(known)
    if not every:
        raise UserError(
            "There is no trained model yet: train one on the Train page, or run `make zoo`."
        )
    with st.sidebar:
        holder = st.container()
        with st.expander("Data and models", icon=":material/tune:"):
            data, a, b = _networks(every)
            if left_out := [run.id for run in known if _l2(run)]:
                st.markdown(
                    (f"{left_out[0]} is" if len(left_out) == 1 else f"{len(left_out)} runs are")
                    + " not listed: trained in l2, while these views measure in grey levels."
                    " `evaluate` on the command line can."
                )
            _offer_training(every[a].data_key)
        count = test_count(a)
        with holder:
            img = int(
                st.number_input(
                    f"Test image, 0 to {count - 1}",
                    0,
                    count - 1,
                    **linked("img", default_image(a, b), range(count)),
                )
            )
            picture, name = thumbnail(a, img)
            st.image(picture, width="content", alt=f"Test image {img}: {name}")
            st.markdown(
                f"**{name}**, image {img} of the {count} test images of {data}  \n"
                f":blue[**A**] {label(every[a])}"
                + (f"  \n:orange[**B**] {label(every[b])}" if b else "")
                + ("  \nA and B are the same network." if a == b else f"  \n{SEEDS}" * bool(b))
            )
    return Context(data, a, b, img)


def _networks(every: dict[str, folder.Run]) -> tuple[str, str, str]:
    """The pickers of the data set and of networks A and B; the data's name and two ids."""
    names = sorted(
        set(map(data_name, every.values())), key=lambda name: (name != FIRST["data"], name)
    )
    # the data set to start from is that of a run which the address names
    named = (every.get(st.query_params.get(side, "")) for side in ("a", "b"))
    first = next((data_name(run) for run in named if run is not None), names[0])
    data = st.selectbox(
        "Data set",
        names,
        on_change=_follow,
        help=terms.term("shapes"),
        **linked("data", first, names),
    )
    here = ordered(run for run in every.values() if data_name(run) == data)
    options, start = list(here), _defaults(here)
    a = st.selectbox(
        "Model A", options, format_func=lambda i: option(here[i]), **linked("a", start[0], options)
    )
    # an address may name A alone
    b = st.selectbox(
        "Model B",
        ["", *options],
        format_func=lambda i: option(here[i]) if i else "none",
        **linked("b", start[0] if a == start[1] else start[1], ["", *options]),
    )
    return data, a, b or ""


def _offer_training(data_key: str) -> None:
    """Lead to the Train page, with the method that the last change of the data set did not find
    there.
    """
    if missing := st.session_state.get("missing", ""):
        st.warning(f"{method_label(missing)} has not been trained on this data yet.")
    if st.button(
        f"Train {method_label(missing) or 'another model'}",
        key="offer",
        icon=":material/model_training:",
        width="stretch",
    ):
        st.session_state.update(
            {"train-data": data_key}
            | ({"train-method": missing, "train-recipe": OWN} if missing else {})
        )
        st.session_state.pop("missing", None)
        st.switch_page(str(paths.ROOT / "pages" / "train.py"))


def _follow() -> None:
    """The data set changed: take the same methods there, as far as they have been trained."""
    state = st.session_state
    every, here = trained(), on(state["data"])
    state.pop("missing", None)
    for side, usual in zip(("a", "b"), _defaults(here), strict=True):
        if side == "b" and state.get("b") == "":
            continue  # one network was asked for
        old = every.get(state.get(side) or "")
        wanted = old.method_key if old else FIRST[side]
        same = _nearest(here, wanted, old)
        state[side] = same or usual
        if not same:
            state["missing"] = wanted
    if state["a"] == state["b"]:
        state["b"] = next((run_id for run_id in here if run_id != state["a"]), "")
    state.pop("img", None)
    state.pop("eps", None)
