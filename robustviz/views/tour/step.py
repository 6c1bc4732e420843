"""The parts of one step of the tour: a question to guess at, a first screen, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustviz.views.screen import Screen


@dataclass(frozen=True)
class Step:
    """One step of the tour.
    `options`: the possible guesses; `right`: the index of the correct one; `told`: the answer in a
    few sentences; `address`: the page on which to continue, as `page?query`; `hides`: whether the
    picture must be hidden until the guess, because it shows the answer; `reveals`: the index of the
    slider's position that shows the answer, to which the slider is moved after the guess (None: it
    is not moved); `before`: the screen that is shown until the guess, if not `screen`.
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
    An option is text such as `17 of 200`. The other two counts are 1 to 8 above two of n/10, n/2
    and 9n/10, because a round number would look invented; of the three candidates those furthest
    from `right` are taken. `n` must be at least 80.
    """
    around = [count + 1 + (right + count) % 8 for count in (n // 10, n // 2, 9 * n // 10)]
    others = sorted(around, key=lambda each: -abs(each - right))[:2]
    every = sorted({right, *others})
    return [f"{each:,} of {n:,}" for each in every], every.index(right)


def score(steps: Sequence[Step], guesses: Sequence[int | None]) -> str:
    """In words, how many of the guesses made so far were right, such as `2 of 3 guesses right`.
    `guesses`: for each step the index of the guessed option, or None for no guess yet.
    """
    made = [(step, guess) for step, guess in zip(steps, guesses, strict=False) if guess is not None]
    return f"{sum(guess == step.right for step, guess in made)} of {len(made)} guesses right"
