"""Combines several figures into one figure with a slider, which needs no kernel and no server."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import plotly.graph_objects as go
from PIL import Image

from robustviz.types import UserError
from robustviz.views.theme import LIGHT, blank, finish

ROOM = 110  # pixels for the slider, between the axis and the legend


def slides(figures: Mapping[str, go.Figure], *, name: str = "") -> go.Figure:
    """One figure with a slider that switches between the given figures; the keys of `figures` are
    the labels of the slider's positions. `name` is the quantity that the slider changes, such as
    "ε".

    All figures must be from `theme.finish` and have the same kinds of traces in the same order.
    Titles and axes change with the slider; the sentence in the result's `layout.meta` lists those
    of all figures. Raises UserError if there is no figure, or if their traces differ.
    """
    if not figures:
        raise UserError("There are no figures: give at least one for the slider.")
    first = next(iter(figures.values()))
    if len({tuple(trace.type for trace in figure.data) for figure in figures.values()}) > 1:
        raise UserError(
            "Figures behind one slider must have the same kinds of traces in the same order."
        )
    out, margin = go.Figure(first), first.layout.margin.to_plotly_json()
    out.frames = [
        go.Frame(
            name=label,
            data=figure.data,
            traces=[*range(len(first.data))],
            layout={
                name: value
                for name, value in figure.layout.to_plotly_json().items()
                if name not in _PLACED
            },
        )
        for label, figure in figures.items()
    ]
    out.update_layout(
        sliders=[
            {
                "steps": [
                    {"label": label, "method": "animate", "args": [[label], _AT_ONCE]}
                    for label in figures
                ],
                "currentvalue": {"prefix": f"{name} = " if name else ""},
                "pad": {"t": 56},
                "x": 0.02,
                "len": 0.94,
            }
        ],
        height=(first.layout.height or 400) + ROOM,
        margin={**margin, "b": margin.get("b", 84) + ROOM},
    )
    return finish(
        out,
        f"{len(figures)} figures behind a slider{name and f' over {name}'}.",
        dict(first.layout.meta),
        "; ".join(
            f"{name} {label}: {figure.layout.meta['sentence']}"
            for label, figure in figures.items()
            if figure.layout.meta["sentence"]
        ),
    )


# parts of the layout that are the same in all frames, because the slider needs the space
_PLACED = ("template", "height", "margin", "legend")
_AT_ONCE = {
    "mode": "immediate",
    "frame": {"duration": 0, "redraw": True},
    "transition": {"duration": 0},
}


def picture(png: bytes, title: str, sentence: str = "", *, template: str = LIGHT) -> go.Figure:
    """A figure that shows a PNG (bytes) made by `sheet` or `png`, so that the PNG can be used in
    `slides`. `sentence` becomes the subtitle.
    """
    width, height = Image.open(io.BytesIO(png)).size
    figure = blank(
        template,
        title,
        sentence,
        height=min(420, 120 + height),
        margin={"l": 8, "r": 8, "t": 80, "b": 8},
        xaxis={"visible": False, "range": [-0.5, width - 0.5], "constrain": "domain"},
        yaxis={
            "visible": False,
            "range": [height - 0.5, -0.5],
            "scaleanchor": "x",
            "constrain": "domain",
        },
    )
    figure.add_image(
        source="data:image/png;base64," + base64.b64encode(png).decode(), hoverinfo="skip"
    )
    return finish(figure, title, {}, sentence)
