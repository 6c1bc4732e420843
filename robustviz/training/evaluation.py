"""The results of evaluations as plain dataclasses, without torch: accuracies, the findings of the
checks in `training.doctor`, the names under which attacks are printed, and the paired comparison of
two networks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustviz.registry import build, get, hints
from robustviz.stats import FEW, mcnemar, tango, wilson
from robustviz.types import JSON, UserError, eps_text

MOST = 10**9  # images of an evaluation
UNEQUAL = 5  # ratio of the largest to the smallest class from which classes count as unequal


def pack(right: NDArray[np.bool_]) -> str:
    """Returns per-image results (N,) of bool as hex digits, as stored in eval.json: one bit per
    image, the first image in the highest bit, and zeros to fill the last byte.
    """
    return bytes(np.packbits(right)).hex()


def unpack(digits: str, n: int) -> NDArray[np.bool_]:
    """Returns the booleans (n,) that `pack` turned into `digits`. Raises UserError if the text is
    damaged or does not fit `n`.
    """
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8))
    except (ValueError, TypeError) as error:
        raise UserError(
            "The verdicts in eval.json are damaged: remove the file and evaluate the run again."
        ) from error
    if not n <= len(bits) < n + 8:
        raise UserError(
            "The verdicts in eval.json do not fit its n: remove the file and evaluate the run"
            " again."
        )
    return bits[:n].astype(bool)


def by_class(
    y: NDArray[np.int64], clean: NDArray[np.bool_], robust: NDArray[np.bool_], classes: int
) -> tuple[tuple[int, int, int], ...]:
    """Returns three counts for each class, in order: its images, those classified correctly clean,
    and those classified correctly under attack. `y` (N,) are labels, `clean` and `robust` (N,)
    per-image results, `classes` is the number of classes.
    """
    counts = (np.bincount(y[which], minlength=classes) for which in (y >= 0, clean, robust))
    return tuple((int(n), int(k), int(kept)) for n, k, kept in zip(*counts, strict=True))


@dataclass(frozen=True)
class Finding:
    """The result of one check of an evaluation (by `training.doctor` or `training.ladder`): the
    check's `name`, the `value` measured, and a `text` of up to three sentences. If `ok` is false,
    the robust accuracy is unreliable; a `warning` asks for a closer look.
    """

    name: str
    ok: bool
    value: float
    text: str
    warning: bool = False

    @property
    def level(self) -> str:
        """`unreliable` if the check failed, `warning` if it passed with a `warning`, else `ok`."""
        return "unreliable" if not self.ok else "warning" if self.warning else "ok"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """Returns the finding stored in an evaluation's JSON. `warning` may be missing, as in older
        versions, and `value` may be NaN. Raises TypeError, ValueError or KeyError for anything
        else.
        """
        name, text = data["name"], data["text"]
        ok, warning = data["ok"], data.get("warning", False)
        # checked by hand for speed: a list of a thousand runs has seventy thousand findings
        if {type(name), type(text)} != {str} or {type(ok), type(warning)} != {bool}:
            raise TypeError("a finding is two texts, two truths and a number")
        return cls(name, ok, float(data["value"]), text, warning)


def summary(found: Iterable[tuple[str, Finding]]) -> str:
    """Returns the names of failed checks and warnings in short, for a table cell: `unreliable: …`,
    `warning: …`, both, or `no fault found`. `found`: pairs of the name to print and the finding.
    """
    names: dict[str, dict[str, None]] = {"unreliable": {}, "warning": {}}
    for name, finding in found:
        names.get(finding.level, {})[name] = None
    said = [f"{level}: {', '.join(each)}" for level, each in names.items() if each]
    return "; ".join(said) or "no fault found"


# The printed names of attacks, and the usual settings, which a name does not mention. A test
# compares both with the attacks themselves.
NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD-{steps}",
    "cw": "CW-{steps}",
    "mim": "MIM-{steps}",
    "dim": "DIM-{steps}",
    "tim": "TIM-{steps}",
    "apgd": "APGD-{loss}-{steps}",
    "square": "Square-{queries}",
    "autoattack": "AutoAttack",
}

USUAL: JSON = {
    "norm": "linf",
    "step_size": None,
    "targeted": False,
    "start": "uniform",
    "restarts": 1,
    "targets": 0,
    "decay": 0.0,
    "diversity": 0.5,
    "resize": 0.9,
    "kernel": 3,
    "p": 0.8,
    "variant": "autoattack",
}

OTHERWISE: dict[str, JSON] = {"fgsm": {"start": "zero"}, "mim": {"decay": 1.0}}


def attack_name(attack: Mapping[str, Any], classes: int = 0) -> str:
    """Returns the name under which an attack is printed, without its ε: `FGSM`, `PGD-100×5`,
    `AutoAttack`, with unusual settings in brackets. `attack` is the attack's JSON. `classes`: the
    number of classes, 0 if unknown; below ten, AutoAttack's targeted parts have fewer targets than
    published, and the name says so.
    """
    key = str(attack.get("key", "?"))
    pattern, usual = NAMES.get(key, key), USUAL | OTHERWISE.get(key, {})
    with contextlib.suppress(UserError):  # of a plug-in that is not loaded only the key is known
        pattern = NAMES.get(key) or re.sub(r"[{}]", r"\g<0>\g<0>", str(get("attack", key).label))
    # a question mark for each setting that an entry of another version lacks
    name = pattern.format_map(
        defaultdict(
            lambda: "?",
            {each: v.upper() if isinstance(v, str) else v for each, v in attack.items()},
        )
    )
    if attack.get("restarts", 1) != 1:
        name += f"×{attack['restarts']}"
    if classes and "targets" in attack:  # there are only so many wrong classes
        attack = {**attack, "targets": min(attack["targets"], classes - 1)}
    notes = [f"{classes - 1} targets"] * (key == "autoattack" and 0 < classes < 10) + [
        {"norm": "ℓ2", "targeted": "targeted", "targets": f"{value} targets"}.get(
            setting, f"{setting} {f'{value:g}' if isinstance(value, float) else value}"
        )
        for setting, value in attack.items()
        if setting not in ("key", "eps", "restarts") and f"{{{setting}}}" not in pattern
        if setting not in usual or value != usual[setting]
    ]
    return name + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on clean and attacked images of one split, with everything needed to repeat it.

    `attack`: the attack's JSON with all settings. `clean_k` and `robust_k` of `n` images were
    classified correctly, clean and attacked; fractions and intervals are derived. `seconds`: how
    long it took, with the checks. `doctor`: the findings of `training.doctor` and, in a ladder, of
    `training.ladder`. `key`: the key of this evaluation in eval.json. `weights`: the hash of the
    network's weights. `clean_right`, `robust_right`: for each of the n images, in stratified order,
    whether it was classified correctly, as `pack` stores it; `images`: a hash of these images and
    labels; `classes`: the number of classes. `image_bytes`: the memory that a forward pass keeps
    per image, in bytes; `at_once`: how many images were computed together for lack of memory, 0:
    whole blocks of 250; it changes no result. `by_class`: the counts that the function `by_class`
    returns. `rung`: the place in a ladder (`training.ladder`), from 1 for the weakest attack; 0
    outside one. `cumulative_k`: in a ladder, the number of images correct clean, under this and
    under every weaker attack. Evaluations of older versions lack some of these.
    """

    attack: JSON
    eps: float
    n: int
    clean_k: int
    robust_k: int
    seed: int
    split: str
    seconds: float
    device: str
    doctor: tuple[Finding, ...] = ()
    key: str = ""
    weights: str = ""
    clean_right: str = ""
    robust_right: str = ""
    images: str = ""
    classes: int = 0
    rung: int = 0
    cumulative_k: int | None = None
    at_once: int = 0
    image_bytes: int = 0
    by_class: tuple[tuple[int, ...], ...] = ()

    @property
    def clean_acc(self) -> float:
        return self.clean_k / max(self.n, 1)

    @property
    def robust_acc(self) -> float:
        return self.robust_k / max(self.n, 1)

    @property
    def balanced(self) -> tuple[float, float] | None:
        """The (clean, robust) accuracy averaged over the classes, so that every class has the same
        weight; classes without images are left out. None if the counts by class were not stored.
        """
        there = [row for row in self.by_class if row[0]]
        if not there:
            return None
        n, clean, robust = np.array(there).T
        return float((clean / n).mean()), float((robust / n).mean())

    @property
    def unequal(self) -> bool:
        """Whether the largest class has at least five times as many images as the smallest, an
        empty class counting as one image; False if the counts by class were not stored.
        """
        counts = [n for n, _, _ in self.by_class]
        return max(counts, default=0) >= UNEQUAL * max(min(counts, default=1), 1)

    def classwise(self, names: Sequence[str]) -> str:
        """Returns the class-balanced accuracies and the three classes with the lowest robust
        accuracy, as one line for a terminal; empty if the counts by class were not stored. `names`:
        class names.
        """
        if self.balanced is None:
            return ""
        rows = zip(names, self.by_class, strict=False)
        there = [(k / n, name, f"{k}/{n}") for name, (n, _, k) in rows if n]
        least = ", ".join(f"{name} {said}" for _, name, said in sorted(there)[:3])
        clean, robust = self.balanced
        return (
            f"averaged over classes: clean {clean:.4f}, robust {robust:.4f}; least robust classes:"
            f" {least}"
        )

    @property
    def clean_interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of `clean_acc`."""
        return wilson(self.clean_k, self.n)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of `robust_acc`."""
        return wilson(self.robust_k, self.n)

    @property
    def ok(self) -> bool:
        """Whether none of the findings in `doctor` is `unreliable`. That is no proof that the
        robust accuracy is right.
        """
        return all(finding.ok for finding in self.doctor)

    @property
    def printed(self) -> str:
        """The attack's name (`attack_name`), without its ε: `PGD-20`, `PGD-100×5`, `AutoAttack`."""
        return attack_name(self.attack, self.classes)

    @property
    def verdict(self) -> str:
        """The names of failed checks and of warnings in `doctor`, in short, for a table cell
        (`summary`).
        """
        return summary((finding.name, finding) for finding in self.doctor)

    @property
    def note(self) -> str:
        """A warning that the interval is wide if there are fewer than 100 images, else empty."""
        low, high = wilson(self.robust_k, self.n)
        return (
            f"Only {self.n} images: the 95% interval is {round(100 * (high - low))} points wide;"
            f" take at least {FEW}."
            if self.n < FEW
            else ""
        )

    @property
    def line(self) -> str:
        """The evaluation as one line for a terminal: the attack, how many images are right under
        it, the robust accuracy with its interval, in a ladder the cumulative count, seconds,
        `at_once` if it is not 0, and the `verdict`.
        """
        low, high = wilson(self.robust_k, self.n)
        together = (
            f", {self.cumulative_k} under this and all weaker attacks" if self.rung > 1 else ""
        )
        few = (
            f"  {self.at_once} images at a time, {self.image_bytes / 1e6:.0f} MB each"
            if self.at_once
            else ""
        )
        return (
            f"{self.printed:<12} {self.robust_k:>5} of {self.n} right  {self.robust_acc:.3f}"
            f" [{low:.3f}, {high:.3f}]{together}  {self.seconds:.1f} s{few}  {self.verdict}"
        )

    def __str__(self) -> str:
        """Returns several lines: clean accuracy, `line`, the findings in `doctor`, and a warning if
        there are few images.
        """
        found = [f"  {each.level} {each.name}: {each.text}" for each in self.doctor]
        low, high = wilson(self.clean_k, self.n)
        clean = (
            f"clean {self.clean_k} of {self.n} right  {self.clean_acc:.3f} [{low:.3f}, {high:.3f}]"
            f"; attacked with ε = {eps_text(self.eps)}, seed {self.seed}"
        )
        return "\n".join([clean, self.line, *found, *([self.note] if self.note else [])])

    def _repr_markdown_(self) -> str:
        """Returns the text of `str` as Markdown, for display in a notebook."""
        return f"```text\n{self}\n```"

    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Returns which images were classified correctly, clean and attacked: two boolean arrays
        (n,). Raises UserError if no per-image results were saved.
        """
        if not self.clean_right or not self.robust_right:
            raise UserError(
                "This evaluation is from a version that did not save the result for each image:"
                " evaluate the run again."
            )
        return unpack(self.clean_right, self.n), unpack(self.robust_right, self.n)

    def to_json(self) -> JSON:
        """Returns all fields as plain values and, for people who read the file, accuracies, their
        95% intervals and the attack's name.
        """
        return dataclasses.asdict(self) | {
            "clean_acc": self.clean_acc,
            "clean_interval": list(self.clean_interval),
            "robust_acc": self.robust_acc,
            "robust_interval": list(self.interval),
            "printed": self.printed,
            **(
                dict(zip(("balanced_clean_acc", "balanced_robust_acc"), balanced, strict=True))
                if (balanced := self.balanced)
                else {}
            ),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """Returns the evaluation that `to_json` wrote; entries that are no fields, such as
        accuracies, are ignored. Raises UserError if a field is damaged, or a necessary one is
        missing.
        """
        try:
            evaluation = build(
                cls,
                {name: data[name] for name in (hints(cls).keys() - {"by_class"}) & data.keys()}
                | {"doctor": tuple(map(Finding.from_json, data.get("doctor", ())))},
            )
            _ = evaluation.printed
            if evaluation.clean_right and evaluation.robust_right:
                evaluation.right()
            counts = (evaluation.clean_k, evaluation.robust_k)
            if not 0 <= min(counts) <= max(counts) <= evaluation.n <= MOST:
                raise ValueError("fewer than no images were right, or more than there are")
            rows = _rows(data.get("by_class") or ())
            return dataclasses.replace(evaluation, by_class=rows) if rows else evaluation
        except (TypeError, AttributeError, ValueError, KeyError, OverflowError) as error:
            raise UserError(
                "An entry of eval.json is damaged: remove the file and evaluate the run again."
            ) from error


def _rows(value: Any) -> tuple[tuple[int, ...], ...]:
    """Returns the counts by class from a JSON value, as tuples of three ints. They are checked by
    hand for speed, since a list of a thousand runs has many. Raises TypeError or ValueError if the
    value holds anything else.
    """
    rows = tuple(map(tuple, value))
    for n, clean, robust in rows:
        if {type(n), type(clean), type(robust)} != {int}:
            raise TypeError("counts are whole numbers")
        if not 0 <= min(clean, robust) <= max(clean, robust) <= n <= MOST:
            raise ValueError("fewer than no images were right, or more than there are")
    return rows


@dataclass(frozen=True)
class Paired:
    """The comparison of two networks on the same `n` images under the same attack (`attack` is its
    printed name, `eps` its ε): `first_only` images were correct under attack only with the first
    network, `second_only` only with the second. The properties are derived from these.
    """

    n: int
    first_only: int
    second_only: int
    attack: str
    eps: float

    @property
    def difference(self) -> float:
        """Robust accuracy of the first network minus that of the second, in [-1, 1]."""
        return (self.first_only - self.second_only) / max(self.n, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Tango's 95% score interval of `difference`."""
        return tango(self.first_only, self.second_only, self.n)

    @property
    def p(self) -> float:
        """The two-sided p-value of McNemar's exact test."""
        return mcnemar(self.first_only, self.second_only)

    @property
    def verdict(self) -> str:
        """`more robust` or `less robust`, meaning the first network compared with the second, if
        the interval excludes 0; else `not decided`.
        """
        low, high = self.interval
        return "more robust" if low > 0 else "less robust" if high < 0 else "not decided"

    @property
    def cell(self) -> str:
        """The difference in percentage points, its interval and the verdict, for a table cell."""
        low, high = self.interval
        return (
            f"{100 * self.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points:"
            f" {self.verdict}"
        )

    def sentence(self, first: str, second: str) -> str:
        """Returns the result in three short sentences. `first` and `second` are the names of the
        two runs: the result is about these two networks, not about their methods.
        """
        low, high = self.interval
        return (
            f"Which of the networks {first} and {second} is more robust is not decided."
            if self.verdict == "not decided"
            else f"The network {first} is {self.verdict} than {second}."
        ) + (
            f" The difference is {100 * self.difference:+.1f} points under {self.attack} at ε"
            f" {eps_text(self.eps)}, 95% interval [{100 * low:+.1f}, {100 * high:+.1f}]."
            f" n = {self.n}: {self.first_only} images against {self.second_only}, exact McNemar p ="
            f" {self.p:.2g}."
        )

    def to_json(self) -> JSON:
        """Returns all fields and the derived values as plain values."""
        return dataclasses.asdict(self) | {
            "difference": self.difference,
            "interval": list(self.interval),
            "p": self.p,
            "verdict": self.verdict,
        }


def paired(first: Evaluation, second: Evaluation) -> Paired:
    """Returns the comparison of two networks' robust accuracies, from the images on which they
    differ.

    Raises UserError if they were not measured in the same way (other images, attack, ε, n, seed or
    split), or if one of them is of an old version that saved no per-image results.
    """
    for what, one, other in (
        ("attack", first.printed, second.printed),
        ("ε", f"{first.eps:.4g}", f"{second.eps:.4g}"),
        ("n", first.n, second.n),
        ("seed", first.seed, second.seed),
        ("split", first.split, second.split),
    ):
        if one != other:
            raise UserError(
                f"These two evaluations used different settings ({what}: {one} and {other}):"
                " evaluate both in the same way."
            )
    if first.attack != second.attack or first.eps != second.eps:
        raise UserError(
            "These two evaluations used different settings of the attack: evaluate both in the same"
            " way."
        )
    mine, theirs = first.right()[1], second.right()[1]
    if first.images != second.images:
        raise UserError(
            "These two were measured on different images, so no pairs can be formed: take runs of"
            " the same data."
        )
    b, c = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    return Paired(first.n, b, c, first.printed, first.eps)
