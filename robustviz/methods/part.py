"""PART, pixel-reweighted adversarial training: a radius for each pixel.
Pixels that a class-activation map (CAM) marks as important get the full radius ε, all others a
smaller one.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustviz import cam
from robustviz.data import Dataset
from robustviz.methods.base import Adversarial, Plan
from robustviz.methods.mart import MART
from robustviz.methods.pgd_at import PGDAT
from robustviz.methods.trades import TRADES
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch, UserError, eps_text


@dataclass(frozen=True)
class Reweighted(Adversarial):
    """Adds to a method's attack a radius for each pixel, computed from a CAM map: a mixin for PART.

    In a class's bases it comes after the base method, so that the base method's own attack stays
    the default.

    Source: Zhang et al. 2024 (PART, arXiv 2406.00685), abstract, and the authors' code
    (docs/methods.md, PART). Differs, because the released code departs from the paper's idea: here
    the mask of important pixels is computed from the clean image that will be attacked, at its true
    class, by a threshold on the CAM values; theirs is from another image, at the predicted class,
    by a threshold on jet colours (`masks_of`, `cam_class`, `rule`). The warm-up is a share of the
    training, theirs 20 of 80 epochs. The attack's start is clipped to [0, 1]. If a map is flat
    (constant, say), every pixel keeps the full radius. The maps of Wide-ResNet are taken after its
    last batch norm and ReLU, theirs before (`cam_maps`).

    Their code clips the perturbation to the radii in each step (`apply=clip`). Their README
    multiplies the perturbation by a mask while the images are made, without a formula:
    `apply=scale` is our reading of it. The base method attacks with ε everywhere; then the
    perturbation of each pixel is multiplied once by its radius over ε, so that no pixel exceeds its
    radius. With ε_low = ε, or with every pixel important, `clip` and `scale` both are the base
    method, bit for bit.
    """

    eps_low: float | None = option(
        None,
        "ε_low: radius of the less important pixels, for pixels in [0, 1]; empty: 7/8 of ε.",
        low=0,
        high=1,
        kind="radius",
    )
    rule: str = option(
        "z>1",
        "Which pixels are important, by the CAM map: z>1, z>0, heat>0.5, top20%, ones, shuffled,"
        " jet-compat (the authors' released code), oracle (shapes: the true object), or"
        " all-but-upper-left and so on: all but one quarter of the image.",
        kind="rule",
        choices=(*cam.RULES, "oracle"),
    )
    warmup: float = option(
        0.25, "Share of the training with the full radius everywhere.", low=0, high=1
    )
    cam: Literal["grad_cam", "layer_cam"] = option(
        "grad_cam", "Method that computes the class-activation map.", advanced=True
    )
    cam_class: Literal["true", "predicted"] = option(
        "true",
        "Class whose map is computed: the true one, or the predicted one as in the authors' code.",
        advanced=True,
    )
    cam_maps: Literal["last", "before_norm"] = option(
        "last",
        "Which feature maps: the last ones, or those before the last batch norm and ReLU, as the"
        " authors use for Wide-ResNet.",
        advanced=True,
        later=True,
    )
    masks_of: Literal["own", "others"] = option(
        "own",
        "Which mask an image gets: its own, or the next image's, as by mistake in the released"
        " code.",
        advanced=True,
        later=True,
    )
    apply: Literal["clip", "scale"] = option(
        "clip",
        "clip: every step is clipped to each pixel's radius (the authors' code); scale: the"
        " final perturbation is multiplied by radius/ε (their description).",
        advanced=True,
        later=True,
    )

    @property
    def objects(self) -> bool:
        return self.rule == "oracle"

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        super().check(config, split, net)
        eps = float(self.attack.eps if self.attack.eps is not None else config.eps or 0)
        if self.attack.norm != "linf":
            raise UserError(
                "PART gives each pixel its own radius, which is defined for linf only: set"
                " attack.norm=linf.",
                code=2,
            )
        if self.eps_low is not None and self.eps_low > eps:
            raise UserError(
                f"eps_low={eps_text(self.eps_low)} is above eps={eps_text(eps)}: less important"
                " pixels get the smaller radius.",
                code=2,
            )
        if self.rule == "oracle" and split.masks is None:
            raise UserError(
                f"The rule oracle needs true object masks, but {split.key} has none: use the data"
                " shapes, or the rule z>1."
            )
        if self.rule != "oracle":
            cam.check_rule(self.rule)
        if self.rule in ("oracle", *cam.BLIND):
            return
        few = split.take(2)
        if self.rule == "jet-compat" and few.x.shape[1] != 3:
            raise UserError(
                "The rule jet-compat makes one mask per colour channel, but the images of"
                f" {split.key} have a single channel: use the rule z>1."
            )
        if not isinstance(getattr(net, "maps", None), nn.Module):
            raise UserError(
                f"The network {config.net} has no feature maps to compute a mask from: use"
                " another network, or the rule ones."
            )
        # raises UserError if the map has only one cell
        cam.importance_mask(
            self.heat(net, few.x, few.y), self.rule, (few.x.shape[2], few.x.shape[3])
        )

    def heat(self, net: Classifier, x: Tensor, y: Tensor) -> Tensor:
        """The raw class-activation maps (N, h, w) of images `x`.

        The settings `cam`, `cam_class` and `cam_maps` say how they are computed. `y` (N,): the true
        classes, used unless `cam_class` is `predicted`.
        """
        return (cam.grad_cam if self.cam == "grad_cam" else cam.layer_cam)(
            net,
            x,
            y if self.cam_class == "true" else None,
            before_norm=self.cam_maps == "before_norm",
        )

    def mask(self, net: Classifier, batch: Batch) -> Tensor:
        """Which pixels of the batch's (augmented) images are important: bool, (N,1,H,W).

        (N,3,H,W) with the rule jet-compat. With `masks_of=others`, and with the rule shuffled, each
        image has the mask of the next one in the batch, and the last image that of the first.
        """
        if self.rule == "oracle":
            assert batch.objects is not None, (
                "the trainer hands the masks over where `objects` asks for them"
            )
            mask = batch.objects
        elif self.rule in cam.BLIND:
            mask = cam.blind_mask(self.rule, batch.x)
        else:
            size = batch.x.shape[2], batch.x.shape[3]
            mask = cam.importance_mask(self.heat(net, batch.x, batch.y), self.rule, size)
        # `importance_mask` has already rolled the masks of the rule shuffled
        return mask.roll(-1, 0) if self.masks_of == "others" and self.rule != "shuffled" else mask

    def radii(self, net: Classifier, batch: Batch) -> Tensor:
        """The radius of each pixel, (N,1,H,W), or (N,3,H,W) with the rule jet-compat.

        It is ε on important pixels, else `eps_low` (7/8 ε if that is not set), also during the
        warm-up, which `budget` and `scaled` take into account.
        """
        assert self.attack.eps is not None, "bound() fills it in"
        return cam.budget_map(
            self.mask(net, batch),
            self.attack.eps,
            7 / 8 * self.attack.eps if self.eps_low is None else self.eps_low,
        )

    def budget(self, net: Classifier, batch: Batch) -> Tensor | None:
        clips = self.apply == "clip" and batch.progress >= self.warmup
        return self.radii(net, batch) if clips else None

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        return self.scaled(net, batch, super().attacked(net, batch))

    def scaled(self, net: Classifier, batch: Batch, x_adv: Tensor) -> Tensor:
        """The attacked images `x_adv`, with each pixel's perturbation multiplied by the pixel's
        radius (`radii`) over ε.

        During the warm-up, and with `apply=clip`, `x_adv` is returned unchanged.
        """
        if self.apply == "clip" or batch.progress < self.warmup:
            return x_adv
        with self.attackable(net, batch.x) as fast:
            radii, full = self.radii(fast, batch), float(self.attack.eps or 0)
        shorter = batch.x + (x_adv - batch.x) * (radii / full)
        # keep x_adv bit-identical at the full radius, which x + (x_adv − x) need not be
        return torch.where(radii == full, x_adv, shorter.clamp(0, 1))


PAPER = (
    "Zhang et al.: Improving accuracy-robustness trade-off via pixel reweighted adversarial"
    " training (ICML 2024)"
)
CHOICES = (
    "The mask is computed from the attacked image itself, for the true class, from the map's"
    " values. The released code takes another image's, for the predicted class, from jet colours"
    " (masks_of, cam_class, jet-compat). Its preset is cifar10-part-as-released."
)


@register("method/part")
@dataclass(frozen=True)
class PART(PGDAT, Reweighted):
    """PGD-AT with a radius per pixel. `Reweighted` has the source and the differences."""

    label = "PART"
    paper = PAPER
    text = (
        "PGD-AT with the full ε only on pixels that the class-activation map marks as important,"
        " and slightly less elsewhere. Tested at the full ε everywhere."
    )
    choices = CHOICES


@register("method/part_t")
@dataclass(frozen=True)
class PARTT(TRADES, Reweighted):
    """TRADES with a radius per pixel. `Reweighted` has the source and the differences."""

    label = "PART-T"
    paper = PAPER
    text = (
        "TRADES whose attack has the full ε on important pixels and slightly less elsewhere. Tested"
        " at the full ε everywhere."
    )
    choices = CHOICES

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        return self.scaled(net, batch, super().attacked(net, batch))  # TRADES's attack


@register("method/part_m")
@dataclass(frozen=True)
class PARTM(MART, Reweighted):
    """MART with a radius per pixel. `Reweighted` has the source and the differences.

    By default β is 5, as in MART; PART's authors use 6.
    """

    label = "PART-M"
    paper = PAPER
    text = (
        "MART whose attack has the full ε on important pixels and slightly less elsewhere. Tested"
        " at the full ε everywhere."
    )
    choices = CHOICES + " β is MART's own 5 (the authors of PART use 6, as cifar10-part-m does)."
