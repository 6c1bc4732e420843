"""What the question *contributions* gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robustviz.stats import Bools, Floats, Ints, mean_interval, wilson
from robustviz.views.result import Result


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
    def logit(self) -> Floats:
        """The logit of the true class, (n,)."""
        return self.parts.sum(axis=1) + self.bias

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
        weight, against = (
            self.weight(kind)[there].astype(np.float64),
            (self.cosine[there] < 0).astype(np.float64),
        )
        if len(weight) < 2 or not weight.sum() > 0:
            return math.nan, -1.0, 1.0
        share = float((weight * against).sum() / weight.sum())
        # Linearised: what each image moves the two shares by.
        pulls = weight / weight.mean() * (against - share) - (against - against.mean())
        moved, (_, low, high) = share - float(against.mean()), mean_interval(pulls)
        return moved, max(-1.0, moved + low), min(1.0, moved + high)


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
        return self.right.mean(axis=1)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals (S,2)."""
        return np.array([wilson(int(k), self.n) for k in self.right.sum(axis=1)])
