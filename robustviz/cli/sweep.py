"""The command `sweep`: train a grid of settings, one after the other, the cheapest first."""

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

from robustviz.cli.listing import summary
from robustviz.cli.terminal import Command, say, settings, show
from robustviz.runs import folder
from robustviz.runs.inside import OVER
from robustviz.types import JSON, UserError

ASK = 200  # number of grid points above which the user must confirm
WIDE = 20  # width of the progress bar in characters
LISTS = ("data", "methods", "nets", "seeds")


def do(args: argparse.Namespace) -> int:
    """Train the points of the grid that are not trained yet, and show the results of all points.
    Returns the exit status 0. Raises UserError for an invalid grid, and after showing the results
    if some points are not trained.
    """
    from robustviz.runs import plans, sweeps

    grid = sweeps.Grid.read(Path(args.file)) if args.file else sweeps.Grid.make(_typed(args))
    if args.file and (given := _typed(args)):
        raise UserError(
            f"The grid is defined in {args.file}: leave out"
            f" {', '.join(f'--{name}' for name in given)} here, or put it into the file.",
            code=2,
        )
    if ASK < grid.count <= sweeps.MOST and not args.yes:
        _ask(grid.count)
    configs = grid.configs(here=args.on == "local")
    ids = [config.run_id for config in configs]
    # the default name is a hash of the points, so the same grid always has the same name
    usual = f"sweep-{hashlib.sha256(' '.join(sorted(ids)).encode()).hexdigest()[:8]}"
    name = args.name or grid.name or usual
    plans.keep_plan(name, ids)
    bar = Bar(name)
    try:
        with plans.fed(name, bar) as tell:
            if args.on == "local":
                refused = sweeps.follow(configs, tell)
            else:
                from robustviz.runs import cluster

                refused = cluster.follow(configs, args.on, tell)
    except plans.Stopped:
        raise UserError(
            f"The sweep {name} was stopped from the Train page. The same command goes on with it."
        ) from None
    finally:
        bar.end()
    rows = [_row(each, refused.get(each)) for each in ids]
    lines = [f"{row['id']:<44} {row['state']:<12} {row.get('note', '')}" for row in rows]
    show(args, rows, "\n".join(lines))
    if missing := [f"{row['id']} ({row['state']})" for row in rows if row["state"] not in OVER]:
        raise UserError(
            f"{len(missing)} of {len(rows)} are not done: {', '.join(missing)}. The same command"
            " tries them again."
        )
    return 0


def _typed(args: argparse.Namespace) -> JSON:
    """The grid given by command-line options, as `Grid.make` takes it. A comma separates two
    values, except within square brackets.
    """
    out: JSON = {name: value for name in LISTS if (value := getattr(args, name)) is not None}
    if args.preset:
        out["preset"] = args.preset
    points: dict[str, list[str]] = {}
    for path, text in args.set:
        points.setdefault(path, []).extend(_values(text))
    return out | ({"set": points} if points else {})


def _values(text: str) -> list[str]:
    return [each.strip() for each in re.split(r",(?![^\[]*\])", text)]


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in _values(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"whole numbers are meant, for example 0,1,2; {text!r} is not that"
        ) from None


def _ask(count: int) -> None:
    """Ask the user to confirm a large sweep. Raises UserError if the answer is no, or if standard
    input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise UserError(
            f"This sweep has {count:,} points, more than {ASK}: if that is meant, add --yes.",
            code=2,
        )
    print(f"This sweep has {count:,} points. Train them all? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was started.")


def _row(run_id: str, refused: str | None) -> JSON:
    """The result row of a grid point: as in `list runs`, and always with both accuracies (None if
    not measured). `refused`: why its training was not queued, which becomes the note; None if it
    was. The state is `not begun` if there is no run folder.
    """
    run = folder.Run(folder.home() / run_id)
    row: JSON = {"clean_acc": None, "robust_acc": None} | summary(run)
    if not run.path.is_dir():
        row["state"] = "not begun"
    return row | ({"note": refused} if refused else {})


class Bar:
    """A callable that shows the progress of a sweep (a `sweeps.Now`) on standard error.

    On a terminal the progress is one line that is overwritten; elsewhere each new training gets a
    line.
    """

    def __init__(self, name: str) -> None:
        self.name, self.said = name, ""
        self.live = sys.stderr.isatty()

    def __call__(self, now: Any) -> None:
        done = WIDE * now.over // now.total
        if self.live:
            line = (
                f"sweep {self.name} [{'#' * done}{'-' * (WIDE - done)}] {now.over} of {now.total}"
                f" over, about {_duration(now.seconds)} left; {now.run.id}"
            )
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif now.run.id != self.said:
            self.said = now.run.id
            say(
                f"sweep {self.name}: {now.over} of {now.total} over, about"
                f" {_duration(now.seconds)} left; {now.run.id}"
            )

    def end(self) -> None:
        """Clear the progress line, if there is one."""
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    long = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds < 100 else long


FORM = (
    "A file holds name, preset, data, methods, nets, seeds and a table [set]; each value may be a"
    " list, and every value goes with every other (docs/sweeps.md). Ctrl-C stops waiting; the same"
    " command goes on."
)
COMMANDS = (
    Command(
        "sweep",
        do,
        "train a grid of settings, the cheapest first; an interrupted sweep is continued",
        {
            "file": {"metavar": "FILE.toml", "nargs": "?", "help": "the grid"},
            "--data": {"type": _values, "metavar": "A,B", "help": "without a file: the data sets"},
            "--methods": {"type": _values, "metavar": "A,B", "help": "see `list methods`"},
            "--nets": {"type": _values, "metavar": "A,B", "help": "see `list nets`"},
            "--seeds": {"type": _numbers, "metavar": "0,1,2"},
            "--preset": {"help": "settings shared by all points; see `list presets`"},
            **settings("PATH=A,B", "the values of any setting, like eps=2/255,4/255 or epochs=5"),
            "--name": {
                "metavar": "NAME",
                "help": "the sweep's name, which stands for these points",
            },
            "--on": {
                "default": "local",
                "metavar": "local|ray|ray://HEAD:10001",
                "help": "where to train: one after the other here, or on a Ray cluster"
                " (docs/cluster.md)",
            },
            "--yes": {"action": "store_true", "help": f"also with more than {ASK} points"},
        },
        FORM,
    ),
)
