"""Converts a figure to a file: an HTML page that works offline, or a CSV table of its points."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from robustviz.views.result import csv_of
from robustviz.views.theme import CONFIG


def html(figure: go.Figure) -> bytes:
    """The figure, which must be from `theme.finish`, as one HTML file (bytes) that works offline.
    Below the figure stands its sentence, or its alternative text if it has no sentence. Plotly's
    button for uploading to its cloud is left out.
    """
    said = figure.layout.meta.get("sentence") or figure.layout.meta["alt"]
    page: str = figure.to_html(include_plotlyjs=True, config=CONFIG, full_html=True)
    return page.replace(
        "</body>", f"<p style='font-family: sans-serif'>{escape(said, quote=False)}</p></body>"
    ).encode()


def csv(figure: go.Figure) -> bytes:
    """The points of a figure as CSV bytes, one row per point, or per cell of a heat map, contour
    plot or surface. The columns are `trace` (the trace's name), `x`, `y` and, if the trace has it,
    `z`. The `customdata` of points, such as the index of each image, is in the columns `data0`,
    `data1` …; that of heat maps, contour plots and surfaces is left out.
    """
    return csv_of([row for trace in figure.data for row in _rows(trace)])


def _rows(trace: Any) -> list[dict[str, Any]]:
    name = {"trace": trace.name or ""}
    if trace.type in ("heatmap", "contour", "surface"):
        z = np.asarray(trace.z)
        x = np.arange(z.shape[1]) if trace.x is None else trace.x
        y = np.arange(z.shape[0]) if trace.y is None else trace.y
        return [
            name | {"x": x[column], "y": y[row], "z": value}
            for (row, column), value in np.ndenumerate(z)
        ]
    axes = {axis: trace[axis] for axis in ("x", "y", "z") if getattr(trace, axis, None) is not None}
    count = max(map(len, axes.values()), default=0)
    more = [()] * count if trace.customdata is None else trace.customdata
    return [
        name
        | {axis: values[number] for axis, values in axes.items()}
        | {f"data{at}": value for at, value in enumerate(np.atleast_1d(more[number]))}
        for number in range(count)
    ]
