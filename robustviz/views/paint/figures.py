"""The figure of a painted budget: softmax output of the true class for the clean image, attacked on
the painted pixels, and attacked everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from robustviz.types import eps_text
from robustviz.views.paint.result import Painted
from robustviz.views.theme import COLOURS, LIGHT, blank, finish, lines, named, sides


def painted(results: Painted | Mapping[str, Painted], *, template: str = LIGHT) -> go.Figure:
    """Bars of the true class's softmax output: clean, under the painted budget, under ε everywhere.
    There are one or two networks; more raise UserError. The text at each bar is the predicted
    class, ✓ right or ✗ wrong.
    """
    several = named(results, "")
    colour, first = COLOURS[template], next(iter(several.values()))
    names = first.meta["classes"]
    figure = blank(
        template,
        f"Softmax output for {names[first.y]}, the true class",
        f"test image {first.meta['index']}",
        barmode="group",
        bargap=0.25,
        bargroupgap=0.08,
        showlegend=len(several) > 1,
        xaxis={
            "range": [0, 1.3],
            "tickformat": ".0%",
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "title": f"softmax output for {names[first.y]}",
        },
        yaxis={"ticks": "", "autorange": "reversed"},
    )
    for (name, result), side in zip(several.items(), sides(several), strict=True):
        rows = (result.probs, result.probs_adv, result.probs_full)
        figure.add_bar(
            y=["untouched", "painted budget", f"{eps_text(result.eps)} everywhere"],
            x=[float(row[result.y]) for row in rows],
            orientation="h",
            name=name,
            text=[("✓ " if k == result.y else "✗ ") + names[k] for k in map(np.argmax, rows)],
            textposition="outside",
            cliponaxis=False,
            marker={"color": colour[side], "pattern": {"shape": "" if side == "a" else "/"}},
            hovertemplate="%{y}: %{x:.1%}, predicted %{text}<extra>" + name + "</extra>",
        )
    same = len({result.meta["budget"] for result in several.values()}) == 1
    weaker = (
        "This attack is weaker than the one used for robust accuracy, which may change each"
        f" pixel by {eps_text(first.eps)}. Withstanding it does not show robustness."
    )
    sentences = [
        *([first.meta["budget"]] if same else []),
        *lines(several, lambda result: str(result.meta["outcome" if same else "summary"])),
        *([] if first.uniform else [weaker]),
    ]
    return finish(
        figure,
        "Bars of the true class's softmax output, untouched, attacked within the painted budget and"
        " everywhere.",
        several,
        "  \n".join(sentences),
        f"One image, and both attacks start from the same noise. PGD-{first.meta['steps']}, seed"
        f" {first.meta['seed']}.",
    )
