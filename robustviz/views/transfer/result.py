"""What the question *transfer* gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import Bools, Floats, Ints, _shares, mcnemar, tango, wilson
from robustviz.views.result import Result


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
        return self.qualified.sum(axis=1)

    @property
    def k(self) -> Ints:
        """On how many of these the target is wrong, (T,)."""
        return (self.qualified & self.wrong).sum(axis=1)

    @property
    def error(self) -> Floats:
        """The transfer score: k/n, (T,), NaN where no image qualifies."""
        return _shares(self.k, self.n)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals of `error`, (T,2)."""
        return np.array([wilson(int(k), int(n)) for k, n in zip(self.k, self.n, strict=True)])

    @property
    def error_of_all(self) -> Floats:
        """The targets' error on all attacked images, qualified or not, (T,)."""
        return self.wrong.mean(axis=1)

    @property
    def before_error(self) -> Floats:
        """The transfer score of the network before, on the images that qualify for it, (T,); none
        for other runs.
        """
        return _shares(
            (self.before_qualified & self.before_wrong).sum(axis=1),
            self.before_qualified.sum(axis=1),
        )

    @property
    def paired(self) -> Ints:
        """(T,3) on the images that qualify before and after: how many, fooling only after, fooling
        only before.
        """
        both = self.qualified & self.before_qualified if self.aligned else self.before_qualified
        after, before = (
            (self.wrong, self.before_wrong)
            if self.aligned
            else (self.before_wrong, self.before_wrong)
        )
        return np.stack(
            [both.sum(1), (both & after & ~before).sum(1), (both & ~after & before).sum(1)], axis=1
        )

    @property
    def difference(self) -> Floats:
        """Error after minus error before on the images that qualify for both, (T,)."""
        return _shares(self.paired[:, 1] - self.paired[:, 2], self.paired[:, 0])

    @property
    def difference_interval(self) -> Floats:
        """Tango's 95 % intervals of `difference`, (T,2)."""
        return np.array([tango(int(b), int(c), int(n)) for n, b, c in self.paired]).reshape(-1, 2)

    @property
    def p(self) -> Floats:
        """McNemar's exact p of `difference`, (T,)."""
        return np.array([mcnemar(int(b), int(c)) for _, b, c in self.paired])
