"""The networks that pages can show: their names, their order, and the two networks and the image
that a page opens with. No widgets, and no torch for shipped networks.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustviz import memory, registry
from robustviz.imports import load
from robustviz.runs import catalogue, folder
from robustviz.runs.files import read_json, stamp
from robustviz.runs.naming import architecture, method_label, unusual
from robustviz.training.evaluation import Evaluation
from robustviz.types import JSON, UserError
from robustviz.views import pack
from robustviz.views.pictures import png

FIRST = {"data": "shapes", "a": "standard", "b": "pgd_at"}  # the default choices
NAME = re.compile(r"[a-z0-9_-]{1,32}")  # of a user's data set


class Group(NamedTuple):
    """A group of methods: its name, a caution against misreading its results, and its icon."""

    name: str
    caution: str = ""
    icon: str = ""


GROUPS = {  # in the order of the pickers
    "defence": Group("Defence"),
    "no adversarial training": Group(
        "No adversarial training",
        "The network never sees an attack during training, so a gain under FGSM alone is not"
        " robustness.",
        ":material/shield_question:",
    ),
    "red team": Group(
        "Red team", "It improves the attacker's network; it is not a defence.", ":material/swords:"
    ),
    "imported": Group("Imported"),
}


def data_name(run: folder.Run) -> str:
    """What the pickers call a run's data set; runs with the same name have the same test images.

    The first of these that applies: the name that the user gave, if the data set saved under it
    still has this run's settings; the data set's key, if its settings are usual (those of a shipped
    run or, if none is shipped on it, the defaults); else the key (for a user's folder, its name)
    and six hex digits of a hash of the settings. In the last two, settings that affect only
    training do not count.
    """
    name = run.data_name
    path = folder.home() / ".data" / name / "source.json"
    if name != run.data_key and NAME.fullmatch(name) and _said(path, stamp(path)) == _dials(run):
        return name
    return _by_dials(run)


@functools.lru_cache(maxsize=256)
def _said(path: Path, now: tuple[int, int, int]) -> JSON:
    """The settings of a data set in the user's `source.json`, without its key and name; empty if it
    cannot be read. Read here because `data.own`, which reads it too, imports torch.
    """
    try:
        asked = read_json(path)["source"]
        return {dial: value for dial, value in asked.items() if dial not in ("key", "name")}
    except (UserError, KeyError, AttributeError):
        return {}


@functools.lru_cache(maxsize=1024)
def _by_dials(run: folder.Run) -> str:
    key, rest = run.data_key, _dials(run)
    if run.shipped or not rest or rest in _usual_dials(key):
        return key
    named = next((Path(str(rest[name])).name for name in _dial("folders", key)), key) or key
    return f"{named}-{hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6]}"


@functools.cache
def _usual_dials(key: str) -> list[JSON]:
    """The data settings of each shipped run on this data set, without those that affect only
    training; if none is shipped, as for a plug-in's data set, the defaults.
    """
    runs = [run for run in folder.all_runs() if run.shipped and run.data_key == key]
    usual = [run.info["data"] for run in runs]
    if not usual and catalogue.known("data", key) and not _dial("folders", key):
        usual = [registry.encode(registry.get("data", key)())]
    return [_told_apart(key, each) for each in usual]


def _dials(run: folder.Run) -> JSON:
    return _told_apart(run.data_key, run.info.get("data", {}))


def _told_apart(key: str, dials: JSON) -> JSON:
    left_out = ("key", "name", *_dial("train_only", key))
    return {name: value for name, value in dials.items() if name not in left_out}


def _dial(what: str, key: str) -> list[str]:
    """The names of a data set's settings that are `folders` or `train_only`, as `what` says; empty
    if this version of robustviz does not know the data set.
    """
    return list(catalogue.facts("data", key)[what]) if catalogue.known("data", key) else []


@functools.lru_cache(maxsize=1024)
def label(run: folder.Run) -> str:
    """What people call a run, parts joined by ` · `: its label or method, unusual settings, network
    and seed, and for a user's run the last eight characters of its id, usually a hash. An imported
    run has its whole id and no seed.
    """
    parts = (
        run.label or method_label(run.method_key),
        *unusual(run),
        architecture(run),
        "" if run.imported else f"seed {run.info.get('seed')}",
        "" if run.shipped else run.id if run.imported else run.id[-8:],
    )
    return " · ".join(filter(None, parts))


def option(run: folder.Run) -> str:
    """The text for a run in a picker: its method's group, then its `label`."""
    return f"{group(run.method_key).name} · {label(run)}"


def method_option(key: str) -> str:
    """The text for a method in a picker: its group, then its display name."""
    return f"{group(key).name} · {method_label(key)}"


def group(key: str) -> Group:
    """The group of the method with this key."""
    return GROUPS[catalogue.facts("method", key)["group"]]


def methods(*needed: str) -> list[str]:
    """The keys of the methods to offer in a list of choices, by group, then as registered. The
    methods in `needed` are always among them. Methods of plug-ins are among them, except if
    `needed` is given and names only methods that come with robustviz: then torch is not imported.
    """
    keys = catalogue.keys("method", *needed) if needed else list(registry.keys("method"))
    return sorted(keys, key=lambda key: [*GROUPS].index(catalogue.facts("method", key)["group"]))


def ordered(every: Iterable[folder.Run]) -> dict[str, folder.Run]:
    """The runs in `every` by id, in the order of the pickers: by group, method, network, unusual
    settings and seed, and among equals shipped runs first.
    """
    every = list(every)
    places = methods("standard", *(run.method_key for run in every))
    nets = catalogue.keys("net", *(run.architecture for run in every))

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
    """The runs of `every` (None: of `folder.all_runs()`) that have weights and can be shown, by id;
    of several with the same id only the first, so that a shipped run hides a user's.
    """
    out: dict[str, folder.Run] = {}
    for run in folder.all_runs() if every is None else every:
        if (
            # a run of another version of robustviz may have a method or network unknown here
            catalogue.known("method", run.method_key)
            and catalogue.known("net", run.architecture)
            and not run.lacks
            and "images" in run.info
            and (run.shipped or os.path.exists(f"{run.path}/net.safetensors"))
        ):
            out.setdefault(run.id, run)
    return out


def on(data: str) -> dict[str, folder.Run]:
    """The trained runs on the data set with this `data_name`, by id, in the order of the
    pickers.
    """
    return ordered(run for run in trained().values() if data_name(run) == data)


def defaults(here: dict[str, folder.Run]) -> tuple[str, str]:
    """The ids of the runs with which A and B start, out of the runs `here` (at least one). Each is
    the run of its default method (`FIRST`) as `nearest` finds it, or the first other run if there
    is none; B is empty if there is only one run.
    """
    a = nearest(here, FIRST["a"]) or next(iter(here))
    rest = {run_id: run for run_id, run in here.items() if run_id != a}
    return a, nearest(rest, FIRST["b"]) or next(iter(rest), "")


def pair(run: folder.Run, a: str) -> dict[str, str]:
    """The choices with which a page shows `run`: the values of `data`, `a` and `b`. The run is B,
    and A is the run with id `a` or, if that is not another run on the same data, the default one.
    If there is no other run on the same data, `run` is A, and B is empty.
    """
    rest = {run_id: one for run_id, one in on(data_name(run)).items() if run_id != run.id}
    first = a if a in rest else defaults(rest)[0] if rest else ""
    sides = {"a": first, "b": run.id} if first else {"a": run.id, "b": ""}
    return {"data": data_name(run), **sides}


def nearest(here: dict[str, folder.Run], method: str, like: folder.Run | None = None) -> str:
    """The id of the run in `here` of this method that is most like the run `like`: the same unusual
    settings count most, then the same network, then the same seed; of several alike, a shipped one.
    `like` None: most like a small_resnet with usual settings and seed 0. Empty if there is no run
    of this method.
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


def default_image(a: str, b: str) -> int:
    """The index of the test image to open with, according to the networks' evaluations: the first
    that both classify correctly without an attack and only A misclassifies under attack; else the
    first that A classifies correctly without an attack; else 0.
    """
    mine, theirs = right(a), right(b)
    telling = [mine[0] & ~mine[1] & theirs[0] & theirs[1]] if len(mine[0]) == len(theirs[0]) else []
    return next((int(each.argmax()) for each in (*telling, mine[0]) if each.any()), 0)


def evaluations(run_id: str) -> list[Evaluation]:
    """The evaluations of a run; empty if `run_id` is empty, or if one of the run's files is damaged
    (the list on the Train page says so).
    """
    run = folder.open_model(run_id) if run_id else None
    return run.evaluations() if run and not folder.fault(run) else []


def right(run_id: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two bool arrays (n,), of the run's usual evaluation (`Run.evaluation`): which images the
    network classifies correctly without an attack, and which under attack. The images are the first
    n of the test split in stratified order. Empty arrays if there is no evaluation with results per
    image, or if one of the run's files is damaged.
    """
    evaluation = folder.open_model(run_id).evaluation() if evaluations(run_id) else None
    if evaluation is None or not evaluation.robust_right:
        return np.zeros(0, bool), np.zeros(0, bool)
    return evaluation.right()


def test_count(run_id: str) -> int:
    """The number of test images in the run's data set."""
    run = folder.open_model(run_id)
    return catalogue.images(data_name(run)) or len(load("robustviz.views.measure").images_of(run))


@memory.remembered(memory.ANSWERS)
def thumbnail(run_id: str, index: int) -> tuple[bytes, str]:
    """The test image with this index as a PNG about 128 pixels wide, and the name of its class."""
    run = folder.open_model(run_id)
    story = pack.images(data_name(run))
    for image, y in zip(story.x[story.index == index], story.y[story.index == index], strict=True):
        return png(image / np.float32(255), 128), run.classes[int(y)]
    split, x, y = load("robustviz.views.measure").image_of(run, index)
    return png(x[0].numpy(), 128), split.classes[int(y[0])]
