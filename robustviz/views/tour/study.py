"""`python -m robustviz.views.tour.study` measures, on drawn shapes, what a network learns if the
background reveals the class. The tour's last step shows it.

Four kinds of networks: trained with and without the background cue (the presets `shapes-cue-on` and
`shapes-cue-off`), each with standard training and with FGSM-RS. All of them classify the same test
objects twice: on backgrounds of their own class, and on those of another. The file is written after
each training run, so an interrupted call continues where it stopped.

Source: features that are predictive but not the object's own, Ilyas et al. 2019, arXiv 1905.02175.
Differs: theirs are found in photographs by training; ours is drawn in, so that it can be taken out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustviz import attacks, paths
from robustviz.data.shapes import Shapes
from robustviz.runs import folder
from robustviz.stats import share_interval
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.training.evaluation import attack_name
from robustviz.types import JSON, UserError, table
from robustviz.views.drawing import uri
from robustviz.views.measure import net_of
from robustviz.views.pictures import png
from robustviz.views.transfer.study import made

FILE = paths.ROOT / "checkpoints" / "claims" / "cue-shapes.json"
COMMAND = "python -m robustviz.views.tour.study"
PRESETS = {"on": "shapes-cue-on", "off": "shapes-cue-off"}
METHODS = ("standard", "fgsm_rs")
GROUNDS = {"own": True, "other": False}  # backgrounds of the object's own class, or of another


@dataclass(frozen=True)
class Study:
    """The settings of the study. On an idle core a standard training takes 20 s, FGSM-RS 40 s."""

    seeds: tuple[int, ...] = (0, 1, 2)
    eps: float = 8 / 255
    steps: int = 20
    n: int = 1000  # how many test images; the first `n_attacked` of them are also attacked
    n_attacked: int = 200
    shown: int = 6  # how many pictures are shown: the first ones, whatever the predictions
    n_train: int | None = None  # None, also for epochs: the data set's own recipe
    epochs: int | None = None

    def config(self, cue: str, method: str, seed: int) -> TrainConfig:
        """The settings of `train --preset PRESET --method METHOD`, with the preset for the
        background cue `on` or `off`.
        """
        flags: JSON = {"method": method, "seed": seed, "device": "cpu"}
        for name in ("n_train", "epochs"):
            if getattr(self, name) is not None:
                flags[name] = getattr(self, name)
        return TrainConfig.make(PRESETS[cue], flags, [])

    def order(self) -> Iterator[tuple[str, str, int]]:
        """Yields (cue, method, seed) in the order of training: first all standard trainings."""
        return ((cue, method, seed) for method in METHODS for seed in self.seeds for cue in PRESETS)


def measure(study: Study, path: Path) -> JSON:
    """Train and evaluate everything missing from the file at `path`, and return the file's content.
    The file is written after each training run, and a line on the run is printed to stderr. Results
    in a file that was made with other settings are discarded; only the list of seeds may differ.
    """
    source = Shapes()
    splits = {name: source.swapped(own) for name, own in GROUNDS.items()}
    protocol = _protocol(study)
    known: JSON = folder.read_json(path) if path.exists() else {}
    same = known.get("protocol", {}) | {"seeds": protocol["seeds"]} == protocol
    cells: list[JSON] = known["cells"] if same else []
    images = [
        {
            "class": splits["own"].classes[int(splits["own"].y[at])],
            **{name: uri(png(split.x[at].numpy(), source.size)) for name, split in splits.items()},
        }
        for at in range(study.shown)
    ]
    protocol |= {"seeds": sorted({*study.seeds, *(cell["seed"] for cell in cells)})}
    out: JSON = {"command": COMMAND, "versions": folder.versions(), "protocol": protocol}
    out |= {"images": images, "cells": cells}
    there = {(cell["cue"], cell["method"], cell["seed"]) for cell in cells}
    attack = attacks.PGD(steps=study.steps, eps=study.eps)
    for cue, method, seed in (each for each in study.order() if each not in there):
        run = made(study.config(cue, method, seed))
        net = net_of(run)
        cell: JSON = {"cue": cue, "method": method, "seed": seed, "run": run.id}
        for name, split in splits.items():
            x, y = split.x[: study.n], split.y[: study.n]
            few = slice(study.n_attacked)
            cell[name] = int(count_right(net, x, y).sum())
            cell[f"{name}_attacked"] = int(count_right(net, x[few], y[few], attack).sum())
            said = net(x[: study.shown]).softmax(1).detach().max(1)
            cell[f"{name}_said"] = [
                [split.classes[int(best)], round(float(share), 3)]
                for share, best in zip(*said, strict=True)
            ]
        cells.append(cell)
        folder.write_file(path, compact(out))
        print(
            f"{run.id}: own {cell['own']}, other {cell['other']} of {study.n}; attacked"
            f" {cell['own_attacked']}, {cell['other_attacked']} of {study.n_attacked}",
            file=sys.stderr,
            flush=True,
        )
    return out


def _protocol(study: Study) -> JSON:
    config = study.config("on", METHODS[0], study.seeds[0])
    return {
        "data": config.data.key,
        "net": config.net,
        "cue": {cue: study.config(cue, METHODS[0], 0).data.cue for cue in PRESETS},  # type: ignore[attr-defined]
        "eps": study.eps,
        "attack": attack_name({"key": "pgd", "steps": study.steps}),
        "seeds": list(study.seeds),
        "n": study.n,
        "n_attacked": study.n_attacked,
        "n_train": config.n_train,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "lr": config.lr,
        "kept": "last",
    }


def compact(study: JSON) -> bytes:
    """The study as JSON bytes in which each picture and each training run is one line."""
    lists = {
        name: ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in study[name])
        for name in ("images", "cells")
    }
    rest = "".join(
        f" {json.dumps(name)}: {json.dumps(value)},\n"
        for name, value in study.items()
        if name not in lists
    )
    rows = ",\n".join(f' "{name}": [\n  {lines}\n ]' for name, lines in lists.items())
    return f"{{\n{rest}{rows}\n}}\n".encode()


def markdown(study: JSON) -> str:
    """The study's table as Markdown, with a sentence above it. It has a row for each method and
    background cue: the accuracies in %, mean and 95% t-interval over seeds.
    """
    protocol = study["protocol"]
    n, few = protocol["n"], protocol["n_attacked"]
    columns = (("own", n), ("other", n), ("own_attacked", few), ("other_attacked", few))
    lines = [
        f"{protocol['net']} on {protocol['data']}: the same test objects on backgrounds of their"
        f" own class and of another, {n} untouched and {few} under {protocol['attack']} at"
        f" {round(255 * protocol['eps'])}/255. Mean in % and 95% t-interval over seeds.",
        "",
    ]
    rows = []
    for method in METHODS:
        for cue, share in protocol["cue"].items():
            cells = [
                cell for cell in study["cells"] if (cell["method"], cell["cue"]) == (method, cue)
            ]
            if cells:
                shares = [_share([cell[name] / of for cell in cells]) for name, of in columns]
                rows.append([method, f"{share:.0%}", len(cells), *shares])
    head = ["trained", "telling backgrounds", "seeds", "own", "other"]
    return "\n".join([*lines, table([*head, "own, attacked", "other, attacked"], rows)])


def _share(values: list[float]) -> str:
    mean, low, high = (100 * each for each in share_interval(values))
    interval = f" [{low:.1f}, {high:.1f}]" if len(values) > 1 else ""
    return f"{mean:.1f}{interval}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the JSON file, or with `--report` only read it; print the table.
    Returns the exit code.
    """
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="What is learned where the background gives the class away?"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="print the table from the file that is there; train nothing",
    )
    args = parser.parse_args(argv)
    try:
        if args.report and not FILE.exists():
            raise UserError(f"There is no study of backgrounds yet: make it with {COMMAND}.")
        print(markdown(folder.read_json(FILE) if args.report else measure(Study(), FILE)))
    except UserError as error:
        print(f"robustviz: {error}", file=sys.stderr, flush=True)
        return error.code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
