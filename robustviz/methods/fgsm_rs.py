"""FGSM-RS: adversarial training with one step from a random point.
It is the cheapest defence that works.
"""

from dataclasses import dataclass

from robustviz.attacks import FGSM
from robustviz.methods.base import Adversarial
from robustviz.registry import option, register


@register("method/fgsm_rs")
@dataclass(frozen=True)
class FGSMRS(Adversarial):
    """Cross-entropy on one-step images: uniform start, step 1.25 ε, clipped to the ε-ball.

    Source: Wong et al. 2020 (Fast-AT, arXiv 2001.03994), algorithm 3. Differs: the net is in eval
    mode while it is attacked (`attack_mode=train` gives theirs), and the start is clipped to [0, 1]
    before the gradient is taken.
    """

    attack: FGSM = option(
        lambda: FGSM(start="uniform"), "The one-step attack that makes the training images."
    )

    label = "FGSM-RS"
    paper = "Wong, Rice, Kolter: Fast is better than free (ICLR 2020)"
    text = (
        "One attack step from a random point near the image. About a fifth of PGD-AT's cost and,"
        " while it does not collapse, nearly its robustness."
    )
    choices = (
        "The network is in evaluation mode while attacked; the authors' code attacks in training"
        " mode (a setting here)."
    )
