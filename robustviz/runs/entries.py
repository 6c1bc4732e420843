"""The types of the values in a run's JSON files, and the check that the values have these types.
Code that reads a file gets valid values, or a UserError that names the file and what is wrong with
it.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

from robustviz.registry import coerce
from robustviz.runs.files import read_json
from robustviz.types import JSON, UserError

T = TypeVar("T", bound=Mapping[str, Any])

Want = Literal["pause", "stop", ""]
State = Literal[
    "queued", "running", "paused", "done", "stopped", "failed", "interrupted", "imported"
]
OVER: tuple[State, ...] = ("done", "imported")  # nothing is left to resume
# entries of config.json that are not settings, and not part of a run's name
FOUND_OUT = ("versions", "images", "label", "network", "plugins")
MOST = 10_000  # classes, channels or pixels per side
HUGE = 1e300  # settings must be smaller, which NaN is not either


class Images(TypedDict):
    """The images that a network was made for: number of classes and channels, pixels per side
    (`size`), and the names of the classes (`names`).
    """

    classes: int
    channels: int
    size: int
    names: NotRequired[tuple[str, ...]]


class Network(TypedDict):
    """How to make an imported network again with `nets.known`: its `source`, the SHA-256 of the
    source's code if a user wrote it, whether the network expects the channels as blue, green, red
    (`flip`), and the arguments of `nets.wrap` (`maps` to `shape`). `reading`: the name of the way
    in which the network expects images (`runs.readings`); `readings`: the measurements from which
    that was found.
    """

    source: str
    sha256: NotRequired[str]
    flip: NotRequired[bool]
    maps: NotRequired[str]
    features: NotRequired[str]
    head: NotRequired[str]
    logits: NotRequired[object]
    mean: NotRequired[tuple[float, ...] | None]
    std: NotRequired[tuple[float, ...] | None]
    size: NotRequired[int | None]
    grid: NotRequired[tuple[int, ...] | None]
    shape: NotRequired[tuple[int, ...] | None]
    reading: NotRequired[str]
    readings: NotRequired[dict[str, object]]


class Info(TypedDict):
    """`config.json`: the fields of the TrainConfig, `data` and `method` each with its `key`, and
    facts that are not settings: the `versions` of packages when the run was made; `images` once
    training has begun; the `label` that a person gave the run; how to make an imported `network`
    again; the `plugins` that its method, attack, net or data come from, each with `source` and
    `sha256`.
    """

    data: JSON
    method: JSON
    net: str
    eps: float
    seed: int
    device: str
    epochs: NotRequired[int | None]
    n_train: NotRequired[int]
    images: NotRequired[Images]
    versions: NotRequired[dict[str, object]]
    label: NotRequired[str]
    network: NotRequired[Network]
    plugins: NotRequired[tuple[dict[str, object], ...]]


class Status(TypedDict):
    """`status.json`: the `state` of a run, the process that trains it (its id `pid` and the time
    when it `started`), and the position in the training (`epoch` to `phase`, as in
    `training.progress.Tick`).

    `error`, `note`: a sentence for people, or empty; `queued`: when the run entered the queue;
    `eta`: about how many seconds are left, None: unknown; `seconds`: how long a finished training
    took, with its evaluation. Points in time are in seconds since 1970.
    """

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
    """A line of `metrics.jsonl`: the results of one epoch (`training.progress.EpochRecord`), as far
    as pages and commands use them.
    """

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
    """Returns the type of each entry of a TypedDict, and the names of the required entries."""
    return typing.get_type_hints(kind), frozenset(
        name
        for name, hint in typing.get_type_hints(kind, include_extras=True).items()
        if typing.get_origin(hint) is not NotRequired
    )


def checked(kind: type[T], value: Any) -> T:
    """Returns `value`, which was read from JSON, as a dictionary of the type `kind` (a TypedDict);
    entries that `kind` does not have are kept unchanged. Raises UserError that names what is
    missing, has a wrong type or is out of range.
    """
    if not isinstance(value, dict):
        raise UserError(f"{value!r:.40} should be an object.")
    hints, needed = _hints(kind)
    if missing := ", ".join(sorted(needed - value.keys())):
        raise UserError(f"{missing} is missing.")
    typed = value | {
        name: _as(hints[name], value[name], name) for name in hints.keys() & value.keys()
    }
    if kind is Images and not all(
        0 < typed[name] <= MOST for name in ("classes", "channels", "size")
    ):
        raise UserError(f"images={value!r:.80} is out of range.")
    if kind is Network and not (
        all(0 < side <= MOST for name in ("grid", "shape") for side in typed.get(name) or ())
        and 0 < (typed.get("size") or 1) <= MOST
        and isinstance(typed.get("logits"), (str, int, NoneType))
    ):
        raise UserError(f"network={value!r:.80} is out of range.")
    return cast(T, typed)


def opened(kind: type[T], path: Path, usual: Mapping[str, Any] | None = None) -> T:
    """Returns the JSON object in the file `path` of a run, checked as a `kind` (`checked`), with
    values from `usual` for missing entries. Raises UserError that names the file, what is wrong
    with it and what to do.
    """
    value = read_json(path)
    try:
        return checked(kind, {**(usual or {}), **value})
    except UserError as error:
        raise UserError(
            f"{path}: {error} The run folder {path.parent.name} is damaged: remove it, or restore"
            " the file."
        ) from error


def _as(hint: Any, value: Any, path: str) -> Any:
    return (
        checked(hint, value)
        if typing.is_typeddict(hint)
        else _settings(value, path)
        if hint == JSON
        else coerce(hint, value, path)
    )


def _settings(value: Any, path: str) -> Any:
    """Returns `value` if it has the form in which `registry.encode` writes a registered object: a
    `key`, and settings that are text, numbers, booleans, null, lists of these, or such objects
    again. Raises UserError for anything else.
    """
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        raise UserError(f"{path}={value!r:.40} should be an object with a key.")
    for name, item in value.items():
        if isinstance(item, dict) or (name == "attack" and item is not None):
            _settings(item, f"{path}.{name}")
        for each in item if isinstance(item, list) else [item]:
            if isinstance(each, list) or (isinstance(each, (int, float)) and not abs(each) < HUGE):
                raise UserError(f"{path}.{name}={item!r:.40} is no setting.")
    return value
