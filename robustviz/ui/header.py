"""The header row of every page with networks: the page's question as title, and the pickers of
networks A and B, the image and the data set. What is chosen is stored in the address.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from robustviz import imports
from robustviz.runs import catalogue, folder
from robustviz.runs.naming import labels, method_label, unusual
from robustviz.types import UserError, eps_text
from robustviz.ui import absent, fetching, methods, networks, shell
from robustviz.ui.context import OWN, Context, choose, follow_data
from robustviz.ui.shell import linked
from robustviz.views import pack


def open(title: str) -> Context:
    """Draw the header row and return what is chosen. If the test images are not on this computer,
    offer to download them and end the run of the page's script. Raises UserError if there is no
    trained network.
    """
    st.session_state.pop("chosen", None)  # this run of the script shows the choice
    known = folder.all_runs(damaged=True)
    every = networks.trained(run for run in known if folder.sound(run))
    with st.container(
        horizontal=True, vertical_alignment="center", key="title-row", width="stretch"
    ):
        st.title(title, anchor=False, width="stretch")
        if not every:
            raise UserError(
                "There is no trained network yet: train one on the Train page, or run `make zoo`."
            )
        with st.container(
            horizontal=True,
            vertical_alignment="center",
            key="pickers",
            width="content",
            gap="small",
        ):
            here, lacking = _pickers(every, known)
    absent.tell({side: every.get(getattr(here, side)) for side in ("a", "b")})
    if lacking is not None:  # without images the page cannot be drawn
        fetching.offer(lacking)
        shell.write_address()
        st.stop()
    return here


def _pickers(
    every: dict[str, folder.Run], known: list[folder.Run]
) -> tuple[Context, fetching.Lacking | None]:
    names = sorted(
        set(map(networks.data_name, every.values())),
        key=lambda name: (name != networks.FIRST["data"], name),
    )
    # without `data` in the address, it is the data set of a run which the address names
    named = (every.get(st.query_params.get(side, "")) for side in ("a", "b"))
    of_run = next((networks.data_name(run) for run in named if run is not None), "")
    asked = absent.data(missing := absent.noticed(every)) or of_run
    if "data" not in st.session_state and asked:
        if asked in names:  # set, so that it stays when the address has no run any more
            st.session_state["data"] = asked
        else:
            st.session_state["absent-data"] = asked
    told = bool(asked) and asked not in names and catalogue.known("data", asked)
    picker = linked("data", names[0], names, told=told)
    data = str(st.session_state["data"])
    here = networks.ordered(run for run in every.values() if networks.data_name(run) == data)
    options, start = list(here), networks.defaults(here)
    linked("a", start[0], options, told="a" in missing)
    a = str(st.session_state["a"])
    # an address may name only A
    linked("b", start[0] if a == start[1] else start[1], ["", *options], told="b" in missing)
    b = str(st.session_state["b"] or "")
    for side, run_id, choices in (("a", a, options), ("b", b, ["", *options])):
        name = _short(here[run_id]) if run_id else "none"
        with st.popover(
            f":{shell.side_colour(side)}[**{side.upper()}**] {name}", key=_closed(side)
        ):
            _network(side, here, choices)
            if side == "a":
                _offer_training(every[a].data_name, known)
    image, lacking = 0, None
    try:
        image = _image(a, b, data)
    except fetching.Lacking as error:
        lacking = error
    st.selectbox(
        "Data set", names, on_change=follow_data, label_visibility="collapsed", width=150, **picker
    )
    return Context(data, a, b, image), lacking


def _boxed(key: str) -> dict[str, Any]:
    """The keyword arguments of a picker's widget for the value linked as `key`. The widget has a
    key of its own, and a new one whenever the value was changed elsewhere: the browser would
    otherwise send the old value, which a widget in a closed popover still has.
    """
    state = st.session_state
    turn, shown = state.get(f"box-{key}", (0, None))
    if shown != state[key]:
        turn += 1
    name = f"{key}-{turn}"
    state[f"box-{key}"] = (turn, state[key])
    state.setdefault(name, state[key])

    def take() -> None:
        state[key] = state["choices"][key] = state[name]
        state[f"box-{key}"] = (turn, state[name])

    return {"key": name, "on_change": take, "persist_state": "session"}


def _network(side: str, here: dict[str, folder.Run], choices: list[str]) -> None:
    """Draw the content of a network's picker: the list of networks, what the method does, and the
    button that opens the scoreboard.
    """
    run_id = st.selectbox(
        f"Network {side.upper()}",
        choices,
        format_func=lambda one: networks.option(here[one]) if one else "none",
        **_boxed(side),
    )
    if run_id:
        st.markdown(networks.label(here[run_id]))
        if catalogue.is_l2(here[run_id]):
            at = eps_text(catalogue.radius(here[run_id]))
            st.markdown(
                f"It was trained with ℓ2 attacks; here it is attacked in ℓ∞, with ε = {at} unless"
                " you change it."
            )
        methods.explain(here[run_id].method_key)
    if st.button(
        "Choose by how they score",
        key=f"board-{side}",
        icon=":material/scatter_plot:",
        on_click=_close,
        args=(side,),
    ):
        imports.load("robustviz.views.compare.panel").drawer(side)


def _closed(name: str) -> str:
    """The key of a picker's popover. It changes with `_close`, so that Streamlit draws a new,
    closed popover: an open one would cover the dialog that was opened from it.
    """
    return f"pick-{name}-{st.session_state.get(f'closed-{name}', 0)}"


def _close(name: str) -> None:
    st.session_state[f"closed-{name}"] = st.session_state.get(f"closed-{name}", 0) + 1


def _short(run: folder.Run) -> str:
    return " · ".join((*labels([run]), *unusual(run)))


def _image(a: str, b: str, data: str) -> int:
    """Draw the picker of the image: its index, and the button that opens the dialog with
    thumbnails. Returns the index. Raises Lacking if the images are needed and not on this computer.
    """
    if catalogue.images(data) is None:
        fetching.ready(folder.open_model(a))
    count = networks.test_count(a)
    start = networks.default_image(a, b)
    own = _own_picture(data)
    linked("img", start, own or range(count))
    index = int(st.session_state["img"])
    if index not in pack.images(data).index and not own:
        fetching.ready(folder.open_model(a))
    picture, name = networks.thumbnail(a, index)
    called = f"Your picture: {name}" if own else f"Image {index}: {name}"
    with st.popover(called, key=_closed("img")):
        if not own:
            st.number_input(f"Test image, 0 to {count - 1}", 0, count - 1, **_boxed("img"))
        st.container(width=128).image(picture, width="stretch", alt=called)
        st.markdown(
            f"A {name}, {'your own picture' if own else f'one of {count} test images of {data}'}."
            + (
                " It is the first that A misclassifies under attack and B does not."
                if b and index == start
                else ""
            )
        )
        if own:
            st.button("Back to the test images", on_click=choose, args=(start,), key="back")
        if st.button(
            "Choose by looking",
            key="gallery",
            icon=":material/grid_view:",
            on_click=_close,
            args=("img",),
        ):
            imports.load("robustviz.ui.gallery").drawer(Context(data, a, b, index))
    return index


def _own_picture(data: str) -> tuple[int, ...]:
    """The number of the user's own picture, as a tuple of one, if such a picture on this data set
    is chosen; else an empty tuple.
    """
    said = str(st.session_state.get("img", st.query_params.get("img", "")))
    if not (said.isdecimal() and 6 < len(said) < 10):  # a test image: no torch needed
        return ()
    one = imports.load("robustviz.data.singles").get(int(said))
    return (one.number,) if one is not None and one.data == data else ()


def _offer_training(data: str, known: list[folder.Run]) -> None:
    """Draw a button that opens the Train page on the data set `data`, and say which runs of `known`
    are damaged or lack a plug-in. If the data set was changed and a chosen method has no network on
    it, the button is for this method.
    """
    if damaged := [run.id for run in known if not folder.sound(run)]:
        st.markdown(
            (f"{damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} runs are")
            + " damaged. The list on the Train page says why, and removes them."
        )
    if lacking := [run.id for run in known if folder.sound(run) and run.lacks]:
        st.markdown(
            (f"{lacking[0]} needs" if len(lacking) == 1 else f"{len(lacking)} runs need")
            + " a plug-in that is not here. The list on the Train page says which."
        )
    missing = str(st.session_state.get("missing", ""))
    if missing:
        st.warning(f"{method_label(missing)} has not been trained on this data yet.")
    if st.button(
        f"Train {method_label(missing) if missing else 'another network'}",
        key="offer",
        icon=":material/model_training:",
    ):
        st.session_state.update(
            {"train-data": data}
            | ({"train-method": missing, "train-recipe": OWN} if missing else {})
        )
        st.session_state.pop("missing", None)
        shell.go("train")
