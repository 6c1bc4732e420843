"""Several attacks on the same images: what withstood all of them, and whether stronger ones found
more than weaker ones.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustviz.stats import wilson
from robustviz.training.evaluation import Evaluation, Finding
from robustviz.types import JSON, eps_text

MONITOR = ("order", "margin")  # findings on a ladder, not on one attack
POINTS = 5  # taken from PGD on cross-entropy by what comes after it: so many are a warning


@dataclass(frozen=True)
class Worst:
    """What withstood every attack that was run on the same `n` images within the same ε: `k` images
    are right untouched and under each of the `attacks`, which are in words, weakest first. Their
    seeds may differ. `images` is the hash of the images.
    """

    n: int
    k: int
    eps: float
    attacks: tuple[str, ...]
    images: str

    @property
    def acc(self) -> float:
        return self.k / max(self.n, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `acc`."""
        return wilson(self.k, self.n)

    @property
    def several(self) -> bool:
        """Whether it says more than one attack's own accuracy."""
        return len(self.attacks) > 1

    @property
    def text(self) -> str:
        """What was counted, with the attacks, as a sentence."""
        low, high = self.interval
        return (
            f"{100 * self.acc:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {self.n} images are"
            f" right under every attack run: {', '.join(self.attacks)}."
        )

    def beside(self, plain: Evaluation | None) -> str:
        """`text`, and whether the evaluation that is told next to it met other images."""
        if plain is None or plain.images == self.images:
            return self.text
        return f"{self.text} {plain.printed} met another set of images."

    def to_json(self) -> JSON:
        """Plain values: `worst_acc`, `worst_k` … of `n`, and which `images` they are."""
        return {
            "n": self.n,
            "images": self.images,
            "worst_acc": self.acc,
            "worst_k": self.k,
            "worst_interval": list(self.interval),
            "worst_attacks": list(self.attacks),
        }


def _ball(one: Evaluation) -> tuple[Any, ...]:
    """What evaluations have in common whose verdicts can be put together."""
    return one.weights, one.images, one.eps, one.attack.get("norm")


def worst(found: Sequence[Evaluation], like: Evaluation) -> Worst | None:
    """What withstood every attack of `like` and of those `found` that met the same images, with the
    same weights, ε and norm; None where `like` is of a version that kept no verdicts.
    """
    if not like.robust_right:
        return None
    alike = sorted(
        (one for one in (*found, like) if _ball(one) == _ball(like)),
        key=lambda one: (not one.rung, one.rung),
    )
    still = like.right()[0]
    for one in alike:
        still = still & one.right()[1]
    return Worst(
        like.n,
        int(still.sum()),
        like.eps,
        tuple(dict.fromkeys(one.printed for one in alike)),
        like.images,
    )


def headline(found: Sequence[Evaluation], eps: float | None) -> Worst | None:
    """What counts of a run's evaluations at this ε: what withstood all attacks on the images that
    met most of them, then on most images; None where no two attacks met the same ones.
    """
    every = [worst(found, one) for one in found if one.eps == eps]
    return max(
        (each for each in every if each and each.several),
        key=lambda each: (len(each.attacks), each.n),
        default=None,
    )


@dataclass(frozen=True)
class Ladder:
    """Stronger and stronger attacks on the same images: `rungs`, weakest first, each with its raw
    and cumulative k. The margin rung, CW-100, climbs another loss than PGD and is no stronger: it
    stands where it does to catch, before AutoAttack, a network whose cross-entropy misleads.

    `left_out`: one sentence where a rung does not apply to this data.
    """

    rungs: tuple[Evaluation, ...]
    left_out: str = ""

    @property
    def eps(self) -> float:
        return self.rungs[-1].eps

    @property
    def n(self) -> int:
        return self.rungs[-1].n

    @property
    def clean_acc(self) -> float:
        return self.rungs[0].clean_acc

    @property
    def robust_k(self) -> int:
        """How many images are right untouched and under every rung."""
        return int(self.rungs[-1].cumulative_k or 0)

    @property
    def robust_acc(self) -> float:
        return self.robust_k / max(self.n, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `robust_acc`."""
        return wilson(self.robust_k, self.n)

    @property
    def worst(self) -> Worst | None:
        """What withstood every rung."""
        return worst(self.rungs, self.rungs[-1])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the monitor says: on each rung's order and, after PGD, on what cross-entropy
        missed.
        """
        return tuple(
            finding for rung in self.rungs for finding in rung.doctor if finding.name in MONITOR
        )

    @property
    def ordered(self) -> bool:
        """Whether no stronger attack left clearly more images right than a weaker one."""
        return all(finding.ok for finding in self.findings if finding.name == "order")

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence where attacks on cross-entropy flatter the network: the strongest rung's."""
        return tuple(finding.text for finding in self.findings if finding.warning)[-1:]

    @property
    def verdict(self) -> str:
        """What the ladder says, in one or two sentences."""
        low, high = self.interval
        wrong = [
            rung.printed
            for rung in self.rungs
            if any(f.name == "order" and not f.ok for f in rung.doctor)
        ]
        order = (
            f"Out of order: {', '.join(wrong)}; a stronger attack must not leave more right."
            if wrong
            else "The rungs are in order."
        )
        return (
            f"{self.robust_k} of {self.n} images ({100 * self.robust_acc:.1f} % [{100 * low:.1f},"
            f" {100 * high:.1f}]) stay right under every rung up to {self.rungs[-1].printed} at ε"
            f" {eps_text(self.eps)}. {order} {' '.join((*self.warnings, self.left_out))}"
        ).strip()

    def __str__(self) -> str:
        """A line a rung, and the verdict."""
        first = self.rungs[0]
        clean = f"clean {first.clean_k} of {self.n} right  {self.clean_acc:.3f}"
        note = [self.rungs[-1].note] if self.rungs[-1].note else []
        return "\n".join([clean, *(rung.line for rung in self.rungs), self.verdict, *note])

    def _repr_markdown_(self) -> str:
        """What a notebook shows of it."""
        return f"```text\n{self}\n```"

    def to_json(self) -> JSON:
        """Plain values; `robust_acc` is the last rung's cumulative accuracy."""
        return {
            "attack": "ladder",
            "n": self.n,
            "eps": self.eps,
            "seed": self.rungs[-1].seed,
            "clean_acc": self.clean_acc,
            "robust_acc": self.robust_acc,
            "robust_interval": list(self.interval),
            **(self.worst.to_json() if self.worst else {}),
            "rungs": [rung.to_json() for rung in self.rungs],
            "ordered": self.ordered,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "left_out": self.left_out,
            "verdict": self.verdict,
        }


def _loss(attack: Mapping[str, Any]) -> str:
    """Whose loss an attack of many steps climbs, `ce` or `dlr` for any margin; nothing for one that
    is held against all: FGSM, which is weaker than they are, and AutoAttack, which has both.
    """
    return {"pgd": "ce", "cw": "dlr"}.get(attack["key"], str(attack.get("loss", "")))


def climb(rungs: Sequence[Evaluation], method: str = "", left_out: str = "") -> Ladder:
    """The ladder of evaluations of one network on the same images, weakest attack first, with
    cumulative k and the monitor.

    Raw figures must be ordered, clean images first, with a tolerance of one point or two images,
    whichever is more. An attack on the margin (CW, APGD on DLR) is another one than PGD on
    cross-entropy, not a stronger one: each is held against clean images, FGSM and its own kind, and
    AutoAttack against the least that any left. A network trained by `fgsm_at` is let off at FGSM:
    it may know FGSM's noise better than clean images (label leaking). What comes after PGD warns
    where it takes five points or more from PGD's count. Raises UserError for an evaluation without
    verdicts on each image.
    """
    out: list[Evaluation] = []
    still, pgd = rungs[0].right()[0], None
    seen = [(rungs[0].clean_k, "Clean", "")]
    for number, rung in enumerate(rungs, 1):
        still, loss = still & rung.right()[1], _loss(rung.attack)
        weaker = [each for each in seen if not loss or each[2] in ("", loss)]
        lowest, name, _ = min(weaker, key=operator.itemgetter(0))
        monitor = [_order(rung, lowest, name, method)]
        if rung.attack["key"] == "pgd":
            pgd = rung
        elif pgd:
            monitor.append(_margin(rung, int(still.sum()), pgd))
        out.append(
            dataclasses.replace(
                rung,
                doctor=(*(each for each in rung.doctor if each.name not in MONITOR), *monitor),
                rung=number,
                cumulative_k=int(still.sum()),
            )
        )
        seen.append((rung.robust_k, rung.printed, loss))
    return Ladder(tuple(out), left_out)


def _order(rung: Evaluation, lowest: int, name: str, method: str) -> Finding:
    slack = max(2.0, rung.n / 100)
    leaks = method == "fgsm_at" and rung.attack["key"] == "fgsm"
    return Finding(
        "order",
        leaks or rung.robust_k <= lowest + slack,
        float(rung.robust_k - lowest),
        f"{rung.printed} leaves {rung.robust_k} of {rung.n} right, {name} {lowest}; "
        + (
            "FGSM adversarial training is let off here (label leaking)."
            if leaks
            else f"at most {slack:.0f} more are chance."
        ),
    )


def _margin(rung: Evaluation, still: int, pgd: Evaluation) -> Finding:
    """How far below PGD's count the rungs up to this one go, in points."""
    points = 100 * (pgd.robust_k - still) / rung.n
    flatters = points >= POINTS
    return Finding(
        "margin",
        True,
        points,
        f"With {rung.printed}, {points:.1f} points fewer stay right than under {pgd.printed}"
        + (
            ": attacks on cross-entropy flatter this network."
            if flatters
            else f"; {POINTS} or more would be a warning."
        ),
        warning=flatters,
    )


def ladders(found: Sequence[Evaluation]) -> list[Ladder]:
    """The ladders among a run's evaluations, oldest first: rungs on the same images at the same ε,
    weakest first. AutoAttack is last, also where it was climbed before the ladder had all rungs.
    """
    groups: dict[tuple[Any, ...], list[Evaluation]] = {}
    for one in found:
        if one.rung:
            groups.setdefault((*_ball(one), one.n, one.seed, one.split), []).append(one)
    return [
        Ladder(
            tuple(sorted(rungs, key=lambda one: (one.attack.get("key") == "autoattack", one.rung)))
        )
        for rungs in groups.values()
    ]


def best_ladder(found: Sequence[Evaluation], eps: float | None) -> Ladder | None:
    """A run's ladder at this ε and seed 0, the one with most rungs and then most images."""
    return max(
        (each for each in ladders(found) if each.eps == eps and each.rungs[-1].seed == 0),
        key=lambda each: (len(each.rungs), each.n),
        default=None,
    )
