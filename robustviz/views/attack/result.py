"""Specs and results of the Attack page's probes: the settings of measurements of attacks on one
image or on many, and what these return. Without torch, so that pages can import it quickly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints, wilson
from robustviz.types import eps_text
from robustviz.views.attention.result import levels_of
from robustviz.views.result import ProbeSpec, Result

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Adversarial(Result):
    """One image attacked on one network: the image before and after, and the outputs for both.

    `x`, `x_adv` (C,H,W) in [0, 1]: before and after the attack; `y`: the true class; `probs`,
    `probs_adv` (K,): softmax outputs for the two; `eps`: the attack's radius; `distance`: the
    largest change |δ| of a pixel value, as measured; both in pixel units.
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
    """Base class of the specs that attack one test image: which image, attack and strength.

    `eps` None: the run's ε, or for a run trained in l2 its data's default linf radius. `target` −1:
    an untargeted attack.
    """

    index: int = option(0, "Index of the test image, counted from 0.", low=0, kind="image")
    attack: str = option("pgd", "The attack's key: `list attacks` prints all.")
    eps: float | None = option(None, "Radius ε, for pixels in [0, 1].", low=0, kind="radius")
    steps: int = option(10, "Number of steps; ignored by attacks without steps.", low=1, high=1000)
    seed: int = option(0, "Seed of the random start.", low=0)
    target: int = option(-1, "Index of the target class; -1: any wrong class (untargeted).", low=-1)

    cacheable = False


@register("probe/adversarial")
@dataclass(frozen=True)
class AdversarialSpec(OneAttack[Adversarial]):
    """One test image attacked on one network at one radius."""

    result = Adversarial


@dataclass(frozen=True)
class AttackLevels(Result):
    """One image attacked on one network with several radii.

    `levels` (E,): the radii in whole grey levels (1/255), ascending from 0; `x` (C,H,W) uint8: the
    untouched image in grey levels; `change` (E,C,H,W): what was added to each pixel, rounded to
    whole grey levels; `y`: the true class. The rest is measured on the attacked images before
    rounding: `probs` (E,K): softmax outputs; `distance` (E,): the largest change |δ| of a pixel
    value; `span` (E,2): the smallest and the largest pixel value; both in pixel units.
    """

    levels: Ints
    x: NDArray[np.uint8]
    change: Ints
    y: int
    probs: Floats
    distance: Floats
    span: Floats

    @property
    def answers(self) -> Ints:
        """The predicted class at each radius, (E,)."""
        return np.asarray(self.probs.argmax(1))

    def at(self, position: int) -> Adversarial:
        """Returns the result at one radius, `levels[position]`, in the form that an attack with
        only this radius returns. Its images are rounded to whole grey levels; softmax outputs and
        distance are those before rounding.
        """
        x = self.x.astype(np.float32) / 255
        x_adv = x + self.change[position].astype(np.float32) / 255
        eps, distance = self.levels[position] / 255, float(self.distance[position])
        probs, now = self.probs[0], self.probs[position]
        before, after = (self.meta["classes"][int(each.argmax())] for each in (probs, now))
        summary = (
            f"{before} ({probs.max():.0%}) → {after} ({now.max():.0%}), no pixel changed by more"
            f" than {eps_text(distance)}"
        )
        meta = {name: value for name, value in self.meta.items() if name != "eps"}
        meta |= {"summary": summary, "attack": meta.get("attack", {}) | {"eps": float(eps)}}
        return Adversarial(x, x_adv, self.y, probs, now, float(eps), distance, meta=meta)


@register("probe/attack_levels")
@dataclass(frozen=True)
class AttackLevelsSpec(OneAttack[AttackLevels]):
    """One test image attacked at several radii in whole grey levels, from 0 to about twice `eps`.

    The radii are those of `levels_of`, at most 17: for an `eps` below 1/255 they go up to 2/255,
    never beyond 255/255. For APGD, Square and AutoAttack (`COSTLY`), at most five of these are
    used. The result for each radius is the same as that of an attack with this radius alone.
    """

    result = AttackLevels

    @property
    def levels(self) -> list[int]:
        """The radii in grey levels, in ascending order from 0. `eps` None counts as 0 here, but
        the probe replaces None by the run's radius before it reads this property.
        """
        every = levels_of(self.eps or 0)
        if self.attack not in COSTLY:
            return every
        usual, last = every.index(max(1, round(255 * (self.eps or 0)))), len(every) - 1
        few = (0, usual // 2, usual, (usual + last) // 2, last)
        return [every[at] for at in sorted(set(few))]


COSTLY = ("apgd", "square", "autoattack")  # hundreds of steps or thousands of queries


@dataclass(frozen=True)
class AccuracyCurve(Result):
    """Accuracy under one attack at several radii, on the same `n` images. `eps` (E,): the radii in
    pixel units, ascending from 0; `k` (E,): how many images are classified correctly at each.
    """

    eps: Floats
    k: Ints
    n: int

    @property
    def accuracy(self) -> Floats:
        """The accuracy at each radius, (E,), as a fraction; 0 for no images."""
        return self.k / max(self.n, 1)

    @property
    def interval(self) -> Floats:
        """The Wilson 95% interval of each accuracy, (E,2): its low and high end, in [0, 1]."""
        return np.array([wilson(int(k), self.n) for k in self.k])


@register("probe/accuracy_curve")
@dataclass(frozen=True)
class AccuracyCurveSpec(ProbeSpec[AccuracyCurve]):
    """Accuracy under PGD at nine radii from 0 to twice the run's ε.

    It is measured on the first `n` test images. No radius is above 1. For a run trained in l2, the
    data's default ε takes the place of the run's ε.
    """

    n: int = option(200, "How many test images.", low=1)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = AccuracyCurve


@dataclass(frozen=True)
class Answers(AccuracyCurve):
    """A network's predictions for the same `n` images attacked at each radius. `said` (E,n):
    predicted classes, −1 where a logit is NaN; `y` (n,): true classes.
    """

    said: Ints
    y: Ints

    @property
    def right(self) -> Bools:
        """Which images are still classified correctly at each radius, (E,n) bool."""
        return np.asarray(self.said == self.y)

    def nearest(self, eps: float) -> int:
        """The index in `self.eps` of the measured radius nearest to `eps` (pixel units); the
        smaller one if two are equally near.
        """
        return int(np.abs(self.eps - eps).argmin())

    def confusion(self, eps: float) -> Ints:
        """The confusion matrix (K,K) at the measured radius nearest to `eps` (pixel units).

        It counts images: rows are true classes, columns predicted ones. Images with NaN logits are
        left out.
        """
        classes, said = len(self.meta["classes"]), self.said[self.nearest(eps)]
        table = np.zeros((classes, classes), dtype=int)
        np.add.at(table, (self.y[said >= 0], said[said >= 0]), 1)
        return table


@register("probe/answers")
@dataclass(frozen=True)
class AnswersSpec(ProbeSpec[Answers]):
    """Predictions for many test images under PGD at several radii, from 0 to about twice `eps`.

    The radii are those of `levels_of`, at most 17, in whole grey levels; the first `n` test images
    are attacked at each. After every 5 steps, images that are misclassified by then are not
    attacked further, so their prediction is the wrong class at that time. `eps` None: the run's ε,
    or the data's default ε for a run trained in l2.
    """

    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1], of which the levels go up to the double; empty: the"
        " run's ε.",
        low=0,
        kind="radius",
    )
    n: int = option(200, "How many test images.", low=1, high=250)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Answers


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Any], ...]:
    """Returns the specs of the results that the page's first screen shows by default, for each
    network: one image at several radii, and the predictions for many. `index`: the test image;
    `eps`: the default radius of its data, in pixel units.
    """
    return AttackLevelsSpec(index, eps=eps), AnswersSpec(eps)


@dataclass(frozen=True)
class SmallestEps(Result):
    """The smallest radius found at which an attack fools the network, for each image.

    `eps` (N,): this radius, 0 where the clean image is already misclassified, infinite where the
    network is right even at the radius `limit`; `index` (N,): the images' indices in the test
    split; `limit`: the largest radius tried; `tolerance`: the width of the last bisection bracket.
    All radii are in pixel units.
    """

    eps: Floats
    index: Ints
    limit: float
    tolerance: float


@register("probe/smallest_eps")
@dataclass(frozen=True)
class SmallestEpsSpec(ProbeSpec[SmallestEps]):
    """The smallest radius at which PGD fools the network, for each of the first `n` test images.

    It is found by bisection. The largest radius tried is four times the run's ε (the data's default
    ε if the run was trained in l2), but at most 1, or 0.5 if that ε is 0. An attack that fails at a
    radius proves nothing, so the radius found is an upper bound on the true distance. With `index`
    ≥ 0 only the image with this index is measured.
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
    """The softmax outputs and the loss of one image at the starting point of an attack and after
    each step.

    `probs` (steps+1, K); `loss` (steps+1,): cross-entropy of the true class `y`; `eps`: the radius
    in pixel units. With APGD and Square, each entry is of the best image so far; for Square, a step
    is a query. With AutoAttack there are only two entries: before and after the attack.
    """

    probs: Floats
    loss: Floats
    y: int
    eps: float


@register("probe/trajectory")
@dataclass(frozen=True)
class TrajectorySpec(OneAttack[Trajectory]):
    """The attack of `AdversarialSpec`, with outputs and loss recorded at the start and after every
    step.
    """

    result = Trajectory


@dataclass(frozen=True)
class Strip:
    """A few validation images attacked at the end of a training epoch. `x`, `x_adv` (N,C,H,W) in
    [0, 1]: untouched and attacked; `y`, `pred`, `pred_adv` (N,): true classes and the predictions
    for both; `eps`: the attack's radius in pixel units; `epoch`: the number of the epoch.
    """

    x: Floats
    x_adv: Floats
    y: Ints
    pred: Ints
    pred_adv: Ints
    eps: float
    epoch: int
