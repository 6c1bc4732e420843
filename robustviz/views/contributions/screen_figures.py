"""The Contributions page's first screen as HTML and SVG: which share of the positive
contributions to a logit the largest features hold. It needs neither torch nor Streamlit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from robustviz.stats import mcnemar
from robustviz.views.contributions.result import Carried, Contributions, fewer
from robustviz.views.drawing import Plot, uri
from robustviz.views.screen import Control, Screen

DASHES = {"a": "", "b": "9 5"}
MOST = 64  # at most this many positions of the slider besides 0
TOLD = 'class="told"'  # what says the answer: a lecture hides it until *Reveal*
LEVEL = 0.05  # significance level of the sign test
STYLE = """<style>
.carried { display: grid; grid-template-columns: minmax(18rem, 3fr) minmax(15rem, 2fr);
  gap: 1rem 2rem; align-items: start; }
.carried h2 { font-size: 1.05rem; font-weight: 600; margin: 0 0 .3rem; padding: 0; }
.carried p { margin: .5rem 0 .1rem; }
.carried svg .gone { opacity: .28; }
.asking:has(.carried) output { visibility: hidden; }
@container (max-width: 46rem) { .carried { grid-template-columns: 1fr; } }
</style>"""


def screen(
    many: Mapping[str, Carried], one: Mapping[str, Contributions], thumbnail: bytes = b""
) -> Screen:
    """Returns the first screen for A and B (keys `a`, `b`): curves of many images, bars of one.

    `many`: the results on many images; `one`: the contributions on one image, of the networks for
    which they are known; `thumbnail`: that image as PNG. A slider sets the number of features that
    are kept.
    """
    kept = positions(many)
    widths = {each.width for each in many.values()}
    plot, moves = _curves(many, kept, 680, 400)
    small, more = _curves(many, kept, 360, 300)
    moves |= more
    strips = [_strip(side, each, kept, moves) for side, each in one.items()]
    named = next((f"Image {each.index[0]}: {each.class_name}" for each in one.values()), "")
    seen = f'<img src="{uri(thumbnail)}" width="64" alt="{escape(named)}">' if thumbnail else ""
    right = f"<div><h2>{escape(named)}</h2>{seen}{''.join(strips)}</div>" if strips else ""
    said = answer(many)
    return Screen(
        [said],
        f'{STYLE}<div class="carried"><div><h2>Many images, their median</h2>'
        f'<div class="wide">{plot}</div><div class="small">{small}</div></div>'
        f"{right}</div>",
        "Curves: the share of the positive contributions to the right class against the number"
        f" of features kept. Bars: each feature's part on one image. {said}",
        sure(many),
        Control(
            "Features kept, the largest first",
            [str(k) for k in kept],
            kept.index(min(kept, key=lambda k: abs(k - next(iter(many.values())).median))),
            "kept",
            "How much of the positive contributions remains when only so many features are kept.",
            f" of {widths.pop()}" if len(widths) == 1 else "",
        ),
        moves,
    )


def positions(many: Mapping[str, Carried]) -> list[int]:
    """Returns the slider's positions, each a number of features: from 0 to where every median curve
    has reached 99%, but at least to 8; at most 65 positions (`MOST` + 1).
    """
    reach = max(max(8, int((each.shares[1] >= 0.99).argmax())) for each in many.values())
    return sorted({round(k) for k in np.linspace(0, reach, min(reach, MOST) + 1)})


def _curves(
    many: Mapping[str, Carried], kept: Sequence[int], width: int, height: int
) -> tuple[str, dict[str, tuple[str, Sequence[str]]]]:
    """Returns the chart of the median curves as SVG, and the values that its moving parts take at
    each slider position in `kept`, in the form of `Screen.moves`.
    """
    ticks = [(0.0, "0%"), (0.5, "50%"), (1.0, "100%")]
    step = max(1, round(kept[-1] / 6))
    plot = Plot(
        width,
        height,
        (0, kept[-1]),
        (0, 1.02),
        "features kept, the largest first",
        "share of the answer",
        [(k, str(k)) for k in range(0, kept[-1] + 1, step)],
        ticks,
        left=64,
    )
    moves: dict[str, tuple[str, Sequence[str]]] = {
        f"kept{width}-x": (
            "transform",
            [f"translate({plot.px(k) - plot.px(0):.1f} 0)" for k in kept],
        )
    }
    plot.upright(0, move=f"kept{width}")
    for side, each in many.items():
        xs = list(range(min(kept[-1], each.width) + 1))
        low, middle, high = (row[: len(xs)].tolist() for row in each.shares)
        plot.band(xs, low, high, side).line(xs, middle, side, dash=DASHES[side])
    for at, (side, each) in enumerate(many.items()):
        at_k = [float(each.shares[1, min(k, each.width)]) for k in kept]
        if each.median:
            ring = each.median, float(each.shares[1, each.median])
            way = (12, 24) if at else (-12, -14)
            plot.dot(*ring, side, radius=9, hollow=True, more=TOLD).text(
                *ring,
                f"half: {each.median}",
                side,
                shift=way,
                anchor="start" if at else "end",
                more=TOLD,
            )
        plot.dot(0, 0, side, radius=5, move=f"{side}{width}")
        moves |= {
            f"{side}{width}-cx": ("cx", [str(plot.px(min(k, each.width))) for k in kept]),
            f"{side}{width}-cy": ("cy", [str(plot.py(share)) for share in at_k]),
            f"{side}-share": ("text", [f"{side.upper()} keeps {share:.0%}" for share in at_k]),
        }
        plot.text(
            kept[-1],
            0.2 - 0.1 * at,
            "",
            side,
            anchor="end",
            more=f'{TOLD} data-move="{side}-share" font-weight="600" font-size="20"',
        )
    return plot.html(), moves


def _strip(
    side: str, one: Contributions, kept: Sequence[int], moves: dict[str, tuple[str, Sequence[str]]]
) -> str:
    """Returns one image's contributions as HTML with SVG bars, largest first: those kept in full
    colour, the others pale. The values of its moving parts are added to `moves`.
    """
    parts = -np.sort(-one.parts[0])
    width, top = 460, float(max(parts.max(), 1e-9))
    bottom = float(min(parts.min(), -0.15 * top))
    plot = Plot(width, 150, (0, len(parts)), (bottom, top), left=4, right=4, top=4)
    bars = [
        f'<rect x="{plot.px(at):.1f}" width="{max(1.0, plot.px(1) - plot.px(0) - 1):.1f}"'
        f' y="{plot.py(max(value, 0)):.1f}" height="{abs(plot.py(value) - plot.py(0)):.1f}"'
        f' fill="var(--{side})"/>'
        for at, value in enumerate(parts.tolist())
    ]
    shares, name = one.shares[0], one.class_name
    known = bool(np.isfinite(shares).all())
    moves[f"{side}-clip"] = ("width", [str(plot.px(min(k, len(parts)))) for k in kept])
    moves[f"{side}-one"] = (
        "text",
        [
            f": {shares[min(k, len(parts))]:.0%} of the positive contributions to {name}"
            if known
            else f": no positive contribution to {name}"
            for k in kept
        ],
    )
    every = "".join(bars)
    return (
        f'<p class="{side}">{side.upper()}<span {TOLD} data-move="{side}-one"></span></p>'
        f'<svg viewBox="0 0 {width} 150" width="{width}" aria-hidden="true">'
        f'<clipPath id="kept-{side}"><rect x="0" y="0"'
        f' height="150" width="0" data-move="{side}-clip"/></clipPath><g class="gone">{every}</g>'
        f'<g clip-path="url(#kept-{side})">{every}</g><line x1="4" x2="{width - 4}"'
        f' y1="{plot.py(0)}" y2="{plot.py(0)}" stroke="var(--text)"/></svg>'
    )


def shown(many: Mapping[str, Carried]) -> bool:
    """Whether the screen states a difference between A and B: only if their medians, as shares of
    their features, are different and a paired sign test is significant.
    """
    if len(many) < 2:
        return False
    a, b = many.values()
    first, second, _ = fewer(a, b)
    return a.median / a.width != b.median / b.width and mcnemar(first, second) < LEVEL


def answer(many: Mapping[str, Carried]) -> str:
    """Returns the screen's one-sentence answer: how many features hold half of the positive
    contributions to the true class's logit, in each network.
    """
    (side, a), *rest = many.items()
    if not all(each.median for each in many.values()):
        said = "; ".join(_half(side.upper(), each) for side, each in many.items())
        return f"{said[0].upper()}{said[1:]}."
    said = _half(side.upper(), a).replace("about", "About", 1)
    if not rest:
        return f"{said}."
    b = rest[0][1]
    other = f"{b.median} of {b.width}" if b.width != a.width else f"{b.median}"
    if not shown(many):
        same = b.median == a.median and b.width == a.width
        return f"{said}, {'and' if same else other} of B's: no difference shown."
    way = "spreads it over" if b.median / b.width > a.median / a.width else "needs only"
    return f"{said}; B {way} {other}."


def _half(name: str, found: Carried) -> str:
    """How many features make up half of a network's answer (the sum of its positive contributions),
    or why that cannot be said, in words.
    """
    if not found.right.any():
        return f"{name} is right on none of these images"
    if not found.median:
        return f"no feature of {name} contributes to the right class"
    return f"about {found.median} of {found.width} features make up half of {name}'s answer"


def sure(many: Mapping[str, Carried]) -> list[str]:
    """Returns sentences on how the curves were measured and how certain the `answer` is."""
    first = next(iter(many.values()))
    n, whole = len(first.right), first.meta["of"]
    out = [
        "A feature's contribution is its value times its weight for the image's class.",
        *(
            f"{side.upper()}'s last layer is not linear, so the weight is replaced by the"
            " derivative of the class's logit."
            for side, each in many.items()
            if each.meta.get("slope")
        ),
        "The answer is the sum of the positive contributions to that class; the others are left"
        " out.",
        "Only images that a network classifies correctly count; nothing is attacked.",
        "Bands: first to third quartile over the images. Rings: where the median reaches half"
        " of the answer.",
        *(
            ["These are two networks with one training seed each: others may differ."]
            * (len(many) > 1)
        ),
        f"n = {n if n == whole else f'{n} of {whole}'} test images.",
        *(
            f"{side.upper()} is right on {int(each.counted.sum())} of {n}; the median's 95%"
            f" interval is {each.interval[0]} to {each.interval[1]} features."
            for side, each in many.items()
        ),
    ]
    if len(many) > 1:
        less, more, both = fewer(*many.values())
        p = mcnemar(less, more)
        out += [
            f"Of {both} images on which both are right, A needs a smaller share of features"
            f" on {less}, B on {more}.",
            f"Sign test on these pairs: p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}.",
        ]
    return out
