"""The command `lesson`: the guided tour as one HTML file, for a class without a server."""

import argparse
from pathlib import Path

from robustviz.cli.terminal import Command, show


def do(args: argparse.Namespace) -> int:
    """Write the guided tour as one HTML file, and show its path and size. Returns the exit status
    0.
    """
    from robustviz.runs.files import write_file
    from robustviz.ui import networks
    from robustviz.views.tour.lesson import lesson
    from robustviz.views.tour.steps import DATA, steps

    path = Path(args.out).expanduser()
    content = lesson(steps(*networks.defaults(networks.on(DATA))), args.scheme)
    write_file(path, content)
    return show(
        args,
        {"path": str(path), "bytes": len(content)},
        f"{path}: {len(content) / 1e6:.1f} MB. Open it in any browser; it needs no network.",
    )


COMMANDS = (
    Command(
        "lesson",
        do,
        "write the guided tour as one file that works without a server and offline",
        {
            "--out": {"default": "lesson.html", "metavar": "FILE", "help": "where to"},
            "--scheme": {"default": "light", "choices": ("light", "dark")},
        },
    ),
)
