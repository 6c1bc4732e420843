"""The film of feature space as a Plotly figure: clean and attacked points at each epoch whose
weights were stored, with a play button.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Floats
from robustviz.views.features.figures import percent, protocol
from robustviz.views.features.map_figures import BARE, arrows, by_class, labels, lines
from robustviz.views.features.result import FeatureFilm
from robustviz.views.theme import COLOURS, LIGHT, blank, finish


def feature_film(
    result: FeatureFilm, *, epoch: int | None = None, name: str = "", template: str = LIGHT
) -> go.Figure:
    """Draw clean ● and attacked × points of one network at each epoch whose weights were stored, as
    frames with a slider and buttons to play and pause. The points lie on the plane of the last
    epoch's class centres or on UMAP's maps. The frame displayed first is that of the stored epoch
    nearest to `epoch`, by default the last one. `name` is printed in the title.
    """
    umap = result.meta.get("projection") == "umap"
    names, last = list(result.meta["classes"]), len(result.epochs) - 1
    at = last if epoch is None else int(np.abs(result.epochs - epoch).argmin())
    groups = by_class(result.y, result.pred_adv[-1], names, "", template)
    figure = blank(
        template,
        f"{name}: epoch by epoch" if name else "Epoch by epoch",
        (
            "× attacked; UMAP from the last epoch backwards"
            if umap
            else "× attacked; plane of the last epoch"
        ),
        height=600,
        margin={"l": 8, "r": 8, "t": 72, "b": 176},
        annotations=[*labels(result, result.clean[at], template)],
        **_window(result),
        **_controls(result, at, template),
    )
    figure.add_scatter(**arrows(result.clean[at], result.adversarial[at], template))
    for group in groups:
        hover = f"image %{{customdata}}, a {group.name}<extra></extra>"
        for points, attacked in ((result.clean, False), (result.adversarial, True)):
            figure.add_scatter(**group.trace(points[at], attacked, result.index, hover))

    def traces(frame: int) -> list[dict[str, Floats]]:
        both = result.clean[frame], result.adversarial[frame]
        return [
            lines(*both),
            *({"x": z[g.members, 0], "y": z[g.members, 1]} for g in groups for z in both),
        ]

    figure.frames = [
        go.Frame(
            name=str(number),
            data=[go.Scatter(points) for points in traces(frame)],
            traces=[*range(2 * len(groups) + 1)],
            layout={"annotations": [*labels(result, result.clean[frame], template)]},
        )
        for frame, number in enumerate(result.epochs)
    ]
    k = int((result.pred_adv[last] == result.y).sum())
    return finish(
        figure,
        f"Features of a {result.meta['method']} network over {last + 1} epochs.",
        result,
        _sentence(result, at),
        f"{protocol(result)}. At the last epoch{percent(k, len(result.y))}."
        + (" In UMAP axes and gaps between groups have no meaning." if umap else ""),
    )


def _controls(result: FeatureFilm, at: int, template: str) -> dict[str, Any]:
    """Layout entries for a slider that starts at frame `at`, and for buttons to play and pause."""
    return {
        "sliders": [
            {
                "steps": [
                    {"label": str(number), "method": "animate", "args": [[str(number)], _play(0)]}
                    for number in result.epochs
                ],
                "active": at,
                "currentvalue": {"prefix": "epoch "},
                "x": 0.28,
                "len": 0.72,
                "y": 0,
                "pad": {"t": 16},
            }
        ],
        "updatemenus": [
            {
                "type": "buttons",
                "direction": "right",
                "buttons": [
                    {"label": "▶ Play", "method": "animate", "args": [None, _play(500)]},
                    {"label": "Pause", "method": "animate", "args": [[None], _play(0)]},
                ],
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 36},
                "font": {"color": COLOURS[template]["text"]},
                "bgcolor": COLOURS[template]["paper"],
                "active": -1,
            }
        ],
    }


def _window(result: FeatureFilm) -> dict[str, Any]:
    """Layout entries for axes that hold the points of all frames, so that only the points move."""
    every = np.concatenate([result.clean, result.adversarial]).reshape(-1, 2)
    pad = 0.04 * max(*np.ptp(every, axis=0).astype(float), 1e-6)
    low, high = (end(every, axis=0).astype(float) for end in (np.min, np.max))
    return {
        f"{name}axis": BARE | {"range": [low[at] - pad, high[at] + pad]}
        for at, name in enumerate("xy")
    }


def _sentence(result: FeatureFilm, at: int) -> str:
    n, last = len(result.y), len(result.epochs) - 1
    k = (result.pred_adv == result.y).sum(axis=1)
    return " ".join(
        f"Epoch {result.epochs[frame]}: {k[frame]} of {n} images classified correctly under attack."
        for frame in (at, last if at != last else 0)
    )


def _play(duration: int) -> dict[str, Any]:
    return {
        "mode": "immediate",
        "fromcurrent": True,
        "frame": {"duration": duration, "redraw": True},
        "transition": {"duration": 0},
    }
