"""`run export` and `run import`: a run as one file, for another computer."""

import argparse

from robustviz.cli.terminal import Command, about, say, show
from robustviz.runs import folder
from robustviz.types import UserError


def do(args: argparse.Namespace) -> int:
    """Write a run into a zip file, or take one out of it."""
    from robustviz.runs import travel

    if args.what == "export":
        if args.name:
            raise UserError("--name is for run import: an exported run keeps its id.", code=2)
        run = folder.look_up(args.run)
        path = travel.export(run, args.out or f"{run.id}.zip")
        size = path.stat().st_size
        facts = {"run": str(run.path)} | about(run) | {"file": str(path), "bytes": size}
        return show(args, facts, f"{path}: {run.id}, {size / 1e6:.1f} MB")
    if args.out:
        raise UserError("--out is for run export: a run comes among your runs.", code=2)
    run = travel.import_zip(args.run, name=args.name, say=say)
    return show(args, {"run": str(run.path)} | about(run), f"{run.id} is among your runs")


COMMANDS = (
    Command(
        "run",
        do,
        "write a run into a zip file (export), or take one out of it (import)",
        {
            "what": {"choices": ("export", "import")},
            "run": {"metavar": "RUN|FILE.zip"},
            "--out": {"default": "", "metavar": "FILE.zip", "help": "default: the run's id"},
            "--name": {"default": "", "metavar": "ID", "help": "its id here, default: its own"},
        },
    ),
)
