"""`claims`: train and measure what the papers' claims need, and say what was found."""

import argparse

from robustviz.cli.sweep import Bar
from robustviz.cli.terminal import Command, markdown, say, show
from robustviz.registry import unknown
from robustviz.types import UserError
from robustviz.views.claims.result import Row, found

HEAD = ["claim of", "data", "expected", "verdict", "difference", "seeds"]


def do(args: argparse.Namespace) -> int:
    """Train, measure, and show a row for each expectation."""
    from robustviz.claims import claim, study

    known = [setup.data for setup in claim.setups()]
    if strange := [name for name in args.data if name not in known]:
        raise UserError(unknown("data set of the claims", strange[0], known), code=2)
    if args.report:
        study.write()
    else:
        bar = Bar("claims")
        study.make(args.data, bar, say)
        bar.end()
    rows = [row for row in found().rows if not args.data or row.data in args.data]
    return show(args, [vars(row) for row in rows], "\n".join(markdown(HEAD, map(_cells, rows))))


def _cells(row: Row) -> list[str]:
    effect = "–" if row.effect is None else f"{row.effect:+.3f}"
    span = "" if row.low is None or row.high is None else f" [{row.low:+.3f}, {row.high:+.3f}]"
    return [row.label, row.data, row.says, row.text, effect + span, f"{row.seeds} of {row.wanted}"]


COMMANDS = (
    Command(
        "claims",
        do,
        "train and measure what the papers' claims need, and say which are seen here",
        {
            "data": {"nargs": "*", "metavar": "DATA", "help": "on these only, such as digits"},
            "--report": {"action": "store_true", "help": "train nothing: what is known so far"},
        },
    ),
)
