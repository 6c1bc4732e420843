"""Maps of feature space as Plotly figures: clean and attacked points of the same images, or the
position of a single image among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Bools, Floats, Ints
from robustviz.types import UserError, eps_text
from robustviz.views.features.figures import fooled_text, percent, protocol
from robustviz.views.features.result import FeatureFilm, FeatureMap, commonest
from robustviz.views.theme import CLASSES, COLOURS, LIGHT, SYMBOLS, blank, clear, finish

FULL = 10  # classes with their own colours; of more, the ten most often misclassified
LINES = 300  # lines from clean to attacked points at most; more would hide the points
CROWD = 1500  # points; a map with more is drawn with WebGL
ROOM = (250, 370)  # pixels for a map's longer side, on a phone and beside a second map
SHIFTS = (0, 20, -20, 40, -40)  # pixels by which a class's name may move from its place
GROUPS = ("class", "fooled")
WHERE = {"centres": "Plane of the class centres", "pca": "PCA", "umap": "UMAP"}
READ = (
    "image %{customdata[0]}, a %{customdata[1]}<br>clean: %{customdata[2]}<br>attacked:"
    " %{customdata[3]}"
)
EXTRA = "<extra></extra>"  # removes the second box beside the hover text
# axes without numbers, which would mean nothing
BARE: dict[str, Any] = {"showticklabels": False, "ticks": "", "zeroline": False}

Trace = dict[str, Any]


class Group(NamedTuple):
    """Images that share a colour: the group's name in the legend, the mask (n,) that selects them,
    their colour, and the symbol of clean ones (attacked ones are ×).
    """

    name: str
    members: Bools
    colour: str
    symbol: str = "circle"

    def trace(self, points: Floats, attacked: bool, data: Any, hover: str) -> Trace:
        """The Plotly trace of this group's points, which are rows of `points` (n,2). With
        `attacked` they are drawn as × and are not in the legend. `data` (n,…): its rows for these
        images become the trace's `customdata`; `hover`: the hover template.
        """
        return {
            "x": points[self.members, 0],
            "y": points[self.members, 1],
            "mode": "markers",
            "name": f"{self.name} ({int(self.members.sum())})",
            "legendgroup": self.name,
            "showlegend": not attacked,
            "marker": {
                "symbol": "x" if attacked else self.symbol,
                "size": 7,
                "color": self.colour,
                "opacity": 0.85,
            },
            "customdata": data[self.members],
            "hovertemplate": hover,
        }


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
    """Draw clean ● and attacked × points of the same images for one network, with a line from ● to
    × for the first 300 images. If images attacked at another ε were placed in the map
    (`FeatureMap.placed`), they are drawn, too.

    `name` is printed in the title. `colour`: by `class`, or by `fooled` (right under attack too,
    fooled, misclassified untouched). `noise`: also draws the images with random noise. `focus`:
    the name of a class; all others are greyed out except, when coloured by class, up to three that
    its attacked images are most often mistaken for. `mark`: draws a small map instead, which shows
    where the image of this index lies. The `customdata` of a point begins with its image's index,
    class, and predictions clean and attacked (not in the small map). Raises UserError for an
    unknown `colour` or `focus`, and for a `mark` that is not in the map.
    """
    if mark is not None:
        return _marked(result, mark, name, template)
    what = WHERE[str(result.meta["projection"])]
    figure = blank(
        template,
        f"{name}: {what}" if name else what,
        "× attacked; axes have no unit",
        height=560,
        hovermode="closest",
        margin={"l": 8, "r": 8, "t": 72, "b": 128},
        annotations=[*labels(result, result.clean, template, focus, _above(result))],
        **_axes(result),
    )
    draw, data = go.Scattergl if 2 * len(result.y) > CROWD else go.Scatter, _data(result)
    figure.add_traces(
        [
            draw(trace)
            for trace in (
                arrows(result.clean, result.adversarial, template),
                *(
                    group.trace(points, attacked, data, READ + EXTRA)
                    for group in _groups(result, colour, focus, template)
                    for points, attacked in ((result.clean, False), (result.adversarial, True))
                ),
                *_guests(result, noise, template),
            )
        ]
    )
    return finish(
        figure,
        f"{what} of a {result.meta['method']} network's features.",
        result,
        _map_sentence(result, noise, focus),
        _map_sure(result),
    )


def _data(result: FeatureMap) -> Any:
    """Each image's index, and the names of its class and of its predictions clean and attacked, as
    (n,4) of objects.
    """
    return np.stack(
        [
            result.index.astype(object),
            *np.array(result.meta["classes"])[[result.y, result.pred, result.pred_adv]],
        ],
        axis=1,
    )


def _guests(result: FeatureMap, noise: bool, template: str) -> Iterator[Trace]:
    """Yield the traces of the points that were placed in the finished map: the noisy images if
    `noise`, and the images attacked at another ε if they were measured.
    """
    guests = (
        [("noise of the same ε", result.noise, "diamond-open", result.pred_noise)] if noise else []
    )
    if len(result.placed):
        guests.append(
            (
                f"attack at ε = {eps_text(float(result.meta['place_eps']))}",
                result.placed,
                "triangle-up-open",
                result.pred_placed,
            )
        )
    for label, points, symbol, pred in guests:
        yield {
            "x": points[:, 0],
            "y": points[:, 1],
            "mode": "markers",
            "name": f"{label} ({len(points)})",
            "hovertemplate": f"{READ}<br>{label}: %{{customdata[4]}}{EXTRA}",
            "marker": {
                "symbol": symbol,
                "size": 6,
                "color": COLOURS[template]["text"],
                "opacity": 0.7,
            },
            "customdata": np.concatenate(
                [_data(result), np.array(result.meta["classes"])[pred][:, None]], axis=1
            ),
        }


def _marked(result: FeatureMap, mark: int, name: str, template: str) -> go.Figure:
    """Draw a small map with all points in grey except the clean and the attacked point of the image
    with index `mark`. Raises UserError if that image is not in the map.
    """
    ink, names = COLOURS[template], list(result.meta["classes"])
    if mark not in result.index:
        raise UserError(
            f"Image {mark} is not among the {len(result.index)} images of this map: use more"
            " images."
        )
    row = int(np.flatnonzero(result.index == mark)[0])
    ends = np.stack([result.clean[row], result.adversarial[row]])
    own, *read = (names[answers[row]] for answers in (result.y, result.pred, result.pred_adv))
    figure = blank(
        template,
        f"Where image {mark} lies" + (f", {name}" if name else ""),
        height=320,
        showlegend=False,
        hovermode="closest",
        margin={"l": 8, "r": 8, "t": 44, "b": 8},
        annotations=[*labels(result, result.clean, template, own, _above(result), ends)],
        **_axes(result),
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
    return finish(
        figure,
        f"Where image {mark} lies among the {len(result.y)} images of the map.",
        result,
        f"Image {mark}, a {own}, is classified as {read[0]}, attacked as {read[1]}. Cosine to"
        f" its class's centre: {result.own[0, row]:.2f} → {result.own[1, row]:.2f}.",
        f"{protocol(result)}.",
    )


def _groups(result: FeatureMap, colour: str, focus: str, template: str) -> list[Group]:
    names, ink = list(result.meta["classes"]), COLOURS[template]
    if colour not in GROUPS:
        raise UserError(
            f"A map can be coloured by {' or '.join(GROUPS)}, not by {colour!r}.", code=2
        )
    if focus and focus not in names:
        raise UserError(f"There is no class {focus!r}; the classes are {', '.join(names)}.", code=2)
    if colour == "class":
        return by_class(result.y, result.pred_adv, names, focus, template)
    shades = CLASSES[template]
    mine = result.y == names.index(focus) if focus else np.ones(len(result.y), dtype=bool)
    out = [
        Group("right also attacked", mine & result.right & ~result.fooled, shades[0]),
        Group("fooled", mine & result.fooled, shades[1]),
        Group("misclassified untouched", mine & ~result.right, ink["text"], "circle-open"),
    ]
    return out if mine.all() else [*out, Group("other classes", ~mine, ink["faint"])]


def by_class(y: Ints, pred_adv: Ints, names: list[str], focus: str, template: str) -> list[Group]:
    """One group per class, in class order. With a class in `focus` (its name), only that class and
    up to three that its attacked images are most often mistaken for have groups of their own.
    Without `focus`, if there are more than ten classes, only the ten most often misclassified under
    attack have their own. The rest of the images form one grey group at the end.
    """
    present, shades = [int(label) for label in np.unique(y)], CLASSES[template]
    shown = present
    if focus:
        own = names.index(focus)
        landed = np.bincount(pred_adv[(y == own) & (pred_adv != own)])
        shown = sorted({own, *(label for label, _ in commonest(landed, 3))})
    elif len(present) > FULL:
        fooled = np.bincount(y[y != pred_adv], minlength=len(names))
        shown = sorted(sorted(present, key=lambda label: -fooled[label])[: len(shades)])
    # If all classes have a colour, it goes by the class's number, so it is the same in all figures.
    place = {label: label if len(names) <= FULL else at for at, label in enumerate(shown)}
    out = [
        Group(names[label], y == label, shades[place[label]], SYMBOLS[place[label]])
        for label in shown
    ]
    rest = ~np.isin(y, shown)
    return [*out, Group("other classes", rest, COLOURS[template]["faint"])] if rest.any() else out


def lines(start: Floats, end: Floats) -> dict[str, Floats]:
    """The `x` and `y` (3m,) of a single Plotly trace that draws a line from each point of `start`
    (n,2) to that of `end` (n,2), with NaN after each line as a gap. Only the first m points have a
    line: n, or `LINES` if that is less.
    """
    start, end = start[:LINES], end[:LINES]
    return {
        axis: np.stack(
            [start[:, at], end[:, at], np.full_like(start[:, at], np.nan)], axis=1
        ).ravel()
        for at, axis in enumerate("xy")
    }


def arrows(start: Floats, end: Floats, template: str) -> Trace:
    """The trace of the `lines` from the clean points `start` (n,2) to the attacked points `end`."""
    return {
        "name": "clean → attacked",
        **lines(start, end),
        "mode": "lines",
        "line": {"color": COLOURS[template]["faint"], "width": 1},
        "opacity": 0.45,
        "hoverinfo": "skip",
    }


def labels(
    result: FeatureMap | FeatureFilm,
    points: Floats,
    template: str,
    focus: str = "",
    above: int = 0,
    free: Floats | None = None,
) -> Iterator[Trace]:
    """Yield annotations with the classes' names, so that no colour has to be looked up. Of more
    than ten classes, only the class `focus` (a name) is annotated. Each name stands at the most
    central of its class's clean `points` (n,2), or `above` pixels over it. A name that would cover
    another one, or one of the points `free` (k,2), is moved a little up or down if that helps.
    """
    y, names, ink = result.y, list(result.meta["classes"]), COLOURS[template]
    shown = [int(label) for label in np.unique(y)]
    shown = shown if len(shown) <= FULL else [label for label in shown if names[label] == focus]
    # pixels per unit of the map, in a narrow and in a wide figure, (2,1)
    scales = np.array([[room / (np.ptp(points, axis=0).max() or 1.0)] for room in ROOM])
    # the places that are taken: the centre in both figures, in pixels, and half the width
    taken = [(scales * point, 10) for point in (() if free is None else free)]
    for label in shown:
        mine, half = points[y == label], 4 * len(names[label]) + 2
        place = mine[np.linalg.norm(mine[:, None] - mine[None], axis=2).sum(axis=1).argmin()]
        tried = [(shift, scales * place + (0, above + shift)) for shift in SHIFTS]
        shift, middle = next(  # the first that is clear of all others
            (
                (shift, middle)
                for shift, middle in tried
                if not any(
                    (np.abs(middle - there) < (half + wide, 20 - 1e-6)).all(axis=1).any()
                    for there, wide in taken
                )
            ),
            tried[0],
        )
        taken.append((middle, half))
        yield {
            "x": float(place[0]),
            "y": float(place[1]),
            "text": names[label],
            "showarrow": False,
            "yshift": above + shift,
            "bgcolor": clear(ink["paper"], 0.75),
            "borderpad": 1,
            "font": {"size": 13, "color": ink["text"]},
        }


def _above(result: FeatureMap) -> int:
    # UMAP's groups are so dense that a name on them would hide the points.
    return 18 if result.meta["projection"] == "umap" else 0


def _axes(result: FeatureMap) -> dict[str, Any]:
    # On a linear plane, distances have the same scale in both directions.
    return {
        "xaxis": BARE,
        "yaxis": BARE | ({} if result.meta["projection"] == "umap" else {"scaleanchor": "x"}),
    }


def _map_sentence(result: FeatureMap, noise: bool, focus: str) -> str:
    n, known = len(result.y), fooled_text(result)
    clean, adv, noisy = (int(count) for count in result.astray)
    return (
        "This network"
        f" {f'is {known}' if known else 'classifies none of these images correctly'}. {adv} of"
        f" {n} attacked points lie nearer to another class's centre than to their own, untouched"
        f" {clean}, noise {noisy}."
        + (_landed(result, focus) if focus else "")
        + (f" Lines for the first {LINES} images only." if n > LINES else "")
        + (
            f" △: attacked at ε = {eps_text(float(result.meta['place_eps']))},"
            f" {int((result.pred_placed != result.y).sum())} of {n} misclassified."
            if len(result.placed)
            else ""
        )
        + (" ◇: noise." if noise else "")
        + (
            " △ and ◇ were placed in the finished map and did not change it."
            if noise or len(result.placed)
            else ""
        )
    )


def _map_sure(result: FeatureMap) -> str:
    """In words: how the map was measured and made, and how many images are fooled, with the 95%
    interval of their share.
    """
    k, m = int(result.fooled.sum()), int(result.right.sum())
    return (
        f"Nearer means by cosine in feature space, not on the map. {protocol(result)}. Measured"
        f" on {len(result.y)} images. The map: {_made(result)}."
        + (f" Fooled: {k} of {m}{percent(k, m)}." if m else "")
    )


def _made(result: FeatureMap) -> str:
    """How the map was made, in words: the share of the variance that a plane contains, or UMAP's
    settings and trustworthiness.
    """
    meta = result.meta
    if meta["projection"] != "umap":
        return f"it contains {result.share:.0%} of the variance " + (
            "between the class centres" if meta["projection"] == "centres" else "of all points"
        )
    return (
        f"cosine, n_neighbors {meta.get('n_neighbors')}, min_dist {meta.get('min_dist')}, seed"
        f" {meta['seed']}"
        + ("" if math.isnan(result.trust) else f", trustworthiness(15) {result.trust:.3f}")
    )


def _landed(result: FeatureMap, focus: str) -> str:
    """In words, with a leading space: the class as which the attacked images of the class `focus`
    are most often classified (it may be `focus` itself), and how often.
    """
    names = list(result.meta["classes"])
    read = np.bincount(result.pred_adv[result.y == names.index(focus)], minlength=len(names))
    if not read.any():
        return f" There is no image of {focus} among them."
    label, count = commonest(read, 1)[0]
    return (
        f" Attacked images of {focus} are most often classified as {names[label]} ({count} of"
        f" {int(read.sum())})."
    )
