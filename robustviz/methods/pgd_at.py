"""PGD-AT, standard adversarial training: minimises the loss on images attacked by PGD."""

from dataclasses import dataclass

from robustviz.attacks import PGD
from robustviz.methods.base import Adversarial
from robustviz.registry import option, register


@register("method/pgd_at")
@dataclass(frozen=True)
class PGDAT(Adversarial):
    """Cross-entropy on images attacked by PGD.

    Source: Madry et al. 2018 (arXiv 1706.06083), eq. 2.1; 10 steps as in Rice et al. 2020 (arXiv
    2002.11569). Differs: the net is in eval mode while it is attacked (`attack_mode=train` gives
    Rice et al.'s).
    """

    attack: PGD = option(PGD, "The attack that makes the training images.")

    label = "PGD-AT"
    paper = (
        "Madry et al.: Towards deep learning models resistant to adversarial attacks (ICLR 2018)"
    )
    text = (
        "Every batch is attacked first, so the network trains on the worst images found within"
        " ε. The standard defence."
    )
    choices = "10 steps of ε/4; the network is in evaluation mode while attacked."
