"""The command `notebook`: write a Jupyter notebook that repeats a run."""

import argparse
from pathlib import Path

from robustviz.cli.terminal import RUN, Command, about, show
from robustviz.export import notebook
from robustviz.runs import folder
from robustviz.types import UserError


def do(args: argparse.Namespace) -> int:
    """Write the notebook that repeats a run, and show its path. Returns the exit status 0. Raises
    UserError if `--out` does not end in .ipynb, and for a damaged run.
    """
    run = folder.open_run(args.run)
    out = Path(args.out or f"{run.id}.ipynb")
    if out.suffix.lower() != ".ipynb":
        raise UserError(f"--out {out} is no notebook: give it a name that ends in .ipynb.", code=2)
    folder.write_file(out, notebook(run))
    return show(args, {"run": str(run.path), **about(run), "out": str(out)}, str(out))


COMMANDS = (
    Command(
        "notebook",
        do,
        "write a Jupyter notebook that repeats a run and compares the numbers",
        {**RUN, "--out": {"metavar": "FILE.ipynb"}},
    ),
)
