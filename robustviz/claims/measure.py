"""Measures trained runs for the claims, and saves the numbers in one small file for each run, so
that computing a verdict needs no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from robustviz.claims.claim import FOLDER, Setup, config, unseen
from robustviz.runs import folder
from robustviz.runs.files import read_json, to_bytes, write_file
from robustviz.types import JSON, UserError

if TYPE_CHECKING:
    from robustviz.runs.folder import Run
    from robustviz.training.evaluation import Evaluation

RUNS = FOLDER / "runs"
IMAGES = 50  # number of images for the curvature of the loss, which takes seconds for each


def file_of(run_id: str) -> Path:
    """The path of the file with a run's measured numbers; it may not exist yet."""
    return RUNS / f"{run_id}.json"


def numbers(run_id: str) -> dict[str, float]:
    """The saved numbers of a run by metric; empty if none has been measured yet. Raises UserError
    if the file is damaged.
    """
    path = file_of(run_id)
    return cast("dict[str, float]", read_json(path)["numbers"]) if path.exists() else {}


def measure(run: Run, metrics: Iterable[str], setup: Setup, seed: int) -> dict[str, float]:
    """Measure those of `metrics` that are not saved yet for a finished run, and return all its
    saved numbers by metric. Each number is saved as soon as it is measured. `seed`: the run's
    training seed.

    Raises UserError if a number is not finite, and as the evaluations and probes behind the metrics
    do.
    """
    known = numbers(run.id)
    for metric in sorted(set(metrics) - known.keys()):
        value = float(WAYS[metric](run, setup, seed))
        if not np.isfinite(value):
            raise UserError(f"{run.id}: {metric} is {value}, so there can be no verdict.")
        known[metric] = value
        content: JSON = {
            "config": run.config.to_json(),
            "numbers": dict(sorted(known.items())),
            "seconds": run.status()["seconds"],
            "versions": run.info.get("versions", {}),
        }
        write_file(file_of(run.id), to_bytes(content))
    return known


def _clean(run: Run, setup: Setup, seed: int) -> float:
    return _under(run, setup, "pgd").clean_acc


def _robust(attack: str) -> Callable[[Run, Setup, int], float]:
    return lambda run, setup, seed: _under(run, setup, attack).robust_acc


def _both(run: Run, setup: Setup, seed: int) -> float:
    first, second = (_under(run, setup, attack).right()[1] for attack in ("pgd", "cw"))
    return float((first & second).mean())


def _under(run: Run, setup: Setup, attack: str) -> Evaluation:
    """The evaluation of a run under the attack `fgsm`, `pgd` (20 steps) or `cw` (100 steps), on the
    setup's number of test images. It is made once and then read from the run's folder.
    """
    from robustviz.attacks import CW, FGSM, PGD
    from robustviz.training.evaluate import ladder

    made = {"fgsm": FGSM(), "pgd": PGD(steps=20), "cw": CW(steps=100)}[attack]
    return ladder(run, n=setup.n or None, rungs=(made,)).rungs[0]


def _gap(run: Run, setup: Setup, seed: int) -> float:
    from robustviz import probes
    from robustviz.views.features.result import FeaturesSpec

    own, other = probes.features(run, FeaturesSpec()).cosines("clean")
    return float((own - other).mean())


def _misaligned(run: Run, setup: Setup, seed: int) -> float:
    from robustviz import probes
    from robustviz.views.misalignment.result import MisalignmentSpec

    return probes.misalignment(run, MisalignmentSpec()).auc[0]


def _features(run: Run, setup: Setup, seed: int) -> float:
    from robustviz import probes

    found = probes.carried(run)
    return float(found.half[found.counted].mean())


def _transfer(run: Run, setup: Setup, seed: int) -> float:
    from robustviz import probes
    from robustviz.views.transfer.result import TransferSpec

    target = config(setup, *unseen(seed)).run_id
    return float(probes.transfer(run, TransferSpec(targets=target)).error[0])


def _curvature(run: Run, setup: Setup, seed: int) -> float:
    from robustviz import probes
    from robustviz.views.loss.result import CurvatureSpec

    found = probes.curvature(run, CurvatureSpec(n=IMAGES))
    return float(np.log10(np.median(np.abs(found.eigenvalue))))


WAYS: dict[str, Callable[[Run, Setup, int], float]] = {
    "clean": _clean,
    "fgsm": _robust("fgsm"),
    "pgd": _robust("pgd"),
    "both": _both,
    "gap": _gap,
    "misaligned": _misaligned,
    "features": _features,
    "transfer": _transfer,
    "curvature": _curvature,
}


def finished(run_id: str) -> Run | None:
    """The user's run with this id if its training is done, else None."""
    run = folder.Run(folder.home() / run_id)
    return run if run.status()["state"] == "done" else None
