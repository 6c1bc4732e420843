"""What is asked about the parts of an answer, and what comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints, mean_interval, wilson
from robustviz.views.result import ProbeSpec, Result

R = TypeVar("R", bound=Result)

# images whose attack is under way at once; as many as an evaluation's batch, so that they get its
# noise
OPEN = 250


@dataclass(frozen=True)
class OfImages(ProbeSpec[R]):
    """Which images: the first `n` of the test split, or the one with the number `index`."""

    n: int = option(100, "How many test images.", low=1)
    index: int = option(-1, "One image only; -1: the first n.", low=-1, kind="image")


@dataclass(frozen=True)
class Contributions(Result):
    """What each feature adds to the logit of an image's true class, and one draw of guided dropout.

    `parts` (n,D): feature times its weight for the class; `bias` (n,): what the class starts from;
    `mask` (n,D): what guided dropout multiplies each part by, 0 where it is dropped; `y`, `pred`,
    `index` (n,): true class, answer, image number.
    """

    parts: Floats
    bias: Floats
    mask: Floats
    y: Ints
    pred: Ints
    index: Ints

    @property
    def class_name(self) -> str:
        """The first image's class."""
        return str(self.meta["classes"][int(self.y[0])])

    @property
    def logit(self) -> Floats:
        """The logit of the true class, (n,)."""
        return np.asarray(self.parts.sum(axis=1) + self.bias)

    @property
    def shares(self) -> Floats:
        """Share of all that speaks for the class which the k largest parts hold, k = 0 to D,
        (n,D+1); NaN where nothing does.
        """
        up = -np.sort(-np.maximum(self.parts.astype(np.float64), 0), axis=1)
        total = up.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return np.concatenate([np.zeros_like(total), up.cumsum(axis=1)], axis=1) / np.where(
                total > 0, total, np.nan
            )

    @property
    def half(self) -> Floats:
        """The smallest number of features that hold half of it, (n,); NaN where nothing speaks for
        the class.
        """
        reached = self.shares >= 0.5
        return np.where(reached.any(axis=1), reached.argmax(axis=1), np.nan)

    @property
    def effective(self) -> Floats:
        """(Σc⁺)² / Σ(c⁺)²: how many equal parts would be as spread out, (n,), 1 to D; NaN
        as above.
        """
        up = np.maximum(self.parts.astype(np.float64), 0)
        below = (up**2).sum(axis=1)
        return np.where(below > 0, up.sum(axis=1) ** 2 / np.where(below > 0, below, 1), np.nan)


@register("probe/contributions")
@dataclass(frozen=True)
class ContributionsSpec(OfImages[Contributions]):
    """What each feature adds to the true class's logit of untouched images, and one draw of guided
    dropout at full rate.

    The dropout is that of the run's own settings where it was trained with AALP, else AALP's usual
    one.
    """

    seed: int = option(0, "Seed of the draw.", low=0)

    result = Contributions
    cacheable = False


@dataclass(frozen=True)
class Carried(Result):
    """How few features carry the answer, over many untouched images.

    `half` (n,): with how many of its largest parts an image has half of all that speaks for its
    class, −1 where nothing does. `right` (n,): whether the network reads it rightly. `shares`
    (3,D+1): over the images of both kinds the first quartile, median and third quartile of the
    share that the k largest parts hold, k = 0 to D.
    """

    half: Ints
    right: Bools
    shares: Floats

    @property
    def width(self) -> int:
        """How many features there are."""
        return int(self.shares.shape[1]) - 1

    @property
    def counted(self) -> Bools:
        """The images that count, (n,)."""
        return self.right & (self.half >= 0)

    @property
    def median(self) -> int:
        """The number of features with which half of the images have half of their answer; 0 for
        no images.
        """
        half = np.sort(self.half[self.counted])
        return int(half[(len(half) - 1) // 2]) if len(half) else 0

    @property
    def interval(self) -> tuple[int, int]:
        """The median's 95 % interval, from the order of the images, as far as they go."""
        half = np.sort(self.half[self.counted])
        middle, reach = len(half) / 2, 0.98 * math.sqrt(len(half))
        low, high = (int(middle - reach) - 1, math.ceil(middle + reach)) if len(half) else (0, 0)
        return (int(half[max(0, low)]), int(half[min(high, len(half) - 1)])) if high else (0, 0)


def fewer(a: Carried, b: Carried) -> tuple[int, int, int]:
    """On how many of the images that count for both, n, the first has half of its answer from a
    smaller share of its features, and on how many the second; (first, second, n).
    """
    both = a.counted & b.counted
    first, second = (each.half[both] / each.width for each in (a, b))
    return int((first < second).sum()), int((first > second).sum()), int(both.sum())


@register("probe/carried")
@dataclass(frozen=True)
class CarriedSpec(ProbeSpec[Carried]):
    """How few features carry the answer on the first `n` test images, all of the shipped data
    sets', untouched.
    """

    n: int = option(1000, "How many test images.", low=1)

    result = Carried


@dataclass(frozen=True)
class Pairing(Result):
    """What logit pairing would ask of a network, image by image.

    `ce`, `ce_adv` (n,): cross-entropy of the untouched and of the attacked image; `pairing` (n,):
    mean squared difference of their logits; `cosine` (n,): of the gradients of pairing and of the
    two cross-entropies' mean with respect to all weights, NaN where one of them is zero;
    `right_adv` (n,): whether the attacked image is read rightly; `y`, `index` (n,).
    """

    ce: Floats
    ce_adv: Floats
    pairing: Floats
    cosine: Floats
    right_adv: Bools
    y: Ints
    index: Ints

    def weight(self, kind: str) -> Floats:
        """The weight of each pair, (n,), 0 to 1: AALP's `pair_weight` by name."""
        return {
            "adversarial": np.exp(-self.ce_adv),
            "clean": np.exp(-self.ce),
            "loss": 1 / (1 + self.ce_adv),
            "ones": np.ones_like(self.ce),
        }[kind]

    def opposed(self, kind: str = "ones") -> tuple[float, float, float]:
        """Which share of the pairs' weight lies on images whose two gradients oppose each other
        (cosine below 0), and its 95 % interval: Wilson's, with Kish's effective number of images.
        (NaN, 0, 1) where no pair has any.
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
        """By how much the weights change that share, and its 95 % interval, from the same images.
        (NaN, −1, 1) for fewer than two.
        """
        there = np.isfinite(self.cosine)
        weight = self.weight(kind)[there].astype(np.float64)
        against = (self.cosine[there] < 0).astype(np.float64)
        if len(weight) < 2 or not weight.sum() > 0:
            return math.nan, -1.0, 1.0
        share = float((weight * against).sum() / weight.sum())
        # Linearised: what each image moves the two shares by.
        pulls = weight / weight.mean() * (against - share) - (against - against.mean())
        moved, (_, low, high) = share - float(against.mean()), mean_interval(pulls)
        return moved, max(-1.0, moved + low), min(1.0, moved + high)


@register("probe/pairing")
@dataclass(frozen=True)
class PairingSpec(OfImages[Pairing]):
    """Pairing loss and cross-entropy of each image and its attacked twin, and whether their
    gradients agree.

    The gradients are those of the two terms of ALP's loss, with respect to all weights, image by
    image in eval mode: the pairing loss mean_K (z − z')², and the mean of the cross-entropies of
    both twins.
    """

    eps: float | None = option(
        None, "Radius in pixel units; empty: the run's.", low=0, kind="radius"
    )
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Pairing


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Any], ...]:
    """What the Contributions page asks before anything is chosen, for an image and any radius: the
    screen, and the pairs below it.
    """
    return CarriedSpec(), ContributionsSpec(index=index), PairingSpec()


@dataclass(frozen=True)
class AttackSteps(Result):
    """Which of n images stay right as an attack takes more steps, and without gradients.

    `steps` (S,): where PGD was looked at; `right` (S,n): right at this look and at every earlier
    one; `clean` (n,): right untouched; `square` (n,): right under Square with `queries`.
    """

    steps: Ints
    right: Bools
    clean: Bools
    square: Bools
    queries: int

    @property
    def n(self) -> int:
        return len(self.clean)

    @property
    def accuracy(self) -> Floats:
        """Fractions (S,)."""
        return np.asarray(self.right.mean(axis=1))

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals (S,2)."""
        return np.array([wilson(int(k), self.n) for k in self.right.sum(axis=1)])


@register("probe/attack_steps")
@dataclass(frozen=True)
class AttackStepsSpec(ProbeSpec[AttackSteps]):
    """Accuracy of the first `n` test images as PGD takes more steps, and under Square, which needs
    no gradient.

    The step stays ε/4 however many there are, and the start is the same, so that an attack of ten
    steps is the beginning of one of a thousand. An image counts as fooled from the first look at
    which it is misread.
    """

    n: int = option(50, "How many test images.", low=1, high=OPEN)
    steps: int = option(1000, "The most steps of PGD.", low=1, high=2000)
    queries: int = option(1000, "Queries of Square.", low=1, high=100_000)
    eps: float | None = option(
        None, "Radius in pixel units; empty: the run's.", low=0, kind="radius"
    )
    seed: int = option(0, "Seed of both attacks' noise.", low=0)

    result = AttackSteps
