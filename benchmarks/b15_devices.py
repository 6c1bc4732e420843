"""B15: accuracy under PGD-10 counted by a GPU, against the processor beside it: the same network,
images and starting points.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from benchmarks import setting
from benchmarks.harness import OURS, Gate, Outcome, Racer, Time, race
from robustviz.attacks import PGD
from robustviz.data import Shapes
from robustviz.nets.base import Classifier
from robustviz.training.evaluate import count_right

CLOSE = 0.3  # points
ROUND = 2000  # images after which it is asked whether the difference is known
MOST = 20_000
TIMED = 250  # images of the race
KNOWN = 2.0  # standard errors


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """On the GPU, whose convolutions are TF32 where torch has that on, and on the CPU."""
    if device == "cuda":
        yield against(
            ("GPU", "cuda", contextlib.nullcontext),
            ("its CPU", "cpu", contextlib.nullcontext),
            MOST,
            rounds or 3,
        )


# (name, device, what holds while it counts)
Place = tuple[str, str, Callable[[], AbstractContextManager[object]]]


def against(here: Place, there: Place, most: int, rounds: int, note: str = "") -> Outcome:
    """The shipped PGD-AT network on images drawn for the purpose, until the difference of the two
    counts is known to lie within `CLOSE` points, or beyond, by `KNOWN` standard errors; at most
    `most` images. The attack starts at the image, because a GPU's random numbers are not a
    processor's. Timed is the count of the first `TIMED`.
    """
    run = setting.shipped("shapes", "pgd_at")
    attack = PGD(eps=run.eps, steps=10, start="zero")
    nets = {name: run.net().to(device) for name, device, _ in (here, there)}
    held: dict[str, list[Tensor]] = {name: [] for name in nets}
    seen = 0
    x, y = setting.unseen(Shapes(), 2000, most)  # the first 2,000 are those it learned from

    def count(place: Place, net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        with place[2]():
            return count_right(net, images.to(place[1]), labels.to(place[1]), attack)

    while seen < len(x) and not (
        seen and _is_known(*(torch.cat(parts) for parts in held.values()))
    ):
        some, labels = x[seen : seen + ROUND], y[seen : seen + ROUND]
        for place in (here, there):
            held[place[0]].append(count(place, nets[place[0]], some, labels))
        seen += len(some)
    mine, theirs = (torch.cat(parts) for parts in held.values())
    gap = 100 * (float(mine.float().mean()) - float(theirs.float().mean()))
    says = (
        f"robust accuracy {100 * float(mine.float().mean()):.2f} % ({here[0]}) and"
        f" {100 * float(theirs.float().mean()):.2f} % ({there[0]}) of {seen:,} images, which"
        f" {int((mine != theirs).sum())} of them decide; at most {CLOSE} points apart"
    )
    some, labels = x[:TIMED], y[:TIMED]
    racers = [
        Racer(name, functools.partial(count, place, nets[place[0]], some, labels))
        for name, place in ((OURS, here), (there[0], there))
    ]
    times: tuple[Time, ...] = race(racers, rounds, here[1])
    what = f"PGD-10 on small_resnet, fp32, {here[0]}"
    return Outcome(
        "B15",
        what,
        f"{len(some):,} drawn shapes",
        times,
        {},
        (Gate(says, abs(gap) <= CLOSE),),
        note,
    )


def _is_known(mine: Tensor, theirs: Tensor) -> bool:
    """Whether the difference of two counts of the same images is clearly within, or clearly beyond,
    what is close.
    """
    n = len(mine)
    apart = mine.float() - theirs.float()
    gap, error = (
        100 * float(apart.mean()),
        100 * math.sqrt(float(apart.square().mean()) / n + 1 / n**2),
    )
    return abs(abs(gap) - CLOSE) > KNOWN * error
