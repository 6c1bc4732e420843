"""Figures of the Attention page about one image: its class activation maps, PART's mask and budget,
and how much of that budget an attack uses.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Bools, Floats, flat
from robustviz.types import UserError, eps_text
from robustviz.views.attention.result import METHODS, Attention
from robustviz.views.pictures import png
from robustviz.views.theme import COLOURS, LIGHT, blank, finish, lines, named, sides

# against the class, neutral, for the class; other colours than the blue and orange of A and B
SIGNED = ((0.0, "rgb(0,112,122)"), (0.5, "rgb(247,247,247)"), (1.0, "rgb(178,24,43)"))


def attention(
    result: Attention, *, control: bool = False, image: bool = False, template: str = LIGHT
) -> go.Figure:
    """Draw the class activation maps of the untouched and of the attacked image, and their
    difference (attacked minus untouched), as coloured blocks.

    The values are raw, red above 0 and teal below. The first two maps share a colour scale; the
    others have their own. `control` adds the map of the untouched image by the first of the
    networks with random weights. `image` draws the image under all maps except the difference.
    Raises UserError if the untouched image's map is constant.
    """
    names, grid, meta = result.meta["classes"], "×".join(map(str, result.heat.shape)), result.meta
    if result.constant:
        raise UserError(
            f"The {grid} map for {names[result.label]} on image {meta['index']} is constant, so"
            " it marks no pixel: PART then gives every pixel the full ε. Choose another image,"
            " class or CAM method."
        )
    most = float(max(np.abs(result.heat).max(), np.abs(result.heat_adv).max()))
    change = result.heat_adv - result.heat
    far = float(np.abs(change).max())
    far = far if far > 1e-5 * most else most  # do not magnify rounding errors
    random, size = result.heat_random[0], result.x.shape[1:]
    panels = [
        ("clean", result.heat, most, result.x),
        ("attacked", result.heat_adv, most, result.x_adv),
        ("difference", change, far, None),
        ("random", random, float(np.abs(random).max()) or 1.0, result.x),
    ][: 4 if control else 3]
    titles = [title for title, *_ in panels]
    figure = _panels(titles, size, template, 210 if control else 250)
    for place, (title, heat, limit, under) in enumerate(panels, 1):
        if image and under is not None:
            _picture(figure, place, under)
        _heatmap(
            figure,
            place,
            title,
            heat,
            size,
            colorscale=SIGNED,
            zmid=0,
            zmin=-limit,
            zmax=limit,
            showscale=False,
            opacity=0.6 if image and under is not None else 1.0,
        )
        _beside(figure, place, f"±{limit:.2g}")
    return finish(
        figure,
        f"Class activation maps ({METHODS[meta['cam']]}, {grid} cells) as red and teal blocks:"
        f" {', '.join(titles)}.",
        result,
        _maps_sentence(result),
        _sure(result),
    )


def _maps_sentence(result: Attention) -> str:
    names, meta = result.meta["classes"], result.meta
    before, after = int(result.probs.argmax()), int(result.probs_adv.argmax())
    moved = (
        f"**{names[before]} ({result.probs[before]:.0%}) → {names[after]}"
        f" ({result.probs_adv[after]:.0%})**"
    )
    held = (
        "the attack does not change the prediction"
        if after == result.y
        else "this network was fooled"
    )
    wrong = f"misclassified already without an attack, the true class is {names[result.y]}"
    verdict = held if before == result.y else wrong
    sentences = [
        f"{moved}: {verdict}." if result.eps else f"{moved}: at ε = 0 no pixel may change."
    ]
    if meta["cam"] == "eigen_cam":
        sentences.append(
            "EigenCAM is not computed for a class, and the sign of its values has no meaning."
        )
    elif result.label_adv != result.label:
        sentences.append(
            f"The clean map is for {names[result.label]}, the attacked one for"
            f" {names[result.label_adv]}: the difference compares two classes."
        )
    return " ".join([*sentences, _change_sentence(result), _control_sentence(result.control)])


def _change_sentence(result: Attention) -> str:
    if flat(result.heat_adv):
        return "The attacked image's map is constant, so there is no rank correlation with it."
    was, now = (
        np.array(np.unravel_index(heat.argmax(), heat.shape))
        for heat in (result.heat, result.heat_adv)
    )
    ways = [
        f"{far} {unit}" + ("s" if far > 1 else "")
        for far, unit in zip(np.abs(now - was), ("row", "column"), strict=True)
        if far
    ]
    where = f"moves by {' and '.join(ways)}" if ways else "stays where it was"
    return (
        f"The hottest cell {where}. Rank correlation of the clean and the attacked map:"
        f" **{result.drift:.2f}**."
    )


def _control_sentence(control: Floats) -> str:
    known = control[np.isfinite(control)]
    if not len(known):
        return "Control: with random weights the map is constant."
    several = f"{len(known)} networks" if len(known) > 1 else "a network"
    return (
        f"Control: with random weights ({several}) its rank correlation with the clean map is"
        f" {known.mean():.2f}."
    )


def _sure(result: Attention) -> str:
    """Returns sentences on how the maps and the budget of one image were measured."""
    meta = result.meta
    known = result.control[np.isfinite(result.control)]
    spread = (
        f" Its controls with random weights correlate from {known.min():.2f} to {known.max():.2f}."
        if len(known) > 1
        else ""
    )
    return (
        f"A map is evidence, not proof, and this is one image.{spread}"
        f" {METHODS[meta['cam']]}, {'×'.join(map(str, result.heat.shape))} cells, map of the"
        f" {meta['of']} class. PGD-{meta['steps']} at ε = {eps_text(result.eps)}, seed"
        f" {meta['seed']}, test image {meta['index']}."
    )


def budget(result: Attention, *, template: str = LIGHT) -> go.Figure:
    """Draw two panels: the image with PART's mask, and the radius that PART gives to each pixel.

    In the first, pixels outside the mask are darkened. In the second, bright is ε and dark is
    ε_low. If the data has object masks, both have the outline of the true object. With the rule
    jet-compat the radii differ between colour channels, and each pixel's mean is drawn.
    """
    size, mask = result.x.shape[1:], result.mask.reshape(-1, *result.x.shape[1:])
    figure = _panels(["mask", "budget"], size, template, 250)
    _picture(figure, 1, np.where(mask, result.x, 0.2 * result.x))
    low, high = result.eps_low * 255, result.eps * 255
    # one radius everywhere still needs a colour range; it is drawn bright then, as ε is
    _heatmap(
        figure,
        2,
        "radius in grey levels",
        result.budget.reshape(-1, *size).mean(0) * 255,
        size,
        colorscale="Cividis",
        zmin=low if low < high else high - 1,
        zmax=high,
        showscale=False,
    )
    bright, dark = eps_text(result.eps), eps_text(result.eps_low)
    _beside(figure, 1, f"{mask.mean():.0%} of pixels")
    _beside(
        figure, 2, f"{bright}<br>everywhere" if low == high else f"dark {dark}<br>bright {bright}"
    )
    if result.object.size:
        # a white line on a wider dark one, so that the outline is visible on every colour
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
        result,
        _budget_sentence(result, mask),
        _sure(result),
    )


def _budget_sentence(result: Attention, mask: Bools) -> str:
    meta, high, after = result.meta, eps_text(result.eps), int(result.probs_part.argmax())
    unit = "pixels" if len(mask) == 1 else "pixel values, which differ between colours"
    low = f"get {eps_text(result.eps_low)}" if result.eps_low else "may not change at all"
    share = (
        float((mask * result.object).sum() / mask.sum())
        if (result.object.size and mask.any())
        else 0.0
    )
    sentences = (
        f"{int(mask.sum())} of {mask.size} {unit} ({mask.mean():.0%}) are important by the"
        f" rule {meta['rule']}.",
        "The rule marks every pixel, so PART equals standard adversarial training here."
        if mask.all() and meta["rule"] != "ones"
        else "",
        f"Every pixel gets ε = {high}, because ε_low equals ε."
        if result.eps_low == result.eps
        else f"They get {high}, the others {low}.",
        f"{share:.0%} of the mask lies on the true object (outlined); by chance it would be"
        f" {result.object.mean():.0%}."
        if result.object.size
        else "",
        f"Attacked within this budget, the prediction is {meta['classes'][after]}"
        f" ({result.probs_part[after]:.0%}).",
    )
    return " ".join(filter(None, sentences))


def spent(results: Attention | Mapping[str, Attention], *, template: str = LIGHT) -> go.Figure:
    """Draw a histogram of the absolute change |δ| of all pixel values by an attack within PART's
    budget, in grey levels, for one or two networks.

    Vertical lines mark ε_low and ε of the first network. Raises UserError for more than two
    networks.
    """
    several = named(results, "")
    colour, first = COLOURS[template], next(iter(several.values()))
    high, low = first.eps * 255, first.eps_low * 255
    figure = blank(
        template,
        "How much of the allowed change the attack uses",
        "|δ| of every pixel value",
        barmode="group",
        bargap=0.1,
        showlegend=len(several) > 1,
        xaxis={"title": "|δ| in grey levels (of 255)"},
    )
    width = (high or 1) / 32  # so that ε and 7/8 of ε are centres of bars
    for (name, result), side in zip(several.items(), sides(several), strict=True):
        bins = np.rint(result.spent.ravel() * 255 / width).astype(int).clip(0, 32)
        figure.add_bar(
            x=np.arange(33) * width,
            y=np.bincount(bins, minlength=33) / bins.size,
            name=name,
            marker={"color": colour[side], "pattern": {"shape": "" if side == "a" else "/"}},
            hovertemplate="|δ| near %{x:.1f}/255: %{y:.1%}<extra>" + name + "</extra>",
        )
    rest = (
        [
            "The other values were clipped at 0 or 1, or their gradient changed sign during the"
            " attack."
        ]
        if high
        else []
    )
    for level, text in dict.fromkeys([(high, "ε"), *([(low, "ε_low")] if low != high else [])]):
        figure.add_vline(
            x=level,
            line={"color": colour["faint"], "dash": "dot"},
            annotation_text=text,
            annotation_position="top left" if level else "top right",
        )
    figure.update_yaxes(
        title="share of pixel values",
        tickformat=".0%",
        # with room above the bars for the labels of the lines
        range=[0, 1.15 * max(float(np.max(bar.y)) for bar in figure.data)],
    )
    return finish(
        figure,
        "Histogram of how far each pixel value moves within the budget.",
        several,
        "  \n".join(lines(several, _spent_sentence) + rest),
        _sure(first),
    )


def _spent_sentence(result: Attention) -> str:
    important, full = np.broadcast_to(result.mask, result.x.shape), result.at_limit
    if result.eps == 0:
        return "at ε = 0 no pixel may change."
    alike = result.eps_low == result.eps or important.all()
    if alike or not important.any():
        why = "every pixel has the same budget" if alike else "no pixel is important"
        return (
            f"{full.mean():.0%} of the pixel values change by"
            f" {eps_text(result.eps if alike else result.eps_low)}: one peak, because {why}."
        )
    inside, outside = full[important].mean(), full[~important].mean()
    return (
        f"{inside:.0%} of the important pixel values change by ε, {outside:.0%} of the others by"
        " ε_low."
    )


def _panels(titles: list[str], size: tuple[int, ...], template: str, height: int) -> go.Figure:
    """Returns a figure, `height` pixels high, of empty panels side by side, one for each title. The
    coordinates of a panel are the pixels of an image of `size` (H, W), with row 0 at the top.
    """
    figure = blank(
        template, "", height=height, margin={"l": 4, "r": 4, "t": 28, "b": 46}, showlegend=False
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
    """Write `text` below panel number `place` (from 1), or above it with y=1, yanchor="bottom"."""
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
    """Draw a map `heat` in panel number `place` (from 1) as blocks that together cover the whole
    image of `size` (H, W); hovering shows a block's value. `how`: options of Plotly's heat map.
    """
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
