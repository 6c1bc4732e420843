"""For somebody new to a training method: one sentence on what the method does, and its training
step in three small drawings made of a few building blocks. No torch, no Streamlit.

A method not in `METHODS` gets the first sentence of its attribute `text` and its group's drawings.
"""

from __future__ import annotations

import textwrap
from html import escape
from typing import NamedTuple

from robustviz import registry

# different from A's blue and B's orange; contrast at least 3:1 on a light and a dark background
NOISE, GOOD = "#B45C9A", "#2A8C6C"
WIDE, TALL, PANEL, LETTERS = 360, 122, 108, 15  # in pixels; LETTERS: characters per caption line


class Step(NamedTuple):
    """One drawing: its caption, and one or two keys of `BLOCKS`, drawn from left to right."""

    says: str
    blocks: tuple[str, ...]


class Sketch(NamedTuple):
    """What a method does, in one sentence (`says`), and the three drawings of its training step."""

    says: str
    steps: tuple[Step, Step, Step]


def _noise(places: str) -> str:
    """SVG of perturbed pixels on a 10 × 10 grid. `places` gives each pixel as two digits, column
    and row, separated by spaces.
    """
    return "".join(
        f'<rect x="{4 + 4 * int(at[0])}" y="{4 + 4 * int(at[1])}" width="4" height="4"'
        f' fill="{NOISE}"/>'
        for at in places.split()
    )


def _bars(x: int, *heights: int) -> str:
    return "".join(
        f'<rect x="{x + 7 * at}" y="{40 - height}" width="5" height="{height}"'
        ' fill="currentColor" opacity=".75"/>'
        for at, height in enumerate(heights)
    )


def _dots(places: str, kind: str = "circle") -> str:
    """SVG of points, as circles or crosses (`kind`: `circle` or anything else), at the positions
    `x,y` in `places`, separated by spaces. Points stand for images in feature space, or for units
    of a network.
    """
    out = []
    for x, y in (map(int, place.split(",")) for place in places.split()):
        out.append(
            f'<circle cx="{x}" cy="{y}" r="3" fill="currentColor"/>'
            if kind == "circle"
            else f'<path d="M{x - 3} {y - 3}l6 6m0 -6l-6 6" stroke="currentColor"/>'
        )
    return "".join(out)


def _way(path: str, colour: str = NOISE) -> str:
    """SVG of an arrow. `path` has the points `x,y` that the arrow passes through, then the
    direction of its head as two numbers, as in `22,22 39,22 1 0`.
    """
    *way, dx, dy = path.split()
    x, y = way[-1].split(",")
    head = (
        f"M{x} {y}l{-4 * int(dx) - 3 * int(dy)} {-4 * int(dy) + 3 * int(dx)}"
        f"M{x} {y}l{-4 * int(dx) + 3 * int(dy)} {-4 * int(dy) - 3 * int(dx)}"
    )
    return f'<path d="M{" L".join(way)} {head}" fill="none" stroke="{colour}" stroke-width="2"/>'


_FRAME = '<rect x="2" y="2" width="40" height="40" rx="4" fill="none" stroke="currentColor"/>'
_MOON = '<path d="M27 10a13 13 0 1 0 7 19a11 11 0 0 1 -7 -19" fill="currentColor" opacity=".8"/>'
_BALL = (
    '<rect x="5" y="5" width="34" height="34" fill="none" stroke="currentColor"'
    ' stroke-dasharray="3 3"/>'
)
_FULL = _noise("10 40 72 01 33 64 15 52 27 70 80 57 38 76 08 46 22 88 84")
_INNER = _noise("23 34 25 42 53 36 45 27 56 31 14 62 48")
_OUTER = _noise("00 40 81 70 08 88 06 85 77 20 67 11 80")
_NET = "".join(
    f'<path d="M8 {a}L22 {b}L36 {c}" fill="none" stroke="currentColor" opacity=".45"/>'
    for a in (10, 22, 34)
    for b in (8, 18, 28, 38)
    for c in (16, 30)
) + _dots("8,10 8,22 8,34 22,8 22,18 22,28 22,38 36,16 36,30")
_ONES, _TWOS = _dots("9,14 15,9 12,21 19,17"), _dots("30,34 36,29 33,22", "cross")

# Building blocks, 44 by 44 pixels each.
BLOCKS = {
    "image": _FRAME + _MOON,
    "attacked": _FRAME + _MOON + _FULL,
    "views": f'<g transform="scale(.72)">{_FRAME}{_MOON}</g>'
    f'<g transform="translate(12 12) scale(.72)">{_FRAME}{_MOON}</g>',
    "heat": _FRAME + _MOON + f'<circle cx="21" cy="22" r="13" fill="{GOOD}" opacity=".6"/>',
    "inside": _FRAME + _MOON + _INNER + _noise("80 08"),
    "outside": _FRAME + _MOON + _OUTER,
    "one step": _BALL + _dots("22,22") + _way("22,22 39,22 1 0"),
    "random step": _BALL + _dots("14,30") + _way("14,30 39,30 1 0"),
    "many steps": _BALL
    + _dots("14,32")
    + _way("14,32 21,32 21,26 28,26 28,19 34,19 34,12 39,12 1 0"),
    "network": _NET,
    "frozen": _NET
    + f'<rect x="14" y="19" width="16" height="13" rx="2" fill="{GOOD}"/><path d="M17 19v-4a5 5 0'
    f' 0 1 10 0v4" fill="none" stroke="{GOOD}" stroke-width="3"/>',
    "dropped": _dots("14,8 14,36 30,8 30,22")
    + f'<path d="M10 18l8 8m0 -8l-8 8M26 32l8 8m0 -8l-8 8" stroke="{NOISE}" stroke-width="2.5"/>',
    "leaves": _ONES + _TWOS + _way("19,17 27,17 27,26 0 1"),
    "returns": _ONES + _TWOS + _way("30,26 30,17 22,17 -1 0", GOOD),
    "apart": _ONES + _TWOS + _way("19,31 8,31 -1 0", GOOD) + _way("27,12 37,12 1 0", GOOD),
    "answer": _bars(12, 6, 30, 4),
    "pair": _bars(0, 5, 28, 8)
    + _bars(25, 5, 28, 8)
    + f'<path d="M9 6h26" stroke="{GOOD}" stroke-width="3"/>',
    "doubts": _bars(12, 14, 22, 9),
    "weighed": _dots("8,34 18,34")
    + f'<circle cx="33" cy="28" r="9" fill="{GOOD}"/><path d="M2 41h40" stroke="currentColor"/>',
    "weights": "".join(
        f'<path d="M4 {y}h36" stroke="currentColor"/><circle cx="{x}" cy="{y}" r="4"'
        f' fill="{GOOD}"/>'
        for x, y in ((14, 10), (30, 22), (20, 34))
    ),
}

_ANSWER = Step("The network predicts", ("network", "answer"))
_LEARN = Step("Weights learn the true class", ("weights",))
_ATTACK = Step("Many small steps inside ε", ("many steps", "attacked"))
_FURTHEST = Step("Attack that changes the outputs most", ("many steps", "attacked"))
_MAP = Step("A map shows the important pixels", ("image", "heat"))
_FULL_THERE = Step("Full ε there, less elsewhere", ("inside",))
_BOTH = Step("Same outputs, clean and attacked", ("pair", "weights"))

METHODS = {
    "standard": Sketch(
        "Learns from the images as they are: accurate, and easy to fool.",
        (Step("The image, unchanged", ("image",)), _ANSWER, _LEARN),
    ),
    "fgsm_at": Sketch(
        "Learns from images attacked with one step, and often beats only that step.",
        (Step("One step to the edge of ε", ("one step", "attacked")), _ANSWER, _LEARN),
    ),
    "fgsm_rs": Sketch(
        "Learns from images attacked with one step from a random start: a cheaper PGD-AT.",
        (Step("One step, random start", ("random step", "attacked")), _ANSWER, _LEARN),
    ),
    "pgd_at": Sketch(
        "Attacks every image in small steps before it learns it: the standard defence.",
        (_ATTACK, _ANSWER, _LEARN),
    ),
    "trades": Sketch(
        "Learns clean images, and keeps the outputs nearly unchanged under attack.",
        (_FURTHEST, Step("Learn the clean image", ("image", "answer")), _BOTH),
    ),
    "mart": Sketch(
        "Like TRADES, but images that it already misclassifies count more.",
        (_ATTACK, Step("Misclassified images count more", ("weighed",)), _BOTH),
    ),
    "alp": Sketch(
        "Learns clean and attacked images together, with a penalty if their logits differ.",
        (_ATTACK, Step("Both go through the network", ("network",)), _BOTH),
    ),
    "aalp": Sketch(
        "Like ALP, but drops features of little use for the class, and misclassified pairs count"
        " less.",
        (_ATTACK, Step("Weak features are dropped", ("dropped",)), _BOTH),
    ),
    "part": Sketch(
        "PGD-AT with the full ε only on pixels important for the class, slightly less elsewhere.",
        (_MAP, _FULL_THERE, _LEARN),
    ),
    "part_t": Sketch(
        "TRADES with the full ε only on pixels important for the class, slightly less elsewhere.",
        (_MAP, _FULL_THERE, _BOTH),
    ),
    "part_m": Sketch(
        "MART with the full ε only on pixels important for the class, slightly less elsewhere.",
        (_MAP, _FULL_THERE, Step("As MART: wrong ones count more", ("weighed", "weights"))),
    ),
    "sip_at": Sketch(
        "PGD-AT whose attack may not change the pixels that are important for the class.",
        (_MAP, Step("Only the rest is attacked", ("outside",)), _LEARN),
    ),
    "afa": Sketch(
        "Attacks an image's features until they leave their class, then pulls them back.",
        (
            Step("Attack: features leave", ("leaves",)),
            Step("Training: pulled back", ("returns",)),
            Step("A head classifies the features", ("network", "answer")),
        ),
    ),
    "afa_trades": Sketch(
        "TRADES and AFA together: neither outputs nor features should change under attack.",
        (
            Step("One attack moves both", ("attacked", "leaves")),
            Step("Features are pulled back", ("returns",)),
            _BOTH,
        ),
    ),
    "supcon_margin": Sketch(
        "Pulls features of one class together and classes apart; it never sees an attack.",
        (Step("Two views, no attack", ("views",)), Step("Classes move apart", ("apart",)), _LEARN),
    ),
    "model_alignment": Sketch(
        "Trains an attacker's network to match a witness network, so that its attacks fool others;"
        " no defence.",
        (
            Step("A frozen witness network predicts", ("frozen", "doubts")),
            Step("The attacker's network learns its outputs", ("network", "doubts")),
            Step("Attacks are made on it", ("network", "attacked")),
        ),
    ),
}

PLAIN = {  # the drawings by group of methods
    "defence": (Step("Attack the image", ("attacked",)), _ANSWER, _LEARN),
    "no adversarial training": METHODS["standard"].steps,
    "red team": METHODS["model_alignment"].steps,
    "imported": (
        Step("Trained elsewhere", ("network",)),
        Step("Weights used unchanged", ("frozen",)),
        Step("Its predictions are analysed", ("image", "answer")),
    ),
}


def sketch(key: str) -> Sketch:
    """The sentence and the drawings for a method, given by its key. A method not in `METHODS` gets
    the first sentence of its `text` and its group's drawings. Raises UserError for an unknown key.
    """
    if key in METHODS:
        return METHODS[key]
    method = registry.get("method", key)
    return Sketch(method.text.split(". ")[0].rstrip(".") + ".", PLAIN[method.group])


def alt(key: str) -> str:
    """The three drawings for a method, given by its key, in words, as alternative text."""
    steps = "; ".join(f"{at}. {step.says}" for at, step in enumerate(sketch(key).steps, 1))
    return f"A training step in three drawings: {steps}."


def svg(key: str, colour: str = "currentColor") -> str:
    """The three drawings for a method, given by its key, as one SVG; text and lines in `colour`."""
    panels = "".join(_panel(at * (PANEL + 18), step) for at, step in enumerate(sketch(key).steps))
    arrow = _way("0,0 12,0 1 0", "currentColor")
    between = "".join(
        f'<g transform="translate({at * (PANEL + 18) - 15} 26)">{arrow}</g>' for at in (1, 2)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {TALL}" width="{WIDE}"'
        f' height="{TALL}" role="img" aria-label="{escape(alt(key))}" fill="currentColor"'
        f' font-family="Source Sans, Segoe UI, Helvetica, Arial, sans-serif" font-size="14">'
        f"{panels}{between}</svg>"
    ).replace("currentColor", colour)


def _panel(x: int, step: Step) -> str:
    wide = 50 * len(step.blocks) + 2 * (len(step.blocks) - 1)
    drawn = "".join(
        f'<g transform="translate({x + (PANEL - wide) / 2 + 52 * at:g} 1) scale(1.13)">'
        f"{BLOCKS[block]}</g>"
        for at, block in enumerate(step.blocks)
    )
    lines = "".join(
        f'<text x="{x + PANEL / 2:g}" y="{72 + 18 * at}" text-anchor="middle">{escape(line)}</text>'
        for at, line in enumerate(textwrap.wrap(step.says, LETTERS))
    )
    return drawn + lines
