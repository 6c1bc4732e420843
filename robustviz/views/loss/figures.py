"""The figures of the Soft labels & loss page that are no surfaces: soft-label bars, gradients in
numbers, curvature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from robustviz.stats import Bools, Floats, mean_interval, wilson
from robustviz.types import UserError, eps_text
from robustviz.views.loss.result import Curvature, Gradients, SoftLabels, divergence, entropy
from robustviz.views.theme import COLOURS, finish

LIGHT = "robustviz_light"
SYMBOLS = (
    "diamond",
    "square",
    "triangle-up",
    "star",
)  # a circle is a clean image and × an attacked one, everywhere
MOST = 12  # classes drawn


def colours(template: str) -> list[str]:
    """One colour a network, in the order of the figures' legends."""
    colour = COLOURS[template]
    return [colour["a"], colour["b"], colour["faint"], colour["text"]]


def soft_labels(
    results: SoftLabels | Mapping[str, SoftLabels],
    *,
    attacked: bool = False,
    witness: str = "",
    template: str = LIGHT,
) -> go.Figure:
    """Bars of an image's soft labels at the results' temperature, beside the one-hot label; a panel
    a network.

    `attacked`: of the image that each network's own attack made. `witness`: the printed name whose
    soft label the others are compared with. With more than twelve classes those with the largest
    outputs and the true one.
    """
    found = {"": results} if isinstance(results, SoftLabels) else dict(results)
    first, colour = next(iter(found.values())), COLOURS[template]
    probs = {name: result.probs_adv if attacked else result.probs for name, result in found.items()}
    names, hot = list(first.meta["classes"]), np.eye(len(first.logits))[first.y]
    shown = _largest([hot, *probs.values()])
    labels = [("✓ " if k == first.y else "") + names[k] for k in shown]
    panels = {"one-hot": hot, **probs}
    figure = make_subplots(
        1,
        len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[name.replace(" ", "<br>") for name in panels],
    )
    others = iter(colours(template))
    fills = {
        name: (
            colour["text"]
            if name == "one-hot"
            else colour["faint"]
            if name == witness
            else next(others)
        )
        for name in panels
    }
    for at, (name, p) in enumerate(panels.items()):
        figure.add_bar(
            x=p[shown],
            y=labels,
            orientation="h",
            name=name or "this network",
            marker={"color": fills[name]},
            showlegend=False,
            text=[_percent(float(p[k])) for k in shown],
            textposition="auto",
            insidetextfont={"color": colour["paper"]},
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.1%}<extra>" + name + "</extra>",
            row=1,
            col=at + 1,
        )
    figure.update_layout(
        template=template,
        height=30 * len(shown) + 130,
        margin={"l": 8, "r": 16, "t": 64, "b": 56},
        bargap=0.2,
    )
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1], ticktext=["0", "½", "1"])
    figure.update_yaxes(autorange="reversed", type="category", tickmode="linear", ticks="")
    figure.update_annotations(font={"size": 14})
    what = (
        f"attacked, PGD-{first.meta['attack']['steps']} at ε = {eps_text(first.eps)}, seed"
        f" {first.meta['seed']}"
        if attacked
        else "untouched"
    )
    alt = f"Soft-label bars of image {first.meta['index']}, {what}, one panel a network."
    return finish(figure, alt, first.meta, _doubt(probs, first, names, attacked, witness))


def _largest(every: Sequence[Floats]) -> list[int]:
    """The classes to draw, in class order: those with the largest outputs; the one-hot label is
    among `every`.
    """
    best = np.argsort(-np.max(np.stack(every), axis=0), kind="stable")
    return sorted(map(int, best[:MOST]))


def _percent(p: float) -> str:
    return f"{p:.0%}" if p >= 0.005 else ""


def _doubt(
    probs: Mapping[str, Floats],
    first: SoftLabels,
    names: Sequence[str],
    attacked: bool,
    witness: str,
) -> str:
    """What the bars say: answers, entropies, and how far each network is from the witness."""
    each = "; ".join(
        f"{name or 'this network'} {names[int(p.argmax())]} ({float(p.max()):.0%}), entropy"
        f" {entropy(p):.2f}"
        for name, p in probs.items()
    )
    image = f"image {first.meta['index']}, a {names[first.y]}"
    if attacked:
        image += (
            f", each network under its own attack (PGD-{first.meta['attack']['steps']}, ε ="
            f" {eps_text(first.eps)}, seed {first.meta['seed']})"
        )
    said = (
        f"At T = {first.temperature:g}, {image}: {each} (nats; one-hot 0, all classes alike"
        f" {np.log(len(names)):.2f})."
    )
    others = {name: p for name, p in probs.items() if name != witness}
    if witness in probs and others:
        far = ", ".join(f"{name} {divergence(probs[witness], p):.3f}" for name, p in others.items())
        said += f" KL from the witness's soft label: {far}."
    return said


def gradients(results: Gradients | Mapping[str, Gradients], *, template: str = LIGHT) -> go.Figure:
    """Means over the images with 95 % intervals: the gradient's share on the true object beside the
    object's area, and its cosine with other networks' gradients. The first two networks are
    compared image by image in the sentence.
    """
    found = {"": results} if isinstance(results, Gradients) else dict(results)
    first, colour = next(iter(found.values())), COLOURS[template]
    if not any(_measures(result) for result in found.values()):
        raise UserError(
            "This data has no object masks and there is no other network of it, so there is nothing"
            " to compare a gradient with."
        )
    figure = go.Figure(layout={"template": template})
    rows: list[str] = []
    for at, (name, result) in enumerate(found.items()):
        places = _measures(result)
        rows += [place for place in places if place not in rows]
        stats = [mean_interval(values) for values in places.values()]
        figure.add_scatter(
            x=[mean for mean, _, _ in stats],
            y=list(places),
            mode="markers",
            name=name or "this network",
            marker={"size": 12, "symbol": SYMBOLS[at % 4], "color": colours(template)[at % 4]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - mean for mean, _, high in stats],
                "arrayminus": [mean - low for mean, low, _ in stats],
                "thickness": 2,
            },
            hovertemplate="%{y}: %{x:.3f}<extra>" + name + "</extra>",
        )
    if first.area.size:
        area, low, high = mean_interval(first.area)
        figure.add_vrect(x0=low, x1=high, fillcolor=colour["faint"], opacity=0.35, line_width=0)
        figure.add_vline(
            x=area,
            line={"color": colour["faint"], "dash": "dot"},
            annotation_text="object's area",
            annotation_position="top",
        )
    figure.update_layout(height=52 * len(rows) + 150, margin={"l": 8, "r": 20, "t": 36, "b": 96})
    figure.update_xaxes(title="share, cosine", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", ticks="", type="category")
    return finish(
        figure,
        f"Where input gradients lie and which they resemble, mean of {len(first.index)} images with"
        " 95 % intervals.",
        first.meta,
        _semantic(found),
    )


def _measures(result: Gradients) -> dict[str, Floats]:
    """What is drawn of one network, by the name of its row."""
    out = {"share on the object": result.share} if result.share.size else {}
    cosines = zip(result.targets, result.meta["labels"], result.cosine, strict=True)
    return out | {
        f"cosine with<br>{label}": row
        for target, label, row in cosines
        if target != result.meta["run"]
    }


def change(before: Floats, after: Floats) -> str:
    """The mean difference of values of the same images, with its 95 % interval, and whether it is
    decided: `+0.02 [0.01, 0.03]`.
    """
    mean, low, high = mean_interval(after - before)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" + (
        "" if low > 0 or high < 0 else ", not decided"
    )


def _semantic(found: Mapping[str, Gradients]) -> str:
    """Means and intervals, and the paired difference of the first two networks."""
    names, first = list(found), next(iter(found.values()))
    said = []
    if first.share.size:
        area = float(first.area.mean())
        each = []
        for name, result in found.items():
            mean, low, high = mean_interval(result.share)
            _, below, above = mean_interval(result.share - result.area)
            side = "above" if below > 0 else "below" if above < 0 else "not decidedly off"
            each.append(
                f"{name or 'this network'} {100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
                f" ({side} the area)"
            )
        said.append(
            f"Of the gradient's size this part lies on the object, which covers {100 * area:.1f} %"
            f" of the picture: {'; '.join(each)}."
        )
    else:
        said.append("This data has no object masks, so where the gradient lies is not measured.")
    if len(names) < 2 or not np.array_equal(found[names[0]].index, found[names[1]].index):
        return " ".join(said)
    one, two = found[names[0]], found[names[1]]
    parts = []
    if one.share.size and two.share.size:
        mean, low, high = mean_interval(100 * (two.share - one.share))
        verdict = (
            "more on the object"
            if low > 0
            else "less on the object"
            if high < 0
            else "more or less semantic is not decided"
        )
        parts.append(f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}] on the object: {verdict}")
    for target, label in zip(one.targets, one.meta["labels"], strict=True):
        if target in two.targets and target not in (one.meta["run"], two.meta["run"]):
            parts.append(
                f"cosine with {label}"
                f" {change(one.cosine[one.targets.index(target)], two.cosine[two.targets.index(target)])}"
            )
    norms = f"gradient norm {fewer(one.norm, two.norm)}"
    said.append(
        f"From {names[0]} to {names[1]}, n = {len(one.index)}: {'; '.join([*parts, norms])}."
    )
    return " ".join(said)


def fewer(before: Floats, after: Floats) -> str:
    """On how many images a value with a long tail fell, with Wilson's interval, and whether that is
    decided.
    """
    moved: Bools = before != after
    n, k = int(moved.sum()), int((after < before).sum())
    if n == 0:
        return "the same on every image"
    low, high = wilson(k, n)
    verdict = "lower on most" if low > 0.5 else "higher on most" if high < 0.5 else "not decided"
    return (
        f"lower on {k} of {n} images ({100 * k / n:.0f} % [{100 * low:.0f}, {100 * high:.0f}]):"
        f" {verdict}"
    )


def curvature(results: Curvature | Mapping[str, Curvature], *, template: str = LIGHT) -> go.Figure:
    """Each image's top Hessian eigenvalue, a row a network, on a logarithmic axis of its size;
    hollow where it is negative.

    The bar is the mean with its 95 % interval. `customdata` of each point is its image's number, so
    images can be chosen.
    """
    found = {"": results} if isinstance(results, Curvature) else dict(results)
    first = next(iter(found.values()))
    figure = go.Figure(layout={"template": template})
    every = np.concatenate([np.abs(result.eigenvalue) for result in found.values()])
    floor = float(every[every > 0].min()) if (every > 0).any() else 1e-12
    jitter = np.random.default_rng(0)
    for at, (name, result) in enumerate(found.items()):
        size, colour, symbol = (
            np.maximum(np.abs(result.eigenvalue), floor),
            colours(template)[at % 4],
            SYMBOLS[at % 4],
        )
        figure.add_scatter(
            x=size,
            y=at + jitter.uniform(-0.22, 0.22, len(size)),
            mode="markers",
            name=name or "this network",
            customdata=np.stack([result.index, result.eigenvalue], axis=1),
            marker={
                "size": 8,
                "color": colour,
                "symbol": [symbol + ("-open" if value < 0 else "") for value in result.eigenvalue],
            },
            hovertemplate="image %{customdata[0]}: λ = %{customdata[1]:.3g}<extra>"
            + name
            + "</extra>",
        )
        mean, low, high = mean_interval(result.eigenvalue)
        if mean > 0:
            figure.add_scatter(
                x=[mean],
                y=[at + 0.36],
                mode="markers",
                showlegend=False,
                hovertemplate=f"mean {mean:.3g} [{low:.3g}, {high:.3g}]<extra>{name}</extra>",
                marker={
                    "symbol": "line-ns-open",
                    "size": 16,
                    "color": colour,
                    "line": {"width": 3},
                },
                name=f"{name}, mean",
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - mean],
                    "arrayminus": [mean - max(low, floor)],
                    "thickness": 2,
                },
            )
    figure.update_layout(height=90 * len(found) + 150, margin={"l": 8, "r": 20, "t": 16, "b": 100})
    figure.update_xaxes(
        type="log",
        title="|λ|, loss per squared pixel unit",
        exponentformat="power",
        dtick=1 if np.log10(every.max() / floor + 1) < 8 else 2,
    )
    figure.update_yaxes(
        range=[len(found) - 0.4, -0.6],
        tickvals=list(range(len(found))),
        ticktext=[name.replace(" ", "<br>") for name in found],
        ticks="",
        zeroline=False,
    )
    alt = (
        "Top Hessian eigenvalue of the loss by the pixels, one point an image, n ="
        f" {len(first.index)}."
    )
    return finish(figure, alt, first.meta, _bent(found))


def _bent(found: Mapping[str, Curvature]) -> str:
    names, first = list(found), next(iter(found.values()))
    each = []
    for name, result in found.items():
        mean, low, high = mean_interval(result.eigenvalue)
        negative = int((result.eigenvalue < 0).sum())
        each.append(
            f"{name or 'this network'} mean {mean:.3g} [{low:.3g}, {high:.3g}], median"
            f" {float(np.median(result.eigenvalue)):.3g}"
            + (f", {negative} negative" if negative else "")
        )
    said = (
        f"Top Hessian eigenvalue over {len(first.index)} images, softplus with β ="
        f" {first.meta['beta']:g} in place of ReLU: {'; '.join(each)}."
    )
    if len(names) > 1 and np.array_equal(found[names[0]].index, found[names[1]].index):
        said += (
            f" From {names[0]} to {names[1]}:"
            f" {fewer(found[names[0]].eigenvalue, found[names[1]].eigenvalue)}."
        )
    rough = {name: int((result.residual >= 0.01).sum()) for name, result in found.items()}
    if any(rough.values()):
        said += (
            " Not within 1 % of an eigenvalue: "
            + ", ".join(f"{k} ({name})" for name, k in rough.items() if k)
            + "."
        )
    same: Mapping[str, Any] = {name: int((~result.same).sum()) for name, result in found.items()}
    if any(same.values()):
        said += (
            " The softplus copy answers otherwise than the network on "
            + ", ".join(f"{k} ({name})" for name, k in same.items() if k)
            + "."
        )
    return said
