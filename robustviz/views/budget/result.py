"""What a larger budget in training costs, over networks and on two blobs of points.

`study` measures both into two shipped files: there is no spec to ask a run with.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustviz import paths
from robustviz.stats import Bools, Floats, Ints
from robustviz.types import JSON, UserError
from robustviz.views.result import Result

FOLDER = paths.ROOT / "checkpoints" / "claims"
FILE, BALLS = FOLDER / "budget.json", FOLDER / "balls.npz"


@dataclass(frozen=True)
class Family(Result):
    """PGD-AT networks (N,) of one data set at several budgets, the ordinary network as ε = 0.

    `eps` that of the training, `seed`; of `n` test images each `clean_k` right untouched, `own_k`
    under an attack with the network's own ε, `usual_k` with the data set's usual ε, −1 where that
    is not measured. `meta`: `attack`, `usual` (that ε), `label`, `classes` (how many), `apart` (the
    smallest ℓ∞ distance of two training images of different classes).
    """

    eps: Floats
    seed: Ints
    n: Ints
    clean_k: Ints
    own_k: Ints
    usual_k: Ints

    @property
    def learned(self) -> Bools:
        """Which networks (N,) are right on at least twice as many images as guessing is."""
        return np.asarray(self.clean_k / self.n >= 2 / self.meta["classes"])

    def mean(self, counts: Ints) -> tuple[Floats, Floats]:
        """Each ε of the training, and the mean share of those of its seeds that learned and were
        measured.
        """
        good = (counts >= 0) & self.learned
        radii = np.unique(self.eps[good])
        return radii, np.array(
            [(counts / self.n)[good & (self.eps == eps)].mean() for eps in radii]
        )

    def rows(self) -> list[JSON]:
        """A row a network."""
        names = ("eps", "seed", "n", "clean_k", "own_k", "usual_k")
        return [
            {name: getattr(self, name)[at].item() for name in names} for at in range(len(self.n))
        ]


@dataclass(frozen=True)
class Balls(Result):
    """Two blobs of points, and the networks that learn them with squares of radius ε around each.

    `x` (P,2), `y` (P,) 0 or 1: the training points. `eps` (E,): the radii. `clean_k`, `held_k`
    (E,S): how many of `meta["n"]` fresh points each of S networks is right on, untouched and
    attacked with that ε. `logit` (E,R,C): the first network's answer on a grid over
    `meta["window"]` (x low, x high, y low, y high), positive for class 1, in 32nds, cut at ±127.
    """

    x: Floats
    y: Ints
    eps: Floats
    clean_k: Ints
    held_k: Ints
    logit: Ints

    @property
    def nearest(self) -> Floats:
        """Each point's ℓ∞ distance to the nearest of the other class, (P,)."""
        apart = np.abs(self.x[:, None] - self.x[None]).max(2)
        return np.asarray(np.where(self.y[:, None] == self.y[None], np.inf, apart).min(1))

    @property
    def meeting(self) -> Ints:
        """How many squares overlap one of the other class, at each radius, (E,)."""
        return np.asarray((self.nearest[None] < 2 * self.eps[:, None]).sum(1))

    @property
    def first(self) -> int:
        """The first radius at which squares of different classes overlap; E where there is none."""
        return int((np.append(self.meeting, 1) > 0).argmax())


def family(key: str) -> Family:
    """The networks of a data set. Raises UserError where the file is missing or has none."""
    content = _content(FILE)
    cells = [each for each in content["cells"] if each["data"] == key]
    if not cells:
        raise UserError(f"The budget study has no network on {key}: {_advice()}")
    columns: JSON = {
        name: np.array([-1 if each[name] is None else each[name] for each in cells])
        for name in ("eps", "seed", "n", "clean_k", "own_k", "usual_k")
    }
    meta = {"data": key, "attack": content["attack"], "command": content["command"]}
    return Family(**columns, meta=meta | content["about"][key])


def known() -> list[str]:
    """The data sets that were studied."""
    return list(_content(FILE)["about"])


def balls() -> Balls:
    """The two blobs. Raises UserError where the file is missing."""
    return _balls(_there(BALLS), BALLS.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _balls(path: Path, stamp: int) -> Balls:
    return Balls.from_npz(path.read_bytes())


def _content(path: Path) -> JSON:
    content = _there(path).read_bytes()
    try:
        return dict(json.loads(content))
    except ValueError as error:
        raise UserError(f"{path.name} is damaged: {_advice()}") from error


def _there(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"The budget study is missing: {_advice()}")
    return path


def _advice() -> str:
    return "make it with python -m robustviz.views.budget.study."
