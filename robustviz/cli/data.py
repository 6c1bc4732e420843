"""The command `data`, for data sets that the user adds under a name, and the option `--data` of
other commands.
"""

import argparse
from typing import TYPE_CHECKING

from robustviz.cli.terminal import Arguments, Command, settings, show
from robustviz.runs import folder
from robustviz.types import JSON, UserError

if TYPE_CHECKING:
    from robustviz.data import Dataset, Source

ELSEWHERE: Arguments = {
    "--data": {
        "metavar": "SOURCE",
        "help": "images of the same classes in another place, as folder:PATH, for example after"
        " they were moved",
    }
}
WHAT = "folder:PATH, FILE.csv (path,label,split), package.module:make or FILE.py:make"


def do(args: argparse.Namespace) -> int:
    """Add, list or remove data sets of the user's own, as `args.what` says. Returns the exit status
    0. Raises UserError if what to add or remove is not named, and as adding and removing do.
    """
    if args.what == "list":
        return _list(args)
    if not args.which:
        wanted = f"what to add: {WHAT}" if args.what == "add" else "the name to remove"
        raise UserError(f"`data {args.what}` needs {wanted}.", code=2)
    return _add(args) if args.what == "add" else _remove(args)


def named(text: str) -> "Source":
    """The source of images that `text`, as a person typed it after `--data`, names; its paths are
    absolute. Raises UserError as `data.source` does.

    If it is a function of the user's, the code is loaded now and remembered as trusted, because the
    training may run in another process, which must import it too.
    """
    from robustviz import data, plugins

    source = data.source(text).placed()
    if isinstance(source, data.Made):
        plugins.take([source.make.rpartition(":")[0]])
    return source


def on(text: str | None, run: folder.Run) -> folder.Run:
    """The run `run`, but with the images that `text`, the value of `--data`, names in place of its
    own test images; `run` itself if `text` is empty or None. Raises UserError if the images have
    other classes, another size or another number of channels than the run's.
    """
    return folder.Elsewhere(run, named(text)) if text else run


def _add(args: argparse.Namespace) -> int:
    from robustviz import data, registry
    from robustviz.data import own
    from robustviz.training.config import read_value

    if not args.name:
        raise UserError("Give the data set a name: --name NAME.", code=2)
    own.check_name(args.name)
    source = named(args.which)
    for path, text in args.set:
        value = text if registry.is_text(source, path) else read_value(text)
        source = registry.with_value(source, path, value)
    splits = {split: data.load(source, split) for split in data.SPLITS}
    card = splits["train"].card
    added = own.add(args.name, source, card)
    facts = {"name": added.name, "source": added.asked, "card": card, "counts": _counts(splits)}
    lines = [
        card,
        *(
            f"  {split:<6} {len(each):>7,} images: "
            + ", ".join(f"{name} {count:,}" for name, count in _count(each).items())
            for split, each in splits.items()
        ),
        f"Its name is {added.name}; use it with: python -m robustviz train --data {added.name}",
    ]
    return show(args, facts, "\n".join(lines))


def _count(split: "Dataset") -> dict[str, int]:
    counts = split.y.bincount(minlength=len(split.classes)).tolist()
    return dict(zip(split.classes, counts, strict=True))


def _counts(splits: "dict[str, Dataset]") -> JSON:
    return {name: _count(split) for name, split in splits.items()}


def _list(args: argparse.Namespace) -> int:
    from robustviz.data import own

    rows = [
        {"name": each.name, "source": each.asked, "place": each.place, "card": each.card}
        for each in own.every().values()
    ]
    lines = [f"{row['name']:<20} {row['place']}\n  {row['card']}".rstrip() for row in rows]
    return show(args, rows, "\n".join(lines) or f"None yet. Add one: data add {WHAT} --name NAME")


def _remove(args: argparse.Namespace) -> int:
    from robustviz.data import own

    added = own.every().get(args.which)
    own.remove(args.which)
    runs = [run.id for run in folder.all_runs() if run.data_name == args.which]
    stays = f"; what lies in {added.place} stays." if added and not added.uploaded else "."
    lines = [
        f"{args.which} is removed{stays}",
        *([f"Runs that were trained on it are kept: {', '.join(runs)}."] if runs else []),
    ]
    return show(args, {"removed": args.which, "runs": runs}, "\n".join(lines))


COMMANDS = (
    Command(
        "data",
        do,
        "name a data set of your own, list your data sets, or remove one",
        {
            "what": {"choices": ("add", "list", "remove")},
            "which": {"nargs": "?", "metavar": "SOURCE|NAME", "help": f"to add: {WHAT}"},
            "--name": {"help": "its name, of a-z, 0-9, '-' and '_'"},
            **settings("FIELD=VALUE", "any setting of the source, like size=64"),
        },
        "Pictures are not moved. Removing a data set keeps its runs, and pictures in folders of"
        " your own.",
    ),
)
