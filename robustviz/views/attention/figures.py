"""The figures of one image on the Attention page: maps, PART's mask and budget, what an attack
spends of it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Bools, Floats, flat
from robustviz.types import UserError, eps_text
from robustviz.views.attention.result import Attention, Method
from robustviz.views.pictures import png
from robustviz.views.theme import COLOURS, LIGHT, blank, finish, lines, named, sides

METHODS: dict[Method, str] = {
    "grad_cam": "Grad-CAM",
    "layer_cam": "LayerCAM",
    "grad_cam_plusplus": "Grad-CAM++",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
    "score_cam": "Score-CAM",
}


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
    random, size = result.heat_random[0], result.x.shape[1:]
    panels = [
        ("clean", result.heat, most, result.x),
        ("attacked", result.heat_adv, most, result.x_adv),
        ("difference", change, far, None),
        ("random", random, float(np.abs(random).max()) or 1.0, result.x),
    ][: 4 if control else 3]
    titles = [title for title, *_ in panels]
    figure = _panels(titles, size, template)
    for place, (title, heat, limit, under) in enumerate(panels, 1):
        if image and under is not None:
            _picture(figure, place, under)
        _heatmap(
            figure,
            place,
            title,
            heat,
            size,
            colorscale="RdBu_r",
            zmid=0,
            zmin=-limit,
            zmax=limit,
            showscale=False,
            opacity=0.6 if image and under is not None else 1.0,
        )
        _beside(figure, place, f"±{limit:.2g}")
    figure.update_layout(height=210 if control else 250)
    return finish(
        figure,
        f"Class activation maps ({METHODS[meta['cam']]}, {grid} cells) as red and blue blocks:"
        f" {', '.join(titles)}.",
        meta,
        _maps_sentence(result, grid),
    )


def _maps_sentence(result: Attention, grid: str) -> str:
    names, meta = result.meta["classes"], result.meta
    before, after = int(result.probs.argmax()), int(result.probs_adv.argmax())
    moved = (
        f"{names[before]} ({result.probs[before]:.0%}) → {names[after]}"
        f" ({result.probs_adv[after]:.0%})"
    )
    attack = f"PGD-{meta['steps']}, ε = {eps_text(result.eps)}, seed {meta['seed']}"
    verdict = "it holds against this attack" if after == result.y else "this model was fooled"
    if before != result.y:
        verdict = f"wrong already without an attack, it is a {names[result.y]}"
    outcome = f"**{moved}** ({attack}): {verdict}."
    if result.eps == 0:
        outcome = f"**{moved}**: nothing may change at ε = 0."
    whose = f"for {names[result.label]}"
    if meta["cam"] == "eigen_cam":
        whose = "which asks for no class and whose sign means nothing"
    elif result.label_adv != result.label:
        whose += f", attacked for {names[result.label_adv]}: the difference compares two classes"
    maps = f"{METHODS[meta['cam']]}, a grid of {grid} cells, {whose}."
    return " ".join([outcome, maps, _change_sentence(result), _control_sentence(result.control)])


def _change_sentence(result: Attention) -> str:
    if flat(result.heat_adv):
        return "The attacked image's map is constant, so there is no rank correlation with it."
    (row, column), (to_row, to_column) = (
        np.unravel_index(int(heat.argmax()), heat.shape) for heat in (result.heat, result.heat_adv)
    )
    same = (row, column) == (to_row, to_column)
    where = "stays in" if same else f"moves from row {row + 1}, column {column + 1} to"
    return (
        f"The hottest cell {where} row {to_row + 1}, column {to_column + 1}; rank correlation"
        f" clean to attacked **{result.drift:.2f}**."
    )


def _control_sentence(control: Floats) -> str:
    known = control[np.isfinite(control)]
    if not len(known):
        return "Control: with random weights the map is constant."
    if len(known) == 1:
        return (
            "Control: a network with random weights gives a map whose rank correlation with the"
            f" clean one is {known[0]:.2f}."
        )
    return (
        f"Control: {len(known)} networks with random weights give maps whose rank correlation"
        f" with the clean one is {known.mean():.2f} on average ({known.min():.2f} to"
        f" {known.max():.2f})."
    )


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
    radii = f"dark {eps_text(result.eps_low)}<br>bright {eps_text(result.eps)}"
    _beside(figure, 1, f"{mask.mean():.0%} of pixels")
    _beside(figure, 2, f"{eps_text(result.eps)}<br>everywhere" if low == high else radii)
    figure.update_layout(height=250)
    if result.object.size:
        # one line over the other, so that the outline is seen on every colour
        for shade, width in (("#10161F", 4), ("#FFFFFF", 2)):
            figure.add_contour(
                z=result.object.astype(int),
                x=np.arange(size[1]),
                y=np.arange(size[0]),
                contours={"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"},
                line={"color": shade, "width": width},
                showscale=False,
                name="true object",
                hoverinfo="skip",
                row="all",
                col="all",
            )
    return finish(
        figure,
        "The image with its unimportant pixels darkened, and the radius of each pixel.",
        meta,
        _budget_sentence(result, mask),
    )


def _budget_sentence(result: Attention, mask: Bools) -> str:
    meta, names, after = result.meta, result.meta["classes"], int(result.probs_part.argmax())
    unit = "pixels" if len(mask) == 1 else "pixel values, which differ between colours"
    rest = f"the others get {eps_text(result.eps_low)}"
    if result.eps_low == 0:
        rest = "the others may not change at all"
    radii = f"They get {eps_text(result.eps)}, {rest}."
    if result.eps_low == result.eps:
        radii = f"All get ε = {eps_text(result.eps)}, whatever the mask says: ε_low equals ε."
    none = ["No pixel stands out, so PART is plain adversarial training here."]
    on_object = []
    if result.object.size:
        share = float((mask * result.object).sum() / mask.sum()) if mask.any() else 0.0
        on_object = [
            f"{share:.0%} of the mask lies on the true object (outlined); blind chance is"
            f" {result.object.mean():.0%}."
        ]
    return " ".join(
        [
            f"{int(mask.sum())} of {mask.size} {unit} ({mask.mean():.0%}) are important by the"
            f" rule {meta['rule']}.",
            *(none if mask.all() and meta["rule"] != "ones" else []),
            radii,
            *on_object,
            f"Attacked within this budget (PGD-{meta['steps']}, seed {meta['seed']}), the answer"
            f" is {names[after]} ({result.probs_part[after]:.0%}).",
        ]
    )


def spent(results: Attention | Mapping[str, Attention], *, template: str = LIGHT) -> go.Figure:
    """How far each pixel value moves in an attack within the budget, in grey levels; one or two
    networks, ε_low and ε marked.
    """
    several = named(results, "")
    colour, first = COLOURS[template], next(iter(several.values()))
    high, low = first.eps * 255, first.eps_low * 255
    figure = blank(
        template,
        "How much of the budget is spent",
        f"|δ| of every pixel value, PGD-{first.meta['steps']}, seed {first.meta['seed']}, image"
        f" {first.meta['index']}",
        barmode="group",
        bargap=0.1,
        showlegend=len(several) > 1,
    )
    width = (high or 1) / 32  # so that 7/8 of ε and ε are middles of bars
    for (name, result), side in zip(several.items(), sides(several), strict=True):
        bins = np.rint(result.spent.ravel() * 255 / width).astype(int).clip(0, 32)
        figure.add_bar(
            x=np.arange(33) * width,
            y=np.bincount(bins, minlength=33) / bins.size,
            name=name,
            marker={"color": colour[side], "pattern": {"shape": "" if side == "a" else "/"}},
            hovertemplate="|δ| near %{x:.1f}/255: %{y:.1%}<extra>" + name + "</extra>",
        )
    sentences = lines(several, _spent_sentence)
    if high:
        sentences.append("The rest ran into black or white, or turned round on the way.")
    for level, text in dict.fromkeys([(high, "ε"), *([(low, "ε_low")] if low != high else [])]):
        figure.add_vline(
            x=level,
            line={"color": colour["faint"], "dash": "dot"},
            annotation_text=text,
            annotation_position="top left" if level else "top right",
        )
    figure.update_xaxes(title="|δ| in grey levels (of 255)")
    top = max(float(np.max(bar.y)) for bar in figure.data)
    # with room for the names of the lines
    figure.update_yaxes(title="share of pixel values", tickformat=".0%", range=[0, 1.15 * top])
    return finish(
        figure,
        "Histogram of how far each pixel value moves within the budget.",
        first.meta,
        "  \n".join(sentences),
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


def _panels(titles: list[str], size: tuple[int, ...], template: str) -> go.Figure:
    """Empty square panels side by side in pixel coordinates, row 0 at the top, each with its title
    above.
    """
    figure = blank(
        template, "", margin={"l": 4, "r": 4, "t": 28, "b": 46}, showlegend=False
    ).set_subplots(1, len(titles), horizontal_spacing=0.03)
    plain = {
        "showticklabels": False,
        "ticks": "",
        "showgrid": False,
        "zeroline": False,
        "constrain": "domain",
    }
    figure.update_xaxes(plain, range=[-0.5, size[1] - 0.5])
    figure.update_yaxes(plain, range=[size[0] - 0.5, -0.5], constraintoward="top")
    for place, title in enumerate(titles, 1):
        figure.update_yaxes(scaleanchor=f"x{place}", col=place)
        _beside(figure, place, title, y=1, yanchor="bottom")
    return figure


def _beside(
    figure: go.Figure, place: int, text: str, *, y: float = 0, yanchor: str = "top"
) -> None:
    """A text below a panel, or with y=1 above it."""
    figure.add_annotation(
        text=text,
        x=0.5,
        xref="x domain",
        y=y,
        yref="y domain",
        yanchor=yanchor,
        showarrow=False,
        row=1,
        col=place,
    )


def _picture(figure: go.Figure, place: int, x: Floats) -> None:
    figure.add_image(
        source="data:image/png;base64," + base64.b64encode(png(x, max(x.shape[1:]))).decode(),
        x0=0,
        y0=0,
        dx=1,
        dy=1,
        hoverinfo="skip",
        name="image",
        row=1,
        col=place,
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
        row=1,
        col=place,
    )
