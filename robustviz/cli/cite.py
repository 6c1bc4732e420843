"""The command `cite`: BibTeX entries for what runs use."""

import argparse

from robustviz import citations, registry
from robustviz.cli.terminal import Command, say, show
from robustviz.runs import folder
from robustviz.types import UserError


def do(args: argparse.Namespace) -> int:
    """Print the BibTeX entries for what the named runs use and for named things such as
    `method/trades`; things without an entry are listed on standard error. Returns the exit status
    0. Raises UserError for an unknown name.
    """
    things = list(dict.fromkeys(thing for name in args.what for thing in _things(name)))
    if unknown := citations.missing(things):
        say(f"No entry is known for {', '.join(unknown)}.")
    text = citations.bibtex(things)
    return show(args, {"used": things, "missing": unknown, "bibtex": text}, text)


def _things(name: str) -> tuple[str, ...]:
    """The names, such as `method/trades`, of everything that the run `name` uses; if `name` is
    itself such a name, only this one. Raises UserError if there is neither such a run nor such a
    thing.
    """
    kind, slash, key = name.partition("/")
    if slash and kind in registry.ROOMS:
        registry.get(kind, key)
        return (name,)
    try:
        return citations.used(folder.look_up(name))
    except UserError as error:
        if slash and not (folder.home() / name).exists():
            raise UserError(f"{error} Or name a thing, as method/trades or attack/pgd.") from error
        raise


COMMANDS = (
    Command(
        "cite",
        do,
        "BibTeX of the methods, attacks, data and networks that runs use",
        {"what": {"metavar": "RUN|KIND/KEY", "nargs": "+"}},
    ),
)
