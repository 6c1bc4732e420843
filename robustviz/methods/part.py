"""Pixel-reweighted adversarial training: the full radius where the class is decided, a smaller one
elsewhere.
"""

from dataclasses import dataclass
from typing import Literal

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
    """What the PART family adds to its base method: a radius for each pixel, from the
    class-activation map. Named after the base method in a class's bases, so that the base's own
    attack stays the default.

    Source: Zhang et al. 2024 (PART, arXiv 2406.00685), algorithm 1, and the authors' code. Differs,
    because the released code leaves the paper's idea (methods.md §1): the mask is computed from the
    very batch that is attacked, thresholded on the heat itself and not on its jet colours, at the
    true class; the warm-up is a share of the training. With ε_low = ε the base method comes out,
    bit for bit.
    """

    eps_low: float | None = option(
        None,
        "Radius of the pixels that matter less, in [0, 1]; empty: 7/8 of ε.",
        low=0,
        high=1,
        kind="radius",
    )
    rule: str = option(
        "z>1",
        "Which pixels matter: z>1, z>0, heat>0.5, top20%, ones, shuffled, jet-compat (as"
        " published), oracle (shapes: the true object), or all-but-upper-left and its like: all but"
        " one quarter of the image.",
        kind="rule",
        choices=(*cam.RULES, "oracle"),
    )
    warmup: float = option(
        0.25, "Share of the training with the full radius everywhere.", low=0, high=1
    )
    cam: Literal["grad_cam", "layer_cam"] = option(
        "grad_cam", "How the class-activation map is made.", advanced=True
    )
    cam_class: Literal["true", "predicted"] = option(
        "true",
        "Whose map: the true class's, or the predicted one's as the authors do.",
        advanced=True,
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
                f"The rule oracle needs true object masks, and {split.key} has none: use the"
                " data shapes, or the rule z>1."
            )
        if self.rule != "oracle":
            cam.check_rule(self.rule)
        if self.rule in ("oracle", *cam.BLIND):
            return
        few = split.take(2)
        if self.rule == "jet-compat" and few.x.shape[1] != 3:
            raise UserError(
                f"The rule jet-compat makes one mask for each of three colours, and {split.key} is"
                " grey: use the rule z>1."
            )
        if not isinstance(getattr(net, "maps", None), nn.Module):
            raise UserError(
                f"The network {config.net} has no feature maps to make a mask of: use another"
                " network, or the rule ones."
            )
        # refuses a map of one cell
        cam.importance_mask(
            self.heat(net, few.x, few.y), self.rule, (few.x.shape[2], few.x.shape[3])
        )

    def heat(self, net: Classifier, x: Tensor, y: Tensor) -> Tensor:
        """The raw class-activation map (N, h, w) of images `x`, at the class that the settings ask
        for.
        """
        return (cam.grad_cam if self.cam == "grad_cam" else cam.layer_cam)(
            net, x, y if self.cam_class == "true" else None
        )

    def mask(self, net: Classifier, batch: Batch) -> Tensor:
        """Which pixels matter, (N,1,H,W) bool ((N,3,H,W) for jet-compat), of this very batch as
        augmented.
        """
        if self.rule == "oracle":
            assert batch.objects is not None, (
                "the trainer hands the masks over where `objects` asks for them"
            )
            return batch.objects
        if self.rule in cam.BLIND:
            return cam.blind_mask(self.rule, batch.x)
        return cam.importance_mask(
            self.heat(net, batch.x, batch.y), self.rule, (batch.x.shape[2], batch.x.shape[3])
        )

    def budget(self, net: Classifier, batch: Batch) -> Tensor | None:
        if batch.progress < self.warmup:
            return None
        assert self.attack.eps is not None, "bound() fills it in"
        return cam.budget_map(
            self.mask(net, batch),
            self.attack.eps,
            7 / 8 * self.attack.eps if self.eps_low is None else self.eps_low,
        )


PAPER = (
    "Zhang et al.: Improving accuracy-robustness trade-off via pixel reweighted adversarial"
    " training (ICML 2024)"
)
CHOICES = (
    "The mask comes from this very batch, at the true class, from the heat itself. The released"
    " code uses the predicted class, masks of other images and a threshold on jet colours"
    " (cam_class, shuffled, jet-compat)."
)


@register("method/part")
@dataclass(frozen=True)
class PART(PGDAT, Reweighted):
    """PGD-AT within a radius per pixel. See `Reweighted` for source and differences."""

    label = "PART"
    paper = PAPER
    text = (
        "PGD-AT that allows the full ε only where the class-activation map says the class is"
        " decided, and slightly less elsewhere. Tested at the full ε everywhere."
    )
    choices = CHOICES


@register("method/part_t")
@dataclass(frozen=True)
class PARTT(TRADES, Reweighted):
    """TRADES within a radius per pixel. See `Reweighted` for source and differences."""

    label = "PART-T"
    paper = PAPER
    text = (
        "TRADES whose attack has the full ε on important pixels and slightly less elsewhere. Tested"
        " at the full ε everywhere."
    )
    choices = CHOICES


@register("method/part_m")
@dataclass(frozen=True)
class PARTM(MART, Reweighted):
    """MART within a radius per pixel. See `Reweighted` for source and differences; β is MART's 5
    here, theirs is 6.
    """

    label = "PART-M"
    paper = PAPER
    text = (
        "MART whose attack has the full ε on important pixels and slightly less elsewhere. Tested"
        " at the full ε everywhere."
    )
    choices = CHOICES + " β is MART's own 5 (the authors of PART use 6)."
