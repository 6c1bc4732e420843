"""What is asked about transfer, and what comes back."""

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
    """What one network makes of n images: `logits` (n,K) of the untouched ones, `right` (n,)
    whether it knows them, and `fooled` (n,) whether its own attack takes that away.
    """

    logits: Floats
    right: Bools
    fooled: Bools


@dataclass(frozen=True)
class Transfer(Result):
    """How often images made on one network, the source, fool others that the attacker never saw.

    A row a target (T), a column an image (n). `qualified` (T,n): source and target know the
    untouched image and each is fooled by its own attack; `wrong` (T,n): the target misreads the
    source's attacked image, qualified or not. `before_qualified`, `before_wrong`: the same for what
    the source was before it was aligned, (0,n) for any other run. `kl` (M,M): mean KL(pᵢ ‖ pⱼ) of
    the untouched images' softmax outputs, rows and columns as in `models`: the source, the targets,
    and of an aligned source the network before and the witness. `accuracy` (M,): untouched.
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
        """Whether there is a network from before an alignment to compare with."""
        return len(self.before_wrong) > 0

    @property
    def n(self) -> Ints:
        """How many images qualify, (T,)."""
        return np.asarray(self.qualified.sum(axis=1))

    @property
    def k(self) -> Ints:
        """On how many of these the target is wrong, (T,)."""
        return np.asarray((self.qualified & self.wrong).sum(axis=1))

    @property
    def error(self) -> Floats:
        """The transfer score: k/n, (T,), NaN where no image qualifies."""
        return shares(self.k, self.n)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals of `error`, (T,2)."""
        return np.array([wilson(int(k), int(n)) for k, n in zip(self.k, self.n, strict=True)])

    @property
    def error_of_all(self) -> Floats:
        """The targets' error on all attacked images, qualified or not, (T,)."""
        return np.asarray(self.wrong.mean(axis=1))

    @property
    def paired(self) -> Ints:
        """(T,3) on the images that qualify before and after: how many, fooling only after, fooling
        only before.
        """
        before, rows = self.before_wrong, len(self.before_wrong)  # none, or those of `wrong`
        after, both = self.wrong[:rows], self.qualified[:rows] & self.before_qualified
        return np.stack(
            [both.sum(1), (both & after & ~before).sum(1), (both & ~after & before).sum(1)], axis=1
        )

    @property
    def difference(self) -> Floats:
        """Error after minus error before on the images that qualify for both, (T,)."""
        return shares(self.paired[:, 1] - self.paired[:, 2], self.paired[:, 0])

    @property
    def difference_interval(self) -> Floats:
        """Tango's 95 % intervals of `difference`, (T,2)."""
        return np.array([tango(int(b), int(c), int(n)) for n, b, c in self.paired]).reshape(-1, 2)

    @property
    def p(self) -> Floats:
        """McNemar's exact p of `difference`, (T,)."""
        return np.array([mcnemar(int(b), int(c)) for _, b, c in self.paired])


@register("probe/transfer")
@dataclass(frozen=True)
class TransferSpec(ProbeSpec[Transfer]):
    """Attack the first `n` test images on the run's network and show them to the targets.

    A target's own attack is always PGD (`white_box`), so that all attacks share that part; the
    source's own attack is the one that makes the images. For a `model_alignment` run the same is
    done with its source before alignment, and the two are compared on the images that qualify for
    both.
    """

    targets: str = option(
        "",
        "Runs that are shown the images, with commas between; empty: the shipped ordinary networks"
        " of this data, but not the run itself, its source and its witness.",
        kind="runs",
    )
    attack: Kind = option("pgd", "The attack.")
    # Half of the white-box ε, as 4/255 against 8/255 in Ma et al.
    eps: float | None = option(
        None, "Radius in pixel units; empty: half the run's.", low=0, kind="radius"
    )
    steps: int = option(20, "Steps, of ε/4 each.", low=1, high=1000)
    n: int = option(1000, "How many test images.", low=1)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Transfer


@dataclass(frozen=True)
class Fooled(Result):
    """Whom attacked images fool that were made on one network, or on copies of it that were
    aligned to a witness.

    `sources`: run ids of what the images were made on, the network itself first. `models`: run ids
    of those that were shown them, the sources among them (M). Eight images a byte, as `np.packbits`
    has them: `clean` (M,⌈n/8⌉) the model misreads the untouched image, `wrong` (S,M,⌈n/8⌉) it
    misreads the source's attacked one. `meta["shown"]` says of each model what it is.
    """

    sources: list[str]
    models: list[str]
    clean: Ints
    wrong: Ints
    n: int

    def misread(self, model: str) -> Bools:
        """Which untouched images a model misreads, (n,)."""
        return self._bits(self.clean[self.models.index(model)])

    def fooled(self, model: str, source: str = "") -> Bools:
        """Which images a model reads rightly untouched and misreads attacked, (n,). Without a
        source they are those made on the first one.
        """
        at = self.sources.index(source or self.sources[0]), self.models.index(model)
        return self._bits(self.wrong[at]) & ~self.misread(model)

    def moved(self, pairs: tuple[tuple[str, str], tuple[str, str]]) -> tuple[int, int]:
        """Of two (model, source): how many images fool the second only, and the first only."""
        before, after = (self.fooled(*pair) for pair in pairs)
        return int((after & ~before).sum()), int((before & ~after).sum())

    def _bits(self, packed: Ints) -> Bools:
        return np.unpackbits(packed.astype(np.uint8), count=self.n).astype(bool)


@register("probe/fooled")
@dataclass(frozen=True)
class FooledSpec(ProbeSpec[Fooled]):
    """Attack the first `n` test images, all of the shipped data sets', on the run's network, and
    on its aligned copies, and show them to every shipped network of the data.

    All images count, also those that a network misreads untouched: these are counted apart.
    """

    also: str = option(
        "",
        "Further runs that are shown the images, with commas between; images are made on those of"
        " them too that are aligned copies of the run.",
        kind="runs",
    )
    attack: Kind = option("pgd", "The attack.")
    eps: float | None = option(
        None, "Radius in pixel units; empty: the run's.", low=0, kind="radius"
    )
    steps: int = option(20, "Steps.", low=1, high=1000)
    n: int = option(1000, "How many test images.", low=1)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Fooled


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[Fooled], ...]:
    """What the Transfer page's first screen asks: the same for every image and radius."""
    return (FooledSpec(),)
