"""Specs and results of the Transfer page's probes, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints, mcnemar, shares, tango, wilson
from robustviz.views.result import ProbeSpec, Result

Kind = Literal["pgd", "mim", "dim", "tim"]


@dataclass(frozen=True)
class WhiteBox(Result):
    """One network's predictions for n images: `logits` (n,K) of the clean images, `right` (n,):
    whether it classifies the clean image correctly, and `fooled` (n,): whether it classifies the
    clean image correctly and the same image under its own attack wrongly.
    """

    logits: Floats
    right: Bools
    fooled: Bools


@dataclass(frozen=True)
class Transfer(Result):
    """How often images attacked on one network, the source, fool target networks, which the attack
    did not use.

    Rows are targets (T), columns are images (n). `qualified` (T,n): source and target classify the
    clean image correctly, and each is fooled by its own attack. `wrong` (T,n): the target
    misclassifies the image attacked on the source, qualified or not. `before_qualified`,
    `before_wrong`: the same for the source before its alignment, (0,n) if the run is not aligned.
    `models` (M): the run ids of the source and the targets; for an aligned source then also of the
    network before alignment and of the witness, the network that it was aligned to. `kl` (M,M):
    mean KL(pᵢ ‖ pⱼ), in nats, of their softmax outputs for clean images. `accuracy` (M,): clean
    accuracy, in [0, 1].
    """

    targets: list[str]
    qualified: Bools
    wrong: Bools
    before_qualified: Bools
    before_wrong: Bools
    models: list[str]
    kl: Floats
    accuracy: Floats

    @property
    def aligned(self) -> bool:
        """Whether the source was aligned, so that there are results from before to compare with."""
        return len(self.before_wrong) > 0

    @property
    def n(self) -> Ints:
        """How many images qualify (see `qualified`) for each target, (T,)."""
        return np.asarray(self.qualified.sum(axis=1))

    @property
    def k(self) -> Ints:
        """On how many of the qualifying images each target is wrong, (T,)."""
        return np.asarray((self.qualified & self.wrong).sum(axis=1))

    @property
    def error(self) -> Floats:
        """The transfer score k/n of each target, in [0, 1], (T,); NaN where no image qualifies."""
        return shares(self.k, self.n)

    @property
    def interval(self) -> Floats:
        """Wilson's 95% interval (low, high) of each target's `error`, (T,2); (0, 1) where no image
        qualifies.
        """
        return np.array([wilson(int(k), int(n)) for k, n in zip(self.k, self.n, strict=True)])

    @property
    def error_of_all(self) -> Floats:
        """Each target's error on all attacked images, qualified or not, in [0, 1], (T,)."""
        return np.asarray(self.wrong.mean(axis=1))

    @property
    def paired(self) -> Ints:
        """Counts (T,3) of images that qualify both before and after the alignment: how many there
        are, how many fool the target only after the alignment, and how many only before it. (0,3)
        without an alignment.
        """
        before, rows = self.before_wrong, len(self.before_wrong)  # no rows without an alignment
        after, both = self.wrong[:rows], self.qualified[:rows] & self.before_qualified
        return np.stack(
            [both.sum(1), (both & after & ~before).sum(1), (both & ~after & before).sum(1)], axis=1
        )

    @property
    def difference(self) -> Floats:
        """The error after the alignment minus the error before, on the images that qualify for
        both, (T,); NaN where none does, (0,) without an alignment.
        """
        return shares(self.paired[:, 1] - self.paired[:, 2], self.paired[:, 0])

    @property
    def difference_interval(self) -> Floats:
        """Tango's 95% interval (low, high) of each target's `difference`, as an array (T,2)."""
        return np.array([tango(int(b), int(c), int(n)) for n, b, c in self.paired]).reshape(-1, 2)

    @property
    def p(self) -> Floats:
        """McNemar's exact p-value for `difference`, (T,)."""
        return np.array([mcnemar(int(b), int(c)) for _, b, c in self.paired])


@register("probe/transfer")
@dataclass(frozen=True)
class TransferSpec(ProbeSpec[Transfer]):
    """How often images attacked on the run's network (the source) fool target networks.

    The first `n` test images are attacked. An image qualifies if source and target classify it
    correctly and each is fooled by its own attack. The source's own attack is `attack`. A target's
    is always FGSM, and PGD on the images that FGSM did not fool (`white_box`), so that it is the
    same for every `attack`. For a `model_alignment` run the same is measured on the network before
    its alignment, and the two are compared on the images that qualify for both.
    """

    targets: str = option(
        "",
        "Comma-separated target runs; empty: the shipped ordinary networks on this data,"
        " without the run itself, its source and its witness.",
        kind="runs",
    )
    attack: Kind = option("pgd", "The attack.")
    # half the run's radius: Ma et al. use 4/255 here, and 8/255 for white-box attacks
    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: half the run's ε (half the data's after l2"
        " training).",
        low=0,
        kind="radius",
    )
    steps: int = option(20, "Number of steps, each of size ε/4.", low=1, high=1000)
    n: int = option(1000, "How many test images.", low=1)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Transfer


@dataclass(frozen=True)
class Fooled(Result):
    """Which networks are fooled by images attacked on one network, or on copies of it that were
    aligned to a witness.

    `sources` (S): run ids of the networks on which the images were attacked, first that network,
    then its copies. `models` (M): run ids of the networks that were shown the images, including the
    sources. Masks have eight images per byte, as from `np.packbits`. `clean` (M,⌈n/8⌉): the model
    misclassifies the clean image; `wrong` (S,M,⌈n/8⌉): it misclassifies the image attacked on the
    source. `meta["shown"]` describes each model, in the same order.
    """

    sources: list[str]
    models: list[str]
    clean: Ints
    wrong: Ints
    n: int

    def misread(self, model: str) -> Bools:
        """Which clean images the model with this run id misclassifies, (n,) bool."""
        return self._bits(self.clean[self.models.index(model)])

    def fooled(self, model: str, source: str = "") -> Bools:
        """Which images a model classifies correctly clean and misclassifies attacked, (n,) bool.
        `model` and `source` are run ids; `source`: the network on which the images were attacked,
        by default the first of `sources`.
        """
        at = self.sources.index(source or self.sources[0]), self.models.index(model)
        return self._bits(self.wrong[at]) & ~self.misread(model)

    def moved(self, pairs: tuple[tuple[str, str], tuple[str, str]]) -> tuple[int, int]:
        """For two pairs (model, source), such as a model and the networks before and after
        alignment: on how many images only the second pair's model is fooled, and on how many only
        the first pair's.
        """
        before, after = (self.fooled(*pair) for pair in pairs)
        return int((after & ~before).sum()), int((before & ~after).sum())

    def _bits(self, packed: Ints) -> Bools:
        return np.unpackbits(packed.astype(np.uint8), count=self.n).astype(bool)


@register("probe/fooled")
@dataclass(frozen=True)
class FooledSpec(ProbeSpec[Fooled]):
    """Which networks are fooled by images attacked on a network and on its aligned copies.

    The first `n` test images (the default covers all of shapes and digits) are attacked on the
    run's network and shown to it, to every shipped network on the data and to the runs in `also`.
    Those of these networks that are aligned copies of the run are attacked, too, and their attacked
    images are shown to all of them. All images count; those that a network misclassifies clean are
    counted separately.
    """

    also: str = option(
        "",
        "Comma-separated further target runs; those that are aligned copies of the run are"
        " attacked as sources, too.",
        kind="runs",
    )
    attack: Kind = option("pgd", "The attack.")
    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: the run's ε (the data's after l2 training).",
        low=0,
        kind="radius",
    )
    steps: int = option(20, "Steps.", low=1, high=1000)
    n: int = option(1000, "How many test images.", low=1)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Fooled


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Fooled], ...]:
    """The specs of the Transfer page's first screen: the same one for every image and radius."""
    return (FooledSpec(),)
