"""The commands `contracts` and `plugins`: test plug-ins against their contracts, and list
plug-ins.
"""

import argparse

from robustviz import plugins, trusted
from robustviz.cli.terminal import Command, say, show
from robustviz.types import JSON, UserError


def contracts(args: argparse.Namespace) -> int:
    """Test everything that the plug-ins named by `--plugin` register against the promises of its
    kind, and print one line for each test. Returns the exit status: 1 if a promise is broken, else
    0. Raises UserError if no plug-in is named, if one cannot be loaded, and if one registers
    nothing.
    """
    from robustviz import contracts

    if not args.plugin:
        raise UserError("Which plug-in? Name it: --plugin FILE.", code=2)
    rows: list[JSON] = []
    for plugin in map(plugins.use, args.plugin):
        if not plugin.things:
            raise UserError(f"{plugin.source} registers nothing: put @register(…) above a class.")
        for row in contracts.tried(plugin):
            rows.append(row)
            if not args.json:
                print(_line(row), flush=True)
    broken = [row for row in rows if row["kept"] is False]
    several = "one promise is" if len(broken) == 1 else f"{len(broken)} promises are"
    kept = f"All {sum(row['kept'] is True for row in rows)} promises are kept."
    if args.json:
        show(args, rows, "")
    say(f"robustviz: {several} broken." if broken else kept)
    return 1 if broken else 0


def _line(row: JSON) -> str:
    word = {True: "ok", False: "BROKEN", None: "-"}[row["kept"]]
    said = f"\n         {row['said']}" if row["said"] else ""
    return f"{word:<8} {row['thing']}: {row['promise']}{said}"


def listing(args: argparse.Namespace) -> int:
    """Load all plug-ins, and list those that are remembered or were loaded, with what they register
    or why they cannot be loaded. With `forget SOURCE`, stop remembering that one instead. Returns
    the exit status 0. Raises UserError for `forget` without SOURCE.
    """
    if (args.what is None) != (args.source is None):
        raise UserError("Which plug-in? Name it: plugins forget SOURCE.", code=2)
    if args.source:
        trusted.forget(args.source)
        text = f"{args.source} is no longer loaded; its file is unchanged."
        return show(args, {"forgotten": args.source}, text)
    wrong: list[str] = []
    plugins.load_all(tell=wrong.append)
    held, remembered = {each.source: each for each in plugins.loaded()}, trusted.every()
    rows: list[JSON] = [
        {"source": name, "sha256": held[name].sha256, "brings": list(held[name].things), "said": ""}
        if name in held
        else {"source": name, "sha256": remembered[name]["sha256"], "brings": [], "said": said}
        for name in {**remembered, **held}
        for said in ["".join(each for each in wrong if name in each)]
    ]
    lines = [f"{row['source']}  {', '.join(row['brings']) or row['said']}" for row in rows]
    return show(args, rows, "\n".join(lines) or "No plug-ins: name one with --plugin FILE.")


COMMANDS = (
    Command(
        "contracts",
        contracts,
        "test whether a plug-in's classes keep what all classes of their kind promise",
        {},
    ),
    Command(
        "plugins",
        listing,
        "list the plug-ins that are loaded, or forget one",
        {
            "what": {"choices": ("forget",), "nargs": "?", "help": "stop loading it automatically"},
            "source": {"metavar": "FILE|MODULE", "nargs": "?"},
        },
    ),
)
