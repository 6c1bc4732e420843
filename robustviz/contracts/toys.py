"""Tiny images and networks on which promises are checked.
N, C, H and W are all different, so that no wrong broadcast goes unnoticed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.nets.base import Classifier, Normalise

N, C, H, W = 12, 2, 9, 7


def images() -> Tensor:
    """Random images (12, 2, 9, 7), float32 in [0, 1]; some pixels are exactly 0 or 1."""
    x = torch.rand((N, C, H, W), generator=torch.Generator().manual_seed(7))
    return ((x - 0.5) * 1.2 + 0.5).clamp(0, 1)


def labels() -> Tensor:
    """The labels of `images`, (12,), int64, of 4 classes."""
    return torch.arange(N) % 4


def conv(seed: int = 0) -> Classifier:
    """A small untrained network for 4 classes, in eval mode: two convolutions with batch norm.

    The statistics of batch norm are those of random images, not the initial ones. `seed`: the seed
    of the weights and of these random images. torch's global generator is left as it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        maps = nn.Sequential(
            Normalise(C, [0.4, 0.6], [0.3, 0.2]),
            nn.Conv2d(C, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Conv2d(5, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        )  # fmt: skip
        net = Classifier(maps, nn.Linear(6, 4))
        net.train()
        with torch.no_grad():
            for _ in range(5):
                net(torch.rand(16, C, H, W))
    return net.eval()


@dataclass(frozen=True)
class Toy:
    """A trained network and its training images: `net` classifies nearly all of `x` as `y`, but
    attacks can fool it.
    """

    net: Classifier
    x: Tensor
    y: Tensor


@functools.cache
def toy() -> Toy:
    """The network `conv`, trained on 80 noisy copies of four patterns, and these images as a `Toy`.
    It is trained at the first call. All calls return the same object, so callers must not change
    it.
    """
    rng = torch.Generator().manual_seed(1)
    y = torch.arange(80) % 4
    x = (
        0.3 * torch.rand((4, C, H, W), generator=rng)[y]
        + 0.35
        + 0.05 * torch.randn((80, C, H, W), generator=rng)
    ).clamp(0, 1)
    net = conv(seed=1).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return Toy(net.eval(), x, y)
