"""Specs and results of the Features page's probes, without torch: measures of clean, attacked and
noisy images, their map, their pictures with neighbours, and the map over the epochs.
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
TENTHS = 10  # steps from the clean to the attacked image
KINDS: dict[Images, str] = {"clean": "clean", "adversarial": "attacked", "noise": "noise"}


@dataclass(frozen=True)
class Answers(Result):
    """Predictions for clean images and their attacked versions. `y` (n,): the true classes; `pred`,
    `pred_adv` (n,), or (E,n) with one row per epoch: the predictions; `index` (n,): the images'
    indices in the test split.
    """

    y: Ints
    pred: Ints
    pred_adv: Ints
    index: Ints

    @property
    def right(self) -> Bools:
        """Which clean images are classified correctly, as a mask with the shape of `pred`."""
        return np.asarray(self.pred == self.y)

    @property
    def fooled(self) -> Bools:
        """Which images are classified correctly when clean and misclassified when attacked, as a
        mask with the shape of `pred`.
        """
        return np.asarray(self.right & (self.pred_adv != self.y))


@dataclass(frozen=True)
class AttackedSpec(ProbeSpec[R]):
    """Base class of this page's specs. The images are the first `n` of the test split. The attack
    is linf PGD with the random start that the evaluation uses. Random noise of the same ε is the
    control.
    """

    n: int = option(500, "How many test images.", low=1)
    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: the run's ε (the data's after l2 training).",
        low=0,
        kind="radius",
    )
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random control.", low=0)

    def alike(self, spec: type[S]) -> S:
        """A spec of the class `spec` for the same images and the same attack; its other settings
        are the defaults.
        """
        return spec(n=self.n, eps=self.eps, steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class Features(Answers):
    """Penultimate-layer features of the same `n` images: clean, attacked, and with random noise of
    the same ε.

    `clean`, `adversarial`, `noise` (n,D) float32: the features. `y` (n,): the true classes; `pred`,
    `pred_adv`, `pred_noise` (n,): the predictions; `index` (n,): the images' indices.
    `centres_clean`, `centres_adv`, `centres_noise` (K,K) for K classes: cosine between the clean
    centre of the row's class and the centre of the column's class among the clean, attacked or
    noisy points (NaN: no image of the class). `lipschitz_adv`, `lipschitz_noise` (n,): the ℓ2
    distance by which the features moved, divided by the ℓ∞ distance by which the image did.
    `moved_adv`, `moved_noise` (n,): the distance by which the features moved, divided by the mean
    distance between clean class centres. `measures`: for each of `clean`, `adversarial` and
    `noise`, a dict of the measures from `describe`, by name.
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
        """One row per image: its index, class and predictions, and how far its features moved."""
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
        """Two cosines for each image, (n,) each: of its features to the clean centre of its own
        class, and to the nearest clean centre of another class (see `own_and_other`). `of`: whether
        to take the clean images, the attacked ones or those with noise.
        """
        return own_and_other(self.points(of), self.clean, self.y)


@register("probe/features")
@dataclass(frozen=True)
class FeaturesSpec(AttackedSpec[Features]):
    """Features of the first `n` test images: clean, under PGD, and with uniform noise.

    The features are those of the penultimate layer; the noise has the attack's ε. The attack starts
    at the same random points as in the evaluation. With the evaluation's settings the predictions
    are those that it counts, except for about one image in hundreds: the evaluation stops at an
    image's first misclassification, this attack takes all its steps.
    """

    k: int | None = option(
        None,
        "k of the k-nearest-neighbour measures; empty: 10, or the number of other images if"
        " that is smaller.",
        low=1,
    )

    result = Features


def commonest(counts: Ints, most: int) -> list[tuple[int, int]]:
    """Up to `most` classes with the highest `counts` (K,), as (class, count), highest first, and
    the lowest class first among equal counts. Classes with a count of 0 are left out.
    """
    return [
        (int(c), int(counts[c])) for c in np.argsort(-counts, kind="stable")[:most] if counts[c]
    ]


def own_and_other(z: Floats, clean: Floats, y: Ints) -> tuple[Floats, Floats]:
    """Two cosines for each point of `z` (n,D), (n,) each, −1 to 1: to the centre of its own class
    `y` (n,), and to the nearest centre of another class. A centre is the mean of the `clean` points
    (n,D) of a class. The second cosine is −1 where there is no other class. A vector of length zero
    has cosine 0.
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
    """Features of the same `n` images as points of a plane: clean, attacked, and with random noise
    of the same ε.

    `clean`, `adversarial`, `noise` (n,2): the positions. `placed` (n,2), or (0,2) for none: images
    attacked at another ε and placed in the finished map, with predictions `pred_placed`. `y`,
    `pred`, `pred_adv`, `pred_noise`, `index` (n,) are as in `Features`. `own`, `other` (3,n):
    cosine in feature space to the clean centre of the own class and to the nearest clean centre of
    another class; the rows are clean, adversarial, noise. `moved` (n,): the distance by which the
    attack moved an image's features, divided by the mean distance between clean class centres.
    `axes` (D,2), `origin` (D,): a point z lies at (z − origin) @ axes; both are empty for UMAP,
    which has no axes. `share`: the fraction of the variance (between the class centres, or of all
    points for `pca`) that lies in the plane; NaN for UMAP. `trust`: the map's trustworthiness with
    15 neighbours by cosine, 0 to 1; NaN for fewer than 16 images.
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
        """Two cosines for each image, (n,) each: of its features to the clean centre of its own
        class, and to the nearest clean centre of another class. `of`: as in `Features.cosines`.
        """
        row = list(KINDS).index(of)
        return self.own[row], self.other[row]

    @property
    def astray(self) -> Ints:
        """How many clean, attacked and noisy points lie nearer to another class's centre than to
        their own, by cosine, (3,).
        """
        return np.asarray((self.other > self.own).sum(axis=1))


@register("probe/feature_map")
@dataclass(frozen=True)
class FeatureMapSpec(AttackedSpec[FeatureMap]):
    """Features of the first `n` test images, clean and under PGD, as points of a plane.

    The features are those of the penultimate layer. `projection`: `centres` is the plane of largest
    variance of the clean class centres, `pca` the plane of largest variance of all clean and
    attacked points, and `umap` a UMAP of these points with the cosine metric. `pca` and `umap` are
    fitted to both kinds together, so that neither kind is placed in a map of the other. Noise, and
    the attack at `place_eps`, are placed in the finished map and change nothing in it.
    """

    n: int = option(200, "How many test images.", low=1)
    seed: int = option(0, "Seed of the attack's noise and of UMAP.", low=0, high=2**32 - 1)
    projection: Projection = option("centres", "How the features are projected onto a plane.")
    n_neighbors: int = option(15, "Neighbours of each point in UMAP.", low=2, high=200)
    min_dist: float = option(
        0.1, "UMAP's min_dist: the smallest distance between points on the map.", low=0, high=0.99
    )
    place_eps: float | None = option(
        None,
        "Radius ε of a second attack, whose images are placed in the finished map; empty: none.",
        low=0,
        kind="radius",
    )

    result = FeatureMap

    @property
    def cacheable(self) -> bool:
        """Whether the map is stored in the run's folder: only a UMAP, as the others are fast."""
        return self.projection == "umap"


@dataclass(frozen=True)
class FeatureTiles(Answers):
    """Small pictures of `n` images, clean and attacked; how much of the attack's perturbation makes
    the network misclassify each image; and each image's nearest neighbours in feature space.

    `sheet`: the bytes (uint8) of one picture (PNG or WebP) with `COLUMNS` square tiles of `side`
    pixels per row: the clean images, then the attacked ones. `lost` (n,): from how many tenths of
    the perturbation on, 0 to 10, the image is misclassified up to the full attack; 11 if it is
    classified correctly under the full attack. `near`, `near_adv` (n,k): the rows of the clean
    images whose features are nearest by cosine to the clean and to the attacked image, nearest
    first, without the image itself; at most n − 1 columns.
    """

    sheet: Ints
    side: int
    lost: Ints
    near: Ints
    near_adv: Ints

    def images(self) -> Floats:
        """The pictures decoded, (2n,3,side,side) in [0, 1]: the clean images, then the attacked
        ones. From a WebP the pixels are only approximate. Images that are not square have a black
        edge at the right or at the bottom.
        """
        with Image.open(io.BytesIO(self.sheet.tobytes())) as picture:
            sheet = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
        tiles = sheet.reshape(-1, self.side, COLUMNS, self.side, 3).transpose(0, 2, 4, 1, 3)
        return np.asarray(tiles.reshape(-1, 3, self.side, self.side)[: 2 * len(self.y)])


@register("probe/feature_tiles")
@dataclass(frozen=True)
class FeatureTilesSpec(AttackedSpec[FeatureTiles]):
    """The first `n` test images as small pictures, clean and under PGD, with neighbours.

    The neighbours are the `k` nearest ones in feature space. Also measured: the tenth of the
    attack's perturbation from which on each image stays misclassified.
    """

    n: int = option(200, "How many test images.", low=1)
    k: int = option(5, "How many neighbours.", low=1)

    result = FeatureTiles


@dataclass(frozen=True)
class FeatureFilm(Answers):
    """Features of the same n images at E epochs of one training run, on the plane of the last
    epoch's clean class centres or by UMAP.

    `epochs` (E,): the epochs, ascending; `clean`, `adversarial` (E,n,2): the positions; `y`,
    `index` (n,): the true classes and the images' indices; `pred`, `pred_adv` (E,n): the
    predictions. The rest are means over the images, in feature space, one row per epoch. `own`,
    `other` (E,3): cosine to the clean centre of the own class and to the nearest clean centre of
    another class; the columns are clean, attacked and noisy images. `moved` (E,2): the distance by
    which an image's features move, divided by the mean distance between clean class centres, for
    the attack and for the noise; infinite where the centres coincide.
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
    """Features of the first `n` test images at the epochs whose weights were stored.

    Of more than 24 stored epochs, 24 are used, evenly spaced among them. At each epoch, that
    epoch's own network is attacked. `projection`: `centres` puts all epochs on the plane of the
    last epoch's class centres; `umap` makes a map of the last epoch, and starts each earlier map
    from the map of the following epoch. Either way points do not jump between frames, and the same
    settings always give the same frames.
    """

    n: int = option(100, "How many test images.", low=1)
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(
        0, "Seed of the attack's noise, of the random control and of UMAP.", low=0, high=2**32 - 1
    )
    projection: Film = option("centres", "How the features are projected onto a plane.")

    result = FeatureFilm


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Any], ...]:
    """The specs that the page measures with its default settings: the UMAP of the features, and the
    pictures of its images. Both arguments are ignored: the specs are the same for every image, and
    have no radius, so that each network is attacked at its own ε. (For two networks that were
    trained at different ε, the page sets the same radius for both.)
    """
    asked = FeatureMapSpec(projection="umap")
    return asked, asked.alike(FeatureTilesSpec)
