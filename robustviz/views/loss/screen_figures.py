"""The two first screens of the Loss page, as SVG: each network along its own worst direction, and
what an alignment changed around one image.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from robustviz.stats import Floats
from robustviz.types import eps_text
from robustviz.views.drawing import Plot, tile, uri
from robustviz.views.loss.result import WorstDirection, soft_label
from robustviz.views.pictures import png
from robustviz.views.screen import Control, Screen

# Cividis in ten steps with sharp edges: each colour is an interval of losses, as in the legend.
COLOURS = (
    *("#00224E", "#123570", "#3B496C", "#575D6D", "#707173"),
    *("#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838"),
)
# The true class's probability at the edges between colours; the loss is −log of it.
SHARES = np.array((0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.01, 0.0001))
NAMES = (
    *("0.01 (99%)", "0.05 (95%)", "0.1 (90%)", "0.3 (75%)", "0.7 (50%)"),
    *("1.4 (25%)", "2.3 (10%)", "4.6 (1%)", "9.2"),
)
TEMPERATURES = range(1, 21)
POSITIONS = 80  # slider positions at most
SIDE, PANEL = 330, 190  # a map's side in pixels, on the first and on the second screen
SHOWN = 8  # classes of a soft label that are drawn
FINE = 4  # how many times finer the grid is on which the boundary is drawn
TARGETS = ("to the true class", "to the soft label")


def enlarged(values: Floats, side: int, *, pixels: bool = False) -> Floats:
    """Interpolate values (G,G) to (side, side) points with cubics, as float32. By default the
    outermost points lie on the outermost values. With `pixels`, the points are instead the centres
    of the pixels of a picture whose corners lie on the corner values.
    """
    n = len(values)
    image = Image.fromarray(values.astype(np.float32))
    edge = 0 if pixels else (n - 1) / (side - 1) / 2
    box = (0.5 - edge, 0.5 - edge, n - 0.5 + edge, n - 0.5 + edge)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box))


def bands(values: Floats, edges: Floats, side: int) -> bytes:
    """Draw values (G,G) as filled contours between the ascending `edges` (9,). Returns the bytes of
    a PNG of `side` × `side` pixels. The rows of `values` run along x, the columns along y, upwards.
    """
    colour = np.searchsorted(edges, enlarged(values.T[::-1], side, pixels=True)).astype(np.uint8)
    picture = Image.fromarray(colour, "P")
    picture.putpalette(bytes.fromhex("".join(COLOURS).replace("#", "")))
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def zero_line(z: Floats) -> Floats:
    """Find where values (N,M) cross 0. Returns the line as segments (S,2,2), each between two
    points (row, column) in units of the grid, found by marching triangles.
    """
    i, j = (at.ravel() for at in np.indices((z.shape[0] - 1, z.shape[1] - 1)))
    corner = np.array(
        [
            [np.r_[i, i + 1], np.r_[i + 1, i + 1], np.r_[i, i]],
            [np.r_[j, j + 1], np.r_[j, j], np.r_[j + 1, j + 1]],
        ]
    ).transpose(2, 1, 0)  # (triangles, 3, 2)
    ends = np.roll(corner, -1, axis=1)
    here, there = z[corner[..., 0], corner[..., 1]], z[ends[..., 0], ends[..., 1]]
    crossed = (here > 0) != (there > 0)
    part = np.where(crossed, here / np.where(crossed, here - there, 1), 0)[..., None]
    return np.asarray((corner + part * (ends - corner))[crossed].reshape(-1, 2, 2))


def _map(
    result: WorstDirection, picture: bytes, plot: Plot, *, walks: str = "", moves: str = ""
) -> Plot:
    """Add to `plot` the map `picture`, a PNG, with the decision boundary and a ring for the image.
    Returns `plot`.

    `walks`: the side, `a` or `b`, of the dot on the line along d that the screen's slider moves;
    empty: no dot and no line. `moves`: the name in `Screen.moves` under which the slider exchanges
    the picture; empty: it does not.
    """
    (left, right), (low, high) = plot.x, plot.y
    box = plot.px(left), plot.py(high)
    size = plot.px(right) - box[0], plot.py(low) - box[1]
    named = f' data-move="{moves}"' if moves else ""
    plot.parts.append(
        f'<image href="{uri(picture)}" x="{box[0]}" y="{box[1]}" width="{size[0]}"'
        f' height="{size[1]}" preserveAspectRatio="none"{named}/>'
    )
    fine = (len(result.a) - 1) * FINE + 1
    steps = np.array(size) / (fine - 1)
    path = "".join(
        f"M{box[0] + x:.1f} {box[1] + size[1] - y:.1f}L{box[0] + u:.1f} {box[1] + size[1] - v:.1f}"
        for (x, y), (u, v) in zero_line(enlarged(result.margin, fine)) * steps
    )
    plot.parts += [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
        ' stroke-linecap="round"/>'
        for colour, width in (("#10161F", 6), ("#FFFFFF", 2.5))
    ]
    ring = 'stroke="#10161F" stroke-width="5"', 'stroke="#FFFFFF" stroke-width="2.5"'
    x, y = plot.px(0), plot.py(0)
    plot.parts += [f'<circle cx="{x}" cy="{y}" r="7" fill="none" {each}/>' for each in ring]
    if walks:
        plot.parts.append(
            f'<line x1="{x + 7}" x2="{plot.px(right)}" y1="{y}" y2="{y}" stroke="#FFFFFF"'
            ' stroke-dasharray="2 5" stroke-width="2"/>'
        )
        plot.parts.append(
            f'<circle cx="{plot.px(result.eps * 255)}" cy="{y}" r="10" fill="var(--{walks})"'
            f' stroke="#FFFFFF" stroke-width="3" data-move="{walks}-cx"/>'
        )
    return plot


def _plot(result: WorstDirection, side: int, label: str, *, left: int = 30) -> Plot:
    """Make empty axes in grey levels around a square of `side` pixels, with `label` below it. If
    `label` is empty there are no ticks, if `left` is 0 no title of the vertical axis.
    """
    scale = result.eps * 255
    plot = Plot(
        side + left + 14,
        side + 20,
        (float(result.a[0]) * 255, float(result.a[-1]) * 255),
        (float(result.b[0]) * 255, float(result.b[-1]) * 255),
        label,
        "a random direction" if left else "",
        [(0, "0"), (scale, f"ε = {scale:.0f}"), (2 * scale, f"{2 * scale:.0f}")] if label else (),
        left=left,
        top=8,
    )
    plot.height = side + 8 + plot.bottom
    return plot


def legend(height: int) -> str:
    """Draw the ten colours in a column of `height` pixels, with the lowest losses at the bottom,
    and the meaning of colours and line. Returns HTML.
    """
    step = (height - 6) / len(COLOURS)
    parts = [
        f'<rect x="0" y="{at * step:.1f}" width="22" height="{step + 0.5:.1f}" fill="{colour}"/>'
        for at, colour in enumerate(reversed(COLOURS))
    ] + [
        f'<text x="28" y="{at * step + 5:.1f}">{name}</text>'
        for at, name in enumerate(reversed(NAMES), 1)
    ]
    return (
        '<figure style="width:112px"><p class="above">Loss (probability)</p>'
        f'<svg viewBox="0 0 112 {height}" width="112" aria-hidden="true">{"".join(parts)}</svg>'
        "<figcaption>Probability: true class. Line: prediction changes.</figcaption></figure>"
    )


def _hard(result: WorstDirection, side: int) -> bytes:
    """A PNG of the loss to the true class on the plane. The log-odds are interpolated instead of
    the loss, because they are closer to linear.
    """
    return bands(result.odds, np.log1p(-SHARES) - np.log(SHARES), side)


def _soft(result: WorstDirection, temperature: int, side: int) -> bytes:
    return bands(np.sqrt(result.soft(temperature)), np.sqrt(-np.log(SHARES)), side)


def positions(eps: float) -> list[int]:
    """The slider's positions, in whole grey levels: 0, and equal steps up to 2ε at most. The step
    is the smallest that gives at most `POSITIONS` positions.
    """
    last = int(2 * eps * 255 + 1e-6)
    return list(range(0, last + 1, -(-(last + 1) // POSITIONS)))


def worst_direction(found: Mapping[str, WorstDirection]) -> Screen:
    """Draw a first screen: the loss around the image for each network along its own worst
    direction, on one colour scale. The slider moves a dot along the direction, which starts at ε or
    at the position nearest to it; the picture beside the map is the image at the dot. The names in
    `found` begin with A or B, in whose colour the network is drawn.
    """
    first = next(iter(found.values()))
    levels, classes = positions(first.eps), first.meta["classes"]
    figures: list[str] = []
    moves: dict[str, tuple[str, list[str]]] = {}
    for name, result in found.items():
        side = name[:1].lower()
        says = [_says(result, level, classes) for level in levels]
        start = min(range(len(levels)), key=lambda at: abs(levels[at] - first.eps * 255))
        plot = _plot(result, SIDE, f"grey levels along {name[:1]}'s own worst direction")
        _map(result, _hard(result, SIDE), plot, walks=side)
        sources = [uri(png(result.picture(level), 1)) for level in levels]
        moves |= {
            f"{side}-cx": ("cx", [f"{plot.px(level)}" for level in levels]),
            f"{side}-src": ("src", sources),
            f"{side}-below": ("text", says),
        }
        picture = tile(sources[start], 132, "the image at the dot", below=says[start], move=side)
        figures.append(
            f'<figure style="width:{plot.width + 147}px"><p class="above {side}">{escape(name)}</p>'
            f'<div class="tiles" style="align-items:center">'
            f"{plot.html(f'The loss around the image, {name}')}{picture}</div></figure>"
        )
    answer = verdict(found)
    return Screen(
        [answer],
        f'<div class="tiles" style="justify-content:space-between">{"".join(figures)}'
        f"{legend(SIDE - 20)}</div>",
        f"Maps of the loss around image {first.meta['index']}, a {classes[first.y]}. {answer}",
        _protocol(first),
        Control(
            "Along the worst direction",
            [str(level) for level in levels],
            start,
            "eps",
            "Position of the dot along the direction, in grey levels (of 255).",
            " grey levels",
        ),
        moves,
    )


def _says(result: WorstDirection, level: int, classes: Sequence[str]) -> str:
    """The prediction `level` grey levels along d, and its probability, as `✗ cup, 98%`; ✓ if it is
    right.
    """
    answer = int(result.answers[level])
    share = float(np.exp(result.line[level, answer]))
    return f"{'✓' if answer == result.y else '✗'} {classes[answer]}, {share:.0%}"


def verdict(found: Mapping[str, WorstDirection]) -> str:
    """One sentence: the smallest number of grey levels along its own worst direction at which each
    network's prediction is wrong.
    """
    said = {name[:1]: result for name, result in found.items()}
    parts = [
        f"{name} misclassifies the untouched image"
        if result.change == 0
        else f"{name}'s prediction stays right up to {len(result.line) - 1}, the end of the picture"
        if result.change is None
        else f"{name}'s prediction changes at {result.change}"
        for name, result in said.items()
    ]
    known = [result.change != 0 for result in said.values()]
    if not any(known):
        return "; ".join(parts) + "."
    where = known.index(True)
    at, comma, edge = parts[where].partition(",")
    parts[where] = f"{at} grey levels{comma}{edge}"
    each = ", each" * (all(known) and len(known) > 1)
    return f"{'; '.join(parts)}{each} in its worst direction."


def _protocol(first: WorstDirection) -> list[str]:
    return [
        "This is one image and one training seed per network: other images can give another"
        " result.",
        "Each network has its own direction, computed on itself.",
        f"It is the perturbation of 20 steps of PGD at ε = {eps_text(first.eps)}, without a"
        " random start.",
        "Only this straight line is searched, so a smaller perturbation may exist: this is not"
        " the smallest ε.",
        f"The vertical axis is a random direction, the same for both, seed {first.meta['seed']}.",
        "Pixels are clipped to [0, 1], so that every point is a valid image.",
        f"{first.odds.shape[0]} × {first.odds.shape[1]} points were computed; colours and line"
        " between them are interpolated.",
    ]


def alignment(
    before: WorstDirection,
    after: WorstDirection,
    *,
    start: int = 4,
    witness: str = "witness",
    control: str = "",
) -> Screen:
    """Draw a first screen: the loss of the source before and after an alignment, with the true
    class and with the witness's soft label as target. The slider sets the temperature, which starts
    at `start`. `witness`: the heading over the witness's soft label; `control`: what was learned
    instead, such as "the true classes", if the alignment was a control experiment without soft
    labels, else empty. Raises UserError for results without a witness.
    """
    classes, sides = before.meta["classes"], {"before": before, "after": after}
    moves: dict[str, tuple[str, list[str]]] = {}
    panels = []
    for target, title in zip(("hard", "soft"), TARGETS, strict=True):
        for name, result in sides.items():
            drawn = _hard(result, PANEL) if target == "hard" else _soft(result, start, PANEL)
            plot = _plot(result, PANEL, "grey levels" if name == "before" else " ", left=0)
            move = name * (target == "soft")
            if move:
                moves[move] = ("href", [uri(_soft(result, t, PANEL)) for t in TEMPERATURES])
            panels.append(
                f'<figure style="width:{plot.width}px"><p class="above">{name}, {title}</p>'
                + _map(result, drawn, plot, moves=move).html(f"The loss {title}, {name}")
                + "</figure>"
            )
    bars = _bars(before, classes, start, moves)
    picture = tile(uri(png(before.picture(0), 1)), 96, f"a {classes[before.y]}")
    answers = [_changed(before, after, t, control) for t in TEMPERATURES]
    return Screen(
        answers,
        f'<div class="tiles" style="justify-content:space-between">'
        f'<figure style="width:180px"><p class="above">{escape(witness)}</p>{picture}{bars}'
        f"</figure>{''.join(panels)}{legend(PANEL)}</div>",
        f"Maps of the loss around image {before.meta['index']}, a {classes[before.y]}, before and"
        f" after an alignment. {answers[start - 1]}",
        _alignment_protocol(before),
        Control(
            "Temperature of the soft label",
            [str(t) for t in TEMPERATURES],
            start - 1,
            "T",
            "The witness's logits are divided by it: higher is softer.",
        ),
        moves,
    )


def _bars(
    result: WorstDirection,
    classes: Sequence[str],
    start: int,
    moves: dict[str, tuple[str, list[str]]],
) -> str:
    """Draw the witness's soft label at temperature `start` as bars; returns SVG. There are at most
    `SHOWN` classes, in class order: those whose probability is highest at any of `TEMPERATURES`.
    Adds to `moves` how the bars change with the temperature.
    """
    shares = np.stack([soft_label(result.label, t) for t in TEMPERATURES])
    shown = sorted(np.argsort(-shares.max(axis=0), kind="stable")[:SHOWN])
    parts = []
    for row, k in enumerate(shown):
        y, share = 20 * row, shares[start - 1, k]
        moves[f"bar-{k}"] = ("width", [f"{62 * each:.1f}" for each in shares[:, k]])
        moves[f"share-{k}"] = ("text", [f"{each:.0%}" for each in shares[:, k]])
        mark = "✓ " if k == result.y else ""
        parts.append(
            f'<text x="74" y="{y + 14}" text-anchor="end">{mark}{escape(classes[k])}</text>'
            f'<rect x="80" y="{y + 2}" width="{62 * share:.1f}" height="15" fill="var(--faint)"'
            f' data-move="bar-{k}"/><text x="180" y="{y + 14}" text-anchor="end"'
            f' data-move="share-{k}">{share:.0%}</text>'
        )
    height = 20 * len(shown)
    return (
        f'<svg viewBox="0 0 180 {height}" width="180" role="img" aria-label="The witness\'s soft'
        f' label">{"".join(parts)}</svg>'
    )


def _changed(before: WorstDirection, after: WorstDirection, temperature: int, control: str) -> str:
    """How the alignment changed the loss at the image itself, to the soft label and to the true
    class, in words; also whether the alignment is a control.
    """
    at = before.odds.shape[0] // 3, before.odds.shape[1] // 2
    soft = [float(result.soft(temperature)[at]) for result in (before, after)]
    hard = [float(np.logaddexp(0, result.odds[at])) for result in (before, after)]
    return (
        f"Through the alignment, the loss to the witness's soft label {_moved(*soft)} at this"
        f" image. The loss to the true class {_moved(*hard)}."
        + (f" This is a control: it learned {control}." if control else "")
    )


def _moved(before: float, after: float) -> str:
    """`fell from 1.90 to 0.40`, or `stayed at 1.90` where both print alike."""
    one, two = f"{before:.2f}", f"{after:.2f}"
    if one == two:
        return f"stayed at {one}"
    return f"{'fell' if after < before else 'rose'} from {one} to {two}"


def _alignment_protocol(before: WorstDirection) -> list[str]:
    return [
        "This is one image and one pair of networks: other images can give another result.",
        "All maps show the same plane: the worst direction of the source before alignment, and"
        " a random one.",
        f"The direction is the perturbation of 20 steps of PGD at ε = {eps_text(before.eps)}.",
        "To the true class the loss is cross-entropy.",
        "To the soft label it is T²·KL at temperature T, as in the training.",
        f"The random direction has seed {before.meta['seed']}; pixels are clipped to [0, 1].",
    ]
