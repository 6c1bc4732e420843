"""`python -m robustviz.views.quadrants.study` measures in which quarter of the image a smaller
training radius costs least.

PART's motivating experiment on drawn shapes: adversarial training with half the radius in one
quadrant, for each quadrant, and two controls with one radius everywhere; several seeds each.
The file is written after each training run, so an interrupted call continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustviz import attacks, cam, data, methods, paths
from robustviz.runs import folder
from robustviz.stats import Floats, mean_interval
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.training.evaluation import attack_name
from robustviz.types import JSON, UserError, eps_text
from robustviz.views.measure import images_of, net_of
from robustviz.views.quadrants.result import Quadrants
from robustviz.views.transfer.study import made

FOLDER = paths.ROOT / "checkpoints" / "claims"
PLACES = tuple(rule.removeprefix("all-but-") for rule in cam.QUADRANTS)  # in reading order
# Level of each interval of a lead. Four quadrants make six pairs, and the best is known only
# afterwards: at 95% each, one of them often seems ahead by chance. At this level all six intervals
# hold jointly with 95% (Bonferroni's correction).
PAIRS = 1 - 0.05 / 6
CONTROLS = ("full", "low")  # one radius everywhere: ε, and the smaller one
# ResNet-18 on CIFAR-10: clean and PGD-20 accuracy in %, by the quadrant with 6/255 where the others
# have 12/255. Source: a figure in the repository of Zhang et al. 2024 (JiachengZ01/PART), which
# gives two of the four.
PAPER = {"lower-right": (76.77, 46.75), "upper-left": (78.00, 47.69)}


@dataclass(frozen=True)
class Study:
    """The settings of the study: 30 training runs of two minutes each on a quiet core.

    Differs: the paper's radii are 12/255 and 6/255. At 12/255 this small network has not learned
    shapes after the recipe's 20 epochs (two runs of seed 1: 25 and 56% clean accuracy), so the
    study would mostly measure which runs happened to start learning in time. Half of the recipe's
    own 8/255 keeps the paper's ratio.
    """

    data: str = "shapes"
    net: str = "small_resnet"
    eps: float = 8 / 255
    eps_low: float = 4 / 255
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    test_eps: float = 8 / 255
    steps: int = 20
    n_train: int | None = None  # None, also for epochs: the data set's own recipe
    epochs: int | None = None

    def config(self, variant: str, seed: int) -> TrainConfig:
        """The training settings for a variant and a seed. `variant`: the quadrant of the image that
        is attacked with the smaller radius, such as `upper-left`, or a control with one radius
        everywhere: `full` (ε) or `low` (the smaller one).
        """
        return TrainConfig(
            data=data.source(self.data),
            method=methods.PGDAT()
            if variant in CONTROLS
            else methods.PART(rule=f"all-but-{variant}", eps_low=self.eps_low, warmup=0.0),
            net=self.net,
            seed=seed,
            n_train=self.n_train,
            epochs=self.epochs,
            threads=1,
            device="cpu",
            select="last",
            eps=self.eps_low if variant == "low" else self.eps,
        )

    def order(self) -> Iterator[tuple[str, int]]:
        """Yields (variant, seed) in the order of training: all quadrants first, then the
        controls.
        """
        return (
            (name, seed) for names in (PLACES, CONTROLS) for seed in self.seeds for name in names
        )


def protocol_of(study: Study) -> JSON:
    """All settings that a study's numbers depend on, as a dict for its file."""
    config = study.config("full", study.seeds[0])
    return {
        "data": study.data,
        "label": config.data.label,
        "net": study.net,
        "eps": study.eps,
        "eps_low": study.eps_low,
        "test_eps": study.test_eps,
        "attack": attack_name({"key": "pgd", "steps": study.steps}),
        "seeds": list(study.seeds),
        "n_train": config.n_train,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "lr": config.lr,
    }


def measure(study: Study, path: Path, command: str = "") -> JSON:
    """Train and evaluate everything missing from the file at `path`, and return the file's content.

    The file is written after each training run. If it was made with settings other than these, it
    is started anew; only the list of seeds may differ. `command`: the command line, which the file
    names.
    """
    attack, protocol = attacks.PGD(steps=study.steps, eps=study.test_eps), protocol_of(study)
    known: JSON = folder.read_json(path) if path.exists() else {}
    # the list of seeds may differ: results of the seeds already measured stay valid
    same = known.get("protocol", {}) | {"seeds": protocol["seeds"]} == protocol
    cells: list[JSON] = known["cells"] if same else []
    seconds = float(known.get("cpu_seconds", 0)) if cells else 0.0
    out: JSON = {
        "command": command,
        "versions": folder.versions(),
        "cpu_seconds": round(seconds),
        "protocol": protocol,
        "cells": cells,
    }
    there = {(cell["variant"], cell["seed"]) for cell in cells}
    for variant, seed in (each for each in study.order() if each not in there):
        run = made(study.config(variant, seed))
        started, split, net = time.process_time(), images_of(run), net_of(run)
        clean, robust = (
            int(count_right(net, split.x, split.y, how).sum()) for how in (None, attack)
        )
        cells.append(
            {
                "variant": variant,
                "seed": seed,
                "n": len(split),
                "clean_k": clean,
                "robust_k": robust,
            }
        )
        seconds += float(run.status().get("seconds", 0)) + time.process_time() - started
        out["cpu_seconds"] = round(seconds)
        folder.write_file(path, compact(out))
        print(
            f"{variant}, seed {seed}: clean {clean}, {protocol['attack']} {robust} of {len(split)}",
            file=sys.stderr,
            flush=True,
        )
    return out


# What the counts show.


def result_of(study: JSON) -> Quadrants:
    """Converts a study (the content of its file) to arrays, with those seeds for which all four
    quadrants were trained, because only these can be paired. Raises UserError if there is no such
    seed.
    """
    by = {(cell["variant"], cell["seed"]): cell for cell in study["cells"]}
    seeds = [
        seed for seed in study["protocol"]["seeds"] if all((name, seed) in by for name in PLACES)
    ]
    if not seeds:
        raise UserError(
            "The quadrant study has no seed of which all four quadrants are trained: go on with"
            " python -m robustviz.views.quadrants.study."
        )
    names = [*PLACES, *(name for name in CONTROLS if all((name, seed) in by for seed in seeds))]
    cells = [[by[name, seed] for seed in seeds] for name in names]
    clean, robust = (
        np.array([[cell[kind] / cell["n"] for cell in row] for row in cells])
        for kind in ("clean_k", "robust_k")
    )
    meta = study["protocol"] | {
        "n": cells[0][0]["n"],
        "seeds": seeds,
        "command": study["command"],
        "paper": {name: list(two) for name, two in PAPER.items()},
    }
    result = Quadrants(
        names=names,
        clean=clean,
        robust=robust,
        clean_interval=_intervals(clean),
        robust_interval=_intervals(robust),
        clean_lead=_leads(clean),
        robust_lead=_leads(robust),
        meta=meta,
    )
    meta["summary"] = sentence(result)
    return result


def _intervals(share: Floats) -> Floats:
    return np.array([mean_interval(row) for row in share]).clip(0, 1)


def _leads(share: Floats) -> Floats:
    """The best quadrant's accuracy minus each one's, (4, 3): mean and ends of the interval; NaN for
    the best itself.
    """
    four = share[: len(PLACES)]
    best = int(four.mean(axis=1).argmax())
    leads = np.array([mean_interval(four[best] - row, PAIRS) for row in four])
    leads[best] = math.nan
    return leads


def sentence(result: Quadrants) -> str:
    """Sentences on what the study found, made from its numbers."""
    meta, count = result.meta, result.clean.shape[1]
    parts = [
        f"{meta['label']}: one quadrant is trained with {eps_text(meta['eps_low'])}, the rest with"
        f" {eps_text(meta['eps'])}.",
        f"{count} {'seed' if count == 1 else 'seeds'}, {meta['n']} test images.",
    ]
    for kind, what, table, lead in (
        (
            "robust",
            f"{meta['attack']} accuracy at {eps_text(meta['test_eps'])}",
            result.robust_interval,
            result.robust_lead,
        ),
        ("clean", "clean accuracy", result.clean_interval, result.clean_lead),
    ):
        at, decided = result.best(kind)
        least, most = (
            f"{100 * points:.1f}" for points in (np.nanmin(lead[:, 0]), np.nanmax(lead[:, 0]))
        )
        undecided = "no difference shown" if count > 1 else "one seed cannot decide that"
        parts.append(
            f"Best {what}: {100 * table[at, 0]:.1f}%, with the smaller radius"
            f" {result.names[at].replace('-', ' ')}. The others are"
            f" {least if least == most else f'{least} to {most}'} percentage points below:"
            f" {'each difference is clear' if decided else undecided}."
        )
    return " ".join([*parts, *_everywhere(result)])


def _everywhere(result: Quadrants) -> list[str]:
    """Sentences on why the control with the full radius differs from the shipped PGD-AT run.
    The control is a mean over seeds, and its networks are those of the last epoch. Returns an empty
    list if that control or seed 0 is missing, or if there is only one seed.
    """
    meta = result.meta
    if "full" not in result.names or 0 not in meta["seeds"] or len(meta["seeds"]) == 1:
        return []
    at, seed = result.names.index("full"), meta["seeds"].index(0)
    rows = (result.clean, result.robust)
    (clean, one_clean), (robust, one_robust) = (
        (f"{100 * row[at].mean():.1f}%", f"{100 * row[at, seed]:.1f}%") for row in rows
    )
    return [
        f"{eps_text(meta['eps'])} everywhere: a mean of {clean} clean and {robust} under attack.",
        f"Seed 0 alone reaches {one_clean} and {one_robust}.",
        "The shipped PGD-AT shares that seed and recipe, but keeps its best epoch, not the last.",
    ]


def markdown(study: JSON) -> str:
    """The tables and sentences of a study (the content of its file) as Markdown. Raises UserError
    as `result_of` does.
    """
    result = result_of(study)
    meta = result.meta
    title = {
        "full": f"none, {eps_text(meta['eps'])} everywhere",
        "low": f"all, {eps_text(meta['eps_low'])} everywhere",
    }
    attack = f"{meta['attack']} at {eps_text(meta['test_eps'])}"
    rows = [
        [
            title.get(name, name),
            *(_points(table[at]) for table in (result.clean_interval, result.robust_interval)),
            *(
                _points(lead[at]) if at < len(lead) else ""
                for lead in (result.clean_lead, result.robust_lead)
            ),
            *([f"{value:.2f}" for value in PAPER.get(name, ())] or ["", ""]),
        ]
        for at, name in enumerate(result.names)
    ]
    lines = [
        f"{meta['label']}, {meta['net']}: {meta['n_train']} training images, {meta['epochs']}"
        f" epochs, no warm-up; seeds {', '.join(map(str, meta['seeds']))}. Accuracy in % with"
        " 95% t-intervals over seeds; those of the leads hold for all six pairs together.",
        "",
        f"| smaller radius | clean | {attack} | best clean − this | best {meta['attack']} − this |"
        " paper: clean | paper: PGD-20 |",
        "|---" * 7 + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"| smaller radius | seed | n | clean | {attack} |",
        "|---" * 5 + "|",
        *(
            f"| {cell['variant']} | {cell['seed']} | {cell['n']} |"
            f" {100 * cell['clean_k'] / cell['n']:.1f} | {100 * cell['robust_k'] / cell['n']:.1f} |"
            for cell in study["cells"]
        ),
        "",
        sentence(result),
    ]
    return "\n".join(lines)


def _points(row: Floats) -> str:
    mean, low, high = (100 * float(value) for value in row)
    interval = f" [{low:.1f}, {high:.1f}]" if math.isfinite(low) else ""
    return "best" if math.isnan(mean) else f"{mean:.1f}{interval}"


def file_of(data: str) -> Path:
    """The path of the study's file for a data set."""
    return FOLDER / f"quadrants-{data.replace('_', '-')}.json"


def read(data: str = Study.data) -> JSON:
    """The content of a data set's study file. Raises UserError if it is missing or damaged."""
    if not file_of(data).exists():
        raise UserError(
            f"There is no quadrant study on {data} yet: run python -m"
            f" robustviz.views.quadrants.study --data {data}."
        )
    return folder.read_json(file_of(data))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the JSON file, or with `--report` only read it; print the tables.
    Returns the exit code: 0, or that of a UserError, whose message is printed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m robustviz.views.quadrants.study",
        description="In which quadrant does a smaller training radius cost least?",
    )
    parser.add_argument("--data", default=Study.data, help="the data set (default: %(default)s)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="print the tables from the file that is there; train nothing",
    )
    args = parser.parse_args(argv)
    command = f"{parser.prog} --data {args.data}"
    try:
        print(
            markdown(
                read(args.data)
                if args.report
                else measure(Study(data=args.data), file_of(args.data), command)
            )
        )
    except UserError as error:
        print(f"robustviz: {error}", file=sys.stderr, flush=True)
        return error.code
    return 0


def compact(study: JSON) -> bytes:
    """The study as JSON bytes in which each training run is one line."""
    rest = ",\n".join(
        f" {json.dumps(name)}: {json.dumps(value)}"
        for name, value in study.items()
        if name != "cells"
    )
    cells = ",\n  ".join(json.dumps(cell, separators=(",", ":")) for cell in study["cells"])
    return f'{{\n{rest},\n "cells": [\n  {cells}\n ]\n}}\n'.encode()


if __name__ == "__main__":
    raise SystemExit(main())
