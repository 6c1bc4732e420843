"""PGD, projected gradient descent, the standard first-order attack (in fact ascent on the loss)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustviz.attacks.balls import L2, Linf
from robustviz.attacks.base import Attack
from robustviz.registry import option, register


@register("attack/pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Gradient steps that raise the loss, each projected back into the ball.

    With norm linf a step follows the sign of the gradient, with l2 the gradient scaled to length 1.
    A run's result is its last point, not the best one.

    Source: Madry et al. 2018 (arXiv 1706.06083), section 2.1; the start `gauss` (0.001·N(0,1)) is
    that of TRADES and MART.
    """

    steps: int = option(10, "How many steps.", low=1, high=2000)
    restarts: int = option(
        1,
        "How many runs from different random starts; for each image the most successful one"
        " counts.",
        low=1,
        high=100,
        advanced=True,
    )
    start: Literal["uniform", "gauss", "zero"] = option(
        "uniform",
        "Start at a random point of the ball (uniform), very near the image (gauss), or at the"
        " image itself (zero).",
        advanced=True,
    )

    label = "PGD"
    text = (
        "Many small gradient steps that raise the loss, each projected back into the ball: the"
        " standard attack."
    )

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        if self.start != "gauss":
            return ball.x if self.start == "zero" else ball.random_start(rng)
        noise = torch.randn(ball.x.shape, generator=rng, dtype=ball.x.dtype, device=ball.x.device)
        return ball.project(ball.x + 0.001 * noise)
