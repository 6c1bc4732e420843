"""What a larger ε in training costs: results for a family of networks, and for two blobs of points.

`study` measures both and writes two shipped files, so there is no spec to measure on a run.
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
    """N PGD-AT networks on one data set at several training ε; those at ε = 0 were trained without
    a defence.

    All arrays are (N,). `eps`: the training ε. Of `n` test images, `clean_k` are right when clean,
    `own_k` under an attack with the network's training ε, and `usual_k` under one with the data
    set's default ε (−1 if not measured). `meta`: `attack`, `usual` (that default ε), `label`,
    `classes` (their number), `apart` (the smallest ℓ∞ distance between two training images of
    different classes), `trained_on` (the number of training images).
    """

    eps: Floats
    seed: Ints
    n: Ints
    clean_k: Ints
    own_k: Ints
    usual_k: Ints

    @property
    def learned(self) -> Bools:
        """Whether each network is right on at least twice as many clean images as by guessing, (N,)
        bool.
        """
        return np.asarray(self.clean_k / self.n >= 2 / self.meta["classes"])

    def mean(self, counts: Ints) -> tuple[Floats, Floats]:
        """Returns the training ε in ascending order, and the mean share of images right at each.
        `counts` (N,) is one of the fields such as `clean_k`. The mean is over those networks that
        learned and were measured; an ε without such a network is left out.
        """
        good = (counts >= 0) & self.learned
        radii = np.unique(self.eps[good])
        return radii, np.array(
            [(counts / self.n)[good & (self.eps == eps)].mean() for eps in radii]
        )

    def rows(self) -> list[JSON]:
        """One dict per network with its training ε, its seed and its counts."""
        names = ("eps", "seed", "n", "clean_k", "own_k", "usual_k")
        return [
            {name: getattr(self, name)[at].item() for name in names} for at in range(len(self.n))
        ]


@dataclass(frozen=True)
class Balls(Result):
    """Two blobs of points, and networks trained by PGD-AT on them: an attack may move each point
    within a square of radius ε.

    `x` (P, 2), `y` (P,) 0 or 1: the training points and their classes. `eps` (E,): the radii; at
    each, S networks were trained, one per seed. `clean_k` (E, S): on how many of `meta["n"]` test
    points each network is right without an attack. `held_k` (E, S): on how many of these it is also
    right under an attack with its ε. `logit` (E, R, C): the logit of the first network at each
    radius (positive: class 1), multiplied by 32, rounded and clipped to ±127, on a grid over
    `meta["window"]` (x low, x high, y low, y high); rows run along y, columns along x, both
    ascending.
    """

    x: Floats
    y: Ints
    eps: Floats
    clean_k: Ints
    held_k: Ints
    logit: Ints

    @property
    def nearest(self) -> Floats:
        """The ℓ∞ distance from each point to the nearest point of the other class, (P,)."""
        apart = np.abs(self.x[:, None] - self.x[None]).max(2)
        return np.asarray(np.where(self.y[:, None] == self.y[None], np.inf, apart).min(1))

    @property
    def meeting(self) -> Ints:
        """The number of points whose square overlaps one of the other class, per radius, (E,)."""
        return np.asarray((self.nearest[None] < 2 * self.eps[:, None]).sum(1))

    @property
    def first(self) -> int:
        """The index of the first radius at which squares of both classes overlap, else E."""
        return int((np.append(self.meeting, 1) > 0).argmax())


def family(key: str) -> Family:
    """The measured networks on the data set with this key.
    Raises UserError if the study's file is missing or damaged, or has no network on that data set.
    """
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
    """The keys of the data sets studied. Raises UserError if the file is missing or damaged."""
    return list(_content(FILE)["about"])


def balls() -> Balls:
    """The result for the two blobs. Raises UserError if its file is missing or damaged."""
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
