"""Compares two networks on the same images in one sentence, and says how certain that is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from robustviz.stats import FEW, Bools, mcnemar, tango, wilson
from robustviz.types import UserError, eps_text, listed, points_text


@dataclass(frozen=True)
class Verdict:
    """The comparison of two networks in words, or the result of one network. `line`: which network
    is better, with both numbers of right images, or "No difference shown"; for one network, how
    many images it is right on. `winner`: the name of the better network; empty if no difference is
    shown, or for one network. `sure`: sentences on how it was measured: first a caveat, then the
    measurement, then the statistics.
    """

    line: str
    sure: tuple[str, ...]
    winner: str = ""


def held(
    a: Bools,
    b: Bools | None = None,
    *,
    attack: str,
    eps: float,
    seed: int | Collection[int] = 0,
    names: tuple[str, str] = ("A", "B"),
    alone: str = "is right",
    images: str = "attacked images",
) -> Verdict:
    """The verdict on two networks, from the images that each classifies correctly. `a`, `b` (N,):
    whether the network is right on each of the same N images; without `b`, the verdict is on one
    network alone. A difference is shown only if its paired 95% interval excludes 0 and it does not
    round to 0 percentage points.

    `attack`: the attack's printed name, such as PGD-20; `eps`: its radius; `seed`: the seed of its
    noise, or several seeds if it is not the same everywhere. At ε = 0 the sentences are about clean
    images. `names`: of the networks; `alone`: the verb in "On 3 of 50 images only A is right";
    `images`: what the images are called. Raises UserError if `a` and `b` differ in length.
    """
    if b is not None and a.shape != b.shape:
        raise UserError(
            f"{len(a)} and {len(b)} images cannot be compared in pairs: measure both networks on"
            " the same images."
        )
    n, first = len(a), int(np.sum(a))
    of = images if eps > 0 else "untouched images"
    if b is None:
        line = f"{names[0]} is right on {first:,} of {n:,} {of}."
        return Verdict(line, (*_alone(first, n), *_protocol(n, attack, eps, seed)))
    second, (low, high) = int(np.sum(b)), _interval(a, b)
    winner, loser, most, least = (
        (*names, first, second) if first > second else (*names[::-1], second, first)
    )
    if (low > 0 or high < 0) and round(100 * (most - least) / n):
        better = "more robust" if eps > 0 else "more accurate"
        line = f"{winner} is {better}: it is right on {most:,} of {n:,} {of}, {loser} on {least:,}."
    else:
        line = (
            f"No difference shown: {names[0]} is right on {first:,} of {n:,} {of}, {names[1]} on"
            f" {second:,}."
        )
        winner = ""
    only = int(np.sum(a & ~b)), int(np.sum(~a & b))
    p = mcnemar(*only)
    sure = (
        "These are two networks with one training seed each: other seeds may give another result.",
        *_protocol(n, attack, eps, seed),
        f"On {only[0]:,} of {n:,} images only {names[0]} {alone}, on {only[1]:,} only {names[1]}.",
        f"{names[1]} minus {names[0]}: {points_text((second - first) / max(n, 1))} percentage"
        " points.",
        f"Its 95% interval (Tango, paired): {points_text(-high)} to {points_text(-low)}"
        " percentage points.",
        f"Exact McNemar test: p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}.",
    )
    return Verdict(line, sure, winner)


def _interval(a: Bools, b: Bools) -> tuple[float, float]:
    return tango(int(np.sum(a & ~b)), int(np.sum(~a & b)), len(a))


def _alone(k: int, n: int) -> tuple[str, ...]:
    low, high = wilson(k, n)
    return (
        "This is one network with one training seed: another seed may give another result.",
        f"The 95% interval is {low:.0%} to {high:.0%} (Wilson).",
    )


def _protocol(n: int, attack: str, eps: float, seed: int | Collection[int]) -> tuple[str, ...]:
    """Sentences on how it was measured: what an accuracy under attack means, the images, the
    attack.
    """
    seeds = [seed] if isinstance(seed, int) else sorted(set(seed))
    few = (f"{n} images are few: use at least {FEW}.",) if n < FEW else ()
    if not eps:
        return (f"Measured on n = {n:,} untouched test images.", *few)
    return (
        "A stronger attack may fool more images, so the accuracy under attack is an upper bound.",
        f"Measured on the same n = {n:,} test images.",
        *few,
        f"{attack} at ε = {eps_text(eps)}, noise of seed{'s' * (len(seeds) > 1)}"
        f" {listed([*map(str, seeds)])}.",
    )
