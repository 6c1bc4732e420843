"""What is asked about classes that are misaligned, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints, auc, finite_or_none, shares, wilson
from robustviz.types import JSON
from robustviz.views.features.result import Answers, AttackedSpec, FeatureMapSpec, Images, commonest
from robustviz.views.result import ProbeSpec, Result

NAMED = 8  # odd images; of more, the rest is counted


@dataclass(frozen=True)
class Misalignment(Answers):
    """Why the images of each class do not stay with it: a row a class (K), and a row an image (N).

    Of each class: `n` images, of them `clean_k` right untouched and `robust_k` under the attack;
    `train_n`, `train_k` the same on a sample of the training split, untouched. Lengths are over the
    mean distance between two classes' clean centres: `spread` (mean distance of a clean image to
    its own centre), `distance` to the `nearest` wrong class's centre; `along`, `across`: how far
    the attack moves an image on the line from its class's centre to the wrong centre that is
    nearest to where it ends (0: not at all, 1: as far as from centre to centre) and off it, over
    the distance of the two, mean over images; `along_noise`: the same for noise of the same ε and
    where the noisy image ends. `margin`: mean z_y − max other, untouched. `boundary`: where on the
    line to the centre of `boundary_class` the head changes its answer (0: own centre, 1: the other;
    NaN where it tells them apart nowhere); `boundary_0`: where it would without its constant
    offsets;
    `boundary_met`: where on the lines of `along`, mean over images. `confidence`: mean softmax
    output for the true class on the training sample over the median of the other classes.
    `taken`: clean images of other classes that are called this. `landed` (K,K): attacked images of
    the row's class that are called the column's. `kind`, `sentence`: the diagnosis. NaN, and −1 for
    a class: not defined.

    Of each image: `index` its number, `y`, `pred`, `pred_adv`; `towards`: the wrong class whose
    centre is nearest to it attacked; `own`: distance to its own clean
    centre; `misaligned`: cosine to the nearest other clean centre minus cosine to its own, −2 to 2,
    untouched; `outlier`: whether it lies unusually far from its class or nearer to another;
    `files`: their names, where the data has files.
    """

    n: Ints
    clean_k: Ints
    robust_k: Ints
    train_n: Ints
    train_k: Ints
    spread: Floats
    distance: Floats
    nearest: Ints
    along: Floats
    across: Floats
    along_noise: Floats
    margin: Floats
    boundary: Floats
    boundary_class: Ints
    boundary_0: Floats
    boundary_met: Floats
    confidence: Floats
    taken: Ints
    landed: Ints
    kind: list[str]
    sentence: list[str]
    towards: Ints
    own: Floats
    misaligned: Floats
    outlier: Bools
    files: list[str]

    @property
    def order(self) -> list[int]:
        """The classes, the one with the lowest accuracy under attack first; those without an image
        last.
        """
        # the share of none is NaN, which comes last
        return [int(c) for c in shares(self.robust_k, self.n).argsort(kind="stable")]

    @property
    def gap(self) -> Floats:
        """Clean accuracy on the training sample minus that on the test images, (K,); NaN where one
        is missing.
        """
        return shares(self.train_k, self.train_n) - shares(self.clean_k, self.n)

    @property
    def auc(self) -> tuple[float, float, float, int, int]:
        """How well `misaligned` tells which images the attack fools, of those right untouched: AUC,
        its 95 % interval (low, high), how many were fooled, how many not. 0.5 is chance; NaN where
        all or none were fooled.
        """
        return auc(self.misaligned[self.fooled], self.misaligned[self.right & ~self.fooled])

    def lands(self, c: int, most: int = 3) -> list[tuple[int, int]]:
        """Where attacked images of a class go: (class, how many), the commonest answers first, none
        for 0.
        """
        return commonest(self.landed[c], most)

    def ends(self, c: int, most: int = 3) -> list[tuple[int, int]]:
        """The wrong centres that a class's attacked images end nearest to: (class, how many)."""
        return commonest(np.bincount(self.towards[self.y == c], minlength=len(self.n)), most)

    def cause(self, c: int) -> str:
        """The kind of a class and the first sentence of what is seen."""
        return f"{self.kind[c]}: {self.sentence[c].partition('. ')[0].rstrip('.')}."

    def telling(self, c: int, most: int = 3) -> list[int]:
        """The rows of the images that show a class's cause best: those misread, attacked or not,
        the fooled before others where the attack is the cause, outliers first, then by distance
        from the centre; where all hold, the most misaligned.
        """
        mine = (self.y == c).nonzero()[0]
        wrong = (self.pred != c) | (self.pred_adv != c)
        pushed = self.kind[c].startswith("Pushed")
        order = sorted(
            mine,
            key=lambda i: (
                not wrong[i],
                pushed and not self.fooled[i],
                not self.outlier[i],
                -(self.own if wrong[i] else self.misaligned)[i],
            ),
        )
        return [int(i) for i in order[:most]]

    def rows(self) -> list[JSON]:
        """The table, worst class first."""
        return [self.row(c) for c in self.order]

    def row(self, c: int) -> JSON:
        """One class's line of the table."""
        names, n = list(self.meta["classes"]), int(self.n[c])
        clean, robust = (wilson(int(k[c]), n) for k in (self.clean_k, self.robust_k))
        return {
            "class": names[c],
            "n": n,
            "clean": self.clean_k[c] / n if n else None,
            "clean_low": clean[0],
            "clean_high": clean[1],
            "robust": self.robust_k[c] / n if n else None,
            "robust_low": robust[0],
            "robust_high": robust[1],
            "spread": finite_or_none(self.spread[c]),
            "nearest": names[self.nearest[c]] if self.nearest[c] >= 0 else None,
            "distance": finite_or_none(self.distance[c]),
            "lands": ", ".join(f"{names[k]} ({count})" for k, count in self.lands(c)),
            "along": finite_or_none(self.along[c]),
            "across": finite_or_none(self.across[c]),
            "along_noise": finite_or_none(self.along_noise[c]),
            "margin": finite_or_none(self.margin[c]),
            "boundary": finite_or_none(self.boundary[c]),
            "boundary_to": names[self.boundary_class[c]] if self.boundary_class[c] >= 0 else None,
            "train_n": int(self.train_n[c]),
            "gap": finite_or_none(self.gap[c]),
            "diagnosis": self.kind[c],
            "sentence": self.sentence[c],
        }

    def line(self, c: int) -> str:
        """The row and the sentence of one class in words."""
        row = self.row(c)
        if not row["n"]:
            return self.sentence[c]
        clean, robust = (
            f"{row[of]:.0%} [{row[f'{of}_low']:.0%}, {row[f'{of}_high']:.0%}]"
            for of in ("clean", "robust")
        )
        return (
            f"{row['class']}: n = {row['n']}, clean {clean}, {self.meta['printed']} {robust};"
            f" spread {self.spread[c]:.2f}, "
            + (
                f"nearest wrong centre {row['nearest']} at {self.distance[c]:.2f}"
                if row["nearest"]
                else "no other centre"
            )
            + f"; lands on {row['lands']}; moved {self.along[c]:.2f} along the lines to the wrong"
            f" centres nearest to its attacked images and {self.across[c]:.2f} across; head margin"
            f" {self.margin[c]:.2f}; "
            + (
                f"train–test gap {100 * self.gap[c]:+.0f} points ({row['train_n']} training images)"
                if row["train_n"]
                else "no training image"
            )
            + f".\n{self.kind[c]}: {self.sentence[c]}{self._odd(c)}"
        )

    def _odd(self, c: int) -> str:
        """Which misread images of a class lie far from it or nearer to another."""
        wrong = (self.pred != c) | (self.pred_adv != c)
        odd = ((self.y == c) & wrong & self.outlier).nonzero()[0]
        which = [self.files[i] if self.files else f"image {self.index[i]}" for i in odd]
        more = f" and {len(which) - NAMED} more" if len(which) > NAMED else ""
        return (
            f" Far from its class or nearer to another: {', '.join(which[:NAMED])}{more}."
            if which
            else ""
        )


@register("probe/misalignment")
@dataclass(frozen=True)
class MisalignmentSpec(AttackedSpec[Misalignment]):
    """The table of causes on the first `n` test images under PGD, with `train_n` images of the
    training split beside them.

    `class_`, on the command line `class`: whose row and sentence are printed; empty: the worst
    three. Attack and noise are those of `FeaturesSpec` with the same settings.
    """

    train_n: int = option(1000, "How many training images, untouched.", low=1)
    class_: str = option("", "The class to be explained; empty: the worst ones.", kind="class")

    result = Misalignment

    @property
    def cacheable(self) -> bool:
        return not self.class_  # the answer without a class is kept, and has its line too


@dataclass(frozen=True)
class Stages(Result):
    """How alike a network's inside is for an image and its attacked or noisy twin, stage by stage.

    `names` (S): the pixels, the stages of `maps`, the features, the logits; `adversarial`, `noise`
    (S,n): cosine of the two twins there, −1 to 1.
    """

    names: list[str]
    adversarial: Floats
    noise: Floats

    @property
    def n(self) -> int:
        """How many images."""
        return int(self.adversarial.shape[1])


@register("probe/stages")
@dataclass(frozen=True)
class StagesSpec(AttackedSpec[Stages]):
    """Cosine of the first `n` test images and their attacked and noisy twins after each stage;
    attack and noise as in `features`.
    """

    n: int = option(100, "How many test images.", low=1)

    result = Stages


@dataclass(frozen=True)
class Pairs(Result):
    """How far apart the features of two images lie, all pairs, at length 1: `edges` (B+1) from 0 to
    2, `same`, `different` (B): how many pairs of one class and of two; `margin`: what the run's
    method pushed different classes apart to, or None.
    """

    edges: Floats
    same: Ints
    different: Ints
    margin: float | None


@register("probe/pairs")
@dataclass(frozen=True)
class PairsSpec(AttackedSpec[Pairs]):
    """A histogram of the distances of all pairs of features at length 1, from `features` with the
    same settings.
    """

    n: int = option(500, "How many test images.", low=2)
    images: Images = option("clean", "Features of which images.")
    bins: int = option(40, "How many bars from 0 to 2.", low=2, high=200)

    result = Pairs


@dataclass(frozen=True)
class Uniformity(Result):
    """How tight classes are and how evenly features spread over the sphere, at the end of some
    epochs: `epoch` (E) counted from 1, −1 for the network that was kept; `alignment`, `uniformity`
    (E).
    """

    epoch: Ints
    alignment: Floats
    uniformity: Floats


@register("probe/uniformity")
@dataclass(frozen=True)
class UniformitySpec(ProbeSpec[Uniformity]):
    """Alignment and uniformity of the untouched features of the first `n` test images, for each
    epoch that was kept and the best one.

    Source: Wang and Isola 2020 (arXiv 2005.10242).
    """

    n: int = option(500, "How many test images.", low=2)

    result = Uniformity


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Any], ...]:
    """What stands below the maps of Features before anybody chose anything, the same for every
    image: the causes, of the same images under the same attack.
    """
    return (FeatureMapSpec().alike(MisalignmentSpec),)
