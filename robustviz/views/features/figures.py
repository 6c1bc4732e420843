"""The figures of the Features page: maps of feature space, how near images stay to their class, and
both over the epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from robustviz.stats import Bools, Floats, mean_interval, tango, wilson
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, eps_text
from robustviz.views.attack.figures import _sides
from robustviz.views.features.result import FeatureFilm, FeatureMap, Features
from robustviz.views.theme import COLOURS, DASHES, LIGHT, blank, finish

# Okabe–Ito (2008), darkened or lightened where the original has less than 3:1 against the
# background. The ninth and tenth class take the first two again, hollow.
CLASS_COLOURS = {
    "robustviz_light": (
        "#0072B2",
        "#D55E00",
        "#008A64",
        "#B65A90",
        "#9A6B00",
        "#2F8FC6",
        "#7D7600",
        "#404A57",
    ),
    "robustviz_dark": (
        "#3D93D0",
        "#E8743B",
        "#17B586",
        "#D58DB5",
        "#E69F00",
        "#8CCDF2",
        "#F0E442",
        "#C3CCD6",
    ),
}
FULL = 10  # classes that can be told apart; of more, the most confused eight are coloured
LINES = 300  # arrows; more hide what they should show
CROWD = 1500  # points; more are drawn by WebGL
ROOM = (250, 370)  # pixels for a map's longer side, on a phone and beside a second map
SHIFTS = (0, 20, -20, 40, -40)  # pixels by which a class's name may leave its place
GROUPS = ("class", "fooled")
WHERE = {"centres": "Plane of the class centres", "pca": "PCA", "umap": "UMAP"}


class _Group(NamedTuple):
    """Images that share a colour: its name in the legend, which they are (n,), the colour, whether
    marks are hollow.
    """

    name: str
    members: Bools
    colour: str
    hollow: bool = False


def feature_map(
    result: FeatureMap,
    *,
    name: str = "",
    colour: str = "class",
    noise: bool = False,
    focus: str = "",
    mark: int | None = None,
    template: str = LIGHT,
) -> go.Figure:
    """Clean ● and attacked × points of the same images, a line from each ● to its ×; one network.

    `name` is printed in the title; `colour`: `class`, or `fooled` (held, fooled, wrong untouched);
    `noise` draws the random control too; `focus` greys out all classes but the one of this name
    and, by class, those its attacked images are taken for. With `mark` the map is a small one that
    shows where the image of this number lies. Each point's `customdata`: image number, class,
    answers clean and attacked. Raises UserError for an unknown `colour` or `focus`, and for a
    `mark` that is not there.
    """
    if mark is not None:
        return _marked(result, mark, name, template)
    ink, names = COLOURS[template], list(result.meta["classes"])
    groups = _groups(result, colour, focus, template)
    draw = go.Scattergl if 2 * len(result.y) > CROWD else go.Scatter
    what = WHERE[str(result.meta["projection"])]
    figure = blank(
        template,
        f"{name}: {what}" if name else what,
        "● clean, × attacked; no unit on the axes",
        height=560,
        hovermode="closest",
        margin={"l": 8, "r": 8, "t": 72, "b": 128},
    )
    drawn = min(LINES, len(result.y))
    figure.add_trace(
        draw(
            name="clean → attacked",
            **_lines(result.clean[:drawn], result.adversarial[:drawn]),
            **_line_style(ink["faint"]),
        )
    )
    answers = np.array(names)
    said = np.stack(
        [
            result.index.astype(object),
            answers[result.y],
            answers[result.pred],
            answers[result.pred_adv],
        ],
        axis=1,
    )
    hover = (
        "image %{customdata[0]}, a %{customdata[1]}<br>clean: %{customdata[2]}<br>attacked:"
        " %{customdata[3]}<extra></extra>"
    )
    for group in groups:
        for points, symbol, shown in (
            (result.clean, "circle", True),
            (result.adversarial, "x", False),
        ):
            figure.add_trace(
                draw(
                    x=points[group.members, 0],
                    y=points[group.members, 1],
                    mode="markers",
                    name=f"{group.name} ({int(group.members.sum())})",
                    legendgroup=group.name,
                    showlegend=shown,
                    marker=_mark(symbol, group),
                    customdata=said[group.members],
                    hovertemplate=hover,
                )
            )
    extra = (
        [("noise of the same ε", result.noise, "diamond-open", result.pred_noise)] if noise else []
    )
    if len(result.placed):
        extra.append(
            (
                f"attack at ε = {eps_text(float(result.meta['place_eps']))}",
                result.placed,
                "triangle-up-open",
                result.pred_placed,
            )
        )
    for label, points, symbol, pred in extra:
        figure.add_trace(
            draw(
                x=points[:, 0],
                y=points[:, 1],
                mode="markers",
                name=f"{label} ({len(points)})",
                hovertemplate=f"{hover[:-15]}<br>{label}: %{{customdata[4]}}<extra></extra>",
                marker={"symbol": symbol, "size": 6, "color": ink["text"], "opacity": 0.7},
                customdata=np.concatenate([said, answers[pred][:, None]], axis=1),
            )
        )
    figure.update_layout(
        annotations=_labels(result.clean, result.y, names, focus, ink, _above(result))
    )
    _bare_axes(figure)
    if result.meta["projection"] != "umap":
        figure.update_yaxes(
            scaleanchor="x"
        )  # the plane is a true one: a distance is as long in every direction
    return finish(
        figure,
        f"{what} of {result.meta['method']}'s features.",
        result.meta,
        _map_sentence(result, noise, focus, drawn),
    )


def _marked(result: FeatureMap, mark: int, name: str, template: str) -> go.Figure:
    """All points in grey and one image's two in full."""
    ink, names = COLOURS[template], list(result.meta["classes"])
    found = np.flatnonzero(result.index == mark)
    if not len(found):
        raise UserError(
            f"Image {mark} is not among the {len(result.index)} images of this map; take more"
            " images."
        )
    row = int(found[0])
    figure = blank(
        template,
        f"Where image {mark} lies" + (f", {name}" if name else ""),
        height=320,
        showlegend=False,
        hovermode="closest",
        margin={"l": 8, "r": 8, "t": 44, "b": 8},
    )
    for points, symbol in ((result.clean, "circle"), (result.adversarial, "x")):
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers",
            hoverinfo="skip",
            name="others",
            marker={"symbol": symbol, "size": 4, "color": ink["faint"], "opacity": 0.5},
        )
    ends = np.stack([result.clean[row], result.adversarial[row]])
    read = [names[result.pred[row]], names[result.pred_adv[row]]]
    figure.add_scatter(
        x=ends[:, 0],
        y=ends[:, 1],
        mode="lines+markers",
        name=f"image {mark}",
        line={"color": ink["text"], "width": 3},
        marker={"symbol": ["circle", "x"], "size": 15, "color": ink["text"]},
        customdata=[[f"clean: {read[0]}"], [f"attacked: {read[1]}"]],
        hovertemplate="%{customdata[0]}<extra></extra>",
    )
    figure.update_layout(
        annotations=_labels(
            result.clean, result.y, names, names[result.y[row]], ink, _above(result), ends
        )
    )
    _bare_axes(figure)
    if result.meta["projection"] != "umap":
        figure.update_yaxes(scaleanchor="x")
    sentence = (
        f"Image {mark}, a {names[result.y[row]]}, is read as {read[0]} and, under"
        f" {_protocol(result)}, as {read[1]}; its cosine to its class's centre goes"
        f" {result.own[0, row]:.2f} → {result.own[1, row]:.2f}."
    )
    return finish(
        figure,
        f"Where image {mark} lies among the {len(result.y)} images of the map.",
        result.meta,
        sentence,
    )


def _groups(result: FeatureMap, colour: str, focus: str, template: str) -> list[_Group]:
    names, ink = list(result.meta["classes"]), COLOURS[template]
    if colour not in GROUPS:
        raise UserError(
            f"A map can be coloured by {' or '.join(GROUPS)}, not by {colour!r}.", code=2
        )
    if focus and focus not in names:
        raise UserError(f"There is no class {focus!r}; the classes are {', '.join(names)}.", code=2)
    if colour == "fooled":
        shades, mine = (
            CLASS_COLOURS[template],
            result.y == names.index(focus) if focus else np.ones(len(result.y), dtype=bool),
        )
        out = [
            _Group("holds", mine & result.right & ~result.fooled, shades[0]),
            _Group("fooled", mine & result.fooled, shades[1]),
            _Group("wrong untouched", mine & ~result.right, ink["text"], hollow=True),
        ]
        return out if mine.all() else [*out, _Group("other classes", ~mine, ink["faint"])]
    return _by_class(result.y, result.pred_adv, names, focus, template)


def _by_class(y: Any, pred_adv: Any, names: list[str], focus: str, template: str) -> list[_Group]:
    """A group a class, in class order; the rest in grey where there are more than ten or one is in
    focus.
    """
    present, shades = [int(label) for label in np.unique(y)], CLASS_COLOURS[template]
    shown = present
    if focus:
        own = names.index(focus)
        landed = np.bincount(pred_adv[y == own], minlength=len(names))
        landed[own] = 0
        shown = sorted(
            {
                own,
                *(int(label) for label in np.argsort(-landed, kind="stable")[:3] if landed[label]),
            }
        )
    elif len(present) > FULL:
        fooled = [int(((y == label) & (pred_adv != label)).sum()) for label in present]
        shown = sorted(
            present[at]
            for at in np.argsort([-count for count in fooled], kind="stable")[: len(shades)]
        )
    # Colours go by class where all have one, so that a class keeps its own from figure to figure.
    place = {label: label if len(names) <= FULL else at for at, label in enumerate(shown)}
    out = [
        _Group(
            names[label],
            y == label,
            shades[place[label] % len(shades)],
            place[label] >= len(shades),
        )
        for label in shown
    ]
    rest = ~np.isin(y, shown)
    return [*out, _Group("other classes", rest, COLOURS[template]["faint"])] if rest.any() else out


def _mark(symbol: str, group: _Group) -> dict[str, Any]:
    hollow = {"circle": "circle-open", "x": "x-thin-open"}
    return {
        "symbol": hollow[symbol] if group.hollow else symbol,
        "size": 7,
        "color": group.colour,
        "opacity": 0.85,
    }


def _lines(start: Floats, end: Floats) -> dict[str, Floats]:
    """One trace for many lines: gaps between them."""
    gap = np.full(len(start), np.nan, dtype=start.dtype)
    return {
        axis: np.stack([start[:, at], end[:, at], gap], axis=1).ravel()
        for at, axis in enumerate("xy")
    }


def _line_style(colour: str) -> dict[str, Any]:
    return {
        "mode": "lines",
        "line": {"color": colour, "width": 1},
        "opacity": 0.45,
        "hoverinfo": "skip",
    }


def _labels(
    points: Floats,
    y: Any,
    names: list[str],
    focus: str,
    ink: Mapping[str, str],
    above: int = 0,
    clear: Floats | None = None,
) -> list[dict[str, Any]]:
    """Each class's name at, or `above`, the one of its clean points that is nearest to all: colour
    alone would have to be looked up. A name that would cover another, or one of the points `clear`
    (k, 2), stands a little higher or lower.
    """
    shown = [int(label) for label in np.unique(y)]
    shown = shown if len(shown) <= FULL else [label for label in shown if names[label] == focus]
    span = np.ptp(points, axis=0).max() or 1.0
    scales = np.array(
        [[room / span] for room in ROOM]
    )  # pixels a unit, where the figure is narrow and where it is wide
    taken = [
        (scales * point, 10) for point in (() if clear is None else clear)
    ]  # middles in both, half a width
    out = []
    for label in shown:
        mine, half = points[y == label], 4 * len(names[label]) + 2
        place = mine[np.linalg.norm(mine[:, None] - mine[None], axis=2).sum(axis=1).argmin()]
        tried = [(shift, scales * place + (0, above + shift)) for shift in SHIFTS]
        free = (
            one
            for one in tried
            if not any(
                (np.abs(one[1] - there) < (half + wide, 20 - 1e-6)).all(axis=1).any()
                for there, wide in taken
            )
        )
        shift, middle = next(free, tried[0])
        taken.append((middle, half))
        x, at = place.tolist()
        out.append(
            {
                "x": x,
                "y": at,
                "text": names[label],
                "showarrow": False,
                "yshift": above + shift,
                "bgcolor": _clear(ink["paper"]),
                "borderpad": 1,
                "font": {"size": 13, "color": ink["text"]},
            }
        )
    return out


def _above(result: FeatureMap) -> int:
    return (
        18 if result.meta["projection"] == "umap" else 0
    )  # its groups are so tight that a name would hide them


def _bare_axes(figure: go.Figure) -> None:
    figure.update_xaxes(showticklabels=False, ticks="", zeroline=False)
    figure.update_yaxes(showticklabels=False, ticks="", zeroline=False)


def _map_sentence(result: FeatureMap, noise: bool, focus: str, drawn: int) -> str:
    meta, n = result.meta, len(result.y)
    clean, adv, noisy = (int(count) for count in result.astray)
    k, m = int(result.fooled.sum()), int(result.right.sum())
    fooled = (
        f"This model is fooled on {k} of {m} images it knows{_percent(k, m)}"
        if m
        else "This model knows none of these images"
    )
    text = (
        f"{fooled}. Of {n} attacked points {adv} lie nearer to another class's centre than to their"
        f" own; clean {clean}, with noise of the same ε {noisy}: cosine in feature space,"
        f" {_protocol(result)}."
    )
    trust = "" if math.isnan(result.trust) else f"trustworthiness(15) {result.trust:.3f}"
    made = {
        "umap": ", ".join(
            filter(
                None,
                [
                    (
                        f"cosine, n_neighbors {meta.get('n_neighbors')}, min_dist"
                        f" {meta.get('min_dist')}, seed {meta['seed']}"
                    ),
                    trust,
                ],
            )
        ),
        "centres": f"it holds {result.share:.0%} of the variance between the class centres",
        "pca": f"it holds {result.share:.0%} of the variance of all points",
    }[str(meta["projection"])]
    text += f" The map: {made}."
    if focus:
        text += _landed(result, focus)
    if drawn < n:
        text += f" Lines for the first {drawn} images only."
    if len(result.placed):
        wrong = int((result.pred_placed != result.y).sum())
        text += (
            f" △: attacked at ε = {eps_text(float(meta['place_eps']))}, {wrong} of {n} wrong, put"
            " into the finished map."
        )
    return text + (" ◇: noise, put into the finished map." if noise else "")


def _landed(result: FeatureMap, focus: str) -> str:
    """What the attacked images of a class are read as."""
    names = list(result.meta["classes"])
    own = names.index(focus)
    read = np.bincount(result.pred_adv[result.y == own], minlength=len(names))
    order = [int(label) for label in np.argsort(-read, kind="stable")[:4] if read[label]]
    if not order:
        return f" There is no image of {focus} among them."
    return (
        f" Attacked, the {int(read.sum())} images of {focus} are read as "
        + ", ".join(f"{names[label]} ({read[label]})" for label in order)
        + "."
    )


def _protocol(result: Any) -> str:
    meta = result.meta
    return (
        f"{attack_name(meta['attack'])} at ε = {eps_text(float(meta['eps']))}, seed {meta['seed']}"
    )


def _percent(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f" (95 %: {low:.0%} to {high:.0%})"


def features(results: Features | Mapping[str, Features], *, template: str = LIGHT) -> go.Figure:
    """Mean cosine to the own class's clean centre (●) and to the nearest other one (◇) of clean,
    attacked and noisy images, with 95 % intervals; one or two networks. Where ◇ is right of ●
    images have left their class.

    Raises UserError where two networks were not measured on the same images of the same data.
    """
    found = {"A": results} if isinstance(results, Features) else dict(results)
    _comparable(found)
    ink = COLOURS[template]
    figure = blank(
        template,
        "How near images stay to their class",
        "cosine to class centres, mean with 95 % interval",
        height=132 + 108 * len(found),
        margin={"l": 8, "r": 28, "t": 72, "b": 92},
    )
    rows = [f"{name} · {said}" for name in found for said in KINDS.values()]
    for (name, result), side in zip(found.items(), _sides(found), strict=True):
        for which, symbol, fill in (
            ("own class", "circle", ink[side]),
            ("nearest other class", "diamond-open", ink[side]),
        ):
            stats = np.array(
                [
                    mean_interval(result.cosines(of)[0 if which == "own class" else 1])
                    for of in KINDS
                ]
            )
            figure.add_scatter(
                x=stats[:, 0],
                y=[f"{name} · {said}" for said in KINDS.values()],
                mode="markers",
                name=f"{name}: {which}",
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": _finite(stats[:, 2] - stats[:, 0]),
                    "arrayminus": _finite(stats[:, 0] - stats[:, 1]),
                },
                marker={
                    "symbol": symbol,
                    "size": 12,
                    "color": fill,
                    "line": {"width": 2, "color": fill},
                },
                customdata=stats[:, 1:],
                hovertemplate="%{y}<br>"
                + which
                + " %{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
            )
    figure.update_xaxes(title="cosine", zeroline=False)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows[::-1], ticks="")
    return finish(
        figure,
        "Cosine of features to class centres.",
        next(iter(found.values())).meta,
        "  \n".join(_near_sentences(found)),
    )


KINDS = {"clean": "clean", "adversarial": "attacked", "noise": "noise"}


def _comparable(found: Mapping[str, Any]) -> None:
    metas = [result.meta for result in found.values()]
    if (
        len({meta["data"] for meta in metas}) > 1
        or len({tuple(meta["classes"]) for meta in metas}) > 1
    ):
        raise UserError(
            "These networks were trained on different data sets, so their images cannot be"
            " compared; choose two of one."
        )
    if len({tuple(result.y) for result in found.values()}) > 1:
        raise UserError(
            "These networks were measured on different images; measure both with the same n."
        )


def _near_sentences(found: Mapping[str, Features]) -> Iterator[str]:
    """What is seen for each network, and what of two may be called a difference."""
    leads, right = {}, {}
    for name, result in found.items():
        own, other = result.cosines("adversarial")
        noisy, _ = result.cosines("noise")
        leads[name], right[name] = own - other, result.pred_adv == result.y
        mean, low, high = mean_interval(leads[name])
        side = (
            "nearer to their own class"
            if low > 0
            else (
                "nearer to another class"
                if high < 0
                else "no nearer to their own class than to another"
            )
        )
        k, m = int(result.fooled.sum()), int(result.right.sum())
        fooled = (
            f"fooled on {k} of {m} images it knows{_percent(k, m)}"
            if m
            else "it knows none of these images"
        )
        moved, still = float(result.moved_adv.mean()), float(result.moved_noise.mean())
        far = (
            f"the attack moves them {moved:.2f} centre distances, noise {still:.2f}"
            if math.isfinite(moved)
            else "all class centres coincide"
        )
        yield (
            f"**{name}**: attacked images lie {side} (own minus nearest other cosine"
            f" {_signed(mean)}, 95 %: {_signed(low)} to {_signed(high)}); own centre"
            f" {own.mean():.2f}, with noise of the same ε {noisy.mean():.2f}; {far}; {fooled}."
            f" {_protocol(result)}, n = {len(result.y)}."
        )
    if len({_protocol(result) for result in found.values()}) > 1:
        yield "The two met different attacks, so they are not compared."
    elif len(found) == 2:
        (first, lead), (second, lead_b) = leads.items()
        mean, low, high = mean_interval(lead - lead_b)
        ahead, behind = (first, second) if mean >= 0 else (second, first)
        low, high = (low, high) if mean >= 0 else (-high, -low)
        if low > 0:
            yield (
                f"Under attack {ahead} keeps images nearer to their class than {behind}: by"
                f" {abs(mean):.2f} (95 %: {low:.2f} to {high:.2f})."
            )
        else:
            yield (
                "Which of the two keeps images nearer to their class is not decided:"
                f" {abs(mean):.2f} (95 %: {_signed(low)} to {_signed(high)})."
            )
        only, only_b = (
            int((right[one] & ~right[two]).sum()) for one, two in ((first, second), (second, first))
        )
        n = len(right[first])
        low, high = tango(only, only_b, n)
        gap = (only - only_b) / n
        ahead, behind = (first, second) if gap >= 0 else (second, first)
        low, high = (low, high) if gap >= 0 else (-high, -low)
        verdict = (
            f"{ahead} is more accurate than {behind}"
            if low > 0
            else "neither is shown to be more accurate"
        )
        apart = (
            f"{100 * abs(gap):.0f} points apart (95 %: {_signed(100 * low, 0)} to"
            f" {_signed(100 * high, 0)})"
        )
        yield f"The judge, accuracy under attack: {verdict}; {apart}."


def _signed(value: float, digits: int = 2) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, 0.0)


def feature_film(
    result: FeatureFilm, *, epoch: int | None = None, name: str = "", template: str = LIGHT
) -> go.Figure:
    """Clean ● and attacked × points at each kept epoch, as frames with a play button, on the plane
    of the last epoch's class centres or by UMAP; `epoch` (the nearest kept one) is shown first, by
    default the last.
    """
    umap = result.meta.get("projection") == "umap"
    ink, names = COLOURS[template], list(result.meta["classes"])
    at = _nearest(result, epoch)
    groups = _by_class(result.y, result.pred_adv[-1], names, "", template)
    figure = blank(
        template,
        f"{name}: epoch {result.epochs[at]}" if name else f"Epoch {result.epochs[at]}",
        (
            "● clean, × attacked; UMAP from the last epoch back"
            if umap
            else "● clean, × attacked; plane of the last epoch"
        ),
        height=600,
        margin={"l": 8, "r": 8, "t": 72, "b": 176},
    )
    drawn = min(LINES, len(result.y))

    def traces(frame: int) -> list[dict[str, Floats]]:
        clean, adv = result.clean[frame], result.adversarial[frame]
        marks = [{"x": z[g.members, 0], "y": z[g.members, 1]} for g in groups for z in (clean, adv)]
        return [_lines(clean[:drawn], adv[:drawn]), *marks]

    lines, *marks = traces(at)
    figure.add_scatter(name="clean → attacked", **lines, **_line_style(ink["faint"]))
    for number, points in enumerate(marks):
        group = groups[number // 2]
        figure.add_scatter(
            **points,
            mode="markers",
            name=f"{group.name} ({int(group.members.sum())})",
            legendgroup=group.name,
            showlegend=number % 2 == 0,
            marker=_mark(("circle", "x")[number % 2], group),
            customdata=result.index[group.members],
            hovertemplate=f"image %{{customdata}}, a {group.name}<extra></extra>",
        )
    prefix = f"{name}: epoch" if name else "Epoch"
    figure.frames = [
        go.Frame(
            name=str(number),
            data=[go.Scatter(points) for points in traces(frame)],
            traces=[*range(len(marks) + 1)],
            layout={
                "annotations": _labels(result.clean[frame], result.y, names, "", ink),
                "title": {"text": f"{prefix} {number}"},
            },
        )
        for frame, number in enumerate(result.epochs)
    ]
    steps = [
        {"label": str(number), "method": "animate", "args": [[str(number)], _play(0)]}
        for number in result.epochs
    ]
    buttons = [
        {"label": "▶ Play", "method": "animate", "args": [None, _play(500)]},
        {"label": "Pause", "method": "animate", "args": [[None], _play(0)]},
    ]
    figure.update_layout(
        annotations=_labels(result.clean[at], result.y, names, "", ink),
        sliders=[
            {
                "steps": steps,
                "active": at,
                "currentvalue": {"prefix": "epoch "},
                "x": 0.28,
                "len": 0.72,
                "y": 0,
                "pad": {"t": 16},
            }
        ],
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 36},
                "font": {"color": ink["text"]},
                "bgcolor": ink["paper"],
                "active": -1,
            }
        ],
    )
    _bare_axes(figure)
    every = np.concatenate([result.clean, result.adversarial]).reshape(-1, 2)
    (low_x, low_y), (high_x, high_y) = every.min(axis=0), every.max(axis=0)
    pad = 0.04 * max(float(high_x - low_x), float(high_y - low_y), 1e-6)
    figure.update_xaxes(
        range=[float(low_x) - pad, float(high_x) + pad]
    )  # one frame for all: nothing jumps but the points
    figure.update_yaxes(range=[float(low_y) - pad, float(high_y) + pad])
    n, last = len(result.y), len(result.epochs) - 1
    k = (result.pred_adv == result.y).sum(axis=1)
    said = (
        f"Epoch {result.epochs[at]}: {k[at]} of {n} images right under"
        f" {_protocol(result)}{_percent(int(k[at]), n)}"
    )
    said += (
        f"; at the last kept epoch, {result.epochs[last]}, {k[last]}."
        if at != last
        else f"; at epoch {result.epochs[0]}, {k[0]}."
    )
    if umap:
        said += " In UMAP axes and gaps between groups say nothing."
    return finish(
        figure, f"Features of {result.meta['method']} over {last + 1} epochs.", result.meta, said
    )


def _play(duration: int) -> dict[str, Any]:
    return {
        "mode": "immediate",
        "fromcurrent": True,
        "frame": {"duration": duration, "redraw": True},
        "transition": {"duration": 0},
    }


def _nearest(result: FeatureFilm, epoch: int | None) -> int:
    return len(result.epochs) - 1 if epoch is None else int(np.abs(result.epochs - epoch).argmin())


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
    found = {"A": results} if isinstance(results, FeatureFilm) else dict(results)
    _comparable(found)
    ink = COLOURS[template]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    figure.update_layout(
        blank(
            template,
            "The same in feature space",
            "● own class, ◇ nearest other; ■ attack, □ noise",
            height=560,
        ).layout
    )
    for (name, result), side in zip(found.items(), _sides(found), strict=True):
        curves = (
            (1, "own class", result.own[:, 1], "circle"),
            (1, "nearest other class", result.other[:, 1], "diamond-open"),
            (2, "moved by the attack", result.moved[:, 0], "square"),
            (2, "moved by noise", result.moved[:, 1], "square-open"),
        )
        for row, said, values, symbol in curves:
            figure.add_scatter(
                x=result.epochs,
                y=np.where(np.isfinite(values), values, np.nan),
                name=f"{name}: {said}",
                mode="lines+markers",
                row=row,
                col=1,
                line={"color": ink[side], "dash": DASHES[side], "width": 2},
                marker={"symbol": symbol, "size": 9, "color": ink[side]},
                hovertemplate="epoch %{x}: %{y:.2f}<extra>" + f"{name}: {said}</extra>",
            )
    if epoch is not None:
        figure.add_vline(x=epoch, line={"color": ink["faint"], "dash": "dot"})
    figure.update_yaxes(title="cosine, attacked", row=1, col=1)
    figure.update_yaxes(title="centre distances", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title="epoch", row=2, col=1)
    figure.update_layout(margin={"l": 8, "r": 28, "t": 80, "b": 140})
    said = "  \n".join(_gap_sentence(name, result) for name, result in found.items())
    return finish(
        figure,
        "How near attacked images stay to their class, over the epochs.",
        next(iter(found.values())).meta,
        said,
    )


def _gap_sentence(name: str, result: FeatureFilm) -> str:
    own, other, epochs = result.own[:, 1], result.other[:, 1], result.epochs
    ahead = own > other
    if ahead.all():
        when = "they are nearer to their own class at every kept epoch"
    elif ahead[-1]:
        when = (
            "they stay nearer to their own class from epoch"
            f" {epochs[np.flatnonzero(~ahead)[-1] + 1]} on"
        )
    else:
        when = (
            "at the last one they are nearer to another class"
            if ahead.any()
            else "they are nearer to another class at every kept epoch"
        )
    return (
        f"**{name}**: attacked images' cosine to their own class goes {own[0]:.2f} → {own[-1]:.2f}"
        f" from epoch {epochs[0]} to {epochs[-1]}, to the nearest other {other[0]:.2f} →"
        f" {other[-1]:.2f}; {when}. {_protocol(result)}, n = {len(result.y)}."
    )


def _clear(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.75)"
