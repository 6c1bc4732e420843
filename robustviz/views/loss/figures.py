"""The figures of the Loss page that are not surfaces: soft-label bars, statistics of the input
gradients, and curvature. `surface_figures` draws the surfaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from robustviz.stats import Bools, Floats, mean_interval, wilson
from robustviz.types import JSON, UserError, eps_text
from robustviz.views.loss.result import (
    Curvature,
    Gradients,
    SoftLabels,
    divergence,
    entropy,
    median_interval,
    smoothing,
)
from robustviz.views.theme import COLOURS, LIGHT, finish, named, spread

# circle and × are not among them: in all figures they mean clean and attacked images
SYMBOLS = ("diamond", "square", "triangle-up", "star")
MOST = 12  # classes drawn at most
UNNAMED = "this network"

R = TypeVar("R", Gradients, Curvature)


def short(name: str) -> str:
    """A network's name within a sentence: its letter if the name starts with "A " or "B ", else the
    whole name; "this network" if the name is empty.
    """
    return name[0] if name[:2] in ("A ", "B ") else name or UNNAMED


def colours(template: str) -> list[str]:
    """The colours, as `#RRGGBB`, of up to four networks, in the order of the figures' legends."""
    return [COLOURS[template][name] for name in ("a", "b", "faint", "text")]


def soft_labels(
    results: SoftLabels | Mapping[str, SoftLabels],
    *,
    attacked: bool = False,
    witness: str = "",
    template: str = LIGHT,
) -> go.Figure:
    """Draw an image's soft labels as bars, at the results' temperature, beside the one-hot label;
    one panel per network.

    `attacked`: draws the soft labels of the image as attacked on each network, instead of those of
    the clean image. `witness`: the name in `results` of the network with whose soft label the text
    compares the others. Of more than twelve classes only twelve are drawn: those with the largest
    outputs, and the true class.
    """
    found, colour = named(results, ""), COLOURS[template]
    first = next(iter(found.values()))
    probs = {name: result.probs_adv if attacked else result.probs for name, result in found.items()}
    names, panels = first.meta["classes"], {"one-hot": np.eye(len(first.logits))[first.y], **probs}
    largest = -np.max(list(panels.values()), axis=0)
    shown = sorted(map(int, np.argsort(largest, kind="stable")[:MOST]))  # in class order
    figure = make_subplots(
        1,
        len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[name.replace(" ", "<br>") for name in panels],
    )
    others, given = cycle(colours(template)), {"one-hot": colour["text"]}
    if witness:
        given[witness] = colour["faint"]
    for at, (name, p) in enumerate(panels.items()):
        figure.add_bar(
            x=p[shown],
            y=[("✓ " if k == first.y else "") + names[k] for k in shown],
            orientation="h",
            name=name or UNNAMED,
            marker={"color": given[name] if name in given else next(others)},
            showlegend=False,
            text=[f"{share:.0%}" if share >= 0.005 else "" for share in p[shown]],
            textposition="auto",
            insidetextfont={"color": colour["paper"]},
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.1%}<extra>" + name + "</extra>",
            row=1,
            col=at + 1,
        )
    figure.update_layout(
        template=template,
        bargap=0.2,
        height=30 * len(shown) + 146,
        margin={"l": 8, "r": 16, "t": 80, "b": 56},
    ).update_annotations(font={"size": 14})
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.5, 1], ticktext=["0", "½", "1"])
    figure.update_yaxes(autorange="reversed", type="category", tickmode="linear", ticks="")
    state = f"attacked, {_attack(first, ' at ')}" if attacked else "untouched"
    alt = f"Soft-label bars of image {first.meta['index']}, {state}, one panel per network."
    said = _answers(probs, first, attacked), _doubt(probs, first, attacked, witness)
    return finish(figure, alt, found, *said, clean=not attacked)


def _attack(result: SoftLabels, between: str) -> str:
    return (
        f"PGD-{result.meta['attack']['steps']}{between}ε = {eps_text(result.eps)}, seed"
        f" {result.meta['seed']}"
    )


def _answers(probs: Mapping[str, Floats], first: SoftLabels, attacked: bool) -> str:
    """Each network's predicted class and its probability, in words."""
    names = first.meta["classes"]
    each = " ".join(
        f"{short(name)}: {float(p.max()):.0%} for {names[int(p.argmax())]}."
        for name, p in probs.items()
    )
    own = ", under its own attack" if attacked else ""
    image = f"Image {first.meta['index']}, a {names[first.y]}{own}, at T = {first.temperature:g}."
    return f"{image} {each}"


def _doubt(probs: Mapping[str, Floats], first: SoftLabels, attacked: bool, witness: str) -> str:
    """Each network's entropy, its KL divergence from the witness's soft label, and with `attacked`
    how the image was attacked, in words.
    """
    each = [f"{short(name)} has an entropy of {entropy(p):.2f} nats." for name, p in probs.items()]
    far = [
        f"{short(name)}: KL divergence of {divergence(probs[witness], p):.3f} nats from the"
        " witness's soft label."
        for name, p in probs.items()
        if witness in probs and name != witness
    ]
    most = (
        "The entropy of a one-hot label is 0, that of the uniform distribution"
        f" {np.log(len(first.logits)):.2f} nats."
    )
    own = [f"Each network under its own attack: {_attack(first, ', ')}."] if attacked else []
    return "\n\n".join([*each, most, *far, *own])


def gradients(results: Gradients | Mapping[str, Gradients], *, template: str = LIGHT) -> go.Figure:
    """Draw means over the images, with 95% intervals: the gradient's share on the true object,
    beside the object's area, and its cosine with other networks' gradients. The text compares the
    first two networks image by image. Raises UserError if the data has no masks and no gradients of
    other networks were measured.
    """
    found, faint = named(results, ""), COLOURS[template]["faint"]
    first = next(iter(found.values()))
    places = {name: _measures(result) for name, result in found.items()}
    if not any(places.values()):
        raise UserError(
            "This data has no object masks and no other network, so there is nothing to compare"
            " a gradient with: train another network on it."
        )
    figure = go.Figure(
        layout={
            "template": template,
            "height": 52 * len(set[str]().union(*places.values())) + 150,
            "margin": {"l": 8, "r": 20, "t": 36, "b": 96},
            "xaxis": {"title": "share, cosine", "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed", "ticks": "", "type": "category"},
        }
    )
    for at, (name, measures) in enumerate(places.items()):
        stats = [mean_interval(values) for values in measures.values()]
        figure.add_scatter(
            x=[mean for mean, _, _ in stats],
            y=list(measures),
            mode="markers",
            name=name or UNNAMED,
            marker={"size": 12, "symbol": SYMBOLS[at % 4], "color": colours(template)[at % 4]},
            error_x=_whiskers(stats),
            hovertemplate="%{y}: %{x:.3f}<extra>" + name + "</extra>",
        )
    if first.area.size:
        area, low, high = mean_interval(first.area)
        figure.add_vrect(x0=low, x1=high, fillcolor=faint, opacity=0.35, line_width=0)
        figure.add_vline(
            x=area,
            line={"color": faint, "dash": "dot"},
            annotation_text="object's area",
            annotation_position="top",
        )
    return finish(
        figure,
        "How much of the input gradients lies on the object, and which gradients they resemble:"
        f" means over {len(first.index)} images with 95% intervals.",
        found,
        f"{_on_object(found)} {_verdict(found)}".strip(),
        f"{_intervals(found)}\n\n{_moved(found)}".strip(),
        interval="bars: 95% intervals over images (Student's t)",
    )


def _whiskers(intervals: Sequence[tuple[float, float, float]]) -> JSON:
    """Plotly's error bars for intervals (mean, low, high)."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - mean for mean, _, high in intervals],
        "arrayminus": [mean - low for mean, low, _ in intervals],
        "thickness": 2,
    }


def _measures(result: Gradients) -> dict[str, Floats]:
    """A network's values to draw, (n,) each, by the label of their row: its share on the object, if
    the data has masks, and its cosine with each other network.
    """
    return ({"share on the object": result.share} if result.share.size else {}) | {
        f"cosine with<br>{label}": row
        for target, label, row in zip(
            result.targets, result.meta["labels"], result.cosine, strict=True
        )
        if target != result.meta["run"]
    }


def change(before: Floats, after: Floats) -> str:
    """The mean of `after` − `before`, values of the same images, with its 95% interval, in words:
    `+0.020 [+0.010, +0.030]`. "no significant difference" is added where the interval contains 0.
    """
    mean, low, high = mean_interval(after - before)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" + (
        "" if low > 0 or high < 0 else ", no significant difference"
    )


def _on_object(found: Mapping[str, Gradients]) -> str:
    """Each network's share of the gradient on the true object, and whether that share is above or
    below the object's area, in words.
    """
    first = next(iter(found.values()))
    if not first.share.size:
        return "This data has no object masks, so where the gradient lies is not measured."
    said = [f"The object covers {100 * float(first.area.mean()):.1f}% of the image."]
    for name, result in found.items():
        _, below, above = mean_interval(result.share - result.area)
        off = "above" if below > 0 else "below" if above < 0 else "not significantly different from"
        said.append(
            f"{short(name)}: {100 * float(result.share.mean()):.1f}% of the gradient's absolute"
            f" size lies on it ({off} the area)."
        )
    return " ".join(said)


def _intervals(found: Mapping[str, Gradients]) -> str:
    """Each network's share on the object with its 95% interval, in words."""
    return "\n\n".join(
        f"{short(name)}: {spread(*mean_interval(100 * result.share), '.1f')}% on the object."
        for name, result in found.items()
        if result.share.size
    )


def _verdict(found: Mapping[str, Gradients]) -> str:
    """Whether the second network's gradient lies more on the object than the first's, in words;
    empty for one network, without masks, and if they were measured on different images.
    """
    pair = _pair(found)
    if pair is None or not (pair[0][1].share.size and pair[1][1].share.size):
        return ""
    (before, one), (after, two) = pair
    _, low, high = mean_interval(100 * (two.share - one.share))
    way = "more" if low > 0 else "less" if high < 0 else ""
    said = f"{way} on the object" if way else "no significant difference in the share on the object"
    return f"From {short(before)} to {short(after)}: {said}."


def _moved(found: Mapping[str, Gradients]) -> str:
    """How cosines, share on the object and gradient norm changed from the first network to the
    second, image by image, in words; empty for one network and if their images differ.
    """
    if (pair := _pair(found)) is None:
        return ""
    (before, one), (after, two) = pair
    theirs = dict(zip(two.targets, two.cosine, strict=True))
    parts = [
        f"Cosine with {label}: {change(row, theirs[target])}."
        for target, label, row in zip(one.targets, one.meta["labels"], one.cosine, strict=True)
        if target in theirs and target not in (one.meta["run"], two.meta["run"])
    ]
    if one.share.size and two.share.size:
        mean, low, high = mean_interval(100 * (two.share - one.share))
        parts.insert(0, f"On the object: {mean:+.1f} percentage points [{low:+.1f}, {high:+.1f}].")
    norm = f"Gradient norm: {fewer(one.norm, two.norm)}."
    start = f"From {short(before)} to {short(after)}, n = {len(one.index)}."
    return "\n\n".join([start, *parts, norm, _decided(one.norm, two.norm)])


def _pair(found: Mapping[str, R]) -> list[tuple[str, R]] | None:
    """The first two (name, result) if both were measured on the same images, else None."""
    pair = list(found.items())[:2]
    return pair if len(pair) == 2 and np.array_equal(pair[0][1].index, pair[1][1].index) else None


def fewer(before: Floats, after: Floats) -> str:
    """In words: on how many images the value fell from `before` to `after`, of those where it
    changed, and whether that is most, few or undecided (Wilson's 95% interval above, below or
    across one half). A count suits values with a long tail better than a mean.
    """
    n, k = int((before != after).sum()), int((after < before).sum())
    if n == 0:
        return "the same on every image"
    low, high = wilson(k, n)
    way = (
        "lower on most"
        if low > 0.5
        else "higher on most"
        if high < 0.5
        else "no significant difference"
    )
    return f"lower on {k} of {n} images, {way}"


def _decided(before: Floats, after: Floats) -> str:
    """Wilson's 95% interval of the share of images on which the value fell, of those where it
    changed, in words.
    """
    if not (n := int((before != after).sum())):
        return "The values are equal on every image."
    low, high = wilson(int((after < before).sum()), n)
    return (
        f"The 95% interval of the share of images with a lower value is {100 * low:.0f} to"
        f" {100 * high:.0f}%."
    )


def curvature(results: Curvature | Mapping[str, Curvature], *, template: str = LIGHT) -> go.Figure:
    """Draw each image's top Hessian eigenvalue, one row per network, on a logarithmic axis of its
    absolute value; the marker of a negative one is hollow.

    A bar marks the median and its 95% interval, if the median is positive. The `customdata` of
    each point starts with the index of its image, so that images can be selected.
    """
    found, jitter = named(results, ""), np.random.default_rng(0)
    first = next(iter(found.values()))
    every = np.concatenate([np.abs(result.eigenvalue) for result in found.values()])
    floor = float(every[every > 0].min()) if (every > 0).any() else 1e-12
    figure = go.Figure(
        layout={
            "template": template,
            "height": 90 * len(found) + 150,
            "margin": {"l": 8, "r": 20, "t": 16, "b": 100},
            "xaxis": {
                "type": "log",
                "title": "|λ|, loss per squared pixel unit",
                "exponentformat": "power",
                "dtick": 1 if np.log10(every.max() / floor + 1) < 8 else 2,
            },
            "yaxis": {
                "range": [len(found) - 0.4, -0.6],
                "tickvals": list(range(len(found))),
                "ticktext": [name.replace(" ", "<br>") for name in found],
                "ticks": "",
                "zeroline": False,
            },
        }
    )
    for at, (name, result) in enumerate(found.items()):
        size = np.maximum(np.abs(result.eigenvalue), floor)
        colour, symbol = colours(template)[at % 4], SYMBOLS[at % 4]
        figure.add_scatter(
            x=size,
            y=at + jitter.uniform(-0.22, 0.22, len(size)),
            mode="markers",
            name=name or UNNAMED,
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
        _median_bar(figure, name, result, at + 0.36, floor, colour)
    what = (
        "Top eigenvalue of the Hessian of the loss with respect to the pixels, one point per image"
    )
    alt, bars = f"{what}, n = {len(first.index)}.", "bars: 95% intervals of the median"
    return finish(figure, alt, found, _bent(found), _tails(found), interval=bars)


def _median_bar(
    figure: go.Figure, name: str, result: Curvature, y: float, floor: float, colour: str
) -> None:
    """Draw the median with its 95% interval at height `y`; draw nothing if the median is not
    positive, because the axis is logarithmic.
    """
    middle, low, high = median_interval(result.eigenvalue)
    if middle > 0:
        figure.add_scatter(
            x=[middle],
            y=[y],
            mode="markers",
            showlegend=False,
            hovertemplate=f"median {middle:.3g} [{low:.3g}, {high:.3g}]<extra>{name}</extra>",
            marker={"symbol": "line-ns-open", "size": 16, "color": colour, "line": {"width": 3}},
            name=f"{name}, median",
            error_x=_whiskers([(middle, max(low, floor), high)]),
        )


def _bent(found: Mapping[str, Curvature]) -> str:
    """The medians, and on how many images the second network's λ is lower, in words."""
    said = ["Median curvature over the images."] + [
        f"{short(name)}: {np.median(result.eigenvalue):.3g}." for name, result in found.items()
    ]
    if pair := _pair(found):
        (before, one), (after, two) = pair
        said.append(
            f"From {short(before)} to {short(after)}: {fewer(one.eigenvalue, two.eigenvalue)}."
        )
    return " ".join(said)


def _tails(found: Mapping[str, Curvature]) -> str:
    """The medians with their intervals and the means, in words. Then on how many images λ is
    negative, is not within 1% of an exact eigenvalue, or was measured on a copy that predicts
    another class.
    """
    first = next(iter(found.values()))
    said = [
        "The top eigenvalue of the Hessian of the loss with respect to the pixels, n ="
        f" {len(first.index)}."
    ]
    for name, result in found.items():
        said += [
            f"{short(name)}: median {spread(*median_interval(result.eigenvalue), '.3g')}.",
            f"Its mean is {np.mean(result.eigenvalue):.3g}. {smoothing(result)}",
        ]
    if pair := _pair(found):
        said.append(_decided(pair[0][1].eigenvalue, pair[1][1].eigenvalue))
    said.append(
        "Intervals are 95% intervals. That of the median uses the order of the values. A few"
        " large values would dominate an interval of the mean."
    )
    return (
        "\n\n".join(said)
        + _counted(
            " Negative: {}.", {name: result.eigenvalue < 0 for name, result in found.items()}
        )
        + _counted(
            " Not within 1% of an eigenvalue: {}.",
            {name: result.residual >= 0.01 for name, result in found.items()},
        )
        + _counted(
            " The softplus copy predicts another class than the network on {} images.",
            {name: ~result.same for name, result in found.items()},
        )
    )


def _counted(words: str, which: Mapping[str, Bools]) -> str:
    """`words`, a text with one `{}`, filled in with how many images each network's mask in `which`
    marks, such as ` Negative: 3 (A), 5 (B).`. Networks whose mask marks none are left out; empty if
    all are.
    """
    each = [
        f"{images.sum()} ({name})" if name else f"{images.sum()}"
        for name, images in which.items()
        if images.any()
    ]
    return words.format(", ".join(each)) if each else ""
