"""TRADES: one loss for clean accuracy and one for smoothness near the image, weighted by β."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks import PGD, LogitObjective
from robustviz.methods.base import Adversarial, Terms
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch


def _from_clean(logits: Tensor, clean: Tensor) -> Tensor:
    return losses.kl_per_sample(clean, logits)


@register("method/trades")
@dataclass(frozen=True)
class TRADES(Adversarial):
    """CE(f(x), y) + β·KL(f(x) ‖ f(x')), where x' maximises that KL near x.

    Source: Zhang et al. 2019 (arXiv 1901.08573), eq. 5, and the authors' `trades.py`. Differs: x
    and x' pass through the network once each. In the official code x does so twice, which changes
    the running statistics of batch norm (`bn=official` repeats that). The start of the attack is
    clipped to [0, 1].
    """

    beta: float = option(
        6.0,
        "β: weight of robustness against clean accuracy; higher values are more robust and less"
        " accurate.",
        low=0,
        high=100,
    )
    bn: Literal["single", "official"] = option(
        "single",
        "Forward the clean images once, or twice as the official code does.",
        advanced=True,
    )
    attack: PGD = option(lambda: PGD(start="gauss"), "The attack that makes the training images.")

    label = "TRADES"
    paper = (
        "Zhang et al.: Theoretically principled trade-off between robustness and accuracy (ICML"
        " 2019)"
    )
    text = (
        "Trains on clean images and penalises a change of the prediction near them. β trades"
        " clean accuracy for robustness."
    )
    choices = (
        "Clean images are forwarded once per step; the authors' code does it twice (a setting"
        " here)."
    )

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        """The batch's images (N, C, H, W), attacked to maximise KL(f(x) ‖ f(x')).

        `net` is unchanged, except that `attack_mode=train` updates its running statistics.
        """
        with self.attackable(net, batch.x) as fast:
            return self.attack.maximise(
                LogitObjective(fast, _from_clean, fast(batch.x).detach()),
                batch.x,
                eps=self.budget(fast, batch),
                rng=batch.rng,
            )

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        x_adv = batch.once(lambda: self.attacked(net, batch))
        logits, logits_adv = net(batch.x), net(x_adv)
        target = net(batch.x) if self.bn == "official" else logits
        return {
            "ce": F.cross_entropy(logits, batch.y),
            "kl": self.beta * losses.kl(target, logits_adv),
        }
