"""Specs and results of the Contributions page's probes: the settings of these measurements and what
they return. Without torch, so that pages can import it quickly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints, mean_interval, wilson
from robustviz.views.result import ProbeSpec, Result

R = TypeVar("R", bound=Result)

# The most images for `AttackSteps`: as many as in a batch of an evaluation, so that they get its
# noise.
OPEN = 250


@dataclass(frozen=True)
class OfImages(ProbeSpec[R]):
    """Base class of specs about the first `n` images of the test split or, with `index` ≥ 0, about
    the image with that index only.
    """

    n: int = option(100, "How many test images.", low=1)
    index: int = option(-1, "One image only; -1: the first n.", low=-1, kind="image")


@dataclass(frozen=True)
class Contributions(Result):
    """What each feature adds to the logit of an image's true class, and one draw of guided dropout.

    `parts` (n,D): each feature times its weight for the class, or if the head is not linear times
    the derivative of the logit; `bias` (n,): the rest of the logit; `mask` (n,D): the factor by
    which guided dropout multiplies each part, 0 where it is dropped; `y`, `pred`, `index` (n,):
    true class, predicted class, image index.
    """

    parts: Floats
    bias: Floats
    mask: Floats
    y: Ints
    pred: Ints
    index: Ints

    @property
    def class_name(self) -> str:
        """The name of the first image's true class."""
        return str(self.meta["classes"][int(self.y[0])])

    @property
    def logit(self) -> Floats:
        """The logit of the true class, (n,)."""
        return np.asarray(self.parts.sum(axis=1) + self.bias)

    @property
    def shares(self) -> Floats:
        """The share of the sum of all positive parts that the k largest of them hold, for k = 0 to
        D, (n,D+1), in [0, 1]; NaN where no part is positive.
        """
        up = -np.sort(-np.maximum(self.parts.astype(np.float64), 0), axis=1)
        total = up.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return np.concatenate([np.zeros_like(total), up.cumsum(axis=1)], axis=1) / np.where(
                total > 0, total, np.nan
            )

    @property
    def half(self) -> Floats:
        """The smallest number of features that hold at least half of the sum of all positive parts,
        (n,); NaN where no part is positive.
        """
        reached = self.shares >= 0.5
        return np.where(reached.any(axis=1), reached.argmax(axis=1), np.nan)

    @property
    def effective(self) -> Floats:
        """The effective number of features, (Σc⁺)² / Σ(c⁺)² over the positive parts c⁺, (n,): from
        1, if a single part is positive, to D, if all are positive and equal; NaN where no part is
        positive.
        """
        up = np.maximum(self.parts.astype(np.float64), 0)
        below = (up**2).sum(axis=1)
        return np.where(below > 0, up.sum(axis=1) ** 2 / np.where(below > 0, below, 1), np.nan)


@register("probe/contributions")
@dataclass(frozen=True)
class ContributionsSpec(OfImages[Contributions]):
    """What each feature adds to the true class's logit, and which ones guided dropout drops in one
    random draw.

    The images are clean. The draw has the rate of the end of training and the run's own settings if
    it was trained with AALP, else AALP's defaults.
    """

    seed: int = option(0, "Seed of the draw.", low=0)

    result = Contributions
    cacheable = False


@dataclass(frozen=True)
class Carried(Result):
    """How many features make up half of the positive contributions to the true class's logit.

    Measured on n clean images. A part is a feature's contribution to the true class's logit, as in
    `Contributions`. `half` (n,): how many of an image's largest parts hold at least half of the sum
    of its positive parts, −1 where none is positive. `right` (n,): whether the image is classified
    correctly. `shares` (3,D+1): the share of that sum that the k largest parts hold, for k = 0 to
    D: first quartile, median and third quartile over the images that are classified correctly and
    have a positive part (`counted`); 0 if there are none.
    """

    half: Ints
    right: Bools
    shares: Floats

    @property
    def width(self) -> int:
        """The number of features."""
        return int(self.shares.shape[1]) - 1

    @property
    def counted(self) -> Bools:
        """Which images count, (n,) bool: those that are classified correctly and of which at least
        one feature adds to the true class's logit.
        """
        return self.right & (self.half >= 0)

    @property
    def median(self) -> int:
        """The median of `half` over the images that count (the lower of the two middle values if
        their number is even); 0 if no image counts.
        """
        half = np.sort(self.half[self.counted])
        return int(half[(len(half) - 1) // 2]) if len(half) else 0

    @property
    def interval(self) -> tuple[int, int]:
        """The 95% interval (low, high) of `median`, from order statistics; (0, 0) if no image
        counts.
        """
        half = np.sort(self.half[self.counted])
        middle, reach = len(half) / 2, 0.98 * math.sqrt(len(half))
        low, high = (int(middle - reach) - 1, math.ceil(middle + reach)) if len(half) else (0, 0)
        return (int(half[max(0, low)]), int(half[min(high, len(half) - 1)])) if high else (0, 0)


def fewer(a: Carried, b: Carried) -> tuple[int, int, int]:
    """Compare two networks on the n images that count for both (`Carried.counted`); both must be
    measured on the same images. Returns three numbers: on how many of the n images the first
    network's `half` is a smaller share of its features than the second's, on how many a larger one,
    and n.
    """
    both = a.counted & b.counted
    first, second = (each.half[both] / each.width for each in (a, b))
    return int((first < second).sum()), int((first > second).sum()), int(both.sum())


@register("probe/carried")
@dataclass(frozen=True)
class CarriedSpec(ProbeSpec[Carried]):
    """How many features make up half of the positive contributions to the true class's logit.

    Measured on the first `n` clean test images; the default covers all of digits and shapes.
    """

    n: int = option(1000, "How many test images.", low=1)

    result = Carried


@dataclass(frozen=True)
class Pairing(Result):
    """Pairing loss and cross-entropy of images and their attacked copies, image by image.

    `ce`, `ce_adv` (n,): cross-entropy of the untouched and of the attacked image; `pairing` (n,):
    squared difference of their logits, mean over the classes; `cosine` (n,): cosine between the
    gradients, with respect to all weights, of `pairing` and of (`ce` + `ce_adv`)/2, NaN where one
    gradient is zero; `right_adv` (n,): whether the attacked image is classified correctly; `y`,
    `index` (n,): true class and image index.
    """

    ce: Floats
    ce_adv: Floats
    pairing: Floats
    cosine: Floats
    right_adv: Bools
    y: Ints
    index: Ints

    def weight(self, kind: str) -> Floats:
        """Returns each pair's weight, (n,), 0 to 1. `kind`, as in AALP's setting `pair_weight`:
        `adversarial` or `clean`, the probability of the true class on that image; `loss`, 1 / (1 +
        cross-entropy on the attacked image); `ones`, always 1.
        """
        return {
            "adversarial": np.exp(-self.ce_adv),
            "clean": np.exp(-self.ce),
            "loss": 1 / (1 + self.ce_adv),
            "ones": np.ones_like(self.ce),
        }[kind]

    def opposed(self, kind: str = "ones") -> tuple[float, float, float]:
        """Returns the share of all pair weight that lies on images whose two gradients oppose.

        Opposing means a cosine below 0; images whose cosine is NaN are left out. `kind` as in
        `weight`, by default all weights are 1. The result is (share, low, high), with Wilson's
        95% interval for Kish's effective number of images; (NaN, 0, 1) if no pair has any weight.
        """
        there = np.isfinite(self.cosine)
        weight, against = self.weight(kind)[there].astype(np.float64), self.cosine[there] < 0
        total = weight.sum()
        if not total > 0:
            return math.nan, 0.0, 1.0
        share, count = float(weight[against].sum() / total), float(total**2 / (weight**2).sum())
        low, high = wilson(share * count, count)
        return share, low, high

    def relief(self, kind: str) -> tuple[float, float, float]:
        """Returns by how much the weights `kind` change the share of `opposed`, and an interval.

        The result is (share of `opposed(kind)` − share of `opposed()`, low, high), with a 95%
        interval over the images, cut to [−1, 1]; (NaN, −1, 1) for fewer than two images whose
        cosine is not NaN, and if no pair has any weight.
        """
        there = np.isfinite(self.cosine)
        weight = self.weight(kind)[there].astype(np.float64)
        against = (self.cosine[there] < 0).astype(np.float64)
        if len(weight) < 2 or not weight.sum() > 0:
            return math.nan, -1.0, 1.0
        share = float((weight * against).sum() / weight.sum())
        # Linearised: how much each image adds to the difference of the two shares.
        pulls = weight / weight.mean() * (against - share) - (against - against.mean())
        moved, (_, low, high) = share - float(against.mean()), mean_interval(pulls)
        return moved, max(-1.0, moved + low), min(1.0, moved + high)


@register("probe/pairing")
@dataclass(frozen=True)
class PairingSpec(OfImages[Pairing]):
    """Pairing loss and cross-entropy of images and their attacked copies: do they conflict?

    They conflict where their gradients have a negative cosine. The gradients are those of the two
    terms of ALP's loss, with respect to all weights, image by image in eval mode: the pairing loss
    mean_K (z − z')², and the mean of the cross-entropies of both images. `eps` None: the run's ε,
    or the data's default ε for a run trained in l2.
    """

    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: the run's ε (the data's after l2 training).",
        low=0,
        kind="radius",
    )
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Pairing


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Any], ...]:
    """Returns the specs of what the page measures before anything is chosen: two for the first
    screen, and one for the pairs below it. `index`: the displayed image; `eps` is not used.
    """
    return CarriedSpec(), ContributionsSpec(index=index), PairingSpec()


@dataclass(frozen=True)
class AttackSteps(Result):
    """Which of n images stay right as PGD takes more steps, and which under Square, an attack
    without gradients.

    `steps` (S,): after how many steps of PGD the predictions were checked; `right` (S,n): right at
    this check and at every earlier one; `clean` (n,): right untouched; `square` (n,): right under
    Square with `queries` queries.
    """

    steps: Ints
    right: Bools
    clean: Bools
    square: Bools
    queries: int

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.clean)

    @property
    def accuracy(self) -> Floats:
        """The accuracy after each number of steps, (S,), in [0, 1]."""
        return np.asarray(self.right.mean(axis=1))

    @property
    def interval(self) -> Floats:
        """The Wilson 95% interval of each accuracy, (S,2), in [0, 1]."""
        return np.array([wilson(int(k), self.n) for k in self.right.sum(axis=1)])


@register("probe/attack_steps")
@dataclass(frozen=True)
class AttackStepsSpec(ProbeSpec[AttackSteps]):
    """Accuracy as PGD takes more steps, and under Square, which needs no gradient.

    Measured on the first `n` test images. The step size is ε/4 for any number of steps, and the
    start is the same, so that an attack of ten steps is the beginning of one of a thousand. An
    image counts as fooled from the first check at which it is misclassified. `eps` None: the run's
    ε, or the data's default ε for a run trained in l2.
    """

    n: int = option(50, "How many test images.", low=1, high=OPEN)
    steps: int = option(1000, "The most steps of PGD.", low=1, high=2000)
    queries: int = option(1000, "Queries of Square.", low=1, high=100_000)
    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: the run's ε (the data's after l2 training).",
        low=0,
        kind="radius",
    )
    seed: int = option(0, "Seed of both attacks' noise.", low=0)

    result = AttackSteps
