"""What every network here is: `head(pool(maps(x)))`, with the normalisation as the first layer of `maps`.

Attacks and pages work on [0, 1] pixels only; a checkpoint carries its own mean and standard deviation. CAM views
differentiate the logits by `maps`, feature views read `pool`, and neither knows the name of an architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x − mean) / std per channel; mean and std are buffers, so they travel with the weights. None: identity."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean or [0.0] * channels, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std or [1.0] * channels, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class ImageNet(nn.Module):
    """A classifier of images in [0, 1] in three parts: feature maps (N,D,h,w), features (N,D), logits (N,K)."""

    def __init__(self, maps: nn.Module, head: nn.Module, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.maps = maps
        self.pool = pool or nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.maps(x)))


def stem_stride(size: int) -> int:
    """1 up to 16 pixels, 2 up to 40, 4 above: a small net then costs about the same on every data set."""
    return 1 if size <= 16 else 2 if size <= 40 else 4


@contextmanager
def frozen(net: nn.Module, mode: Literal["eval", "train"] = "eval") -> Iterator[None]:
    """Inside, the net is in `mode` and no parameter asks for a gradient; afterwards every module and parameter is as
    it was, one by one, because `net.train()` would wake layers that somebody froze on purpose.
    """
    modes = [(module, module.training) for module in net.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    net.train(mode == "train")
    net.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in grads:
            parameter.requires_grad_(wanted)
