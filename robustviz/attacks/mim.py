"""MIM, the momentum iterative method: gradient ascent with momentum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustviz.attacks.balls import L2, Linf, scaled
from robustviz.attacks.base import Attack
from robustviz.registry import option, register

# A decay above 1 makes the sum of gradients grow. A sum with an entry above this is scaled down: a
# step uses only its direction, not its length.
MOST = 1e12


@register("attack/mim")
@dataclass(frozen=True, kw_only=True)
class MIM(Attack):
    """PGD with momentum: every step follows the decayed sum of all gradients so far.

    Each gradient is scaled to L1 norm 1 before it is added. With norm linf a step follows the sign
    of the sum. The attack starts at the image itself and returns the last point.

    Source: Dong et al. 2018 (MI-FGSM, arXiv 1710.06081), algorithm 1. Differs: the default step
    size is ε/4 for up to 20 steps, as in the transfer measurements of Model Alignment, else ε/8;
    the paper's is ε/steps.
    """

    steps: int = option(10, "How many steps.", low=1, high=2000)
    decay: float = option(
        1.0,
        "Momentum: how much of the previous direction is added to the next; 0: no momentum.",
        low=0,
        high=10,
    )

    label = "MIM"
    text = "PGD with momentum: its images transfer better to other networks."

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        return ball.x

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        gradient = scaled(gradient)
        gradient = gradient / gradient.abs().sum((1, 2, 3), keepdim=True).clamp(min=1)
        if before is None:
            return gradient
        heading = gradient + self.decay * before
        return heading / (heading.abs().amax((1, 2, 3), keepdim=True) / MOST).clamp(min=1)
