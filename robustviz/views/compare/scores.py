"""Counts the images on which each network is right under attack, from the evaluations stored with
its run. Nothing is measured here, and torch is not needed.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from robustviz.runs.folder import Run
from robustviz.runs.naming import apart
from robustviz.stats import Bools
from robustviz.training.evaluation import Evaluation
from robustviz.training.ladder import headline
from robustviz.types import UserError, eps_text, listed
from robustviz.views.verdict import Verdict, held

Found = dict[str, Evaluation]  # evaluations by the attack's printed name, weakest first


class Images(NamedTuple):
    """The key of a group of evaluations: the hash of their images, and the attack's radius ε."""

    images: str
    eps: float


@dataclass(frozen=True, eq=False)
class Score:
    """A run's evaluations, grouped by images and ε.
    `found`: for each group, its evaluations by the attack's printed name, weakest attack first.
    `on`: the group used for the run's score. `trained`: the training ε, 0 if the method does not
    attack. `seconds`: the median time per epoch, None if unknown.
    """

    run: Run
    found: Mapping[Images, Found]
    on: Images
    trained: float
    seconds: float | None

    @property
    def steps(self) -> Found:
        """The evaluations of the group `on`, by the attack's printed name, weakest attack first."""
        return self.found[self.on]

    @property
    def plain(self) -> Evaluation:
        """The evaluation on the largest number of images, for the clean accuracy; if several have
        that number, one at this score's own ε (`on.eps`) if there is one.
        """
        every = (one for found in self.found.values() for one in found.values())
        return max(every, key=lambda one: (one.n, one.eps == self.on.eps))

    def right(self, attacks: Iterable[str] | None = None) -> Bools:
        """For each image of the group `on`, whether it is classified correctly both clean and under
        all of `attacks` (printed names; None: all attacks of the group), (N,) bool. Attacks without
        an evaluation in the group are ignored.
        """
        return _right(self.steps, attacks)


def _right(found: Found, attacks: Iterable[str] | None = None) -> Bools:
    wanted = found if attacks is None else attacks
    still = next(iter(found.values())).right()[0]
    for name in wanted:
        if name in found:
            still = still & found[name].right()[1]
    return still


def score(run: Run, eps: float | None = None) -> Score | None:
    """A run's score. Its group `Score.on` (some images and an ε) is the first that exists of these:

    1. the group with most attacks at the radius `eps`, if these are two or more;
    2. the group with most attacks at the run's own ε, if these are two or more;
    3. a group with a single attack at `eps` (None: at the run's own ε), on the most images;
    4. the group with most attacks at any radius.

    Of several groups with equally many attacks, the one with most images is taken.

    Only untargeted linf attacks with per-image results count. Returns None if there are no such
    evaluations, or if the file of evaluations is damaged.
    """
    try:
        every = [
            one
            for one in run.evaluations()
            if one.robust_right
            and not one.attack.get("targeted")
            and one.attack.get("norm", "linf") == "linf"  # radii of other norms have other units
        ]
    except UserError:  # a damaged file must not hide the other runs
        return None
    found: dict[Images, Found] = {}
    for one in sorted(every, key=lambda one: (not one.rung, one.rung, one.n)):
        found.setdefault(Images(one.images, one.eps), {})[one.printed] = one
    if not found:
        return None
    best = next(
        filter(None, (headline(every, radius) for radius in (eps, run.eps) if radius)), None
    )
    on = (
        Images(best.images, best.eps)
        if best
        else max(found, key=lambda at: (at.eps == (eps or run.eps), *_size(found[at])))
    )
    seconds = [record["seconds"] for record in run.records()]
    attack = run.info["method"].get("attack")
    return Score(
        run,
        found,
        on,
        float((attack.get("eps") or run.eps) if attack else 0),
        statistics.median(seconds) if seconds else None,
    )


def _size(found: Found) -> tuple[int, int]:
    """The number of attacks and of images of a group of evaluations."""
    return len(found), next(iter(found.values())).n


@dataclass(frozen=True, eq=False)
class Board:
    """The scores of several networks, to be compared.
    `scores` by run id; `on`: the images and ε that are the group `Score.on` of most networks; `n`:
    the number of these images; `attacks`: of the lists of attacks with which networks were
    evaluated on them, the most frequent one, weakest attack first.
    """

    scores: Mapping[str, Score]
    attacks: tuple[str, ...]
    on: Images
    n: int

    def alike(self, one: Score, attacks: Sequence[str]) -> bool:
        """Whether the score is for the board's images and ε, with at least all these attacks."""
        return one.on == self.on and set(attacks) <= one.steps.keys()

    def reached(self, at: int) -> tuple[str, ...] | None:
        """The attacks that count at the slider position `at`: the first `at` of `attacks`. None at
        the last position, where all attacks that were run on a network count.
        """
        return None if at >= len(self.attacks) else self.attacks[:at]

    def counted(self, one: Score, at: int) -> tuple[int, int]:
        """(k, n): of the n images of its group `Score.on`, the network is right on k under all the
        attacks that count at the slider position `at`.
        """
        right = one.right(self.reached(at))
        return int(right.sum()), len(right)

    def verdict(self, a: str, b: str, at: int) -> Verdict:
        """The verdict on A against B, or on A alone if `b` is empty, at the slider position `at`.
        `a` and `b` are run ids. Of the attacks that count at this position, only those with which
        both were evaluated on the same images are used. The verdict's line says so if there are
        none, if some of the board's attacks are missing, or if a mark shows other numbers.
        """
        if a == b:
            return Verdict("A and B are the same network.", ())
        first, second = self.scores.get(a), self.scores.get(b)
        for side, run_id, known in (("A", a, first), ("B", b, second)):
            if run_id and known is None:
                return Verdict(f"{side} has not been attacked yet: evaluate it first.", ())
        if first is None:
            return Verdict("Choose a network.", ())
        reached = self.reached(at)
        wanted = self.attacks if reached is None else reached
        if second is None:
            met = [name for name in first.steps if reached is None or name in reached]
            verdict = held(
                first.right(reached),
                attack=_all(met),
                eps=first.on.eps if met else 0,
                seed={first.steps[name].seed for name in met},
                images=_images(met),
            )
            return _noted(verdict, met, wanted, "It")
        shared = [
            ([name for name in found if name in second.found[on]], on)
            for on, found in first.found.items()
            if on in second.found
        ]
        if reached is not None:
            shared = [([name for name in names if name in reached], on) for names, on in shared]
        shared = [(names, on) for names, on in shared if names or not at]
        if not shared:
            return Verdict(_unlike(first, second), ())
        met, on = max(shared, key=lambda one: (len(one[0]), one[1] == self.on))
        right = [_right(each.found[on], met) for each in (first, second)]
        verdict = held(
            *right,
            attack=_all(met),
            eps=on.eps if met else 0,
            seed={each.found[on][name].seed for each in (first, second) for name in met},
            images=_images(met),
        )
        verdict = dataclasses.replace(verdict, sure=(*verdict.sure, *apart(first.run, second.run)))
        said = _noted(verdict, met, wanted, "Both")
        elsewhere = [
            " {}'s mark shows another measurement, {:,} of {:,}.".format(
                side, *self.counted(one, at)
            )
            for side, one, each in zip("AB", (first, second), right, strict=True)
            if self.counted(one, at) != (each.sum(), len(each))
        ]
        return dataclasses.replace(said, line=said.line + "".join(elsewhere))


def _images(attacks: Sequence[str]) -> str:
    return f"images under all {len(attacks)} attacks" if len(attacks) > 1 else "attacked images"


def _all(attacks: Sequence[str]) -> str:
    """The attacks as text; of more than two only the first and the last: `FGSM to AutoAttack`."""
    return f"{attacks[0]} to {attacks[-1]}" if len(attacks) > 2 else listed(attacks)


def _noted(verdict: Verdict, met: Sequence[str], wanted: Sequence[str], whom: str) -> Verdict:
    """The verdict. If some of the attacks `wanted` are missing among those counted (`met`), a
    sentence that says so is added to its line. `whom`: `It` or `Both`, whom the sentence is about.
    """
    missing = [name for name in wanted if name not in met]
    if not missing:
        return verdict
    said = f"Not run on {whom.lower()}: {listed(missing)}"
    if len(met) < len(missing):
        said = (
            f"Only {listed(met)} {'was' if len(met) == 1 else 'were'}" if met else "No attack was"
        )
        said += f" run on {whom.lower()}"
    return dataclasses.replace(verdict, line=f"{verdict.line} {said}.")


def _unlike(first: Score, second: Score) -> str:
    if first.on.eps != second.on.eps:
        radii = (eps_text(one.on.eps).split(" ")[0] for one in (first, second))
        return "A was attacked at {}, B at {}: their heights cannot be compared.".format(*radii)
    return "A and B were not attacked on the same images: their heights cannot be compared."


def board(runs: Iterable[Run]) -> Board | None:
    """The scoreboard of these runs; None if none of them has a `score`.
    Each run is scored, if possible, at the ε that most of the runs have (see `score`).
    """
    runs = list(runs)
    usual = Counter(run.eps for run in runs).most_common(1)
    scores = {run.id: one for run in runs if (one := score(run, usual[0][0]))}
    if not scores:
        return None
    on, _ = Counter(one.on for one in scores.values()).most_common(1)[0]
    met = Counter(tuple(one.steps) for one in scores.values() if one.on == on)
    attacks = max(met, key=lambda names: (met[names], len(names)))
    n = next(len(one.right()) for one in scores.values() if one.on == on)
    return Board(scores, attacks, on, n)
