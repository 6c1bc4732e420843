"""What is asked about the places where a network looks, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints, flat, mean_interval, wilson
from robustviz.types import JSON, MAP_RULES, MASK_RULES, UserError
from robustviz.views.result import ProbeSpec, Result

Method = Literal[
    "grad_cam",
    "layer_cam",
    "grad_cam_plusplus",
    "xgrad_cam",
    "hires_cam",
    "eigen_cam",
    "eigen_grad_cam",
    "score_cam",
]
Of = Literal["true", "predicted"]
METHODS: dict[Method, str] = {
    "grad_cam": "Grad-CAM",
    "layer_cam": "LayerCAM",
    "grad_cam_plusplus": "Grad-CAM++",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
    "score_cam": "Score-CAM",
}
MAP_HELP = "How the class activation map is made."
OF_HELP = "Whose map: the true class's, or the one predicted for each image."
MAPS = ("clean", "attacked", "random")  # the rows of an `Overlap`
OVERLAPS = ("iou", "pointing", "energy")


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


@register("probe/attention")
@dataclass(frozen=True)
class AttentionSpec(ProbeSpec[Attention]):
    """One test image's maps, untouched and attacked, PART's budget for it and an attack within that
    budget.

    Every mask rule of PART is allowed, whatever the run was trained with. Both attacks start from
    the same noise.
    """

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    eps: float | None = option(
        None, "Radius in pixel units; empty: the run's.", low=0, kind="radius"
    )
    eps_low: float | None = option(
        None, "Radius of the pixels that matter less; empty: 7/8 of ε.", low=0, kind="radius"
    )
    rule: str = option(
        "z>1",
        f"Which pixels matter: {', '.join(MASK_RULES)}, or oracle (shapes: the true object).",
        kind="rule",
        choices=(*MASK_RULES, "oracle"),
    )
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random weights.", low=0)
    controls: int = option(5, "How many networks with random weights.", low=1, high=50)

    result = Attention
    cacheable = False


@dataclass(frozen=True)
class AttentionLevels(Result):
    """Where a network looks on one image at every strength of an attack, and PART's mask of it.

    `x` (C,H,W) uint8: the untouched image; `change` (L,C,H,W): what the attack of each radius in
    `levels` (L,) adds, both in whole grey levels; the first radius is 0. `probs` (L,K): softmax
    outputs. `heat` (L,h,w): raw signed class activation maps, for the classes `label` (L,).
    `hottest` (L,2): row and column of the hottest pixel of each map enlarged bilinearly, of several
    their mean; NaN where the map says nothing. `on` (L,): the share of the hottest pixels, mostly
    one, that lie on the object, as in the pointing game of `Overlap`; NaN where the map says
    nothing or no object is known. `drift` (L,): rank correlation of each map and the untouched
    one's. `mask` (H,W), or (3,H,W) for jet-compat: the pixels that are important by PART's rule.
    `object` (H,W): the true object, or (0,0) where the data does not know it. `y`: the true class;
    `eps`: the radius, in pixel units, to whose double the levels go.
    """

    x: Ints
    change: Ints
    levels: Ints
    probs: Floats
    heat: Floats
    label: Ints
    hottest: Floats
    on: Floats
    drift: Floats
    mask: Bools
    object: Bools
    y: int
    eps: float

    @property
    def usual(self) -> int:
        """The position of `eps` in `levels`."""
        return int(np.abs(self.levels - 255 * self.eps).argmin())

    def picture(self, at: int) -> Floats:
        """The image (C,H,W) in [0,1], attacked with the radius at a position in `levels`."""
        return np.asarray((self.x.astype(int) + self.change[at]) / 255)

    def moved(self, at: int) -> float:
        """How far the hottest pixel lies from where it was untouched, in pixels; NaN where one of
        the two maps says nothing.
        """
        return float(np.hypot(*(self.hottest[at] - self.hottest[0])))


def levels_of(eps: float) -> list[int]:
    """Whole grey levels from 0 to twice a radius in pixel units, at most 17, the radius among
    them.
    """
    usual = max(1, round(255 * eps))
    most = min(2 * usual, 255)
    step = -(-most // 16)
    return [0, *(level for level in range(usual % step, most + 1, step) if level)]


@register("probe/attention_levels")
@dataclass(frozen=True)
class AttentionLevelsSpec(ProbeSpec[AttentionLevels]):
    """One test image's maps untouched and attacked with PGD at whole grey levels from 0 to twice a
    radius, at most 17 of them, each the attack that the radius alone would get.
    """

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    rule: str = option(
        "z>1",
        f"Which pixels matter: {', '.join(MASK_RULES)}, or oracle (shapes: the true object).",
        kind="rule",
        choices=(*MASK_RULES, "oracle"),
    )
    eps: float | None = option(
        None,
        "Radius in pixel units to whose double the levels go; empty: the run's.",
        low=0,
        kind="radius",
    )
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = AttentionLevels
    cacheable = False


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Result], ...]:
    """What the page's first screen asks of a network about a test image; the overlap is known for
    data with objects only.
    """
    return AttentionLevelsSpec(index, eps=eps), OverlapSpec()


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

    def guess(self, measure: str) -> float:
        """What a blind guess gets in `iou`, `pointing` or `energy`, on average."""
        return float((self.chance if measure == "iou" else self.area).mean())

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
        return [
            {
                "image": int(self.index[i]),
                "class": self.meta["classes"][self.y[i]],
                "object_area": float(self.area[i]),
            }
            | {
                f"{measure}_{kind}": float(getattr(self, measure)[row, i])
                for measure in OVERLAPS
                for row, kind in enumerate(MAPS)
            }
            for i in range(len(self.y))
        ]


@register("probe/overlap")
@dataclass(frozen=True)
class OverlapSpec(ProbeSpec[Overlap]):
    """How well maps and masks of the first `n` test images lie on the true object: untouched,
    attacked, with random weights.

    Source: the pointing game and the energy-based one are Zhang et al. 2018 (arXiv 1608.00507) and
    Wang et al. 2020 (arXiv 1910.01279). Differs: no tolerance of 15 pixels around the object,
    images of 32 pixels are too small for it; several hottest pixels share the point.
    """

    n: int = option(200, "How many test images.", low=1)
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    rule: str = option(
        "z>1",
        f"Which pixels the mask marks: {', '.join(MAP_RULES)}; any number.",
        kind="rule",
        choices=MAP_RULES,
    )
    eps: float | None = option(
        None, "Radius in pixel units; empty: the run's.", low=0, kind="radius"
    )
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random weights.", low=0)

    result = Overlap


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


@register("probe/road")
@dataclass(frozen=True)
class RoadSpec(ProbeSpec[Road]):
    """ROAD of the first `n` test images' maps, of the same network's with random weights, and of
    random numbers.

    Source: Rong et al. 2022 (ROAD, arXiv 2202.00449) as in the grad-cam package. Differs: the raw
    maps' ranks, ties broken at random, because a map cut at 0 has no order where it is 0; the
    softmax output, not the logit.
    """

    n: int = option(20, "How many test images.", low=2, high=1000)
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    seed: int = option(0, "Seed of the random weights, the random maps and ROAD's noise.", low=0)

    result = Road
