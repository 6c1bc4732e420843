"""Random flips and shifts of a training batch. They are tensor operations on the whole batch,
without a Python loop over images, and the caller passes the random generator, so that two methods
trained with the same seed see the same images.
"""

from __future__ import annotations

import torch

from robustviz.registry import unknown
from robustviz.types import UserError

AUGMENTATIONS = ("none", "flip", "crop", "crop_flip")


def augment(name: str, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The batch `x` (N, C, H, W), float or uint8, with each image randomly flipped and/or shifted.

    name: none, flip, crop (shift only) or crop_flip (both). A flip is left-right, with probability
    1/2. A shift is by a random whole number of pixels along each axis, uniform from −m to m, where
    m is 1/8 of the side, rounded down, but at least 1; the uncovered border repeats the edge
    pixels. `generator` must be on the device of `x`. The same generator state gives the same
    result. `x` is not changed; with `none` it is returned itself, not a copy. Raises UserError for
    an unknown name.
    """
    if name not in AUGMENTATIONS:
        raise UserError(unknown("augmentation", name, AUGMENTATIONS), code=2)
    if "crop" in name:
        x = _shift(x, generator)
    if "flip" in name:
        which = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
        x = torch.where(which, x.flip(-1), x)
    return x


def _shift(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    n, _, h, w = x.shape

    def shifted(size: int) -> torch.Tensor:
        # one random shift for each sample and axis; H and W may differ
        most = max(1, size // 8)
        by = torch.randint(-most, most + 1, (n, 1), generator=generator, device=x.device)
        # The edge is repeated instead of padding with zeros: a black bar would be an artificial
        # cue and a high-contrast line that an attack can use. MNIST's border is black anyway.
        return (torch.arange(size, device=x.device) + by).clamp_(0, size - 1)

    sample = torch.arange(n, device=x.device)[:, None, None]
    rows, cols = shifted(h)[:, :, None], shifted(w)[:, None, :]
    # index tensors on both sides of a slice move the channel axis to the end
    return x[sample, :, rows, cols].permute(0, 3, 1, 2).contiguous()
