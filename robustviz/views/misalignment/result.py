"""Specs and results of the probes about misaligned classes: the settings of these measurements and
what they return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints, auc, finite_or_none, shares, wilson
from robustviz.types import JSON
from robustviz.views.features.result import Answers, AttackedSpec, FeatureMapSpec, Images, commonest
from robustviz.views.result import ProbeSpec, Result

NAMED = 8  # at most this many outliers are listed; the rest is only counted


@dataclass(frozen=True)
class Misalignment(Answers):
    """Why images of each class get misclassified: measurements per class and per image.

    Distances and centres are in feature space. Undefined values are NaN, undefined classes −1.

    Per class, (K,) each. `n`: how many images it has, of which `clean_k` are right untouched and
    `robust_k` under the attack; `train_n`, `train_k`: how many training images in a sample, and how
    many of these are right untouched. `spread`: mean distance of its untouched images to their
    centre; `distance`: from this centre to that of the `nearest` other class; both divided by the
    mean distance between two clean class centres. `along`, `across`: how far the attack moves an
    image along and off the line from its own centre to the wrong centre that is nearest to its
    attacked features, divided by the length of the line, mean over images; `along_noise`: the same
    as `along` for noise of the same ε. `margin`: logit of the true class minus the largest other
    logit, untouched, mean over images. `boundary`: where the prediction of a linear head changes on
    the line from the own centre (0) to another class's centre (1), for the class `boundary_class`
    for which this is smallest; below 0, the own centre itself is misclassified. `boundary_0`: where
    it would change on this line without the head's biases; `boundary_met`: where it changes on the
    lines of `along`, mean over images. `confidence`: mean softmax output for the true class on the
    training sample, divided by the median of the other classes' means. `taken`: how many untouched
    images of other classes are classified as this one. `landed` (K,K): how many attacked images of
    the row's class are classified as the column's. `kind`, `sentence`: lists with each class's
    cause and explanation.

    Per image, (N,) each. `index`; the true class `y`; the predictions untouched and attacked,
    `pred` and `pred_adv`. `towards`: the wrong class whose centre is nearest to its attacked
    features. The rest is of the untouched image: `own`: distance to its class's centre, divided
    like `spread`; `misaligned`: cosine to the nearest other centre minus cosine to its own, −2 to
    2; `outlier`: whether it lies unusually far from its centre (Tukey's rule) or nearer to another
    centre. `files`: a list of file names, empty where the data has no files.
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
        """All class indices: lowest accuracy under attack first, the lower index first among
        equals, classes without images last.
        """
        # the accuracy on no images is NaN, which sorts last
        return [int(c) for c in shares(self.robust_k, self.n).argsort(kind="stable")]

    @property
    def gap(self) -> Floats:
        """Each class's accuracy on the training sample minus that on the test images, both
        untouched, (K,), −1 to 1; NaN where a class has no images in one of them.
        """
        return shares(self.train_k, self.train_n) - shares(self.clean_k, self.n)

    @property
    def auc(self) -> tuple[float, float, float, int, int]:
        """How well `misaligned` predicts which images the attack fools, among those that are right
        untouched.

        It is (AUC, low, high, number of fooled images, number of others), with the AUC's 95%
        interval by Hanley and McNeil. 0.5 is chance; the first three are NaN if all of these images
        are fooled, or none.
        """
        return auc(self.misaligned[self.fooled], self.misaligned[self.right & ~self.fooled])

    def lands(self, c: int, most: int = 3) -> list[tuple[int, int]]:
        """Returns the classes that the network predicts for the attacked images of class `c`, as
        pairs (class, number of images), at most `most`, the most frequent first. `c` itself may be
        among them; classes that are predicted for no image are left out.
        """
        return commonest(self.landed[c], most)

    def ends(self, c: int, most: int = 3) -> list[tuple[int, int]]:
        """Counts, over all attacked images of class `c`, the wrong class whose centre is nearest
        (the centre of `c` may be nearer still). Returns pairs (class, number of images), the most
        frequent first, at most `most`.
        """
        return commonest(np.bincount(self.towards[self.y == c], minlength=len(self.n)), most)

    def cause(self, c: int) -> str:
        """Returns a text: the kind of cause of class `c`, and the explanation's first sentence."""
        return f"{self.kind[c]}: {self.sentence[c].partition('. ')[0].rstrip('.')}."

    def telling(self, c: int, most: int = 3) -> list[int]:
        """Returns the images that best show the cause of class `c`, at most `most`, as their
        positions in `y`.

        Images misclassified untouched or attacked come first. Among these, the fooled ones come
        first if the kind of cause is "Pushed by the attack"; then outliers; then those farthest
        from the class's centre. Images that are right both times follow: outliers first, then the
        most misaligned.
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
        """Returns the result as a table with a row for each class, in the order of `order`."""
        return [self.row(c) for c in self.order]

    def row(self, c: int) -> JSON:
        """Returns the table row of class `c`, with accuracies and their Wilson 95% intervals as
        fractions. An undefined value is None, but the interval of an accuracy on no images is 0
        to 1.
        """
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
        """Returns the row and the explanation of class `c` as text; for a class without images only
        the explanation.
        """
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
            + f"; attacked images classified as {row['lands']}; the attack moves images"
            f" {self.along[c]:.2f} of the way to their nearest wrong centre and"
            f" {self.across[c]:.2f} off that line; head margin {self.margin[c]:.2f}; "
            + (
                f"train–test gap {100 * self.gap[c]:+.0f} points ({row['train_n']} training images)"
                if row["train_n"]
                else "no training image"
            )
            + f".\n{self.kind[c]}: {self.sentence[c]}{self._odd(c)}"
        )

    def _odd(self, c: int) -> str:
        """Returns a text, with a leading space, that names up to `NAMED` misclassified outliers of
        class `c`; "" if there are none.
        """
        wrong = (self.pred != c) | (self.pred_adv != c)
        odd = ((self.y == c) & wrong & self.outlier).nonzero()[0]
        which = [self.files[i] if self.files else f"image {self.index[i]}" for i in odd]
        more = f" and {len(which) - NAMED} more" if len(which) > NAMED else ""
        return (
            " Outliers (far from their class or nearer to another):"
            f" {', '.join(which[:NAMED])}{more}."
            if which
            else ""
        )


@register("probe/misalignment")
@dataclass(frozen=True)
class MisalignmentSpec(AttackedSpec[Misalignment]):
    """Why images of each class get misclassified: one cause per class, as a table.

    Measured on the first `n` test images under PGD, and for comparison on up to `train_n` untouched
    training images. `class_` (on the command line `class`): the name of the class whose row and
    explanation are printed; empty: the three classes least often right under attack. Attack and
    noise are those of `FeaturesSpec` with the same settings.
    """

    train_n: int = option(1000, "How many training images, untouched.", low=1)
    class_: str = option(
        "", "The class to explain; empty: the three least robust ones.", kind="class"
    )

    result = Misalignment

    @property
    def cacheable(self) -> bool:
        return not self.class_  # only the answer for all classes is stored; it has every row


@dataclass(frozen=True)
class Stages(Result):
    """How similar each stage's output is for an image and for its attacked or noisy copy.

    `names`: a list of the S stages in order: the pixels, the stages of the network's feature maps
    (`stages_of`), the features, the logits. `adversarial`, `noise` (S,n): cosine of the stage's
    output for the attacked or noisy image with its output for the untouched image, −1 to 1.
    """

    names: list[str]
    adversarial: Floats
    noise: Floats

    @property
    def n(self) -> int:
        """The number of images."""
        return int(self.adversarial.shape[1])


@register("probe/stages")
@dataclass(frozen=True)
class StagesSpec(AttackedSpec[Stages]):
    """Cosine of clean images with their attacked and noisy copies, after each stage of the network.

    Measured on the first `n` test images; attack and noise are those of `FeaturesSpec`.
    """

    n: int = option(100, "How many test images.", low=1)

    result = Stages


@dataclass(frozen=True)
class Pairs(Result):
    """Histograms of the distance between the features of two images, over all pairs of images.

    Features are scaled to length 1. `edges` (B+1,): edges of the bins, from 0 to 2; `same`,
    `different` (B,): how many pairs of images of the same class, and of two classes, lie in each
    bin. `margin`: the distance to which the run's method pushed images of different classes apart;
    None if it has no such loss or gives it the weight 0.
    """

    edges: Floats
    same: Ints
    different: Ints
    margin: float | None


@register("probe/pairs")
@dataclass(frozen=True)
class PairsSpec(AttackedSpec[Pairs]):
    """Two histograms of the distance between the features of two test images: over all pairs of
    one class, and over all pairs of two classes.

    The features, scaled to length 1, are those of `FeaturesSpec` with the same settings.
    """

    n: int = option(500, "How many test images.", low=2)
    images: Images = option("clean", "Features of which images.")
    bins: int = option(40, "How many bars from 0 to 2.", low=2, high=200)

    result = Pairs


@dataclass(frozen=True)
class Uniformity(Result):
    """How tight classes are and how evenly features spread over the sphere, at several epochs.

    `epoch` (E,): the numbers of the epochs whose weights were stored, counted from 1, and last −1
    for the run's best network. `alignment` (E,): 0 to 4, 0 if the features of each class have one
    direction; `uniformity` (E,): 0 down to −8, lower is more evenly spread (see `measures`).
    """

    epoch: Ints
    alignment: Floats
    uniformity: Floats


@register("probe/uniformity")
@dataclass(frozen=True)
class UniformitySpec(ProbeSpec[Uniformity]):
    """Alignment and uniformity of clean features, at each stored epoch and for the best network.

    Measured on the first `n` test images. Source: Wang and Isola 2020 (arXiv 2005.10242).
    """

    n: int = option(500, "How many test images.", low=2)

    result = Uniformity


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Any], ...]:
    """Returns the spec that this part of the Features page measures by default, in a tuple: the
    causes, on the images and under the attack of the feature map. `index` and `eps` are unused.
    """
    return (FeatureMapSpec().alike(MisalignmentSpec),)
