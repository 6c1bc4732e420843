"""What follows from a seed and a schedule: which images come when, how long each stage lasts, how
fast the weights move.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustviz.methods.base import Stage


def seed_of(*parts: object) -> int:
    """A 63-bit seed from what it is for; different purposes never share a stream of numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def learning_rate(schedule: str, top: float, progress: float) -> float:
    """The rate at `progress` (0 to 1) of a stage. cyclic: up over the first 30 %, then down to 0,
    both straight.
    """
    share = {
        "cyclic": progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "step": 1.0 if progress < 0.75 else 0.1 if progress < 0.9 else 0.01,
    }
    return top * share.get(schedule, 1.0)


def balanced_order(y: Tensor, rng: torch.Generator) -> Tensor:
    """Positions of all samples in random order, in pairs of one class, so that a batch of even size
    has at least two of each class in it. A class with an odd count repeats one sample. `y` (N,) on
    the CPU; every class needs two.
    """
    pairs = []
    for label in y.unique().tolist():
        where = (y == label).nonzero().squeeze(1)
        where = where[torch.randperm(len(where), generator=rng)]
        pairs.append(torch.cat([where, where[:1]])[: len(where) + len(where) % 2].view(-1, 2))
    both = torch.cat(pairs)
    return both[torch.randperm(len(both), generator=rng)].flatten()


def planned(stages: Sequence[Stage], total: int) -> list[tuple[Stage, int, int]]:
    """Each stage with its first of `total` epochs and the one after its last; every stage gets at
    least one.
    """
    edges, share = [0], 0.0
    for number, stage in enumerate(stages, start=1):
        share += stage.share_of_epochs
        edges.append(
            min(max(round(share * total), edges[-1] + 1), total - (len(stages) - number))
            if number < len(stages)
            else total
        )
    return list(zip(stages, edges[:-1], edges[1:], strict=True))
