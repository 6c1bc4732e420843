"""The command `evaluate`: a run's accuracy under one attack or under a ladder of attacks."""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from robustviz import registry
from robustviz.cli import data
from robustviz.cli.tables import safe
from robustviz.cli.terminal import DEVICE, RUN, Command, about, number, say, settings, show
from robustviz.runs import folder
from robustviz.training.ladder import worst
from robustviz.types import UserError
from robustviz.views.result import csv_of

if TYPE_CHECKING:
    from robustviz.attacks import Attack
    from robustviz.training.evaluation import Evaluation
    from robustviz.training.images import Images


def do(args: argparse.Namespace) -> int:
    """Evaluate the run under one attack or under the ladder of attacks, save the results with the
    run's evaluations (`Run.add_evaluation`), and show its accuracies; with `--out` also write a
    table of the images, for one attack. Returns the exit status 0.
    """
    from robustviz.training.evaluate import evaluate
    from robustviz.training.images import Images

    if args.seed < 0 or (args.n is not None and args.n < 1):
        raise UserError("--seed must be 0 or more, and --n 1 or more.", code=2)
    run = data.on(args.data, folder.open_run(args.run))
    if args.out and (args.attack == "ladder" or Path(args.out).suffix.lower() != ".csv"):
        raise UserError(
            "--out writes a table of images for one attack: use a file name ending in .csv, and not"
            " --attack ladder.",
            code=2,
        )
    if args.attack == "ladder":
        return _ladder(args, run)
    images = Images()
    result = evaluate(
        run,
        _attack(args, run),
        n=args.n,
        seed=args.seed,
        device=args.device,
        seen=images.see if args.out else None,
    )
    if args.out:
        _write(args.out, run, images)
    together = worst(run.evaluations(), result)
    lines = (
        f"{run.id}, split {result.split}",
        str(result),
        *([f"  {said}"] if (said := _doubt(run, result)) else []),
        *([f"  {said}"] if (said := result.classwise(run.classes)) else []),
        *([f"  {together.text}"] if together and together.several else []),
        *([f"  {args.out}"] if args.out else []),
    )
    facts = (
        result.to_json()
        | ({"out": args.out} if args.out else {})
        | (together.to_json() if together else {})
    )
    return show(args, {"run": str(run.path)} | about(run) | facts, "\n".join(lines))


def _doubt(run: folder.Run, result: "Evaluation") -> str:
    """For an imported network with a low clean accuracy, a sentence on what to check; else empty.
    Low is below m + (1 − m)/4, where m is the share of the largest class: less than a quarter of
    the way from always answering with that class to no error.
    """
    return (
        f"Only {result.clean_k} of {result.n} untouched images are right. Do its mean, std and"
        " order of classes fit? See docs/import.md."
        if run.imported
        and 4 * result.clean_k < result.n + 3 * max((n for n, *_ in result.by_class), default=0)
        else ""
    )


def _write(out: str, run: folder.Run, images: "Images") -> None:
    """Write the CSV file `out` with one row for each evaluated image; text that a spreadsheet would
    take for a formula is escaped.
    """
    from robustviz.data import load

    rows = images.rows(load(run.config.data, "test"))
    folder.write_file(Path(out), csv_of([{each: safe(row[each]) for each in row} for row in rows]))


def _attack(args: argparse.Namespace, run: folder.Run) -> "Attack":
    """The attack with the settings given on the command line. By default it has the norm in which
    the run was trained, and `pgd` has 20 steps. Raises UserError for an unknown attack, and for a
    setting that the attack does not have.
    """
    from robustviz.training.config import read_value
    from robustviz.training.evaluate import norm_of

    if args.attack not in (known := registry.keys("attack")):
        raise UserError(registry.unknown("attack", args.attack, (*known, "ladder")), code=2)
    attack: Attack = registry.build(
        registry.get("attack", args.attack),
        {"norm": norm_of(run.config)} | ({"steps": 20} if args.attack == "pgd" else {}),
    )
    given = [
        *(
            (name, value)
            for name, value in vars(args).items()
            if name in ("eps", "steps", "restarts") and value is not None
        ),
        *((name.removeprefix("attack."), read_value(text)) for name, text in args.set),
    ]
    fields = registry.hints(type(attack))
    for name, value in given:
        if name.partition(".")[0] not in fields:
            raise UserError(
                f"The attack {attack.key} has no setting called {name}; it has"
                f" {', '.join(each for each in fields if each not in ('norm', 'targeted'))}.",
                code=2,
            )
        attack = registry.with_value(attack, name, value)
    return attack


def _ladder(args: argparse.Namespace, run: folder.Run) -> int:
    from robustviz.training.evaluate import ladder

    if args.steps is not None or args.restarts is not None or args.set:
        raise UserError(
            "The ladder's attacks are fixed, so that runs can be compared: leave out --steps,"
            " --restarts and --set.",
            code=2,
        )
    # Each attack's result is shown as soon as it is there: the last attack may take an hour.
    tell = say if args.json else functools.partial(print, flush=True)
    before = {} if args.again else {one.key: one.seconds for one in run.evaluations()}
    result = ladder(
        run, eps=args.eps, n=args.n, seed=args.seed, device=args.device, say=tell, again=args.again
    )
    if old := sum(before.get(one.key) == one.seconds for one in result.rungs):
        tell(
            f"Measured before and not repeated: {old} of {len(result.rungs)} rungs; --again"
            " measures all of them anew."
        )
    together = worst(run.evaluations(), result.rungs[-1])
    facts = result.to_json() | (together.to_json() if together else {})
    return show(
        args,
        {"run": str(run.path)} | about(run) | facts,
        "\n".join(
            filter(
                None,
                (
                    f"Clean {result.rungs[0].clean_k} of {result.n}. {result.verdict}",
                    together.text if together and len(together.attacks) > len(result.rungs) else "",
                    _doubt(run, result.rungs[0]),
                    result.rungs[-1].note,
                ),
            )
        ),
    )


COMMANDS = (
    Command(
        "evaluate",
        do,
        "measure a run's accuracy under attack on its test split",
        {
            **RUN,
            **data.ELSEWHERE,
            "--attack": {
                "default": "pgd",
                "help": (
                    "see `list attacks` (default: pgd with 20 steps); ladder: FGSM, PGD-20,"
                    " PGD-100×5, CW-100 and AutoAttack"
                ),
            },
            "--eps": {"type": number},
            "--steps": {"type": int},
            "--restarts": {"type": int},
            **settings("FIELD=VALUE", "any setting of the attack, like loss=dlr"),
            "--n": {"type": int, "help": "the first n images of a seed-0 stratified permutation"},
            "--seed": {"type": int, "default": 0},
            "--out": {
                "metavar": "FILE.csv",
                "help": "one row for each image: file, label, predictions clean and attacked,"
                " distance",
            },
            "--again": {
                "action": "store_true",
                "help": "measure also those rungs of the ladder that were measured before",
            },
            "--device": {**DEVICE, "default": "auto"},
        },
    ),
)
