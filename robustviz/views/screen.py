"""A page's first screen as plain values: one line that answers, one picture, one control that moves
the picture in the browser.

Made by panels, shown by `robustviz.ui.stage`, and written into one file that works without a
server by `page`. No torch, no Streamlit, no Plotly.
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

COLOURS = {  # as in `.streamlit/config.toml` and `views/theme.py`; a test holds them equal
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
WORDS, NUMBERS = 20, 3  # in one sentence, at most


@dataclass(frozen=True)
class Control:
    """A slider in the browser. `values`: what each position is called; `start`: the position it
    opens at; `key`: its name in the address, where its value is what the position is called;
    `unit`: what follows the value in print.
    """

    label: str
    values: Sequence[str]
    start: int
    key: str
    help: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Screen:
    """What stands on a first screen.

    `answer`: one sentence, or one for every position of the control. `picture`: HTML with SVG in
    it; text from outside must have gone through `html.escape`. An element that moves has
    `data-move="NAME …"`, and `moves` has for each NAME the attribute, or `text`, and its value at
    every position. `alt`: what the picture shows. `sure`: the protocol, a sentence each, words
    before numbers.
    """

    answer: Sequence[str]
    picture: str
    alt: str
    sure: Sequence[str]
    control: Control | None = None
    moves: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)

    def data(self, scheme: str) -> JSON:
        """The screen as JSON, in the colours of a scheme, `light` or `dark`."""
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
    """HTML, CSS and JavaScript that show a screen."""
    html, css, js = (
        Path(__file__).with_name(f"screen.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    return html, css, js


def page(screen: Screen, title: str, scheme: str = "light") -> bytes:
    """The screen as one HTML file, with its control, that needs no server and no other file."""
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
# a number that is part of a name, as in PGD-20 or 3-D
_NAME = re.compile(r"\b[A-Za-z]+-\d+\b(?![.,%]\d)|\b\d-D\b")


def wordy(text: str) -> list[str]:
    """The sentences of a text, Markdown or HTML, that are too long to take in at a glance: more
    than 20 words, or more than three numbers, where "k of n" is one.
    """
    out = []
    for sentence in _SENTENCE.split(_MARKUP.sub("", text)):
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        bare = _AS_ONE.sub("0", _NAME.sub("", sentence))
        if len(words) > WORDS or len(_NUMBER.findall(bare)) > NUMBERS:
            out.append(sentence.strip())
    return out
