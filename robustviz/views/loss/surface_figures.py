"""Loss surfaces, a panel a network: the same directions, the same scale and the same camera in
every panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sequential
from plotly.subplots import make_subplots

from robustviz.stats import Floats
from robustviz.types import UserError, eps_text
from robustviz.views.loss.result import Surface, WeightSurface
from robustviz.views.theme import COLOURS, finish

LIGHT = "robustviz_light"
DARK_LINE, LIGHT_LINE = (
    "#10161F",
    "#FFFFFF",
)  # drawn one over the other, they are seen on every colour of cividis
CAMERA = {"eye": {"x": 1.75, "y": -1.75, "z": 1.0}}
# Cividis with most of its colours at low losses: around an image the loss is small, at the corners
# of the plane it is not.
STRETCHED = [[(at / 9) ** 2, colour] for at, colour in enumerate(sequential.Cividis)]
TARGETS = {"hard": "to the true class", "soft": "to the witness's soft label"}


def surfaces(
    results: Surface | Mapping[str, Surface],
    *,
    target: Literal["hard", "soft", "both"] = "hard",
    kind: Literal["contour", "3d"] = "contour",
    frozen: str = "",
    template: str = LIGHT,
) -> go.Figure:
    """The loss on the plane through an image, a column a network; in grey levels along both
    directions.

    `target`: the loss to the true class, to the witness's soft label, or a row of each. `frozen`:
    the printed name of a network that the alignment left as it was. The ring is the image itself, ×
    stands at ε along the adversarial direction, the square is the ε box, and the dashed line where
    the answer stops being the true class. Raises UserError for results that are not on the same
    plane.
    """
    found = {"": results} if isinstance(results, Surface) else dict(results)
    _same_plane(found)
    targets = ["hard", "soft"] if target == "both" else [target]
    panels = [[result.loss(one) for result in found.values()] for one in targets]
    first = next(iter(found.values()))
    titles = (
        [name + (" (before = after)" if name == frozen else "") for name in found]
        if list(found) != [""]
        else []
    )
    low, high = float(np.min(panels)), float(np.max(panels))
    a, b, eps = first.a * 255, first.b * 255, min(first.eps, float(first.a[-1])) * 255
    x_title, y_title = "adversarial direction", "random direction"
    figure = _frame(panels, titles, kind, template)
    for row, losses in enumerate(panels):
        for column, ((name, result), loss) in enumerate(zip(found.items(), losses, strict=True)):
            said = f"{name}, {TARGETS[targets[row]]}".strip(", ")
            where = {"row": row + 1, "col": column + 1}
            _panel(
                figure, a, b, loss, said, kind, where, "%{x:.0f}, %{y:.0f} of 255: loss %{z:.3f}"
            )
            if kind == "contour":
                for colour, width, dash in ((DARK_LINE, 4, "solid"), (LIGHT_LINE, 2, "dash")):
                    figure.add_contour(
                        x=a,
                        y=b,
                        z=(result.pred == result.y).T.astype(np.uint8),
                        showlegend=False,
                        showscale=False,
                        hoverinfo="skip",
                        name=f"{said}: answer right",
                        contours={"coloring": "none", "start": 0.5, "end": 0.5, "size": 1},
                        line={"color": colour, "width": width, "dash": dash},
                        **where,
                    )
                    if eps:
                        figure.add_shape(
                            x0=-eps,
                            x1=eps,
                            y0=-eps,
                            y1=eps,
                            line={
                                "color": colour,
                                "width": width - 1,
                                "dash": "solid" if width == 4 else "dot",
                            },
                            **where,
                        )
                figure.add_scatter(
                    x=[0, eps],
                    y=[0, 0],
                    mode="markers",
                    hoverinfo="skip",
                    showlegend=False,
                    name=f"{said}: the image, and ε along the adversarial direction",
                    marker={
                        "symbol": ["circle", "x"],
                        "size": 11,
                        "color": LIGHT_LINE,
                        "line": {"color": DARK_LINE, "width": 2},
                    },
                    **where,
                )
            else:
                figure.add_scatter3d(
                    x=[0],
                    y=[0],
                    z=[float(loss[result.middle, result.middle])],
                    mode="markers",
                    showlegend=False,
                    hoverinfo="skip",
                    name=f"{said}: the image",
                    marker={
                        "size": 5,
                        "color": LIGHT_LINE,
                        "line": {"color": DARK_LINE, "width": 2},
                    },
                    **where,
                )
    _same_scale(
        figure, len(targets), len(found), low, high, kind, x_title, y_title, "loss", stretch=True
    )
    if kind == "contour":
        for row, one in enumerate(targets):
            figure.update_yaxes(title=f"<b>{TARGETS[one]}</b><br>{y_title}", row=row + 1, col=1)
    else:
        for row, one in enumerate(targets):
            figure.update_scenes(zaxis_title=f"loss {TARGETS[one]}", row=row + 1)
    alt = (
        f"Loss on the plane through image {first.meta['index']}, {_names(found)}, as"
        f" {'contours' if kind == 'contour' else 'a relief'}."
    )
    sentences = [
        *(_slopes(found, one) for one in targets),
        *_apart(found, targets, frozen),
        *_interpolated(found, targets),
    ]
    return finish(figure, alt, first.meta, "\n\n".join(sentences))


def _same_plane(found: Mapping[str, Surface]) -> None:
    first = next(iter(found.values()))
    for name, other in found.items():
        if not all(
            np.array_equal(getattr(first, what), getattr(other, what))
            for what in ("x", "d", "r", "a", "b")
        ):
            raise UserError(
                f"{name} is on another plane than {next(iter(found))}: measure both with the same"
                " image, reference, span, grid and seed."
            )


def _slopes(found: Mapping[str, Surface], target: str) -> str:
    """The loss at the image, at ε along each direction, and where it is highest within the
    ε box.
    """
    first = next(iter(found.values()))
    reach = min(first.eps, float(first.a[-1]))
    inside = np.abs(first.a) <= reach * (1 + 1e-6)
    each = []
    for name, result in found.items():
        loss, middle = result.loss(target).astype(np.float64), result.middle
        along = float(np.interp(reach, result.a, loss[:, middle]))
        across = max(float(np.interp(side * reach, result.b, loss[middle])) for side in (-1, 1))
        box = loss[np.ix_(inside, inside)]
        i, j = np.unravel_index(int(box.argmax()), box.shape)
        at = f"({result.a[inside][i] * 255:+.0f}, {result.b[inside][j] * 255:+.0f})"
        each.append(
            f"{name or 'this network'} {_zero(loss[middle, middle])} → {_zero(along)}"
            f" ({_zero(across)}), at most {_zero(box.max())} in the box, at {at}"
        )
    goal = (
        f"to the true class, {first.meta['classes'][first.y]}"
        if target == "hard"
        else f"to the witness's soft label at T = {first.meta['temperature']:g}"
    )
    return (
        f"Loss {goal}, at the image → at {eps_text(reach)} along the adversarial direction (along"
        f" the random one): {'; '.join(each)}."
    )


def _zero(loss: float) -> str:
    """A loss with two digits; what rounding made negative is 0."""
    return f"{max(float(loss), 0.0):.2f}"


def _apart(found: Mapping[str, Surface], targets: Sequence[str], frozen: str) -> list[str]:
    """How far the first two surfaces are from each other; that a frozen network's is the same
    before and after.
    """
    names, said = list(found), []
    if len(names) > 1:
        largest = [
            f"{float(np.abs(found[names[0]].loss(one) - found[names[1]].loss(one)).max()):.2f}"
            f" ({TARGETS[one]})"
            for one in targets
        ]
        said.append(
            f"Largest difference between {names[0]} and {names[1]} anywhere on the plane:"
            f" {', '.join(largest)}."
        )
    if frozen and frozen in found:
        said.append(
            f"The {frozen} is frozen: one file before and after, so its difference is 0 everywhere."
        )
    return [" ".join(said)] if said else []


def _interpolated(
    found: Mapping[str, Surface] | Mapping[str, WeightSurface], kinds: Sequence[str]
) -> list[str]:
    """How many of the points were computed, and how wrong interpolation was where it was tried;
    nothing where all were.
    """
    made = [result.meta["refined"] for result in found.values() if "refined" in result.meta]
    points, computed, tried = (
        sum(one[what] for one in made) for what in ("points", "computed", "tried")
    )
    if not tried:
        return []
    words = {
        "hard": "the loss to the true class",
        "soft": "the loss to the soft label",
        "log10": "log₁₀ of the loss",
    }
    missed = " and ".join(
        f"{words[kind]} by at most {max(one['error'][kind] for one in made):.2g}" for kind in kinds
    )
    return [
        f"Of {points:,} points {computed:,} were computed, the others interpolated. At {tried} of"
        f" those, drawn at random and then computed too, interpolation missed {missed}."
    ]


def weight_surface(
    results: WeightSurface | Mapping[str, WeightSurface],
    *,
    kind: Literal["contour", "3d"] = "contour",
    template: str = LIGHT,
) -> go.Figure:
    """The mean loss of a set where the weights are moved along two filter-normalised directions, a
    column a network.

    Drawn as log₁₀, because a few filter lengths away losses are a hundred times larger. Raises
    UserError for results on other grids.
    """
    found = {"": results} if isinstance(results, WeightSurface) else dict(results)
    first = next(iter(found.values()))
    if any(not np.array_equal(first.a, other.a) for other in found.values()):
        raise UserError(
            "These surfaces have different grids or spans: measure all with the same ones."
        )
    finite = [
        np.log10(np.maximum(np.nan_to_num(result.loss, nan=1e6, posinf=1e6), 1e-6))
        for result in found.values()
    ]
    figure = _frame(
        [finite], [name for name in found] if list(found) != [""] else [], kind, template
    )
    for column, ((name, result), loss) in enumerate(zip(found.items(), finite, strict=True)):
        where = {"row": 1, "col": column + 1}
        _panel(
            figure,
            result.a,
            result.b,
            loss,
            name or "this network",
            kind,
            where,
            "%{x:.2f}, %{y:.2f}: log₁₀ loss %{z:.2f}",
        )
        if kind == "contour":
            figure.add_scatter(
                x=[0],
                y=[0],
                mode="markers",
                hoverinfo="skip",
                showlegend=False,
                name=f"{name}: the trained weights",
                marker={
                    "symbol": "circle",
                    "size": 11,
                    "color": LIGHT_LINE,
                    "line": {"color": DARK_LINE, "width": 2},
                },
                **where,
            )
    _same_scale(
        figure,
        1,
        len(found),
        float(np.min(finite)),
        float(np.max(finite)),
        kind,
        "direction 1",
        "direction 2",
        "log₁₀ loss",
    )
    said = "\n\n".join([_around(found), *_interpolated(found, ["log10"])])
    return finish(
        figure, f"Mean loss around the trained weights of {_names(found)}, log₁₀.", first.meta, said
    )


def _around(found: Mapping[str, WeightSurface]) -> str:
    first = next(iter(found.values()))
    each = []
    for name, result in found.items():
        middle, half = len(result.a) // 2, np.abs(result.a) <= 0.5 * result.a[-1] + 1e-9
        loss = np.nan_to_num(result.loss, nan=np.inf)
        inner, here, low = loss[np.ix_(half, half)], float(loss[middle, middle]), float(loss.min())
        lowest = "the lowest point of the grid" if here <= low else f"lowest {low:.3f} elsewhere"
        each.append(
            f"{name or 'this network'} {here:.3f} at its weights ({lowest}), at most"
            f" {float(inner.max()):.3g} half-way out and {float(loss.max()):.3g} in all"
        )
    said = (
        f"Mean cross-entropy of {first.n} images, two directions of seed {first.meta['seed']}:"
        f" {'; '.join(each)}."
    )
    kinds = {str(result.meta["architecture"]) for result in found.values()}
    return said + (
        " Networks of different architecture have different directions here."
        if len(kinds) > 1
        else ""
    )


def _frame(
    panels: Sequence[Sequence[Floats]], titles: Sequence[str], kind: str, template: str
) -> go.Figure:
    rows, columns = len(panels), len(panels[0])
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[title.replace(" ", "<br>", 1) for title in titles],
        horizontal_spacing=0.04,
        vertical_spacing=0.09,
        shared_yaxes=kind == "contour",
        specs=[[{"type": "xy" if kind == "contour" else "scene"}] * columns] * rows,
    )
    figure.update_annotations(font={"size": 14, "color": COLOURS[template]["text"]}, yshift=4)
    figure.update_layout(
        template=template,
        height=(390 if kind == "contour" else 430) * rows + (40 if rows > 1 else 0),
        margin={"l": 8, "r": 8, "t": 76, "b": 48},
    )
    return figure


def _panel(
    figure: go.Figure,
    a: Floats,
    b: Floats,
    loss: Floats,
    name: str,
    kind: str,
    where: dict[str, int],
    hover: str,
) -> None:
    # Rows of a result run along a, rows of Plotly's z along y.
    shared: dict[str, Any] = {
        "x": a,
        "y": b,
        "z": loss.T.astype(np.float32),
        "coloraxis": "coloraxis",
        "name": name,
    }
    if kind == "contour":
        figure.add_contour(
            **shared,
            hovertemplate=hover + "<extra></extra>",
            line={"width": 0.5},
            contours={"coloring": "heatmap"},
            **where,
        )
    else:
        figure.add_surface(**shared, hovertemplate=hover + "<extra></extra>", **where)


def _same_scale(
    figure: go.Figure,
    rows: int,
    columns: int,
    low: float,
    high: float,
    kind: str,
    x_title: str,
    y_title: str,
    z_title: str,
    stretch: bool = False,
) -> None:
    high = max(high, low + 1e-6)
    figure.update_layout(
        coloraxis={
            "colorscale": STRETCHED if stretch else "Cividis",
            "cmin": low,
            "cmax": high,
            "colorbar": {"title": z_title, "thickness": 14},
        }
    )
    if kind == "contour":
        step = (high - low) / 20
        figure.for_each_trace(
            lambda trace: trace.contours.update(start=low, end=high, size=step),
            selector=lambda trace: trace.type == "contour" and trace.coloraxis,
        )
        figure.update_xaxes(zeroline=False)
        figure.update_xaxes(
            title=x_title, row=rows, col=columns // 2 + 1
        )  # once: side by side they collide on a phone
        figure.update_yaxes(zeroline=False)
        figure.update_yaxes(title=y_title, col=1)
        return
    pad = 0.03 * (high - low)
    small: dict[str, Any] = {"title_font": {"size": 13}, "tickfont": {"size": 11}, "nticks": 5}
    figure.update_scenes(
        camera=CAMERA,
        aspectmode="cube",
        xaxis={"title": x_title.split()[0], **small},
        yaxis={"title": y_title.split()[0], **small},
        zaxis={"title": z_title, "range": [low - pad, high + pad], **small},
    )


def _names(found: Mapping[str, object]) -> str:
    return ", ".join(found) if list(found) != [""] else "one network"
