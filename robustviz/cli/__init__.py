"""The command line `python -m robustviz …`, for terminals and scripts. With `--json` standard
output has machine-readable output only; progress goes to standard error. Exit status: 0 success, 1
failure, 2 wrong usage; a failure prints one clear line, no traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from robustviz import __version__, paths
from robustviz.cli import (
    app,
    cite,
    claims,
    data,
    evaluate,
    figure,
    jobs,
    lesson,
    listing,
    notebook,
    prepare,
    probe,
    report,
    sweep,
    tidy,
    train,
    travel,
)
from robustviz.cli.contracts import COMMANDS as PLUGINS
from robustviz.cli.imports import COMMANDS as IMPORTS
from robustviz.cli.terminal import Parser, say
from robustviz.plugins import load_all, take
from robustviz.training import world
from robustviz.types import UserError

# commands that use nothing that a plug-in could add, or that load the plug-ins themselves
WITHOUT = ("app", "check", "pause", "plugins", "prepare", "remove", "stop", "tidy")
COMMANDS = (  # in the order in which --help lists them
    *listing.COMMANDS,
    *train.COMMANDS,
    *IMPORTS,
    *travel.COMMANDS,
    *sweep.COMMANDS,
    *evaluate.COMMANDS,
    *probe.COMMANDS,
    *figure.COMMANDS,
    *report.COMMANDS,
    *cite.COMMANDS,
    *notebook.COMMANDS,
    *jobs.COMMANDS,
    *tidy.COMMANDS,
    *prepare.COMMANDS,
    *data.COMMANDS,
    *PLUGINS,
    *claims.COMMANDS,
    *lesson.COMMANDS,
    *app.COMMANDS,
)


def parser() -> argparse.ArgumentParser:
    """The argument parser of the whole command line, with all `COMMANDS`."""
    top = Parser(
        prog="python -m robustviz",
        description=(
            "Train small image models with adversarial-robustness methods, and see what each one"
            " does."
        ),
    )
    top.add_argument("--version", action="version", version=f"robustviz {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, given as `argv` (None: the command line), and return its exit status. An
    error is printed as one line on standard error; an unexpected one is raised instead if
    ROBUSTVIZ_DEBUG is set. `--help` and `--version` raise SystemExit.
    """
    try:
        args = parser().parse_args(argv)
        if world.launched() and args.command not in ("train", "resume"):
            raise UserError(
                f"torchrun is for train and resume, which share their work: run {args.command}"
                " without it.",
                code=2,
            )
        _plug_in(args)
        return int(args.do(args))
    except UserError as error:
        return _failed(str(error), error.code)
    except BrokenPipeError:  # the output was piped into a command that ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        return _failed(str(error) or "interrupted.")
    except ModuleNotFoundError as error:
        return _failed(
            f"the package {error.name} is not installed; install it, or everything with:"
            f" {paths.INSTALL}"
        )
    except MemoryError:
        return _failed("out of memory; use fewer images or a smaller batch.")
    except Exception as error:
        if os.environ.get("ROBUSTVIZ_DEBUG"):
            raise
        return _failed(
            f"unexpected {type(error).__name__}: {error}. Please report it; ROBUSTVIZ_DEBUG=1 shows"
            " where."
        )


def _plug_in(args: argparse.Namespace) -> None:
    """Load the plug-ins that the command may use: for those in `WITHOUT` only the ones named by
    `--plugin`, for `contracts` none, else also those from the environment, from entry points and
    from earlier commands. Raises UserError if one named by `--plugin` cannot be loaded; for the
    others a warning is printed.
    """

    def tell(line: str) -> None:
        if world.reports_errors():
            say(f"robustviz: {line}")

    if args.command in WITHOUT:
        take(args.plugin)
    elif args.command != "contracts":  # it loads the plug-ins that it tests itself
        load_all(args.plugin, tell)


def _failed(sentence: str, status: int = 1) -> int:
    """Print an error message on standard error, and return `status`. Of the processes that torchrun
    started, only the first one that fails prints.
    """
    if world.reports_errors():
        say(f"robustviz: {sentence}")
    return status
