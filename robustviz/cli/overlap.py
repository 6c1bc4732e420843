"""The command `report --overlap`: how well class activation maps (CAM) match the true object."""

import argparse

from robustviz.cli import tables
from robustviz.cli.terminal import called, say, whose
from robustviz.runs import folder
from robustviz.types import JSON, UserError
from robustviz.views.attention.result import MAPS, OVERLAPS, Overlap, OverlapSpec

SHOWN = {"iou": "IoU", "pointing": "pointing"}
HEAD = [
    "run",
    *(
        f"{name} {kind} [95%]"
        for name in SHOWN.values()
        for kind in ("clean", "attacked", "random weights")
    ),
    "n",
]


def do(args: argparse.Namespace) -> int:
    """Show how well the class activation maps of the named runs match the true object, one row for
    each run. Returns the exit status 0.

    If no run is named, the table has the shipped runs on shapes with the network `small_resnet`.
    Raises UserError if no run can be measured, and with `--ladder` or `--against`.
    """
    if args.ladder or args.against:
        raise UserError(
            "--overlap is a table of its own: leave out --ladder and --against.", code=2
        )
    runs = [folder.open_run(name) for name in args.run] or [
        run
        for run in folder.all_runs()
        if run.shipped and (run.data_key, run.architecture) == ("shapes", "small_resnet")
    ]
    if not runs:
        raise UserError("There is no shipped run on shapes: name the runs.")
    overlaps = _measured(runs)
    if not overlaps:
        raise UserError("None of these runs can be measured.")
    rows = [(whose(run) | _facts(overlap), _cells(run, overlap)) for run, overlap in overlaps]
    rows = tables.chosen(args, HEAD, rows)
    return tables.show(args, HEAD, rows, [_note(overlaps[0][1])], tables.EMPTY)


def _cells(run: folder.Run, overlap: Overlap) -> list[str]:
    return [
        called(run),
        *(
            "{:.3f} [{:.3f}, {:.3f}]".format(*overlap.interval(measure, row))
            for measure in SHOWN
            for row in range(len(MAPS))
        ),
        str(overlap.meta["n"]),
    ]


def _measured(runs: list[folder.Run]) -> list[tuple[folder.Run, Overlap]]:
    """Each run that can be measured, with its overlap. If several runs are given, an error of one,
    such as missing object masks, is printed and does not stop the others.
    """
    from robustviz.views.measure import measure

    overlaps = []
    for run in runs:
        try:
            overlaps.append((run, measure(run, OverlapSpec())))
        except UserError as error:
            if len(runs) == 1:
                raise
            say(f"{run.id}: {error}")
    return overlaps


def _facts(overlap: Overlap) -> JSON:
    """The values of a row for machines. For each measure: mean and interval for each kind of map,
    and the value that chance gives; then the settings of the measurement.
    """
    return {
        measure: {
            kind: dict(zip(("mean", "low", "high"), overlap.interval(measure, row), strict=True))
            for row, kind in enumerate(MAPS)
        }
        | {"chance": float((overlap.chance if measure == "iou" else overlap.area).mean())}
        for measure in OVERLAPS
    } | {name: overlap.meta[name] for name in ("n", "cam", "rule", "of", "eps", "steps", "seed")}


def _note(overlap: Overlap) -> str:
    return (
        "Means over the first n test images; {cam} of the {of} class, mask {rule}, PGD-{steps} at"
        " each run's ε, seed {seed}. IoU: Student's t; pointing: Wilson. Chance level: about {:.3f}"
        " and {:.3f}."
    ).format(overlap.chance.mean(), overlap.area.mean(), **overlap.meta)
