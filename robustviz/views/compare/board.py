"""The scoreboard as a first screen: a mark for each network, with its clean accuracy on the x axis
and its accuracy under attack on the y axis, and a slider that adds one attack after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape

from robustviz.stats import wilson
from robustviz.types import eps_text
from robustviz.views.compare.scores import Board, Score
from robustviz.views.drawing import Plot
from robustviz.views.screen import Control, Screen

# different from A's blue and B's orange; contrast at least 3:1 on a light and a dark background
HUES = {
    "grey": "#7A8798",
    "red": "#C8504F",
    "green": "#2A8C6C",
    "violet": "#8A6FD1",
    "olive": "#8A7A1F",
    "pink": "#C05A9E",
    "brown": "#9A6B4F",
}
# Methods that build on one another have the same colour and different shapes.
MARKS = {
    "standard": ("grey", "circle"),
    "supcon_margin": ("grey", "star"),
    "model_alignment": ("grey", "cross"),
    "fgsm_at": ("red", "circle"),
    "fgsm_rs": ("red", "square"),
    "pgd_at": ("green", "circle"),
    "part": ("green", "diamond"),
    "sip_at": ("green", "down"),
    "trades": ("violet", "circle"),
    "part_t": ("violet", "diamond"),
    "afa_trades": ("violet", "star"),
    "mart": ("olive", "circle"),
    "part_m": ("olive", "diamond"),
    "alp": ("pink", "circle"),
    "aalp": ("pink", "square"),
    "afa": ("brown", "star"),
}
OTHER = ("brown", "down")  # for methods not listed above
SHAPES = {  # SVG outlines of about the same area, centred on (0, 0)
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0 -2 0Z",
    "square": "M-.9 -.9H.9V.9H-.9Z",
    "diamond": "M0 -1.3L1.2 0L0 1.3L-1.2 0Z",
    "down": "M-1.2 -.9H1.2L0 1.3Z",
    "cross": "M-1 -.4L-.4 -1L0 -.6L.4 -1L1 -.4L.6 0L1 .4L.4 1L0 .6L-.4 1L-1 .4L-.6 0Z",
    "star": "M"
    + "L".join(
        f"{(1.4 if at % 2 == 0 else 0.6) * math.sin(at * math.pi / 5):.2f}"
        f" {-(1.4 if at % 2 == 0 else 0.6) * math.cos(at * math.pi / 5):.2f}"
        for at in range(10)
    )
    + "Z",
}
# Networks with less than this share of the best clean accuracy are drawn at the left edge.
LEAST = 0.5
STYLE = """<style>
.board { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: flex-start }
.board .key { columns: 2; column-gap: 1rem; margin: 0; padding: 0;
  list-style: none; flex: 1 1 15rem; font-size: .9rem }
.board .key li { break-inside: avoid; display: flex; gap: .4rem; align-items: center }
.board .key svg { flex: none } .net { cursor: pointer } .net .mark { stroke-width: .25 }
.net.apart .mark { fill: var(--paper); stroke: currentColor; stroke-width: .5 }
.net .span { stroke: currentColor; opacity: .35; stroke-width: 1.5; fill: none }
.ring { fill: none; stroke-width: 3 }
.net:is(:focus-visible, :hover) .mark { stroke: var(--text);
  stroke-width: .5 } .net :is(text, .span, .ring) { pointer-events: none }
.net .note { font-size: 12px; fill: var(--text) }
.tip { display: none; pointer-events: none }
.tip rect { fill: var(--paper); stroke: var(--faint) }
</style>"""


@dataclass(frozen=True)
class Name:
    """The printed names of a network (`whole`) and of its method (`method`)."""

    whole: str
    method: str


def mark(key: str) -> tuple[str, str]:
    """The colour (`#RRGGBB`) and the shape (a key of `SHAPES`) of a method's mark."""
    hue, shape = MARKS.get(key, OTHER)
    return HUES[hue], shape


def radius(trained: float) -> float:
    """The radius of a mark: from 5 pixels for the training ε 0 to 9 for 32/255 and above.
    `trained`: the training ε, for pixels in [0, 1].
    """
    return 5 + 4 * min(1.0, math.sqrt(trained * 255 / 32))


def answers(board: Board, a: str, b: str) -> list[str]:
    """For every position of the slider, the text that compares the runs with ids `a` and `b`. If
    `b` is empty, the texts are about the run `a` alone.
    """
    verdicts = [board.verdict(a, b, at) for at in range(len(board.attacks) + 1)]
    said = " Each has one training seed." if b and a != b else ""
    return [verdict.line + said * bool(verdict.sure) for verdict in verdicts]


def first(
    board: Board, names: Mapping[str, Name], a: str, b: str, images: Mapping[int, str] | None = None
) -> Screen:
    """The scoreboard as a first screen, with the runs of ids `a` and `b` marked as A and B.
    `names`: the printed names by run id. `images`: some clean test images as `data:` URIs, by
    index; a mark's tooltip shows the first on which an attack fools the network (`lost`).
    """
    last = len(board.attacks)
    moves: dict[str, tuple[str, list[str]]] = {}
    pictures = [
        _chart(board, names, (a, b), images or {}, moves, prefix, *size)
        for prefix, size in (("w", (860, 440)), ("s", (380, 400)))
    ]
    verdict = board.verdict(a, b, last)
    return Screen(
        answer=answers(board, a, b),
        picture=f'{STYLE}<div class="board"><div class="wide">{pictures[0]}</div>'
        f'<div class="small">{pictures[1]}</div>{_key(board, names)}</div>',
        alt=f"{len(board.scores)} networks: clean accuracy across, accuracy under attack up.",
        sure=(
            *verdict.sure,
            f"The attacks: {', '.join(board.attacks)}.",
            f"Vertical axis: share of {board.n} images right under all attacks up to the control.",
            "Horizontal axis: accuracy on all untouched test images that were evaluated.",
            "Crosses: 95% intervals over images (Wilson) of one network, not of its method.",
            "Hollow marks have other images, another ε or fewer attacks: do not compare their"
            " heights.",
            "A larger mark was trained at a larger ε.",
        ),
        control=Control(
            "Attacks so far",
            ("none", *board.attacks),
            last,
            "attacks",
            "Each position adds an attack; an image counts only if it is right under all of them.",
        ),
        moves=moves,
    )


def _share(pair: tuple[int, int]) -> float:
    return pair[0] / max(pair[1], 1)


def _axes(board: Board, width: int, height: int) -> Plot:
    clean = [one.plain.clean_acc for one in board.scores.values()]
    best = max(clean, default=1)
    low = math.floor(20 * min((each for each in clean if each >= LEAST * best), default=0) - 0.4)
    high = min(20, math.ceil(20 * best + 0.4))  # both in twentieths
    step = 1 if high - low <= 6 else 2
    marks = [at / 20 for at in range(low + low % step, high + 1, step)]
    return Plot(
        width,
        height,
        (low / 20, high / 20 + 0.005),
        (-0.02, 1.02),
        "accuracy on untouched images",
        "right under the attacks so far",
        [(value, f"{value:.0%}") for value in marks],
        [(value, f"{value:.0%}") for value in (0, 0.25, 0.5, 0.75, 1)],
        left=72,
    )


def _chart(
    board: Board,
    names: Mapping[str, Name],
    sides: tuple[str, str],
    images: Mapping[int, str],
    moves: dict[str, tuple[str, list[str]]],
    prefix: str,
    width: int,
    height: int,
) -> str:
    """The chart in one size, as SVG with styles. What the slider changes is added to `moves`.
    `sides`: the run ids of A and B; `prefix`: makes the ids of this chart's elements unique.
    """
    plot, tips, rules = _axes(board, width, height), [], []
    positions = range(len(board.attacks) + 1)
    # A's letter is left of its ring if A is left of B, so that no letter stands on the other's ring
    clean = [board.scores[side].plain.clean_acc for side in sides if side in board.scores]
    outward = -1 if clean == sorted(clean) else 1
    # A and B last, so that they are drawn on top
    order = sorted(board.scores.values(), key=lambda one: (one.run.id in sides, -one.trained))
    for number, one in enumerate(order):
        name = f"{prefix}{number}"
        counts = [board.counted(one, at) for at in positions]
        x = plot.px(max(plot.x[0], one.plain.clean_acc))
        moves[f"{name}-at"] = (
            "transform",
            [f"translate({x:g} {plot.py(_share(pair)):g})" for pair in counts],
        )
        moves[f"{name}-span"] = ("d", [_span(plot, one, x, pair) for pair in counts])
        moves[f"k{number}"] = ("text", [_kept(board, one, at) for at in positions])
        moves[f"c{number}"] = (
            "class",
            ["net" + " apart" * (not board.alike(one, board.attacks[:at])) for at in positions],
        )
        plot.parts.append(
            _mark(one, names[one.run.id], sides, outward, name, number, plot, board.on.eps)
        )
        tips.append(_tip(plot, one, names[one.run.id], name, number, x, images))
        rules.append(f"svg:has(#{name}:is(:hover, :focus-visible)) #{name}-tip")
    shown = f"<style>{', '.join(rules)} {{ display: block }}</style>"
    once = "".join(
        f'<image id="{prefix}-image-{at}" href="{address}" width="56" height="56"'
        ' style="image-rendering:pixelated"/>'
        for at, address in images.items()
    )
    plot.parts += [f"<defs>{once}</defs>", *tips]
    return shown + plot.html("networks").replace('role="img"', 'role="group"', 1)


def _span(plot: Plot, one: Score, x: float, pair: tuple[int, int]) -> str:
    """The SVG path of the cross around a mark: the 95% intervals of both accuracies.
    Coordinates are relative to the mark, which is at `x` pixels. `pair`: (right, attacked), the
    numbers of images. A network too inaccurate for the x axis has no horizontal interval.
    """
    low, high = wilson(*pair)
    left, right = wilson(one.plain.clean_k, one.plain.n)
    y = plot.py(_share(pair))
    ends = (plot.px(min(max(plot.x[0], value), plot.x[1])) - x for value in (left, right))
    across = "M{:.1f} 0H{:.1f}".format(*ends) if one.plain.clean_acc >= plot.x[0] else ""
    return f"{across}M0 {plot.py(low) - y:.1f}V{plot.py(high) - y:.1f}"


def _kept(board: Board, one: Score, at: int) -> str:
    """The tooltip's line on how many images are right at the slider position with index `at`."""
    k, n = board.counted(one, at)
    if not at:
        return f"{k} of {n} right, not attacked"
    apart = "" if board.alike(one, board.attacks[:at]) else ": not comparable"
    return f"{k} of {n} right at ε = {eps_text(one.on.eps).split(' ')[0]}{apart}"


def _notes(one: Score, plot: Plot, usual: float) -> list[str]:
    """The notes beside a mark: its clean accuracy if that is too low for the x axis, its ε if that
    is not the board's (`usual`; wide chart only), and `yours` for a network that is not shipped.
    """
    clean = one.plain.clean_acc
    return [
        *([f"only {clean:.0%} untouched"] if clean < plot.x[0] else []),
        # not in the narrow chart, which has no room; the mark is hollow anyway
        *(
            [f"at {eps_text(one.on.eps).split(' ')[0]}"]
            if one.on.eps != usual and plot.width > 500
            else []
        ),
        *([] if one.run.shipped else ["yours"]),
    ]


def _mark(
    one: Score,
    name: Name,
    sides: tuple[str, str],
    outward: int,
    own: str,
    number: int,
    plot: Plot,
    usual: float,
) -> str:
    """The SVG of one mark. `outward`: on which side of its ring A's letter stands, -1 for left and
    1 for right; B's is on the other side.
    """
    colour, shape = mark(one.run.method_key)
    size = radius(one.trained)
    rings = "".join(
        f'<circle class="ring" r="{size + 6 + 4 * at:g}" stroke="var(--{letter})"/>'
        f'<text x="{sign * (size + 11 + 4 * at):g}" y="5" style="fill:var(--{letter});'
        f'font-weight:700" text-anchor="{"end" if sign < 0 else "start"}">{letter.upper()}</text>'
        for at, letter, run_id, sign in zip((0, 1), "ab", sides, (outward, -outward), strict=True)
        if run_id == one.run.id
    )
    # At a small ε a mark is high up: its notes stand above it, away from those of other marks.
    beside, above = size + 8 if rings else 12, one.on.eps < usual / 2
    notes = "".join(
        f'<text x="{beside:g}" y="{14 * at + (-beside if above else beside + 4):g}"'
        f' class="note">{note}</text>'
        for at, note in enumerate(_notes(one, plot, usual))
    )
    said = f"{name.whole}: {one.plain.clean_k} of {one.plain.n} right untouched"
    return (
        f'<g id="{own}" data-move="{own}-at c{number}" class="net" tabindex="0" role="button"'
        f' data-click="{escape(one.run.id)}" aria-label="{escape(said)}" style="color:{colour}">'
        f'<path class="span" data-move="{own}-span" d=""/><circle r="11" fill="transparent"/>'
        f'{rings}<path class="mark" d="{SHAPES[shape]}" transform="scale({size:g})" fill="{colour}"'
        f' stroke="var(--paper)"/>{notes}</g>'
    )


def lost(one: Score, among: Iterable[int]) -> int | None:
    """The index of the first image, of those with the indices `among`, on which an attack fools the
    network: it is right without an attack, and wrong under at least one of its attacks. None if
    there is no such image.
    """
    clean, kept = one.right([]), one.right()
    return next((at for at in among if at < len(kept) and clean[at] and not kept[at]), None)


def _tip(
    plot: Plot, one: Score, name: Name, own: str, number: int, x: float, images: Mapping[int, str]
) -> str:
    """The tooltip of a mark: names, numbers of images right, and an image on which it is fooled.
    It is placed to the right of the mark, or to the left if there is no room.
    """
    words = [name.method, *_rest(name), f"{one.plain.clean_k} of {one.plain.n} right untouched"]
    shown = lost(one, images)
    text = 20 + 7.2 * max(*map(len, words), 34)
    wide = text + 84 * (shown is not None)
    left = min(max(0.0, x + 18 if x + 18 + wide < plot.width else x - wide - 18), plot.width - wide)
    tall = 12 + 19 * (len(words) + 1)
    lines = "".join(
        f'<text x="10" y="{20 + 19 * at}"{bold}>{escape(line)}</text>'
        for at, (line, bold) in enumerate(
            (line, ' font-weight="700"' if at == 0 else "") for at, line in enumerate(words)
        )
    )
    picture = (
        ""
        if shown is None
        else f'<use href="#{own[0]}-image-{shown}" x="{text + 8:g}" y="8"/>'
        f'<text x="{text + 8:g}" y="79" class="note">fooled: {shown}</text>'
    )
    return (
        f'<g id="{own}-tip" class="tip" transform="translate({left:g} {plot.height / 2 - tall:g})">'
        f'<rect width="{wide:g}" height="{tall}" rx="6"/>{lines}<text x="10"'
        f' y="{20 + 19 * len(words)}" data-move="k{number}"></text>{picture}</g>'
    )


def _rest(name: Name) -> list[str]:
    rest = name.whole.removeprefix(name.method).strip(" ·")
    return [rest] if rest else []


def _spot(size: int, hollow: str = "") -> str:
    fill = 'fill="none" stroke="currentColor" stroke-width="3"' if hollow else 'fill="currentColor"'
    return (
        f'<svg width="22" height="22" viewBox="-11 -11 22 22" aria-hidden="true">'
        f'<circle r="{size}" {fill}/></svg>'
    )


def _key(board: Board, names: Mapping[str, Name]) -> str:
    """The legend as an HTML list: the methods' marks, and what hollow and large marks mean."""
    there = {one.run.method_key: names[one.run.id].method for one in board.scores.values()}
    order: Callable[[str], int] = [*MARKS, *there].index
    rows = "".join(
        f'<li><svg width="22" height="22" viewBox="-1.6 -1.6 3.2 3.2" aria-hidden="true">'
        f'<path d="{SHAPES[shape]}" fill="{colour}"/></svg>{escape(there[key])}</li>'
        for key in sorted(there, key=order)
        for colour, shape in [mark(key)]
    )
    rows += (
        f"<li>{_spot(4, 'hollow')}hollow: another ε or fewer attacks, not comparable</li>"
        f"<li>{_spot(5)}{_spot(9)}trained at a small, a large ε</li>"
    )
    return f'<ul class="key" aria-label="Methods">{rows}</ul>'
