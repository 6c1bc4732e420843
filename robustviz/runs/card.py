"""A run's card: its settings, seed and measured results in a file of at most 20 KB. With cards,
students can compare their runs without sending weights. Reading a card needs no torch. The SHA-256
in a card is that of its other content. It detects accidents, such as a number changed in an editor
or half a file, but not a change by somebody who also computes a new SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import ntpath
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from robustviz import registry
from robustviz.runs.entries import Record, checked
from robustviz.runs.folder import ID
from robustviz.runs.inside import LONGEST
from robustviz.training.evaluation import MOST, Evaluation
from robustviz.types import JSON, UserError, harmless

if TYPE_CHECKING:
    from robustviz.runs.folder import Run
    from robustviz.training.config import TrainConfig

BYTES = 20_000
VERSION = 1
EPOCHS = 50  # epochs that are kept, at most
NUMBERS = 30  # measurements that are kept, at most
WHERE = ("device", "threads", "snapshots", "test_n")  # these do not change the trained network
UNTOUCHED = "untouched"  # the name of the attack for clean images


class Number(TypedDict):
    """A measurement: of `n` images of a `split`, `right` were classified correctly under an
    `attack` (its printed name, such as `PGD-20`) of radius `eps`, with the random numbers of
    `seed`. For clean images `attack` is `untouched`, and `eps` and `seed` are 0. `images`: a hash
    of these images and of their labels. `reliable`: false if a check of the evaluation
    (`training.doctor`) found that the number cannot be trusted.
    """

    attack: str
    eps: float
    n: int
    right: int
    seed: int
    split: str
    images: str
    reliable: bool


class Settings(TypedDict):
    """The settings of a run in its card, a small file to compare runs with. Other settings may be
    present, all plain values.
    """

    data: JSON
    method: JSON
    net: str
    eps: float
    seed: int


class _Whole(TypedDict):
    id: str
    label: str
    data: str
    settings: Settings
    numbers: tuple[dict[str, object], ...]
    epoch: tuple[int, ...]
    clean: tuple[float, ...]
    robust: tuple[float, ...]


@dataclass(frozen=True)
class Card:
    """The content of a card: the run's `id`, the `label` that a person gave it, the display name of
    its `data`, its `settings`, the `numbers` measured on test images, and for at most 50 epochs,
    listed in `epoch`, the accuracies on validation images, `clean` and `robust`, in [0, 1].
    """

    id: str
    label: str
    data: str
    settings: Settings
    numbers: tuple[Number, ...]
    epoch: tuple[int, ...] = ()
    clean: tuple[float, ...] = ()
    robust: tuple[float, ...] = ()

    @property
    def method(self) -> str:
        """The key of the run's method, such as `pgd_at`."""
        return str(self.settings["method"]["key"])

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    def to_bytes(self) -> bytes:
        """Returns the card as the content of a file, at most 20 KB. Raises UserError if it would be
        larger.
        """
        whole = {"card": VERSION, **{name: getattr(self, name) for name in self.__annotations__}}
        content = json.dumps(whole | {"sha256": _digest(whole)}, indent=1, allow_nan=False)
        if len(content) + 1 > BYTES:
            raise UserError(
                f"The card of {self.id} would have {len(content):,} bytes, and a card has at most"
                f" {BYTES:,}: its settings are too long."
            )
        return f"{content}\n".encode()


def of_run(run: Run) -> Card:
    """Returns the card of a trained run. Raises UserError for an imported run, and for one without
    evaluations that a card can hold (see `of`).
    """
    if run.imported:
        raise UserError(
            f"{run.id} was trained elsewhere, so its seed is unknown and it cannot be compared on"
            " a card."
        )
    return of(run.id, run.config, run.evaluations(), run.records(), run.label, run.data_name)


def of(
    run_id: str,
    config: TrainConfig,
    evaluations: Sequence[Evaluation],
    records: Sequence[Record] = (),
    label: str = "",
    data: str = "",
) -> Card:
    """Returns the card of a training whose run need not be here, from its `config`, its evaluations
    and the results of its epochs (`records`). At most 30 measurements are kept, those on most
    images first, and at most 50 epochs, evenly spread. Of an absolute path in the settings only the
    last part is kept. `label`, `data`: as in `Card`; empty `data`: the key of the data set.

    Evaluations under targeted attacks, and old ones without a hash of their images, are left out.
    Raises UserError if no others are given.
    """
    numbers = list(_numbers(evaluations))[:NUMBERS]
    if not numbers:
        raise UserError(
            f"{run_id} has no evaluation yet, so there is nothing to put on a card: run `python"
            f" -m robustviz evaluate {run_id}` first."
        )
    settings = registry.encode(config, naming=True)
    kept = {name: _bare(value) for name, value in settings.items() if name not in WHERE}
    last = len(records) - 1
    few = min(len(records), EPOCHS)
    at = [records[round(last * i / max(few - 1, 1))] for i in range(few)]
    return Card(
        run_id,
        label,
        data or config.data.key,
        checked(Settings, kept),
        tuple(numbers),
        tuple(int(each["epoch"]) for each in at),
        tuple(round(float(each["clean_acc"]), 4) for each in at),
        tuple(round(float(each["robust_acc"]), 4) for each in at),
    )


def _numbers(evaluations: Iterable[Evaluation]) -> Iterator[Number]:
    """Yield the measurements in these evaluations, clean and attacked, each once. Evaluations under
    targeted attacks and on images of unknown hash are left out. Those on most images come first,
    and among equals those of clean images.
    """
    every = [one for one in evaluations if one.images and not one.attack.get("targeted")]
    found: dict[tuple[object, ...], Number] = {}
    for one in every:
        for attack, eps, right, seed in (
            (UNTOUCHED, 0.0, one.clean_k, 0),
            (one.printed, one.eps, one.robust_k, one.seed),
        ):
            number = Number(
                attack=attack,
                eps=eps,
                n=one.n,
                right=right,
                seed=seed,
                split=one.split,
                images=one.images,
                reliable=one.ok or attack == UNTOUCHED,
            )
            found[attack, eps, one.n, seed, one.split, one.images] = number
    yield from sorted(found.values(), key=lambda one: (-one["n"], one["attack"] != UNTOUCHED))


def _bare(value: Any) -> Any:
    """Returns a setting without the folders of this computer, which are private: of an absolute
    path only the last part is left.
    """
    if isinstance(value, dict):
        return {name: _bare(each) for name, each in value.items()}
    if isinstance(value, str) and (posixpath.isabs(value) or ntpath.splitdrive(value)[0]):
        return ntpath.basename(value.rstrip("/\\"))
    return value


def _digest(whole: JSON) -> str:
    plain = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def read(content: bytes, file: str = "This card") -> Card:
    """Returns the card in a file's bytes. Raises UserError, which names the `file`, if it is too
    large or not a card, was changed after it was written or written by another version, or holds
    impossible values.
    """
    file = harmless(file)[:LONGEST]
    if len(content) > BYTES:
        raise UserError(f"{file} has {len(content):,} bytes, and a card at most {BYTES:,}.")
    try:
        whole = json.loads(content.decode("utf-8"), parse_constant=_no_number)
        said = whole.pop("sha256")
        version = whole["card"]
        good = said == _digest(whole)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{file} is no run card: only what `python -m robustviz run card RUN` writes is taken."
        ) from None
    if not good:
        raise UserError(
            f"{file} was changed after it was written (its SHA-256 does not fit): ask for the card"
            " as `run card` wrote it."
        )
    if version != VERSION:
        raise UserError(f"{file} was written by another version of robustviz: write it anew.")
    try:
        return _typed(checked(_Whole, whole))
    except (UserError, RecursionError) as error:
        said = harmless(error)[:200]  # it may quote what is in the file
        raise UserError(f"{file} is a damaged card: {said} Write it anew.") from error


def is_one(content: bytes) -> bool:
    """Whether a file's bytes are a valid card, which `read` accepts."""
    try:
        read(content)
    except UserError:
        return False
    return True


def _no_number(value: str) -> NoReturn:
    raise ValueError(f"{value} is no number")


def _typed(whole: _Whole) -> Card:
    """Returns the card from the parsed JSON. Raises UserError for values that no run can have."""
    settings = whole["settings"]
    for name, value in settings.items():
        if isinstance(value, (dict, list)) and name not in ("data", "method"):
            raise UserError(f"settings.{harmless(name)} is no plain value.")
    if not ID.fullmatch(whole["id"]):
        raise UserError("Its id is no run's.")
    numbers = tuple(map(_number, whole["numbers"]))
    lengths = {len(whole[name]) for name in ("epoch", "clean", "robust")}
    if not 0 < len(numbers) <= NUMBERS or len(lengths) > 1 or max(lengths) > EPOCHS:
        raise UserError("It holds no numbers, or more than a card does.")
    if not all(0 <= share <= 1 for share in (*whole["clean"], *whole["robust"])):
        raise UserError("An accuracy is no share.")
    return Card(
        whole["id"],
        harmless(whole["label"])[:LONGEST].strip(),
        harmless(whole["data"])[:LONGEST].strip(),
        checked(Settings, _safe(settings)),
        numbers,
        whole["epoch"],
        whole["clean"],
        whole["robust"],
    )


def _safe(value: Any) -> Any:
    """Returns a value in which all texts, and the keys, are safe to display; texts are cut to 80
    characters.
    """
    if isinstance(value, dict):
        return {harmless(name): _safe(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_safe(each) for each in value]
    return harmless(value)[:LONGEST] if isinstance(value, str) else value


def _number(value: Any) -> Number:
    one = checked(Number, value)
    if not (0 < one["n"] <= MOST and 0 <= one["right"] <= one["n"] and 0 <= one["eps"] < MOST):
        raise UserError("A number is out of range.")
    return checked(Number, {name: _safe(one.get(name)) for name in Number.__annotations__})
