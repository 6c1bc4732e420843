"""What every view shares: the data set, networks A and B, and the image. All of it lives in the
address.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st
import torch

from robustviz import figures, paths, registry, terms
from robustviz.runs import folder
from robustviz.runs.naming import SEEDS, method_label, unusual
from robustviz.training.evaluate import count_right
from robustviz.types import JSON, UserError
from robustviz.ui.shell import linked
from robustviz.views.measure import images_of, net_of

OWN = "Choose freely"  # the Train page's recipe that is none
FIRST = {"data": "shapes", "a": "standard", "b": "pgd_at"}  # what is chosen before anybody chose


class Group(NamedTuple):
    """A group of methods: its name, what must not be misread about them, and its sign."""

    name: str
    caution: str = ""
    icon: str = ""


GROUPS = {  # in the order of every picker
    "defence": Group("Defence"),
    "no adversarial training": Group(
        "No adversarial training",
        "The network never sees an attack while it learns, so a gain under FGSM alone is not"
        " robustness.",
        ":material/shield_question:",
    ),
    "red team": Group(
        "Red team",
        "It improves the attacker's copy and defends nothing by itself.",
        ":material/swords:",
    ),
}


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


@functools.lru_cache(maxsize=1024)
def data_name(run: folder.Run) -> str:
    """The name under which runs on the same test images come together: the data's key where its
    dials are those of the shipped runs, else with a hash. A dial that acts in training only does
    not count. A folder of the user's own is known by its name.
    """
    key, rest = run.data_key, _dials(run)
    if run.shipped or not rest or rest in _shipped_dials(key):
        return key
    folders = (name for name, option in _settings(key).items() if option.kind == "folder")
    named = next((Path(str(rest[name])).name for name in folders), key) or key
    return f"{named}-{hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6]}"


@functools.cache
def _shipped_dials(key: str) -> list[JSON]:
    return [_dials(run) for run in folder.all_runs() if run.shipped and run.data_key == key]


def _dials(run: folder.Run) -> JSON:
    train_only = [name for name, option in _settings(run.data_key).items() if option.train_only]
    return {
        name: value
        for name, value in run.info.get("data", {}).items()
        if name not in ("key", *train_only)
    }


def _settings(key: str) -> dict[str, registry.Option]:
    """The settings of a data set; none where it is one of another version of robustviz."""
    return registry.options(registry.get("data", key)) if key in registry.keys("data") else {}


@functools.lru_cache(maxsize=1024)
def label(run: folder.Run) -> str:
    """A run's name: method, what it was trained with that is not usual, net, seed, and where it is
    the user's own its id's hash.
    """
    parts = (
        method_label(run.method_key),
        *unusual(run),
        run.architecture,
        f"seed {run.info.get('seed')}",
        "" if run.shipped else run.id[-8:],
    )
    return " · ".join(filter(None, parts))


def option(run: folder.Run) -> str:
    """A run's name in a picker: its group, then its name."""
    return f"{group(run.method_key).name} · {label(run)}"


def method_option(key: str) -> str:
    """A method's name in a picker: its group, then its name."""
    return f"{group(key).name} · {method_label(key)}"


def group(key: str) -> Group:
    """A method's group."""
    return GROUPS[registry.get("method", key).group]


def methods() -> list[str]:
    """Every method's key in the order of the pickers: by group, in each as registered."""
    return sorted(
        registry.keys("method"),
        key=lambda key: list(GROUPS).index(registry.get("method", key).group),
    )


def ordered(every: Iterable[folder.Run]) -> dict[str, folder.Run]:
    """Runs by id in the order of the pickers: group, method, network, settings, seed; shipped ones
    before the user's.
    """
    places, nets = methods(), registry.keys("net")

    def place(run: folder.Run) -> tuple[Any, ...]:
        return (
            places.index(run.method_key),
            nets.index(run.architecture),
            unusual(run),
            run.info.get("seed"),
            not run.shipped,
        )

    return {run.id: run for run in sorted(every, key=place)}


def trained(every: Iterable[folder.Run] | None = None) -> dict[str, folder.Run]:
    """Every run (of `every`) that has weights and can be shown, by id; the shipped one where a
    user's has the same id.
    """
    known, nets = registry.keys("method"), registry.keys("net")
    out: dict[str, folder.Run] = {}
    for run in folder.all_runs() if every is None else every:
        if (
            # one of another version of robustviz may have a method or a network unknown here
            run.method_key in known
            and run.architecture in nets
            and not _l2(run)
            and "images" in run.info
            and (run.shipped or os.path.exists(f"{run.path}/net.safetensors"))
        ):
            out.setdefault(run.id, run)
    return out


def _l2(run: folder.Run) -> bool:
    """Whether it was trained in l2: views measure changes in grey levels, and an l2 budget is in
    other units.
    """
    return bool((run.info.get("method", {}).get("attack") or {}).get("norm", "linf") != "linf")


def on(data: str) -> dict[str, folder.Run]:
    """The trained runs on this data (its `data_name`), by id, in the order of the pickers."""
    return ordered(run for run in trained().values() if data_name(run) == data)


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
                    **linked("img", first_right(a), range(count)),
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


def _defaults(here: dict[str, folder.Run]) -> tuple[str, str]:
    """The ids that A and B start from: the usual methods', else the first ones there are; B is
    empty where A is alone.
    """
    a = _nearest(here, FIRST["a"]) or next(iter(here))
    rest = {run_id: run for run_id, run in here.items() if run_id != a}
    return a, _nearest(rest, FIRST["b"]) or next(iter(rest), "")


def _nearest(here: dict[str, folder.Run], method: str, like: folder.Run | None = None) -> str:
    """The id of the run of a method that is most like another run, else the most ordinary one;
    empty where there is none.
    """
    settings = unusual(like) if like else ()
    net, seed = (like.architecture, like.info.get("seed")) if like else ("small_resnet", 0)

    def distance(run: folder.Run) -> tuple[bool, ...]:
        return (
            unusual(run) != settings,
            run.architecture != net,
            run.info.get("seed") != seed,
            not run.shipped,
        )

    same = [run for run in here.values() if run.method_key == method]
    return min(same, key=distance).id if same else ""


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


@st.cache_data(max_entries=16, show_spinner="Loading the images …")
def test_count(run_id: str) -> int:
    """How many test images the run's data has."""
    return len(images_of(folder.open_model(run_id)))


@st.cache_data(max_entries=16, show_spinner=False)
def first_right(run_id: str) -> int:
    """The first test image that the network gets right untouched: what to open with; 0 where there
    is none.
    """
    run = folder.open_model(run_id)
    split = images_of(run)
    few = split.take(torch.arange(min(50, len(split))))
    right = count_right(net_of(run), few.x, few.y).nonzero().flatten()
    return int(right[0]) if len(right) else 0


@st.cache_data(max_entries=256, show_spinner=False)
def thumbnail(run_id: str, index: int) -> tuple[bytes, str]:
    """One test image as PNG, and the name of its class."""
    image = images_of(folder.open_model(run_id)).take(torch.tensor([index]))
    return figures.png(image.x[0].numpy(), 128), image.classes[int(image.y[0])]
