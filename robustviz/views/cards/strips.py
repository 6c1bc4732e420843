"""The picture of a class's cards: a row for each method, with a dot for each seed, and below the
dots the mean over seeds with its interval. No torch, no Streamlit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from robustviz.runs.card import UNTOUCHED
from robustviz.stats import LEAST_SEEDS
from robustviz.types import points_text
from robustviz.views.cards.pile import Layer, Pair, Row
from robustviz.views.drawing import Plot
from robustviz.views.screen import Control, Screen

WIDE, SMALL = 620, 320
PAIRS = 15  # at most so many pairs are listed
FEW = 3  # up to so many pairs that cannot be compared get a line each with the reason
STYLE = """<style>
.strips { display: grid; grid-template-columns: minmax(9rem, 14rem) auto; gap: .2rem 1rem;
  align-items: start; justify-content: start; }
.strips .small { display: none } .strips ul, .strips .said { grid-column: 1 / -1 }
.strips ul { margin: .4rem 0 0; padding-left: 1.1rem }
@container (max-width: 54rem) { .strips { grid-template-columns: 1fr }
  .strips .wide { display: none } .strips .small { display: block } }
</style>"""


def screen(layers: Sequence[Layer]) -> Screen:
    """The screen with the given layers, at least one: each has the rows measured in one way.
    With several layers, a slider switches between them.
    """
    shown = [_chart(layer) for layer in layers]
    return Screen(
        answer=[answer(layer) for layer in layers],
        picture=f'{STYLE}<div class="strips" data-move="strips">{shown[0]}</div>',
        alt="A row for each method: a dot for each seed, and below them the mean over seeds with"
        " its 95% interval.",
        sure=_sure(layers),
        control=Control(
            "Measured",
            [layer.name for layer in layers],
            0,
            "cards",
            "Cards measured with other images, another attack or another ε are at another"
            " position.",
        )
        if len(layers) > 1
        else None,
        moves={"strips": ("html", shown)} if len(layers) > 1 else {},
    )


def answer(layer: Layer) -> str:
    """Text on whether the rows of a layer differ, or on why they cannot be compared; for a single
    row, on how much its seeds differ.
    """
    rows, pairs = layer.rows, layer.pairs
    if len(rows) == 1:
        return _alone(rows[0])
    if not pairs:
        return f"Methods cannot be compared yet: each needs {LEAST_SEEDS} seeds."
    fit = [pair for pair in pairs if not pair.why]
    if not fit:
        why = pairs[0].why if len(pairs) == 1 else "no two rows differ in exactly one setting"
        return f"Methods cannot be compared: {why}."
    if len(fit) == 1:
        return _pair(fit[0], layer.measure.attack == UNTOUCHED)
    apart = sum(pair.apart for pair in fit)
    return f"A difference is shown for {apart} of {len(fit)} pairs of rows."


def _alone(row: Row) -> str:
    if len(row.kept) == 1:
        return f"One seed of {row.name} says nothing about the method: more cards are needed."
    low, high = (_percent(value) for value in (row.values[0], row.values[-1]))
    return (
        f"Same settings, {len(row.kept)} seeds: {low} to {high}. The differences are due to chance."
    )


def _pair(pair: Pair, untouched: bool) -> str:
    seeds = f"over {len(pair.a.kept)} and {len(pair.b.kept)} seeds"
    if not pair.apart:
        return f"No difference shown between {pair.a.name} and {pair.b.name}, {seeds}."
    most, least = (pair.a, pair.b) if pair.difference > 0 else (pair.b, pair.a)
    points = 100 * abs(pair.difference)
    images = f"{'untouched' if untouched else 'attacked'} images"
    return (
        f"{most.name} is right on {images} {points:.1f} percentage points more often than"
        f" {least.name}, {seeds}."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _chart(layer: Layer) -> str:
    values = [value for row in layer.rows for value in row.values]
    ends = [end for row in layer.rows for end in row.interval[1:] if len(row.kept) >= LEAST_SEEDS]
    step = next(
        step
        for step in (0.01, 0.02, 0.05, 0.1, 0.2)
        if step == 0.2 or max(values) - min(values) < 5 * step
    )
    low = max(0.0, math.floor(min([*values, *ends]) / step) * step)
    high = min(1.0, math.ceil(max([*values, *ends]) / step) * step)
    if high <= low:
        low, high = max(0.0, low - step), min(1.0, high + step)
    label = "right untouched" if layer.measure.attack == UNTOUCHED else "right under attack"
    out = []
    for at, row in enumerate(layer.rows):
        below = label if at == len(layer.rows) - 1 else ""  # only the last row has the axis
        plots = "".join(
            f'<div class="{name}">{_strip(row, (low, high), step, width, below)}</div>'
            for name, width in (("wide", WIDE), ("small", SMALL))
        )
        out.append(f"<div><b>{escape(row.name)}</b><br>{_told(row)}</div><div>{plots}</div>")
    return "".join(out) + _list(layer)


def _told(row: Row) -> str:
    if len(row.kept) == 1:
        return f"one seed: {_percent(row.values[0])}"
    return f"{len(row.kept)} seeds, mean {_percent(row.interval[0])}"


def _strip(row: Row, span: tuple[float, float], step: float, width: int, label: str) -> str:
    count = round((span[1] - span[0]) / step)
    every = max(1, math.ceil(count * 52 / width))  # no more ticks than fit
    ticks = [
        (span[0] + step * at, f"{span[0] + step * at:.0%}") for at in range(0, count + 1, every)
    ]
    plot = Plot(
        width,
        96 if label else 62,
        span,
        (1, 0),
        label,
        x_ticks=ticks if label else [],
        left=20,
        right=20,
        top=4,
    )
    for at, value in enumerate(row.values):
        plot.dot(value, 0.1 + 0.15 * (at % 4), "a", radius=5, more='fill-opacity=".6"')
    mean, low, high = row.interval
    if len(row.kept) >= LEAST_SEEDS:
        ends = (max(low, span[0]), min(high, span[1]))
        plot.line(ends, (0.82, 0.82), "text", width=3)
        plot.dot(mean, 0.82, "text", radius=5)
    interval = (
        f", mean {_percent(mean)}, 95% interval {_percent(low)} to {_percent(high)}"
        if len(row.kept) >= LEAST_SEEDS
        else ""
    )
    return plot.html(f"{row.name}: {len(row.kept)} seeds{interval}")


def _list(layer: Layer) -> str:
    """An HTML list of at most `PAIRS` compared pairs with their intervals, those that differ first.
    Pairs that cannot be compared are listed with the reason if there are at most `FEW`, else only
    counted. Empty if there is nothing to list.
    """
    fit = sorted((pair for pair in layer.pairs if not pair.why), key=lambda pair: not pair.apart)
    rest = [pair for pair in layer.pairs if pair.why]
    few = sum(len(row.kept) < LEAST_SEEDS for row in layer.rows)
    lines = [_line(pair) for pair in fit[:PAIRS]]
    if len(fit) > PAIRS:
        lines.append(f"and {len(fit) - PAIRS} more pairs")
    if len(rest) > FEW:
        lines.append(
            f"{len(rest)} pairs are not compared: they differ in more than one setting, or all"
            " seeds of a row have the same accuracy."
        )
    else:
        lines += map(_line, rest)
    if few and len(layer.rows) > 1:
        lines.append(f"Rows with fewer than {LEAST_SEEDS} seeds are not compared: {few}.")
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _line(pair: Pair) -> str:
    names = f"{pair.a.name} minus {pair.b.name}"
    if pair.why:
        return f"{names}: not compared, {pair.why}."
    apart, low, high = map(points_text, (pair.difference, pair.low, pair.high))
    return (
        f"{names}: {apart} percentage points [{low}, {high}],"
        f" {'a difference' if pair.apart else 'no difference shown'}."
    )


def _sure(layers: Sequence[Layer]) -> list[str]:
    first = layers[0]
    doubted = sum(row.doubted for layer in layers for row in layer.rows)
    twice = max(layer.twice for layer in layers)
    return [
        "A dot is one training; the dots of a row differ only in the seed.",
        "Below them: the mean over seeds, and its 95% interval by Student's t.",
        f"Two rows are compared if both have {LEAST_SEEDS} seeds and only one setting differs.",
        "A difference has Welch's interval, at 95% for all pairs of a picture together.",
        "A card reports what its owner measured; its hash detects mistakes, not cheating.",
        *(
            [f"{len(layers) - 1} other ways of measuring are shown separately: move the control."]
            if len(layers) > 1
            else [f"All {first.cards} cards were measured in the same way."]
        ),
        *([f"Same settings and seed as another card, counted once: {twice}."] if twice else []),
        *([f"Numbers that the doctor calls unreliable: {doubted}."] if doubted else []),
    ]
