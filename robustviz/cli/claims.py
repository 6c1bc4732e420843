"""The command `claims`: train and measure what the papers' claims need, and show the verdicts."""

import argparse

from robustviz.cli.sweep import Bar
from robustviz.cli.terminal import Command, say, show
from robustviz.registry import unknown
from robustviz.types import UserError
from robustviz.views.claims.result import found


def do(args: argparse.Namespace) -> int:
    """Train and measure what is missing for the claims (not with `--report`), write down the
    verdicts, and show one row for each expectation, or with `--networks` one for each network.
    Returns the exit status 0. Raises UserError for a data set on which no claim is tested.
    """
    from robustviz.claims import claim, study, written

    known = [setup.data for setup in claim.setups()]
    if strange := [name for name in args.data if name not in known]:
        raise UserError(unknown("data set of the claims", strange[0], known), code=2)
    if args.report:
        study.write()
    else:
        bar = Bar("claims")
        study.make(args.data, bar, say)
        bar.end()
    if args.networks:
        table = [side for side in study.table() if not args.data or side.data in args.data]
        return show(args, [vars(side) for side in table], written.networks(table))
    rows = [row for row in found().rows if not args.data or row.data in args.data]
    return show(args, [vars(row) for row in rows], written.expectations(rows))


COMMANDS = (
    Command(
        "claims",
        do,
        "train and measure what is needed to test the papers' claims, and show the verdicts",
        {
            "data": {"nargs": "*", "metavar": "DATA", "help": "on these only, such as digits"},
            "--report": {
                "action": "store_true",
                "help": "train nothing, show the verdicts known so far",
            },
            "--networks": {
                "action": "store_true",
                "help": "the accuracies of the networks instead of the verdicts",
            },
        },
    ),
)
