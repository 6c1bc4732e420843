"""The Attention page's first screen as HTML and SVG: one row per network with its class activation
maps over the untouched and the attacked image, and PART's mask; an answer in one sentence, and how
it was measured.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from robustviz.stats import Bools, Floats, mean_interval
from robustviz.types import eps_text
from robustviz.views.attention.result import METHODS, AttentionLevels, Overlap
from robustviz.views.drawing import uri
from robustviz.views.pictures import png
from robustviz.views.screen import Control, Screen

FOR, AGAINST = (178, 24, 43), (0, 112, 122)  # RGB colours for and against the class
SMOOTH = 32  # fewest cells per side of a smooth map; the browser interpolates further
STYLE = """<style>
.maps { display: grid; gap: .5rem .9rem;
  grid-template-columns: 7.5rem repeat(3, var(--map, 13.2rem)) minmax(9rem, 1fr); }
.presenting { --map: 12.8rem; }
.maps figure { margin: 0; }
.maps figcaption { font-size: .95rem; }
.maps h2 { font-size: 1.05rem; margin: 0; align-self: center; overflow-wrap: anywhere; }
.stack { position: relative; aspect-ratio: 1; overflow: hidden; }
.stack > * { position: absolute; inset: 0; width: 100%; height: 100%; }
.stack .under { filter: grayscale(1); }
.legend { grid-column: 5; grid-row: 1 / span 2; align-self: center; font-size: .95rem; }
.maps .legend p { margin: .5rem 0; }
/* they do not answer the page's question, so they are shown before the reveal, too */
.asking .picture .maps :is(figcaption, svg, .legend) { visibility: visible; }
.legend i { display: inline-block; width: 1em; height: 1em; border-radius: .15em; }
@container (max-width: 62rem) {
  .maps { grid-template-columns: repeat(3, minmax(0, var(--map, 13.2rem))); }
  .maps h2, .legend { grid-column: 1 / -1; grid-row: auto; }
  .maps figcaption { font-size: .85rem; }
}
</style>"""


def screen(
    results: Mapping[str, AttentionLevels],
    control: Control,
    *,
    many: Mapping[str, Overlap] | None = None,
    draw: str = "smooth",
    low: str = "7/8 ε",
) -> Screen:
    """Returns the Attention page's first screen for one or two networks; the keys of `results` are
    the networks' names, which begin with A and B.

    `control`: the slider, with a position for each of a result's `levels`; `many`: overlaps on many
    images, of the networks for which they are known; `draw`: how the maps are drawn, `smooth` or
    `cells` (both over the image) or `alone` (smooth, without the image); `low`: as text, the radius
    that PART gives to the less important pixels.
    """
    first = next(iter(results.values()))
    positions, rows = range(len(first.levels)), []
    moves: dict[str, tuple[str, list[str]]] = {}
    for name, result in results.items():
        side, heat = name[:1].lower(), _maps(result, draw)
        rows.append(_row(name, result, heat, draw))
        pictures = [uri(png(result.picture(at), max(first.x.shape[1:]))) for at in positions]
        spots = [_spot(result, at) for at in positions]
        moves |= {
            f"{side}-image": ("src", pictures),
            f"{side}-map": ("src", heat),
            f"{side}-spot": ("transform", [place for place, _ in spots]),
            f"{side}-seen": ("visibility", [seen for _, seen in spots]),
            f"{side}-said": ("text", [said(result, at) for at in positions]),
        }
    classes, label = first.meta["classes"], int(first.label[0])
    whose = classes[label] if first.meta["of"] == "true" else "the predicted class"
    return Screen(
        answer=[answer(results, at) for at in positions],
        picture=f'{STYLE}<div class="maps">{"".join(rows)}{_legend(first, whose, low)}</div>',
        alt=f"Class activation maps over test image {first.meta['index']}, untouched and"
        f" attacked, of {' and '.join(results)}, and the pixels that PART marks as"
        " important.",
        sure=sure(results, many or {}),
        control=control,
        moves=moves,
    )


def said(result: AttentionLevels, at: int) -> str:
    """Returns the caption of the image at the level with index `at`: whether it is attacked, ✓ or ✗
    for right or wrong, the predicted class and its softmax output.
    """
    probs = result.probs[at]
    best = int(probs.argmax())
    sign = "✓" if best == result.y else "✗"
    treated = "attacked" if result.levels[at] else "untouched"
    return f"{treated}: {sign} {result.meta['classes'][best]} {probs[best]:.0%}"


def _row(name: str, result: AttentionLevels, heat: list[str], draw: str) -> str:
    """Returns one network's row as HTML: its name, the map of the untouched image, that of the
    attacked image, which changes with the slider, and PART's mask of the untouched image. `heat`:
    the maps of all levels as data URIs.
    """
    important = result.mask.reshape(-1, *result.x.shape[1:])
    dark = result.picture(0) * np.where(important, 1.0, 0.25)
    budget = uri(png(dark, max(dark.shape[1:])))
    # a colour that is visible where the image is dark too
    border = _lines(_outline(np.asarray(important.any(0))), "#FFE14D")
    share = f"{result.mask.mean():.0%}"
    return (
        f'<h2 class="{name[:1].lower()}">{escape(name)}</h2>'
        f"{_tile(name, result, 0, heat, draw)}{_tile(name, result, result.usual, heat, draw)}"
        f'<figure><div class="stack" role="img" aria-label="{escape(name)}: {share} of the pixels'
        f' are important to PART"><img src="{budget}" alt="">{_marks(result, border)}</div>'
        f"<figcaption>PART: full ε on {share}, bright</figcaption></figure>"
    )


def _tile(name: str, result: AttentionLevels, at: int, heat: list[str], draw: str) -> str:
    """Returns the map of the level with index `at` over the image at this level, as HTML. If `at`
    is not 0, the slider replaces both; if it is 0, they show the untouched image at every position.
    `heat`: the maps of all levels as data URIs.
    """
    side, size = name[:1].lower(), max(result.x.shape[1:])

    def moves(*parts: str) -> str:
        return f' data-move="{" ".join(f"{side}-{part}" for part in parts)}"' if at else ""

    image, (place, seen) = uri(png(result.picture(at), size)), _spot(result, at)
    under = f'<img class="under" src="{image}" alt=""{moves("image")}>' * (draw != "alone")
    ring = f'<g transform="{place}" visibility="{seen}"{moves("spot", "seen")}>{_ring(size)}</g>'
    return (
        f'<figure><div class="stack" role="img" aria-label="{escape(name)}: map of the'
        f' {"attacked" if at else "untouched"} image">{under}<img'
        f' class="{"" if draw == "cells" else "smooth"}" src="{heat[at]}" alt=""{moves("map")}>'
        f"{_marks(result, ring)}</div>"
        f"<figcaption{moves('said')}>{escape(said(result, at))}</figcaption></figure>"
    )


def _legend(first: AttentionLevels, whose: str, low: str) -> str:
    colours = (
        f'<p><i style="background:rgb{FOR}"></i> red: evidence for {escape(whose)}</p>'
        f'<p><i style="background:rgb{AGAINST}"></i> teal: evidence against it</p>'
    )
    if first.meta["cam"] == "eigen_cam":
        colours = (
            "<p>EigenCAM is not computed for a class, and the sign of its values has no"
            " meaning.</p>"
        )
    outline = "<p>Line: the object's outline.</p>" if first.object.size else ""
    return (
        f'<div class="legend">{colours}<p>Ring: the hottest spot.</p>{outline}'
        "<p>Third picture: PART allows the full ε inside the yellow line,"
        f" {escape(low)} outside.</p>"
        "<p>Colour scales differ between networks.</p></div>"
    )


# Pictures.


def enlarged(heat: Floats, rows: int, columns: int) -> Floats:
    """Returns the map `heat` (h,w) enlarged to (rows, columns) by bicubic interpolation
    (Catmull–Rom), with the cells at the border repeated beyond it.
    """
    return _cubic(heat.shape[0], rows) @ heat @ _cubic(heat.shape[1], columns).T


def _cubic(count: int, wanted: int) -> Floats:
    """Returns interpolation weights (wanted, count): how much each of the `count` cells of a row
    adds to each of the `wanted` cells of the enlarged row.
    """
    at = (np.arange(wanted) + 0.5) * count / wanted - 0.5
    weights = np.zeros((wanted, count))
    for shift in range(-1, 3):
        cell = np.floor(at).astype(int) + shift
        far = np.abs(at - cell)
        near = 1.5 * far**3 - 2.5 * far**2 + 1
        outer = -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2
        value = np.where(far <= 1, near, np.where(far < 2, outer, 0))
        np.add.at(weights, (np.arange(wanted), cell.clip(0, count - 1)), value)
    return weights


def _maps(result: AttentionLevels, draw: str) -> list[str]:
    """Returns the maps of all levels as data URIs, all on the same colour scale: with `draw` =
    `cells` as they are, otherwise enlarged smoothly to at least `SMOOTH` cells per side.
    """
    most = float(np.abs(result.heat).max()) or 1.0
    sides = (max(SMOOTH, side) for side in result.heat.shape[1:])
    rows, columns = result.heat.shape[1:] if draw == "cells" else tuple(sides)
    return [
        uri(tinted(each if draw == "cells" else enlarged(each, rows, columns), most))
        for each in result.heat
    ]


def tinted(heat: Floats, most: float) -> bytes:
    """Returns a signed map (h,w) as PNG bytes: red above 0, teal below, and the more transparent
    the nearer to 0. Values beyond ±`most` look like ±`most`.
    """
    level = np.rint(np.clip(heat / most, -1, 1) * 63).astype(int) + 64  # 1 to 127; 64 stands for 0
    strength = np.abs(np.arange(128) - 64) / 63
    palette = bytes(channel for k in range(128) for channel in (FOR if k >= 64 else AGAINST))
    clear = np.rint(255 * 0.85 * np.minimum(strength, 1) ** 1.25).astype(np.uint8).tobytes()
    lines = np.zeros((len(level), 1 + level.shape[1]), np.uint8)
    lines[:, 1:] = level
    height, width = level.shape
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"tRNS", clear),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _outline(known: Bools) -> str:
    """Returns the border of a mask as an SVG path in pixel coordinates; "" for an empty mask."""
    inside = np.pad(known.astype(bool), 1)
    flat = np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])
    upright = np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])
    return "".join(
        [f"M{column} {row}h1" for row, column in flat]
        + [f"M{column} {row}v1" for row, column in upright]
    )


def _marks(result: AttentionLevels, more: str) -> str:
    """Returns an SVG to lay over the image: the object's outline, if known, and `more` SVG."""
    height, width = result.x.shape[1:]
    lines = _lines(_outline(result.object), "#FFFFFF")
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{lines}{more}</svg>'


def _lines(path: str, colour: str) -> str:
    """Returns a path as SVG, drawn in `colour` over a wider dark line: visible on any picture."""
    return "".join(
        f'<path d="{path}" fill="none" stroke="{stroke}" stroke-width="{wide}"'
        ' stroke-linecap="square" vector-effect="non-scaling-stroke"/>'
        for stroke, wide in (("#10161F", 4), (colour, 2))
        if path
    )


def _ring(size: int) -> str:
    return "".join(
        f'<circle r="{size / 20}" fill="none" stroke="{colour}" stroke-width="{wide}"'
        ' vector-effect="non-scaling-stroke"/>'
        for colour, wide in (("#10161F", 7), ("#FFE14D", 3.5))
    )


def _spot(result: AttentionLevels, at: int) -> tuple[str, str]:
    """Returns, for the level with index `at`, the position of the ring around the map's hottest
    pixel as an SVG transform, and the ring's SVG visibility: `hidden` if the map has no hottest
    pixel.
    """
    row, column = result.hottest[at]
    if math.isnan(row):
        return "translate(0 0)", "hidden"
    return f"translate({column + 0.5:.1f} {row + 0.5:.1f})", "visible"


# Words.


def answer(results: Mapping[str, AttentionLevels], at: int) -> str:
    """Returns the screen's one-sentence answer for the level with index `at`. At ε = 0 it says
    whether the hottest spots of the maps lie on the object, and at other ε how the attack moves
    them. At ε = 0 on data without object masks it asks the user to move the slider.
    """
    letters, every = [name[:1] for name in results], list(results.values())
    phrases = [_phrase(result, at) for result in every]
    if not every[0].levels[at]:
        known = every[0].object.size > 0
        if not known:
            return "ε is 0, so the image is unchanged: move the slider to attack it."
        when, tail = "Untouched", ""
    else:
        when, tail = "On this image", " under attack"
    (one, many), *rest = phrases
    if rest and rest[0] == phrases[0]:
        return f"{when}, both hottest spots {many}{_fading(letters, every, at) or tail}."
    other = f"; {letters[1]}'s {_short(rest[0][0])}" if rest else ""
    return f"{when}, {letters[0]}'s hottest spot {one}{tail}{other}."


def _phrase(result: AttentionLevels, at: int) -> tuple[str, str]:
    """Returns what the hottest spot does at the level with index `at`, as a verb phrase in the
    singular and in the plural.
    """
    was, now = (_state(result, k) for k in (0, at))
    if now == "nowhere":
        return ("is nowhere", "are nowhere") if was == now else ("vanishes", "vanish")
    if not result.object.size:
        far = result.moved(at)
        if math.isnan(far):
            return "appears", "appear"
        pixels = round(far)
        if not pixels:
            return "stays in place", "stay in place"
        unit = "pixel" if pixels == 1 else "pixels"
        return f"moves by {pixels} {unit}", f"move by {pixels} {unit}"
    if not result.levels[at]:
        return f"lies {now} the object", f"lie {now} the object"
    if was == "nowhere":
        return f"appears {now} the object", f"appear {now} the object"
    if was == now:
        cell = max(np.divide(result.x.shape[1:], result.heat.shape[1:]))
        if now == "beside" and result.moved(at) > cell:  # by more than a cell
            return "moves elsewhere beside the object", "move elsewhere beside the object"
        return f"stays {now} the object", f"stay {now} the object"
    moved = "moves onto the object" if now == "on" else "leaves the object"
    return moved, moved.replace("moves", "move").replace("leaves", "leave")


def _fading(letters: Sequence[str], results: Sequence[AttentionLevels], at: int) -> str:
    """Returns an addition to the sentence about two networks: each map's largest value under
    attack, in percent of the largest value of the untouched image's map. Empty for the untouched
    image, and if a map has no hottest pixel or no positive value.
    """
    heights = [(float(one.heat[0].max()), float(one.heat[at].max())) for one in results]
    nowhere = any(np.isnan(one.hottest[[0, at]]).any() for one in results)
    if nowhere or not results[0].levels[at] or min(map(min, heights)) <= 0:
        return ""
    (one, a), (two, b) = (
        ("fades" if now <= was else "grows", f"{now / was:.0%}") for was, now in heights
    )
    return (
        f"; {letters[0]}'s {one} to {a} of its untouched value,"
        f" {letters[1]}'s{f' {two}' * (two != one)} to {b}"
    )


def _short(phrase: str) -> str:
    return phrase.replace("the object", "it")


def _state(result: AttentionLevels, at: int) -> str:
    """Returns where the hottest spot is at the level with index `at`: `on` the object (at least
    half of the hottest pixels are), `beside` it, or `nowhere` if the map has no hottest pixel.
    """
    if math.isnan(result.hottest[at, 0]):
        return "nowhere"
    return "on" if result.on[at] >= 0.5 else "beside"


def sure(results: Mapping[str, AttentionLevels], many: Mapping[str, Overlap]) -> list[str]:
    """Returns sentences on how certain the screen's answer is and how it was measured: the results
    on many images (`many`, which may be empty), the rank correlation of the untouched and the
    attacked image's map, the CAM method, and the attack.
    """
    first = next(iter(results.values()))
    meta, at = first.meta, first.usual
    correlations = [
        f"{result.drift[at]:.2f}".replace("-", "−") + f" for {name[:1]}"
        for name, result in results.items()
        if math.isfinite(result.drift[at])
    ]
    unknown = "Object masks exist only for the data set shapes."
    grid = "×".join(map(str, first.heat.shape[1:]))
    several = [sentence for name, result in many.items() for sentence in _on_many(name, result)]
    several += [
        f"A random guess lies on it in {result.guess('pointing'):.0%}."
        for result in [*many.values()][:1]
    ]
    alone = "This is one image; you can measure many under More."
    return [
        *(several if many else [alone] if first.object.size else [unknown]),
        "A map is evidence, not proof: compare it with random weights (Settings).",
        *(
            [
                f"Rank correlation of untouched and attacked map at {eps_text(first.eps)}:"
                f" {', '.join(correlations)}."
            ]
            if correlations
            else []
        ),
        "A spot is on the object where at least half of its hottest pixels are.",
        f"{METHODS[meta['cam']]}, {grid} cells, {meta['of']} class; rule of the mask:"
        f" {meta['rule']}.",
        f"{meta['attack']}, seed {meta['seed']}, test image {meta['index']}; one training seed"
        " per network.",
    ]


def _on_many(name: str, result: Overlap) -> Sequence[str]:
    letter, (untouched, attacked) = name[:1], result.pointing[:2]
    _, low, high = (100 * value for value in mean_interval(attacked - untouched))
    shares = f"in {untouched.mean():.0%} untouched and {attacked.mean():.0%} attacked"
    moved = f"95% interval of the change: {low:+.0f} to {high:+.0f} percentage points".replace(
        "-", "−"
    )
    shown = "" if low > 0 or high < 0 else ", so no difference is shown"
    return (
        f"On {len(untouched)} test images {letter}'s hottest spot lies on the object {shares}.",
        f"For {letter}, {moved}{shown}.",
    )
