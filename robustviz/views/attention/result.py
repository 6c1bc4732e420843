"""What the question *attention* gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import Bools, Floats, Ints, flat, mean_interval, wilson
from robustviz.types import JSON, UserError
from robustviz.views.result import Result


@dataclass(frozen=True)
class Attention(Result):
    """Where a network looks on one image, untouched and attacked, and the budget that PART makes of
    it.

    `x`, `x_adv`, `x_part` (C,H,W) in [0,1]: untouched, attacked with `eps` everywhere, attacked
    within the budget. `heat`, `heat_adv` (h,w): raw signed class activation maps of the first two,
    for the classes `label` and `label_adv`; `heat_random` (R,h,w): the map of `x` for `label` by
    the same network with random weights, R times. `mask` (H,W) bool, or (3,H,W) for jet-compat: the
    important pixels of `x`; `budget`, of the same shape: each pixel's radius, `eps` or `eps_low`.
    `object` (H,W) bool: the true object, or (0,0) where the data does not know it. `y`: the true
    class; `probs`, `probs_adv`, `probs_part` (K,): softmax outputs. `drift`: rank correlation of
    `heat` and `heat_adv`; `control` (R,): of `heat` and each random map; NaN where a map is
    constant.
    """

    x: Floats
    x_adv: Floats
    x_part: Floats
    heat: Floats
    heat_adv: Floats
    heat_random: Floats
    mask: Bools
    budget: Floats
    object: Bools
    y: int
    label: int
    label_adv: int
    probs: Floats
    probs_adv: Floats
    probs_part: Floats
    eps: float
    eps_low: float
    drift: float
    control: Floats

    @property
    def spent(self) -> Floats:
        """|δ| of the attack within the budget, (C,H,W), in pixel units."""
        return np.asarray(np.abs(self.x_part - self.x))

    @property
    def at_limit(self) -> Bools:
        """Where this attack spends all that the budget allows, to an eighth of a grey level,
        (C,H,W).
        """
        return np.asarray(self.spent >= self.budget - 1 / 2040)

    @property
    def constant(self) -> bool:
        """Whether the clean image's map is the same everywhere, so that it points at nothing."""
        return flat(self.heat)


@dataclass(frozen=True)
class Overlap(Result):
    """How well the maps of a network and the masks made of them lie on the true object, image by
    image.

    `iou`, `pointing`, `energy` (3,n), fractions; rows: the map of the untouched image, of the
    attacked one, and of the untouched one by the same network with random weights. `iou`: of the
    important-pixel mask and the object. `pointing`: the share of the map's hottest pixels (mostly
    one) that lie on the object. `energy`: the share of the positive map that lies on the object.
    `area` (n,): the object's share of the image: what a blind guess gets in the last two. `chance`
    (n,): the IoU expected of a mask of the same size thrown at random. `constant` (3,): how many
    maps say nothing; they count with what a blind guess gets. `index`, `y` (n,): image numbers and
    true classes.
    """

    iou: Floats
    pointing: Floats
    energy: Floats
    area: Floats
    chance: Floats
    constant: Ints
    index: Ints
    y: Ints

    def interval(self, measure: str, row: int) -> tuple[float, float, float]:
        """Mean and 95 % interval of `iou`, `pointing` or `energy`: Wilson's for pointing, Student's
        t for the means, cut to 0…1.
        """
        values = getattr(self, measure)[row]
        if measure == "pointing":
            return float(values.mean()), *wilson(float(values.sum()), len(values))
        mean, low, high = mean_interval(values)
        return mean, max(0.0, low), min(1.0, high)

    def gap(self, other: Overlap, measure: str, row: int) -> tuple[float, float, float]:
        """By how much this exceeds the other on the same images: mean paired difference, 95 %
        t-interval. Raises UserError where the images are not the same.
        """
        if (
            self.meta["data"] != other.meta["data"]
            or not np.array_equal(self.index, other.index)
            or not np.array_equal(self.area, other.area)
        ):
            raise UserError(
                "These two were not measured on the same images, so they cannot be compared image"
                " by image."
            )
        return mean_interval(getattr(self, measure)[row] - getattr(other, measure)[row])

    def rows(self) -> list[JSON]:
        """A row an image."""
        names = list(self.meta["classes"])
        return [
            {
                "image": int(self.index[i]),
                "class": names[self.y[i]],
                "object_area": float(self.area[i]),
            }
            | {
                f"{measure}_{kind}": float(getattr(self, measure)[row, i])
                for measure in OVERLAPS
                for row, kind in enumerate(MAPS)
            }
            for i in range(len(self.y))
        ]


MAPS = ("clean", "attacked", "random")  # the rows of an `Overlap`

OVERLAPS = ("iou", "pointing", "energy")


@dataclass(frozen=True)
class Road(Result):
    """Whether a map is faithful: how the softmax output reacts when what it calls important is
    painted over.

    `score` (3,n), −1 to 1: ROAD's mean of (least relevant removed first − most relevant removed
    first) / 2 over shares of the pixels; above 0: the map's pixels matter to the network. Rows: the
    class activation map, the map of the same network with random weights, a map of random numbers
    on the same grid. `index` (n,): image numbers; constant maps are left out, and `constant` counts
    them.
    """

    score: Floats
    index: Ints
    constant: int
