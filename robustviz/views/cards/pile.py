"""Groups the cards of many runs into rows of runs that differ only in their seed, and decides which
rows differ by more than chance between seeds. No torch.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from robustviz import registry
from robustviz.runs.card import UNTOUCHED, Card, Number
from robustviz.runs.naming import method_label
from robustviz.stats import LEAST_SEEDS, share_interval, t_quantile
from robustviz.types import JSON, UserError, eps_text

PLAIN = "PGD-20"  # the attack with which every run is evaluated


class Measure(NamedTuple):
    """How a number on a card was measured. Numbers are compared only if all fields agree.
    `data`: the data set's printed name (`Card.data`); `split`: of the data; `images`: a hash of the
    `n` images and their labels; `attack`: its printed name, or `untouched` for clean images; `eps`:
    its radius, for pixels in [0, 1]; `seed`: the seed of its noise.
    """

    data: str
    split: str
    images: str
    n: int
    attack: str
    eps: float
    seed: int

    @property
    def name(self) -> str:
        """The measure as text, such as `digits, PGD-20 at 0.15 (38/255), 360 images`."""
        how = self.attack if self.attack == UNTOUCHED else f"{self.attack} at {eps_text(self.eps)}"
        return f"{self.data}, {how}, {self.n} images"


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed.
    `name`: their printed name; `settings`: their settings without the seed; `kept`: the share of
    images right, in [0, 1], by seed; `doubted`: for how many of these shares a check of the
    evaluation (`training.doctor`) found that they cannot be trusted.
    """

    name: str
    settings: JSON
    kept: Mapping[int, float]
    doubted: int = 0

    @property
    def values(self) -> list[float]:
        """The shares of images right, one for each seed, sorted from lowest to highest."""
        return sorted(self.kept.values())

    @property
    def interval(self) -> tuple[float, float, float]:
        """(mean, low, high): the mean over seeds and the ends of its 95% t-interval. The ends are
        cut to [0, 1]; for a single seed they are −∞ and ∞.
        """
        return share_interval(self.values)


@dataclass(frozen=True)
class Pair:
    """The comparison of row `a` with row `b`.
    `difference`: the mean over seeds of `a` minus that of `b`, as a fraction; `low`, `high`: the
    ends of its interval, NaN if the rows cannot be compared; `why`: the reason why they cannot, or
    empty.
    """

    a: Row
    b: Row
    difference: float
    low: float = math.nan
    high: float = math.nan
    why: str = ""

    @property
    def apart(self) -> bool:
        """Whether the interval excludes 0, so that a difference is shown."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Layer:
    """The rows of one measure, that with the highest mean first, and the measure's printed `name`.
    `twice`: the number of cards left out because another card has the same settings and seed.
    """

    measure: Measure
    name: str
    rows: tuple[Row, ...]
    twice: int

    @property
    def cards(self) -> int:
        """The number of training runs in all rows."""
        return sum(len(row.kept) for row in self.rows)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The comparisons of all pairs of rows with at least three seeds each.
        Pairs that cannot be compared for other reasons are included, with the reason. The intervals
        of the others hold jointly: all of them together with 95% (Bonferroni).
        """
        enough = [row for row in self.rows if len(row.kept) >= LEAST_SEEDS]
        both = [*itertools.combinations(enough, 2)]
        fit = sum(not _why_not(a, b) for a, b in both)
        return [compared(a, b, max(fit, 1)) for a, b in both]


def measure(card: Card, one: Number) -> Measure:
    """How the number `one` on a card was measured: on which data and images, under which attack."""
    return Measure(
        card.data,
        one["split"],
        one["images"],
        one["n"],
        one["attack"],
        round(one["eps"], 6),
        one["seed"],
    )


def layers(cards: Iterable[Card]) -> list[Layer]:
    """One layer for each measure that occurs in these cards.
    Measures under attack come first, then those on clean images; within each of the two groups,
    measures with more cards come first.
    """
    found: dict[Measure, list[tuple[Card, Number]]] = {}
    for card in cards:
        for one in card.numbers:
            found.setdefault(measure(card, one), []).append((card, one))
    order = sorted(
        found, key=lambda at: (at.attack == UNTOUCHED, -len(found[at]), at.attack != PLAIN, at)
    )
    names = [at.name for at in order]
    told = {
        at: at.name + f", {at.split} {at.images[:6]}, noise {at.seed}" * (names.count(at.name) > 1)
        for at in order
    }
    return [_layer(at, told[at], found[at]) for at in order]


def _layer(measure: Measure, name: str, found: Sequence[tuple[Card, Number]]) -> Layer:
    groups: dict[str, dict[int, tuple[Card, Number]]] = {}
    twice = 0
    for card, one in sorted(found, key=lambda each: each[0].id):
        group = groups.setdefault(json.dumps(_fixed(card), sort_keys=True), {})
        twice += card.seed in group
        group.setdefault(card.seed, (card, one))
    several = [next(iter(group.values()))[0] for group in groups.values()]
    rows = [
        Row(
            called,
            _fixed(several[at]),
            {seed: one["right"] / one["n"] for seed, (_, one) in sorted(group.items())},
            sum(not one["reliable"] for _, one in group.values()),
        )
        for at, (called, group) in enumerate(zip(_names(several), groups.values(), strict=True))
    ]
    rows.sort(key=lambda row: (-float(np.mean(row.values)), row.name))
    return Layer(measure, name, tuple(rows), twice)


def _fixed(card: Card) -> JSON:
    return {name: value for name, value in card.settings.items() if name != "seed"}


def label(card: Card) -> str:
    """The printed name of a card's method; its key if this version does not have the method."""
    try:
        return method_label(card.method)
    except UserError:
        return card.method


def _names(cards: Sequence[Card]) -> list[str]:
    """A distinct name for each card: its method, and the settings in which the cards of this method
    differ. At most three settings are named; an ellipsis stands for the others, and names that are
    still equal are numbered.
    """
    flat = [dict(registry.flat(_fixed(card))) for card in cards]
    apart: dict[str, list[str]] = {}
    for key in {card.method for card in cards}:
        same = [each for each, card in zip(flat, cards, strict=True) if card.method == key]
        paths = dict.fromkeys(path for each in same for path in each)
        apart[key] = [path for path in paths if len({repr(one.get(path)) for one in same}) > 1]
    out = []
    for card, mine in zip(cards, flat, strict=True):
        several = apart[card.method]
        said = [f"{path.rpartition('.')[2]} {_said(path, mine.get(path))}" for path in several[:3]]
        out.append(", ".join([label(card), *said]) + ", …" * (len(several) > 3))
    times = Counter(out)
    return [name + f" ({at + 1})" * (times[name] > 1) for at, name in enumerate(out)]


def _said(path: str, value: object) -> str:
    if isinstance(value, float):
        return eps_text(value) if path.endswith("eps") else f"{value:g}"
    return "usual" if value is None else str(value)


def _why_not(a: Row, b: Row) -> str:
    """The reason why two rows cannot be compared, as text; empty if they can."""
    if min(len(a.kept), len(b.kept)) < LEAST_SEEDS:
        return f"one has fewer than {LEAST_SEEDS} seeds"
    one, other = dict(a.settings), dict(b.settings)
    if one["method"]["key"] == other["method"]["key"]:
        for each in (one, other):
            each |= {f"method.{name}": value for name, value in each.pop("method").items()}
    else:  # the method is one setting, and the default of `select` depends on it
        one["select"] = other["select"] = None
    apart = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    if len(apart) > 1:
        return f"they differ in more than one setting ({', '.join(apart[:4])})"
    if len(set(a.values)) == 1 or len(set(b.values)) == 1:
        return "all seeds of one have the same accuracy, so their variation is unknown"
    return ""


def compared(a: Row, b: Row, claims: int = 1) -> Pair:
    """Compares two rows: the mean over seeds of `a` minus that of `b`, with its interval.

    Rows can be compared if each has at least three seeds, not all with the same value, and they
    differ in at most one setting. A different method, with all its settings, counts as one; then
    `select`, whose default depends on the method, may differ, too. If rows cannot be compared, the
    pair's `why` is the reason, and the ends of the interval are NaN. `claims`: the number of
    differences shown together; all their intervals hold jointly with 95%.

    Source: Welch 1947, the interval of a difference of two means of unequal spread. Differs: the
    degrees of freedom are rounded down. Seeds that both rows have are not paired, so that seeds
    that only one row has count as well. If the results of both rows rise and fall together with
    the seed, the interval is wider than necessary.
    """
    first, second = np.array(a.values), np.array(b.values)
    difference = float(first.mean() - second.mean())
    if why := _why_not(a, b):
        return Pair(a, b, difference, why=why)
    errors = [float(each.var(ddof=1)) / len(each) for each in (first, second)]
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(each) - 1) for error, each in zip(errors, (first, second), strict=True)
    )
    half = t_quantile(max(1, int(freedom)), 1 - 0.05 / claims) * math.sqrt(sum(errors))
    return Pair(a, b, difference, difference - half, difference + half)
