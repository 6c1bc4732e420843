"""The first screen of the Features page: one map per network whose points move from clean to
attacked in the browser, and below each map one image with its nearest neighbours. It needs neither
torch nor Plotly's JavaScript.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from robustviz.stats import Floats, Ints
from robustviz.training.evaluation import attack_name
from robustviz.types import JSON
from robustviz.views.drawing import uri
from robustviz.views.features.result import COLUMNS, TENTHS, FeatureMap, FeatureTiles, commonest
from robustviz.views.screen import Control, Screen
from robustviz.views.theme import CLASSES, COLOURS, LIGHT, SYMBOLS
from robustviz.views.verdict import Verdict, held

WIDE, HIGH, EDGE = 580, 368, 22  # size and margin of a map, in pixels of the drawing
POSITIONS = ("untouched", *(f"{10 * tenth}%" for tenth in range(1, TENTHS)), "attacked")
WAY = Control(
    "Attack added",
    POSITIONS,
    TENTHS,
    "way",
    "Between its clean and its attacked position, each point moves on a straight line.",
)
MARKS = {  # the classes' symbols, centred at (0, 0), as SVG paths
    "circle": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "square": "M-4-4h8v8h-8z",
    "triangle-up": "M0-5.5L5 3.8H-5z",
    "diamond": "M0-5.8L4.8 0L0 5.8L-4.8 0z",
    "triangle-down": "M0 5.5L5-3.8H-5z",
    "star": "M0-6L1.5-2L5.7-1.9L2.4.8L3.5 4.9L0 2.5L-3.5 4.9L-2.4.8L-5.7-1.9L-1.5-2z",
    "hourglass": "M-4.6-5H4.6L-4.6 5H4.6z",
    "triangle-left": "M-5.5 0L3.8-5V5z",
    "bowtie": "M-5-4.6V4.6L5-4.6V4.6z",
    "triangle-right": "M5.5 0L-3.8-5V5z",
}
SHIFTS = (0, -16, 16, -32, 32, -48, 48)  # pixels by which a class's name may move from its place
STYLE = """<style>
.control output { min-width: 5.6rem; }
.maps { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; }
.map { flex: 1 1 24rem; min-width: 0; max-width: min(52rem, max(86vh, 24rem)); }
.map .head { display: flex; justify-content: space-between; gap: 1rem; }
.map svg { width: 100%; border-radius: .4rem;
  background: color-mix(in srgb, var(--grid) 18%, transparent); }
.map svg text { pointer-events: none; font-weight: 600;
  paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.pt { transform: translate(
  calc(var(--p) + var(--at) * var(--x)), calc(var(--q) + var(--at) * var(--y))); }
.pt .f { opacity: calc((var(--at) - var(--c)) * 1000); fill: var(--paper); stroke-width: 1.8; }
.pt:focus { outline: none; }
.pt:is(:hover, :focus) > path, .mark circle { stroke: var(--text); stroke-width: 2.5; }
.strip { display: flex; flex-wrap: wrap; gap: .3rem 1rem; min-height: 5.2rem; }
.strip p { font-size: .9rem; }
.strip span::before { content: "; "; }
.presenting .map { max-width: min(52rem, max(82vh, 24rem)); }
.presenting .strip p { font-size: 1rem; line-height: 1.2; }
.presenting .strip span { display: block; }
.presenting .strip span::before { content: none; }
.picture .strip button { padding: 0; border: 0; line-height: 0; margin: 0 0 0 2px; --size: 34px; }
@container (max-width: 40rem) {
  .picture .map svg text { font-size: 21px; }
  .pt > * { scale: 1.5; }
}
</style>"""


class Side(NamedTuple):
    """One network: its letter `a` or `b`, its printed name, its map, and the pictures of the map's
    images (None if they have not been measured).
    """

    side: str
    name: str
    map: FeatureMap
    tiles: FeatureTiles | None


def verdict(sides: Sequence[Side]) -> Verdict:
    """Which of two networks keeps more attacked images nearest to their own class, by cosine to
    class centres in feature space. What counts as a difference is decided as in `verdict.held`. For
    a single network: how many images it keeps. Two networks are not compared if their attack, its
    radius or the number of images differ: the line says so, and there is no winner.
    """
    first = sides[0].map
    kept = [np.asarray(side.map.own[1] > side.map.other[1]) for side in sides]
    names = tuple(side.side.upper() for side in sides)
    n, counts = len(first.y), [int(each.sum()) for each in kept]
    same = len({_protocol(side.map) for side in sides}) == 1
    found = held(
        kept[0],
        kept[1] if len(sides) > 1 and same else None,
        attack=attack_name(first.meta["attack"]),
        eps=float(first.meta["eps"]),
        seed=int(first.meta["seed"]),
        names=(names[0], names[-1]),
        alone="keeps the class",
    )
    images = "attacked images" if first.meta["eps"] else "untouched images"
    if len(sides) == 1:
        line = f"With {names[0]}, {counts[0]} of {n} {images} stay nearest to their own class."
    elif not same:
        line = "A and B were attacked differently, so their maps are not compared."
    elif found.winner:
        (most, winner), (least, loser) = sorted(zip(counts, names, strict=True), reverse=True)
        line = (
            f"With {winner}, {most} of {n} {images} stay nearest to their own class, with"
            f" {loser} only {least}."
        )
    else:
        line = (
            f"No difference shown: with A, {counts[0]} of {n} {images} stay nearest to their own"
            f" class, with B {counts[1]}."
        )
    return Verdict(line, found.sure, found.winner)


def _protocol(found: FeatureMap) -> tuple[str, float, int]:
    meta = found.meta
    return attack_name(meta["attack"]), float(meta["eps"]), len(found.y)


def sure(sides: Sequence[Side], found: Verdict) -> list[str]:
    """Sentences on what the answer and the maps mean and how they were made, including those of the
    verdict `found`.
    """
    umap = all(side.map.meta["projection"] == "umap" for side in sides)
    flat = (
        "UMAP shows only which points are neighbours"
        if umap
        else "A plane shows only part of the distances"
    )
    return [
        "The sentence above is measured in feature space, not on the map.",
        "Nearest means: the cosine to the own class's clean centre is larger than to any other.",
        f"{flat}: axes, gaps between groups and lengths of lines have no meaning.",
        *(("Positions in A's map and in B's cannot be compared.",) if len(sides) > 1 else ()),
        "A mark is hollow from the strength on at which its image is misclassified.",
        *found.sure,
        *(
            f"{side.side.upper()}'s map has trustworthiness {side.map.trust:.2f} of 1."
            for side in sides
            if not math.isnan(side.map.trust)
        ),
    ]


def first(sides: Sequence[Side], mark: int, template: str = LIGHT) -> Screen:
    """The first screen: the maps of one or two networks. The image with index `mark` has a ring in
    each map, and is displayed below each map with its nearest neighbours. `template`: the theme.
    """
    found = verdict(sides)
    moves: dict[str, tuple[str, Sequence[str]]] = {}
    for side in sides:
        moves[f"count-{side.side}"] = ("text", _counts(side))
        moves[f"mark-{side.side}"] = ("html", ["".join(_mark(side, mark))])
        moves[f"near-{side.side}"] = ("html", ["".join(_strip(side, mark))])
    right = ", ".join(
        f"{side.name} classifies {int((side.map.pred_adv == side.map.y).sum())}" for side in sides
    )
    return Screen(
        answer=[found.line],
        picture=f'{STYLE}<div class="maps">'
        + "".join("".join(_map(side, template)) for side in sides)
        + "</div>",
        alt=(
            "A map of each network's features. A mark is an image, in its class's colour and"
            f" shape, with a line to its attacked position. Of {len(sides[0].map.y)} attacked"
            f" images {right} correctly."
        ),
        sure=sure(sides, found),
        control=WAY,
        moves=moves,
    )


def _counts(side: Side) -> list[str]:
    """How many images are classified correctly at each position of the control, in words. Without
    the pictures only the counts for clean and fully attacked images are known; all positions before
    the full attack then get the clean count.
    """
    n, tiles = len(side.map.y), side.tiles
    if tiles is None:
        right = [int((pred == side.map.y).sum()) for pred in (side.map.pred, side.map.pred_adv)]
        return [f"{right[at == TENTHS]} of {n} classified correctly" for at in range(TENTHS + 1)]
    return [
        f"{int((tiles.lost > at).sum())} of {n} classified correctly" for at in range(TENTHS + 1)
    ]


def _ends(found: FeatureMap) -> Floats:
    """The positions of the clean and the attacked points, (2,n,2), as x and y in pixels of the
    drawing.
    """
    both = np.stack([found.clean, found.adversarial]).astype(float)
    low = both.reshape(-1, 2).min(axis=0)
    extent = np.maximum(np.ptp(both.reshape(-1, 2), axis=0), 1e-9)
    if found.meta["projection"] != "umap":  # a linear plane has one scale for both axes
        extent = np.full(2, max(extent[0], extent[1] * WIDE / HIGH)) * (1, HIGH / WIDE)
    inner = np.array([WIDE, HIGH]) - 2 * EDGE
    at = (both - low) / extent
    at[..., 1] = 1 - at[..., 1]
    return np.asarray(EDGE + at * inner)


def _map(side: Side, template: str) -> Iterator[str]:
    found, letter = side.map, side.side
    names, ends, tiles = list(found.meta["classes"]), _ends(side.map), side.tiles
    if tiles is not None:
        kind = "image/png" if tiles.sheet[:4].tobytes() == b"\x89PNG" else "image/webp"
        yield (
            f"<style>.sheet-{letter} {{ background-image:"
            f" url({uri(tiles.sheet.tobytes(), kind)}) }}</style>"
        )
    yield (
        f'<div class="map"><p class="head"><b class="{letter}">{escape(side.name)}</b>'
        '<span class="faint">hollow: wrong · ring: selected</span>'
        f'<span data-move="count-{letter}"></span></p>'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="group" aria-label="Map of {escape(side.name)}:'
        ' arrow keys go from image to image">'
    )
    ways = "".join(
        f"M{a[0]:.0f} {a[1]:.0f}L{b[0]:.0f} {b[1]:.0f}" for a, b in zip(*ends, strict=True)
    )
    yield f'<path d="{ways}" stroke="var(--faint)" stroke-opacity=".3" fill="none"/><g data-rove>'
    look = looks(found.y, found.pred_adv, found.meta, template)
    for row, label in enumerate(found.y):
        shade, symbol = look.get(int(label), (COLOURS[template]["faint"], "circle"))
        yield "".join(_point(side, row, ends[:, row], shade, symbol))
    yield f'</g><g data-move="mark-{letter}"></g>'
    for label, x, y in _names(found, ends[0], sorted(look)):
        shade, symbol = look[label]
        half = 3.4 * len(names[label]) + 4
        yield (
            f'<path d="{MARKS[symbol]}" fill="{shade}" stroke="var(--paper)" pointer-events="none"'
            f' transform="translate({x - half:.0f} {y - 5:.0f})"/>'
            f'<text x="{x + 4:.0f}" y="{y:.0f}" text-anchor="middle">{escape(names[label])}</text>'
        )
    yield f'</svg><div class="strip" data-move="near-{letter}"></div></div>'


def looks(y: Ints, pred_adv: Ints, meta: JSON, template: str) -> dict[int, tuple[str, str]]:
    """The (colour, symbol) of each class that has its own, by class index. In data with at most ten
    classes, these are the classes in `y`. In data with more, they are up to ten: those whose images
    are most often misclassified under attack, without those that never are. `meta`: of the result.
    """
    shades, count = CLASSES[template], len(meta["classes"])
    if count <= len(shades):
        return {label: (shades[label], SYMBOLS[label]) for label in map(int, np.unique(y))}
    missed = np.bincount(y[y != pred_adv], minlength=count)
    few = sorted(label for label, _ in commonest(missed, len(shades)))
    return {
        label: (shade, symbol) for label, shade, symbol in zip(few, shades, SYMBOLS, strict=False)
    }


def _point(side: Side, row: int, ends: Floats, shade: str, symbol: str) -> Iterator[str]:
    """Yield the SVG of one image's mark, which moves with the control, and of the hollow mark that
    covers it at the strengths at which the image is misclassified. `row`: the image's row in the
    map; `ends` (2,2): its clean and attacked positions.
    """
    found, tiles = side.map, side.tiles
    names, index = list(found.meta["classes"]), int(found.index[row])
    own, read = escape(names[found.y[row]]), escape(names[found.pred_adv[row]])
    said = f"Image {index}: {own}; attacked, {side.side.upper()} predicts {read}"
    cards = ""
    if tiles is not None:
        both = (f"{side.side} {_place(at)}" for at in (row, len(found.y) + row))
        cards = f' data-tiles="{",".join(both)}"'
    yield (
        f'<g class="pt" style="{_moving(ends)}" fill="{shade}" tabindex="{-1 if row else 0}"'
        f' role="button" aria-label="{said}" data-click="{index}" data-card="{said}"{cards}>'
        f'<path d="{MARKS[symbol]}" stroke="var(--paper)" stroke-width=".6"/>'
    )
    lost = int(tiles.lost[row]) if tiles is not None else _lost(found, row)
    if lost <= TENTHS:
        yield (
            f'<g class="f" style="--c:{(lost - 0.5) / TENTHS:.2f}">'
            f'<path d="{MARKS[symbol]}" stroke="{shade}"/></g>'
        )
    yield "</g>"


def _lost(found: FeatureMap, row: int) -> int:
    """From how many tenths of the perturbation on the image in `row` is misclassified, judged only
    by its predictions clean and fully attacked: 0 if both are wrong, `TENTHS` if only the attacked
    one is, `TENTHS` + 1 if the attacked one is right.
    """
    if found.pred_adv[row] == found.y[row]:
        return TENTHS + 1
    return TENTHS if found.pred[row] == found.y[row] else 0


def _moving(ends: Floats) -> str:
    (x, y), (to_x, to_y) = ends
    return f"--p:{x:.1f}px;--q:{y:.1f}px;--x:{to_x - x:.1f}px;--y:{to_y - y:.1f}px"


def _place(tile: int) -> str:
    return f"{tile % COLUMNS} {tile // COLUMNS}"


def _names(
    found: FeatureMap, clean: Floats, labels: Sequence[int]
) -> Iterator[tuple[int, float, float]]:
    """Yields (class, x, y) for each of the classes `labels`: the pixel position of its name. That
    is above the class's most central clean point, inside the drawing, and moved up or down to avoid
    other names as far as `SHIFTS` allows. `clean` (n,2): the clean points in pixels.
    """
    taken: list[tuple[float, float, float]] = []
    for label in labels:
        mine = clean[found.y == label]
        apart = np.linalg.norm(mine[:, None] - mine[None], axis=2).sum(axis=1)
        x, y = (float(value) for value in mine[apart.argmin()])
        half = 4.5 * len(str(found.meta["classes"][label])) + 8
        x = min(max(x, half), WIDE - half)
        tried = [min(max(y - 14 + shift, 14), HIGH - 4) for shift in SHIFTS]
        y = next(
            (
                at
                for at in tried
                if all(abs(x - u) > half + w or abs(at - v) > 15 for u, v, w in taken)
            ),
            tried[0],
        )
        taken.append((x, y, half))
        yield label, x, y


def _mark(side: Side, mark: int) -> Iterator[str]:
    """Yield the ring around the image with index `mark`, and the line along which it moves, as SVG;
    nothing if the image is not in the map.
    """
    rows = np.flatnonzero(side.map.index == mark)
    if len(rows):
        ends = _ends(side.map)[:, rows[0]]
        (x, y), (to_x, to_y) = ends
        yield (
            f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="var(--text)"'
            ' stroke-width="2.5" fill="none" pointer-events="none"/>'
            f'<g class="pt mark" style="{_moving(ends)}" pointer-events="none">'
            '<circle r="11" fill="none"/></g>'
        )


def _strip(side: Side, mark: int) -> Iterator[str]:
    """Yield the HTML of the image with index `mark`, clean and attacked, each with the images whose
    features are nearest to it. If the image is not in the map, or the pictures are missing, yield a
    sentence instead.
    """
    found, tiles = side.map, side.tiles
    rows = np.flatnonzero(found.index == mark)
    if not len(rows):
        yield (
            f"<p>Image {mark} is not among the {len(found.y)} images of this map. Click a point,"
            " or choose more images under Settings.</p>"
        )
        return
    row, names = int(rows[0]), list(found.meta["classes"])
    own, clean, attacked = (
        escape(names[answer[row]]) for answer in (found.y, found.pred, found.pred_adv)
    )
    if tiles is None:
        yield f"<p>Image {mark}, a {own}: classified as {clean}, attacked as {attacked}.</p>"
        return
    for when, read, at, near in (
        ("clean", clean, row, tiles.near[row]),
        ("attacked", attacked, len(found.y) + row, tiles.near_adv[row]),
    ):
        counts = Counter(names[found.y[other]] for other in near)
        beside = ", ".join(f"{count} × {name}" for name, count in counts.most_common(2))
        yield (
            f"<div><p>{when}: predicted <b>{read}</b><span>nearest: {escape(beside)}</span></p>"
            f"{_tile(side.side, at, f'Image {mark}, a {own}, {when}, predicted {read}', 56)} "
        )
        for other in near:
            index, name = int(found.index[other]), escape(names[found.y[other]])
            yield (
                f'<button data-click="{index}" aria-label="Image {index}, a {name}: show it">'
                f"{_tile(side.side, int(other))}</button>"
            )
        yield "</div>"


def _tile(side: str, tile: int, alt: str = "", size: int = 0) -> str:
    """The HTML of the picture with index `tile` in a network's sheet, with the alternative text
    `alt`. `size`: its side in pixels, or 0 for the size that the style sheet sets.
    """
    column, line = _place(tile).split()
    named = f'role="img" aria-label="{alt}"' if alt else 'aria-hidden="true"'
    wide = f";--size:{size}px" if size else ""
    return f'<i class="sheet sheet-{side}" style="--i:{column};--j:{line}{wide}" {named}></i>'
