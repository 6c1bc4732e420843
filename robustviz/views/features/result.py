"""What the question *features* gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import Bools, Floats, Ints
from robustviz.types import JSON
from robustviz.views.result import Result


@dataclass(frozen=True)
class Features(Result):
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
    y: Ints
    pred: Ints
    pred_adv: Ints
    pred_noise: Ints
    index: Ints
    centres_clean: Floats
    centres_adv: Floats
    centres_noise: Floats
    lipschitz_adv: Floats
    lipschitz_noise: Floats
    moved_adv: Floats
    moved_noise: Floats
    measures: dict[str, dict[str, float]]

    def rows(self) -> list[JSON]:
        """A row an image; where a class was asked for, that class's row of the table of causes."""
        if "table" in self.meta:
            return list(self.meta["table"])
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

    @property
    def right(self) -> Bools:
        """Which untouched images the network reads rightly, (n,)."""
        return np.asarray(self.pred == self.y)

    @property
    def fooled(self) -> Bools:
        """Which of these the attack takes away, (n,)."""
        return np.asarray(self.right & (self.pred_adv != self.y))

    def cosines(self, of: str) -> tuple[Floats, Floats]:
        """`own_and_other` of the `clean`, `adversarial` or `noise` points."""
        return own_and_other(getattr(self, of), self.clean, self.y)


def own_and_other(z: Floats, clean: Floats, y: Ints) -> tuple[Floats, Floats]:
    """For each point of `z` (n,D) the cosine to the centre of its own class among the `clean`
    points (n,D), and to the nearest centre of another class: (n,) each, −1 to 1; −1 where there is
    no other class. A vector of length zero has cosine 0.
    """
    clean, known = np.asarray(clean, dtype=np.float64), np.unique(y)
    centres = np.stack([clean[y == label].mean(axis=0) for label in known])
    to = (_unit(np.asarray(z, dtype=np.float64)) @ _unit(centres).T).clip(-1, 1)
    own = known == y[:, None]
    return to[own], np.where(own, -1.0, to).max(axis=1)


def _unit(z: Floats) -> Floats:
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1.0)


@dataclass(frozen=True)
class FeatureMap(Result):
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
    y: Ints
    pred: Ints
    pred_adv: Ints
    pred_noise: Ints
    pred_placed: Ints
    index: Ints
    own: Floats
    other: Floats
    moved: Floats
    axes: Floats
    origin: Floats
    share: float
    trust: float

    @property
    def right(self) -> Bools:
        """Which untouched images the network reads rightly, (n,)."""
        return np.asarray(self.pred == self.y)

    @property
    def fooled(self) -> Bools:
        """Which of these the attack takes away, (n,)."""
        return np.asarray(self.right & (self.pred_adv != self.y))

    @property
    def astray(self) -> Ints:
        """How many clean, attacked, noisy points lie nearer to another class's centre than to their
        own, by cosine, (3,).
        """
        return np.asarray((self.other > self.own).sum(axis=1))


@dataclass(frozen=True)
class FeatureFilm(Result):
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
    y: Ints
    index: Ints
    pred: Ints
    pred_adv: Ints
    own: Floats
    other: Floats
    moved: Floats
