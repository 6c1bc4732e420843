"""CW∞: projected ascent on the margin of Carlini and Wagner, which keeps a gradient where
cross-entropy's vanishes.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks.objective import LogitObjective, Objective
from robustviz.attacks.pgd import PGD
from robustviz.registry import option, register


@register("attack/cw")
@dataclass(frozen=True, kw_only=True)
class CW(PGD):
    """PGD on max_{j≠y} z_j − z_y, the margin by which the network is wrong, in place of
    cross-entropy.

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), objective f6, climbed by PGD as Madry et al.
    2018 (arXiv 1706.06083) do in section 5. Differs: no confidence term, so it goes on after the
    first success.
    """

    steps: int = option(20, "How many steps.", low=1, high=2000)

    label = "CW∞"
    text = (
        "PGD on the margin between the two best classes, which keeps its gradient where a net is"
        " very sure."
    )

    def objective(self, net: nn.Module, y: Tensor) -> Objective:
        """The margin of the true class, or its negative for a class that is to be reached."""
        return LogitObjective(net, _minus_margin if self.targeted else losses.margin, y)


def _minus_margin(logits: Tensor, y: Tensor) -> Tensor:
    return -losses.margin(logits, y)
