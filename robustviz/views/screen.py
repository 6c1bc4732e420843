"""A page's first screen as plain values: an answer, a picture, and a slider (the control) that
changes the picture in the browser. Panels make it, `robustviz.ui.stage` shows it, and `page` makes
one HTML file of it that works without a server. No torch, Streamlit or Plotly here.
"""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustviz.types import JSON

# `text` is that of `.streamlit/config.toml`; `a`, `b`, `grid` and `paper` are those of
# `views/theme.py`, which a test compares.
COLOURS = {
    "light": {
        "a": "#0062A3",
        "b": "#B84A00",
        "text": "#0B121C",
        "grid": "#DDE3EA",
        "paper": "#FFFFFF",
        "faint": "#5F6B7A",
    },
    "dark": {
        "a": "#5DB7F0",
        "b": "#F2A33C",
        "text": "#E8EDF3",
        "grid": "#333F4E",
        "paper": "#10161F",
        "faint": "#8C99AA",
    },
}
WORDS, NUMBERS = 20, 3  # how many words and numbers one sentence may have at most


@dataclass(frozen=True)
class Control:
    """A slider in the browser. `label`: its name; `values`: the label of each position; `start`:
    the index of the initial position; `key`: the slider's parameter in the page's address, whose
    value is the label of the position; `help`: its tooltip; `unit`: printed after the label of the
    position.
    """

    label: str
    values: Sequence[str]
    start: int
    key: str
    help: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Screen:
    """The contents of a page's first screen.

    `answer`: one sentence, or one per position of the slider (`control`). `picture`: HTML that may
    contain SVG; text from outside must be escaped with `html.escape`. An element that the slider
    changes has `data-move="NAME …"`; `moves` maps each NAME to a pair: the attribute to set (or
    `text` or `html` for the element's content), and its value at every position. `alt`: what the
    picture shows. `sure`: sentences on how the answer was measured and how certain it is, those
    with many numbers last.
    """

    answer: Sequence[str]
    picture: str
    alt: str
    sure: Sequence[str]
    control: Control | None = None
    moves: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)

    def data(self, scheme: str) -> JSON:
        """The screen as a JSON-compatible dict for the browser, with the colours of `scheme`,
        `light` or `dark`. Backticks are removed from `sure`; the control's `key` is left out.
        """
        control = self.control
        return {
            "answer": list(self.answer),
            "picture": self.picture,
            "alt": self.alt,
            "sure": [text.replace("`", "") for text in self.sure],
            "control": None
            if control is None
            else {
                "label": control.label,
                "values": list(control.values),
                "start": control.start,
                "help": control.help,
                "unit": control.unit,
            },
            "moves": {name: [kind, list(values)] for name, (kind, values) in self.moves.items()},
            "colours": COLOURS[scheme],
        }


@functools.cache
def files() -> tuple[str, str, str]:
    """The texts of the HTML, CSS and JavaScript files that show a screen, in this order."""
    html, css, js = (
        Path(__file__).with_name(f"screen.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    return html, css, js


def page(screen: Screen, title: str, scheme: str = "light") -> bytes:
    """The screen with its slider as one HTML file (bytes) that works without a server.
    `scheme` is `light` or `dark`.
    """
    body, css, js = files()
    data = json.dumps(screen.data(scheme), ensure_ascii=False).replace("</", "<\\/")
    colours = COLOURS[scheme]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>body{{margin:1.5rem;max-width:80rem;background:{colours['paper']};"
        f"color:{colours['text']};font-family:sans-serif}}{css}</style>"
        f"<h1>{html.escape(title)}</h1><div id=here>{body}</div><script type=module>"
        f"{js.replace('export default function', 'function')}\n"
        f"mount({{data:{data},parentElement:document.querySelector('#here'),"
        "setStateValue(){},setTriggerValue(){}})</script>"
    ).encode()


_SENTENCE = re.compile(r"(?<=[.!?:;])\s+(?=[^a-z\s])|\n+")
_MARKUP = re.compile(r"<[^>]*>|:[a-z-]+\[|:material/\w+:|[*`\]]|^\s*[-#|]+\s*", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_AS_ONE = re.compile(
    r"\d+(?:[.,]\d+)* (?:of|to) \d+(?:[.,]\d+)*|\d+(?:[.,]\d+)?[/×–]\d+(?:[.,]\d+)?"
)
# a number that is part of a name, such as PGD-20 or 3-D, does not count as a number
_NAME = re.compile(r"\b[A-Za-z]+-\d+\b(?![.,%]\d)|\b\d-D\b")


def wordy(text: str) -> list[str]:
    """The sentences of a text (Markdown or HTML) that are too long to be understood at a glance:
    those with more than `WORDS` words or more than `NUMBERS` numbers. "k of n", "a/b" and "a–b"
    count as one number; numbers in names such as PGD-20 do not count.
    """
    out = []
    for sentence in _SENTENCE.split(_MARKUP.sub("", text)):
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        bare = _AS_ONE.sub("0", _NAME.sub("", sentence))
        if len(words) > WORDS or len(_NUMBER.findall(bare)) > NUMBERS:
            out.append(sentence.strip())
    return out
