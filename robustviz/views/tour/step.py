"""The parts of one step of the tour: a question to guess at, a first screen, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustviz.views.screen import Screen


@dataclass(frozen=True)
class Step:
    """One step of the tour.
    `options`: the possible guesses; `right`: the index of the correct one; `told`: the answer in
    one or two sentences; `address`: the page on which to continue, as `page?query`; `hides`:
    whether the picture must be hidden until the guess, because it shows the answer; `reveals`: the
    index of the control's position that shows the answer, to which it is moved after the guess;
    None: it is not moved; `before`: what is shown instead of `screen` until the guess, if anything.
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
    reveals: int | None = None
    before: Screen | None = None


def choices(n: int, right: int) -> tuple[list[str], int]:
    """Three counts out of `n` as options in ascending order, and the index of `right` among them.
    The other two are near those of n/10, n/2 and 9n/10 that are furthest from `right`, but not
    round, since a round number would look invented. `n` must be at least 80.
    """
    around = [count + 1 + (right + count) % 8 for count in (n // 10, n // 2, 9 * n // 10)]
    others = sorted(around, key=lambda each: -abs(each - right))[:2]
    every = sorted({right, *others})
    return [f"{each:,} of {n:,}" for each in every], every.index(right)


def score(steps: Sequence[Step], guesses: Sequence[int | None]) -> str:
    """In words, how many of the guesses made so far were right, such as `2 of 3 guesses right`.
    `guesses`: for each step the index of the guessed option, or None.
    """
    made = [(step, guess) for step, guess in zip(steps, guesses, strict=False) if guess is not None]
    right = sum(guess == step.right for step, guess in made)
    return f"{right} of {len(made)} guesses right"
