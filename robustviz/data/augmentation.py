"""Random flips and shifts of a training batch. Tensor operations over the whole batch, so the cost
does not grow with a Python loop, and the generator is handed in, so that two methods with one seed
see the same pictures.
"""

from __future__ import annotations

import torch

from robustviz.registry import unknown
from robustviz.types import UserError

AUGMENTATIONS = ("none", "flip", "crop", "crop_flip")


def augment(name: str, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`x` (N, C, H, W), float or uint8, each sample flipped left-right with probability 1/2 and/or
    shifted.

    name: none | flip | crop | crop_flip. The shift is uniform, up to 1/8 of the size each way, and
    what comes in from outside repeats the edge. `generator` is on x's device. Same generator state,
    same result; `x` is not changed.
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
        # one number a sample and axis, also where H and W differ
        most = max(1, size // 8)
        by = torch.randint(-most, most + 1, (n, 1), generator=generator, device=x.device)
        # Repeating the edge, not zeros: a black bar is a cue of its own and a straight
        # high-contrast line that an attack can use; on MNIST's black border both are the same.
        return (torch.arange(size, device=x.device) + by).clamp_(0, size - 1)

    sample = torch.arange(n, device=x.device)[:, None, None]
    rows, cols = shifted(h)[:, :, None], shifted(w)[:, None, :]
    # advanced indices around a slice put the channel last
    return x[sample, :, rows, cols].permute(0, 3, 1, 2).contiguous()
