"""Supervised contrastive training, without attacks.
Features of one class are pulled together, those of different classes are pushed apart.
"""

from dataclasses import dataclass
from typing import Literal, cast

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
    """CE + λ_s·SupCon + λ_m·margin loss on two augmented views of each image.

    Without augmentation there is only one view. SupCon and the margin loss are computed on a
    learned projection of the features.

    Source: Wang, Nayyem, Rakin 2024 (arXiv 2412.19747): the objective; Khosla et al. 2020 for
    SupCon. Differs: margin formula, weights and temperature are ours (docs/methods.md, SupCon +
    margin), because theirs could not be found. Of their network only a figure's description could
    be read: both SupCon and CE come after the projection, as with `head=projected`. In SupCon's own
    code the classifier does not see the projection, as with `head=penultimate`. With `penultimate`,
    both weights 0 and without `pairs` this is ordinary training, bit for bit, on the same images in
    the same order.
    """

    supcon_weight: float = option(
        0.5, "λ_s: weight of the supervised contrastive loss.", low=0, high=100
    )
    margin_weight: float = option(0.5, "λ_m: weight of the margin loss.", low=0, high=100)
    temperature: float = option(0.1, "τ of the contrastive loss.", low=0.01, high=10)
    margin: float = option(
        1.0,
        "m: distance on the unit sphere to which features of different classes are pushed apart.",
        low=0,
        high=2,
    )
    reduction: Literal["balanced", "flat"] = option(
        "balanced",
        "Give same-class and different-class pairs the same total weight (balanced), or"
        " every pair the same weight (flat).",
        advanced=True,
    )
    width: int = option(128, "Dimensions of the projection.", low=2, high=4096, advanced=True)
    head: Literal["penultimate", "projected"] = option(
        "penultimate",
        "Input of the classifier: the features (the projection is discarded after training), or"
        " the projection (which then stays in the network).",
    )
    pairs: bool = option(
        False,
        "Train on the augmented views and balanced batches of contrastive training even if both"
        " weights are 0, as a control.",
        advanced=True,
        later=True,
    )

    label = "SupCon + margin (our reading)"
    group = "no adversarial training"
    paper = (
        "Wang, Nayyem, Rakin: Enhancing Adversarial Robustness of Deep Neural Networks Through"
        " Supervised Contrastive Learning (2024)"
    )
    text = (
        "Pulls features of one class together and pushes others apart; it never sees an attack."
        " The paper tests with FGSM only, so also look at PGD and Square."
    )
    choices = (
        "The margin formula and all weights are ours: the paper's are not public. Its figure puts"
        " the classifier behind the projection (head=projected)."
    )
    select = "clean"

    @property
    def contrasts(self) -> bool:
        """Whether SupCon or the margin loss has a weight above 0."""
        return self.supcon_weight > 0 or self.margin_weight > 0

    @property
    def balanced(self) -> bool:
        return self.contrasts or self.pairs

    @property
    def views(self) -> int:
        return 2 if self.balanced else 0

    compares = contrasts

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        super().check(config, split, net)
        if not self.balanced:
            return
        counts = torch.bincount(split.y, minlength=len(split.classes)).tolist()
        if 1 in counts:
            raise UserError(
                f"The class {split.classes[counts.index(1)]} has one training image, but"
                f" {self.label} pairs images of one class: add images, or remove the class."
            )
        if int(config.batch_size or 2) < 4:
            raise UserError(
                "The contrastive losses need two images of each of two classes in a batch: set"
                " batch_size to 4 or more.",
                code=2,
            )

    def network(self, net: Classifier) -> Classifier:
        if self.head == "projected":
            net.pool = nn.Sequential(net.pool, projector(net, self.width))
            net.head = nn.Linear(self.width, cast(nn.Linear, net.head).out_features)
        return net

    def aux(self, net: Classifier, config: Plan) -> nn.Module | None:
        apart = self.contrasts and self.head == "penultimate"
        return projector(net, self.width) if apart else None

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        if not self.balanced:
            return {"ce": F.cross_entropy(net(batch.x), batch.y)}
        assert batch.views is not None, "the trainer hands over what `views` asks for"
        y = batch.y.repeat(len(batch.views))
        features = net.pool(net.maps(batch.views.flatten(0, 1)))
        terms = {"ce": F.cross_entropy(net.head(features), y)}
        z = features if aux is None else aux(features)
        if len(batch.views) == 1:  # `balanced` repeats an image of a class with an odd number
            once = ~(batch.index[:, None] == batch.index).triu(1).any(dim=0)
            z, y = z[once], y[once]
        if self.supcon_weight:
            terms["supcon"] = self.supcon_weight * losses.supcon(z, y, self.temperature)
        if self.margin_weight:
            terms["margin"] = self.margin_weight * losses.margin_contrastive(
                z, y, self.margin, self.reduction
            )
        return terms


def projector(net: Classifier, width: int) -> nn.Module:
    """A new perceptron d → d → `width` with one ReLU, where d is the number of features of `net`.

    Raises UserError if the head of `net` is not linear. Source: Khosla et al. 2020 (SupContrast),
    `networks/resnet_big.py`.
    """
    inside = getattr(net.head, "in_features", None)
    if inside is None:
        raise UserError(
            "The projection needs the number of features, so the network's head must be linear:"
            " use another network."
        )
    return nn.Sequential(nn.Linear(inside, inside), nn.ReLU(), nn.Linear(inside, width))
