"""How near images stay to their class in feature space, and how that came about, by epochs."""

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


def features(results: Features | Mapping[str, Features], *, template: str = LIGHT) -> go.Figure:
    """Mean cosine to the own class's clean centre (●) and to the nearest other one (◇) of clean,
    attacked and noisy images, with 95 % intervals; one or two networks. Where ◇ is right of ●
    images have left their class.

    Raises UserError where two networks were not measured on the same images of the same data.
    """
    networks = named(results)
    _check_comparable(networks)
    figure = blank(
        template,
        "How near images stay to their class",
        "cosine to class centres, mean with 95 % interval",
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
    return finish(
        figure,
        "Cosine of features to class centres.",
        next(iter(networks.values())).meta,
        "  \n".join(_near_sentences(networks)),
    )


def _check_comparable(networks: Mapping[str, Features] | Mapping[str, FeatureFilm]) -> None:
    if len({(each.meta["data"], *each.meta["classes"]) for each in networks.values()}) > 1:
        raise UserError(
            "These networks were trained on different data sets, so their images cannot be"
            " compared; choose two of one."
        )
    if len({tuple(result.y) for result in networks.values()}) > 1:
        raise UserError(
            "These networks were measured on different images; measure both with the same n."
        )


def _near_sentences(networks: Mapping[str, Features]) -> Iterator[str]:
    """What is seen for each network, and what of two may be called a difference."""
    yield from itertools.starmap(_near_sentence, networks.items())
    if len({protocol(result) for result in networks.values()}) > 1:
        yield "The two met different attacks, so they are not compared."
    elif len(networks) == 2:
        yield from _compared(*networks.items())


def _lead(result: Features) -> Floats:
    """By how much each attacked image is nearer to its own class than to another, (n,)."""
    return np.subtract(*result.cosines("adversarial"))


def _near_sentence(name: str, result: Features) -> str:
    mean, low, high = mean_interval(_lead(result))
    side = (
        "no nearer to their own class than to another"
        if low <= 0 <= high
        else f"nearer to {'their own' if low > 0 else 'another'} class"
    )
    moved, still = float(result.moved_adv.mean()), float(result.moved_noise.mean())
    return (
        f"**{name}**: attacked images lie {side} (own minus nearest other cosine"
        f" {_signed(mean)}, 95 %: {_signed(low)} to {_signed(high)}); own centre"
        f" {result.cosines('adversarial')[0].mean():.2f}, with noise of the same ε"
        f" {result.cosines('noise')[0].mean():.2f}; "
        + (
            f"the attack moves them {moved:.2f} centre distances, noise {still:.2f}"
            if math.isfinite(moved)
            else "all class centres coincide"
        )
        + f"; {fooled_text(result) or 'it knows none of these images'}."
        f" {protocol(result)}, n = {len(result.y)}."
    )


def _compared(a: tuple[str, Features], b: tuple[str, Features]) -> Iterator[str]:
    """Of two networks under the same attack: whose images stay nearer, and which is right more
    often.
    """
    ahead, behind, lead, low, high = _ordered(a[0], b[0], *mean_interval(_lead(a[1]) - _lead(b[1])))
    yield (
        f"Under attack the network {ahead} keeps images nearer to their class than {behind}: by"
        f" {lead:.2f} (95 %: {low:.2f} to {high:.2f})."
        if low > 0
        else "Which of the two networks keeps images nearer to their class is not decided:"
        f" {lead:.2f} (95 %: {_signed(low)} to {_signed(high)})."
    )
    right, right_b = (result.pred_adv == result.y for _, result in (a, b))
    only, only_b, n = int((right & ~right_b).sum()), int((right_b & ~right).sum()), len(right)
    ahead, behind, lead, low, high = _ordered(
        a[0], b[0], (only - only_b) / n, *tango(only, only_b, n)
    )
    yield (
        "The judge, accuracy under attack: "
        + (
            f"the network {ahead} is more accurate than {behind}"
            if low > 0
            else "neither is shown to be more accurate"
        )
        + f"; {100 * lead:.0f} points apart (95 %:"
        f" {_signed(100 * low, 0)} to {_signed(100 * high, 0)})."
    )


def _ordered(
    first: str, second: str, lead: float, low: float, high: float
) -> tuple[str, str, float, float, float]:
    """Who is ahead, who behind, the lead and its interval, told from whoever is ahead."""
    return (
        (first, second, abs(lead), low, high) if lead >= 0 else (second, first, -lead, -high, -low)
    )


def protocol(result: Features | FeatureMap | FeatureFilm) -> str:
    """The attack, its radius and seed, in words."""
    return (
        f"{attack_name(result.meta['attack'])} at ε = {eps_text(float(result.meta['eps']))}, seed"
        f" {result.meta['seed']}"
    )


def percent(k: int, n: int) -> str:
    """The interval of a share, in brackets."""
    return " (95 %: {:.0%} to {:.0%})".format(*wilson(k, n))


def fooled_text(result: Features | FeatureMap) -> str:
    """On how many images a network is fooled; nothing where it knows none."""
    k, m = int(result.fooled.sum()), int(result.right.sum())
    return f"fooled on {k} of {m} images it knows{percent(k, m)}" if m else ""


def _signed(value: float, digits: int = 2) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def feature_gap(
    results: FeatureFilm | Mapping[str, FeatureFilm],
    *,
    epoch: int | None = None,
    template: str = LIGHT,
) -> go.Figure:
    """Over the kept epochs, in feature space: attacked images' mean cosine to their own class's
    centre and to the nearest other one above, and how far attack and noise move an image below; one
    or two networks, `epoch` marked.
    """
    networks = named(results)
    _check_comparable(networks)
    ink = COLOURS[template]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08).update_layout(
        blank(
            template,
            "The same in feature space",
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
    return finish(
        figure,
        "How near attacked images stay to their class, over the epochs.",
        next(iter(networks.values())).meta,
        "  \n".join(itertools.starmap(_gap_sentence, networks.items())),
    )


def _gap_sentence(name: str, result: FeatureFilm) -> str:
    own, other, epochs = result.own[:, 1], result.other[:, 1], result.epochs
    ahead = own > other
    if ahead.all() or not ahead.any():
        when = (
            f"they are nearer to {'their own' if ahead[0] else 'another'} class at every kept epoch"
        )
    else:
        when = (
            "they stay nearer to their own class from epoch"
            f" {epochs[np.flatnonzero(~ahead)[-1] + 1]} on"
            if ahead[-1]
            else "at the last one they are nearer to another class"
        )
    return (
        f"**{name}**: attacked images' cosine to their own class goes {own[0]:.2f} → {own[-1]:.2f}"
        f" from epoch {epochs[0]} to {epochs[-1]}, to the nearest other {other[0]:.2f} →"
        f" {other[-1]:.2f}; {when}. {protocol(result)}, n = {len(result.y)}."
    )
