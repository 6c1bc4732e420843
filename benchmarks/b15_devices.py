"""B15: accuracy under PGD-10 on a GPU, against the CPU of the same machine, with the same network,
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

CLOSE = 0.3  # percentage points
ROUND = 2000  # number of images between two tests whether the difference is known
MOST = 20_000
TIMED = 250  # number of images for the race
KNOWN = 2.0  # in standard errors


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Counted on the GPU, with TF32 convolutions if torch has those on, and on the CPU."""
    if device == "cuda":
        yield against(
            ("GPU", "cuda", contextlib.nullcontext),
            ("its CPU", "cpu", contextlib.nullcontext),
            MOST,
            rounds or 3,
        )


# (name, device, context manager in which it counts)
Place = tuple[str, str, Callable[[], AbstractContextManager[object]]]


def against(here: Place, there: Place, most: int, rounds: int, note: str = "") -> Outcome:
    """Compare the robust accuracy of the shipped PGD-AT network on two devices.

    The images are drawn for this purpose. More are added, up to `most`, until the difference is
    known to lie within `CLOSE` percentage points or beyond, by `KNOWN` standard errors. The attack
    starts at the clean image, because GPU and CPU draw different random numbers. The race times the
    count on the first `TIMED` images.
    """
    run = setting.shipped("shapes", "pgd_at")
    attack = PGD(eps=run.eps, steps=10, start="zero")
    nets = {name: run.net().to(device) for name, device, _ in (here, there)}
    held: dict[str, list[Tensor]] = {name: [] for name in nets}
    seen = 0
    x, y = setting.unseen(Shapes(), 2000, most)  # the network was trained on the first 2,000

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
        f"robust accuracy {100 * float(mine.float().mean()):.2f}% ({here[0]}) and"
        f" {100 * float(theirs.float().mean()):.2f}% ({there[0]}) of {seen:,} images, which"
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
    """Whether the difference between two counts on the same images is clearly below or clearly
    above `CLOSE`.
    """
    n = len(mine)
    apart = mine.float() - theirs.float()
    gap, error = (
        100 * float(apart.mean()),
        100 * math.sqrt(float(apart.square().mean()) / n + 1 / n**2),
    )
    return abs(abs(gap) - CLOSE) > KNOWN * error
