"""Features of one class together, of different classes apart, without a single attacked image."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from robustviz import losses
from robustviz.data import Dataset
from robustviz.methods.base import Method, Plan, Terms
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch, UserError


@register("method/supcon_margin")
@dataclass(frozen=True)
class SupConMargin(Method):
    """CE + λ_s·SupCon + λ_m·margin on two augmented views; the two contrastive terms on a
    projection of the features.

    Source: Wang, Nayyem, Rakin 2024 (arXiv 2412.19747): the objective; Khosla et al. 2020 for
    SupCon. Differs: margin formula, weights and temperature are ours (methods.md §3), because
    theirs could not be found. With both weights 0 this is ordinary training, bit for bit: one view,
    the ordinary order of the images.
    """

    supcon_weight: float = option(
        0.5, "λ_s: weight of the supervised contrastive loss.", low=0, high=100
    )
    margin_weight: float = option(0.5, "λ_m: weight of the margin loss.", low=0, high=100)
    temperature: float = option(0.1, "τ of the contrastive loss.", low=0.01, high=10)
    margin: float = option(
        1.0, "m: how far apart different classes are pushed on the unit sphere.", low=0, high=2
    )
    reduction: Literal["balanced", "flat"] = option(
        "balanced", "Weigh both kinds of pairs equally, or every pair.", advanced=True
    )
    width: int = option(128, "Dimensions of the projection.", low=2, high=4096, advanced=True)

    label = "SupCon + margin (our reading)"
    group = "no adversarial training"
    paper = (
        "Wang, Nayyem, Rakin: Adversarial robustness through supervised contrastive and"
        " margin-based learning (2024)"
    )
    text = (
        "Pulls features of one class together and pushes others apart; it never sees an attack. "
        "The paper tests with FGSM only, so look at PGD and Square beside it."
    )
    choices = (
        "The margin formula and all weights are ours: the paper's are not public. SupCon is the"
        " authors' L_out with base temperature τ."
    )
    select = "clean"

    @property
    def contrasts(self) -> bool:
        """Whether any contrastive term is left."""
        return self.supcon_weight > 0 or self.margin_weight > 0

    @property
    def views(self) -> int:
        return 2 if self.contrasts else 0

    balanced = compares = contrasts

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        super().check(config, split, net)
        if not self.contrasts:
            return
        counts = torch.bincount(split.y, minlength=len(split.classes)).tolist()
        if 1 in counts:
            raise UserError(
                f"The class {split.classes[counts.index(1)]} has one training image, and"
                f" {self.label} pairs images of one class: add images, or take out the class."
            )
        if int(config.batch_size or 2) < 4:
            raise UserError(
                "Contrast needs two images of two classes in a batch: set batch_size to 4 or more.",
                code=2,
            )

    def aux(self, net: Classifier, config: Plan) -> nn.Module | None:
        return projector(net, self.width) if self.contrasts else None

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        if not self.contrasts:
            return {"ce": F.cross_entropy(net(batch.x), batch.y)}
        assert batch.views is not None and aux is not None, (
            "the trainer hands over what `views` and `aux` ask for"
        )
        y = batch.y.repeat(len(batch.views))
        features = net.pool(net.maps(batch.views.flatten(0, 1)))
        terms = {"ce": F.cross_entropy(net.head(features), y)}
        z = aux(features)
        if self.supcon_weight:
            terms["supcon"] = self.supcon_weight * losses.supcon(z, y, self.temperature)
        if self.margin_weight:
            terms["margin"] = self.margin_weight * losses.margin_contrastive(
                z, y, self.margin, self.reduction
            )
        return terms


def projector(net: Classifier, width: int) -> nn.Module:
    """A two-layer perceptron d → d → `width` on the features in front of a linear head; thrown away
    after training.

    Source: Khosla et al. 2020 (SupContrast), `networks/resnet_big.py`.
    """
    inside = getattr(net.head, "in_features", None)
    if inside is None:
        raise UserError(
            "A projection needs to know how many features the network has, so its head must be"
            " linear: use another network."
        )
    return nn.Sequential(nn.Linear(inside, inside), nn.ReLU(), nn.Linear(inside, width))
