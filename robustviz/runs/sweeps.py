"""A sweep: a named grid of trainings, given to the queue one by one, the cheapest first. A run's id
is derived from its settings, so a sweep that was killed can be started again: finished runs are not
repeated, and the others continue. `docs/sweeps.md` describes the file of a sweep.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from robustviz import data, nets, registry
from robustviz.runs import folder, queue
from robustviz.runs.folder import Run
from robustviz.runs.inside import OVER
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

MOST = 10_000  # points of a sweep
LOOK = 0.5  # seconds between two checks of the running training
# Seconds per weight, image and pass, while no training has been measured yet.
PACE = 1e-8
UNREAD = 50_000  # assumed number of training images if the data set cannot be read yet
RECENT = 5  # the newest trainings of a kind, on which its pace is based


@dataclass(frozen=True)
class Grid:
    """The settings that a sweep combines: every value of each field with every value of the others.
    A field without values is left to the preset or the data set. `set`: the values of any other
    setting, by its dotted path. `make` and `read` check what they are given.
    """

    key: ClassVar[str] = "a sweep"  # its name in error messages

    name: str = ""
    preset: str | None = None
    data: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    nets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    set: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def make(cls, given: Mapping[str, Any]) -> Grid:
        """Returns a grid from the content of a file or the command line; a single value counts as a
        list of one. Raises UserError for an unknown field, a value of a wrong type and an empty
        list.
        """
        settings = given.get("set", {})
        if not isinstance(settings, Mapping):
            raise UserError("set should be a table of settings and their values.", code=2)
        fields = {
            name: value if name in ("name", "preset") else _listed(name, value)
            for name, value in given.items()
            if name != "set"
        }
        return registry.build(
            cls,
            fields
            | {"set": {path: _listed(path, value) for path, value in registry.flat(settings)}},
        )

    @classmethod
    def read(cls, path: Path) -> Grid:
        """Returns the grid in a TOML file; without a name of its own it gets the file's name, in
        lower case and without the ending. Raises UserError if the file cannot be read or is not
        valid.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror or error}).", code=2
            ) from error
        except ValueError as error:  # not text, or not TOML
            raise UserError(f"{path} is no TOML file: {error}.", code=2) from error
        return cls.make({"name": path.stem.lower()} | given)

    @property
    def _axes(self) -> list[tuple[Any, ...]]:
        return [axis or (None,) for axis in (self.data, self.methods, self.nets, self.seeds)] + [
            *self.set.values()
        ]

    @property
    def count(self) -> int:
        """The number of trainings in the grid."""
        return math.prod(map(len, self._axes))

    def configs(self, *, here: bool = True) -> list[TrainConfig]:
        """Returns the configs of the grid's trainings, completed for this machine: paths, runs that
        a method names, and the device `auto`. With `here=False` they are for other machines: a
        device that is named is kept even if this one lacks it. Raises UserError for settings that
        do not fit, for two points that give the same run, and for more than `MOST` points.
        """
        if self.count > MOST:
            raise UserError(
                f"This sweep has {self.count:,} points; at most {MOST:,} are allowed: split it.",
                code=2,
            )
        configs: dict[str, TrainConfig] = {}
        for key, method, net, seed, *values in itertools.product(*self._axes):
            flags = {"data": key, "method": method, "net": net, "seed": seed}
            point = list(zip(self.set, values, strict=True))
            asked = TrainConfig.make(self.preset, flags, point)
            given = asked if here or asked.device == "auto" else replace(asked, device="cpu")
            config = given.on_this_machine(folder.find_run)
            if given is not asked:
                config = replace(config, device=asked.device)
            if config.run_id in configs:
                said = (flags | dict(point)).items()
                told = ", ".join(f"{name}={value}" for name, value in said if value is not None)
                raise UserError(
                    f"Two points of this sweep give the same training, {config.run_id} ({told}):"
                    " remove one of them.",
                    code=2,
                )
            configs[config.run_id] = config
        return list(configs.values())


def _listed(name: str, value: Any) -> list[Any]:
    if value in ([], ()):
        raise UserError(f"{name} is an empty list, so this sweep has no points.", code=2)
    return list(value) if isinstance(value, (list, tuple)) else [value]


@dataclass(frozen=True)
class Now:
    """The progress of a sweep: how many of its `total` trainings are `over` (neither waiting nor
    running any more), the `run` that is being trained, and about how many `seconds` the sweep still
    takes.
    """

    over: int
    total: int
    run: Run
    seconds: float


def follow(
    configs: Iterable[TrainConfig], tell: Callable[[Now], object] = lambda now: None
) -> dict[str, str]:
    """Train all configs, one after the other, and wait. The cheapest come first, except that a run
    that the method of another one needs (`sources`) comes before that one. Returns the reasons, by
    run id, for runs that could not be queued. How the other runs ended is in their folders: one
    that fails does not stop the rest. `tell` is called with the progress about twice a second.

    Each training is a job of the queue and outlives this process, which trains nothing itself. If
    the person interrupts, raises UserError that says how to go on.
    """
    total = {config.run_id: config for config in configs}
    refused: dict[str, str] = {}
    queue.sweep()
    waiting = {name for name in total if Run(folder.home() / name).status()["state"] not in OVER}
    while waiting:
        left = estimate([total[name] for name in waiting])
        name = min(
            waiting, key=lambda name: (bool(sources(total[name]) & waiting), left[name], name)
        )
        waiting.remove(name)
        later = sum(left[other] for other in waiting)
        try:
            run = queue.submit(total[name])
            while (status := run.status())["state"] in ("queued", "running"):
                rest = left[name] if status["eta"] is None else status["eta"]
                tell(Now(len(total) - len(waiting) - 1, len(total), run, later + rest))
                time.sleep(LOOK)
                queue.pump()
        except KeyboardInterrupt:
            raise UserError(
                f"No longer waiting: the training {name} continues, but no further one is started."
                f" The same command continues the sweep; `python -m robustviz stop {name}` stops"
                " this training."
            ) from None
        except UserError as error:
            refused[name] = str(error)
    return refused


def sources(config: TrainConfig) -> set[str]:
    """Returns the ids or paths of the runs that settings of the config's method name."""
    names = registry.of_kind(type(config.method), *registry.RUNS)
    return {str(value) for name in names if (value := getattr(config.method, name))}


# How long a training takes.


def estimate(configs: Iterable[TrainConfig]) -> dict[str, float]:
    """Returns about how many seconds each training still takes, by run id, without its finished
    epochs. The estimate is `work` times the median pace of the latest five trainings of the same
    data, method and net; if there are none, of all trainings; if there are none either, a guess.
    """
    kinds: dict[tuple[str, str, str] | None, list[float]] = defaultdict(list)
    for run in folder.all_runs():  # shipped ones first, the user's newest last
        status = run.status()
        if status["state"] == "done" and status["seconds"]:
            try:
                measured = status["seconds"] / work(run.config)
            except UserError:  # a run of another version
                continue
            for kind in (_kind(run.config), None):
                kinds[kind].append(measured)
    out = {}
    for config in configs:
        paces = kinds[_kind(config)][-RECENT:] or kinds[None] or [PACE]
        done = Run(folder.home() / config.run_id).status()["epoch"] / int(config.epochs or 1)
        out[config.run_id] = statistics.median(paces) * work(config) * (1 - done)
    return out


def _kind(config: TrainConfig) -> tuple[str, str, str]:
    return config.data.key, config.method.key, config.net


def work(config: TrainConfig) -> float:
    """Returns the cost of a training: weights × images × epochs × passes. Each step of the method's
    attack is one pass, and the update is another. If the data set cannot be read yet, 50,000 images
    are assumed.
    """
    steps = getattr(getattr(config.method, "attack", None), "count", 0)
    images = config.n_train or _images(config.data)
    return float(int(config.epochs or 1) * images * (1 + steps) * weights(config.net))


@functools.cache
def _images(source: data.Source) -> int:
    try:
        return len(data.load(source, "train"))
    except UserError:  # not downloaded yet, or unreadable: then its training reports that
        return UNREAD


@functools.cache
def weights(net: str) -> int:
    """Returns the number of parameters of a network of that architecture for ten classes."""
    with torch.device("meta"):  # shapes only, no values
        return sum(each.numel() for each in nets.build(net, 10).parameters())
