"""CW∞: PGD on the margin of Carlini and Wagner instead of the cross-entropy.
The margin still has a gradient where the network is so confident that cross-entropy's vanishes.
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
    """PGD that maximises the margin max_{j≠y} z_j − z_y instead of the cross-entropy.

    z are the logits and y the true class: the margin is positive exactly where the network is
    wrong.

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), objective f6, maximised by PGD as Madry et
    al. 2018 (arXiv 1706.06083) do in section 5. Differs: no confidence term, so the attack
    continues after the first success.
    """

    steps: int = option(20, "How many steps.", low=1, high=2000)

    label = "CW∞"
    text = (
        "PGD on the margin between the true class and the best wrong class. Its gradient does"
        " not vanish where the network is very confident."
    )

    def objective(self, net: nn.Module, y: Tensor) -> Objective:
        """The objective of `__call__`: the margin of label y or, if targeted, its negative."""
        return LogitObjective(net, _minus_margin if self.targeted else losses.margin, y)


def _minus_margin(logits: Tensor, y: Tensor) -> Tensor:
    return -losses.margin(logits, y)
