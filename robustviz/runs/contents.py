"""What the files of a run hold, and the one check that they do: whoever opens a file gets typed
values or one sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

import numpy as np

from robustviz.registry import coerce
from robustviz.runs.files import read_json
from robustviz.types import JSON, UserError
from robustviz.views.attack.result import Strip

T = TypeVar("T", bound=Mapping[str, Any])

Want = Literal["pause", "stop", ""]
State = Literal[
    "queued", "running", "paused", "done", "stopped", "failed", "interrupted", "imported"
]
OVER: tuple[State, ...] = ("done", "imported")  # nothing is left to resume
FOUND_OUT = ("versions", "images")  # of a config.json: no settings
MOST = 10_000  # classes, channels or pixels of a side
HUGE = 1e300  # no setting is as large; NaN is not smaller either


class Images(TypedDict):
    """What the images are like that a network was made for; `names` are its classes."""

    classes: int
    channels: int
    size: int
    names: NotRequired[tuple[str, ...]]


class Info(TypedDict):
    """`config.json`: the fields of the TrainConfig, `data` and `method` each with its `key`, and
    what was found out when the training began.
    """

    data: JSON
    method: JSON
    net: str
    eps: float
    seed: int
    device: str
    epochs: NotRequired[int | None]
    images: NotRequired[Images]
    versions: NotRequired[dict[str, object]]


class Status(TypedDict):
    """`status.json`: how a run goes, who is at it (process and its start), where it is."""

    state: State
    error: str
    note: str
    queued: float
    pid: int | None
    started: float
    epoch: int
    epochs: int
    batch: int
    batches: int
    phase: str
    eta: float | None
    seconds: float


class Record(TypedDict):
    """A line of `metrics.jsonl`: of what one epoch gave (`loop.EpochRecord`), what is shown."""

    epoch: int
    losses: dict[str, float]
    clean_acc: float
    robust_acc: float
    n_val: int
    seconds: float


UNKNOWN: Status = {
    "state": "failed",
    "error": "",
    "note": "",
    "queued": 0.0,
    "pid": None,
    "started": 0.0,
    "epoch": 0,
    "epochs": 0,
    "batch": 0,
    "batches": 0,
    "phase": "",
    "eta": None,
    "seconds": 0.0,
}


@functools.cache
def _hints(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Each entry's type, and which of them must be there."""
    with_extras = typing.get_type_hints(kind, include_extras=True)
    needed = (n for n, hint in with_extras.items() if typing.get_origin(hint) is not NotRequired)
    return typing.get_type_hints(kind), frozenset(needed)


def checked(kind: type[T], value: Any) -> T:
    """`value`, read from JSON, as a `kind`; entries that it does not name stay as they are. Raises
    UserError that names what is missing or of another type.
    """
    if not isinstance(value, dict):
        raise UserError(f"{value!r:.40} should be an object.")
    hints, needed = _hints(kind)
    if missing := ", ".join(sorted(needed - value.keys())):
        raise UserError(f"{missing} is missing.")
    known = hints.keys() & value.keys()
    typed = value | {name: _as(hints[name], value[name], name) for name in known}
    if kind is Images and not all(
        0 < typed[name] <= MOST for name in ("classes", "channels", "size")
    ):
        raise UserError(f"images={value!r:.80} is out of range.")
    return cast(T, typed)


def opened(kind: type[T], path: Path, usual: Mapping[str, Any] = MappingProxyType({})) -> T:
    """The object in a file of a run, `usual` where it lacks an entry. Raises UserError that names
    the file, what is wrong with it and what to do.
    """
    value = read_json(path)
    try:
        return checked(kind, {**usual, **value})
    except UserError as error:
        raise UserError(
            f"{path}: {error} The run folder {path.parent.name} is damaged: remove it, or restore"
            " the file."
        ) from error


def live(path: Path, classes: int) -> Strip | None:
    """The images of `live.npz`, of so many classes; None where the file is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            entries: JSON = {field.name: file[field.name] for field in dataclasses.fields(Strip)}
        strip = Strip(**entries | {"eps": float(entries["eps"]), "epoch": int(entries["epoch"])})
        labels = np.array([strip.y, strip.pred, strip.pred_adv]).reshape(3, len(strip.x))
        pictures = np.array([strip.x, strip.x_adv], dtype=np.float32)
        fits = pictures.ndim == 5 and labels.size and np.isfinite([*pictures.flat, strip.eps]).all()
        known = labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < (classes or MOST)
        return strip if fits and known else None
    except Exception:  # a damaged zip raises a dozen kinds; each means: no pictures
        return None


def _as(hint: Any, value: Any, path: str) -> Any:
    if typing.is_typeddict(hint):
        return checked(hint, value)
    if hint == JSON:
        return _settings(value, path)
    return coerce(hint, value, path)


def _settings(value: Any, path: str) -> Any:
    """`value` where it is what `registry.encode` writes of a registered thing: its key, and
    settings that are text, numbers, truths, nothing, lists of them, or such things again.
    """
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        raise UserError(f"{path}={value!r:.40} should be an object with a key.")
    for name, item in value.items():
        if isinstance(item, dict) or (name == "attack" and item is not None):
            _settings(item, f"{path}.{name}")
        for each in item if isinstance(item, list) else [item]:
            number = isinstance(each, (int, float))
            if isinstance(each, list) or (number and not abs(each) < HUGE):
                raise UserError(f"{path}.{name}={item!r:.40} is no setting.")
    return value
