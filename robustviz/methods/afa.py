"""AFA, adversarial feature alignment: attacks the features instead of the predictions.
Training then pulls the attacked features back to those of their class.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks import PGD
from robustviz.attacks.objective import Objective
from robustviz.methods.base import Adversarial, Plan, Stage, Terms
from robustviz.methods.pgd_at import PGDAT
from robustviz.methods.standard import Standard
from robustviz.methods.supcon_margin import projector
from robustviz.methods.trades import TRADES
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch

PAPER = "Park et al.: Adversarial feature alignment (2024; AISec at CCS)"


def features_of(net: Classifier, aux: nn.Module | None, x: Tensor) -> Tensor:
    """The features to align, (N, D): penultimate features, projected by `aux` unless it is None."""
    h: Tensor = net.pool(net.maps(x))
    return h if aux is None else aux(h)


@register("method/afa")
@dataclass(frozen=True)
class AFA(Adversarial):
    """Trains with a supervised contrastive loss on features that an attack moves off their class.

    The attack maximises this loss, and training minimises it: the anchors are attacked images, and
    they are compared with clean images, or with clean and attacked ones.

    Source: Park et al. 2024 (arXiv 2402.12187): min–max on a fully supervised contrastive loss at
    the penultimate layer. Differs: temperature, sampling and head protocol are ours
    (docs/methods.md, AFA), because no official code was found and the text we could read has none.
    Summaries disagree on what anchors are compared with: clean images (`contrast=clean`), or
    attacked positives and negatives too (`clean+adv`). The attack maximises the training loss; the
    features an image is compared with are treated as constants within each attack step.
    `head=online` trains the head at the same time, on detached features of attacked images. With
    `SLF`, `ALF` and `AFF` a second stage trains a new head on clean images, a new head by PGD-AT,
    or a new head and the rest of the network by PGD-AT. These names, and the attack `inner=ce`, are
    those of earlier adversarial-contrastive work.
    """

    temperature: float = option(
        0.1,
        "Temperature τ of the contrastive loss; very small values make gradients vanish.",
        low=0.01,
        high=10,
    )
    head: Literal["online", "SLF", "ALF", "AFF"] = option(
        "online",
        "How the linear head is trained: together with the features, on detached attacked"
        " features (online), or in a second stage: the head on clean images (SLF), the head with"
        " PGD-AT (ALF), or the whole network with PGD-AT (AFF).",
    )
    inner: Literal["contrastive", "ce"] = option(
        "contrastive",
        "What the attack maximises: the contrastive loss of the features, or cross-entropy"
        " (earlier work).",
    )
    contrast: Literal["clean", "clean+adv"] = option(
        "clean",
        "What an attacked image is compared with, in the loss and in its attack: clean images, or"
        " other attacked ones too.",
        advanced=True,
    )
    projection: bool = option(
        False,
        "Align a learned projection of the features, which is discarded after training.",
        advanced=True,
    )
    head_share: float = option(
        0.25, "Share of the epochs that a second stage takes.", low=0.01, high=0.99, advanced=True
    )
    attack: PGD = option(PGD, "The attack that makes the training images.")

    label = "AFA (our reading)"
    paper = PAPER
    text = (
        "Attacks each image so that its features leave their class, then pulls the attacked"
        " features back to the clean ones of that class. The classifier is a linear head on the"
        " aligned features."
    )
    choices = (
        "No official code was found, and summaries of the paper disagree on what attacked images"
        " are compared with. Our reading: τ = .1, clean images, also its own, online head."
    )

    @property
    def compares(self) -> bool:
        return True

    def stages(self, config: Plan) -> tuple[Stage, ...]:
        if self.head == "online":
            return (Stage("train", 1.0, self.loss),)
        first = Stage(
            "features",
            1 - self.head_share,
            self.loss,
            trainable=lambda net: [*net.maps.parameters(), *net.pool.parameters()],
        )
        if self.head == "AFF":
            return (first, Stage("fine-tune all", self.head_share, super().loss, new_head=True))
        return (
            first,
            Stage(
                "linear head",
                self.head_share,
                # PGDAT in eval mode: an attack in train mode would change the running statistics of
                # the frozen body
                (Standard() if self.head == "SLF" else PGDAT(attack=self.attack)).loss,
                trainable=lambda net: net.head.parameters(),
                new_head=True,
                frozen_eval=("maps", "pool"),
            ),
        )

    def aux(self, net: Classifier, config: Plan) -> nn.Module | None:
        return projector(net, 128) if self.projection else None

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        """The loss terms of the first (or only) stage, by name.

        `afa`: the contrastive loss, which does not depend on the head. With `head=online` also
        `ce_head`: the head's cross-entropy on detached features of attacked images.
        """
        x_adv = batch.once(
            lambda: (
                self.attacked(net, batch)
                if self.inner == "ce"
                else self.misaligned(net, batch, aux)
            )
        )
        h = net.pool(net.maps(torch.cat([batch.x, x_adv])))
        terms = {"afa": self.align(h if aux is None else aux(h), batch.y)}
        if self.head == "online":
            terms["ce_head"] = F.cross_entropy(net.head(h[len(batch.x) :].detach()), batch.y)
        return terms

    def misaligned(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Tensor:
        """The batch's images (N, C, H, W), attacked to maximise `misalignment`; detached.

        `net` is unchanged, except that `attack_mode=train` updates its running statistics.
        """
        with self.attackable(net, batch.x) as fast:
            return self.attack.maximise(
                self.misalignment(fast, aux, batch.x, batch.y), batch.x, rng=batch.rng
            )

    def misalignment(
        self, net: Classifier, aux: nn.Module | None, x: Tensor, y: Tensor
    ) -> Objective:
        """The objective of the feature attack: a function from images (N, C, H, W) to losses (N,).

        The losses are those of `each`; the images given to the function are the attacked ones.

        `x` (N, C, H, W) are the clean images, `y` (N,) their classes. The features an image is
        compared with carry no gradient: those of clean images are computed once, those of other
        attacked images anew in every step. The caller must set the network's mode (see
        `nets.base.frozen`).
        """
        with torch.no_grad():
            clean = features_of(net, aux, x)

        def climbed(z: Tensor) -> Tensor:
            adv = features_of(net, aux, z)
            return self.each(adv, y, clean, adv.detach())

        return climbed

    def each(self, adv: Tensor, y: Tensor, clean: Tensor, others: Tensor) -> Tensor:
        """The contrastive loss of each attacked image, (N,).

        `adv`, `clean`, `others`: features (N, D) of the attacked images, of the clean ones, and of
        the attacked ones as samples to compare with. Each row of `adv` is compared with all rows of
        `clean` and, only if `contrast=clean+adv`, with all rows of `others` except its own.
        """
        if self.contrast == "clean":
            return losses.contrastive_per_anchor(adv, y, clean, y, self.temperature)
        itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
        return losses.contrastive_per_anchor(
            adv,
            y,
            torch.cat([clean, others]),
            y.repeat(2),
            self.temperature,
            torch.cat([torch.zeros_like(itself), itself], dim=1),
        )

    def align(self, both: Tensor, y: Tensor) -> Tensor:
        """The mean of the loss `each` over the batch, a scalar with gradient through all features.

        `both` (2N, D): the clean features first, then the attacked ones.
        """
        clean, adv = both.chunk(2)
        return self.each(adv, y, clean, adv).mean()


@register("method/afa_trades")
@dataclass(frozen=True)
class AFATRADES(TRADES):
    """TRADES plus λ·AFA's contrastive loss, both on the x' that maximises KL + λ·contrastive loss.

    Attacked images are compared with clean ones only, as in `AFA` with `contrast=clean`.

    Source: Park et al. 2024 (arXiv 2402.12187), the joint variant. Differs: theirs adds
    diffusion-generated images; λ and τ are ours (docs/methods.md, AFA). With λ = 0 this is TRADES,
    bit for bit.
    """

    align_weight: float = option(
        1.0, "λ: weight of the alignment loss, in the attack and in the training.", low=0, high=100
    )
    temperature: float = option(0.1, "τ of the contrastive loss.", low=0.01, high=10)

    label = "AFA + TRADES (our reading)"
    paper = PAPER
    text = "TRADES plus feature alignment: one attack raises both losses together."
    choices = (
        "No official code was found, and the paper's generated training images are not used. λ ="
        " 1 and τ = .1 are ours."
    )

    @property
    def compares(self) -> bool:
        return self.align_weight > 0

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        if not self.align_weight:
            return super().attacked(net, batch)
        with self.attackable(net, batch.x) as fast:
            with torch.no_grad():
                clean_features = features_of(fast, None, batch.x)
                clean = fast.head(clean_features)

            def objective(z: Tensor) -> Tensor:
                h = features_of(fast, None, z)
                away = losses.contrastive_per_anchor(
                    h, batch.y, clean_features, batch.y, self.temperature
                )
                return losses.kl_per_sample(clean, fast.head(h)) + self.align_weight * away

            return self.attack.maximise(objective, batch.x, rng=batch.rng)

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        if not self.align_weight:
            return super().loss(net, batch, aux)
        x_adv = batch.once(lambda: self.attacked(net, batch))
        h, h_adv = features_of(net, None, batch.x), features_of(net, None, x_adv)
        logits, logits_adv = net.head(h), net.head(h_adv)
        target = net(batch.x) if self.bn == "official" else logits
        return {
            "ce": F.cross_entropy(logits, batch.y),
            "kl": self.beta * losses.kl(target, logits_adv),
            "afa": (
                self.align_weight
                * losses.adversarial_contrastive(h_adv, batch.y, h, batch.y, self.temperature)
            ),
        }
