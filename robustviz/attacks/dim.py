"""DIM (diverse inputs): gradient ascent that resizes and shifts the image at random in each step.
Its perturbation therefore depends less on exact pixel positions and transfers better.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz.attacks.mim import MIM
from robustviz.registry import option, register


@register("attack/dim")
@dataclass(frozen=True, kw_only=True)
class DIM(MIM):
    """MIM whose steps, with probability `diversity`, see the image shrunk and padded at random.

    The shrunk image is placed at a random position on a black background. It only serves to compute
    the gradient: the image that the step changes is not transformed.

    Source: Xie et al. 2019 (arXiv 1803.06978), eq. 5 and 6. Differs: the transformed image keeps
    its original size, so any network accepts it (the paper enlarges it from 299 to 330 pixels), is
    resized bilinearly, and momentum is off unless `decay` is set. All three are as in torchattacks,
    the library with which Model Alignment measures transfer. One transformation per step is drawn
    for the whole batch.
    """

    decay: float = option(
        0.0,
        "Momentum: how much of the previous direction is added to the next; 0: no momentum.",
        low=0,
        high=10,
    )
    diversity: float = option(
        0.5, "Probability that a step sees a transformed image.", low=0, high=1
    )
    resize: float = option(
        0.9,
        "Smallest side of the shrunk image, as a share of the original side; it shrinks by at"
        " least one pixel.",
        low=0.1,
        high=1,
    )

    label = "DIM"
    text = (
        "PGD that randomly shrinks and shifts the image in some steps: its images transfer"
        " better to other networks."
    )

    def transform_input(self, z: Tensor, rng: torch.Generator) -> Tensor:
        # Always draw four numbers, so that the random numbers of a step do not depend on whether
        # earlier steps transformed the image.
        chance, scale, down, right = torch.rand(4, generator=rng, device=rng.device).tolist()
        if chance >= self.diversity:
            return z
        height, width = (
            between(smallest(side, self.resize), side - 1, scale) for side in z.shape[2:]
        )
        top, left = between(0, z.shape[2] - height, down), between(0, z.shape[3] - width, right)
        return F.pad(
            F.interpolate(z, size=(height, width), mode="bilinear", align_corners=False),
            (left, z.shape[3] - width - left, top, z.shape[2] - height - top),
        )


def smallest(side: int, share: float) -> int:
    """The smallest side of a shrunk image in pixels: `share` × `side` rounded down, but at least 1
    and below `side`. For a share of .9 it is 7 of 8 pixels and 28 of 32.
    """
    return max(min(math.floor(share * side), side - 1), 1)


def between(low: int, high: int, share: float) -> int:
    """The integer at fraction `share` (in [0, 1)) of the range low … high, both included; `low` if
    `high` is smaller. If `share` is uniform, all integers of the range are equally likely.
    """
    return low + int(share * (max(high, low) - low + 1))
