"""Specs and results of the Attention page's probes: class activation maps of one image, their
overlap with the true object on many images, and ROAD. Without torch, so that pages can import it
quickly.
"""

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
OF_HELP = "The class to explain: the true one, or the predicted one of each image."
MAPS = ("clean", "attacked", "random")  # the rows of the arrays in an `Overlap`
OVERLAPS = ("iou", "pointing", "energy")


@dataclass(frozen=True)
class Attention(Result):
    """Class activation maps of one image, untouched and attacked, and PART's budget made from them.

    `x`, `x_adv`, `x_part` (C,H,W) in [0, 1]: untouched, attacked with radius `eps` at every pixel,
    attacked within the budget. `heat`, `heat_adv` (h,w): raw signed class activation maps of `x`
    and `x_adv`, for the classes `label` and `label_adv`; `heat_random` (R,h,w): the maps of `x` for
    `label` by the same network with R different sets of random weights. `mask` (H,W) bool, or
    (3,H,W) for jet-compat: the important pixels of `x`; `budget`, of the same shape: the radius of
    each pixel, `eps` where `mask` is true, else `eps_low`. `object` (H,W) bool: the pixels of the
    true object, or shape (0,0) where the data has no object masks. `y`: the true class; `probs`,
    `probs_adv`, `probs_part` (K,): softmax outputs. `drift`: rank correlation of `heat` and
    `heat_adv`; `control` (R,): rank correlation of `heat` and each random map; NaN where a map is
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
        """How far the attack within PART's budget changes each pixel value, (C,H,W), for pixels in
        [0, 1]: |x_part − x|.
        """
        return np.asarray(np.abs(self.x_part - self.x))

    @property
    def at_limit(self) -> Bools:
        """Which pixel values the attack within the budget changes by all that the budget allows, to
        within an eighth of a grey level, (C,H,W) bool.
        """
        return np.asarray(self.spent >= self.budget - 1 / 2040)

    @property
    def constant(self) -> bool:
        """Whether the clean image's map is constant (`stats.flat`), so that it marks no region."""
        return flat(self.heat)


@register("probe/attention")
@dataclass(frozen=True)
class AttentionSpec(ProbeSpec[Attention]):
    """Class activation maps of one test image, clean and under PGD with radius ε, and the same
    image under PGD with PART's budget, which is smaller on less important pixels.

    The mask rule need not be that of the run's training; jet-compat needs colour images, oracle
    needs object masks. Both attacks start from the same noise, scaled to each pixel's radius. `eps`
    None: the run's ε, or the data's default ε for a run trained in l2. `eps_low` None: 7/8 of ε.
    """

    index: int = option(0, "Index of the test image, counted from 0.", low=0, kind="image")
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: the run's ε (the data's after l2 training).",
        low=0,
        kind="radius",
    )
    eps_low: float | None = option(
        None,
        "Radius ε_low of the less important pixels, for pixels in [0, 1]; empty: 7/8 of ε.",
        low=0,
        kind="radius",
    )
    rule: str = option(
        "z>1",
        f"Which pixels matter: {', '.join(MASK_RULES)}, or oracle (shapes: the true object).",
        kind="rule",
        choices=(*MASK_RULES, "oracle"),
    )
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random weights.", low=0)
    controls: int = option(
        5, "How many networks with random weights are the control.", low=1, high=50
    )

    result = Attention
    cacheable = False


@dataclass(frozen=True)
class AttentionLevels(Result):
    """Class activation maps of one image attacked at several radii, and PART's mask.

    `levels` (L,): the radii in whole grey levels (1/255), ascending from 0. `x` (C,H,W) uint8: the
    untouched image; `change` (L,C,H,W): what the attack with each radius adds to it, rounded to
    whole grey levels. `probs` (L,K): softmax outputs. `heat` (L,h,w): raw signed class activation
    maps, for the classes `label` (L,). `hottest` (L,2): row and column, in pixels, of each map's
    largest value after bilinear enlarging to the size of the image, the mean position if several
    pixels have it; NaN where the map's positive part is constant. `on` (L,): the share of the
    hottest pixels (mostly a single one) that lie on the object, as in the pointing game of
    `Overlap`; NaN where `hottest` is NaN and where no object is known. `drift` (L,): rank
    correlation of each map with the untouched image's map; NaN where one of the two is constant.
    `mask` (H,W) bool, or (3,H,W) for jet-compat: the pixels of the untouched image that are
    important by PART's rule. `object` (H,W) bool: the pixels of the true object, or shape (0,0)
    where the data has no object masks. `y`: the true class; `eps`: the radius of the spec, in pixel
    units; `levels` go up to about twice this radius (`levels_of`).
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
        """The index in `levels` of the radius nearest to `eps`, the first one if two are."""
        return int(np.abs(self.levels - 255 * self.eps).argmin())

    def picture(self, at: int) -> Floats:
        """Returns the image attacked with the radius at index `at` in `levels`, (C,H,W) in [0, 1],
        rounded to whole grey levels.
        """
        return np.asarray((self.x.astype(int) + self.change[at]) / 255)

    def moved(self, at: int) -> float:
        """Returns the distance in pixels from the hottest pixel of the untouched image's map to
        that of the map at index `at` of `levels`; NaN if one of the two has no hottest pixel.
        """
        return float(np.hypot(*(self.hottest[at] - self.hottest[0])))


def levels_of(eps: float) -> list[int]:
    """Returns at most 17 radii in whole grey levels (1/255), in ascending order: 0, then equally
    spaced ones. One of these is the level of `eps`: `eps` (in pixel units) rounded to a whole grey
    level, but at least 1. The largest radius is twice this level or a little less, and never above
    255.
    """
    usual = max(1, round(255 * eps))
    most = min(2 * usual, 255)
    step = -(-most // 16)
    return [0, *(level for level in range(usual % step, most + 1, step) if level)]


@register("probe/attention_levels")
@dataclass(frozen=True)
class AttentionLevelsSpec(ProbeSpec[AttentionLevels]):
    """Class activation maps of one test image under PGD, from radius 0 to about twice `eps`.

    The radii are those of `levels_of`, at most 17, in whole grey levels: for an `eps` below 1/255
    they go up to 2/255, never beyond 255/255. The result for each radius is the same as that of an
    attack with this radius alone. `eps` None: the run's ε, or the data's default ε for a run
    trained in l2.
    """

    index: int = option(0, "Index of the test image, counted from 0.", low=0, kind="image")
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
        "Radius ε, for pixels in [0, 1], of which the levels go up to the double; empty: the"
        " run's ε.",
        low=0,
        kind="radius",
    )
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = AttentionLevels
    cacheable = False


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Result], ...]:
    """Returns the specs of the results that the page's first screen shows by default, for each
    network. `index`: the test image; `eps`: the default radius of its data, in pixel units. The
    page measures the first spec. It shows the overlaps, the second spec, only if they were measured
    before; they exist only for data with object masks.
    """
    return AttentionLevelsSpec(index, eps=eps), OverlapSpec()


@dataclass(frozen=True)
class Overlap(Result):
    """How well a network's maps and masks lie on the true object, image by image.

    `iou`, `pointing`, `energy` (3,n), in [0, 1]; the rows are `MAPS`: the map of the untouched
    image, of the attacked image, and of the untouched image by the same network with random
    weights. `iou`: IoU of the mask of important pixels and the object. `pointing`: the share of the
    map's hottest pixels (mostly a single one) that lie on the object. `energy`: the share of the
    map's positive part that lies on the object. `area` (n,): the object's share of the image, which
    is what a blind guess gets in `pointing` and `energy`. `chance` (n,): the expected intersection
    divided by the expected union for a randomly placed mask that is as large as the untouched
    image's. `constant` (3,): in each row, how many maps carry no information, because their
    positive part is constant; they count as maps that are 1 everywhere. `index`, `y` (n,): image
    indices and true classes.
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
        """Returns the mean of a measure over the images, and its 95% interval, as (mean, low,
        high) in [0, 1]. `measure`: `iou`, `pointing` or `energy`; `row`: which maps, an index into
        `MAPS`. The interval is Wilson's for pointing, and Student's t for the other two, cut to
        [0, 1].
        """
        values = getattr(self, measure)[row]
        if measure == "pointing":
            return float(values.mean()), *wilson(float(values.sum()), len(values))
        mean, low, high = mean_interval(values)
        return mean, max(0.0, low), min(1.0, high)

    def guess(self, measure: str) -> float:
        """Returns what a blind guess gets in a `measure` (as in `interval`), as the mean over the
        images, in [0, 1].
        """
        return float((self.chance if measure == "iou" else self.area).mean())

    def gap(self, other: Overlap, measure: str, row: int) -> tuple[float, float, float]:
        """Returns the mean over the images of a measure's difference, this network minus `other`,
        and its 95% t-interval, as (mean, low, high). `measure` and `row` are as in `interval`.
        Raises UserError if the two were not measured on the same images.
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
        """Returns the result as a table with one row per image: its index, class and object's area,
        and each measure for each kind of map in `MAPS`.
        """
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
    """How well maps and masks of the first `n` test images lie on the true object.

    Measured for untouched images, for attacked images, and for untouched images on the same network
    with random weights. `eps` None: the run's ε, or the data's default ε for a run trained in l2.
    Source: Zhang et al. 2018 (arXiv 1608.00507) for the pointing game, Wang et al. 2020 (arXiv
    1910.01279) for the energy. Differs: there is no tolerance of 15 pixels around the object,
    because images of 32 pixels are too small for it; if several pixels are hottest, an image's
    score is the share of them on the object.
    """

    n: int = option(200, "How many test images.", low=1)
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    rule: str = option(
        "z>1",
        f"Which pixels the mask marks: {', '.join(MAP_RULES)}; the number can be changed.",
        kind="rule",
        choices=MAP_RULES,
    )
    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: the run's ε (the data's after l2 training).",
        low=0,
        kind="radius",
    )
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random weights.", low=0)

    result = Overlap


@dataclass(frozen=True)
class Road(Result):
    """Whether maps are faithful: how a network's output changes when the pixels that a map marks
    are painted over.

    `score` (3,n), −0.5 to 0.5: half the difference between the softmax output with the map's lowest
    pixels painted over and that with its highest pixels painted over, as the mean over 20, 40, 60
    and 80% of the pixels. Above 0, the pixels that the map marks matter to the network. The rows
    are the class activation map, the map of the same network with random weights, and a map of
    random numbers on the same grid. `index` (n,): image indices. Images whose class activation map
    is constant are left out; `constant` is their number.
    """

    score: Floats
    index: Ints
    constant: int


@register("probe/road")
@dataclass(frozen=True)
class RoadSpec(ProbeSpec[Road]):
    """ROAD scores of the maps of test images: do the pixels that a map marks matter to the network?

    The first `n` test images are used. Maps of the same network with random weights and maps of
    random numbers are controls. Source: Rong et al. 2022 (ROAD, arXiv 2202.00449) as in the
    grad-cam package. Differs: pixels are ranked by the raw maps, with ties broken at random,
    because a map cut at 0 gives no order where it is 0; the softmax output is used, not the logit.
    """

    n: int = option(20, "How many test images.", low=2, high=1000)
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    seed: int = option(0, "Seed of the random weights, the random maps and ROAD's noise.", low=0)

    result = Road
