"""The figures of the Attack page: class bars, accuracy against ε, the smallest ε that flips, the
way of one attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from robustviz.training.evaluation import attack_name
from robustviz.types import eps_text
from robustviz.views.attack.result import AccuracyCurve, Adversarial, SmallestEps, Trajectory
from robustviz.views.result import Result
from robustviz.views.theme import COLOURS, DASHES, LIGHT, band, blank, finish, named, sides


def adversarial(result: Adversarial, *, side: str = "a", template: str = LIGHT) -> go.Figure:
    """Class bars of one attacked image, before (outlined) and after (filled); the true class is
    marked by ✓.
    """
    colour, shown = COLOURS[template], _top(result, 10)
    labels = [("✓ " if k == result.y else "") + result.meta["classes"][k] for k in shown]
    figure = blank(
        template,
        "",
        barmode="group",
        bargap=0.25,
        height=28 * len(shown) + 100,
        margin={"l": 8, "r": 28, "t": 8, "b": 84},
        xaxis={"range": [0, 1], "tickformat": ".0%", "title": "softmax output"},
        yaxis={"autorange": "reversed", "ticks": "", "type": "category", "tickmode": "linear"},
    )
    for name, probs, marker in (
        (
            "clean",
            result.probs,
            {"color": colour["paper"], "line": {"color": colour[side], "width": 2}},
        ),
        ("attacked", result.probs_adv, {"color": colour[side]}),
    ):
        figure.add_bar(
            y=labels,
            x=probs[shown],
            orientation="h",
            name=name,
            marker=marker,
            hovertemplate=f"%{{y}} {name} %{{x:.1%}}<extra></extra>",
        )
    return finish(
        figure,
        f"Class bars of a {result.meta['method']} network before and after the attack.",
        result.meta,
        f"{result.meta['summary']}.",
    )


def _top(result: Adversarial, most: int) -> list[int]:
    """All classes where they are few, else those with the highest outputs and the true one, in
    class order.
    """
    if len(result.probs) <= most:
        return list(range(len(result.probs)))
    best = np.argsort(-np.maximum(result.probs, result.probs_adv))[:most]
    return sorted({*map(int, best[: most - 1]), result.y})


def accuracy_curve(
    results: AccuracyCurve | Mapping[str, AccuracyCurve],
    *,
    here: float | None = None,
    template: str = LIGHT,
) -> go.Figure:
    """Accuracy against ε with 95 % bands, one or two networks; a line at the training ε, dots at
    `here`.
    """
    curves = named(results)
    colour, first = COLOURS[template], next(iter(curves.values()))
    figure = blank(
        template,
        f"Accuracy under PGD-{first.meta['attack']['steps']}",
        f"n = {first.n}; an upper bound on robust accuracy",
        xaxis={"title": "ε in grey levels (of 255)", "rangemode": "tozero"},
        yaxis={"range": [0, 1.02], "tickformat": ".0%", "title": "still right"},
    )
    for (name, curve), side in zip(curves.items(), sides(curves), strict=True):
        x, interval = curve.eps * 255, curve.interval
        band(figure, x, interval[:, 0], interval[:, 1], colour[side])
        figure.add_scatter(
            x=x,
            y=curve.accuracy,
            mode="lines+markers",
            name=name,
            line={"color": colour[side], "dash": DASHES[side], "width": 3},
            marker={"size": 7},
            customdata=interval,
            hovertemplate=(
                "ε %{x:.0f}/255: %{y:.0%} (%{customdata[0]:.0%}–%{customdata[1]:.0%})<extra>"
            )
            + name
            + "</extra>",
        )
        if here is not None:
            figure.add_scatter(
                x=[here * 255],
                y=[float(np.interp(here, curve.eps, curve.accuracy))],
                mode="markers",
                showlegend=False,
                hoverinfo="skip",
                marker={
                    "size": 15,
                    "color": colour["paper"],
                    "line": {"color": colour[side], "width": 4},
                },
            )
    for train_eps in sorted({float(curve.meta["train_eps"]) for curve in curves.values()}):
        figure.add_vline(
            x=train_eps * 255,
            line={"color": colour["faint"], "dash": "dot"},
            annotation_text="training ε",
            annotation_position="top right",
        )
    return finish(figure, "Accuracy against the attack's radius.", first.meta, _summaries(curves))


def smallest_eps(
    results: SmallestEps | Mapping[str, SmallestEps],
    *,
    here: Sequence[float | None] = (),
    template: str = LIGHT,
) -> go.Figure:
    """How many images each radius was enough for, one or two networks; `here` marks one image, a
    value a network.
    """
    several = named(results)
    colour, first = COLOURS[template], next(iter(several.values()))
    figure = blank(
        template,
        "Smallest ε that flips an image",
        f"{len(first.eps)} test images, PGD-{first.meta['attack']['steps']}",
        barmode="group",
        bargap=0.12,
        xaxis={"title": "ε in grey levels (of 255)", "range": [0, first.limit * 255]},
        yaxis={"title": "images"},
    )
    edges = np.linspace(0, first.limit * 255, 17)
    for (name, result), side in zip(several.items(), sides(several), strict=True):
        flipped = np.isfinite(result.eps) & (result.eps > 0)
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.histogram(result.eps[flipped] * 255, edges)[0],
            name=name,
            marker={"color": colour[side], "pattern": {"shape": "" if side == "a" else "/"}},
            hovertemplate="%{y} images near ε %{x:.0f}/255<extra>" + name + "</extra>",
        )
    for mark, (name, side) in zip(here, zip(several, sides(several), strict=True), strict=False):
        if mark is not None and np.isfinite(mark):
            figure.add_vline(
                x=mark * 255,
                line={"color": colour[side], "dash": DASHES[side], "width": 2},
                annotation_text=f"this image, {name[:1]}",
                annotation_position="top right",
                annotation={
                    "bgcolor": colour["paper"],
                    "yshift": -20 * [*DASHES].index(side),
                    "font": {"color": colour[side]},
                },
            )
    return finish(
        figure,
        "Histogram of the smallest radius that flips an image.",
        first.meta,
        _summaries(several),
    )


def trajectory(
    results: Trajectory | Mapping[str, Trajectory], *, template: str = LIGHT
) -> go.Figure:
    """The true class's softmax output after each step of the attack, one or two networks."""
    several = named(results)
    colour, first = COLOURS[template], next(iter(several.values()))
    figure = blank(
        template,
        "The true class, step by step",
        f"{attack_name(first.meta['attack'])}, ε = {eps_text(first.eps)}, seed"
        f" {first.meta['seed']}, image {first.meta['index']}",
        xaxis={"title": "step (0: the random start)"},
        yaxis={"range": [0, 1.02], "tickformat": ".0%", "title": "softmax output"},
    )
    for (name, result), side in zip(several.items(), sides(several), strict=True):
        figure.add_scatter(
            y=result.probs[:, result.y],
            mode="lines+markers",
            name=name,
            line={"color": colour[side], "dash": DASHES[side], "width": 3},
            customdata=result.loss,
            hovertemplate="step %{x}: %{y:.1%}, loss %{customdata:.2f}<extra>" + name + "</extra>",
        )
    return finish(
        figure, "Output for the true class after each attack step.", first.meta, _summaries(several)
    )


def _summaries(several: Mapping[str, Result]) -> str:
    return "; ".join(f"{name}: {each.meta['summary']}" for name, each in several.items()) + "."
