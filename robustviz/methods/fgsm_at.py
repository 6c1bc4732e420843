"""FGSM-AT: adversarial training with the one-step attack of 2015.
It is kept because it shows catastrophic overfitting.
"""

from dataclasses import dataclass

from robustviz.attacks import FGSM
from robustviz.methods.base import Adversarial
from robustviz.registry import option, register


@register("method/fgsm_at")
@dataclass(frozen=True)
class FGSMAT(Adversarial):
    """Cross-entropy on FGSM images x + ε·sign ∇ₓ CE, without a random start.

    Source: Goodfellow et al. 2015 (arXiv 1412.6572), section 6. Differs: attacked images only, not
    half clean, as in the comparisons of Wong et al. 2020.
    """

    attack: FGSM = option(FGSM, "The one-step attack that makes the training images.")

    label = "FGSM-AT"
    paper = "Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples (2015)"
    text = (
        "Trains on images attacked with one step. Training often collapses: FGSM accuracy looks"
        " perfect while PGD accuracy falls to zero (catastrophic overfitting)."
    )
    choices = "Attacked images only, as in Wong et al. 2020; the paper mixes in clean ones."
