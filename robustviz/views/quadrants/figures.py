"""The figure of the quadrant puzzle: the accuracy of networks trained with a smaller radius in one
quarter of the image.
"""

from __future__ import annotations

import plotly.graph_objects as go

from robustviz.stats import Floats
from robustviz.types import eps_text
from robustviz.views.quadrants.result import Quadrants
from robustviz.views.theme import COLOURS, LIGHT, blank, finish, spread


def quadrants(result: Quadrants, *, picked: str = "", template: str = LIGHT) -> go.Figure:
    """Clean (circles) and attacked (×) accuracy: a row per quadrant that got the smaller radius in
    training, and a row per control (one radius everywhere). Bars are 95% t-intervals over seeds.
    If `picked` is the name of a quadrant, the sentence printed beside the figure starts with the
    result of that quadrant.
    """
    colour, meta = COLOURS[template], result.meta
    low, full = eps_text(meta["eps_low"]), eps_text(meta["eps"])
    controls = {"full": f"none: {full} everywhere", "low": f"all: {low} everywhere"}
    labels = [
        ("▶ " if name == picked else "") + controls.get(name, name.replace("-", " "))
        for name in result.names
    ]
    count = len(meta["seeds"])
    figure = blank(
        template,
        f"Which quadrant gets {low} instead of {full}",
        f"{meta['net']} on {meta['data']}, {count} seed{'s' * (count != 1)}",
        height=48 * len(labels) + 190,
        xaxis={"tickformat": ".0%", "title": "accuracy, mean and 95% interval over seeds"},
        yaxis={"autorange": "reversed", "type": "category", "ticks": ""},
    )
    for name, table, side, symbol in (
        ("clean", result.clean_interval, "a", "circle"),
        (f"{meta['attack']} at {eps_text(meta['test_eps'])}", result.robust_interval, "b", "x"),
    ):
        figure.add_scatter(
            x=table[:, 0],
            y=labels,
            mode="markers",
            name=name,
            marker={"color": colour[side], "symbol": symbol, "size": 11},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": table[:, 2] - table[:, 0],
                "arrayminus": table[:, 0] - table[:, 1],
                "color": colour[side],
                "thickness": 2,
            },
            hovertemplate="%{y}: %{x:.1%}<extra>" + name + "</extra>",
        )
    return finish(
        figure,
        "Dots of clean and attacked accuracy, a row a quadrant.",
        result,
        (f"{_of(result, picked)}  \n" if picked in result.names[:4] else "") + meta["summary"],
        "Bars and brackets are 95% intervals over seeds (Student's t). Those of a lead hold for"
        f" all six pairs together. {meta['attack']} at {eps_text(meta['test_eps'])} on {meta['n']}"
        " test images.",
        interval="bars: 95% intervals over seeds (Student's t)",
    )


def _of(result: Quadrants, picked: str) -> str:
    """Sentences on the quadrant that the user picked: its accuracies, and the best one's lead."""
    at = result.names.index(picked)
    best, decided = result.best("robust")
    name, attack = picked.replace("-", " "), result.meta["attack"]
    sentence = (
        f"You picked {name}: {attack} accuracy {_range(result.robust_interval[at])}. Its clean"
        f" accuracy: {_range(result.clean_interval[at])}."
    )
    if at == best:
        return (
            f"{sentence} It is the best of the four, but no clear lead is shown."
            if not decided
            else f"{sentence} It is the best of the four, and its lead is statistically clear."
        )
    mean, low, high = 100 * result.robust_lead[at]
    return (
        f"{sentence} The best, {result.names[best].replace('-', ' ')}, is"
        f" {spread(mean, low, high, '+.1f')} percentage points ahead under attack:"
        f" {'a difference' if low > 0 else 'no difference shown'}."
    )


def _range(row: Floats) -> str:
    return "{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * float(value) for value in row))
