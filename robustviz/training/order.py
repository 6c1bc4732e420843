"""Computes the parts of a training that need no network: seeds, the order of the images, the epochs
of each stage, and the learning rate.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustviz.methods.base import Stage
from robustviz.registry import unknown
from robustviz.types import UserError, parse_number

# the schedules, and the shares of a stage at which each turns by default
TURNS: dict[str, tuple[float, ...]] = {
    "cyclic": (0.3,),
    "cosine": (),
    "step": (0.75, 0.9),
    "constant": (),
}


def seed_of(*parts: object) -> int:
    """Returns a 63-bit seed computed from `parts`, such as a seed, a purpose and an epoch. Other
    parts give another seed, and so other random numbers.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@functools.cache
def turns(schedule: str) -> tuple[str, tuple[float, ...]]:
    """Returns the name of a schedule and its turns: the shares of a stage, ascending and between 0
    and 1, at which the learning rate turns. `schedule` is a name in `TURNS`, with the turns given
    there, or a name with turns of its own after an `@`, as in `step@1/2,3/4` or `cyclic@1/2`.
    Raises UserError for an unknown schedule and for unusable turns.
    """
    name, at, given = schedule.partition("@")
    if name not in TURNS:
        raise UserError(unknown("schedule", schedule, TURNS), code=2)
    shares = tuple(map(parse_number, given.split(","))) if at else TURNS[name]
    if at and not (
        (name == "step" or (name == "cyclic" and len(shares) == 1))
        and all(before < after for before, after in itertools.pairwise((0, *shares, 1)))
    ):
        raise UserError(
            f"There is no schedule {schedule}: after the @ write increasing fractions of the"
            " training between 0 and 1, as in step@1/2,3/4, or one, as in cyclic@1/2.",
            code=2,
        )
    return name, shares


def learning_rate(schedule: str, top: float, progress: float) -> float:
    """Returns the learning rate at `progress` (0 to 1) of a stage. cyclic: linear from 0 up to
    `top` at its turn, then linear down to 0. step: divided by 10 at each turn. cosine: half a
    cosine wave from `top` to 0. constant: `top`. Raises UserError as `turns` does.
    """
    name, shares = turns(schedule)
    if name == "cyclic":
        peak = shares[0]
        return top * (progress / peak if progress < peak else (1 - progress) / (1 - peak))
    if name == "cosine":
        return top * (0.5 * (1 + math.cos(math.pi * progress)))
    return top * (1 / 10.0 ** sum(progress >= share for share in shares))


def balanced_order(y: Tensor, rng: torch.Generator) -> Tensor:
    """Returns the indices of all samples in random order, in pairs of one class, so that a class
    that occurs in a batch of even size occurs at least twice. A class with an odd count repeats one
    sample; a class of one sample pairs it with itself. `y` (N,) is on the CPU.
    """
    pairs = []
    for label in y.unique().tolist():
        where = (y == label).nonzero().squeeze(1)
        where = where[torch.randperm(len(where), generator=rng)]
        pairs.append(torch.cat([where, where[:1]])[: len(where) + len(where) % 2].view(-1, 2))
    both = torch.cat(pairs)
    return both[torch.randperm(len(both), generator=rng)].flatten()


def planned(stages: Sequence[Stage], total: int) -> list[tuple[Stage, int, int]]:
    """Returns (stage, its first epoch, the epoch after its last) for each stage, with epochs
    counted from 0, so that together they fill `total` epochs. Every stage gets at least one epoch,
    so `total` must not be below the number of stages.
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
