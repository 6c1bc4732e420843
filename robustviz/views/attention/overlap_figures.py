"""Figures of the Attention page about the maps of many images: whether they lie on the object, and
whether the pixels they mark matter to the network.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Floats, mean_interval
from robustviz.types import UserError, eps_text
from robustviz.views.attention.result import MAPS, METHODS, OVERLAPS, Overlap, Road
from robustviz.views.theme import COLOURS, LIGHT, blank, finish, lines, named, sides, spread

MEASURES = {"iou": "IoU of the mask", "pointing": "pointing game", "energy": "energy on the object"}
SYMBOLS = {"clean": "circle", "attacked": "x", "random": "circle-open"}


def overlap(results: Overlap | Mapping[str, Overlap], *, template: str = LIGHT) -> go.Figure:
    """Draw the means of `iou`, `pointing` and `energy` of an `Overlap`, for one or two networks.

    Bars are 95% intervals. Filled circles: untouched images; ×: attacked images; open circles: the
    network with random weights; dotted line: a blind guess (with the first network's masks). Raises
    UserError for more than two networks.
    """
    several, places = named(results, ""), np.arange(len(OVERLAPS))
    colour, first = COLOURS[template], next(iter(several.values()))
    meta, count = first.meta, len(several) * len(MAPS)
    figure = blank(
        template,
        "Do the maps lie on the object?",
        f"{meta['n']} test images; bars: 95%",
        height=440,
        xaxis={
            "tickvals": [*range(len(OVERLAPS))],
            "ticktext": ["IoU", "pointing", "energy"],
            "range": [-0.6, len(OVERLAPS) - 0.4],
            "zeroline": False,
        },
        yaxis={"title": "mean over images", "rangemode": "tozero"},
    )
    rows = itertools.product(zip(several.items(), sides(several), strict=True), enumerate(MAPS))
    for number, (((name, result), side), (row, kind)) in enumerate(rows):
        stats = np.array([result.interval(measure, row) for measure in OVERLAPS])
        figure.add_scatter(
            x=places + (number - (count - 1) / 2) * 0.7 / count,
            y=stats[:, 0],
            mode="markers",
            name=f"{name} {kind}".strip(),
            marker={"symbol": SYMBOLS[kind], "size": 11, "color": colour[side]},
            customdata=np.where(np.isfinite(stats), stats, stats[:, :1]),
            error_y=_bars(stats),
            hovertemplate="%{customdata[0]:.2f} [%{customdata[1]:.2f}, %{customdata[2]:.2f}]<extra>"
            + f"{name} {kind}"
            + "</extra>",
        )
    guesses = [first.guess(measure) for measure in OVERLAPS]
    figure.add_scatter(
        x=[place + far for place in range(len(OVERLAPS)) for far in (-0.45, 0.45, 0.5)],
        y=[y for guess in guesses for y in (guess, guess, None)],
        mode="lines",
        name="chance level",
        line={"color": colour["text"], "dash": "dot", "width": 2},
        hovertemplate="chance level %{y:.2f}<extra></extra>",
    )
    return finish(
        figure,
        "Three measures of how well maps lie on the true object, with intervals.",
        several,
        "  \n".join(_overlap_lines(several)),
        _overlap_sure(several),
        interval="bars: 95% intervals over images (Student's t; the pointing game's: Wilson)",
    )


def _overlap_lines(several: Mapping[str, Overlap]) -> list[str]:
    silent = [
        f"{clean} clean and {attacked} attacked maps{' of ' * bool(name)}{name} are constant;"
        " they count as random guesses."
        for name, (clean, attacked) in ((name, one.constant[:2]) for name, one in several.items())
        if clean or attacked
    ]
    gaps = _gaps(several) if len(several) == 2 else []
    return [*lines(several, _overlap_sentence), *silent, *gaps]


def _overlap_sentence(result: Overlap) -> str:
    untouched, attacked = (result.interval("pointing", row)[0] for row in (0, 1))
    return (
        f"the hottest spot lies on the object in {untouched:.0%}, attacked in {attacked:.0%}, a"
        f" random guess in {result.guess('pointing'):.0%}."
    )


def _overlap_sure(several: Mapping[str, Overlap]) -> str:
    meta = next(iter(several.values())).meta
    parts = [
        f"{MEASURES[measure]}{' of ' * bool(name)}{name}:"
        f" {spread(*result.interval(measure, 0))}, attacked"
        f" {spread(*result.interval(measure, 1))}, chance level {result.guess(measure):.2f}."
        for name, result in several.items()
        for measure in OVERLAPS
    ]
    return "  \n".join(
        [
            "Bars and brackets are 95% intervals over images, not over training seeds.",
            *parts,
            f"{METHODS[meta['cam']]}, class {meta['of']}, mask {meta['rule']}, n = {meta['n']},"
            f" PGD-{meta['steps']} at ε = {eps_text(meta['eps'])}, seed {meta['seed']}.",
        ]
    )


def _gaps(several: Mapping[str, Overlap]) -> list[str]:
    (first, base), (second, other) = several.items()
    try:
        gaps = {measure: other.gap(base, measure, 0) for measure in OVERLAPS}
    except UserError as error:
        return [str(error)]
    return [
        f"{second} minus {first}, untouched, image by image:",
        *(
            f"{MEASURES[measure]} {spread(mean, low, high, '+.2f')}:"
            f" {'higher' if low > 0 else 'lower' if high < 0 else 'no difference shown'}."
            for measure, (mean, low, high) in gaps.items()
        ),
    ]


def road(results: Road | Mapping[str, Road], *, template: str = LIGHT) -> go.Figure:
    """Draw the mean ROAD scores of maps and of two controls, with 95% intervals over images.

    `results`: of one network, or of two by name. A score, −0.5 to 0.5, is above 0 if the pixels
    that a map marks as important matter to the network (see `Road`). The controls are maps of the
    same architecture with random weights, and maps of random numbers. Raises UserError for more
    than two networks.
    """
    several = named(results, "")
    colour, first = COLOURS[template], next(iter(several.values()))
    figure = blank(
        template,
        "Does what the map shows matter?",
        f"{len(first.index)} test images; bars: 95%",
        height=200 + 56 * len(several),
        showlegend=len(several) > 1,
        xaxis={"title": "ROAD (softmax output)", "zeroline": True},
        yaxis={
            "tickvals": [0, 1, 2],
            "ticktext": ["this network's map", "random weights", "random numbers"],
            "range": [2.5, -0.5],
            "zeroline": False,
        },
    )
    for (name, result), side in zip(several.items(), sides(several), strict=True):
        stats = np.array([mean_interval(row) for row in result.score])
        figure.add_scatter(
            y=np.arange(3) + (0 if len(several) == 1 else -0.14 if side == "a" else 0.14),
            x=stats[:, 0],
            mode="markers",
            name=name,
            marker={
                "size": 12,
                "color": colour[side],
                "symbol": "circle" if side == "a" else "diamond",
            },
            error_x=_bars(stats),
            hovertemplate="%{x:.3f}<extra>" + name + "</extra>",
        )
    return finish(
        figure,
        "ROAD of class activation maps, of random weights and of random numbers.",
        several,
        "  \n".join(lines(several, _road_sentence)),
        _road_sure(several),
        interval="bars: 95% intervals over images (Student's t)",
    )


def _road_sentence(result: Road) -> str:
    _, low, high = mean_interval(result.score[0] - result.score[2])
    verdict = "above" if low > 0 else "below" if high < 0 else "not significantly different from"
    return (
        f"ROAD {spread(*mean_interval(result.score[0]))}, {verdict} maps of random numbers."
        f" Random weights give {result.score[1].mean():z.2f}."
        + (f" {result.constant} constant maps are left out." if result.constant else "")
    )


def _road_sure(several: Mapping[str, Road]) -> str:
    meta = next(iter(several.values())).meta
    gaps = [
        f"{name}{': ' * bool(name)}difference from maps of random numbers"
        f" {spread(*mean_interval(result.score[0] - result.score[2]), '+.3f')}, n ="
        f" {len(result.index)}."
        for name, result in several.items()
    ]
    return "  \n".join(
        [
            "Brackets are 95% intervals over images.",
            *gaps,
            f"{METHODS[meta['cam']]}, class {meta['of']}, seed {meta['seed']}.",
        ]
    )


def _bars(stats: Floats) -> dict[str, object]:
    """Returns Plotly error bars for the rows (mean, low, high) of `stats` (n,3); an infinite end
    gets no bar.
    """
    mean, low, high = np.where(np.isfinite(stats), stats, stats[:, :1]).T
    return {
        "type": "data",
        "symmetric": False,
        "array": high - mean,
        "arrayminus": mean - low,
        "thickness": 2,
    }
