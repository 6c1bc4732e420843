"""Intervals, tests and measures of agreement: pure functions of counts and of NumPy arrays."""

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

LEAST_SEEDS = 3  # a side, below which nothing is said about methods
FEW = 100  # below so many images a percentage says little


def wilson(k: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval (low, high), fractions, of a share of which `k` of `n` were seen. (0, 1)
    for n = 0.

    Source: Wilson 1927, the score interval; unlike p ± 2σ it stays inside [0, 1] and is honest near
    its ends.
    """
    if n == 0:
        return 0.0, 1.0
    p, spread = k / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    # At the ends the formula gives 0 and 1 but for rounding, which would print as 2.8e-17.
    return 0.0 if k == 0 else max(0.0, centre - half), 1.0 if k == n else min(1.0, centre + half)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """How many standard errors a two-sided interval of that `level` reaches to each side of a mean,
    by Student's t with so many degrees of freedom: 12.71 for one, 1.96 for very many, infinite for
    none. Raises UserError where scipy is missing.
    """
    if freedom < 1:
        return math.inf
    try:
        return float(load("scipy.special").stdtrit(freedom, (1 + level) / 2))
    except ImportError:
        raise UserError(
            "Intervals of means come from scipy, which is not installed: run `pip install scipy`."
        ) from None


def mean_interval(
    values: Floats | Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """The mean of `values` (n,) and its interval (low, high) by Student's t, of 95 % unless `level`
    says otherwise; infinite for a single value. Raises UserError for none, for what is no row of
    finite numbers, and where scipy is missing.
    """
    level = plain(level)
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise UserError(
            f"level={level!r} is no share of intervals that hold the mean: it lies between 0 and 1,"
            " such as 0.95."
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


def _row(values: Any) -> Floats:
    """`values`, an array, tensor or list of numbers, as an array (n,). Raises UserError for none
    and for anything else.
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
            f"A mean is taken of a row of numbers, shape (n,), and this is {what}: take one row at"
            " a time."
        )
    if not len(row):
        raise UserError("There is no mean of no values: measure at least one image.")
    if broken := int((~np.isfinite(row)).sum()):
        raise UserError(
            f"{broken} of {len(row)} values are NaN or infinite, so they have no mean: leave them"
            " out and say so."
        )
    return row.astype(np.float64)


def tango(b: int, c: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval (low, high) of a difference of two shares of the same `n` images: `b` right
    for the first only, `c` for the second only. (−1, 1) for n = 0.

    It holds every difference Δ that the score test does not reject; at Δ = 0 that test is
    McNemar's. Source: Tango 1998 (Statistics in Medicine 17, 891), equations 4 to 6.
    """
    if n == 0:
        return -1.0, 1.0

    def score(delta: float) -> float:
        """How many standard errors b − c lies above what Δ makes us expect; falls as Δ grows."""
        half = (2 * n - b + c) * delta - b - c
        # the likeliest share of images right for the second only
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
        for _ in range(60):  # bisection to the last bit
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > level else (low, middle)
        return (low + high) / 2

    seen = (b - c) / n
    return where(z, -1.0, seen), where(-z, seen, 1.0)


def mcnemar(b: int, c: int) -> float:
    """The two-sided exact p of McNemar's test: how likely `b` against `c` or worse is where a coin
    decides each of b + c.

    Source: McNemar 1947, with the binomial distribution in place of χ². Whole numbers all the way,
    so no digit is lost.
    """
    total, few = b + c, min(b, c)
    return min(1.0, 2 * sum(math.comb(total, i) for i in range(few + 1)) / (1 << total))


def finite_or_none(value: float) -> float | None:
    """`value` where it is a number, None for NaN and the infinities, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def auc(high: Floats, low: Floats, z: float = 1.959964) -> tuple[float, float, float, int, int]:
    """How often one of `high` exceeds one of `low` (ties count half), its 95 % interval (low,
    high), and the two counts.

    NaN where one of them is empty. Source: Hanley and McNeil 1982 (Radiology 143, 29), equations 1
    and 2 for the standard error; cut off at 0 and 1. `Differs:` where the two do not overlap at all
    their error is 0; ours is that of half a pair.
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
    """`k` of `n`, element by element, as fractions; NaN where n is 0."""
    return np.where(n > 0, k / np.maximum(n, 1), np.nan)


def flat(heat: Floats) -> bool:
    """Whether a map (h,w) is constant, to a millionth of its size: the rest is rounding. One that
    is not finite is, too.
    """
    return not float(np.ptp(heat)) > 1e-6 * float(np.abs(heat).max())


def _ranks(values: Floats) -> Floats:
    """Each value's rank less the mean rank, (n,)."""
    _, place, count = np.unique(np.ravel(values), return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return np.asarray(rank - rank.mean())


def spearman(u: Floats, v: Floats) -> float:
    """Spearman's rank correlation of two arrays of the same shape, −1 to 1; ties share their mean
    rank; NaN where one is constant.
    """
    if flat(u) or flat(v):
        return math.nan
    one, two = _ranks(u), _ranks(v)
    return float((one @ two) / math.sqrt((one @ one) * (two @ two)))
