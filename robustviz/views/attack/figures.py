"""Plotly figures of the Attack page: class bars, accuracy against ε, the smallest ε that fools each
image, one attack step by step, and results by class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import shares
from robustviz.training.evaluation import attack_name
from robustviz.types import eps_text, grey_text
from robustviz.views.attack.result import (
    AccuracyCurve,
    Adversarial,
    Answers,
    SmallestEps,
    Trajectory,
)
from robustviz.views.theme import COLOURS, LIGHT, band, blank, finish, named, styles


def adversarial(result: Adversarial, *, side: str = "a", template: str = LIGHT) -> go.Figure:
    """Draw a bar chart of one image's softmax outputs before (outlined bars) and after (filled
    bars) the attack.

    The true class is marked with ✓. At most ten classes are drawn: the true class and those with
    the highest outputs before or after. `side`: `a` or `b`, which sets the colour.
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
        result,
        f"{result.meta['summary']}.",
    )


def _top(result: Adversarial, most: int) -> list[int]:
    """Returns the indices of the classes to draw, in ascending order: all if there are at most
    `most`. Otherwise there are at most `most`: the true class and those with the highest outputs,
    where the larger of a class's outputs for the untouched and the attacked image counts.
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
    """Draw accuracy against ε with 95% Wilson bands, for any number of networks.

    Vertical lines mark the networks' training ε (the data's default ε for a network trained in l2).
    `here`: an ε in pixel units; a ring on each curve marks the measured ε nearest to it.
    """
    curves = named(results)
    colour, first = COLOURS[template], next(iter(curves.values()))
    figure = blank(
        template,
        f"Accuracy under {attack_name(first.meta['attack'])}",
        xaxis={"title": "ε in grey levels (of 255)", "rangemode": "tozero"},
        yaxis={"range": [0, 1.02], "tickformat": ".0%", "title": "accuracy under attack"},
    )
    for (name, curve), (side, dash) in zip(curves.items(), styles(curves), strict=True):
        x, interval = curve.eps * 255, curve.interval
        band(figure, x, interval[:, 0], interval[:, 1], colour[side])
        figure.add_scatter(
            x=x,
            y=curve.accuracy,
            mode="lines+markers",
            name=name,
            line={"color": colour[side], "dash": dash, "width": 3},
            marker={"size": 7},
            customdata=interval,
            hovertemplate=(
                "ε %{x:.0f}/255: %{y:.0%} (%{customdata[0]:.0%}–%{customdata[1]:.0%})<extra>"
            )
            + name
            + "</extra>",
        )
        if here is not None:
            at = int(np.abs(curve.eps - here).argmin())
            figure.add_scatter(
                x=[x[at]],
                y=[curve.accuracy[at]],
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
    alt, bands = "Accuracy against the attack's radius.", "bands: 95% intervals (Wilson)"
    return finish(figure, alt, curves, *_held(curves), interval=bands)


def _held(curves: Mapping[str, AccuracyCurve]) -> tuple[str, str]:
    """Returns two texts: on how many images each network is right at the measured ε nearest to
    its training ε, and how this was measured.
    """
    said = []
    for name, curve in curves.items():
        at = int(np.abs(curve.eps - float(curve.meta["train_eps"])).argmin())
        radius = eps_text(round(255 * curve.eps[at]) / 255)
        said.append(
            f"{name} is right on {curve.k[at]} of {curve.n} attacked images at ε = {radius}."
        )
    first = next(iter(curves.values()))
    return " ".join(said), (
        "An attack that fails proves nothing: these are upper bounds, for one network each. n ="
        f" {first.n} test images, the same for all. {attack_name(first.meta['attack'])}, random"
        f" start with seed {first.meta['seed']}. The band is a 95% interval (Wilson)."
    )


def smallest_eps(
    results: SmallestEps | Mapping[str, SmallestEps],
    *,
    here: Sequence[float | None] = (),
    template: str = LIGHT,
) -> go.Figure:
    """Draw a histogram of the smallest ε that fools each image, for any number of networks.

    Images misclassified untouched and those right even at the largest radius tried are not counted.
    `here`: for each network, in the order of `results`, the smallest ε of one chosen image in pixel
    units, drawn as a vertical line; None or infinity draws no line.
    """
    several = named(results)
    colour, first = COLOURS[template], next(iter(several.values()))
    limit = max(each.limit for each in several.values())
    figure = blank(
        template,
        "Smallest ε that fools each image",
        barmode="group",
        bargap=0.12,
        xaxis={"title": "ε in grey levels (of 255)", "range": [0, limit * 255]},
        yaxis={"title": "images"},
    )
    edges, looks = (
        np.linspace(0, limit * 255, 17),
        list(zip(several, styles(several), strict=True)),
    )
    patterns = dict(zip(several, cycle(("", "/", "x", ".")), strict=False))
    for name, (side, _) in looks:
        result = several[name]
        flipped = np.isfinite(result.eps) & (result.eps > 0)
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.histogram(result.eps[flipped] * 255, edges)[0],
            name=name,
            marker={"color": colour[side], "pattern": {"shape": patterns[name]}},
            hovertemplate="%{y} images near ε %{x:.0f}/255<extra>" + name + "</extra>",
        )
    for row, (mark, (name, (side, dash))) in enumerate(zip(here, looks, strict=False)):
        if mark is not None and np.isfinite(mark):
            figure.add_vline(
                x=mark * 255,
                line={"color": colour[side], "dash": dash, "width": 2},
                annotation_text=f"this image, {name.split(' ')[0]}",
                annotation_position="top right",
                annotation={
                    "bgcolor": colour["paper"],
                    "yshift": -20 * row,
                    "font": {"color": colour[side]},
                },
            )
    return finish(
        figure,
        "Histogram of the smallest radius that fools each image.",
        several,
        " ".join(f"{name}: {_typical(result)}." for name, result in several.items()),
        sure="PGD with bisection finds upper bounds of the true distances, here up to"
        f" {eps_text(limit)}. {len(first.eps)} test images,"
        f" {attack_name(first.meta['attack'])}.",
    )


def _typical(result: SmallestEps) -> str:
    flipped = result.eps[(result.eps > 0) & np.isfinite(result.eps)]
    if not len(flipped):
        return f"no image is fooled up to ε = {eps_text(result.limit)}"
    half = grey_text(float(np.median(flipped)))
    return (
        f"{len(flipped)} of {len(result.eps)} images are fooled, half of them at ε = {half} or less"
    )


def trajectory(
    results: Trajectory | Mapping[str, Trajectory], *, template: str = LIGHT
) -> go.Figure:
    """Draw the true class's softmax output at the start and after each attack step as lines, for
    any number of networks.
    """
    several = named(results)
    colour, first = COLOURS[template], next(iter(several.values()))
    figure = blank(
        template,
        "The true class, step by step",
        xaxis={"title": "step (0: the start)"},
        yaxis={"range": [0, 1.02], "tickformat": ".0%", "title": "softmax output"},
    )
    for (name, result), (side, dash) in zip(several.items(), styles(several), strict=True):
        figure.add_scatter(
            y=result.probs[:, result.y],
            mode="lines+markers",
            name=name,
            line={"color": colour[side], "dash": dash, "width": 3},
            customdata=result.loss,
            hovertemplate="step %{x}: %{y:.1%}, loss %{customdata:.2f}<extra>" + name + "</extra>",
        )
    return finish(
        figure,
        "Output for the true class after each attack step.",
        several,
        " ".join(f"{name}: {each.meta['summary']}." for name, each in several.items()),
        sure=f"One image, number {first.meta['index']}. {attack_name(first.meta['attack'])}, ε ="
        f" {eps_text(first.eps)}, seed {first.meta['seed']}.",
    )


def classes_held(
    results: Answers | Mapping[str, Answers], *, eps: float, template: str = LIGHT
) -> go.Figure:
    """Draw a bar chart of each class's accuracy under attack at the measured ε nearest to `eps`
    (pixel units), for any number of networks.
    """
    several = named(results)
    colour, first = COLOURS[template], next(iter(several.values()))
    names, at = first.meta["classes"], first.nearest(eps)
    radius = eps_text(round(255 * first.eps[at]) / 255)
    figure = blank(
        template,
        f"Accuracy under attack at ε = {radius}, class by class",
        barmode="group",
        yaxis={"range": [0, 1.02], "tickformat": ".0%", "title": "accuracy under attack"},
        xaxis={"type": "category"},
    )
    said = []
    patterns = cycle(("", "/", "x", "."))
    for (name, result), (side, _), shape in zip(
        several.items(), styles(several), patterns, strict=False
    ):
        table = result.confusion(eps)
        count, kept = np.bincount(result.y, minlength=len(names)), np.diag(table)
        share = shares(kept, count)
        figure.add_bar(
            x=names,
            y=share,
            name=name,
            customdata=np.stack([kept, count], 1),
            marker={"color": colour[side], "pattern": {"shape": shape}},
            hovertemplate="%{x}: %{customdata[0]} of %{customdata[1]}<extra>" + name + "</extra>",
        )
        low = int(np.nanargmin(share))
        said.append(f"{name} is weakest on class {names[low]}: {kept[low]} of {count[low]}.")
    return finish(
        figure,
        "Accuracy under attack of each class.",
        several,
        " ".join(said),
        sure=f"A class has few images here, about {first.n // max(1, len(names))}, so its"
        f" accuracy is a rough estimate. The same {first.n} images and attack as in the"
        " curve.",
    )


def confusion(result: Answers, *, eps: float, template: str = LIGHT) -> go.Figure:
    """Draw the confusion matrix under attack at the measured ε nearest to `eps` (pixel units), in
    numbers of images: rows are true classes, columns predicted ones. Images with NaN logits are
    left out.
    """
    names, table = result.meta["classes"], result.confusion(eps)
    radius = eps_text(round(255 * result.eps[result.nearest(eps)]) / 255)
    wrong = table - np.diag(np.diag(table))
    figure = blank(
        template,
        f"Confusion matrix at ε = {radius}",
        height=440,
        xaxis={"title": "answer", "type": "category"},
        yaxis={"title": "true class", "type": "category", "autorange": "reversed"},
    )
    figure.add_heatmap(
        z=table,
        x=names,
        y=names,
        text=table if len(names) <= 20 else None,
        texttemplate="%{text}" if len(names) <= 20 else None,
        colorscale="Cividis",
        showscale=False,
        hovertemplate="%{y} called %{x}: %{z}<extra></extra>",
    )
    true, said = np.unravel_index(int(wrong.argmax()), wrong.shape)
    count = f"{wrong.max()} of {table[true].sum()}"
    sentence = (
        f"Most frequent mistake: {names[true]} classified as {names[said]}, {count} images."
        if wrong.any()
        else "No image is misclassified."
    )
    if unknown := result.n - int(table.sum()):
        sentence = f"On {unknown} of {result.n} images the logits are not numbers. " + sentence
    return finish(
        figure,
        "Confusion matrix under attack.",
        result,
        sentence,
        sure="An image is counted under the first wrong class that the attack finds. The same"
        f" {result.n} images and attack as in the curve.",
    )
