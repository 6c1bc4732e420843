"""The report of the alignment study: statistics, sentences and tables from its JSON file. Not in
`study`, because `study` imports torch.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from robustviz import paths
from robustviz.stats import mcnemar, mean_interval, tango
from robustviz.types import JSON, UserError, eps_text, table

FOLDER = paths.ROOT / "checkpoints" / "claims"
DATA = "fashion_mnist"  # the data set of the shipped study
CONTROLS = ("before", "label", "witness_hard")  # what the aligned copy is compared with
VARIANTS = (*CONTROLS, "witness_soft")
NAMES = {
    "before": "before",
    "label": "true labels",
    "witness_hard": "hard labels",
    "witness_soft": "aligned",
}
MOVES = {
    "higher": "raises the transfer error",
    "lower": "lowers the transfer error",
    "not decided": "does not significantly change the transfer error",
}


@dataclass(frozen=True)
class Shift:
    """A mean difference between transfer errors, as a fraction, over a number of source `networks`,
    with its 95% t-interval (infinite for one network).
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
        return f"{100 * self.mean:+.1f}" + (
            f" [{100 * self.low:+.1f}, {100 * self.high:+.1f}]" if math.isfinite(self.low) else ""
        )


def shift(cells: Iterable[JSON], control: str) -> Shift:
    """The transfer error of the aligned copies minus that of `control` (a key of `cell["k"]`): for
    each source network the mean over its targets, then the mean and t-interval over the source
    networks. `cells` as from `study.count`; those with n = 0 are left out.

    The source networks are the units, because images and targets are the same for all; a single
    network gives an infinite interval. Raises UserError if n = 0 in all cells.
    """
    differences = [
        ((cell["net"], cell["seed"]), (cell["k"]["witness_soft"] - cell["k"][control]) / cell["n"])
        for cell in cells
        if cell["n"]
    ]
    values = [
        statistics.fmean(difference for each, difference in differences if each == source)
        for source in dict(differences)  # each once, in order
    ]
    if not values:
        raise UserError(
            "No image qualifies in any cell of the study: take more images, or a larger ε."
        )
    return Shift(*mean_interval(values), len(values))


def sentence(study: JSON) -> str:
    """The study's findings in a few sentences, which follow from its numbers."""
    protocol, count = study["protocol"], len(study["sources"])
    moves, details = dict[str, list[str]](), []
    for attack, name in protocol["attacks"].items():
        mine = [cell for cell in study["cells"] if cell["attack"] == attack]
        shifts = [shift(mine, control) for control in CONTROLS]
        moves.setdefault(MOVES[shifts[0].verdict], []).append(name)
        before, label, hard = (f"{each} points ({each.verdict})" for each in shifts)
        by_net = {net: shift(_of(mine, net=net), "before") for net in _each(mine, "net")}
        details.append(
            f"under {name} the error is {before} against before"
            f" ({', '.join(f'{net} {each}: {each.verdict}' for net, each in by_net.items())}),"
            f" {label} against the same fine-tuning on true labels and {hard} against the one on"
            " the witness's hard labels"
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
        f" {count} sources, 95% t-intervals): {'; '.join(details)}. Clean accuracy moves by"
        f" {min(moved):+.1f} to {max(moved):+.1f} points; on test images {nearer} of {count}"
        " sources come closer to the witness."
    )


def lines(study: JSON) -> tuple[list[str], ...]:
    """The study's findings as short sentences, in two lists: the statements on the page, and how
    certain they are.
    """
    protocol, sources = study["protocol"], study["sources"]
    count, moves, sure = len(sources), dict[str, list[str]](), list[str]()
    for attack, name in protocol["attacks"].items():
        mine = [cell for cell in study["cells"] if cell["attack"] == attack]
        before, label, hard = (shift(mine, control) for control in CONTROLS)
        moves.setdefault(MOVES[before.verdict], []).append(name)
        sure += [
            f"{name}: {each} points against {what}: {each.verdict}."
            for each, what in (
                (before, "before"),
                (label, "the same training on true labels"),
                (hard, "the same training on hard labels"),
            )
        ]
        for net in _each(mine, "net"):
            each = shift(_of(mine, net=net), "before")
            sure.append(f"{name}, sources {net}: {each} points against before: {each.verdict}.")
    gaps = {name: [each[name] for each in sources] for name in ("clean_acc", "kl_from_witness")}
    moved = [100 * (each["witness_soft"] - each["before"]) for each in gaps["clean_acc"]]
    nearer = sum(each["witness_soft"] < each["before"] for each in gaps["kl_from_witness"])
    said = [
        *(
            f"On {protocol['label']}, alignment {move} under {' and '.join(names)}."
            for move, names in moves.items()
        ),
        f"{nearer} of {count} sources come closer to the witness; clean accuracy moves by"
        f" {min(moved):+.1f} to {max(moved):+.1f} points.",
    ]
    sure = [
        "Witnesses share their source's architecture, the networks that are shown the images do"
        " not.",
        f"Mean over {count} sources, at ε = {eps_text(protocol['eps'])}.",
        "Brackets are 95% t-intervals over the sources.",
        *sure,
    ]
    return tuple([re.sub(r"-(?=\d+\.)", "−", line) for line in each] for each in (said, sure))


def markdown(study: JSON) -> str:
    """The study's tables and its sentence as Markdown; `study` is the content of its JSON file."""
    protocol, columns = study["protocol"], [NAMES[variant] for variant in VARIANTS]
    qualified = [cell["n"] for cell in study["cells"]]
    accuracy = ", ".join(
        f"{target} {100 * share:.1f}%" for target, share in protocol["target_accuracy"].items()
    )
    epochs = ", ".join(f"{name} {recipe['epochs']}" for name, recipe in protocol["recipes"].items())
    return "\n\n".join(
        [
            f"{protocol['label']}: {protocol['n_train']} training images (epochs: {epochs});"
            f" attacks of {protocol['steps']} steps of ε/4 at ε = {eps_text(protocol['eps'])}, half"
            f" the usual radius; {protocol['n']} test images, of which {min(qualified)} to"
            f" {max(qualified)} qualify for all four networks of a source. Witness: the source's"
            f" architecture, seed {protocol['witness_seed']}. Targets, by architecture and seed,"
            f" those of the source's architecture left out; clean accuracy: {accuracy}.",
            "Transfer error in %, mean over targets and seeds; differences in points with 95%"
            " t-intervals over the source networks. Every image: the error on all attacked images,"
            " qualified or not.",
            table(
                [
                    "attack",
                    "source",
                    *columns,
                    *[f"aligned − {NAMES[control]}" for control in CONTROLS],
                ],
                _errors(study),
            ),
            "Each cell: aligned minus before on the images that qualify for all four, in points,"
            " with Tango's 95% interval; p is McNemar's.",
            table(
                ["attack", "source", "seed", "target", "n", "before", "aligned", "difference", "p"],
                (_cell(cell, protocol) for cell in study["cells"]),
            ),
            f"Clean accuracy in % on {study['sources'][0]['n_test']} test images, and KL of the"
            " witness's and the targets' answers to the source's.",
            table(
                ["source", "seed", *columns, "KL witness", "KL targets"],
                map(_facts, study["sources"]),
            ),
            sentence(study),
        ]
    )


def _errors(study: JSON) -> Iterator[list[object]]:
    """Yield table rows: the mean errors and the shifts under each attack, for each source
    architecture, each target architecture, all cells, and all attacked images.
    """
    protocol = study["protocol"]
    for attack, name in protocol["attacks"].items():
        all_cells = _of(study["cells"], attack=attack)
        mine = [cell for cell in all_cells if cell["n"]]
        groups = {
            **{net: _of(mine, net=net) for net in _each(study["cells"], "net")},
            **{
                f"all, to {net}": [cell for cell in mine if cell["target"].split()[0] == net]
                for net in protocol["recipes"]
            },
            "all": mine,
            "all, every image": [
                cell | {"n": protocol["n"], "k": cell["all"]} for cell in all_cells
            ],
        }
        for label, cells in groups.items():
            if cells:
                errors = [
                    statistics.fmean(cell["k"][variant] / cell["n"] for cell in cells)
                    for variant in VARIANTS
                ]
                yield [
                    name,
                    label,
                    *(f"{100 * error:.1f}" for error in errors),
                    *(shift(cells, control) for control in CONTROLS),
                ]


def _cell(cell: JSON, protocol: JSON) -> list[object]:
    n, (only, other) = cell["n"], cell["pairs"]
    shares = ["–", "–", "–"]
    if n:
        low, high = (100 * value for value in tango(only, other, n))
        shares = [
            *(f"{100 * cell['k'][variant] / n:.1f}" for variant in ("before", "witness_soft")),
            f"{100 * (only - other) / n:+.1f} [{low:+.1f}, {high:+.1f}]",
        ]
    return [
        protocol["attacks"][cell["attack"]],
        *[cell[name] for name in ("net", "seed", "target")],
        n,
        *shares,
        f"{mcnemar(only, other):.2g}",
    ]


def _facts(source: JSON) -> list[object]:
    return [
        source["net"],
        source["seed"],
        *[f"{100 * source['clean_acc'][variant]:.1f}" for variant in VARIANTS],
        *[
            f"{source[name]['before']:.3f} → {source[name]['witness_soft']:.3f}"
            for name in ("kl_from_witness", "kl_from_targets")
        ],
    ]


def _of(cells: Iterable[JSON], **wanted: str) -> list[JSON]:
    """The cells in which every entry of `wanted` has the wanted value."""
    return [cell for cell in cells if wanted.items() <= cell.items()]


def _each(cells: Iterable[JSON], name: str) -> list[str]:
    """The different values that the cells have under the key `name`, in order of appearance."""
    return list(dict.fromkeys(cell[name] for cell in cells))


def file_of(data: str = DATA) -> Path:
    """The path of the JSON file with a data set's study."""
    return FOLDER / f"alignment-{data.replace('_', '-')}.json"


def compact(study: JSON) -> bytes:
    """The study as JSON in UTF-8, with one line per source and per cell."""
    rows = {
        name: ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in study[name])
        for name in ("sources", "cells")
    }
    rest = ",\n".join(
        f" {json.dumps(name)}: {json.dumps(study[name])}" for name in study if name not in rows
    )
    lists = ",\n".join(f' "{name}": [\n  {lines}\n ]' for name, lines in rows.items())
    return f"{{\n{rest},\n{lists}\n}}\n".encode()
