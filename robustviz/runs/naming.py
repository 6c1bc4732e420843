"""Display names of runs that appear next to each other: the name of the method and, for several
runs of one method, the settings in which they differ.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustviz import registry
from robustviz.imports import load
from robustviz.runs import catalogue
from robustviz.runs.folder import Run
from robustviz.runs.inside import FOUND_OUT
from robustviz.types import JSON, eps_text, harmless

MOST = 3  # settings in a name
FIRST = ("net", "eps", "seed", "epochs", "n_train")  # after the method's own, in this order
# Settings that a name never mentions: where the run was trained, what was saved of it, and what is
# shown separately.
UNSAID = ("device", "threads", "test_n", "snapshots", "data", "method", *FOUND_OUT)
SEEDS = (
    "This holds for these networks only; other seeds may give other results."
    " `python -m robustviz report --seeds` compares methods."
)


def method_label(key: str) -> str:
    """Returns the display name of a method, such as `PGD-AT` for the key `pgd_at`; empty for an
    empty key.
    """
    return str(catalogue.facts("method", key)["label"]) if key else ""


def architecture(run: Run) -> str:
    """Returns the display name of a run's network: its key or, for an imported network that is not
    one of robustviz's, the file or library and the function that make it, as `mine.py:make`.
    """
    source = harmless(run.info.get("network", {}).get("source", "")) if run.imported else ""
    path, colon, make = source.rpartition(":")
    return {"exported": "exported program", "nets": make, "": run.architecture}.get(
        path or source, f"{path.replace(os.sep, '/').rpartition('/')[2]}{colon}{make}"
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """Returns a display name for each run, different for different runs: the label that a person
    gave the run; else, for an imported run, its id after `-imported-`, where the network's name
    stands; else its method's name. If several runs have the same method's name, the settings in
    which they differ are added (the first three), as in `PGD-AT, seed 1`. If two names are still
    equal, the ids of the runs are added.
    """
    names = {
        run.id: run.label or run.id.rpartition("-imported-")[2]
        for run in runs
        if run.label or run.imported
    }
    rest = [run for run in runs if run.id not in names]
    for key in dict.fromkeys(run.method_key for run in rest):
        own = {run.id: run for run in rest if run.method_key == key}
        same = {run_id: _settings(run) if len(own) > 1 else {} for run_id, run in own.items()}
        paths = dict.fromkeys(path for each in same.values() for path in each)
        apart = [
            path for path in paths if len({repr(each.get(path)) for each in same.values()}) > 1
        ]
        apart.sort(key=lambda path: (not path.startswith("method."), (*FIRST, path).index(path)))
        more = ["…"] * (len(apart) > MOST)
        names |= {
            run_id: ", ".join(
                [method_label(key), *(_said(path, each.get(path)) for path in apart[:MOST]), *more]
            )
            for run_id, each in same.items()
        }
    told = list(names.values())
    return [
        names[run.id] + (f", {run.id}" if told.count(names[run.id]) > 1 else "") for run in runs
    ]


def apart(first: Run, second: Run, names: Sequence[str] = ("A", "B")) -> list[str]:
    """Returns a sentence on the networks and one on the numbers of epochs of two runs, each only if
    the runs differ in them: besides the method, that too may explain a difference in their results.
    `names`: what to call the runs.
    """
    a, b = names
    nets = [architecture(run) for run in (first, second)]
    epochs = [run.info.get("epochs") for run in (first, second)]
    said = []
    if nets[0] != nets[1]:
        said += [f"{a} has the network {nets[0]}, {b} {nets[1]}: that can matter, too."]
    if epochs[0] != epochs[1] and None not in epochs:
        said += [
            f"{a} was trained for {epochs[0]} epochs, {b} for {epochs[1]}: that can matter, too."
        ]
    return said


def _said(path: str, value: object) -> str:
    name = path.rpartition(".")[2]
    if isinstance(value, float):
        value = eps_text(value) if name.startswith("eps") else f"{value:g}"
    elif value is None:
        value = "usual"
    elif path == "n_train" and value:
        value = f"{value:,}"
    return {
        "net": f"{value}",
        "eps": f"ε {value}",
        "seed": f"seed {value}",
        "epochs": f"{value} epoch{'s' * (value != 1)}",
        "n_train": f"{value or 'all'} training images",
    }.get(path, f"{name}={value}")


def _settings(run: Run) -> JSON:
    """Returns a run's settings by dotted path, without those that refer to other runs. Settings
    that did not exist yet when the run was made have today's default.
    """
    method = registry.get("method", run.method_key)
    named = registry.of_kind(method, *registry.RUNS)
    usual = registry.encode(load("robustviz.training.config").TrainConfig())
    return {
        **dict(_flat(run.info, usual, UNSAID)),
        **dict(_flat(run.info["data"], {}, ("key", "name"), "data.")),
        **dict(_flat(run.info["method"], registry.encode(method()), named, "method.")),
    }


def _flat(
    asked: Mapping[str, Any], usual: Mapping[str, Any], out: Sequence[str] = (), path: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in {**usual, **asked}.items():
        if name in out:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, usual.get(name) or {}, (), f"{path}{name}.")
        else:
            yield f"{path}{name}", value


@functools.lru_cache(maxsize=1024)
def unusual(run: Run) -> tuple[str, ...]:
    """Returns the unusual settings of a run, each as text such as `target=label`: those of its
    method that differ from the method's defaults, except references to other runs; then ε, number
    of epochs and of training images, where they differ from the defaults for its data set and
    method.
    """

    def differing(asked: Mapping[str, Any], usual: JSON, kinds: JSON) -> Iterator[str]:
        for name, value in asked.items():
            kind, default = kinds.get(name, ""), usual.get(name)
            if isinstance(kind, dict) and isinstance(value, dict):
                yield from differing(value, default or {}, kind)
            elif kind not in registry.RUNS and value != default:
                written = eps_text if kind == "radius" else "{:g}".format
                yield f"{name}={written(value) if isinstance(value, float) else value}"

    method, key = catalogue.facts("method", run.method_key), run.data_key
    data = catalogue.facts("data", key) if catalogue.known("data", key) else {}
    recipe = {"epochs": 20, "n_train": 0, **data.get("recipe", {}), **method["recipe"]}
    usual = {name: recipe[name] or 0 for name in ("epochs", "n_train")}
    usual["eps"] = data.get("default_eps", run.eps)
    return (
        *differing(run.info["method"], method["usual"], method["kinds"]),
        *(
            _said(name, value)
            for name, value in run.info.items()
            if name in usual and value != usual[name]
        ),
    )
