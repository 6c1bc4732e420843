"""The statements that can be made about two runs: whether they can be compared at all, in which
settings they differ, which network is better, and what further seeds show about their methods.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustviz import paths, registry
from robustviz.imports import load
from robustviz.runs.files import read_json
from robustviz.runs.folder import Run, all_runs
from robustviz.runs.naming import method_label
from robustviz.stats import LEAST_SEEDS, mean_interval
from robustviz.training.evaluation import Evaluation
from robustviz.types import JSON, UserError, eps_text, listed, points_text
from robustviz.views.verdict import Verdict, held

SEEDS = paths.ROOT / "checkpoints" / "seeds"  # evaluations of networks that are not shipped
ATTACK = "PGD-20"
# settings that do not change the training itself: where it ran, what was saved, which epoch is used
APART = ("device", "threads", "snapshots", "select")


@dataclass(frozen=True)
class Trained:
    """One training run: its settings as JSON, and its evaluations.
    Left out are settings that do not change the training (`APART`), and settings that were added to
    robustviz later (`Option.later`) if they have their default.
    """

    settings: JSON
    evaluations: Sequence[Evaluation]

    @property
    def method(self) -> str:
        return str(self.settings["method"]["key"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def group(self) -> str:
        """The settings without the seed, as text: equal for runs that differ only in their seed."""
        return _text({name: each for name, each in self.settings.items() if name != "seed"})


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def trained(run: Run) -> Trained:
    """The settings and evaluations of a run. Raises UserError if its files are damaged."""
    return Trained(_settings(run.config), run.evaluations())


def _settings(config: Any) -> JSON:
    every = registry.encode(config, naming=True)
    return {name: each for name, each in every.items() if name not in APART}


def _shipped(path: Path) -> Trained:
    """Read one file of `checkpoints/seeds`. Raises UserError if it is damaged."""
    try:
        content = read_json(path)
        config = load("robustviz.training.config").TrainConfig.from_json(content["config"])
        found = tuple(map(Evaluation.from_json, content["evaluations"]))
        return Trained(_settings(config), found)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or of another version: restore the file.") from error


def every_seed(data: str) -> list[Trained]:
    """All training runs on a data set (by its key) that are known on this computer.
    These are the shipped runs, the user's own, and those of which only the evaluations are here, in
    `checkpoints/seeds`; no imported ones. Damaged ones are left out; the Train page reports damaged
    runs of the user.
    """

    def sources() -> Iterator[Trained]:
        for run in all_runs():
            try:
                if run.data_key == data and not run.imported:
                    yield trained(run)
            except (UserError, KeyError):
                continue
        for path in sorted(SEEDS.glob(f"{data}-*.json")):
            try:
                yield _shipped(path)
            except UserError:
                continue

    return list(sources())


def apart(first: Run, second: Run) -> str:
    """A sentence on why two runs cannot be compared; empty if they can be.
    They cannot if their data sets or classes differ, or if both were evaluated but never on the
    same images. Other settings of the data do not matter. Raises UserError if a file of evaluations
    is damaged.
    """
    if first.data_key != second.data_key or first.classes != second.classes:
        return (
            f"{first.id} was trained on {first.data_name} and {second.id} on {second.data_name}:"
            " choose networks of one data set."
        )
    met = [{one.images for one in run.evaluations() if one.images} for run in (first, second)]
    if all(met) and not met[0] & met[1]:
        return (
            f"{first.id} and {second.id} were evaluated on different images, so their numbers"
            " cannot be compared: evaluate both on the same split."
        )
    return ""


def kin(first: Run, second: Run) -> str:
    """A sentence on which settings differ between two training runs.
    If only the method differs, it also says whether both saw the same batches: they did, unless
    just one of the methods draws balanced batches. If one of the runs was imported, it says that
    this run's seed and batches are not known.
    """
    if first.imported or second.imported:
        return "One was trained elsewhere, so its seed and batches are not known."
    a, b = (_settings(run.config) for run in (first, second))
    differing = sorted(name for name in {*a, *b} if a.get(name) != b.get(name))
    if not differing:
        return "Same settings, same seed: the same training twice."
    if differing == ["seed"]:
        return "Same settings, different seeds: any difference is due to chance."
    if differing == ["method"]:
        whole = a["method"]["key"] != b["method"]["key"]
        what = "the method" if whole else "a setting of the method"
        if first.config.method.balanced != second.config.method.balanced:
            return f"Same seed, but one method draws balanced batches: {what} differs."
        return f"Same seed, same batches: what differs is {what}."
    names = [SAID.get(name, name) for name in differing]
    return f"They differ in {listed(names)}: this pair alone cannot tell which of them matters."


SAID = {
    "data": "the data",
    "eps": "ε",
    "n_train": "training images",
    "net": "the network",
    "method": "method",
    "batch_size": "batch size",
    "lr": "learning rate",
}


@dataclass(frozen=True)
class Over:
    """What all seeds together show about two methods, A (the first) and B, under attack.
    `lines`: one sentence each. `seeds`: the number of seeds that both methods have. `effect`: the
    mean over these seeds of B's robust accuracy minus A's, as a fraction; `low`, `high`: the ends
    of its 95% interval. These three are None if nothing can be said about the methods.
    """

    lines: tuple[str, ...]
    seeds: int = 0
    effect: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def shown(self) -> bool:
        """Whether there is an interval that excludes 0, so that the methods are shown to differ."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def network(first: Trained, second: Trained, names: tuple[str, str]) -> Verdict:
    """The verdict on two single networks, from images on which both were evaluated with PGD-20.
    The two evaluations must agree in images, ε and noise seed. If several pairs of evaluations do,
    one on most images counts and, among these, one at the training ε of `first`. If none do, the
    verdict's line says so. `names`: what the networks are called. The interval over paired images
    is in the verdict's `sure`.
    """
    every: list[tuple[Evaluation, Evaluation]] = [
        (a, b)
        for a in first.evaluations
        for b in second.evaluations
        if a.printed == b.printed == ATTACK
        and (a.images, a.n, a.eps, a.seed) == (b.images, b.n, b.eps, b.seed)
        and a.images
        and a.robust_right
        and b.robust_right
    ]
    if not every:
        return Verdict(f"{' and '.join(names)} have no {ATTACK} evaluation on the same images.", ())
    a, b = max(every, key=lambda both: (both[0].n, both[0].eps == first.settings["eps"]))
    rights = [np.logical_and(*one.right()) for one in (a, b)]
    return held(*rights, attack=ATTACK, eps=a.eps, seed=a.seed, names=names)


def methods(first: Trained, second: Trained, every: Iterable[Trained], at_once: int = 1) -> Over:
    """What all seeds show about the methods of two runs, under PGD-20.
    Among `every`, it finds the runs that differ from `first` or `second` in nothing but the seed.
    It compares the share of the same test images that are right under attack: the mean difference
    over the seeds that both methods have, second minus first, with its paired t interval. The
    effect is None if both methods are the same, if anything but method and seed differs, or with
    fewer than three common seeds; a line then says why. `at_once`: the number of pairs shown
    together: their intervals hold jointly with 95% (Bonferroni).
    """
    if first.method == second.method:
        return Over(("Both have the same method, so methods are not compared.",))
    a, b = ({**one.settings, "seed": 0, "method": 0} for one in (first, second))
    if a != b:
        return Over(("More than the method differs, so methods cannot be compared.",))
    left, right, where = _common(first, second, every)
    both = sorted(left.keys() & right.keys())
    if len(both) < LEAST_SEEDS:
        return Over(
            (
                f"{len(both)} {'seed was' if len(both) == 1 else 'seeds were'} trained with both"
                f" methods: comparing methods needs {LEAST_SEEDS}.",
                _how(first, second),
            ),
            len(both),
        )
    effect, low, high = mean_interval(
        [right[seed] - left[seed] for seed in both], 1 - 0.05 / at_once
    )
    names = method_label(first.method), method_label(second.method)
    found = Over((), len(both), effect, low, high)
    more, less = names[::-1] if effect > 0 else names
    line = (
        f"Over {len(both)} seeds {more} is right {100 * abs(effect):.1f} percentage points more"
        f" often under attack than {less}."
        if found.shown
        else f"Over {len(both)} seeds no difference between {names[0]} and {names[1]} is shown."
    )
    return Over(
        (
            line,
            f"{names[1]} minus {names[0]}: {points_text(effect)} percentage points.",
            f"Its {100 - 5 / at_once:.3g}% interval over seeds (paired t): {points_text(low)} to"
            f" {points_text(high)} percentage points.",
            *([f"So all {at_once} pairs shown here together have 95%."] if at_once > 1 else []),
            where,
        ),
        len(both),
        effect,
        low,
        high,
    )


def _how(first: Trained, second: Trained) -> str:
    """A sentence on how to get more seeds, with a command if both runs have default settings but
    for data, method and seed.
    """
    config = load("robustviz.training.config").TrainConfig
    for one in (first, second):
        asked = {name: {"key": one.settings[name]["key"]} for name in ("data", "method")}
        if dataclasses.replace(one, settings=_settings(config.from_json(asked))).group != one.group:
            return "Train both with further seeds and the settings that they have."
    return (
        "Train more seeds: `python -m robustviz sweep --seeds 0,1,2 --methods"
        f" {first.method},{second.method} --data {first.settings['data']['key']}`."
    )


def _common(
    first: Trained, second: Trained, every: Iterable[Trained]
) -> tuple[dict[int, float], dict[int, float], str]:
    """The accuracy under attack by seed, for the runs like `first` and for those like `second`, on
    the same images; and a sentence on these images. Runs are alike if only their seed differs.
    Evaluations count if they are with PGD-20 at the training ε of `first`, noise seed 0, on test
    images. The images are those on which most seeds were evaluated on both sides. Returns ({}, {},
    "") if no evaluation counts.
    """
    found: dict[tuple[str, int], list[dict[int, float]]] = defaultdict(lambda: [{}, {}])
    groups = (first.group, second.group)
    eps = float(first.settings["eps"])
    for one in every:
        if one.group not in groups:
            continue
        for each in one.evaluations:
            if each.images and (each.printed, each.eps, each.seed, each.split) == (
                ATTACK,
                eps,
                0,
                "test",
            ):
                side = found[each.images, each.n][groups.index(one.group)]
                side.setdefault(one.seed, each.robust_acc)
    met = Counter({key: len(a.keys() & b.keys()) for key, (a, b) in found.items()})
    if not met:
        return {}, {}, ""
    key = max(met, key=lambda each: (met[each], each[1], each[0]))
    left, right = found[key]
    return left, right, f"{ATTACK} at ε = {eps_text(eps)}, n = {key[1]} test images."
