"""The tour as one HTML file, for a class without a server: `python -m robustviz lesson`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from robustviz.views.screen import COLOURS, files
from robustviz.views.tour.step import Step

MOST = 8e6  # bytes: upper limit for the file, which a test checks


def lesson(steps: list[Step], scheme: str = "light") -> bytes:
    """The tour's steps as the bytes of one HTML file, which needs no server, network or other file.
    Guesses are stored on the user's device. `scheme`: the colours, `light` or `dark`.
    """
    body, css, mount = files()
    here = Path(__file__).parent
    frame, style, script = (
        (here / f"lesson.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    told = [
        {
            **{
                name: getattr(step, name)
                for name in ("title", "intro", "question", "right", "told", "hides", "reveals")
            },
            "options": list(step.options),
            "screen": step.screen.data(scheme),
            "before": step.before.data(scheme) if step.before else None,
        }
        for step in steps
    ]
    asked = _plain([[each.question, *each.options] for each in steps])
    known = _plain(hashlib.sha256(asked.encode()).hexdigest()[:12])
    colours = "".join(f"--{name}:{colour};" for name, colour in COLOURS[scheme].items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>robustviz: a lesson</title><style>:root{{{colours}}}{css}{style}</style></head>"
        f"<body>{frame}<script type=module>"
        f"{mount.replace('export default function', 'function')}\n"
        f"const lesson={_plain(told)},body={_plain(body)},id={known};\n"
        f"{script}</script></body></html>"
    ).encode()


def _plain(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")
