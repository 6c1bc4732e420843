"""The commands `run export`, `run import` and `run card`: a run as one file, for another computer
or a class.
"""

import argparse
from pathlib import Path

from robustviz.cli.terminal import Command, about, say, show
from robustviz.runs import folder
from robustviz.runs.files import write_file
from robustviz.types import UserError


def do(args: argparse.Namespace) -> int:
    """Export a run to a zip file, import a run from one, or write the card of a run (a small file
    with its settings and results, without weights). Returns the exit status 0.
    """
    from robustviz.runs import travel

    if args.what != "import" and args.name:
        raise UserError("--name is for run import: an exported run keeps its id.", code=2)
    if args.what == "card":
        return _card(args)
    if args.what == "export":
        run = folder.look_up(args.run)
        path = travel.export(run, args.out or f"{run.id}.zip")
        size = path.stat().st_size
        facts = {"run": str(run.path)} | about(run) | {"file": str(path), "bytes": size}
        return show(args, facts, f"{path}: {run.id}, {size / 1e6:.1f} MB")
    if args.out:
        raise UserError("--out is for run export: an imported run is added to your runs.", code=2)
    run = travel.import_zip(args.run, name=args.name, say=say)
    return show(args, {"run": str(run.path)} | about(run), f"{run.id} was added to your runs")


def _card(args: argparse.Namespace) -> int:
    """Write the card of a run to a JSON file, and show its path. Returns the exit status 0. Raises
    UserError if the file's name does not end in .json, and if a file exists there that is not a
    card.
    """
    from robustviz.runs import card

    run = folder.open_run(args.run)
    out = Path(args.out or f"{run.id}.card.json").expanduser()
    if out.suffix.lower() != ".json":
        raise UserError(f"--out {out} is no card: give it a name that ends in .json.", code=2)
    content = card.of_run(run).to_bytes()
    if out.exists() and not (out.is_file() and card.is_one(out.read_bytes())):
        raise UserError(f"{out} exists and is no card: choose another name.", code=2)
    write_file(out, content)
    facts = {"run": str(run.path)} | about(run) | {"file": str(out), "bytes": len(content)}
    return show(args, facts, f"{out}: the card of {run.id}, {len(content) / 1000:.1f} KB")


COMMANDS = (
    Command(
        "run",
        do,
        "write a run into a zip file (export), take one out of it (import), or write its card: what"
        " was measured, for a class (card)",
        {
            "what": {"choices": ("export", "import", "card")},
            "run": {"metavar": "RUN|FILE.zip"},
            "--out": {
                "default": "",
                "metavar": "FILE",
                "help": "a .zip, of a card a .json; default: the run's id",
            },
            "--name": {"default": "", "metavar": "ID", "help": "its id here, default: its own"},
        },
    ),
)
