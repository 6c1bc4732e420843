"""Reads the claims, which are written down before their runs. `checkpoints/claims/NAME.toml` states
in one sentence what a paper says, and which measured numbers should differ. `setups.toml` in the
same folder states on which data and with which seeds all claims are tested.
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
TABLE = ("clean", "both")  # metrics that are measured for every network that a claim compares
# For each metric: its description for people, and its best possible value (None: it has none).
METRICS: dict[str, tuple[str, float | None]] = {
    "clean": ("accuracy on untouched images", 1.0),
    "fgsm": ("accuracy under FGSM", 1.0),
    "pgd": ("accuracy under PGD-20", 1.0),
    "both": ("accuracy under PGD-20 and CW-100, the worse of both image by image", 1.0),
    "gap": ("cosine of a feature to its own class's centre less that to the nearest other", None),
    "misaligned": ("how well misaligned features tell fooled images from others (AUC)", 1.0),
    "features": ("how many features make up half of an answer, the mean", None),
    "transfer": ("share of images made on it that fool an unseen Small CNN", 1.0),
    "curvature": ("log10 of the loss's largest curvature, the median", None),
}


@dataclass(frozen=True)
class Expectation:
    """A metric that should differ between two sides, A and B. A side is a network trained with some
    settings of its own.

    `metric`: a key of `METRICS`. `a` and `b`: the settings of the two sides by dotted path; `b` may
    also be a number, with which A is compared. The metric should be higher for A than for B (lower
    if `less`) by at least `smallest`. If `not_worse`, A may instead be lower by at most `smallest`.
    `says` states this in words.
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
    """A claim of a paper: what it says, in one sentence (`claim`), and the expectations that follow
    from it (`expects`).

    `about` is the key of the paper's method, `name` the name of the claim's file without its
    ending.
    """

    name: str
    about: str
    claim: str
    expects: tuple[Expectation, ...]


@dataclass(frozen=True)
class Setup:
    """The conditions under which all claims are tested on one data set.

    `data`: the data set's key; `seeds`: the training seeds; `n`: the number of test images for the
    accuracies (0: all), while the other metrics have fixed numbers of images; `settings`: training
    settings of all networks by dotted path; `pilot`: a text on the pilot runs from which these
    conditions were chosen.
    """

    data: str
    seeds: tuple[int, ...]
    n: int
    pilot: str
    settings: JSON


def claims(folder: Path = FOLDER) -> list[Claim]:
    """All claims in `folder`: first those whose file is named after a method in `PAPERS`, in that
    order, then the others, sorted by the name of their file.

    Raises UserError, naming the file and what is wrong in it, if a file cannot be used.
    """
    files = [path for path in sorted(folder.glob("*.toml")) if path.name != SETUPS]
    first = {name: place for place, name in enumerate(PAPERS)}
    files.sort(key=lambda path: first.get(path.stem, len(first)))
    return [_claim(path) for path in files]


def setups(folder: Path = FOLDER) -> list[Setup]:
    """All setups of `setups.toml` in `folder`, in the order in which they are written there, which
    is the cheapest first.

    Raises UserError if the file cannot be used.
    """
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
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: [{data}]: {error}.") from error
    return out


def _claim(path: Path) -> Claim:
    given = _read(path)
    try:
        expects = tuple(_expectation(path, each) for each in given["expect"])
        return Claim(path.stem, str(given["about"]), str(given["claim"]), expects)
    except KeyError as error:
        raise UserError(f"{path} lacks {error}.") from error
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}.") from error


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
    """The training configuration of one side with one seed, on the CPU. `side`: the side's settings
    by dotted path; they replace those of the setup.

    A setting whose value is a table stands for another run, such as a source model. The table holds
    the settings of that run, which is trained with the same seed; in its place the configuration
    has the run's id. Raises UserError for settings that are not valid.
    """
    from robustviz.training.config import TrainConfig

    named = {
        path: config(setup, value, seed).run_id if isinstance(value, dict) else value
        for path, value in {**setup.settings, **side}.items()
    }
    flags: JSON = {"data": setup.data, "seed": seed, "device": "cpu"}
    return TrainConfig.make(None, flags, list(named.items()))


def trainings(every: list[Claim], setup: Setup) -> Iterator[tuple[TrainConfig, frozenset[str]]]:
    """Yields all trainings that the claims `every` need for a setup, each with the names of the
    metrics to measure on it.

    Each side occurs once for each seed, and a source comes before the trainings that use it. The
    metrics are those that the claims compare for this side, and those in `TABLE`. The set is empty
    for a network that no claim compares and that only others need: a source, a witness, or the
    target of the metric `transfer` (`unseen`).
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
    """The settings of all sides that occur in the claims, each once and in order of first
    appearance: the rows of the table of networks.
    """
    found = [
        side
        for claim in every
        for expect in claim.expects
        for side in (expect.a, expect.b)
        if isinstance(side, dict)
    ]
    return list({json.dumps(side, sort_keys=True): side for side in found}.values())


def unseen(seed: int) -> tuple[JSON, int]:
    """The target network of the metric `transfer`, for a side trained with `seed`: its settings,
    and its own training seed `seed` + 100, which no source or witness model has.
    """
    return {"method": "standard", "net": "small_cnn"}, seed + 100
