"""Two to four networks side by side as one screen: in the browser, a slider moves all of them
through their epochs, with curves, pictures, class activation maps and feature maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from robustviz.runs.inside import Record
from robustviz.stats import Floats, Ints
from robustviz.training.evaluation import attack_name
from robustviz.types import eps_text
from robustviz.views.attention.overlay import AGAINST, FOR, enlarged
from robustviz.views.compare.result import Alongside
from robustviz.views.drawing import Plot, uri
from robustviz.views.pictures import sheet
from robustviz.views.screen import Control, Screen
from robustviz.views.theme import CLASSES, LIGHT
from robustviz.views.verdict import Verdict

Moves = dict[str, tuple[str, Sequence[str]]]
LETTERS = "ABCD"
COLOURS = ("a", "b", "#2A8C6C", "#8A6FD1")  # contrast at least 3:1 on light and dark backgrounds
LAST = "chosen"  # the last position: the weights that the run chose
WIDE, HIGH, EDGE = 300, 200, 12  # pixels: width, height and margin of a feature map
STYLE = """<style>
.picture .off { display: none } .side { border-top: 1px solid var(--grid); padding: .4rem 0 }
.side .name { font-weight: 600; margin: 0 0 .3rem } .side .both { display: flex; flex-wrap: wrap;
  gap: .3rem 1.2rem; align-items: flex-start } .strips { flex: 3 1 20rem; min-width: 0 }
.strips img { width: 100% } .strips ol { display: grid; list-style: none; margin: 0; padding: 0;
  grid-template-columns: repeat(var(--count), minmax(0, 1fr)); column-gap: 1%; font-size: .85rem }
.strips li { overflow-wrap: anywhere } .strips p { font-size: .85rem }
.side .plane { flex: 1 1 15rem; min-width: 0 } .side .plane svg { width: 100%;
  background: color-mix(in srgb, var(--grid) 18%, transparent); border-radius: .4rem }
.curves { max-width: 52rem }
.control { position: sticky; bottom: 0; background: var(--paper); padding: .3rem 0 }
</style>"""


@dataclass(frozen=True)
class Side:
    """One network: its printed name, the records of its finished epochs, and what was measured.
    `found`: the measured pictures, maps and features; None if they were not measured.
    """

    name: str
    records: Sequence[Record]
    found: Alongside | None


def together(sides: Sequence[Side], verdict: Verdict, template: str = LIGHT) -> Screen:
    """The screen of two to four networks, with a slider over the epochs.
    The slider's last position shows the best weights, those that each run chose as its result, and
    the line of `verdict`, which compares the first two networks. `template`: the theme of the class
    colours.
    """
    epochs = sorted({record["epoch"] for side in sides for record in side.records})
    positions = [*map(str, epochs), LAST]
    moves: Moves = {}
    rows = "".join(
        part for at, side in enumerate(sides) for part in _side(side, at, epochs, moves, template)
    )
    known = [side.found for side in sides if side.found is not None]
    return Screen(
        answer=[*(_leader(sides, epoch) for epoch in epochs), verdict.line],
        picture=f"{STYLE}{_curves(sides, epochs, moves)}{rows}",
        alt=f"{len(sides)} networks side by side: curves, pictures, maps, feature maps.",
        sure=[*verdict.sure, *_sure(known)],
        control=Control(
            "Epoch",
            positions,
            len(positions) - 1,
            "epoch-together",
            "The pictures come from the last epoch so far whose weights were kept; the last"
            " position has the chosen weights.",
        ),
        moves=moves,
    )


def _sure(known: Sequence[Alongside]) -> Iterator[str]:
    yield "The curves are for validation images, which were also used to choose the best epoch."
    yield "At each epoch, the pictures come from the last epoch so far whose weights were kept."
    yield "If no weights were kept that early, the earliest kept ones are shown."
    for found in known[:1]:
        attack = attack_name(found.meta["attack"])
        yield "At each epoch the network of that epoch is attacked."
        yield f"{attack} at ε = {eps_text(float(found.meta['eps']))}, seed {found.meta['seed']}."
        yield f"The feature maps show n = {len(found.y)} test images, too few for a percentage."
        yield "Each network's feature map has its own axes: compare shapes, not places."
        yield "Red is evidence for the true class, teal against it; each network has its own scale."


def _at(records: Sequence[Record], epoch: int) -> Record | None:
    """The record of an epoch (from 1), or of the last one before it; None if there is neither."""
    return next((each for each in reversed(records) if each["epoch"] <= epoch), None)


def _leader(sides: Sequence[Side], epoch: int) -> str:
    """A sentence on which networks are right on most and on fewest attacked validation images.
    Each network counts after the epoch `epoch`, or after its last epoch before that.
    """
    held = {
        LETTERS[at]: record["robust_acc"]
        for at, side in enumerate(sides)
        if (record := _at(side.records, epoch))
    }
    if len(held) < 2:
        return f"Epoch {epoch}: only one network has results so far."
    most, least = max(held, key=held.__getitem__), min(held, key=held.__getitem__)
    if held[most] == held[least]:
        return (
            f"Epoch {epoch}: all are right on {held[most]:.0%} of the attacked validation images."
        )
    return (
        f"Epoch {epoch}: {most} leads with {held[most]:.0%} of the attacked validation images"
        f" right, {least} is last with {held[least]:.0%}."
    )


def _curves(sides: Sequence[Side], epochs: Sequence[int], moves: Moves) -> str:
    """The curves as HTML in two sizes, of which the browser shows the one that fits.
    What the slider changes is added to `moves`.
    """
    wide, small = (_plot(sides, epochs, moves, *size) for size in ((840, 260), (380, 230)))
    return (
        f'<div class="curves"><div class="wide">{wide}</div><div class="small">{small}</div></div>'
        '<p class="faint">Solid: attacked. Dotted: untouched.</p>'
    )


def _plot(
    sides: Sequence[Side], epochs: Sequence[int], moves: Moves, width: int, height: int
) -> str:
    last = max(epochs, default=1)
    step = max(1, -(-last // 8))
    plot = Plot(
        width,
        height,
        (1, max(2, last)),
        (0, 1),
        "epoch",
        "right on validation images",
        [(value, str(value)) for value in range(step, last + 1, step)],
        [(value, f"{value:.0%}") for value in (0, 0.5, 1)],
        left=72,
        right=34,
    )
    plot.upright(1, "text", move=f"now{width}")
    for at, side in enumerate(sides):
        xs = [record["epoch"] for record in side.records]
        if not xs:
            continue
        for what, dash, thick in (("clean_acc", "3 5", 2), ("robust_acc", "", 3)):
            ys = [float(record[what]) for record in side.records]  # type: ignore[literal-required]
            plot.line(xs, ys, COLOURS[at], dash=dash, width=thick)
        plot.text(xs[-1], ys[-1], LETTERS[at], COLOURS[at], shift=(6 + 8 * (at % 2), 5))
    places = [*epochs, last]
    moves[f"now{width}-x"] = (
        "transform",
        [f"translate({plot.px(epoch) - plot.px(1):g} 0)" for epoch in places],
    )
    return plot.html("Accuracy by epoch of each network, untouched dotted and attacked solid")


def _side(side: Side, at: int, epochs: Sequence[int], moves: Moves, template: str) -> Iterator[str]:
    """Yields the HTML of one network's row; what the slider changes is added to `moves`."""
    letter, colour = LETTERS[at], COLOURS[at]
    shade = colour if colour.startswith("#") else f"var(--{colour})"
    moves[f"said-{letter}"] = ("text", [*(_said(side, each) for each in epochs), ""])
    yield (
        f'<div class="side"><p class="name"><span style="color:{shade}">{letter}</span>'
        f' {escape(side.name)} <span class="faint" data-move="said-{letter}"></span></p>'
    )
    found = side.found
    if found is None:
        yield '<p class="faint">Its pictures are not measured.</p></div>'
        return
    frame = _frames(found, epochs)
    for each in range(len(found.epochs)):
        moves[f"{letter}{each}"] = ("class", ["" if now == each else "off" for now in frame])
    yield f'<div class="both" style="--count:{len(found.x)}"><div class="strips">'
    yield from _strips(found, letter, frame, moves)
    yield f'</div><div class="plane">{_planes(found, letter, template)}</div></div></div>'


def _said(side: Side, epoch: int) -> str:
    record = _at(side.records, epoch)
    if record is None:
        return "no epoch yet"
    ended = f"ended at epoch {record['epoch']}: " if record["epoch"] < epoch else ""
    return (
        f"{ended}{record['clean_acc']:.0%} untouched, {record['robust_acc']:.0%} attacked, of"
        f" {record['n_val']}"
    )


def _frames(found: Alongside, epochs: Sequence[int]) -> list[int]:
    """For each position of the slider, the index of the frame that is shown.
    At an epoch: the last stored epoch up to that one, or the first frame if there is none. At the
    last position: the last frame, which has the chosen weights.
    """
    kept = found.epochs[:-1]
    early = [max(0, int(np.searchsorted(kept, epoch, side="right")) - 1) for epoch in epochs]
    return [*early, len(found.epochs) - 1]


def _weights(epoch: int) -> str:
    return f"the weights of epoch {epoch}" if epoch else "the chosen weights"


def _strips(found: Alongside, letter: str, frame: Sequence[int], moves: Moves) -> Iterator[str]:
    """Yields the HTML of the attacked pictures with their predictions, and of the clean pictures
    coloured by their class activation maps. What the slider changes is added to `moves`.
    """
    names, few = found.meta["classes"], len(found.x)
    side = max(32, found.x.shape[-1])
    yield f'<p data-move="which-{letter}"></p>'
    moves[f"which-{letter}"] = (
        "text",
        [f"Attacked, with the predictions of {_weights(int(found.epochs[now]))}:" for now in frame],
    )
    for at in range(len(found.epochs)):
        said = f"{few} attacked test images, {_weights(int(found.epochs[at]))}"
        tiles = uri(sheet(list(found.x_adv[at] / np.float32(255)), side, gap=2))
        yield f'<img data-move="{letter}{at}" class="off" src="{tiles}" alt="{escape(said)}">'
    answers = []
    for place in range(few):
        key = f"is-{letter}{place}"
        true = int(found.y[place])
        read = [int(found.pred_adv[now, place]) for now in frame]
        moves[key] = (
            "text",
            [names[true] if each == true else f"{names[true]} → {names[each]}" for each in read],
        )
        answers.append(f'<li data-move="{key}"></li>')
    yield f"<ol>{''.join(answers)}</ol>"
    if not found.heat.size:
        yield '<p class="faint">This network has no class activation map.</p>'
        return
    yield "<p>Where it looks, untouched:</p>"
    most = float(np.abs(found.heat).max()) or 1.0
    for at in range(len(found.epochs)):
        painted = [_painted(*pair, most) for pair in zip(found.x, found.heat[at], strict=True)]
        said = f"Class activation maps, {_weights(int(found.epochs[at]))}"
        tiles = uri(sheet(painted, side, gap=2))
        yield f'<img data-move="{letter}{at}" class="off" src="{tiles}" alt="{escape(said)}">'


def _painted(x: Ints, heat: Floats, most: float) -> Floats:
    """An image (C, H, W), uint8, in grey and coloured by its map (h, w), as (3, H, W) in [0, 1].
    Red is evidence for the true class, teal against it; `most`: the absolute value of the map that
    gets the full colour.
    """
    grey = x.mean(axis=0) / 255
    level = np.clip(enlarged(heat, *grey.shape) / most, -1, 1)
    strength = 0.85 * np.abs(level) ** 1.25
    colour = np.where(level[..., None] >= 0, FOR, AGAINST) / 255
    mixed = (1 - strength)[..., None] * grey[..., None] + strength[..., None] * colour
    return np.asarray(mixed.transpose(2, 0, 1), dtype=np.float32)


def _planes(found: Alongside, letter: str, template: str) -> str:
    """The features of each frame as SVG: dots are clean images, crosses attacked ones, in the
    colour of their class. Crosses of misclassified images have the colour of text.
    """
    every = np.concatenate([found.clean, found.adversarial]).reshape(-1, 2).astype(float)
    low, extent = every.min(axis=0), np.maximum(np.ptp(every, axis=0), 1e-9)
    shades = CLASSES[template]

    def pixels(points: Floats) -> Floats:
        at = (points - low) / extent
        at[..., 1] = 1 - at[..., 1]
        return np.asarray(EDGE + at * (np.array([WIDE, HIGH]) - 2 * EDGE))

    def path(points: Floats, shape: str, more: str) -> str:
        d = "".join(f"M{x:.0f} {y:.0f}{shape}" for x, y in points)
        return f'<path d="{d}" fill="none" stroke-linecap="round" {more}/>' if d else ""

    frames = []
    for at in range(len(found.epochs)):
        clean, moved = pixels(found.clean[at]), pixels(found.adversarial[at])
        wrong = found.pred_adv[at] != found.y
        marks = []
        for label in np.unique(found.y):
            shade, mine = shades[int(label) % len(shades)], found.y == label
            marks += [
                path(clean[mine], "h0", f'stroke="{shade}" stroke-width="6"'),
                path(moved[mine & ~wrong], CROSS, f'stroke="{shade}" stroke-width="1.6"'),
            ]
        marks.append(path(moved[wrong], CROSS, 'stroke="var(--text)" stroke-width="1.6"'))
        frames.append(f'<g data-move="{letter}{at}" class="off">{"".join(marks)}</g>')
    return (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="Feature map of {letter}">'
        f"{''.join(frames)}</svg>"
        '<p class="faint">● untouched, × attacked, dark where misclassified.</p>'
    )


CROSS = "m-3-3l6 6m-6 0l6-6"
