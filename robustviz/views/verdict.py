"""Which of two networks holds more images of the same, in one sentence, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import FEW, Bools, mcnemar, tango, wilson
from robustviz.types import UserError, eps_text, points_text


@dataclass(frozen=True)
class Verdict:
    """`line`: who is better by how much, or "No difference shown". `winner`: the better one's name,
    empty where none is shown. `sure`: the protocol, words first, a sentence each.
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
    seed: int = 0,
    names: tuple[str, str] = ("A", "B"),
    alone: str = "is right on",
    images: str = "attacked images",
) -> Verdict:
    """The verdict on two networks, from what each got right of the same attacked images: `a`, `b`
    (N,); on one alone where `b` is None. `attack` as printed (PGD-20), `eps` its radius, `seed` of
    its noise; `alone` says what is counted, `images` what they are called. At ε = 0 it is about
    untouched images. Raises UserError for images that do not pair.
    """
    if b is not None and a.shape != b.shape:
        raise UserError(
            f"{len(a)} and {len(b)} images cannot be compared in pairs: measure both networks on"
            " the same images."
        )
    n, first = len(a), int(np.sum(a))
    does, of = ("holds", images) if eps > 0 else ("reads", "untouched images right")
    if b is None:
        line = f"{names[0]} {does} {first} of {n} {of}."
        return Verdict(line, (*_alone(first, n), *_protocol(n, attack, eps, seed)))
    second, (low, high) = int(np.sum(b)), _interval(a, b)
    winner, loser, most, least = (
        (*names, first, second) if first > second else (*names[::-1], second, first)
    )
    if (low > 0 or high < 0) and round(100 * (most - least) / n):
        better = "more robust" if eps > 0 else "more accurate"
        line = f"{winner} is {better}: it {does} {most} of {n} {of}, {loser} {least}."
    else:
        line = f"No difference shown: {names[0]} {does} {first} of {n} {of}, {names[1]} {second}."
        winner = ""
    only = int(np.sum(a & ~b)), int(np.sum(~a & b))
    p = mcnemar(*only)
    sure = (
        "These are two networks, with one training seed a side: other seeds can decide otherwise.",
        *_protocol(n, attack, eps, seed),
        f"{names[0]} alone {alone} {only[0]} of {n}, {names[1]} alone"
        f" {alone.split()[-1]} {only[1]}.",
        f"{names[1]} less {names[0]}: {points_text((second - first) / max(n, 1))} points.",
        f"Its 95 % interval (Tango, paired): {points_text(-high)} to {points_text(-low)} points.",
        f"Exact McNemar test: p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}.",
    )
    return Verdict(line, sure, winner)


def _interval(a: Bools, b: Bools) -> tuple[float, float]:
    return tango(int(np.sum(a & ~b)), int(np.sum(~a & b)), len(a))


def _alone(k: int, n: int) -> tuple[str, ...]:
    low, high = wilson(k, n)
    return (
        "This is one network with one training seed: another seed gives another number.",
        f"The 95 % interval is {low:.0%} to {high:.0%} (Wilson).",
    )


def _protocol(n: int, attack: str, eps: float, seed: int) -> tuple[str, ...]:
    """How it was measured: what such a number is, the images, the attack."""
    few = (f"{n} images are few: take at least {FEW}.",) if n < FEW else ()
    if not eps:
        return (f"Measured on n = {n} test images, nothing changed.", *few)
    return (
        "An attack that fails proves nothing: what is held is an upper bound.",
        f"Measured on n = {n} test images, the same for every network.",
        *few,
        f"{attack} at ε = {eps_text(eps)}, noise of seed {seed}.",
    )
