"""Several attacks on the same images, a "ladder" of "rungs" from weak to strong: finds which images
are classified correctly under all of them, and checks that no stronger attack leaves more images
right than a weaker one.
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

MONITOR = ("order", "margin")  # findings about a ladder, not about a single attack
POINTS = 5  # percentage points by which later attacks must lower PGD's accuracy for a warning


@dataclass(frozen=True)
class Worst:
    """The worst case of all attacks that were run on the same `n` images with the same ε: `k`
    images are classified correctly both clean and under each of the `attacks`. These are the
    printed names (`attack_name`), each once: first the rungs of a ladder, weakest first, then other
    attacks. Their seeds may differ. `images` is a hash of the images.
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
        """Wilson's 95% interval of `acc`."""
        return wilson(self.k, self.n)

    @property
    def several(self) -> bool:
        """Whether more than one attack was run; else the worst case is no more than the result of
        that attack.
        """
        return len(self.attacks) > 1

    @property
    def text(self) -> str:
        """The worst-case accuracy, its interval and the attacks, as a sentence."""
        low, high = self.interval
        return (
            f"{100 * self.acc:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {self.n} images are"
            f" right under every attack run: {', '.join(self.attacks)}."
        )

    def beside(self, plain: Evaluation | None) -> str:
        """Returns `text`. If `plain`, the evaluation that is shown beside this text, was measured
        on other images, a sentence at the end says so.
        """
        if plain is None or plain.images == self.images:
            return self.text
        return f"{self.text} {plain.printed} was run on other images."

    def to_json(self) -> JSON:
        """Returns plain values: `worst_acc`, `worst_k`, `worst_interval`, `worst_attacks`, `n`, and
        the hash of the `images`.
        """
        return {
            "n": self.n,
            "images": self.images,
            "worst_acc": self.acc,
            "worst_k": self.k,
            "worst_interval": list(self.interval),
            "worst_attacks": list(self.attacks),
        }


def _ball(one: Evaluation) -> tuple[Any, ...]:
    """Returns what evaluations must have in common for their per-image results to be combined:
    weights, images, ε and norm.
    """
    return one.weights, one.images, one.eps, one.attack.get("norm")


def worst(found: Sequence[Evaluation], like: Evaluation) -> Worst | None:
    """Returns the worst case over the attack of `like` and those of `found` with the same images,
    weights, ε and norm. Evaluations from an old version, which stored no per-image results, do not
    count; None if `like` is one.
    """
    if not like.robust_right:
        return None
    alike = sorted(
        (one for one in (*found, like) if one.robust_right and _ball(one) == _ball(like)),
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
    """Returns the worst case over a run's evaluations at this ε: the one over the largest number of
    attacks and, among equals, on the most images. None if no images were evaluated under two
    attacks.
    """
    every = [worst(found, one) for one in found if one.eps == eps]
    return max(
        (each for each in every if each and each.several),
        key=lambda each: (len(each.attacks), each.n),
        default=None,
    )


@dataclass(frozen=True)
class Ladder:
    """Stronger and stronger attacks on the same images: `rungs` holds their evaluations, weakest
    attack first, each with its own count of correct images and the cumulative one. CW-100 is not
    stronger than PGD but maximises another loss, the margin: it stands before AutoAttack to expose
    a network against which attacks on cross-entropy are misled.

    `left_out`: a sentence if an attack does not apply to this data, else empty.
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
        """The number of images classified correctly clean and under every attack of the ladder."""
        return int(self.rungs[-1].cumulative_k or 0)

    @property
    def robust_acc(self) -> float:
        return self.robust_k / max(self.n, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of `robust_acc`."""
        return wilson(self.robust_k, self.n)

    @property
    def worst(self) -> Worst | None:
        """The worst case of all attacks of the ladder; None if the last evaluation stores no
        per-image results.
        """
        return worst(self.rungs, self.rungs[-1])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings about the ladder as a whole: for each attack whether it leaves no more
        images right than weaker ones and, for those after PGD, by how many percentage points all
        attacks so far together lower PGD's robust accuracy.
        """
        return tuple(
            finding for rung in self.rungs for finding in rung.doctor if finding.name in MONITOR
        )

    @property
    def ordered(self) -> bool:
        """Whether no stronger attack left clearly more images right than a weaker one (see
        `climb`).
        """
        return all(finding.ok for finding in self.findings if finding.name == "order")

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warning that attacks on cross-entropy make the network look more robust than it is,
        as a tuple of one sentence, from the last evaluation that has one; an empty tuple if none
        has.
        """
        return tuple(finding.text for finding in self.findings if finding.warning)[-1:]

    @property
    def verdict(self) -> str:
        """The cumulative result, whether no stronger attack left clearly more images right than a
        weaker one, any warning, and `left_out`, in a few sentences.
        """
        low, high = self.interval
        wrong = [
            rung.printed
            for rung in self.rungs
            if any(f.name == "order" and not f.ok for f in rung.doctor)
        ]
        order = (
            f"Out of order: {', '.join(wrong)}; a stronger attack must not leave more images right."
            if wrong
            else "The rungs are in order."
        )
        return (
            f"{self.robust_k} of {self.n} images ({100 * self.robust_acc:.1f}% [{100 * low:.1f},"
            f" {100 * high:.1f}]) stay right under every rung up to {self.rungs[-1].printed} at ε"
            f" {eps_text(self.eps)}. {order} {' '.join((*self.warnings, self.left_out))}"
        ).strip()

    def __str__(self) -> str:
        """Returns the clean accuracy, one line per attack, the verdict, and a warning if there are
        few images.
        """
        first = self.rungs[0]
        clean = f"clean {first.clean_k} of {self.n} right  {self.clean_acc:.3f}"
        note = [self.rungs[-1].note] if self.rungs[-1].note else []
        return "\n".join([clean, *(rung.line for rung in self.rungs), self.verdict, *note])

    def _repr_markdown_(self) -> str:
        """Returns the text of `str` as Markdown, for display in a notebook."""
        return f"```text\n{self}\n```"

    def to_json(self) -> JSON:
        """Returns plain values; `robust_acc` is the accuracy under all attacks together."""
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
    """Returns the loss that an attack of many steps maximises: `ce`, or `dlr` for any margin. Empty
    for an attack of no single known loss, such as FGSM or AutoAttack; it is compared with all
    others.
    """
    return {"pgd": "ce", "cw": "dlr"}.get(attack["key"], str(attack.get("loss", "")))


def climb(rungs: Sequence[Evaluation], method: str = "", left_out: str = "") -> Ladder:
    """Make a ladder from evaluations of one network on the same images, weakest attack first, with
    cumulative counts and the findings about order and margin.

    From clean images to stronger attacks the count of correct images must not rise by more than one
    percentage point or two images, whichever is more. Attacks on the margin (CW, APGD on DLR) are
    not stronger than PGD on cross-entropy but different: each attack is compared with clean images,
    FGSM and earlier attacks on the same loss, and AutoAttack with the lowest earlier count. FGSM on
    a network trained by `fgsm_at` (`method`) is exempt: such a network may recognise FGSM's noise
    better than clean images (label leaking). An attack after PGD gives a warning if the cumulative
    count is five percentage points or more below the count of the last PGD before it. `left_out` is
    passed on to the ladder. Raises UserError for an evaluation without per-image results.
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
            "FGSM adversarial training is exempt here (label leaking)."
            if leaks
            else f"up to {slack:.0f} more can be chance."
        ),
    )


def _margin(rung: Evaluation, still: int, pgd: Evaluation) -> Finding:
    """Returns the finding on how far `still`, the number of images right under all rungs so far,
    lies below PGD's number, in percentage points.
    """
    points = 100 * (pgd.robust_k - still) / rung.n
    flatters = points >= POINTS
    return Finding(
        "margin",
        True,
        points,
        f"With {rung.printed}, {points:.1f} points fewer stay right than under {pgd.printed}"
        + (
            ": attacks on cross-entropy overestimate this network's robustness."
            if flatters
            else f"; {POINTS} or more would be a warning."
        ),
        warning=flatters,
    )


def ladders(found: Sequence[Evaluation]) -> list[Ladder]:
    """Returns the ladders among a run's evaluations, in the order of their first evaluation in
    `found`. A ladder has the evaluations that were made as part of one (`rung` above 0), with the
    same weights, images, ε, norm and seed, weakest attack first. AutoAttack comes last, even if it
    was run before some of the others.
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
    """Returns a run's ladder at this ε and seed 0 with the most attacks and, among equals, on the
    most images; None if there is none.
    """
    return max(
        (each for each in ladders(found) if each.eps == eps and each.rungs[-1].seed == 0),
        key=lambda each: (len(each.rungs), each.n),
        default=None,
    )
