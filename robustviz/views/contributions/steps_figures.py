"""The figure of the Contributions page about attacks with more steps, and without gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from robustviz.stats import tango, wilson
from robustviz.types import eps_text
from robustviz.views.contributions.result import AttackSteps
from robustviz.views.theme import COLOURS, LIGHT, band, blank, finish, named, styles

ALT = "Accuracy against the number of attack steps, and under Square."


def attack_steps(
    results: AttackSteps | Mapping[str, AttackSteps], *, template: str = LIGHT
) -> go.Figure:
    """Line chart of accuracy against the number of PGD steps with 95% bands, and to its right the
    accuracy under Square, for one or two networks.
    """
    found, colours = named(results), COLOURS[template]
    first, last = next(iter(found.values())), max(int(r.steps[-1]) for r in found.values())
    marks = [int(step) for step in first.steps if str(step)[0] == "1"]
    figure = blank(
        template,
        "Do more attack steps fool more images?",
        f"{first.n} images",
        height=420,
        xaxis={
            "type": "log",
            "title": "steps of PGD",
            "tickvals": [*marks, last * 3.3],
            "ticktext": [*map(str, marks), f"Square-<br>{first.queries}"],
            "range": [-0.15, math.log10(last * 6)],
        },
        yaxis={"title": "accuracy under attack", "range": [0, 1.02], "tickformat": ".0%"},
    )
    for at, (name, (own, dash)) in enumerate(zip(found, styles(found), strict=False)):
        result, colour = found[name], colours[own]
        band(figure, result.steps, result.interval[:, 0], result.interval[:, 1], colour)
        figure.add_scatter(
            x=result.steps,
            y=result.accuracy,
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash, "width": 3},
            marker={"size": 7},
            hovertemplate="PGD-%{x}: %{y:.0%}<extra>" + name + "</extra>",
        )
        share, (low, high) = float(result.square.mean()), wilson(int(result.square.sum()), result.n)
        figure.add_scatter(
            x=[last * (3 + 0.6 * at)],
            y=[share],
            mode="markers",
            name=f"{name}, Square",
            showlegend=False,
            marker={
                "size": 13,
                "symbol": "square",
                "color": colour if own != "b" else colours["paper"],
                "line": {"color": colour, "width": 3},
            },
            error_y={"array": [high - share], "arrayminus": [share - low], "color": colour},
            hovertemplate=f"Square-{result.queries}: " + "%{y:.0%}<extra>" + name + "</extra>",
        )
    sentence = " ".join(_masked(name, result) for name, result in found.items())
    sure = (
        f"PGD with steps of ε/4 at ε = {eps_text(first.meta['eps'])}, seed {first.meta['seed']}."
        " An image counts as fooled from the first count of steps at which it is misclassified."
        " Bands are 95% intervals (Wilson)."
    )
    return finish(figure, ALT, found, sentence, sure, interval="bands: 95% intervals (Wilson)")


def _masked(name: str, result: AttackSteps) -> str:
    """Returns a text on how many more images a longer PGD and Square fool, and whether that shows
    that the network masks its gradient.
    """
    held, last = result.right[-1], int(result.steps[-1])
    early = result.steps <= 20
    text = f"{name}: right on {result.clean.sum()} of {result.n} untouched images."
    if early.any() and last > 20:
        at, before = int(result.steps[early][-1]), int(result.right[early][-1].sum())
        text += (
            f" {at} steps of PGD leave {before} right. {last} steps leave {held.sum()}, so"
            f" {before - int(held.sum())} more are fooled."
        )
    else:
        text += f" {last} steps of PGD leave {held.sum()} right."
    only, other = int((held & ~result.square).sum()), int((~held & result.square).sum())
    low, high = (100 * value for value in tango(only, other, result.n))
    return (
        f"{text} Square-{result.queries} leaves {result.square.sum()} and fools {only} that PGD"
        " does not. "
    ) + (
        f"The attack without gradients fools {low:.0f} to {high:.0f} percentage points more:"
        " PGD's gradient is masked."
        if low > 0
        else f"This is no significant advantage over PGD; {int((held & result.square).sum())}"
        " images withstand both attacks."
        if only
        else "Nothing here says that the gradient is masked; that is no proof."
    )
