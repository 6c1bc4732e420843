"""FGSM: one step along the sign of the gradient."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustviz.attacks.balls import L2, Linf
from robustviz.attacks.base import Attack, N
from robustviz.registry import option, register


@register("attack/fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """The fast gradient sign method: a single step along the sign of the gradient.

    If `step_size` is not set, the step has size ε from the image itself (`start` zero) and 1.25 ε
    from a random point of the ball (`start` uniform). The result is projected back into the ball.
    With norm l2 the step is along the gradient instead of its sign.

    Source: Goodfellow et al. 2015 (arXiv 1412.6572), section 4; the random start with step 1.25 ε:
    Wong et al. 2020 (arXiv 2001.03994), algorithm 3.
    """

    start: Literal["zero", "uniform"] = option(
        "zero", "Start at the image itself (zero), or at a random point of the ball (uniform)."
    )

    label = "FGSM"
    text = "One step of ε along the sign of the gradient: quick and weak."

    def default_step(self, eps: N) -> N:
        return eps if self.start == "zero" else 1.25 * eps

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        return ball.x if self.start == "zero" else ball.random_start(rng)
