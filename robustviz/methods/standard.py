"""Standard training on clean images."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from robustviz.methods.base import Method, Terms
from robustviz.nets.base import Classifier
from robustviz.registry import register
from robustviz.types import Batch


@register("method/standard")
@dataclass(frozen=True)
class Standard(Method):
    """Cross-entropy on clean images: the mean over the batch of −log p_y(x)."""

    label = "Standard"
    group = "no adversarial training"
    select = "clean"
    paper = "Textbook"
    text = (
        "Trains on clean images only. Accurate and easy to fool: the reference for all other"
        " methods."
    )

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        return {"ce": F.cross_entropy(net(batch.x), batch.y)}
