"""Figures of how near images stay to their class in feature space: for trained networks, and over
the epochs of their training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from robustviz.stats import Floats, mean_interval, tango, wilson
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, eps_text
from robustviz.views.features.result import KINDS, FeatureFilm, FeatureMap, Features
from robustviz.views.theme import COLOURS, DASHES, LIGHT, blank, finish, named, sides

Near = Features | FeatureMap


def features(results: Near | Mapping[str, Near], *, template: str = LIGHT) -> go.Figure:
    """Draw, for clean, attacked and noisy images, the mean cosine to their own class's clean centre
    (●) and to the nearest clean centre of another class (◇), with 95% intervals over images; for
    one or two networks. The cosines are measured in feature space, also if a result is a map. Where
    ◇ is right of ●, the images are on average nearer to another class than to their own.

    Raises UserError where two networks were not measured on the same images of the same data, and
    for more than two networks.
    """
    networks = named(results)
    _check_comparable(networks)
    figure = blank(
        template,
        "How near images stay to their class",
        "mean with 95% interval",
        height=132 + 108 * len(networks),
        margin={"l": 8, "r": 28, "t": 72, "b": 92},
        xaxis={"title": "cosine", "zeroline": False},
        yaxis={
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [f"{name} · {kind}" for name in networks for kind in KINDS.values()][
                ::-1
            ],
            "ticks": "",
        },
    )
    for (name, result), side in zip(networks.items(), sides(networks), strict=True):
        colour, cosines = COLOURS[template][side], [result.cosines(kind) for kind in KINDS]
        for which, (to, symbol) in enumerate(
            (("own class", "circle"), ("nearest other class", "diamond-open"))
        ):
            stats = np.array([mean_interval(both[which]) for both in cosines])
            figure.add_scatter(
                x=stats[:, 0],
                y=[f"{name} · {kind}" for kind in KINDS.values()],
                mode="markers",
                name=f"{name}: {to}",
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": np.nan_to_num(stats[:, 2] - stats[:, 0], posinf=0),
                    "arrayminus": np.nan_to_num(stats[:, 0] - stats[:, 1], posinf=0),
                },
                marker={
                    "symbol": symbol,
                    "size": 12,
                    "color": colour,
                    "line": {"width": 2, "color": colour},
                },
                customdata=stats[:, 1:],
                hovertemplate="%{y}<br>"
                + to
                + " %{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
            )
    bars = "bars: 95% intervals over images (Student's t)"
    sure = " ".join([*itertools.starmap(_near_sure, networks.items()), _judge(networks)])
    said = "  \n".join(_near_sentences(networks))
    alt = "Cosine of features to class centres."
    return finish(figure, alt, networks, said, sure, interval=bars)


def _check_comparable(networks: Mapping[str, Near] | Mapping[str, FeatureFilm]) -> None:
    if len({(each.meta["data"], *each.meta["classes"]) for each in networks.values()}) > 1:
        raise UserError(
            "These networks were trained on different data sets, so their images cannot be"
            " compared: choose two trained on the same one."
        )
    if len({tuple(result.y) for result in networks.values()}) > 1:
        raise UserError(
            "These networks were measured on different images: measure both with the same n."
        )


def _near_sentences(networks: Mapping[str, Near]) -> Iterator[str]:
    """Yield a sentence for each network on how near attacked images lie to their class. For two
    networks, then yield one on whether they differ, or that they were attacked differently.
    """
    yield from itertools.starmap(_near_sentence, networks.items())
    if len({protocol(result) for result in networks.values()}) > 1:
        yield "The two networks were attacked differently, so they are not compared."
    elif len(networks) == 2:
        (a, first), (b, second) = networks.items()
        ahead, behind, lead, low, _ = _ordered(a, b, *mean_interval(_lead(first) - _lead(second)))
        yield (
            f"Under attack {ahead} keeps images nearer to their class than {behind}, by {lead:.2f}."
            if low > 0 and round(lead, 2)
            else f"No difference shown between {a} and {b} under attack."
        )


def _lead(result: Near) -> Floats:
    """Each attacked image's cosine to its own class's centre minus that to the nearest other."""
    return np.subtract(*result.cosines("adversarial"))


def _near_sentence(name: str, result: Near) -> str:
    mean, low, high = mean_interval(_lead(result))
    side = (
        "no nearer to their own class than to another"
        if low <= 0 <= high
        else f"nearer to {'their own' if low > 0 else 'another'} class"
    )
    return f"**{name}**: attacked images lie {side}, by a cosine of {abs(mean):.2f} on average."


def _near_sure(name: str, result: Near) -> str:
    """In words, for one network under attack: the mean difference between the cosine to the own
    centre and that to the nearest other, with its interval; the cosine to the own centre, also with
    noise; how far the attack moves the features; how many images it fools; and what the attack is.
    """
    mean, low, high = mean_interval(_lead(result))
    moved = getattr(result, "moved_adv", getattr(result, "moved", None))
    k, m = int(result.fooled.sum()), int(result.right.sum())
    far = float(np.mean(moved)) if moved is not None else math.nan
    return (
        f"{name}: own minus nearest other cosine {_signed(mean)}, 95%: {_signed(low)} to"
        f" {_signed(high)}. Own centre {result.cosines('adversarial')[0].mean():.2f}, with noise of"
        f" the same ε {result.cosines('noise')[0].mean():.2f}. "
        + (
            f"The attack moves an image's features by {far:.2f} times the mean distance between"
            " class centres."
            if math.isfinite(far)
            else "All class centres coincide."
        )
        + f" Fooled on {k} of the {m} images that it classifies correctly{percent(k, m)}."
        f" {protocol(result)}. Measured on {len(result.y)} images."
    )


def _judge(networks: Mapping[str, Near]) -> str:
    """In words with intervals: how far two networks under the same attack differ in the mean of
    `_lead` and in accuracy under attack. Empty for one network, and if the attacks differ.
    """
    if len(networks) != 2 or len({protocol(result) for result in networks.values()}) > 1:
        return ""
    a, b = networks.items()
    ahead, behind, lead, low, high = _ordered(a[0], b[0], *mean_interval(_lead(a[1]) - _lead(b[1])))
    said = f"{ahead} over {behind}: {lead:.2f}, 95%: {_signed(low)} to {_signed(high)}."
    right, right_b = (result.pred_adv == result.y for _, result in (a, b))
    only, only_b, n = int((right & ~right_b).sum()), int((right_b & ~right).sum()), len(right)
    ahead, behind, lead, low, high = _ordered(
        a[0], b[0], (only - only_b) / n, *tango(only, only_b, n)
    )
    return (
        f"{said} What decides is accuracy under attack: "
        + (
            f"{ahead} is more accurate than {behind}"
            if low > 0
            else "neither is shown to be more accurate"
        )
        + f", {100 * lead:.0f} percentage points apart (95%: {_signed(100 * low, 0)} to"
        f" {_signed(100 * high, 0)})."
    )


def _ordered(
    first: str, second: str, lead: float, low: float, high: float
) -> tuple[str, str, float, float, float]:
    """Returns the name of the network that is ahead, the other's name, by how much it is ahead (not
    negative), and the ends of the interval. `lead`, `low`, `high`: by how much the `first` network
    is ahead of the `second`, which may be negative, and its interval.
    """
    return (
        (first, second, abs(lead), low, high) if lead >= 0 else (second, first, -lead, -high, -low)
    )


def protocol(result: Features | FeatureMap | FeatureFilm) -> str:
    """The attack, its radius and seed in words, such as "PGD-20 at ε = 8/255, seed 0"."""
    return (
        f"{attack_name(result.meta['attack'])} at ε = {eps_text(float(result.meta['eps']))}, seed"
        f" {result.meta['seed']}"
    )


def percent(k: int, n: int) -> str:
    """Wilson's 95% interval of the share `k` of `n`, as text to append: ` (95%: 2% to 9%)`."""
    return " (95%: {:.0%} to {:.0%})".format(*wilson(k, n))


def fooled_text(result: Near) -> str:
    """In words: how many of the images that the network classifies correctly when clean are
    misclassified when attacked. Empty where it classifies none correctly.
    """
    k, m = int(result.fooled.sum()), int(result.right.sum())
    return f"fooled on {k} of the {m} images that it classifies correctly" if m else ""


def _signed(value: float, digits: int = 2) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def feature_gap(
    results: FeatureFilm | Mapping[str, FeatureFilm],
    *,
    epoch: int | None = None,
    template: str = LIGHT,
) -> go.Figure:
    """Draw measures in feature space over the epochs whose weights were stored, for one or two
    networks. Above: the mean cosine of attacked images to their own class's clean centre and to the
    nearest clean centre of another class. Below: how far the attack and the noise move an image's
    features, in mean distances between class centres. `epoch`: marked by a vertical line. Raises
    UserError where two networks were not measured on the same images of the same data, and for more
    than two networks.
    """
    networks = named(results)
    _check_comparable(networks)
    ink = COLOURS[template]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08).update_layout(
        blank(
            template,
            "Cosine to class centres, epoch by epoch",
            "● own class, ◇ nearest other; ■ attack, □ noise",
            height=560,
            margin={"l": 8, "r": 28, "t": 80, "b": 140},
            yaxis={"title": "cosine, attacked"},
            yaxis2={"title": "centre distances", "rangemode": "tozero"},
            xaxis2={"title": "epoch"},
        ).layout
    )
    for (name, result), side in zip(networks.items(), sides(networks), strict=True):
        for row, what, values, symbol in (
            (1, "own class", result.own[:, 1], "circle"),
            (1, "nearest other class", result.other[:, 1], "diamond-open"),
            (2, "moved by the attack", result.moved[:, 0], "square"),
            (2, "moved by noise", result.moved[:, 1], "square-open"),
        ):
            figure.add_scatter(
                x=result.epochs,
                y=np.where(np.isfinite(values), values, np.nan),
                name=f"{name}: {what}",
                mode="lines+markers",
                row=row,
                col=1,
                line={"color": ink[side], "dash": DASHES[side], "width": 2},
                marker={"symbol": symbol, "size": 9, "color": ink[side]},
                hovertemplate="epoch %{x}: %{y:.2f}<extra>" + f"{name}: {what}</extra>",
            )
    if epoch is not None:
        figure.add_vline(x=epoch, line={"color": ink["faint"], "dash": "dot"})
    first = next(iter(networks.values()))
    return finish(
        figure,
        "How near attacked images stay to their class, over the epochs.",
        networks,
        "  \n".join(itertools.starmap(_gap_sentence, networks.items())),
        f"{protocol(first)}. Measured on {len(first.y)} images. At"
        " each epoch that epoch's own network is"
        " attacked. " + " ".join(itertools.starmap(_gap_sure, networks.items())),
    )


def _gap_sentence(name: str, result: FeatureFilm) -> str:
    own, other, epochs = result.own[:, 1], result.other[:, 1], result.epochs
    ahead = own > other
    if ahead.all() or not ahead.any():
        when = f"are nearer to {'their own' if ahead[0] else 'another'} class at every kept epoch"
    else:
        when = (
            f"stay nearer to their own class from epoch {epochs[np.flatnonzero(~ahead)[-1] + 1]} on"
            if ahead[-1]
            else "are nearer to another class at the last epoch"
        )
    return f"**{name}**: attacked images {when}."


def _gap_sure(name: str, result: FeatureFilm) -> str:
    own, other, epochs = result.own[:, 1], result.other[:, 1], result.epochs
    return (
        f"{name}: from epoch {epochs[0]} to {epochs[-1]} their cosine to the own class goes"
        f" {own[0]:.2f} → {own[-1]:.2f}, to the nearest other {other[0]:.2f} → {other[-1]:.2f}."
    )
