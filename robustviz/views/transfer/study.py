"""The alignment study, run by `python -m robustviz.views.transfer.study`: does model alignment make
an attacker's images fool more networks? Each source is fine-tuned to a witness's soft labels and,
as controls of the same budget, to its hard labels and to the true labels. Images attacked on the
source and on each of its three copies are shown to networks of other architectures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustviz.runs import folder, worker
from robustviz.runs.folder import Run, read_json, write_file
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.training.evaluation import attack_name
from robustviz.training.loop import Training
from robustviz.types import JSON, UserError
from robustviz.views.measure import images_of, net_of
from robustviz.views.transfer.probe import transfer
from robustviz.views.transfer.report import DATA, compact, file_of, markdown
from robustviz.views.transfer.result import Kind, Transfer, TransferSpec

WITNESS_SEED = 10
RECIPES = {
    "small_resnet": {"epochs": 5, "lr": 0.1},
    "small_cnn": {"epochs": 5, "lr": 0.1},
    "tiny_vit": {"epochs": 8, "lr": 0.03},
}
# validation images: nothing is selected by them here, and attacking a thousand costs more than the
# training
FEW = 20


@dataclass(frozen=True)
class Study:
    """The settings of the study, which takes 23 minutes on one core of a busy machine.

    `sources` are architectures; each is trained (without a defence) with each of the `seeds`. A
    source's witness has the same architecture and another seed, as in the README of the paper's
    code. `targets` are (architecture, seed); a source is not measured on the targets of its own
    architecture.
    """

    data: str = DATA
    sources: tuple[str, ...] = ("small_resnet", "small_cnn")
    targets: tuple[tuple[str, int], ...] = (
        ("small_resnet", 20),
        ("small_resnet", 21),
        ("small_cnn", 20),
        ("small_cnn", 21),
        ("tiny_vit", 20),
        ("tiny_vit", 21),
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    attacks: tuple[Kind, ...] = ("pgd", "mim")
    # about half of these qualify for all four networks of a source: a thousand, as in the paper
    n: int = 2200
    n_train: int = 6000
    steps: int = 20

    def ordinary(self, net: str, seed: int) -> TrainConfig:
        """The config for standard training of the architecture `net` with this seed."""
        return self._config({"method": "standard", "net": net, "seed": seed} | RECIPES[net])

    def _config(self, flags: JSON, settings: JSON | None = None) -> TrainConfig:
        return TrainConfig.make(
            None,
            {
                "data": self.data,
                "n_train": self.n_train,
                "batch_size": 64,
                "threads": 1,
                "device": "cpu",
                "select": "last",
            }
            | flags,
            [(f"method.{name}", value) for name, value in (settings or {}).items()],
        )

    def networks(self, net: str, seed: int) -> dict[str, TrainConfig]:
        """The configs of a source before alignment and of its three fine-tuned copies, by name, in
        this order: `before`, and for the copies the labels that they learn, `label` (the true
        ones), `witness_hard` and `witness_soft`. The copies use model alignment's own recipe.
        """
        before, witness = self.ordinary(net, seed), self.ordinary(net, WITNESS_SEED)
        return {"before": before} | {
            target: self._config(
                {"method": "model_alignment", "net": net, "seed": seed},
                {"source": before.run_id, "witness": witness.run_id} | {"target": target},
            )
            for target in ("label", "witness_hard", "witness_soft")
        }


def made(config: TrainConfig) -> Run:
    """Returns the run of a config, trained from the beginning if it is not finished. The long
    evaluation with which other trainings end is left out.
    """
    run = folder.create(config)
    with run.locked():
        if run.status().get("state") == "done":
            return run
        started = time.process_time()
        training = Training(config)
        training.val = training.val.take(FEW)
        worker.describe(run, training)
        run.set_status(state="running")
        records = [record.to_json() for record in training.epochs()]
        write_file(
            run.path / "metrics.jsonl",
            b"".join(json.dumps(record).encode() + b"\n" for record in records),
        )
        run.save_weights("net.safetensors", training.best)
        seconds = round(time.process_time() - started, 1)
        run.set_status(state="done", seconds=seconds)
    _say(f"{run.id}: {seconds} s, loss {sum(records[-1]['losses'].values()):.3f}")
    return run


def measure(study: Study, command: str = "") -> JSON:
    """Run the study: train, attack and count; return plain values for the JSON file. Finished
    networks and results are stored in the run folders, so that an interrupted call can be
    continued.
    """
    pairs = [(net, seed) for seed in study.seeds for net in study.sources]
    targets = {f"{net} {seed}": study.ordinary(net, seed) for net, seed in study.targets}
    witnesses = [study.ordinary(net, WITNESS_SEED) for net in study.sources]
    networks = {pair: study.networks(*pair) for pair in pairs}
    ordered = [
        *(networks[pair]["before"] for pair in pairs),
        *witnesses,
        *(config for pair in pairs for config in networks[pair].values()),
    ]
    trained = {config.run_id: made(config) for config in (*ordered, *targets.values())}
    seconds = sum(float(run.status().get("seconds", 0)) for run in trained.values())
    sources, cells, accuracy = list[JSON](), list[JSON](), dict[str, float]()
    for attack in study.attacks:
        for net, seed in pairs:
            others = {name: config for name, config in targets.items() if config.net != net}
            runs = {name: trained[config.run_id] for name, config in networks[net, seed].items()}
            found = shown(study, attack, runs, others.values())
            seconds += sum(float(result.meta["seconds"]) for result in found.values())
            cells += count({"net": net, "seed": seed, "attack": attack}, list(others), found)
            accuracy |= dict(
                zip(others, found["before"].accuracy[1:].round(5).tolist(), strict=True)
            )
            if attack == study.attacks[0]:
                sources.append({"net": net, "seed": seed} | facts(runs, found["witness_soft"]))
    return {
        "command": command,
        "versions": folder.versions(),
        "cpu_seconds": round(seconds),
        "protocol": {
            "data": study.data,
            "label": ordered[0].data.label,
            "n": found["before"].meta["n"],
            "n_train": study.n_train,
            "eps": found["before"].meta["eps"],
            "steps": study.steps,
            "attacks": {
                key: attack_name({"key": key, "steps": study.steps}) for key in study.attacks
            },
            "witness_seed": WITNESS_SEED,
            "target_accuracy": accuracy,
            "recipes": recipes([*witnesses, *targets.values(), ordered[-1]]),
        },
        "sources": sources,
        "cells": cells,
    }


def shown(
    study: Study, attack: Kind, sources: Mapping[str, Run], targets: Iterable[TrainConfig]
) -> dict[str, Transfer]:
    """Attack images on each of the networks `sources`, and measure how often they fool the targets.
    Returns the results by the sources' names.
    """
    spec = TransferSpec(
        ",".join(config.run_id for config in targets), attack, n=study.n, steps=study.steps
    )
    found = {name: transfer(run, spec) for name, run in sources.items()}
    for result in found.values():
        _say(str(result.meta["summary"]))
    return found


def recipes(configs: Iterable[TrainConfig]) -> JSON:
    """The number of epochs, learning rate and batch size, by architecture, and under `fine-tuning`
    for aligning sources.
    """
    return {
        "fine-tuning" if config.method.key == "model_alignment" else config.net: {
            "epochs": config.epochs,
            "lr": config.lr,
            "batch_size": config.batch_size,
        }
        for config in configs
    }


def count(where: JSON, targets: Sequence[str], found: Mapping[str, Transfer]) -> Iterator[JSON]:
    """Yields a dict for each target: `where`, the target's name, and counts. `n`: how many images
    qualify for all four networks of a source (before alignment and its three copies). `k`: on how
    many of these the target is wrong, by network. `pairs`: on how many of these it is wrong only
    with the aligned network's images, and only with the images of the network before. `all`: on how
    many of all images, qualified or not, it is wrong, by network.
    """
    for row, target in enumerate(targets):
        all_four = np.logical_and.reduce([each.qualified[row] for each in found.values()])
        wrong = {variant: all_four & each.wrong[row] for variant, each in found.items()}
        before, after = wrong["before"], wrong["witness_soft"]
        yield where | {
            "target": target,
            "n": int(all_four.sum()),
            "k": {variant: int(these.sum()) for variant, these in wrong.items()},
            "pairs": [int((after & ~before).sum()), int((before & ~after).sum())],
            "all": {variant: int(each.wrong[row].sum()) for variant, each in found.items()},
        }


def facts(networks: Mapping[str, Run], aligned: Transfer) -> JSON:
    """Other effects of the fine-tunings on a source, as a dict. `clean_acc`: the accuracy in [0, 1]
    of each of `networks`, by its name, on the whole test split of `n_test` images.
    `kl_from_witness`: the mean KL(witness ‖ source) of the softmax outputs for clean images, in
    nats, before (`before`) and after the alignment (`witness_soft`). `kl_from_targets`: the same
    for the targets instead of the witness, averaged over them.
    """
    split, last = images_of(networks["before"]), len(aligned.models) - 1
    ends = {"before": last - 1, "witness_soft": 0}
    targets = aligned.kl[1 : last - 1].mean(axis=0)
    return {
        "clean_acc": {
            name: int(count_right(net_of(run), split.x, split.y).sum()) / len(split)
            for name, run in networks.items()
        },
        "n_test": len(split),
        "kl_from_witness": {
            name: round(float(aligned.kl[last, at]), 5) for name, at in ends.items()
        },
        "kl_from_targets": {name: round(float(targets[at]), 5) for name, at in ends.items()},
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the JSON file, or with `--report` only read it; print the tables. Returns
    the exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m robustviz.views.transfer.study",
        description="Does model alignment help the attacker?",
    )
    parser.add_argument("--data", default=Study.data, help="the data set (default: %(default)s)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="print the tables from the file that is there; train nothing",
    )
    args = parser.parse_args(argv)
    path = file_of(args.data)
    command = f"python -m robustviz.views.transfer.study --data {args.data}"
    try:
        if not args.report:
            write_file(path, compact(measure(Study(data=args.data), command)))
        elif not path.exists():
            raise UserError(f"There is no alignment study of {args.data} yet: run {command}.")
        print(markdown(read_json(path)))
    except UserError as error:
        _say(f"robustviz: {error}")
        return error.code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
