"""The figure below the Budget page's first screen. It also shows the accuracy of each network under
attacks with its own training ε.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Ints, wilson
from robustviz.types import eps_text
from robustviz.views.budget.result import Family
from robustviz.views.theme import COLOURS, LIGHT, blank, finish


def budget(result: Family, *, template: str = LIGHT) -> go.Figure:
    """Accuracy against the training ε: clean, attacked with the data set's default ε, and attacked
    with the network's training ε. Each network is a marker with its 95% interval over test images;
    lines join the means over those seeds that learned (`Family.learned`).
    """
    meta, colour = result.meta, COLOURS[template]
    usual = eps_text(meta["usual"])
    figure = blank(
        template,
        "Also attacked with their training ε",
        "A stronger attack for each: this line falls in any case",
        xaxis={
            "title": "ε in training",
            "tickvals": 255 * np.unique(result.eps),
            "ticktext": [eps_text(eps) if eps else "0" for eps in np.unique(result.eps)],
        },
        yaxis={"title": "test images right", "tickformat": ".0%", "range": [0, 1.02]},
    )
    lines = (
        ("untouched", result.clean_k, "solid", "circle", "text"),
        (f"attacked with {usual}", result.usual_k, "dash", "circle-open", "text"),
        ("attacked with its training ε", result.own_k, "dot", "x", "faint"),
    )
    for name, counts, dash, symbol, tone in lines:
        line = {"color": colour[tone], "dash": dash, "width": 2}
        radii, share = result.mean(counts)
        figure.add_scatter(
            x=255 * radii, y=share, mode="lines", line=line, name=name, hoverinfo="skip"
        )
        _networks(figure, result, counts, {"color": colour[tone], "symbol": symbol}, name)
    return finish(
        figure,
        "Accuracy against the training ε, three lines.",
        result,
        "With its training ε, each network faces a stronger attack than the one before. One ε for"
        " all networks shows the trade-off.",
        sure=f"{meta['attack']}; bars are 95% intervals over test images, lines are means of"
        " the seeds that learned."
        " The ordinary network is shown at ε = 0, where the attack changes nothing.",
        interval="bars: 95% intervals over test images (Wilson)",
    )


def _networks(
    figure: go.Figure, result: Family, counts: Ints, marker: dict[str, str], name: str
) -> None:
    """Add to the figure a marker with its 95% interval for each network.
    `counts` (N,): the number of images right; networks with −1 were not measured and are left out.
    """
    there = counts >= 0
    ends = np.array([wilson(int(k), int(n)) for k, n in zip(counts, result.n, strict=True)])[there]
    share = (counts / result.n)[there]
    figure.add_scatter(
        x=255 * result.eps[there],
        y=share,
        mode="markers",
        marker=marker | {"size": 9},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": ends[:, 1] - share,
            "arrayminus": share - ends[:, 0],
            "color": marker["color"],
            "thickness": 1,
        },
        customdata=np.stack([result.seed, counts, result.n], 1)[there],
        hovertemplate="seed %{customdata[0]}: %{customdata[1]} of %{customdata[2]}"
        f"<extra>{name}</extra>",
        name=name,
        showlegend=False,
    )
