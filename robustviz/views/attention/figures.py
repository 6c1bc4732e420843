"""The figures of the Attention page: maps, PART's mask and budget, what an attack spends of it, and
two measures of many maps.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Floats, flat, mean_interval
from robustviz.types import UserError, eps_text
from robustviz.views.attack.figures import SIDES, _sides
from robustviz.views.attention.result import MAPS, OVERLAPS, Attention, Overlap, Road
from robustviz.views.pictures import png
from robustviz.views.theme import COLOURS, LIGHT, blank, finish

METHODS = {
    "grad_cam": "Grad-CAM",
    "layer_cam": "LayerCAM",
    "grad_cam_plusplus": "Grad-CAM++",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
    "score_cam": "Score-CAM",
}
MEASURES = {"iou": "IoU of the mask", "pointing": "pointing game", "energy": "energy on the object"}
SYMBOLS = {"clean": "circle", "attacked": "x", "random": "circle-open"}


def attention(
    result: Attention, *, control: bool = False, image: bool = False, template: str = LIGHT
) -> go.Figure:
    """The map of the untouched image, of the attacked one, and attacked minus untouched; raw, in
    blocks, red above 0.

    The first two share a scale. `control` adds the map by the same network with random weights;
    `image` puts the picture under the maps. Raises UserError where the untouched image's map is
    constant.
    """
    names, grid, meta = result.meta["classes"], "×".join(map(str, result.heat.shape)), result.meta
    if result.constant:
        raise UserError(
            f"The {grid} map for {names[result.label]} on image {meta['index']} is constant, so it"
            " points at nothing: PART then gives every pixel the full ε. Choose another image,"
            " class or CAM method."
        )
    most = float(max(np.abs(result.heat).max(), np.abs(result.heat_adv).max()))
    change = result.heat_adv - result.heat
    far = float(np.abs(change).max())
    far = far if far > 1e-5 * most else most  # rounding is not to be blown up into a picture
    panels = [
        ("clean", result.heat, most, result.x),
        ("attacked", result.heat_adv, most, result.x_adv),
        ("difference", change, far, None),
    ]
    if control:
        panels.append(("random", result.heat_random[0], 0.0, result.x))
    figure = _panels([title for title, *_ in panels], result.x.shape[1:], template)
    for place, (title, heat, limit, under) in enumerate(panels, 1):
        if image and under is not None:
            _picture(figure, place, under)
        limit = limit or float(np.abs(heat).max()) or 1.0
        _heatmap(
            figure,
            place,
            title,
            heat,
            result.x.shape[1:],
            colorscale="RdBu_r",
            zmid=0,
            zmin=-limit,
            zmax=limit,
            showscale=False,
            opacity=0.6 if image and under is not None else 1.0,
        )
        _below(figure, place, f"±{limit:.2g}")
    figure.update_layout(height=250 if len(panels) == 3 else 210)
    alt = (
        f"Class activation maps ({METHODS[meta['cam']]}, {grid} cells) as red and blue blocks:"
        f" {', '.join(title for title, *_ in panels)}."
    )
    return finish(figure, alt, meta, _maps_sentence(result, grid))


def _maps_sentence(result: Attention, grid: str) -> str:
    names, meta = result.meta["classes"], result.meta
    before, after = int(result.probs.argmax()), int(result.probs_adv.argmax())
    moved = (
        f"{names[before]} ({result.probs[before]:.0%}) → {names[after]}"
        f" ({result.probs_adv[after]:.0%})"
    )
    attack = f"PGD-{meta['steps']}, ε = {eps_text(result.eps)}, seed {meta['seed']}"
    if result.eps == 0:
        said = [f"**{moved}**: nothing may change at ε = 0."]
    elif before != result.y:
        said = [
            f"**{moved}** ({attack}): wrong already without an attack, it is a {names[result.y]}."
        ]
    elif after != result.y:
        said = [f"**{moved}** ({attack}): this model was fooled."]
    else:
        said = [f"**{moved}** ({attack}): it holds against this attack."]
    whose = f"for {names[result.label]}"
    if result.label_adv != result.label:
        whose = (
            f"for {names[result.label]}, attacked for {names[result.label_adv]}: the difference"
            " compares two classes"
        )
    if meta["cam"] == "eigen_cam":
        whose = "which asks for no class and whose sign means nothing"
    said.append(f"{METHODS[meta['cam']]}, a grid of {grid} cells, {whose}.")
    if flat(result.heat_adv):
        said.append(
            "The attacked image's map is constant, so there is no rank correlation with it."
        )
    else:
        (row, column), (to_row, to_column) = (
            np.unravel_index(int(heat.argmax()), heat.shape)
            for heat in (result.heat, result.heat_adv)
        )
        same = (row, column) == (to_row, to_column)
        where = "stays in" if same else f"moves from row {row + 1}, column {column + 1} to"
        said.append(
            f"The hottest cell {where} row {to_row + 1}, column {to_column + 1}; rank correlation"
            f" clean to attacked **{result.drift:.2f}**."
        )
    known = result.control[np.isfinite(result.control)]
    if len(known) > 1:
        said.append(
            f"Control: {len(known)} networks with random weights give maps whose rank correlation"
            f" with the clean one is {known.mean():.2f} on average ({known.min():.2f} to"
            f" {known.max():.2f})."
        )
    elif len(known):
        said.append(
            "Control: a network with random weights gives a map whose rank correlation with the"
            f" clean one is {known[0]:.2f}."
        )
    else:
        said.append("Control: with random weights the map is constant.")
    return " ".join(said)


def budget(result: Attention, *, template: str = LIGHT) -> go.Figure:
    """PART's mask on the image, the rest darkened, and each pixel's radius: bright ε, dark ε_low.
    Where the data knows the true object, its outline is drawn. The radii of jet-compat differ
    between colours; their mean is drawn.
    """
    meta, size = result.meta, result.x.shape[1:]
    mask = result.mask if result.mask.ndim == 3 else result.mask[None]
    levels = (result.budget if result.budget.ndim == 2 else result.budget.mean(0)) * 255
    figure = _panels(["mask", "budget"], size, template)
    _picture(figure, 1, np.where(mask, result.x, 0.2 * result.x))
    low, high = result.eps_low * 255, result.eps * 255
    # one radius everywhere still needs a span to be drawn; it is bright then, as ε is
    _heatmap(
        figure,
        2,
        "radius in grey levels",
        levels,
        size,
        colorscale="Cividis",
        zmin=low if low < high else high - 1,
        zmax=high,
        showscale=False,
    )
    drawn = (
        f"{eps_text(result.eps)}<br>everywhere"
        if low == high
        else f"dark {eps_text(result.eps_low)}<br>bright {eps_text(result.eps)}"
    )
    _below(figure, 1, f"{mask.mean():.0%} of pixels")
    _below(figure, 2, drawn)
    figure.update_layout(height=250)
    if result.object.size:
        # one line over the other, so that the outline is seen on every colour
        for place, shade, width in [
            (place, *line) for place in (1, 2) for line in (("#10161F", 4), ("#FFFFFF", 2))
        ]:
            figure.add_contour(
                z=result.object.astype(int),
                x=np.arange(size[1]),
                y=np.arange(size[0]),
                contours={"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"},
                line={"color": shade, "width": width},
                showscale=False,
                name="true object",
                hoverinfo="skip",
                **_axes(place),
            )
    return finish(
        figure,
        "The image with its unimportant pixels darkened, and the radius of each pixel.",
        meta,
        _budget_sentence(result, mask),
    )


def _budget_sentence(result: Attention, mask: np.ndarray) -> str:
    meta, whole = result.meta, int(mask.size)
    unit = "pixels" if mask.shape[0] == 1 else "pixel values, which differ between colours"
    said = [
        f"{int(mask.sum())} of {whole} {unit} ({mask.mean():.0%}) are important by the rule"
        f" {meta['rule']}."
    ]
    if mask.all() and meta["rule"] != "ones":
        said.append("No pixel stands out, so PART is plain adversarial training here.")
    if result.eps_low == result.eps:
        said.append(f"All get ε = {eps_text(result.eps)}, whatever the mask says: ε_low equals ε.")
    else:
        rest = (
            "the others may not change at all"
            if result.eps_low == 0
            else f"the others get {eps_text(result.eps_low)}"
        )
        said.append(f"They get {eps_text(result.eps)}, {rest}.")
    if result.object.size:
        share = float((mask * result.object).sum() / mask.sum()) if mask.any() else 0.0
        said.append(
            f"{share:.0%} of the mask lies on the true object (outlined); blind chance is"
            f" {result.object.mean():.0%}."
        )
    names = meta["classes"]
    after = int(result.probs_part.argmax())
    outcome = f"the answer is {names[after]} ({result.probs_part[after]:.0%})"
    said.append(
        f"Attacked within this budget (PGD-{meta['steps']}, seed {meta['seed']}), {outcome}."
    )
    return " ".join(said)


def spent(results: Attention | Mapping[str, Attention], *, template: str = LIGHT) -> go.Figure:
    """How far each pixel value moves in an attack within the budget, in grey levels; one or two
    networks, ε_low and ε marked.
    """
    found = {"": results} if isinstance(results, Attention) else dict(results)
    colour, first = COLOURS[template], next(iter(found.values()))
    high, low = first.eps * 255, first.eps_low * 255
    figure = blank(
        template,
        "How much of the budget is spent",
        f"|δ| of every pixel value, PGD-{first.meta['steps']}, seed {first.meta['seed']}, image"
        f" {first.meta['index']}",
        barmode="group",
        bargap=0.1,
        showlegend=len(found) > 1,
    )
    width, said = (high or 1) / 32, []  # so that 7/8 of ε and ε are middles of bars
    for (name, result), side in zip(
        found.items(), SIDES if "" in found else _sides(found), strict=False
    ):
        levels = result.spent.ravel() * 255
        share = (
            np.bincount(np.clip(np.rint(levels / width).astype(int), 0, 32), minlength=33)
            / levels.size
        )
        figure.add_bar(
            x=np.arange(33) * width,
            y=share,
            name=name,
            marker={"color": colour[side], "pattern": {"shape": "" if side == "a" else "/"}},
            hovertemplate="|δ| near %{x:.1f}/255: %{y:.1%}<extra>" + name + "</extra>",
        )
        said.append((f"**{name}**: " if name else "") + _spent_sentence(result))
    if high:
        said.append("The rest ran into black or white, or turned round on the way.")
    for level, text in dict.fromkeys([(high, "ε"), *([(low, "ε_low")] if low != high else [])]):
        figure.add_vline(
            x=level,
            line={"color": colour["faint"], "dash": "dot"},
            annotation_text=text,
            annotation_position="top left" if level else "top right",
        )
    figure.update_xaxes(title="|δ| in grey levels (of 255)")
    top = max(float(np.max(bar.y)) for bar in figure.data)
    figure.update_yaxes(
        title="share of pixel values", tickformat=".0%", range=[0, 1.15 * top]
    )  # room for the names of the lines
    return finish(
        figure,
        "Histogram of how far each pixel value moves within the budget.",
        first.meta,
        "  \n".join(said),
    )


def _spent_sentence(result: Attention) -> str:
    important, full = np.broadcast_to(result.mask, result.x.shape), result.at_limit
    if result.eps == 0:
        return "nothing may change at ε = 0."
    if result.eps_low == result.eps or important.all():
        return (
            f"{full.mean():.0%} of the values stand at {eps_text(result.eps)}: one peak, because"
            " every pixel has the same budget."
        )
    if not important.any():
        return (
            f"{full.mean():.0%} of the values stand at {eps_text(result.eps_low)}: one peak,"
            " because no pixel is important."
        )
    inside, outside = full[important].mean(), full[~important].mean()
    return (
        f"of the {important.mean():.0%} important values {inside:.0%} stand at"
        f" {eps_text(result.eps)}, of the others {outside:.0%} at {eps_text(result.eps_low)}."
    )


def overlap(results: Overlap | Mapping[str, Overlap], *, template: str = LIGHT) -> go.Figure:
    """IoU, pointing game and energy of maps against the true object, means with 95 % intervals, one
    or two networks.

    Circles: untouched images; ×: attacked; open circles: random weights; a line: what a blind guess
    gets.
    """
    found = {"": results} if isinstance(results, Overlap) else dict(results)
    colour, first = COLOURS[template], next(iter(found.values()))
    meta = first.meta
    figure = blank(
        template,
        "Do the maps lie on the object?",
        f"{METHODS[meta['cam']]}, mask {meta['rule']}, {meta['n']} test images; bars: 95 %",
        height=440,
    )
    marks = [
        (name, side, row)
        for (name, side) in zip(found, SIDES if "" in found else _sides(found), strict=False)
        for row in range(len(MAPS))
    ]
    for number, (name, side, row) in enumerate(marks):
        every = np.array([found[name].interval(measure, row) for measure in OVERLAPS])
        every = np.where(np.isfinite(every), every, every[:, :1])
        figure.add_scatter(
            x=np.arange(len(OVERLAPS)) + (number - (len(marks) - 1) / 2) * 0.7 / len(marks),
            y=every[:, 0],
            mode="markers",
            name=f"{name} {MAPS[row]}".strip(),
            marker={"symbol": SYMBOLS[MAPS[row]], "size": 11, "color": colour[side]},
            customdata=every,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": every[:, 2] - every[:, 0],
                "arrayminus": every[:, 0] - every[:, 1],
                "thickness": 2,
            },
            hovertemplate="%{customdata[0]:.2f} [%{customdata[1]:.2f}, %{customdata[2]:.2f}]<extra>"
            + f"{name} {MAPS[row]}"
            + "</extra>",
        )
    guess = [
        float((first.chance if measure == "iou" else first.area).mean()) for measure in OVERLAPS
    ]
    figure.add_scatter(
        x=[at + far for at in range(len(OVERLAPS)) for far in (-0.45, 0.45, 0.5)],
        y=[y for one in guess for y in (one, one, None)],
        mode="lines",
        name="blind chance",
        line={"color": colour["text"], "dash": "dot", "width": 2},
        hovertemplate="blind chance %{y:.2f}<extra></extra>",
    )
    figure.update_xaxes(
        tickvals=[*range(len(OVERLAPS))],
        ticktext=["IoU", "pointing", "energy"],
        range=[-0.6, len(OVERLAPS) - 0.4],
        zeroline=False,
    )
    figure.update_yaxes(title="mean over images", rangemode="tozero")
    said = [
        (f"**{name}**: " if name else "") + _overlap_sentence(result)
        for name, result in found.items()
    ]
    if len(found) == 2:
        said.append(_gaps(found))
    said.append(
        f"{METHODS[meta['cam']]}, class {meta['of']}, mask {meta['rule']}, n = {meta['n']},"
        f" PGD-{meta['steps']} at ε = {eps_text(meta['eps'])}, seed {meta['seed']}."
    )
    return finish(
        figure,
        "Three measures of how well maps lie on the true object, with intervals.",
        meta,
        "  \n".join(said),
    )


def _overlap_sentence(result: Overlap) -> str:
    said = []
    for measure in OVERLAPS:
        clean, attacked = (_with_interval(result.interval(measure, row)) for row in (0, 1))
        guess = float((result.chance if measure == "iou" else result.area).mean())
        said.append(f"{MEASURES[measure]} {clean}, attacked {attacked}, blind chance {guess:.2f}")
    silent = (
        f"; {int(result.constant[0])} clean and {int(result.constant[1])} attacked maps say nothing"
        " and count as blind guesses"
        if result.constant[:2].any()
        else ""
    )
    return "; ".join(said) + silent + "."


def _with_interval(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    return (
        f"{mean:.2f} [{low:.2f}, {high:.2f}]"
        if math.isfinite(low) and math.isfinite(high)
        else f"{mean:.2f}"
    )


def _gaps(found: Mapping[str, Overlap]) -> str:
    (first, one), (second, two) = found.items()
    said = []
    try:
        for measure in OVERLAPS:
            mean, low, high = two.gap(one, measure, 0)
            verdict = "higher" if low > 0 else "lower" if high < 0 else "not decided"
            span = f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else ""
            said.append(f"{MEASURES[measure]} {mean:+.2f}{span}, {verdict}")
    except UserError as error:
        return str(error)
    return f"{second} minus {first}, untouched, image by image: {'; '.join(said)} (95 %)."


def road(results: Road | Mapping[str, Road], *, template: str = LIGHT) -> go.Figure:
    """ROAD of maps beside its two controls, means with 95 % intervals, one or two networks; above
    0: what the map calls important is.
    """
    found = {"": results} if isinstance(results, Road) else dict(results)
    colour, first = COLOURS[template], next(iter(found.values()))
    labels = ["this network's map", "random weights", "random numbers"]
    figure = blank(
        template,
        "Does what the map shows matter?",
        f"ROAD, {METHODS[first.meta['cam']]}, {len(first.index)} test images; bars: 95 %",
        height=200 + 56 * len(found),
        showlegend=len(found) > 1,
    )
    said = []
    for (name, result), side in zip(
        found.items(), SIDES if "" in found else _sides(found), strict=False
    ):
        every = np.array([mean_interval(row) for row in result.score])
        span = np.where(np.isfinite(every), every, every[:, :1])
        figure.add_scatter(
            y=np.arange(3) + (0 if len(found) == 1 else -0.14 if side == "a" else 0.14),
            x=every[:, 0],
            mode="markers",
            name=name,
            marker={
                "size": 12,
                "color": colour[side],
                "symbol": "circle" if side == "a" else "diamond",
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": span[:, 2] - span[:, 0],
                "arrayminus": span[:, 0] - span[:, 1],
                "thickness": 2,
            },
            hovertemplate="%{x:.3f}<extra>" + name + "</extra>",
        )
        gap, low, high = mean_interval(result.score[0] - result.score[2])
        verdict = "above" if low > 0 else "below" if high < 0 else "not told apart from"
        lost = f" {result.constant} constant maps are left out." if result.constant else ""
        said.append(
            (f"**{name}**: " if name else "")
            + f"ROAD {_with_interval((every[0][0], every[0][1], every[0][2]))}, {verdict} maps of"
            f" random numbers (difference {gap:+.3f}"
            + (f" [{low:+.3f}, {high:+.3f}]" if math.isfinite(low) else "")
            + f", n = {len(result.index)}); "
            f"random weights {every[1][0]:z.2f}, seed {result.meta['seed']}.{lost}"
        )
    figure.update_yaxes(tickvals=[0, 1, 2], ticktext=labels, range=[2.5, -0.5], zeroline=False)
    figure.update_xaxes(title="ROAD (softmax output)", zeroline=True)
    return finish(
        figure,
        "ROAD of class activation maps, of random weights and of random numbers.",
        first.meta,
        "  \n".join(said),
    )


def _panels(titles: list[str], size: tuple[int, ...], template: str) -> go.Figure:
    """Empty square panels side by side in pixel coordinates, row 0 at the top, each with its title
    above.
    """
    figure, count, gap = (
        blank(template, "", margin={"l": 4, "r": 4, "t": 28, "b": 46}, showlegend=False),
        len(titles),
        0.03,
    )
    width = (1 - gap * (count - 1)) / count
    for at, title in enumerate(titles):
        number, left = str(at + 1) if at else "", at * (width + gap)
        plain: dict[str, Any] = {
            "showticklabels": False,
            "ticks": "",
            "showgrid": False,
            "zeroline": False,
            "constrain": "domain",
        }
        figure.update_layout(
            {
                f"xaxis{number}": (
                    plain
                    | {
                        "domain": [left, left + width],
                        "anchor": f"y{number}",
                        "range": [-0.5, size[1] - 0.5],
                    }
                ),
                f"yaxis{number}": (
                    plain
                    | {
                        "anchor": f"x{number}",
                        "range": [size[0] - 0.5, -0.5],
                        "scaleanchor": f"x{number}",
                        "constraintoward": "top",
                    }
                ),
            }
        )
        figure.add_annotation(
            text=title,
            x=0.5,
            xref=f"x{number} domain",
            y=1,
            yref=f"y{number} domain",
            yanchor="bottom",
            showarrow=False,
        )
    return figure


def _below(figure: go.Figure, place: int, text: str) -> None:
    axes = _axes(place)
    figure.add_annotation(
        text=text,
        x=0.5,
        xref=f"{axes['xaxis']} domain",
        y=0,
        yref=f"{axes['yaxis']} domain",
        yanchor="top",
        showarrow=False,
    )


def _axes(place: int) -> dict[str, str]:
    return {"xaxis": f"x{place if place > 1 else ''}", "yaxis": f"y{place if place > 1 else ''}"}


def _picture(figure: go.Figure, place: int, x: Floats) -> None:
    height, width = x.shape[1:]
    source = "data:image/png;base64," + base64.b64encode(png(x, max(height, width))).decode()
    figure.add_image(
        source=source, x0=0, y0=0, dx=1, dy=1, hoverinfo="skip", name="image", **_axes(place)
    )


def _heatmap(
    figure: go.Figure, place: int, title: str, heat: Floats, size: tuple[int, ...], **how: Any
) -> None:
    """Blocks over the whole image, each with its value on hover."""
    rows, columns = heat.shape
    figure.add_heatmap(
        z=np.round(heat, 5),
        x=(np.arange(columns) + 0.5) * size[1] / columns - 0.5,
        y=(np.arange(rows) + 0.5) * size[0] / rows - 0.5,
        name=title,
        hovertemplate="%{z:.3g}<extra>" + title + "</extra>",
        **how,
        **_axes(place),
    )
