"""The command `report --seeds`: the mean accuracy of each method over its training seeds.

An interval here says how far the mean could be from that over all possible seeds; the interval of a
single evaluation is about other test images instead. The ends are cut to [0, 1], because no
accuracy lies outside. The table reads the shipped runs, the user's runs, and `checkpoints/seeds`,
which holds evaluations of networks whose weights are not shipped.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustviz import paths, plugins, registry
from robustviz.cli import tables
from robustviz.cli.terminal import say
from robustviz.runs import folder
from robustviz.runs.files import read_json, to_bytes, write_file
from robustviz.stats import finite_or_none, share_interval
from robustviz.training.evaluation import Evaluation
from robustviz.training.ladder import worst
from robustviz.types import JSON, UserError, eps_text

if TYPE_CHECKING:
    from robustviz.training.config import TrainConfig

FOLDER = paths.ROOT / "checkpoints" / "seeds"
ATTACKS = ("PGD-20", "CW-100")  # the second is the ladder's attack on the margin loss
# Settings that do not change what a training computes, or that have a column of their own.
APART = ("device", "threads", "seed", "snapshots")
COLUMNS = ("data", "method", "net", "eps")
HEAD = ["data", "method", "net", "ε", "settings", "seeds", "n", "clean", *ATTACKS, "both"]
NONE = "No evaluations yet: train a run first."
NOTE = (
    "Each cell: mean ± standard deviation over the seeds [95% interval of the mean, Student's t,"
    " cut to 0 and 1]."
    " *Both*: images on which the network is right untouched and under both attacks. The attacks"
    " have the ε of the training; all seeds of a row were evaluated on the same n test images."
)
ONE = "With one seed there is no interval: such a row allows no conclusion about its method."


@dataclass(frozen=True)
class Seen:
    """A trained network: its settings and its evaluations. Its weights may be absent."""

    id: str
    path: Path
    config: TrainConfig
    evaluations: Sequence[Evaluation]


def do(args: argparse.Namespace) -> int:
    """Show the table of the runs in `args.run`; if that is empty, of all runs that were not
    imported and of the shipped evaluations in `FOLDER`. Returns the exit status 0. Raises UserError
    with `--ladder`, `--overlap` or `--against`.
    """
    if args.ladder or args.overlap or args.against:
        raise UserError(
            "--seeds is a table of its own: leave out --ladder, --overlap and --against. Compare,"
            " in the app, compares two methods seed by seed.",
            code=2,
        )
    groups: dict[str, dict[int, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    for one in _seen([folder.open_run(name) for name in args.run]):
        settings = registry.encode(one.config, naming=True)
        name = json.dumps({each: settings[each] for each in settings if each not in APART})
        groups[name][one.config.seed].append(one)
    every = [row for group in groups.values() if (row := _row(group))]
    every.sort(key=lambda row: [row[each] for each in (*COLUMNS[:3], "settings_text", "eps")])
    rows = tables.chosen(args, HEAD, [(row, _cells(row)) for row in every])
    notes = [NOTE] + [ONE] * any(len(row["seeds"]) == 1 for row, _ in rows)
    return tables.show(args, HEAD, rows, notes, tables.EMPTY if every else NONE)


def _seen(runs: Sequence[folder.Run]) -> Iterator[Seen]:
    """Yields the networks of `runs`; if that is empty, those of all runs that were not imported and
    of all files in `FOLDER`. A network is reported on standard error and left out if its files are
    damaged, or if its plug-in has changed since, because other code is another method.
    """
    trained = [run for run in folder.all_runs() if not run.imported]  # these have a known seed
    sources = [functools.partial(_of_run, run) for run in runs or trained]
    sources += [functools.partial(read, path) for path in sorted(FOLDER.glob("*.json")) if not runs]
    for source in sources:
        try:
            yield source()
        except UserError as error:
            say(str(error))


def _of_run(run: folder.Run) -> Seen:
    if other := plugins.changed(run.info.get("plugins", ())):
        raise UserError(f"{run.id} is left out: {other}")
    return Seen(run.id, run.path, run.config, run.evaluations())


def file_of(run_id: str) -> Path:
    """The file in which the evaluations of a run are shipped without its weights."""
    return FOLDER / f"{run_id}.json"


def write(run: folder.Run) -> None:
    """Write the settings and evaluations of a trained run to the file `file_of(run.id)`: for each
    attack in `ATTACKS`, at the run's ε and with seed 0, the evaluation with the most images.

    Raises UserError if the run was not measured under each of these attacks.
    """
    measured = [found(run.evaluations(), run.eps, attack) for attack in ATTACKS]
    if not all(measured):
        raise UserError(f"{run.id} was not measured under {' and '.join(ATTACKS)}.")
    content = {
        "config": run.config.to_json(),
        "evaluations": [max(every, key=lambda one: one.n).to_json() for every in measured],
        "seconds": run.status()["seconds"],
        "versions": run.info.get("versions", {}),
    }
    write_file(file_of(run.id), to_bytes(content))


def read(path: Path) -> Seen:
    """The settings and evaluations of a network, from a file that `write` wrote. Raises UserError
    if the file is damaged or of another version.
    """
    from robustviz.training.config import TrainConfig

    try:
        content = read_json(path)
        evaluations = tuple(map(Evaluation.from_json, content["evaluations"]))
        return Seen(path.stem, path, TrainConfig.from_json(content["config"]), evaluations)
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or of another version: restore the file.") from error


def found(evaluations: Sequence[Evaluation], eps: float, attack: str) -> list[Evaluation]:
    """Those of `evaluations` with the attack of this printed name, such as `PGD-20`, in linf or l2,
    at this ε, with seed 0, on the test split.
    """
    return [
        one
        for one in evaluations
        if one.printed in (attack, f"{attack} (ℓ2)")
        and (one.eps, one.seed, one.split) == (eps, 0, "test")
    ]


def _row(group: dict[int, list[Seen]]) -> JSON | None:
    """The table row for networks that differ only in their seed; None if nothing was measured.
    `group`: a list of networks for each seed. The row uses the test images on which the most seeds
    were evaluated, and of several such sets the largest.
    """
    of = {
        seed: [
            one
            for attack in ATTACKS
            for seen in networks
            for one in found(seen.evaluations, float(seen.config.eps or 0), attack)
        ]
        for seed, networks in sorted(group.items())
    }
    met = Counter(met for every in of.values() for met in {(one.n, one.images) for one in every})
    if not met:
        return None
    n, images = max(met, key=lambda each: (met[each], each))
    kept = {
        seed: {one.printed.split()[0]: one for one in every if (one.n, one.images) == (n, images)}
        for seed, every in of.items()
        if any((one.n, one.images) == (n, images) for one in every)
    }
    config = next(iter(group.values()))[0].config
    special = _special(config)
    return {
        "data": config.data.key,
        "method": config.method.key,
        "net": config.net,
        "eps": config.eps,
        "settings": special,
        "settings_text": ", ".join(f"{name}={value}" for name, value in special.items()),
        "seeds": list(kept),
        "n": n,
        "images": images,
        **_measured(list(kept.values())),
        "runs": [{"id": seen.id, "path": str(seen.path)} for seed in kept for seen in group[seed]],
    }


def _measured(seeds: list[dict[str, Evaluation]]) -> dict[str, JSON]:
    """Clean accuracy, accuracy under each attack, and accuracy under both (`both`), each as
    `_over_seeds` of the seeds for which it was measured; one that was not measured is left out.
    `seeds` holds each seed's evaluations by attack.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        values["clean"].append(next(iter(seed.values())).clean_acc)
        for attack, one in seed.items():
            values[attack].append(one.robust_acc)
        if len(seed) == len(ATTACKS) and (both := worst(list(seed.values()), seed[ATTACKS[0]])):
            values["both"].append(both.acc)
    return {name: _over_seeds(each) for name, each in values.items()}


def _over_seeds(values: list[float]) -> JSON:
    """The number of values, one for each seed, and their mean; for several seeds also the standard
    deviation and the 95% interval of the mean, by Student's t with its ends cut to [0, 1].
    """
    mean, low, high = share_interval(values)
    return {
        "seeds": len(values),
        "mean": mean,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "low": finite_or_none(low),
        "high": finite_or_none(high),
    }


def _special(config: TrainConfig) -> JSON:
    """The settings that differ from the defaults of this data set and method, by their dotted
    paths; without those that have a column of their own or do not change the training.
    """
    from robustviz.training.config import TrainConfig

    usual = TrainConfig(data=type(config.data)(), method=type(config.method)())
    mine, theirs = (dict(registry.flat(registry.encode(each))) for each in (config, usual))
    apart = (*APART, "net", "eps")
    return {
        name: value
        for name, value in mine.items()
        if name not in apart and theirs.get(name) != value
    }


def _cells(row: JSON) -> list[str]:
    seeds = len(row["seeds"])

    def cell(name: str) -> str:
        one = row.get(name)
        if one is None:
            return "–"
        few = f" ({one['seeds']} of {seeds} seeds)" if one["seeds"] < seeds else ""
        if one["sd"] is None:
            return f"{one['mean']:.3f}{few}"
        return "{mean:.3f} ± {sd:.3f} [{low:.3f}, {high:.3f}]".format(**one) + few

    return [
        row["data"],
        row["method"],
        row["net"],
        eps_text(row["eps"]),
        row["settings_text"] or "–",
        str(seeds),
        str(row["n"]),
        *(cell(name) for name in ("clean", *ATTACKS, "both")),
    ]
