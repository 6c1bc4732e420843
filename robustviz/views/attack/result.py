"""What is asked about attacks on one image and on many, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Floats, Ints, wilson
from robustviz.views.result import ProbeSpec, Result

R = TypeVar("R", bound=Result)


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
class OneAttack(ProbeSpec[R]):
    """Which image, which attack, how strong. `eps` None: the run's; `target` −1: untargeted."""

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    attack: Literal["pgd", "fgsm"] = option("pgd", "The attack.")
    eps: float | None = option(None, "Radius in pixel units.", low=0, kind="radius")
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the random start.", low=0)
    target: int = option(-1, "Class to be reached; -1: any wrong one.", low=-1)

    cacheable = False


@register("probe/adversarial")
@dataclass(frozen=True)
class AdversarialSpec(OneAttack[Adversarial]):
    """One test image attacked."""

    result = Adversarial


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


@register("probe/accuracy_curve")
@dataclass(frozen=True)
class AccuracyCurveSpec(ProbeSpec[AccuracyCurve]):
    """Accuracy under PGD at nine radii from 0 to twice the run's ε, on the first `n` test
    images.
    """

    n: int = option(200, "How many test images.", low=1)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = AccuracyCurve


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


@register("probe/smallest_eps")
@dataclass(frozen=True)
class SmallestEpsSpec(ProbeSpec[SmallestEps]):
    """The smallest radius at which PGD changes each of the first `n` answers, by bisection up to
    four times the run's ε.

    An attack that fails at a radius proves nothing, so this is an upper bound on the true distance.
    """

    n: int = option(100, "How many test images.", low=1)
    steps: int = option(20, "Steps of PGD at each radius.", low=1, high=1000)
    index: int = option(-1, "One image only; -1: the first n.", low=-1, kind="image")

    result = SmallestEps

    @property
    def cacheable(self) -> bool:
        return self.index < 0


@dataclass(frozen=True)
class Trajectory(Result):
    """One image's way through an attack: `probs` (steps+1, K) after each step, `loss` (steps+1,),
    `y`, `eps`.
    """

    probs: Floats
    loss: Floats
    y: int
    eps: float


@register("probe/trajectory")
@dataclass(frozen=True)
class TrajectorySpec(OneAttack[Trajectory]):
    """As `AdversarialSpec`: the same attack, looked at after every step."""

    result = Trajectory


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
