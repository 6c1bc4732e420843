"""Does model alignment make an attacker's images fool more networks? `python -m
robustviz.views.transfer.study` measures it.

Ordinary networks of two architectures are sources, three seeds each. Each is fine-tuned to the soft
labels of a witness of its own architecture but another seed (the setting of the paper's README)
and, as controls of the same budget, to the witness's hard answers and to the true labels. Images
made on each of the four are shown to networks of other architectures that took no part. Cheapest
first; what is finished is kept by run id, so a call that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustviz import probes
from robustviz.runs import folder, worker
from robustviz.runs.folder import REPOSITORY, Run, write_file
from robustviz.stats import mcnemar, mean_interval, tango
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.training.evaluation import attack_name
from robustviz.training.loop import Training
from robustviz.types import JSON, UserError, eps_text
from robustviz.views.measure import images_of, net_of
from robustviz.views.transfer.result import Transfer

FOLDER = REPOSITORY / "checkpoints" / "claims"
CONTROLS = ("before", "label", "witness_hard")  # what alignment is compared with
NAMES = {
    "before": "before",
    "label": "true labels",
    "witness_hard": "hard labels",
    "witness_soft": "aligned",
}
MOVES = {
    "higher": "raises the transfer error",
    "lower": "lowers the transfer error",
    "not decided": "does not decidedly move the transfer error",
}
WITNESS_SEED = 10
RECIPES = {
    "small_resnet": {"epochs": 5, "lr": 0.1},
    "small_cnn": {"epochs": 5, "lr": 0.1},
    "tiny_vit": {"epochs": 8, "lr": 0.03},
}
# validation images: nothing is chosen by them here, and attacking a thousand costs more than the
# training
FEW = 20


@dataclass(frozen=True)
class Study:
    """What is measured, and at what cost: 23 minutes of one core of a busy machine.

    `targets` are (architecture, seed); those of a source's architecture are left out for that
    source.
    """

    data: str = "fashion_mnist"
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
    attacks: tuple[str, ...] = ("pgd", "mim")
    # about half of them qualify for all four networks of a source: a thousand, as in the paper
    n: int = 2200
    n_train: int = 6000
    steps: int = 20

    def ordinary(self, net: str, seed: int) -> TrainConfig:
        """The training of an ordinary network."""
        return self._config({"method": "standard", "net": net, "seed": seed} | RECIPES[net])

    def tuned(self, net: str, seed: int, target: str) -> TrainConfig:
        """The fine-tuning of a source: model alignment's own recipe."""
        roles = {
            "source": self.ordinary(net, seed).run_id,
            "witness": self.ordinary(net, WITNESS_SEED).run_id,
            "target": target,
        }
        settings = {f"method.{role}": value for role, value in roles.items()}
        return self._config({"method": "model_alignment", "net": net, "seed": seed}, settings)

    def _config(self, flags: JSON, settings: JSON | None = None) -> TrainConfig:
        common = {
            "data": self.data,
            "n_train": self.n_train,
            "batch_size": 64,
            "threads": 1,
            "device": "cpu",
            "select": "last",
        }
        return TrainConfig.make(None, common | flags, list((settings or {}).items()))

    def networks(self, net: str, seed: int) -> dict[str, TrainConfig]:
        """A source and what it is fine-tuned to, by name; the one before comes first."""
        tuned = {
            target: self.tuned(net, seed, target)
            for target in ("label", "witness_hard", "witness_soft")
        }
        return {"before": self.ordinary(net, seed)} | tuned


def made(config: TrainConfig) -> Run:
    """The run of a config, trained unless it is there; without the long evaluation that a worker
    ends with.
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
    """Train, attack and count everything that is not there yet; plain values for the JSON file."""
    pairs = [(net, seed) for seed in study.seeds for net in study.sources]
    targets = {f"{net} {seed}": study.ordinary(net, seed) for net, seed in study.targets}
    witnesses = [study.ordinary(net, WITNESS_SEED) for net in study.sources]
    networks = {pair: study.networks(*pair) for pair in pairs}
    ordered = [
        *(networks[pair]["before"] for pair in pairs),
        *witnesses,
        *(one for pair in pairs for one in networks[pair].values()),
    ]
    trained = {config.run_id: made(config) for config in (*ordered, *targets.values())}
    seconds = sum(float(run.status().get("seconds", 0)) for run in trained.values())
    sources, cells, accuracy = list[JSON](), list[JSON](), dict[str, float]()
    eps = n = 0.0
    for attack in study.attacks:
        for net, seed in pairs:
            others = [name for name, config in targets.items() if config.net != net]
            spec = probes.TransferSpec(
                ",".join(targets[name].run_id for name in others),
                attack,  # type: ignore[arg-type]
                n=study.n,
                steps=study.steps,
            )
            found = {}
            for variant, config in networks[net, seed].items():
                found[variant] = probes.transfer(trained[config.run_id], spec)
                seconds += float(found[variant].meta["seconds"])
                _say(str(found[variant].meta["summary"]))
            cells += count({"net": net, "seed": seed, "attack": attack}, others, found)
            accuracy |= dict(
                zip(others, found["before"].accuracy[1:].round(5).tolist(), strict=True)
            )
            eps, n = found["before"].meta["eps"], found["before"].meta["n"]
            if attack == study.attacks[0]:
                networks_here = {
                    variant: trained[config.run_id]
                    for variant, config in networks[net, seed].items()
                }
                sources.append(
                    {"net": net, "seed": seed} | facts(networks_here, found["witness_soft"])
                )
    return {
        "command": command,
        "versions": folder.versions(),
        "cpu_seconds": round(seconds),
        "protocol": {
            "data": study.data,
            "label": ordered[0].data.label,
            "n": n,
            "n_train": study.n_train,
            "eps": eps,
            "steps": study.steps,
            "attacks": {
                attack: attack_name({"key": attack, "steps": study.steps})
                for attack in study.attacks
            },
            "witness_seed": WITNESS_SEED,
            "target_accuracy": accuracy,
            "recipes": {
                "fine-tuning" if config.method.key == "model_alignment" else config.net: {
                    "epochs": config.epochs,
                    "lr": config.lr,
                    "batch_size": config.batch_size,
                }
                for config in (*witnesses, *targets.values(), ordered[-1])
            },
        },
        "sources": sources,
        "cells": cells,
    }


def count(where: JSON, targets: Sequence[str], found: Mapping[str, Transfer]) -> list[JSON]:
    """One cell a target: how many images qualify for all four networks (`n`), on how many of these
    the target is wrong (`k`, by network), on how many for the aligned one only and for the one
    before only (`pairs`), and on how many of all images, qualified or not, it is wrong (`all`, by
    network).
    """
    out = []
    for row, target in enumerate(targets):
        all_four = np.logical_and.reduce([one.qualified[row] for one in found.values()])
        wrong = {variant: all_four & one.wrong[row] for variant, one in found.items()}
        before, after = wrong["before"], wrong["witness_soft"]
        out.append(
            where
            | {
                "target": target,
                "n": int(all_four.sum()),
                "k": {variant: int(these.sum()) for variant, these in wrong.items()},
                "pairs": [int((after & ~before).sum()), int((before & ~after).sum())],
                "all": {variant: int(one.wrong[row].sum()) for variant, one in found.items()},
            }
        )
    return out


def facts(networks: Mapping[str, Run], aligned: Transfer) -> JSON:
    """What the fine-tunings did to a source besides: its accuracy on the whole test split, and how
    far it is on clean images from the witness and from the targets (mean over these): KL of their
    softmax outputs to the source's.
    """
    split = images_of(networks["before"])
    clean = {
        name: int(count_right(net_of(run), split.x, split.y).sum()) / len(split)
        for name, run in networks.items()
    }
    before, witness = len(aligned.models) - 2, len(aligned.models) - 1
    ends = {"before": before, "witness_soft": 0}
    return {
        "clean_acc": clean,
        "n_test": len(split),
        "kl_from_witness": {
            name: round(float(aligned.kl[witness, at]), 5) for name, at in ends.items()
        },
        "kl_from_targets": {
            name: round(float(aligned.kl[1:before, at].mean()), 5) for name, at in ends.items()
        },
    }


# What the counts say.


@dataclass(frozen=True)
class Shift:
    """A mean difference of transfer errors over source networks, a fraction, with its 95 %
    t-interval.
    """

    mean: float
    low: float
    high: float
    networks: int

    @property
    def verdict(self) -> str:
        """`higher` or `lower` where the interval excludes 0, else `not decided`."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "not decided"

    def __str__(self) -> str:
        interval = (
            f" [{100 * self.low:+.1f}, {100 * self.high:+.1f}]" if math.isfinite(self.low) else ""
        )
        return f"{100 * self.mean:+.1f}{interval}"


def shift(cells: Iterable[JSON], control: str) -> Shift:
    """Aligned minus `control`: per source network the mean over its targets, then mean and
    t-interval over these.

    The networks are the units because images and targets are the same for all; one network alone
    gives no interval. Raises UserError where no cell has a qualified image.
    """
    by_source: dict[tuple[str, int], list[float]] = {}
    for cell in cells:
        if cell["n"]:
            difference = cell["k"]["witness_soft"] - cell["k"][control]
            by_source.setdefault((cell["net"], cell["seed"]), []).append(difference / cell["n"])
    values = [statistics.fmean(differences) for differences in by_source.values()]
    if not values:
        raise UserError(
            "No image qualifies in any cell of the study: take more images, or a larger ε."
        )
    return Shift(*mean_interval(values), len(values))


def sentence(study: JSON) -> str:
    """What the study found, in a few sentences, whatever it is."""
    protocol, count = study["protocol"], len(study["sources"])
    moves, details = dict[str, list[str]](), []
    for attack, name in protocol["attacks"].items():
        mine = [cell for cell in study["cells"] if cell["attack"] == attack]
        found = {control: shift(mine, control) for control in CONTROLS}
        by_net = [
            (net, shift([cell for cell in mine if cell["net"] == net], "before"))
            for net in dict.fromkeys(cell["net"] for cell in mine)
        ]
        moves.setdefault(MOVES[found["before"].verdict], []).append(name)
        before, label, hard = (
            f"{found[control]} points ({found[control].verdict})" for control in CONTROLS
        )
        details.append(
            f"under {name} the error is {before} against before"
            f" ({', '.join(f'{net} {one}: {one.verdict}' for net, one in by_net)}), {label} against"
            f" the same fine-tuning on true labels and {hard} against the one on the witness's hard"
            " labels"
        )
    lead = " and ".join(f"{move} under {' and '.join(names)}" for move, names in moves.items())
    moved = [
        100 * (source["clean_acc"]["witness_soft"] - source["clean_acc"]["before"])
        for source in study["sources"]
    ]
    nearer = sum(
        source["kl_from_witness"]["witness_soft"] < source["kl_from_witness"]["before"]
        for source in study["sources"]
    )
    return (
        f"On {protocol['label']}, aligning a source to a witness of its own architecture {lead} (to"
        f" unseen networks of other architectures, ε = {eps_text(protocol['eps'])}, mean over"
        f" {count} sources, 95 % t-intervals): {'; '.join(details)}. Clean accuracy moves by"
        f" {min(moved):+.1f} to {max(moved):+.1f} points; on test images {nearer} of {count}"
        " sources come closer to the witness."
    )


def markdown(study: JSON) -> str:
    """The study's tables and its sentence, from the JSON alone."""
    protocol, cells = study["protocol"], study["cells"]
    variants = (*CONTROLS, "witness_soft")
    nets = list(dict.fromkeys(cell["net"] for cell in cells))
    qualified = [cell["n"] for cell in cells]
    accuracy = ", ".join(
        f"{target} {100 * share:.1f} %" for target, share in protocol["target_accuracy"].items()
    )
    epochs = ", ".join(f"{name} {recipe['epochs']}" for name, recipe in protocol["recipes"].items())
    out = [
        (
            f"{protocol['label']}: {protocol['n_train']} training images (epochs: {epochs});"
            f" attacks of {protocol['steps']} steps of ε/4 at ε = {eps_text(protocol['eps'])}, half"
            f" the usual radius; {protocol['n']} test images, of which {min(qualified)} to"
            f" {max(qualified)} qualify for all four networks of a source. Witness: the source's"
            f" architecture, seed {protocol['witness_seed']}. Targets, by architecture and seed,"
            f" those of the source's architecture left out; clean accuracy: {accuracy}."
        ),
        "",
        (
            "Transfer error in %, mean over targets and seeds; differences in points with 95 %"
            " t-intervals over the source networks. Every image: the error on all attacked images,"
            " qualified or not."
        ),
        "",
        "| attack | source | "
        + " | ".join(NAMES[variant] for variant in variants)
        + " | "
        + " | ".join(f"aligned − {NAMES[c]}" for c in CONTROLS)
        + " |",
        "|---" * (2 + len(variants) + len(CONTROLS)) + "|",
    ]
    for attack, name in protocol["attacks"].items():
        mine = [cell for cell in cells if cell["attack"] == attack and cell["n"]]
        every = [
            cell | {"n": protocol["n"], "k": cell["all"]}
            for cell in cells
            if cell["attack"] == attack
        ]
        for label, these in (
            *((net, [cell for cell in mine if cell["net"] == net]) for net in nets),
            *(
                (f"all, to {net}", [cell for cell in mine if cell["target"].split()[0] == net])
                for net in protocol["recipes"]
            ),
            ("all", mine),
            ("all, every image", every),
        ):
            if not these:
                continue
            errors = [
                f"{100 * statistics.fmean(cell['k'][variant] / cell['n'] for cell in these):.1f}"
                for variant in variants
            ]
            out.append(
                f"| {name} | {label} |"
                f" {' | '.join([*errors, *(str(shift(these, control)) for control in CONTROLS)])} |"
            )
    out += [
        "",
        (
            "Each cell: aligned minus before on the images that qualify for all four, in points,"
            " with Tango's 95 % interval; p is McNemar's."
        ),
        "",
        "| attack | source | seed | target | n | before | aligned | difference | p |",
        "|---" * 9 + "|",
    ]
    for cell in cells:
        n, (only, other) = cell["n"], cell["pairs"]
        low, high = tango(only, other, n)
        before, after = (
            f"{100 * cell['k'][variant] / n:.1f}" if n else "–"
            for variant in ("before", "witness_soft")
        )
        moved = (
            f"{100 * (only - other) / n:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" if n else "–"
        )
        out.append(
            f"| {protocol['attacks'][cell['attack']]} | {cell['net']} | {cell['seed']} |"
            f" {cell['target']} | {n} | {before} | {after} | {moved} | {mcnemar(only, other):.2g} |"
        )
    out += [
        "",
        (
            f"Clean accuracy in % on {study['sources'][0]['n_test']} test images, and KL of the"
            " witness's and the targets' answers to the source's."
        ),
        "",
        "| source | seed | "
        + " | ".join(NAMES[variant] for variant in variants)
        + " | KL witness | KL targets |",
        "|---" * (4 + len(variants)) + "|",
    ]
    for source in study["sources"]:
        clean = " | ".join(f"{100 * source['clean_acc'][variant]:.1f}" for variant in variants)
        far = [
            f"{source[name]['before']:.3f} → {source[name]['witness_soft']:.3f}"
            for name in ("kl_from_witness", "kl_from_targets")
        ]
        out.append(f"| {source['net']} | {source['seed']} | {clean} | {' | '.join(far)} |")
    return "\n".join([*out, "", sentence(study)])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def file_of(data: str) -> Path:
    """Where the study of a data set is kept."""
    return FOLDER / f"alignment-{data.replace('_', '-')}.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the JSON file, or with `--report` only read it; the tables go to standard
    output.
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
    try:
        if args.report:
            if not path.exists():
                raise UserError(
                    f"There is no alignment study of {args.data} yet: make it with python -m"
                    f" robustviz.views.transfer.study --data {args.data}."
                )
            study = folder.read_json(path)
        else:
            study = measure(
                Study(data=args.data),
                f"python -m robustviz.views.transfer.study --data {args.data}",
            )
            write_file(path, compact(study))
        print(markdown(study))
    except UserError as error:
        _say(f"robustviz: {error}")
        return error.code
    return 0


def compact(study: JSON) -> bytes:
    """The study as JSON with one line a source and a cell."""
    rows = {
        name: ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in study[name])
        for name in ("sources", "cells")
    }
    rest = ",\n".join(
        f" {json.dumps(name)}: {json.dumps(study[name])}" for name in study if name not in rows
    )
    lists = ",\n".join(f' "{name}": [\n  {lines}\n ]' for name, lines in rows.items())
    return f"{{\n{rest},\n{lists}\n}}\n".encode()


if __name__ == "__main__":
    raise SystemExit(main())
