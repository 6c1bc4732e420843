"""The commands `app` and `check`: start the dashboard, and test whether this machine is ready for
it.
"""

import argparse
import json

from robustviz.cli.terminal import Command, say


def app(args: argparse.Namespace) -> int:
    """Run the dashboard until it is stopped. Returns the exit status."""
    from robustviz.ui.launch import launch

    return launch(
        port=args.port, browser=False if args.no_browser else None, shared=getattr(args, "class")
    )


def check(args: argparse.Namespace) -> int:
    """Test whether the machine is ready, or with `--class` whether a class on the local network
    could join, and print what was found. Returns the exit status: 0 if so, else 1.
    """
    from robustviz.check import check, check_class

    look = check_class if getattr(args, "class") else check
    facts = look(tell=say if args.json else print)
    if args.json:
        print(json.dumps(facts, default=str))
    return 0 if facts.get("ready") else 1


COMMANDS = (
    Command(
        "app",
        app,
        "start the dashboard",
        {
            "--port": {"type": int},
            "--no-browser": {"action": "store_true"},
            "--class": {
                "action": "store_true",
                "help": "let a class on the local network view the app; only the teacher can change"
                " things",
            },
        },
    ),
    Command(
        "check",
        check,
        "check whether this machine is ready for robustviz",
        {
            "--class": {
                "action": "store_true",
                "help": "say whether a class on the local network can join",
            }
        },
    ),
)
