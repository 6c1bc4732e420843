"""A figure as a file: a page that needs no network, and a table of the numbers drawn."""

from __future__ import annotations

import csv as table
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go

from robustviz.views.theme import CONFIG


def html(figure: go.Figure) -> bytes:
    """The figure as one HTML file that works without a network, with its sentence below it and no
    cloud button.
    """
    said = figure.layout.meta.get("sentence") or figure.layout.meta["alt"]
    page = figure.to_html(include_plotlyjs=True, config=CONFIG, full_html=True)
    return page.replace(
        "</body>", f"<p style='font-family: sans-serif'>{_escaped(said)}</p></body>"
    ).encode()


def csv(figure: go.Figure) -> bytes:
    """The numbers drawn, a row a point: `trace` (its name), `x`, `y`, and where there is a third
    value `z`.

    Points carry what the figure holds about each as `data0`, `data1` …, for instance the number of
    its image.
    """
    out = io.StringIO()
    rows = [row for trace in figure.data for row in _rows(trace)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = table.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _rows(trace: Any) -> Iterator[dict[str, Any]]:
    name = trace.name or ""
    if trace.type in ("heatmap", "contour", "surface"):
        z = np.asarray(trace.z)
        x = np.arange(z.shape[1]) if trace.x is None else trace.x
        y = np.arange(z.shape[0]) if trace.y is None else trace.y
        for row, at_y in enumerate(y):
            for column, at_x in enumerate(x):
                yield {"trace": name, "x": at_x, "y": at_y, "z": z[row, column]}
        return
    axes: dict[str, Any] = {axis: getattr(trace, axis, None) for axis in ("x", "y", "z")}
    axes = {axis: values for axis, values in axes.items() if values is not None}
    count = max((len(values) for values in axes.values()), default=0)
    for number in range(count):
        more = (
            {}
            if trace.customdata is None
            else {
                f"data{at}": value
                for at, value in enumerate(np.atleast_1d(trace.customdata[number]))
            }
        )
        yield {"trace": name} | {axis: values[number] for axis, values in axes.items()} | more


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
