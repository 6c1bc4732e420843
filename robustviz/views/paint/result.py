"""What the question *paint* gives back."""

from __future__ import annotations

from dataclasses import dataclass

from robustviz.stats import Bools, Floats
from robustviz.views.result import Result


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
    def share(self) -> float:
        """How much of the image has the full ε, a fraction."""
        return float(self.mask.mean())

    @property
    def uniform(self) -> bool:
        """Whether the budget is `eps` everywhere, so that this is the attacker of every robust
        number.
        """
        return bool(self.mask.all()) or self.eps_low == self.eps
