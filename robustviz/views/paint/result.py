"""What is asked about a budget that a person painted, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats
from robustviz.views.result import ProbeSpec, Result

NAMED = ("all", "none", "centre", "edge", "strongest", "part")  # masks that need not be painted


@dataclass(frozen=True)
class Painted(Result):
    """One image attacked within a painted budget on one network.

    `x`, `x_adv`, `x_full` (C,H,W) in [0,1]: untouched, attacked within the budget, attacked with
    `eps` everywhere; `mask` (H,W): where the budget is `eps`, elsewhere it is `eps_low`; `y` the
    true class; `probs`, `probs_adv`, `probs_full` (K,) softmax outputs; `inside`, `outside` the
    measured max |δ| of x_adv where the mask is and is not.
    """

    x: Floats
    x_adv: Floats
    x_full: Floats
    mask: Bools
    y: int
    probs: Floats
    probs_adv: Floats
    probs_full: Floats
    eps: float
    eps_low: float
    inside: float
    outside: float

    @property
    def uniform(self) -> bool:
        """Whether the budget is `eps` everywhere, so that this is the attacker of every robust
        number.
        """
        return bool(self.mask.all()) or self.eps_low == self.eps


@register("probe/painted")
@dataclass(frozen=True)
class PaintedSpec(ProbeSpec[Painted]):
    """One test image attacked with PGD within a painted budget, and for comparison with the full ε
    everywhere.
    """

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    mask: str = option(
        "centre", f"Which pixels get the full ε: a painted mask as text, or {', '.join(NAMED)}."
    )
    eps: float | None = option(
        None, "Radius of the painted pixels, in [0, 1]; empty: the run's.", low=0, kind="radius"
    )
    eps_low: float = option(0.0, "Radius of all other pixels, at most ε.", low=0, kind="radius")
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the random start.", low=0)

    result = Painted
    cacheable = False
