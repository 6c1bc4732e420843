"""Momentum iterative method: gradient ascent that remembers where it was going."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustviz.attacks.balls import L2, Linf, scaled
from robustviz.attacks.base import Attack
from robustviz.registry import option, register

MOST = (
    1e12  # what has grown so large with a decay above 1 is scaled down: only its direction counts
)


@register("attack/mim")
@dataclass(frozen=True, kw_only=True)
class MIM(Attack):
    """Steps along the sum of all gradients so far, each scaled to L1 norm 1; from the image itself,
    the last point counts.

    Source: Dong et al. 2018 (MI-FGSM, arXiv 1710.06081), algorithm 1. Differs: a step is ε/4 where
    none is set, as in the transfer measurements of Model Alignment; the paper's is ε/steps.
    """

    steps: int = option(10, "How many steps.", low=1, high=2000)
    decay: float = option(
        1.0, "How much of the direction before goes into the next; 0: none.", low=0, high=10
    )

    label = "MIM"
    text = "PGD with momentum: its images fool other networks more often."

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        return ball.x

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        gradient = scaled(gradient)
        gradient = gradient / gradient.abs().sum((1, 2, 3), keepdim=True).clamp(min=1)
        if before is None:
            return gradient
        heading = gradient + self.decay * before
        return heading / (heading.abs().amax((1, 2, 3), keepdim=True) / MOST).clamp(min=1)
