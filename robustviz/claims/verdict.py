"""Computes the verdict on an expected difference between two methods, each trained with several
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustviz.stats import LEAST_SEEDS, mean_interval, t_quantile
from robustviz.types import UserError

POWER = 0.8  # probability with which a true difference of size `notices` gives a clear verdict
Word = Literal["seen here", "not seen here", "cannot tell", "cannot tell (ceiling)", "not decided"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one expected difference.

    `word`: the verdict. `effect`: the mean over the seeds of A − B, or of B − A if A should be
    lower, so that a positive value is as claimed. `low`, `high`: the ends of its confidence
    interval, 95% before the correction for the number of claims. `seeds`: how many seeds both sides
    have, of the planned number `wanted`. `smallest`, `not_worse`: as in `verdict`. `notices`: the
    smallest true difference that such runs call *seen here* with probability 0.8; with `not_worse`,
    the smallest true loss that they call *not seen here* with that probability. If the verdict is
    `not decided`, `low`, `high` and `notices` are NaN, and `effect` is NaN without any seed.
    """

    word: Word
    effect: float
    low: float
    high: float
    notices: float
    seeds: int
    wanted: int
    smallest: float
    not_worse: bool

    @property
    def text(self) -> str:
        """The verdict in words; for an undecided one also what is missing or what these runs would
        notice, such as `cannot tell (these runs would notice 0.04 or more)`.
        """
        if self.word == "not decided":
            few = "" if self.wanted >= LEAST_SEEDS else f"; a method needs {LEAST_SEEDS}"
            plural = "seed" if self.wanted == 1 else "seeds"
            return f"not decided ({self.seeds} of {self.wanted} {plural}{few})"
        if self.word == "cannot tell":
            seen = " is seen; one" * (self.high < 0)
            allowed = f"a loss{seen} of {self.smallest:.2g} is allowed; " if self.not_worse else ""
            return f"cannot tell ({allowed}these runs would notice {self.notices:.2g} or more)"
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
    """The verdict on whether A differs from B as claimed; `a` and `b` map training seeds to
    numbers.

    The numbers of a seed that both sides have form a pair, since the two networks share initial
    weights and batches. A should be higher than B (lower if `less`) by at least `smallest`. If
    `not_worse`, A may be worse by at most `smallest`. `top`: the best possible value (None: there
    is none). `claims`: for how many claims the intervals are corrected (Bonferroni): each has the
    level 1 − 0.05/`claims`. Raises UserError if `smallest` is not above 0, and if a number of a
    pair is NaN or infinite.

    The first that holds is the verdict:

    - *not decided*: there are fewer pairs than `wanted`, or than `LEAST_SEEDS`.
    - *seen here*: the whole interval is above 0 and the effect is at least `smallest`; with
      `not_worse`: the whole interval is above −`smallest`.
    - *cannot tell (ceiling)*: B's mean is less than `smallest` below `top`; never with `less` or
      `not_worse`.
    - *not seen here*: the whole interval is below `smallest`; with `not_worse` below −`smallest`.
    - *cannot tell*: none of these.
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
        no = math.nan
        return Verdict("not decided", mean, no, no, no, len(pairs), wanted, smallest, not_worse)
    effect, low, high = mean_interval(apart, 1 - 0.05 / claims)
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    freedom = len(apart) - 1
    half, spare = (error * t_quantile(freedom, each) for each in (1 - 0.05 / claims, 2 * POWER - 1))
    notices = spare + (smallest + half if not_worse else max(smallest, half))
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
    return Verdict(word, effect, low, high, notices, len(pairs), wanted, smallest, not_worse)
