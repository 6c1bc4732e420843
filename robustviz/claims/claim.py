"""A claim as it is written down before its runs: `checkpoints/claims/NAME.toml`. It says in one
sentence what a paper says, and of which measured number it expects what; `setups.toml` beside it
says on which data, with which seeds, for all claims alike.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustviz import paths, registry
from robustviz.types import JSON, UserError

if TYPE_CHECKING:
    from robustviz.training.config import TrainConfig

FOLDER = paths.ROOT / "checkpoints" / "claims"
SETUPS = "setups.toml"
PAPERS = ("part", "afa", "supcon_margin", "model_alignment", "aalp")
TABLE = ("clean", "both")  # measured of every network that a claim names
# A measured number's name, what a person reads, and the best value there is, if any.
METRICS: dict[str, tuple[str, float | None]] = {
    "clean": ("accuracy on untouched images", 1.0),
    "fgsm": ("accuracy under FGSM", 1.0),
    "pgd": ("accuracy under PGD-20", 1.0),
    "both": ("accuracy under PGD-20 and CW-100, the worse of both image by image", 1.0),
    "gap": ("cosine of a feature to its own class's centre less that to the nearest other", None),
    "misaligned": ("how well misaligned features tell fooled images from others (AUC)", 1.0),
    "features": ("how many features carry half of an answer, the mean", None),
    "transfer": ("share of images made on it that fool an unseen Small CNN", 1.0),
    "curvature": ("log10 of the loss's largest curvature, the median", None),
}


@dataclass(frozen=True)
class Expectation:
    """One measured number that should differ. `a`, `b`: settings of the two sides by dotted path;
    `b` may be a number that A's should exceed. A's `metric` should be higher (with `less` lower) by
    at least `smallest`, or with `not_worse` worse by at most that.
    """

    says: str
    metric: str
    a: JSON
    b: JSON | float
    smallest: float
    less: bool = False
    not_worse: bool = False


@dataclass(frozen=True)
class Claim:
    """What a paper says, in one sentence, and what it should show in. `about`: a method's key."""

    name: str
    about: str
    claim: str
    expects: tuple[Expectation, ...]


@dataclass(frozen=True)
class Setup:
    """Where all claims are looked at: a data set, its seeds, how many test images count (0: all),
    and settings by dotted path; `pilot` says what these came from.
    """

    data: str
    seeds: tuple[int, ...]
    n: int
    pilot: str
    settings: JSON


def claims(folder: Path = FOLDER) -> list[Claim]:
    """Every claim, those of the five papers first. Raises UserError that names the file and what is
    wrong in it.
    """
    files = [path for path in sorted(folder.glob("*.toml")) if path.name != SETUPS]
    first = {name: place for place, name in enumerate(PAPERS)}
    files.sort(key=lambda path: first.get(path.stem, len(first)))
    return [_claim(path) for path in files]


def setups(folder: Path = FOLDER) -> list[Setup]:
    """Every setup, the cheapest first, as written."""
    path = folder / SETUPS
    known = {"seeds", "n", "pilot"}
    out = []
    for data, given in _read(path).items():
        try:
            rest = {name: value for name, value in given.items() if name not in known}
            seeds = registry.coerce(tuple[int, ...], given["seeds"], "seeds")
            out.append(Setup(data, seeds, int(given.get("n", 0)), str(given["pilot"]), rest))
        except (KeyError, AttributeError) as error:
            raise UserError(f"{path}: [{data}] lacks {error}.") from error
    return out


def _claim(path: Path) -> Claim:
    given = _read(path)
    try:
        expects = tuple(_expectation(path, each) for each in given["expect"])
        return Claim(path.stem, str(given["about"]), str(given["claim"]), expects)
    except KeyError as error:
        raise UserError(f"{path} lacks {error}.") from error


def _expectation(path: Path, given: Mapping[str, Any]) -> Expectation:
    ways = {"more": (False, False), "less": (True, False), "not_worse": (False, True)}
    way = [name for name in ways if name in given]
    if len(way) != 1:
        raise UserError(f"{path}: an expectation has one of {', '.join(ways)}.")
    if given["metric"] not in METRICS:
        raise UserError(f"{path}: {registry.unknown('metric', given['metric'], METRICS)}")
    less, not_worse = ways[way[0]]
    smallest = float(given[way[0]])
    return Expectation(
        given["says"], given["metric"], given["a"], given["b"], smallest, less, not_worse
    )


def _read(path: Path) -> JSON:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}.") from error


def config(setup: Setup, side: Mapping[str, Any], seed: int) -> TrainConfig:
    """The training of one side with one seed. A setting that is a table is a run of its own: the
    side's source or witness, trained with the same seed.
    """
    from robustviz.training.config import TrainConfig

    named = {
        path: config(setup, value, seed).run_id if isinstance(value, dict) else value
        for path, value in {**setup.settings, **side}.items()
    }
    flags: JSON = {"data": setup.data, "seed": seed, "device": "cpu"}
    return TrainConfig.make(None, flags, list(named.items()))


def trainings(every: list[Claim], setup: Setup) -> Iterator[tuple[TrainConfig, frozenset[str]]]:
    """Every training that the claims need of a setup, sources before what starts from them, each
    once, and the numbers that are measured of it: what its claims ask for and the accuracies of
    the table of networks.
    """
    needed: dict[str, tuple[JSON, set[str]]] = {}

    def want(side: JSON, metric: str) -> None:
        for value in side.values():
            if isinstance(value, dict):
                want(value, "")
        needed.setdefault(json.dumps(side, sort_keys=True), (side, set()))[1].add(metric)

    for claim in every:
        for expect in claim.expects:
            for side in (expect.a, expect.b):
                if isinstance(side, dict):
                    want(side, expect.metric)
    shown = any("transfer" in metrics for _, metrics in needed.values())
    for seed in setup.seeds:
        if shown:
            yield config(setup, *unseen(seed)), frozenset()
        for side, metrics in needed.values():
            asked = metrics - {""}
            yield config(setup, side, seed), frozenset({*TABLE, *asked} if asked else ())


def sides(every: list[Claim]) -> list[JSON]:
    """Every side of a claim, each once: the rows of the table of networks."""
    found = [
        side
        for claim in every
        for expect in claim.expects
        for side in (expect.a, expect.b)
        if isinstance(side, dict)
    ]
    return list({json.dumps(side, sort_keys=True): side for side in found}.values())


def unseen(seed: int) -> tuple[JSON, int]:
    """The network that `transfer` shows images to: its settings and its seed, which no source and
    no witness has.
    """
    return {"method": "standard", "net": "small_cnn"}, seed + 100
