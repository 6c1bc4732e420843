"""`python -m robustviz.views.budget.study` measures what a larger ε in training costs.

The networks are the PGD-AT networks of the budget family and, as ε = 0, ordinary ones. How many
test images each gets right under an attack with its training ε is read from its evaluation; how
many under an attack with the data set's usual ε is measured. Measurements are stored by run id,
also for networks whose weights are no longer here. `probe` measures the two blobs of points.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, cast

import torch

from robustviz import data, paths
from robustviz.attacks import PGD
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.training.evaluate import count_right
from robustviz.training.evaluation import Evaluation
from robustviz.types import JSON
from robustviz.views.budget.probe import balls
from robustviz.views.budget.result import BALLS, FILE
from robustviz.views.measure import images_of, net_of

DATA, METHODS = ("shapes", "digits"), ("standard", "pgd_at")
STEPS = 20
SEEDS = paths.ROOT / "checkpoints" / "seeds"


def measure() -> None:
    """Attack each network with the data set's default ε, unless the file or the network's own
    evaluation already has that count, or its weights are not on this computer. The file is written
    after each network of the family, so an interrupted call can be continued.
    """
    known: JSON = folder.read_json(FILE) if FILE.exists() else {}
    cells: JSON = {each["run"]: each for each in known.get("cells", [])}
    about = {key: known.get("about", {}).get(key) or _about(key) for key in DATA}
    for cell, run in _family():
        if cell["usual_k"] is None:
            cell["usual_k"] = cells.get(cell["run"], {}).get("usual_k")
        if cell["usual_k"] is None and run:
            split, attack = images_of(run), PGD(steps=STEPS, eps=usual(cell["data"]))
            cell["usual_k"] = int(count_right(net_of(run), split.x, split.y, attack).sum())
            print(cell, file=sys.stderr, flush=True)
        cells[cell["run"]] = cell
        _write(about, cells)


def _about(key: str) -> JSON:
    """Facts about a data set: usual ε, label, number of classes and of training images, and how far
    its classes are apart.
    The last is the smallest ℓ∞ distance between two training images of different classes, as Yang
    et al. 2020 (arXiv 2003.02460) measured it.
    """
    source = data.source(key)
    split = data.load(source, "train")
    few = split.take(cast("int", source.recipe["n_train"]) or len(split))
    flat, nearest = few.x.flatten(1), float("inf")
    for block, y in zip(flat.split(200), few.y.split(200), strict=True):
        apart = torch.cdist(block, flat, p=float("inf")).masked_fill(y[:, None] == few.y, torch.inf)
        nearest = min(nearest, float(apart.min()))
    return {
        "usual": usual(key),
        "label": source.label,
        "classes": len(split.classes),
        "apart": nearest,
        "trained_on": len(few),
    }


def usual(key: str) -> float:
    """The default ε of the data set with this key, for training and for attacks."""
    return data.source(key).default_eps


def _family() -> Iterator[tuple[JSON, folder.Run | None]]:
    """Yields for each network of the family its counts (`_cell`), and its run, or None if its
    weights are not here.
    """
    found: dict[str, tuple[JSON, folder.Run | None]] = {}
    for path in sorted(SEEDS.glob("*.json")):
        content = folder.read_json(path)
        every = [Evaluation.from_json(each) for each in content["evaluations"]]
        if cell := _cell(path.stem, content["config"], every):
            found[path.stem] = cell, None
    for run in folder.all_runs():
        plain = all(part.startswith("ε ") for part in unusual(run))
        if plain and (cell := _cell(run.id, run.config.to_json(), run.evaluations())):
            found[run.id] = cell, run
    return iter(found.values())


def _cell(name: str, config: JSON, evaluations: list[Evaluation]) -> JSON | None:
    """One network's ε, seed and numbers of images right, from its evaluation with most images. None
    if it does not belong to the family, or has no evaluation by PGD-20 with seed 0 on the test
    split at the ε of its config.
    """
    key, method = config["data"]["key"], config["method"]["key"]
    if key not in DATA or method not in METHODS or config["net"] != "small_resnet":
        return None
    eps = config["eps"] if config["eps"] is not None else usual(key)
    whole = [
        one
        for one in evaluations
        if one.printed == f"PGD-{STEPS}" and (one.eps, one.seed, one.split) == (eps, 0, "test")
    ]
    if not whole:
        return None
    one: Any = max(whole, key=lambda each: each.n)
    return {
        "run": name,
        "data": key,
        "eps": eps if method == "pgd_at" else 0.0,
        "seed": config["seed"],
        "n": one.n,
        "clean_k": one.clean_k,
        "own_k": one.robust_k if method == "pgd_at" else one.clean_k,
        "usual_k": one.robust_k if abs(eps - usual(key)) < 1e-9 else None,
    }


def _write(about: JSON, cells: JSON) -> None:
    rows = sorted(cells.values(), key=lambda each: (each["data"], each["eps"], each["seed"]))
    command = "python -m robustviz.views.budget.study"
    head = json.dumps({"command": command, "attack": f"PGD-{STEPS}", "about": about}, indent=1)
    lines = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in rows)
    folder.write_file(FILE, f'{head[:-2]},\n "cells": [\n  {lines}\n ]\n}}\n'.encode())


def main() -> int:
    """Measure the networks and the blobs, and write both files. Returns the exit code 0."""
    measure()
    folder.write_file(BALLS, balls().to_npz())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
