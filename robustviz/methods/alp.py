"""ALP, adversarial logit pairing: pulls the logits of a clean and its attacked image together."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks import PGD
from robustviz.methods.base import Adversarial, Terms
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch


@register("method/alp")
@dataclass(frozen=True)
class ALP(Adversarial):
    """Cross-entropy on clean and attacked images, plus λ·mean (z − z')² over samples and classes.

    z and z' are the logits of a clean image and of its attacked copy, from one forward pass.

    Source: Kannan et al. 2018 (arXiv 1803.06373), eq. 5, and the authors' code (tensorflow/models).
    Differs: untargeted attack (`targets=least_likely` gives theirs), SGD with momentum, no label
    smoothing. With λ = 0 this is mixed-minibatch PGD, not PGD-AT. With λ = 0 and `ce=adv_only` it
    is PGD-AT, bit for bit, and then the clean images do not pass through the network.
    """

    weight: float = option(
        0.5, "λ: weight of the loss that pulls clean and attacked logits together.", low=0, high=100
    )
    ce: Literal["both", "adv_only", "clean_only"] = option(
        "both",
        "Which images the cross-entropy is computed on: both (the authors'), attacked only, or"
        " clean only (Engstrom et al.'s reading).",
        advanced=True,
    )
    targets: Literal["untargeted", "least_likely"] = option(
        "untargeted",
        "Attack away from the true class, or towards the least likely one as the authors do.",
        advanced=True,
    )
    attack: PGD = option(PGD, "The attack that makes the training images.")

    label = "ALP"
    paper = "Kannan, Kurakin, Goodfellow: Adversarial logit pairing (2018)"
    text = (
        "Trains on clean and attacked images together and pulls their logits together. On"
        " ImageNet its published robustness fell to 0.1% under a stronger attack (Engstrom et"
        " al. 2018): test it with many steps and with Square."
    )
    choices = (
        "The attack is untargeted; the authors attack towards the least likely class (a setting"
        " here)."
    )

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        """The batch's images (N, C, H, W), attacked as the setting `targets` says.

        With `least_likely` the target is the class with the lowest logit for the clean image.
        """
        if self.targets == "untargeted":
            return super().attacked(net, batch)
        with self.attackable(net, batch.x) as fast:
            attack = replace(self.attack, targeted=True)
            return attack.maximise(
                attack.objective(fast, fast(batch.x).argmin(dim=1)), batch.x, rng=batch.rng
            )

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        x_adv = batch.once(lambda: self.attacked(net, batch))
        if not self._needs_clean:
            # Clean images are not forwarded, since they would change the batch-norm statistics.
            return {"ce": F.cross_entropy(net(x_adv), batch.y)}
        logits, logits_adv = self._logits(net, batch, x_adv)
        learned, y = {
            "both": (torch.cat([logits, logits_adv]), batch.y.repeat(2)),
            "adv_only": (logits_adv, batch.y),
            "clean_only": (logits, batch.y),
        }[self.ce]
        terms = {"ce": F.cross_entropy(learned, y)}
        if self.weight:
            terms["pairing"] = self.weight * losses.logit_pairing(
                logits, logits_adv, self._weights(logits, logits_adv, batch.y)
            )
        return terms

    @property
    def _needs_clean(self) -> bool:
        return self.weight > 0 or self.ce != "adv_only"

    def _logits(self, net: Classifier, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of `batch.x` and of `x_adv`, each (N, K), from one forward pass, so that batch
        norm uses the statistics of both together.
        """
        logits, logits_adv = net(torch.cat([batch.x, x_adv])).chunk(2)
        return logits, logits_adv

    def _weights(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor | None:
        """The weight of each pair of a clean and its attacked image, (N,); None: all 1."""
        return None
