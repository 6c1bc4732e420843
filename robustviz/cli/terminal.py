"""What all commands share: their arguments, the result on standard output, and progress on standard
error.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from robustviz.runs.folder import Run
from robustviz.types import JSON, UserError, parse_number

Arguments = Mapping[str, Mapping[str, Any]]  # keyword arguments of `add_argument` by its name

RUN: Arguments = {"run": {"metavar": "RUN"}}
DEVICE = {"metavar": "DEVICE", "help": "auto, cpu, cuda, or one of several GPUs, as cuda:1"}


def say(line: str) -> None:
    """Print a progress line for people, on standard error."""
    print(line, file=sys.stderr, flush=True)


def show(args: argparse.Namespace, value: object, text: str) -> int:
    """Print a command's result: `value` as one line of JSON if `--json` is set, else `text`.
    Returns the exit status 0.
    """
    print(json.dumps(value) if args.json else text, flush=True)
    return 0


def about(run: Run) -> JSON:
    """The fields that identify a run in every JSON object about it: its id and path."""
    return {"id": run.id, "path": str(run.path)}


def whose(run: Run) -> JSON:
    """The fields with which the JSON object of a table row begins: the id (as `run` and as `id`),
    path, label, data, method and training seed of its run.
    """
    return {
        "run": run.id,
        **about(run),
        "label": run.label,
        "data": run.data_name,
        "method": run.method_key,
        "train_seed": run.info.get("seed"),
    }


def called(run: Run) -> str:
    """What tables call a run: its id, and in brackets its label if it has one."""
    return f"{run.id} ({run.label})" if run.label else run.id


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports wrong usage as a UserError of one line, without the usage
    block.
    """

    def error(self, message: str) -> NoReturn:
        raise UserError(
            f"{message[0].upper()}{message[1:]}. See `python -m robustviz"
            f" {' '.join(self.prog.split()[3:])} --help`.".replace("  ", " "),
            code=2,
        )


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    `do` runs it: it takes the parsed arguments and returns the exit status. `arguments`: its own
    arguments; every command also has `--json` and `--plugin`. `help` and `epilog`: the texts at the
    beginning and the end of its `--help`.
    """

    name: str
    do: Callable[[argparse.Namespace], int]
    help: str
    arguments: Arguments
    epilog: str = ""

    def add_to(self, commands: "argparse._SubParsersAction[Parser]") -> None:
        """Add this command, with `--json` and `--plugin`, to the command line's parser."""
        parser = commands.add_parser(
            self.name, help=self.help, description=self.help, epilog=self.epilog
        )
        parser.set_defaults(do=self.do)
        parser.add_argument(
            "--json", action="store_true", help="machine-readable output on standard output"
        )
        parser.add_argument(
            "--plugin",
            action="append",
            default=[],
            metavar="FILE|MODULE",
            help="code of yours to load, and to remember (docs/plugins.md); may be given again",
        )
        for argument, options in self.arguments.items():
            parser.add_argument(argument, **options)


def settings(metavar: str, help: str) -> Arguments:
    """The argument `--set`, which can be given several times, with this `metavar` and help text."""
    return {
        "--set": {
            "type": setting,
            "action": "append",
            "default": [],
            "metavar": metavar,
            "help": help,
        }
    }


def number(text: str) -> float:
    """An argparse type: the number in a text such as `0.15` or `8/255`."""
    return parse_number(text)


def setting(text: str) -> tuple[str, str]:
    """An argparse type: splits `PATH=VALUE` into the pair (path, value)."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(
            f"PATH=VALUE is meant, for example method.beta=6; {text!r} is not that"
        )
    return path.strip(), value
