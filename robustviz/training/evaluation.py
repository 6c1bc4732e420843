"""What an evaluation found, how its attack is called, and what several of them say together."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustviz.registry import build, hints
from robustviz.stats import FEW, mcnemar, tango, wilson
from robustviz.types import JSON, UserError, eps_text

MOST = 10**9  # images of an evaluation
UNEQUAL = 5  # images of the largest class for one of the smallest, from which on it is said


def pack(right: NDArray[np.bool_]) -> str:
    """One bit an image, as hex digits: what eval.json keeps of (N,) verdicts."""
    return bytes(np.packbits(right)).hex()


def unpack(digits: str, n: int) -> NDArray[np.bool_]:
    """The (N,) verdicts that `pack` wrote. Raises UserError where there are fewer than `n`."""
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
    """Of each class, in order: how many images (labels `y` (N,)), and how many of them were right
    untouched and attacked ((N,) verdicts).
    """
    counts = (np.bincount(y[which], minlength=classes) for which in (y >= 0, clean, robust))
    return tuple((int(n), int(k), int(kept)) for n, k, kept in zip(*counts, strict=True))


@dataclass(frozen=True)
class Finding:
    """One check of the doctor: its name, what was measured, and one or two sentences. Not `ok`
    makes a robust number unreliable; a `warning` asks to look closer. Neither: nothing was found.
    """

    name: str
    ok: bool
    value: float
    text: str
    warning: bool = False

    @property
    def level(self) -> str:
        """`unreliable`, `warning` or `ok`."""
        return "unreliable" if not self.ok else "warning" if self.warning else "ok"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The finding that an evaluation's JSON holds, with `warning` or, of an older version,
        without; `value` may be NaN. Raises TypeError, ValueError or KeyError for anything else.
        """
        name, text = data["name"], data["text"]
        ok, warning = data["ok"], data.get("warning", False)
        # by hand: a list of a thousand runs has seventy thousand findings
        if {type(name), type(text)} != {str} or {type(ok), type(warning)} != {bool}:
            raise TypeError("a finding is two texts, two truths and a number")
        return cls(name, ok, float(data["value"]), text, warning)


def summary(found: Iterable[tuple[str, Finding]]) -> str:
    """What findings come to, each with the name it is told by, in a table's cell: `unreliable: …`,
    `warning: …`, both, or `no fault found`.
    """
    names: dict[str, dict[str, None]] = {"unreliable": {}, "warning": {}}
    for name, finding in found:
        names.get(finding.level, {})[name] = None
    said = [f"{level}: {', '.join(each)}" for level, each in names.items() if each]
    return "; ".join(said) or "no fault found"


# What an attack is called, and the settings that go without saying; a test holds both against the
# attacks themselves.
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
    """An attack's JSON in words, without its ε: `FGSM`, `PGD-100×5`, `AutoAttack`; what is set
    otherwise than usual in brackets. With fewer than ten classes AutoAttack's targeted parts have
    fewer targets than published, and its name says so.
    """
    key = str(attack.get("key", "?"))
    pattern, usual = NAMES.get(key, key), USUAL | OTHERWISE.get(key, {})
    # a question mark for what an entry of another version does not have
    name = pattern.format_map(
        defaultdict(
            lambda: "?",
            {each: v.upper() if isinstance(v, str) else v for each, v in attack.items()},
        )
    )
    if attack.get("restarts", 1) != 1:
        name += f"×{attack['restarts']}"
    if classes and "targets" in attack:  # there are no more wrong classes
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
    """Accuracy on clean and on attacked images of one split, with everything needed to repeat it.

    `attack` is the attack's JSON with all settings; `clean_k`, `robust_k` of `n` images were right,
    untouched and attacked. Fractions and intervals are derived. `clean_right`, `robust_right`: the
    verdict on each of the n images in the order of `--n`, packed; `images` a hash of these images
    and labels; `classes` how many there are. `image_bytes`: what a forward pass remembers of an
    image; `at_once`: how many were computed together for want of memory, 0: all of a block of 250;
    it changes no verdict. `by_class`: of each class how many images, right untouched, right
    attacked. As a rung of a ladder also `rung`, from 1, and `cumulative_k`: right
    under this and every weaker rung. Entries of older versions lack these.
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
        """Clean and robust accuracy in which each class counts alike, however many images it has;
        None where it was not counted by class.
        """
        there = [row for row in self.by_class if row[0]]
        if not there:
            return None
        n, clean, robust = np.array(there).T
        return float((clean / n).mean()), float((robust / n).mean())

    @property
    def unequal(self) -> bool:
        """Whether the largest class has five times as many images as the smallest, or more."""
        counts = [n for n, _, _ in self.by_class]
        return max(counts, default=0) >= UNEQUAL * max(min(counts, default=1), 1)

    def classwise(self, names: Sequence[str]) -> str:
        """The balanced accuracy and the three classes that hold least, in one line of a terminal;
        empty where it was not counted by class.
        """
        if self.balanced is None:
            return ""
        rows = zip(names, self.by_class, strict=False)
        there = [(k / n, name, f"{k}/{n}") for name, (n, _, k) in rows if n]
        least = ", ".join(f"{name} {said}" for _, name, said in sorted(there)[:3])
        clean, robust = self.balanced
        return (
            f"each class counted alike: clean {clean:.4f}, robust {robust:.4f}; least under"
            f" attack: {least}"
        )

    @property
    def clean_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `clean_acc`."""
        return wilson(self.clean_k, self.n)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `robust_acc`."""
        return wilson(self.robust_k, self.n)

    @property
    def ok(self) -> bool:
        """Whether no check of the doctor makes the number unreliable. Not a proof."""
        return all(finding.ok for finding in self.doctor)

    @property
    def printed(self) -> str:
        """The attack in words, without its ε: `PGD-20`, `PGD-100×5`, `AutoAttack`."""
        return attack_name(self.attack, self.classes)

    @property
    def verdict(self) -> str:
        """What the doctor says, in a table's cell: `summary` of the findings."""
        return summary((finding.name, finding) for finding in self.doctor)

    @property
    def note(self) -> str:
        """A warning where the images are few, else nothing."""
        low, high = wilson(self.robust_k, self.n)
        return (
            f"Only {self.n} images: the 95 % interval is {round(100 * (high - low))} points wide;"
            f" take at least {FEW}."
            if self.n < FEW
            else ""
        )

    @property
    def line(self) -> str:
        """The evaluation in one line of a terminal."""
        low, high = wilson(self.robust_k, self.n)
        together = f", {self.cumulative_k} under it and every weaker one" if self.rung > 1 else ""
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
        """The line, what the doctor found, and a warning where the images are few."""
        found = [f"  {each.level} {each.name}: {each.text}" for each in self.doctor]
        clean = f"clean {self.clean_k} of {self.n} right  {self.clean_acc:.3f}"
        return "\n".join([clean, self.line, *found, *([self.note] if self.note else [])])

    def _repr_markdown_(self) -> str:
        """What a notebook shows of it."""
        return f"```text\n{self}\n```"

    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which images were right, untouched and attacked, (N,) each. Raises UserError for an entry
        without them.
        """
        if not self.clean_right or not self.robust_right:
            raise UserError(
                "This was measured before robustviz kept the verdict on each image: evaluate the"
                " run again."
            )
        return unpack(self.clean_right, self.n), unpack(self.robust_right, self.n)

    def to_json(self) -> JSON:
        """Plain values, with fractions and 95 % intervals written out for people who read
        the file.
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
        """The evaluation that `to_json` wrote; derived entries are ignored. Raises UserError for
        anything else.
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
    """The counts by class that JSON holds; by hand, for a list of a thousand runs has many. Raises
    TypeError or ValueError for anything else.
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
    """Two evaluations on the same `n` images under the same attack: `first_only` images only the
    first got right attacked, `second_only` only the second. Everything else follows.
    """

    n: int
    first_only: int
    second_only: int
    attack: str
    eps: float

    @property
    def difference(self) -> float:
        """Robust accuracy of the first minus that of the second, a fraction."""
        return (self.first_only - self.second_only) / max(self.n, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Tango's 95 % score interval of the difference."""
        return tango(self.first_only, self.second_only, self.n)

    @property
    def p(self) -> float:
        """McNemar's exact p."""
        return mcnemar(self.first_only, self.second_only)

    @property
    def verdict(self) -> str:
        """`more robust` or `less robust` (the first than the second) where the interval excludes 0,
        else `not decided`.
        """
        low, high = self.interval
        return "more robust" if low > 0 else "less robust" if high < 0 else "not decided"

    @property
    def cell(self) -> str:
        """For a table: the difference in points with its interval, and the verdict."""
        low, high = self.interval
        return (
            f"{100 * self.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points:"
            f" {self.verdict}"
        )

    def sentence(self, first: str, second: str) -> str:
        """The finding in three short sentences. It is about two networks, by the names of their
        runs, not about their methods.
        """
        low, high = self.interval
        return (
            f"Which of the networks {first} and {second} is more robust is not decided."
            if self.verdict == "not decided"
            else f"The network {first} is {self.verdict} than {second}."
        ) + (
            f" The difference is {100 * self.difference:+.1f} points under {self.attack} at ε"
            f" {eps_text(self.eps)}, 95 % interval [{100 * low:+.1f}, {100 * high:+.1f}]."
            f" n = {self.n}: {self.first_only} images against {self.second_only}, exact McNemar p ="
            f" {self.p:.2g}."
        )

    def to_json(self) -> JSON:
        """Plain values, derived ones included."""
        return dataclasses.asdict(self) | {
            "difference": self.difference,
            "interval": list(self.interval),
            "p": self.p,
            "verdict": self.verdict,
        }


def paired(first: Evaluation, second: Evaluation) -> Paired:
    """The difference in robust accuracy of two networks, from the images on which they differ.

    Raises UserError where the two were not measured alike: other images, attack, ε, n or seed.
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
                f"These two were not measured alike ({what}: {one} and {other}): evaluate both in"
                " the same way."
            )
    if first.attack != second.attack or first.eps != second.eps:
        raise UserError(
            "These two were not measured alike (the attack's settings differ): evaluate both in the"
            " same way."
        )
    mine, theirs = first.right()[1], second.right()[1]
    if first.images != second.images:
        raise UserError(
            "These two were measured on different images, so no pairs can be formed: take runs of"
            " the same data."
        )
    b, c = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    return Paired(first.n, b, c, first.printed, first.eps)
