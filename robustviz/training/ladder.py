"""Stronger and stronger attacks on the same images, and whether what they found is in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robustviz.stats import wilson
from robustviz.training.evaluation import Evaluation, Finding
from robustviz.types import JSON, eps_text


@dataclass(frozen=True)
class Ladder:
    """Stronger and stronger attacks on the same images: `rungs`, weakest first, each with its raw
    and cumulative k.

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
    def findings(self) -> tuple[Finding, ...]:
        """What the monitor of the order says, one a rung."""
        return tuple(
            finding for rung in self.rungs for finding in rung.doctor if finding.name == "order"
        )

    @property
    def ordered(self) -> bool:
        """Whether no stronger attack left clearly more images right than a weaker one."""
        return all(finding.ok for finding in self.findings)

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
            f" {eps_text(self.eps)}. {order} {self.left_out}"
        ).strip()

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
            "rungs": [rung.to_json() for rung in self.rungs],
            "ordered": self.ordered,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "left_out": self.left_out,
            "verdict": self.verdict,
        }


def climb(rungs: Sequence[Evaluation], method: str = "", left_out: str = "") -> Ladder:
    """The ladder of evaluations of one network on the same images, weakest attack first, with
    cumulative k and the monitor.

    Raw figures must be ordered, clean images first, with a tolerance of one point or two images,
    whichever is more. A network trained by `fgsm_at` is let off at FGSM: it may know FGSM's noise
    better than clean images (label leaking). Raises UserError for an evaluation without verdicts on
    each image.
    """
    out: list[Evaluation] = []
    still, lowest, lowest_name = rungs[0].right()[0], rungs[0].clean_k, "Clean"
    for number, rung in enumerate(rungs, 1):
        still = still & rung.right()[1]
        slack = max(2.0, rung.n / 100)
        leaks = method == "fgsm_at" and rung.attack.get("key") == "fgsm"
        order = Finding(
            "order",
            leaks or rung.robust_k <= lowest + slack,
            float(rung.robust_k - lowest),
            f"{rung.printed} leaves {rung.robust_k} of {rung.n} right, {lowest_name} {lowest}; "
            + (
                "FGSM adversarial training is let off here (label leaking)."
                if leaks
                else f"at most {slack:.0f} more are chance."
            ),
        )
        out.append(
            dataclasses.replace(
                rung,
                doctor=(*(each for each in rung.doctor if each.name != "order"), order),
                rung=number,
                cumulative_k=int(still.sum()),
            )
        )
        if rung.robust_k < lowest:
            lowest, lowest_name = rung.robust_k, rung.printed
    return Ladder(tuple(out), left_out)


def ladders(found: Sequence[Evaluation]) -> list[Ladder]:
    """The ladders among a run's evaluations, oldest first: rungs on the same images at the same ε,
    weakest first.
    """
    groups: dict[tuple[Any, ...], dict[int, Evaluation]] = {}
    for one in found:
        if one.rung:
            groups.setdefault((one.eps, one.n, one.seed, one.split, one.images), {})[one.rung] = one
    return [Ladder(tuple(rung for _, rung in sorted(rungs.items()))) for rungs in groups.values()]
