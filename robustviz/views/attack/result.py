"""What the question *attack* gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import Floats, Ints, wilson
from robustviz.views.result import Result


@dataclass(frozen=True)
class Adversarial(Result):
    """One image attacked on one network.

    `x`, `x_adv` (C,H,W) in [0,1]; `y` the true class; `probs`, `probs_adv` (K,) softmax outputs
    before and after; `eps` the radius, `distance` the measured max |δ| (or ‖δ‖₂).
    """

    x: Floats
    x_adv: Floats
    y: int
    probs: Floats
    probs_adv: Floats
    eps: float
    distance: float


@dataclass(frozen=True)
class AccuracyCurve(Result):
    """Accuracy under one attack at several radii on the same `n` images: `eps` (E,), `k` (E,) still
    right.
    """

    eps: Floats
    k: Ints
    n: int

    @property
    def accuracy(self) -> Floats:
        """Fractions (E,)."""
        return self.k / max(self.n, 1)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals (E, 2)."""
        return np.array([wilson(int(k), self.n) for k in self.k])


@dataclass(frozen=True)
class SmallestEps(Result):
    """The smallest radius found at which an attack changes the answer, per image.

    `eps` (N,): 0 where the clean image is wrong already, infinite where even `limit` was not
    enough; `index` (N,) positions in the test split; `limit` the largest radius tried; `tolerance`
    the width of the last bracket.
    """

    eps: Floats
    index: Ints
    limit: float
    tolerance: float


@dataclass(frozen=True)
class Trajectory(Result):
    """One image's way through an attack: `probs` (steps+1, K) after each step, `loss` (steps+1,),
    `y`, `eps`.
    """

    probs: Floats
    loss: Floats
    y: int
    eps: float


@dataclass(frozen=True)
class Strip:
    """A few images attacked at the end of an epoch: `x`, `x_adv` (N,C,H,W), `y`, `pred`, `pred_adv`
    (N,).
    """

    x: Floats
    x_adv: Floats
    y: Ints
    pred: Ints
    pred_adv: Ints
    eps: float
    epoch: int
