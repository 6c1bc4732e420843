"""AALP: logit pairing with dropout of unimportant features and a weight for every pair."""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.data import Dataset
from robustviz.methods.alp import ALP
from robustviz.methods.base import Plan
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch, UserError


@register("method/aalp")
@dataclass(frozen=True)
class AALP(ALP):
    """ALP with guided dropout of low-contribution features and a weight per pair (our reading).

    Source: Wu et al. 2020 (arXiv 2005.11904): the two ideas. Differs: contribution, drop
    probability and weight formula are ours (docs/methods.md, AALP), because no official code was
    found and the text we could read has none. A feature's contribution is h_k·W_{y,k}, exact for a
    linear head. A contribution has a sign: in 30 shipped networks (300 test images each), 84 to 99
    % of those in the lower half are negative. So `contribution=signed` drops mostly evidence
    against the class, not weak evidence; `magnitude` ranks by |h_k·W_{y,k}| instead. Without
    dropout and with `pair_weight=ones` this is ALP.
    """

    keep: float = option(
        0.5, "Share of the features that are never dropped: see `dropped`.", low=0, high=1
    )
    drop: float = option(
        0.5,
        "Probability of dropping each of the other features, at the end of its rise.",
        low=0,
        high=0.95,
    )
    ramp: float = option(
        0.2,
        "Share of the training over which the drop probability rises from 0.",
        low=0,
        high=1,
        advanced=True,
    )
    dropped: Literal["low", "top", "random"] = option(
        "low",
        "Which features may be dropped: those with low contribution or, as a control, the top"
        " ones or random ones.",
        advanced=True,
    )
    pair_weight: Literal["adversarial", "clean", "loss", "ones"] = option(
        "adversarial", "A pair's weight: p(y|x'), p(y|x), 1/(1 + CE(x')), or 1.", advanced=True
    )

    contribution: Literal["signed", "magnitude"] = option(
        "signed",
        "Which contributions count as low: the most negative ones, against the true class"
        " (signed), or those near 0 (magnitude).",
        advanced=True,
        later=True,
    )

    label = "AALP (our reading)"
    paper = "Wu et al.: Adaptive adversarial logits pairing (2020; ACM TOMM)"
    text = (
        "Logit pairing that drops features which contribute little to the true class, or count"
        " against it. Each pair is weighted by the probability of the true class for its"
        " attacked image."
    )
    choices = (
        "No official code was found. Our reading: contribution h·W, the same mask for both"
        " images of a pair, drop rate 0 to .5, weight p(y|x'). Contributions have a sign: in"
        " shipped networks, 84 to 99% of those counted as low are negative, against the class."
    )

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        super().check(config, split, net)
        if self.drop > 0 and not isinstance(net.head, nn.Linear):
            raise UserError(
                f"Guided dropout needs a linear last layer, but {config.net} has none: set"
                " method.drop=0."
            )

    @property
    def _needs_clean(self) -> bool:
        return super()._needs_clean or self.drop > 0

    def rate(self, progress: float) -> float:
        """The drop probability when the share `progress` (0 to 1) of the training is done.

        It rises linearly from 0 to the setting `drop` at `progress` = `ramp`, then stays there.
        """
        return self.drop * (min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0)

    def guided_mask(self, contributions: Tensor, rate: float, rng: torch.Generator) -> Tensor:
        """A random factor for each feature, (N, D): 0 if the feature is dropped, 1/(1 − rate) if it
        could have been dropped but is not, and 1 if it cannot be dropped.

        Each image's features are ranked by `contributions` (N, D) or, if the setting `contribution`
        is `magnitude`, by their absolute values. The share `keep` with the highest values, rounded
        up, are the top features. Those that can be dropped are all others (`dropped=low`), the top
        ones (`top`) or all (`random`). `rate`: the drop probability; with `random` it is lowered so
        that on average as many features are dropped as with `low`. `rng`: a generator on the device
        of `contributions`.
        """
        count, width = contributions.shape
        kept = math.ceil(self.keep * width)
        ranked = contributions.abs() if self.contribution == "magnitude" else contributions
        place = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        if self.dropped == "random":
            at_risk, rate = torch.ones_like(place, dtype=torch.bool), rate * (width - kept) / width
        else:
            at_risk = place >= kept if self.dropped == "low" else place < kept
        lost = torch.rand(count, width, generator=rng, device=contributions.device) < rate
        return torch.where(at_risk, torch.where(lost, 0.0, 1 / (1 - rate)), 1.0).to(
            contributions.dtype
        )

    def _logits(self, net: Classifier, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        features = net.pool(net.maps(torch.cat([batch.x, x_adv])))
        if self.drop > 0:
            shares = contributions(features[: len(batch.x)], cast(nn.Linear, net.head), batch.y)
            mask = self.guided_mask(shares, self.rate(batch.progress), batch.rng)
            # the same mask for the clean and the attacked image
            features = features * mask.repeat(2, 1)
        logits, logits_adv = net.head(features).chunk(2)
        return logits, logits_adv

    def _weights(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor | None:
        if self.pair_weight == "ones":
            return None
        judged = (logits if self.pair_weight == "clean" else logits_adv).detach()
        return (
            1 / (1 + F.cross_entropy(judged, y, reduction="none"))
            if self.pair_weight == "loss"
            else judged.softmax(dim=1).gather(1, y[:, None]).squeeze(1)
        )


def contributions(features: Tensor, head: nn.Linear, y: Tensor) -> Tensor:
    """The contribution c_k = h_k·W_{y,k} of each feature to the logit z_y of class y, (N, D).

    `features` h (N, D) are the input of the linear `head` with weight W and bias b, `y` (N,) the
    class of each image; Σ_k c_k + b_y = z_y. The result is detached. Source: docs/methods.md, AALP;
    integrated gradients from the baseline 0 give the same.
    """
    return features.detach() * head.weight.detach()[y]
