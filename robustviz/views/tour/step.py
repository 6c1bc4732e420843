"""What a step of the tour is: a question to guess at, a first screen, what is seen on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustviz.views.screen import Screen


@dataclass(frozen=True)
class Step:
    """One step. `options`: what can be guessed, of which the one at `right` is what was measured;
    `told`: what is seen, in one or two sentences; `address`: the page that goes on from here;
    `hides`: whether the picture itself would tell the answer.
    """

    key: str
    title: str
    intro: str
    question: str
    options: Sequence[str]
    right: int
    told: str
    address: str
    screen: Screen
    hides: bool = True


def choices(n: int, right: int) -> tuple[list[str], int]:
    """Three counts of `n` to guess among, in order, and the position of `right`, which is one of
    them; the others are the two of a tenth, a half and nine tenths that lie furthest from it.
    """
    others = sorted((n // 10, n // 2, 9 * n // 10), key=lambda each: -abs(each - right))[:2]
    every = sorted({right, *others})
    return [f"{each:,} of {n:,}" for each in every], every.index(right)


def score(steps: Sequence[Step], guesses: Sequence[int | None]) -> str:
    """How many guesses were right, of those made."""
    made = [(step, guess) for step, guess in zip(steps, guesses, strict=False) if guess is not None]
    right = sum(guess == step.right for step, guess in made)
    return f"{right} of {len(made)} guessed rightly"
