"""What several seeds a side say about a difference between two methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustviz.stats import LEAST_SEEDS, mean_interval, t_quantile
from robustviz.types import UserError

POWER = 0.8  # how often a true difference of the size `notices` would be found
Word = Literal["seen here", "not seen here", "cannot tell", "cannot tell (ceiling)", "not decided"]


@dataclass(frozen=True)
class Verdict:
    """What the seeds say of one expected difference.

    `effect`: the mean over the seeds of A minus B, positive where A is as the claim has it; `low`,
    `high`: its interval; `seeds` of `wanted` seeds that both sides have; `notices`: how large a
    true difference these runs would find four times in five. Values that need more seeds than
    there are are NaN.
    """

    word: Word
    effect: float
    low: float
    high: float
    notices: float
    seeds: int
    wanted: int

    @property
    def text(self) -> str:
        """The verdict in words, as in `cannot tell (these runs would notice 0.04 or more)`."""
        if self.word == "not decided":
            few = "" if self.wanted >= LEAST_SEEDS else f"; a method needs {LEAST_SEEDS}"
            plural = "seed" if self.wanted == 1 else "seeds"
            return f"not decided ({self.seeds} of {self.wanted} {plural}{few})"
        if self.word == "cannot tell":
            return f"cannot tell (these runs would notice {self.notices:.2g} or more)"
        return self.word


def verdict(
    a: Mapping[int, float],
    b: Mapping[int, float],
    *,
    wanted: int,
    smallest: float,
    less: bool = False,
    not_worse: bool = False,
    top: float | None = None,
    claims: int = 1,
) -> Verdict:
    """Whether A differs from B as claimed; `a`, `b`: one number a seed, and seeds that both have
    are pairs, since they share initial weights and batches.

    A should be higher than B, with `less` lower, by at least `smallest`. With `not_worse` A may be
    worse by at most `smallest`. `top`: the best value there is; where B is so near to it that A
    cannot be higher by that much, the runs cannot tell. `claims`: how many verdicts are given at
    once; the interval holds the truth 95 % of the time for all of them together (Bonferroni).
    Raises UserError for a `smallest` that is not above 0 and for values that are no numbers.

    - *seen here*: the whole interval is above 0 and the effect is at least `smallest`; with
      `not_worse`: the whole interval is above −`smallest`.
    - *not seen here*: the whole interval is below `smallest`; with `not_worse` below −`smallest`.
    """
    if not smallest > 0:
        raise UserError(f"smallest={smallest!r}: the smallest effect that counts is above 0.")
    pairs = sorted(a.keys() & b.keys())
    sign = -1.0 if less else 1.0
    theirs = [b[seed] for seed in pairs]
    apart = np.array([sign * (a[seed] - b[seed]) for seed in pairs], dtype=np.float64)
    if not np.isfinite(apart).all():
        raise UserError("A measured value is no number, so there is no verdict.")
    if len(pairs) < max(LEAST_SEEDS, wanted):
        mean = float(apart.mean()) if len(pairs) else math.nan
        return Verdict("not decided", mean, math.nan, math.nan, math.nan, len(pairs), wanted)
    effect, low, high = mean_interval(apart, 1 - 0.05 / claims)
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    freedom = len(apart) - 1
    notices = error * (t_quantile(freedom, 1 - 0.05 / claims) + t_quantile(freedom, 2 * POWER - 1))
    bound = -smallest if not_worse else 0.0
    full = not (less or not_worse) and top is not None and top - float(np.mean(theirs)) < smallest
    word: Word = (
        "seen here"
        if low > bound and (not_worse or effect >= smallest)
        else "cannot tell (ceiling)"
        if full
        else "not seen here"
        if high < (-smallest if not_worse else smallest)
        else "cannot tell"
    )
    return Verdict(word, effect, low, high, notices, len(pairs), wanted)
