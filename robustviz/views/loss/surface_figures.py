"""Figures of loss surfaces, one panel per network. The scale and the camera are the same in every
panel, and on the plane through an image the directions are too.
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
from robustviz.views.loss.figures import UNNAMED, short
from robustviz.views.loss.result import Surface, WeightSurface
from robustviz.views.theme import COLOURS, LIGHT, finish, named

# a light line over a wider dark one is visible on every colour of Cividis
DARK_LINE, LIGHT_LINE = "#10161F", "#FFFFFF"
MARK = {"color": LIGHT_LINE, "line": {"color": DARK_LINE, "width": 2}}
SILENT: dict[str, Any] = {"mode": "markers", "showlegend": False, "hoverinfo": "skip"}
CAMERA = {"eye": {"x": 1.75, "y": -1.75, "z": 1.0}}
# Cividis with most of its colours at low losses, because the loss is small around the image and
# large only at the corners of the plane.
STRETCHED = [[(at / 9) ** 2, colour] for at, colour in enumerate(sequential.Cividis)]
SOFT_LABEL = "the witness's soft label"
TARGETS = {"hard": "to the true class", "soft": f"to {SOFT_LABEL}"}
WORDS = {
    "hard": "the loss to the true class",
    "soft": "the loss to the soft label",
    "log10": "log₁₀ of the loss",
}


def surfaces(
    results: Surface | Mapping[str, Surface],
    *,
    target: Literal["hard", "soft", "both"] = "hard",
    kind: Literal["contour", "3d"] = "contour",
    frozen: str = "",
    template: str = LIGHT,
) -> go.Figure:
    """Draw the loss on the plane through an image, one column per network; both directions are in
    grey levels.

    `target`: the loss's target: the true class (`hard`), the witness's soft label (`soft`), or one
    row for each (`both`). `frozen`: the name in `results` of a network that the alignment did not
    change. On contours the ring is the image itself, × is at ε along the adversarial direction, the
    square is the ε box, and on the dashed line the prediction stops being the true class. Raises
    UserError for results on different planes, and for a soft loss without a witness.
    """
    found, targets = named(results, ""), ["hard", "soft"] if target == "both" else [target]
    _same_plane(found)
    first, flat = next(iter(found.values())), kind == "contour"
    losses = [[result.loss(each) for result in found.values()] for each in targets]
    figure = _frame(
        losses,
        [name + (" (before = after)" if name and name == frozen else "") for name in found],
        ("adversarial direction", "random direction", "loss"),
        flat,
        template,
    ).update_layout(coloraxis_colorscale=STRETCHED)
    for row, each in enumerate(targets, 1):
        for column, (name, result) in enumerate(found.items(), 1):
            said, where = f"{name}, {TARGETS[each]}".strip(", "), {"row": row, "col": column}
            a, b, loss = result.a * 255, result.b * 255, losses[row - 1][column - 1]
            _panel(
                figure, (a, b, loss), said, "%{x:.0f}, %{y:.0f} of 255: loss %{z:.3f}", flat, where
            )
            (_edges if flat else _peak)(figure, result, loss, said, where)
        if flat:
            figure.update_yaxes(title=f"<b>{TARGETS[each]}</b><br>random direction", row=row, col=1)
    return finish(
        figure,
        (
            f"Loss on the plane through image {first.meta['index']}, {_names(found)}, as"
            f" {'contours' if flat else 'a relief'}."
        ),
        found,
        " ".join([*(_slopes(found, each) for each in targets), *_frozen(found, frozen)]),
        "\n\n".join(
            filter(
                None,
                [
                    *(_box(found, each) for each in targets),
                    _apart(found, targets),
                    _interpolated(found, targets),
                    *_protocol(first, targets),
                ],
            )
        ),
    )


def _edges(
    figure: go.Figure, result: Surface, loss: Floats, said: str, where: dict[str, int]
) -> None:
    """Draw on a contour plot the line where the prediction stops being the true class, the ε box, a
    ring for the image and × for the point at ε along the adversarial direction.
    """
    a, b, eps = result.a * 255, result.b * 255, min(result.eps, float(result.a[-1])) * 255
    for colour, width, dash in ((DARK_LINE, 4, "solid"), (LIGHT_LINE, 2, "dash")):
        figure.add_contour(
            x=a,
            y=b,
            z=(result.pred == result.y).T.astype(np.uint8),
            showlegend=False,
            showscale=False,
            hoverinfo="skip",
            name=f"{said}: prediction right",
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
                line={"color": colour, "width": width - 1, "dash": dash.replace("dash", "dot")},
                **where,
            )
    figure.add_scatter(
        x=[0, eps],
        y=[0, 0],
        name=f"{said}: the image, and ε along the adversarial direction",
        marker={**MARK, "symbol": ["circle", "x"], "size": 11},
        **SILENT,
        **where,
    )


def _peak(
    figure: go.Figure, result: Surface, loss: Floats, said: str, where: dict[str, int]
) -> None:
    """Mark the image by a dot on a 3-D surface, at the height of its loss."""
    figure.add_scatter3d(
        x=[0],
        y=[0],
        z=[float(loss[result.middle, result.middle])],
        name=f"{said}: the image",
        marker={**MARK, "size": 5},
        **SILENT,
        **where,
    )


def _same_plane(found: Mapping[str, Surface]) -> None:
    (first, plane), *others = found.items()
    for name, other in others:
        if not all(np.array_equal(getattr(plane, k), getattr(other, k)) for k in "xdrab"):
            raise UserError(
                f"{name} is on another plane than {first}: measure both with the same image,"
                " reference, span, grid and seed."
            )


def _slopes(found: Mapping[str, Surface], target: str) -> str:
    """The loss at the image and at ε along the adversarial direction, in words."""
    first = next(iter(found.values()))
    reach = min(first.eps, float(first.a[-1]))
    goal = f"the true class, {first.meta['classes'][first.y]}"
    each = " ".join(
        f"{short(name)}: {_zero(loss[result.middle, result.middle])} →"
        f" {_zero(np.interp(reach, result.a, loss[:, result.middle]))}."
        for name, result in found.items()
        for loss in [result.loss(target).astype(np.float64)]
    )
    return (
        f"The loss to {goal if target == 'hard' else SOFT_LABEL}, at the image → at"
        f" {eps_text(reach)} along the adversarial direction. {each}"
    )


def _box(found: Mapping[str, Surface], target: str) -> str:
    """The loss at ε along the random direction (the higher of both ways) and the highest loss in
    the ε box (both steps at most ε), in words.
    """
    said = [f"The loss {TARGETS[target]} elsewhere:"]
    for name, result in found.items():
        loss = result.loss(target).astype(np.float64)
        reach = min(result.eps, float(result.a[-1]))
        inside = np.abs(result.a) <= reach * (1 + 1e-6)
        across = max(np.interp([-reach, reach], result.b, loss[result.middle]))
        box = loss[np.ix_(inside, inside)]
        i, j = np.unravel_index(int(box.argmax()), box.shape)
        said.append(
            f"{short(name)} reaches {_zero(across)} along the random direction, and at most"
            f" {_zero(box.max())} in the ε box. That point is at"
            f" ({result.a[inside][i] * 255:+.0f}, {result.b[inside][j] * 255:+.0f}) grey levels."
        )
    return "\n\n".join(said)


def _protocol(first: Surface, targets: Sequence[str]) -> list[str]:
    soft = f" To the soft label it is T²·KL at T = {first.meta.get('temperature', 4):g}."
    return [
        "To the true class the loss is cross-entropy." + soft * ("soft" in targets),
        f"Pixels are not clipped. The random direction has seed {first.meta.get('seed', 0)}.",
    ]


def _zero(loss: float) -> str:
    """A loss with two digits; a negative one is a rounding error and is printed as 0."""
    return f"{max(float(loss), 0.0):.2f}"


def _apart(found: Mapping[str, Surface], targets: Sequence[str]) -> str:
    """The largest absolute difference between the losses of the first two surfaces, in words; empty
    for a single one.
    """
    names = list(found)[:2]
    if len(names) < 2:
        return ""
    one, two = (found[name] for name in names)
    largest = ", ".join(
        f"{float(np.abs(one.loss(each) - two.loss(each)).max()):.2f} ({TARGETS[each]})"
        for each in targets
    )
    both = " and ".join(map(short, names))
    return f"Largest difference between {both} on the whole plane: {largest}."


def _frozen(found: Mapping[str, Surface], frozen: str) -> list[str]:
    """A list of one sentence, which says that the frozen network's surface is the same before and
    after the alignment; empty if no network `frozen` is among the results.
    """
    same = "is not trained by the alignment, so its surface is the same before and after."
    return [f"The {frozen.lower()} {same}"] if frozen and frozen in found else []


def _interpolated(
    found: Mapping[str, Surface] | Mapping[str, WeightSurface], kinds: Sequence[str]
) -> str:
    """How many points were computed, and the largest interpolation error at the points tried, in
    words; empty if no point was interpolated.
    """
    parts = [result.meta["refined"] for result in found.values() if "refined" in result.meta]
    points, computed, tried = (
        sum(part[what] for part in parts) for what in ("points", "computed", "tried")
    )
    missed = (
        f"{max(part['error'][kind] for part in parts):.2g} in {WORDS[kind]}" for kind in kinds
    )
    return (
        f"Of {points:,} points, {computed:,} were computed and the others interpolated. At"
        f" {tried} of the interpolated points the true value was also computed. The largest"
        f" error is {' and '.join(missed)}."
        if tried
        else ""
    )


def weight_surface(
    results: WeightSurface | Mapping[str, WeightSurface],
    *,
    kind: Literal["contour", "3d"] = "contour",
    template: str = LIGHT,
) -> go.Figure:
    """Draw the mean loss of a set of images as the weights move along two filter-normalised
    directions, one column per network.

    The colour (in 3-D also the height) is log₁₀ of the loss, because losses a few filter norms away
    are a hundred times larger. A loss that is not finite is drawn as 10⁶, one below 10⁻⁶ as 10⁻⁶.
    Raises UserError for results on different grids.
    """
    found, flat = named(results, ""), kind == "contour"
    first = next(iter(found.values()))
    if any(not np.array_equal(first.a, other.a) for other in found.values()):
        raise UserError(
            "These surfaces have different grids or spans: measure all with the same ones."
        )
    losses = [
        np.log10(np.maximum(np.nan_to_num(result.loss, nan=1e6, posinf=1e6), 1e-6))
        for result in found.values()
    ]
    figure = _frame(
        [losses], list(found), ("direction 1", "direction 2", "log₁₀ loss"), flat, template
    )
    for column, ((name, result), loss) in enumerate(zip(found.items(), losses, strict=True), 1):
        where, hover = {"row": 1, "col": column}, "%{x:.2f}, %{y:.2f}: log₁₀ loss %{z:.2f}"
        _panel(figure, (result.a, result.b, loss), name or UNNAMED, hover, flat, where)
        if flat:
            figure.add_scatter(
                x=[0],
                y=[0],
                name=f"{name}: the trained weights",
                marker={**MARK, "symbol": "circle", "size": 11},
                **SILENT,
                **where,
            )
    return finish(
        figure,
        f"Mean loss around the trained weights of {_names(found)}, log₁₀.",
        found,
        _around(found),
        "\n\n".join(filter(None, [_further(found), _interpolated(found, ["log10"])])),
    )


def _around(found: Mapping[str, WeightSurface]) -> str:
    """The loss at the trained weights, and whether it is lower anywhere else, in words."""
    each = []
    for name, result in found.items():
        middle = len(result.a) // 2
        here, low = float(result.loss[middle, middle]), float(np.nanmin(result.loss))
        each.append(
            f"{short(name)}: {here:.3f} at the trained weights, "
            + ("the lowest point of the grid." if here <= low else f"lowest {low:.3f} elsewhere.")
        )
    return " ".join(["Mean loss.", *each])


def _further(found: Mapping[str, WeightSurface]) -> str:
    first, each = next(iter(found.values())), []
    for name, result in found.items():
        half = np.abs(result.a) <= 0.5 * result.a[-1] + 1e-9
        loss = np.nan_to_num(result.loss, nan=np.inf)
        each.append(
            f"{short(name)}: at most {float(loss[np.ix_(half, half)].max()):.3g} in the inner"
            f" half and {float(loss.max()):.3g} on the whole plane."
        )
    kinds = {result.meta["architecture"] for result in found.values()}
    return "\n\n".join(
        [
            f"Cross-entropy of {first.n} images; the two directions have seed"
            f" {first.meta['seed']}.",
            *each,
            *["Networks of different architecture have different directions."] * (len(kinds) > 1),
        ]
    )


def _frame(
    losses: Sequence[Sequence[Floats]],
    titles: Sequence[str],
    axes: tuple[str, str, str],
    flat: bool,
    template: str,
) -> go.Figure:
    """Make empty panels, for contours if `flat`, else for 3-D surfaces, with one colour scale for
    all `losses`. `titles`: of the columns; `axes`: the titles of x, y and the loss.
    """
    rows, columns, (x_title, y_title, z_title) = len(losses), len(losses[0]), axes
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[title.replace(" ", "<br>", 1) for title in titles],
        horizontal_spacing=0.04 if flat else 0.01,
        vertical_spacing=0.09,
        shared_yaxes=flat,
        specs=[[{"type": "xy" if flat else "scene"}] * columns] * rows,
    )
    figure.update_annotations(font={"size": 14, "color": COLOURS[template]["text"]}, yshift=4)
    low = float(np.min(losses))
    high = max(float(np.max(losses)), low + 1e-6)
    figure.update_layout(
        template=template,
        height=(390 if flat else 430) * rows + (40 if rows > 1 else 0) + 90,
        margin={"l": 8, "r": 8, "t": 76, "b": 138},
        coloraxis={
            "colorscale": "Cividis",
            "cmin": low,
            "cmax": high,
            # below: beside the panels it would take a phone's width, under the toolbar
            "colorbar": {"title": {"text": z_title, "side": "right"}, "thickness": 14}
            | {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "ypad": 24},
        },
    )
    if flat:
        figure.update_xaxes(zeroline=False).update_yaxes(zeroline=False)
        # one title for all columns: a title each would overlap on a phone
        figure.update_xaxes(title=x_title, row=rows, col=columns // 2 + 1)
        return figure.update_yaxes(title=y_title, col=1)
    pad = 0.03 * (high - low)
    small: dict[str, Any] = {"title_font": {"size": 13}, "tickfont": {"size": 11}, "nticks": 5}
    return figure.update_scenes(
        camera=CAMERA,
        aspectmode="cube",
        xaxis={"title": x_title.split()[0], **small},
        yaxis={"title": y_title.split()[0], **small},
        zaxis={"title": z_title, "range": [low - pad, high + pad], **small},
    )


def _panel(
    figure: go.Figure,
    points: tuple[Floats, Floats, Floats],
    name: str,
    hover: str,
    flat: bool,
    where: dict[str, int],
) -> None:
    """Draw the losses at `points`, (a, b, loss), in one panel. The loss is transposed: its rows run
    along a, the rows of Plotly's z along y.
    """
    scale, (a, b, loss) = figure.layout.coloraxis, points
    contours = {
        "coloring": "heatmap",
        "start": scale.cmin,
        "end": scale.cmax,
        "size": (scale.cmax - scale.cmin) / 20,
    }
    (figure.add_contour if flat else figure.add_surface)(
        x=a,
        y=b,
        z=loss.T.astype(np.float32),
        coloraxis="coloraxis",
        name=name,
        hovertemplate=hover + "<extra></extra>",
        **({"line": {"width": 0.5}, "contours": contours} if flat else {}),
        **where,
    )


def _names(found: Mapping[str, object]) -> str:
    return ", ".join(found) or "one network"
