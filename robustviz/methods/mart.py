"""MART: adversarial training that gives more weight to images the network misclassifies."""

from dataclasses import dataclass

from torch import nn

from robustviz import losses
from robustviz.attacks import PGD
from robustviz.methods.base import Adversarial, Terms
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch


@register("method/mart")
@dataclass(frozen=True)
class MART(Adversarial):
    """BCE(f(x'), y) + β·KL(f(x) ‖ f(x'))·(1 − p_y(x)), with x' from PGD on cross-entropy.

    BCE is MART's boosted cross-entropy (`losses.boosted_ce`), p_y(x) the probability of the true
    class.

    Source: Wang et al. 2020 (ICLR), eq. 9, and the authors' `mart.py`: β = 5 in their script.
    Differs: the start is clipped to [0, 1]; learning rate and weight decay are the data set's,
    theirs (.01, 3.5e-3) are in the preset cifar10-mart.
    """

    beta: float = option(
        5.0,
        "β: weight of the loss that pulls clean and attacked predictions together, mostly on"
        " images whose true class is improbable.",
        low=0,
        high=100,
    )
    attack: PGD = option(lambda: PGD(start="gauss"), "The attack that makes the training images.")

    label = "MART"
    paper = (
        "Wang et al.: Improving adversarial robustness requires revisiting misclassified examples"
        " (ICLR 2020)"
    )
    text = (
        "Like TRADES, but clean and attacked predictions are pulled together most strongly where"
        " the clean image is misclassified already."
    )
    choices = (
        "The attack starts very near the image and maximises cross-entropy, as in the authors'"
        " code."
    )

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        x_adv = batch.once(lambda: self.attacked(net, batch))
        logits, logits_adv = net(batch.x), net(x_adv)
        return {
            "bce": losses.boosted_ce(logits_adv, batch.y),
            "kl": self.beta * losses.misclassification_kl(logits, logits_adv, batch.y),
        }
