"""What is asked about features, and what comes back: measures of clean, attacked and noisy images,
their map, and the map over the epochs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints
from robustviz.types import JSON
from robustviz.views.result import ProbeSpec, Result

R = TypeVar("R", bound=Result)
S = TypeVar("S", bound="AttackedSpec[Any]")
Images = Literal["clean", "adversarial", "noise"]
Projection = Literal["centres", "pca", "umap"]
Film = Literal["centres", "umap"]
COLUMNS = 20  # tiles in a row of a sheet
TENTHS = 10  # steps from untouched to attacked
KINDS: dict[Images, str] = {"clean": "clean", "adversarial": "attacked", "noise": "noise"}


@dataclass(frozen=True)
class Answers(Result):
    """Answers of a network to images and their attacked twins: `y` (n,) the true classes, `pred`,
    `pred_adv` (n,), or a row an epoch (E,n), the answers; `index` (n,) the images' numbers.
    """

    y: Ints
    pred: Ints
    pred_adv: Ints
    index: Ints

    @property
    def right(self) -> Bools:
        """Which untouched images the network reads rightly, (n,)."""
        return np.asarray(self.pred == self.y)

    @property
    def fooled(self) -> Bools:
        """Which of these the attack takes away, (n,)."""
        return np.asarray(self.right & (self.pred_adv != self.y))


@dataclass(frozen=True)
class AttackedSpec(ProbeSpec[R]):
    """Which test images and which attack: the first `n`, and PGD in linf as the evaluation runs it,
    with the same noise. Random noise of the same ε is the control.
    """

    n: int = option(500, "How many test images.", low=1)
    eps: float | None = option(
        None, "Radius in pixel units; empty: the run's.", low=0, kind="radius"
    )
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random control.", low=0)

    def alike(self, spec: type[S]) -> S:
        """Another question about the same images under the same attack."""
        return spec(n=self.n, eps=self.eps, steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class Features(Answers):
    """Penultimate features of the same `n` images untouched, attacked, and with random noise of the
    same ε.

    `clean`, `adversarial`, `noise` (n,D) float32; `y` the true classes, `pred`, `pred_adv`,
    `pred_noise` (n,) the answers; `index` (n,) image numbers. `centres_clean`, `centres_adv`,
    `centres_noise` (K,K): cosine of the clean centre of the row's class and the centre of the
    column's class among the clean, attacked, noisy points (NaN: no image of the class).
    `lipschitz_adv`, `lipschitz_noise` (n,): feature displacement per change of the image;
    `moved_adv`, `moved_noise` (n,): the same displacement in mean distances between clean class
    centres. `measures`: for `clean`, `adversarial` and `noise` each measure of `robustviz.measures`
    by name.
    """

    clean: Floats
    adversarial: Floats
    noise: Floats
    pred_noise: Ints
    centres_clean: Floats
    centres_adv: Floats
    centres_noise: Floats
    lipschitz_adv: Floats
    lipschitz_noise: Floats
    moved_adv: Floats
    moved_noise: Floats
    measures: dict[str, dict[str, float]]

    def rows(self) -> list[JSON]:
        """A row an image."""
        names = list(self.meta["classes"])
        return [
            {
                "image": int(self.index[i]),
                "class": names[self.y[i]],
                "clean": names[self.pred[i]],
                "attacked": names[self.pred_adv[i]],
                "noise": names[self.pred_noise[i]],
                "moved_attacked": float(self.moved_adv[i]),
                "moved_noise": float(self.moved_noise[i]),
            }
            for i in range(len(self.y))
        ]

    def points(self, of: Images) -> Floats:
        """The features of one kind of images, (n,D)."""
        return {"clean": self.clean, "adversarial": self.adversarial, "noise": self.noise}[of]

    def cosines(self, of: Images) -> tuple[Floats, Floats]:
        """`own_and_other` of one kind of images."""
        return own_and_other(self.points(of), self.clean, self.y)


@register("probe/features")
@dataclass(frozen=True)
class FeaturesSpec(AttackedSpec[Features]):
    """Penultimate features of the first `n` test images: clean, under PGD, and with uniform noise
    of the same ε.

    The attack is the evaluation's (same noise), so the answers are those that it counts.
    """

    k: int | None = option(
        None, "How many nearest neighbours vote; empty: 10, or all others of fewer images.", low=1
    )

    result = Features


def commonest(counts: Ints, most: int) -> list[tuple[int, int]]:
    """The `most` classes that are counted most often, each with its count, none for 0."""
    return [
        (int(c), int(counts[c])) for c in np.argsort(-counts, kind="stable")[:most] if counts[c]
    ]


def own_and_other(z: Floats, clean: Floats, y: Ints) -> tuple[Floats, Floats]:
    """For each point of `z` (n,D) the cosine to the centre of its own class among the `clean`
    points (n,D), and to the nearest centre of another class: (n,) each, −1 to 1; −1 where there is
    no other class. A vector of length zero has cosine 0.
    """
    clean, known = np.asarray(clean, dtype=np.float64), np.unique(y)
    centres = _unit(np.stack([clean[y == label].mean(axis=0) for label in known]))
    to = (_unit(np.asarray(z, dtype=np.float64)) @ centres.T).clip(-1, 1)
    own = known == y[:, None]
    return to[own], np.where(own, -1.0, to).max(axis=1)


def _unit(z: Floats) -> Floats:
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1.0)


@dataclass(frozen=True)
class FeatureMap(Answers):
    """Features of the same `n` images as points of a plane: untouched, attacked, and with random
    noise of the same ε.

    `clean`, `adversarial`, `noise` (n,2); `placed` (n,2), or (0,2): the attack at another ε, put
    into the finished map, and `pred_placed` its answers; `y`, `pred`, `pred_adv`, `pred_noise`,
    `index` (n,) as in `Features`. `own`, `other` (3,n): cosine in feature space to the clean centre
    of the own class and to the nearest other one; rows: clean, adversarial, noise. `moved` (n,):
    how far the attack moved each image, in mean distances between class centres. `axes` (D,2),
    `origin` (D,): a point z lies at (z − origin) @ axes; empty for UMAP, which has no axes.
    `share`: of what the plane was laid through (class centres, or all points), the part of the
    variance that it holds; NaN for UMAP. `trust`: trustworthiness of the map with 15 neighbours by
    cosine, 0 to 1; NaN for fewer than 16 images.
    """

    clean: Floats
    adversarial: Floats
    noise: Floats
    placed: Floats
    pred_noise: Ints
    pred_placed: Ints
    own: Floats
    other: Floats
    moved: Floats
    axes: Floats
    origin: Floats
    share: float
    trust: float

    def cosines(self, of: Images) -> tuple[Floats, Floats]:
        """Cosine of one kind of images to their own class's centre and to the nearest other one."""
        row = list(KINDS).index(of)
        return self.own[row], self.other[row]

    @property
    def astray(self) -> Ints:
        """How many clean, attacked, noisy points lie nearer to another class's centre than to their
        own, by cosine, (3,).
        """
        return np.asarray((self.other > self.own).sum(axis=1))


@register("probe/feature_map")
@dataclass(frozen=True)
class FeatureMapSpec(AttackedSpec[FeatureMap]):
    """Penultimate features of the first `n` test images, clean and under PGD, as points of a plane.

    `projection`: `centres`, the plane of largest variance of the clean class centres; `pca`, that
    of all points; `umap`, with the cosine metric. The latter two are fitted to clean and attacked
    points together, so that neither is a guest in the other's map. Noise, and the attack at
    `place_eps`, are put into the finished map and change nothing in it.
    """

    n: int = option(200, "How many test images.", low=1)
    seed: int = option(0, "Seed of the attack's noise and of UMAP.", low=0, high=2**32 - 1)
    projection: Projection = option("centres", "How the points come into a plane.")
    n_neighbors: int = option(15, "Neighbours of each point in UMAP.", low=2, high=200)
    min_dist: float = option(0.1, "How tightly UMAP packs points.", low=0, high=0.99)
    place_eps: float | None = option(
        None,
        "Radius of a second attack, put into the finished map; empty: none.",
        low=0,
        kind="radius",
    )

    result = FeatureMap

    @property
    def cacheable(self) -> bool:
        return self.projection == "umap"


@dataclass(frozen=True)
class FeatureTiles(Answers):
    """What the same `n` images look like, from where on the attack takes them, and who lies next to
    them in feature space.

    `sheet`: a picture (PNG or WebP) as bytes, `COLUMNS` tiles of `side` pixels a row: the clean
    images, then the attacked ones. `lost` (n,): the image that has this many tenths of the attack
    is misread, and so are all that have more; 11: the attack does not take it. `near`, `near_adv`
    (n,k): the rows of the clean images whose features are nearest by cosine to the clean and to the
    attacked one, nearest first, without the image itself.
    """

    sheet: Ints
    side: int
    lost: Ints
    near: Ints
    near_adv: Ints

    def images(self) -> Floats:
        """The clean images, then the attacked ones, (2n,3,side,side) in [0,1]."""
        with Image.open(io.BytesIO(self.sheet.tobytes())) as picture:
            sheet = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
        tiles = sheet.reshape(-1, self.side, COLUMNS, self.side, 3).transpose(0, 2, 4, 1, 3)
        return np.asarray(tiles.reshape(-1, 3, self.side, self.side)[: 2 * len(self.y)])


@register("probe/feature_tiles")
@dataclass(frozen=True)
class FeatureTilesSpec(AttackedSpec[FeatureTiles]):
    """The first `n` test images as small pictures, clean and under PGD, with their `k` nearest
    neighbours in feature space, and from which tenth of the attack on each is misread.
    """

    n: int = option(200, "How many test images.", low=1)
    k: int = option(5, "How many neighbours.", low=1)

    result = FeatureTiles


@dataclass(frozen=True)
class FeatureFilm(Answers):
    """Features of the same n images at E epochs of one training, on the plane of the last epoch's
    class centres or by UMAP.

    `epochs` (E,); `clean`, `adversarial` (E,n,2); `y`, `index` (n,); `pred`, `pred_adv` (E,n). The
    rest are means in feature space, one an epoch: `own`, `other` (E,3) cosine to the clean centre
    of the own class and to the nearest other one, for clean, attacked, noisy images; `moved` (E,2)
    how far attack and noise move an image, in mean distances between class centres, infinite where
    the centres coincide.
    """

    epochs: Ints
    clean: Floats
    adversarial: Floats
    own: Floats
    other: Floats
    moved: Floats


@register("probe/feature_film")
@dataclass(frozen=True)
class FeatureFilmSpec(AttackedSpec[FeatureFilm]):
    """The features of the first `n` test images at every epoch whose weights were kept. At each
    epoch that epoch's own network is attacked.

    `projection`: `centres`, all on the plane of the last epoch's class centres; `umap`, the last
    epoch's map, and each earlier one starting from the one after it. Either way frames do not jump,
    and do not depend on what was seen before.
    """

    n: int = option(100, "How many test images.", low=1)
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(
        0, "Seed of the attack's noise, of the random control and of UMAP.", low=0, high=2**32 - 1
    )
    projection: Film = option("centres", "How the points come into a plane.")

    result = FeatureFilm


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Any], ...]:
    """What the page asks before anybody chose anything: the map, and what its points look like. It
    asks the same for every image; each network is attacked with its own ε.
    """
    asked = FeatureMapSpec(projection="umap")
    return asked, asked.alike(FeatureTilesSpec)
