"""Confidence intervals, statistical tests and measures of agreement: pure functions of counts and
NumPy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustviz.imports import load
from robustviz.types import UserError, plain

Floats = NDArray[np.floating[Any]]

Ints = NDArray[np.integer[Any]]

Bools = NDArray[np.bool_]

LEAST_SEEDS = 3  # seeds per method, below which no statement is made about methods
FEW = 100  # with fewer images a percentage says little


def wilson(k: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval (low, high) of a proportion, as fractions, after `k` successes in `n`
    trials; (0, 1) for n = 0. `z`: the quantile of the normal distribution for the level, 1.96 for
    95%.

    Source: Wilson 1927, the score interval; unlike p ± 2σ it stays inside [0, 1] and is accurate
    near 0 and 1.
    """
    if n == 0:
        return 0.0, 1.0
    p, spread = k / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    # For k = 0 and k = n the bounds are 0 and 1, but rounding would give e.g. 2.8e-17.
    return 0.0 if k == 0 else max(0.0, centre - half), 1.0 if k == n else min(1.0, centre + half)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """How many standard errors a two-sided interval of this `level` extends to each side of a mean,
    by Student's t with `freedom` degrees of freedom. At level 0.95 it is 12.71 for one degree of
    freedom and 1.96 for very many; for none it is infinite. Raises UserError if scipy is not
    installed.
    """
    if freedom < 1:
        return math.inf
    try:
        return float(load("scipy.special").stdtrit(freedom, (1 + level) / 2))
    except ImportError:
        raise UserError(
            "Intervals of means need scipy, which is not installed: run `pip install scipy`."
        ) from None


def mean_interval(
    values: Floats | Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """The mean of `values` (n,) and its interval by Student's t, as (mean, low, high). The level is
    95% by default. For a single value the interval is (−inf, inf). Raises UserError for no values,
    for anything but a row of finite numbers, for a level that is not between 0 and 1, and if scipy
    is not installed.
    """
    level = plain(level)
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise UserError(
            f"level={level!r} is not a confidence level: it must be between 0 and 1, such as 0.95."
        )
    values = _row(values)
    n = len(values)
    mean = float(np.mean(values))
    half = (
        t_quantile(n - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(n)
        if n > 1
        else math.inf
    )
    return mean, mean - half, mean + half


def share_interval(values: Floats | Sequence[float]) -> tuple[float, float, float]:
    """`mean_interval` at 95% of shares such as accuracies, as (mean, low, high), with low and high
    cut to [0, 1], because no share lies outside. For a single value they stay infinite. Raises
    UserError as `mean_interval` does.
    """
    mean, low, high = mean_interval(values)
    return (mean, low, high) if math.isinf(low) else (mean, max(0.0, low), min(1.0, high))


def _row(values: Any) -> Floats:
    """`values`, an array, tensor or list of numbers, as a float64 array (n,). Raises UserError if
    there are no values, if one is NaN or infinite, and for anything else.
    """
    try:
        row = np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values)
    except (TypeError, ValueError, RuntimeError):
        row = np.asarray(None)
    if row.ndim != 1 or (len(row) and row.dtype.kind not in "biuf"):
        what = (
            f"an array of shape {row.shape}"
            if row.dtype.kind in "biuf" and row.ndim
            else f"a {type(values).__name__}"
        )
        raise UserError(
            f"A mean is taken over a row of numbers, shape (n,), but this is {what}: use one row"
            " at a time."
        )
    if not len(row):
        raise UserError("There is no mean of no values: measure at least one image.")
    if broken := int((~np.isfinite(row)).sum()):
        raise UserError(
            f"{broken} of {len(row)} values are NaN or infinite, so there is no mean: leave them"
            " out, and report that."
        )
    return row.astype(np.float64)


def tango(b: int, c: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval (low, high) of (b − c)/n, the difference of two networks' accuracies on the
    same `n` images: `b` images are right only for the first network, `c` only for the second. (−1,
    1) for n = 0. `z`: the quantile of the normal distribution for the level, 1.96 for 95%.

    The interval contains every difference Δ that the score test does not reject; for Δ = 0 the
    score test is McNemar's test. Source: Tango 1998 (Statistics in Medicine 17, 891), equations 4
    to 6.
    """
    if n == 0:
        return -1.0, 1.0

    def score(delta: float) -> float:
        """By how many standard errors b − c exceeds its expected value for Δ; decreases with Δ."""
        half = (2 * n - b + c) * delta - b - c
        # the maximum-likelihood share of images that are right for the second only
        q = (math.sqrt(max(0.0, half * half + 8 * n * c * delta * (1 - delta))) - half) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        above = b - c - n * delta
        return (
            above / math.sqrt(variance)
            if variance > 0
            else math.copysign(math.inf, above)
            if above
            else 0.0
        )

    def where(level: float, low: float, high: float) -> float:
        for _ in range(60):  # bisection, to the last bit
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > level else (low, middle)
        return (low + high) / 2

    seen = (b - c) / n
    return where(z, -1.0, seen), where(-z, seen, 1.0)


def mcnemar(b: int, c: int) -> float:
    """The exact two-sided p-value of McNemar's test: the probability of a split at least as uneven
    as `b` to `c` if each of the b + c images falls on either side with probability ½.

    Source: McNemar 1947, with the binomial distribution instead of χ². Computed in integers, so no
    digit is lost.
    """
    total, few = b + c, min(b, c)
    return min(1.0, 2 * sum(math.comb(total, i) for i in range(few + 1)) / (1 << total))


def finite_or_none(value: float) -> float | None:
    """`value` if it is finite; None for NaN and infinities, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def auc(high: Floats, low: Floats, z: float = 1.959964) -> tuple[float, float, float, int, int]:
    """The AUC: the fraction of pairs in which a value of `high` exceeds one of `low` (ties count
    half), with its 95% interval and the two numbers of values. Returns (AUC, lower end, upper end,
    len(high), len(low)).

    The first three are NaN if `high` or `low` is empty. `z`: the quantile of the normal
    distribution for the level, 1.96 for 95%. Source: Hanley and McNeil 1982 (Radiology 143, 29),
    equations 1 and 2 for the standard error; the interval is cut off at 0 and 1. `Differs:` for
    groups of m and n values that do not overlap, their formula gives a standard error of 0; here
    the AUC in the formula stays half a pair, 0.5/(m·n), away from 0 and 1.
    """
    m, n = len(high), len(low)
    if not m or not n:
        return math.nan, math.nan, math.nan, m, n
    beaten = np.sort(low)
    below, upto = np.searchsorted(beaten, high, "left"), np.searchsorted(beaten, high, "right")
    area = float((below + upto).sum() / (2 * m * n))
    a = min(max(area, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    first, second = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt(
        max(0.0, a * (1 - a) + (m - 1) * (first - a * a) + (n - 1) * (second - a * a)) / (m * n)
    )
    return area, max(0.0, area - z * error), min(1.0, area + z * error), m, n


def shares(k: Ints, n: Ints) -> Floats:
    """The fractions `k` / `n`, element by element; NaN where n is 0."""
    return np.where(n > 0, k / np.maximum(n, 1), np.nan)


def flat(heat: Floats) -> bool:
    """Whether a map (h, w) is constant, up to rounding errors of a millionth of its largest
    absolute value. A map that is not finite counts as constant too.
    """
    return not float(np.ptp(heat)) > 1e-6 * float(np.abs(heat).max())


def _ranks(values: Floats) -> Floats:
    """The rank of each value minus the mean rank, (n,); ties share their mean rank."""
    _, place, count = np.unique(np.ravel(values), return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return np.asarray(rank - rank.mean())


def spearman(u: Floats, v: Floats) -> float:
    """Spearman's rank correlation of two arrays of the same shape, −1 to 1; ties share their mean
    rank. NaN if one of the arrays is constant or not finite (`flat`).
    """
    if flat(u) or flat(v):
        return math.nan
    one, two = _ranks(u), _ranks(v)
    return float((one @ two) / math.sqrt((one @ one) * (two @ two)))
