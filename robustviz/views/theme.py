"""The look of every figure: two templates, colours suited to colour blindness and projectors, and
readable sizes. A network has the same colour and line style in all figures: A is blue and solid, B
is orange and dashed. Signed quantities have a neutral colour at zero, never a rainbow scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, TypeVar

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from robustviz.stats import Floats, Ints
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError
from robustviz.views.result import Result

R = TypeVar("R", bound=Result)

LIGHT, DARK = "robustviz_light", "robustviz_dark"
# Okabe–Ito (2008), darkened or lightened where the contrast of the original with the background is
# below 3:1.
COLOURS = {
    "robustviz_light": {
        "a": "#0062A3",
        "b": "#B84A00",
        "text": "#1A2330",
        "grid": "#DDE3EA",
        "paper": "#FFFFFF",
        "faint": "#7A8798",
    },
    "robustviz_dark": {
        "a": "#5DB7F0",
        "b": "#F2A33C",
        "text": "#E8EDF3",
        "grid": "#333F4E",
        "paper": "#10161F",
        "faint": "#8C99AA",
    },
}
# The colour of each class, the same in all figures; each class has its own symbol too. They were
# found by a search among colours with a contrast of 3:1 to the background: the ten that are
# furthest from each other and from A's and B's colours in Oklab, also if seen with protanopia,
# deuteranopia and tritanopia (Machado et al. 2009).
CLASSES = {
    "robustviz_light": (
        "#009B6F",
        "#F45985",
        "#6F4EDE",
        "#A69000",
        "#642C85",
        "#0B644E",
        "#B16FFF",
        "#6F3700",
        "#7A90C8",
        "#A6377A",
    ),
    "robustviz_dark": (
        "#64A66F",
        "#FF6FA6",
        "#2C64E9",
        "#BCE916",
        "#A6379B",
        "#007A16",
        "#A67AFF",
        "#D32C16",
        "#6F6464",
        "#00E9C8",
    ),
}
SYMBOLS = (  # the symbol of each class, by Plotly's names
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "star",
    "hourglass",
    "triangle-left",
    "bowtie",
    "triangle-right",
)
DASHES = {"a": "solid", "b": "dash"}
# colour and dash of networks other than A and B
OTHERS = (("text", "dot"), ("faint", "dashdot"), ("text", "longdash"), ("faint", "longdashdot"))
_PLAIN = {
    "displaylogo": False,
    "showSendToCloud": False,
    "toImageButtonOptions": {"format": "svg", "filename": "robustviz"},
}
CONFIG: dict[str, Any] = _PLAIN | {"modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}
# for figures whose points can be selected
BRUSH: dict[str, Any] = _PLAIN | {"modeBarButtonsToRemove": ["autoScale2d"]}
RIGHT = 36  # pixels: the width of the toolbar
# a hyphen before a number is a minus sign, but not in names such as "PGD-20" or "s0-3"
_HYPHEN = re.compile(r"(?<![\w.-])-(?=\.?\d)")


def _template(colour: Mapping[str, str]) -> go.layout.Template:
    axis = {
        "gridcolor": colour["grid"],
        "zerolinecolor": colour["grid"],
        "linecolor": colour["faint"],
        "ticks": "outside",
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {
                "family": "Inter, Segoe UI, Helvetica, Arial, sans-serif",
                "size": 14,
                "color": colour["text"],
            },
            "title": {
                "font": {"size": 16},
                "subtitle": {"font": {"size": 14}},
                "x": 0,
                "xref": "container",
                "pad": {"l": 8},
            },
            "paper_bgcolor": colour["paper"],
            "plot_bgcolor": colour["paper"],
            "colorway": [colour["a"], colour["b"]],
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 8, "r": 28, "t": 80, "b": 84},
            "legend": {
                "orientation": "h",
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "x": 0,
                "xanchor": "left",
            },
            "hoverlabel": {"font": {"size": 14}},
        }
    )


for _name, _colour in COLOURS.items():
    pio.templates[_name] = _template(_colour)


def blank(template: str, title: str, subtitle: str = "", **layout: Any) -> go.Figure:
    """An empty figure in a template, with title and subtitle, 400 pixels high; `layout` adds to or
    replaces parts of its layout.
    """
    return go.Figure(
        layout={
            "template": template,
            "title": {"text": title, "subtitle": {"text": subtitle}},
            "height": 400,
            **layout,
        }
    )


def named(results: R | Mapping[str, R], alone: str = "A") -> dict[str, R]:
    """The results as a dict, by the names that a figure prints. A single result, which has no name,
    gets the name `alone`.
    """
    return {alone: results} if isinstance(results, Result) else dict(results)


def sides(named: Mapping[str, object]) -> list[str]:
    """For each of one or two networks, in order, whether it is drawn as A or as B: `a` or `b`. The
    keys of `named` are the networks' names.

    If every name is the letter A or B, alone or before a space, in upper or lower case, and the
    letters differ, each network is drawn as its letter says. Otherwise the first network is `a` and
    the second `b`. Raises UserError for more than two networks.
    """
    if len(named) > len(DASHES):
        raise UserError(f"This figure draws one or two networks, and got {len(named)}: choose two.")
    letters, order = [_letter(name) for name in named], list(DASHES)
    each_once = "" not in letters and len(set(letters)) == len(letters)
    return letters if each_once else order[: len(letters)]


def _letter(name: str) -> str:
    """The side that a network's name says: `a` or `b` if the name is that letter, alone or before a
    space, in upper or lower case; else "".
    """
    first = name.partition(" ")[0].lower()
    return first if first in DASHES else ""


def styles(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields a pair for each network: the key of its colour in `COLOURS[template]`, and its Plotly
    dash. A network whose name is the letter A or B, alone or before a space, has the style of A or
    B; the others have neutral styles. If no name is such, the first two networks have the styles of
    A and B.
    """
    sides = {name: _letter(name) for name in names if _letter(name)} or dict(
        zip(names, DASHES, strict=False)
    )
    others = cycle(OTHERS)
    return ((sides[name], DASHES[sides[name]]) if name in sides else next(others) for name in names)


def spread(mean: float, low: float, high: float, form: str = ".2f") -> str:
    """A mean and its interval as text, such as `0.50 [0.40, 0.60]`, in the number format `form`. If
    an end of the interval is not finite, the text is only the mean.
    """
    known = math.isfinite(low) and math.isfinite(high)
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]" if known else f"{mean:{form}}"


def lines(results: Mapping[str, R], sentence: Callable[[R], str]) -> list[str]:
    """A list with one line for each network: its name in bold, if it has one, and then
    `sentence(result)`.
    """
    return [
        (f"**{name}**: " if name else "") + sentence(result) for name, result in results.items()
    ]


def clear(colour: str, opacity: float = 0.18) -> str:
    """The colour `#RRGGBB` as `rgba(…)` with this opacity, 0 to 1."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def band(
    figure: go.Figure, x: Floats | Ints | Sequence[str], low: Floats, high: Floats, colour: str
) -> None:
    """Add to a figure the shaded area between `low` and `high` along `x`, each of length n;
    `colour`: `#RRGGBB`.
    """
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        mode="none",
        fillcolor=clear(colour),
        hoverinfo="skip",
        showlegend=False,
    )


def finish(
    figure: go.Figure,
    alt: str,
    about: Result | Mapping[str, Any],
    sentence: str = "",
    sure: str = "",
    *,
    interval: str = "",
    clean: bool = False,
) -> go.Figure:
    """Store a figure's description in its `layout.meta`, for files, captions and screen readers,
    and make its toolbar vertical. Returns the same figure.

    `alt`: the kind of figure; the stored alternative text is `alt` followed by `sentence`. `about`:
    the result shown, or results by the names that the figure prints, or only a dict on how it was
    measured. `sentence`: what this figure shows, with its numbers, printed beside it. `sure`: how
    it was measured, in words. For the caption, `interval` says what error bars or bands mean;
    `clean`: nothing attacked is drawn, so the caption names no attack.
    """
    # The toolbar is vertical, in the right margin: a horizontal one would cover the title.
    right = max(RIGHT, figure.layout.margin.r or 0)
    kind, sentence, sure = (_HYPHEN.sub("−", words) for words in (alt, sentence, sure))
    given: Mapping[str, Any] = {"": about} if isinstance(about, Result) else about
    results = {name: each for name, each in given.items() if isinstance(each, Result)}
    meta = next(iter(results.values())).meta if results else given
    said = {"alt": f"{kind} {sentence}".strip(), "sentence": sentence, "sure": sure}
    said |= {"kind": kind, "interval": interval}
    networks = {name: _told(each.meta, each) for name, each in results.items()}
    kept = {key: value for key, value in meta.items() if key != "classes"}
    networks = networks or {"": _told(meta)}
    for told in networks.values() if clean else ():
        told |= {"attack": "", "eps": None}
    return figure.update_layout(
        meta={**kept, **said, "networks": networks},
        modebar={"orientation": "v"},
        margin={"r": right},
    )


def _told(meta: Mapping[str, Any], result: Result | None = None) -> dict[str, Any]:
    """The facts about one network for a caption, as far as they are known: run, method, data,
    images (`n` or `index`), attack, ε and seed. They are taken from a result's `meta`, and from the
    fields of the result itself if it is given.
    """
    told = {
        key: meta[key] for key in ("run", "method", "data", "seed", "index", "eps") if key in meta
    }
    attack, eps, n = meta.get("attack"), getattr(result, "eps", None), meta.get("n")
    if attack:
        told["attack"] = attack if isinstance(attack, str) else attack_name(attack)
    if isinstance(eps, float):
        told["eps"] = eps
    for name in ("index", "n", "y", "half"):  # fields from which to count the images
        value = np.asarray(getattr(result, name, None))
        if n is None and "index" not in told and value.dtype.kind in "iu":
            n = int(value) if name == "n" and not value.ndim else len(value) if value.ndim else None
            if name == "index" and value.shape == (1,):
                told["index"] = int(value[0])
    return told | ({} if n is None else {"n": n})
