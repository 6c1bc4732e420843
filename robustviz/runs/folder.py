"""A run is a folder with its settings, status, weights and evaluations. Training processes, pages,
command line and notebooks exchange data only through such folders, and reading all but `config` and
the weights needs no torch. Each file is checked when it is opened (`inside`): damage is reported in
one sentence, and lists of runs leave out a run whose config.json is damaged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from robustviz import memory, paths, plugins, registry
from robustviz.imports import load
from robustviz.runs import catalogue
from robustviz.runs.files import (
    as_large,
    read_json as read_json,
    stamp,
    to_bytes as to_bytes,
    write_file as write_file,
)
from robustviz.runs.inside import OVER as OVER, Inside, Status
from robustviz.training.evaluation import Evaluation
from robustviz.training.ladder import MONITOR
from robustviz.types import JSON, UserError
from robustviz.views.result import Result

if TYPE_CHECKING:
    from robustviz.data import Source
    from robustviz.training.config import TrainConfig

R = TypeVar("R", bound=Result)

ID = re.compile(r"^[a-z0-9-]{1,64}$")
REPOSITORY = paths.ROOT
_ZOO = REPOSITORY / "checkpoints" / "zoo"
# The attack of the evaluation that tables show; it must not be targeted either.
PLAIN = {"key": "pgd", "steps": 20, "restarts": 1, "start": "uniform", "step_size": None}


def home() -> Path:
    """Returns the folder of the user's runs: `ROBUSTVIZ_RUNS`, else `checkpoints/runs` in the
    repository, else (in an installed copy) the system's folder for programs' data.
    """
    return _home(str(paths.users("runs", "ROBUSTVIZ_RUNS", "checkpoints/runs")), os.getcwd())


@functools.lru_cache(maxsize=8)
def _home(asked: str, here: str) -> Path:
    return Path(asked).expanduser().resolve()


@contextlib.contextmanager
def at_home_in(place: Path) -> Iterator[None]:
    """A context manager: inside it, the user's runs are in `place`, for this process and for those
    it starts. Use it only in a process that does nothing else, because it changes the environment
    of the whole process.
    """
    before = os.environ.get("ROBUSTVIZ_RUNS")
    os.environ["ROBUSTVIZ_RUNS"] = str(place)
    try:
        yield
    finally:
        del os.environ["ROBUSTVIZ_RUNS"]
        if before is not None:
            os.environ["ROBUSTVIZ_RUNS"] = before


def zoo() -> Path:
    """Returns the folder of the shipped runs, which the app and the command line only read."""
    return _ZOO


def _key(evaluation: Evaluation, *names: str) -> str:
    """Returns the key of an evaluation in `eval.json`: a hash of its fields called `names`."""
    return registry.key({name: getattr(evaluation, name) for name in names}).replace("dict-", "")


@memory.remembered(memory.ANSWERS, as_large)
def _evaluations(path: Path, stamp: tuple[int, int, int]) -> tuple[Evaluation, ...]:
    entries = read_json(path).get("evaluations", [])
    try:
        return tuple(map(Evaluation.from_json, entries))
    except TypeError:
        raise UserError(
            f"{path} holds no list of evaluations: remove the file and evaluate the run again."
        ) from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


class Run(Inside):
    """One run folder, with the evaluations and probe results of the run, shipped or made here.
    Creating the object reads nothing; `open_run` checks the folder.
    """

    @cached_property
    def shipped(self) -> bool:
        """Whether this run came with robustviz and must not be changed."""
        return self.path.parent == zoo() or self.path.resolve().parent == zoo().resolve()

    @property
    def ordinary(self) -> bool:
        """Whether this is a shipped run that was trained without a defence on the usual number of
        images for its data. The networks shipped as witnesses for model alignment, trained on only
        part of the images, are not ordinary.
        """
        return (
            self.shipped
            and self.method_key == "standard"
            and self.info.get("n_train")
            == (catalogue.facts("data", self.data_key)["recipe"].get("n_train") or 0)
        )

    @property
    def notes(self) -> Path:
        """The folder for those evaluations and probe results of this run that are made on this
        computer: the run's own folder, or for a shipped run one in `.zoo-cache` among the user's
        runs.
        """
        return home() / ".zoo-cache" / self.id if self.shipped else self.path

    @property
    def name(self) -> str:
        """The text by which a setting of another run refers to this run: its id if that is enough
        to find it, else its path.
        """
        path = self.path.resolve()
        return self.id if path.parent in (home(), zoo().resolve()) else str(path)

    def evaluations(self) -> list[Evaluation]:
        """Returns all evaluations of the present weights: shipped ones, then those made here, each
        oldest first. One made here replaces a shipped one with the same key, in its place. Raises
        UserError for a damaged file.
        """
        weights = self.weights
        every = {
            each.key: each
            for folder in dict.fromkeys((self.path, self.notes))
            if any(now := stamp(folder / "eval.json"))
            for each in _evaluations(folder / "eval.json", now)
            if each.weights == weights
        }
        return list(every.values())

    def evaluation(self, key: str | None = None) -> Evaluation | None:
        """Returns the evaluation with that key. Without a key, returns the one that tables display:
        untargeted PGD-20 with its usual settings, in the run's norm and at its ε, with seed 0; if
        there are several, the one on the most images. None if there is none.
        """
        every = self.evaluations()
        if key is not None:
            return next((each for each in every if each.key == key), None)
        return max(
            (
                each
                for each in every
                if all(each.attack.get(name) == value for name, value in PLAIN.items())
                and each.attack.get("norm", "linf") == self.norm
                and not each.attack.get("targeted")
                and (each.eps, each.seed) == (self.eps, 0)
            ),
            key=lambda each: each.n,
            default=None,
        )

    def add_evaluation(self, evaluation: Evaluation) -> Evaluation:
        """Write an evaluation into `eval.json`, replacing one with the same attack, n, seed, split
        and images; returns it with its key and the hash of the run's weights. A shipped run's
        folder is not changed: the file is then in `notes`.

        If the replaced evaluation belongs to a ladder (`Evaluation.rung`) and has the same
        per-image results, the new one takes its place in the ladder.
        """
        key = _key(evaluation, "attack", "n", "seed", "split")
        before = self.evaluation(key)
        if before and before.images and before.images != evaluation.images:
            key = _key(evaluation, "attack", "n", "seed", "split", "images")
            before = self.evaluation(key)
        new = dataclasses.replace(evaluation, key=key, weights=self.weights)
        if before and before.rung and not new.rung and before.robust_right == new.robust_right:
            new = dataclasses.replace(
                new,
                rung=before.rung,
                cumulative_k=before.cumulative_k,
                doctor=(*new.doctor, *(each for each in before.doctor if each.name in MONITOR)),
            )
        path = self.notes / "eval.json"
        old = read_json(path).get("evaluations", []) if path.exists() else []
        write_file(
            path,
            to_bytes({"evaluations": [*(e for e in old if e.get("key") != key), new.to_json()]}),
        )
        return new

    def export(
        self, kind: Literal["state_dict", "torch.export", "onnx"], path: str | os.PathLike[str]
    ) -> Path:
        """Write the best network to a file for other programs and return the file's path. The file
        is written only if it reproduces the run's logits. See `robustviz.runs.exported.export`.
        """
        from robustviz.runs.exported import export

        return export(self, kind, path)

    def cached(self, kind: type[R], name: str) -> R | None:
        """Returns the probe result of type `kind` stored under `name`, made here or shipped; None
        if there is none for the present weights, or if the file is damaged.
        """
        for folder in dict.fromkeys((self.notes, self.path)):
            with contextlib.suppress(UserError, OSError):  # missing or damaged
                result = kind.from_npz((folder / "probes" / f"{name}.npz").read_bytes())
                if result.meta.get("weights") == self.weights:
                    return result
        return None

    def keep(self, name: str, result: Result) -> None:
        """Store a probe's result under `name`. The hash of the run's weights, on which it was
        measured, is first entered in `result.meta`.
        """
        result.meta["weights"] = self.weights
        write_file(self.notes / "probes" / f"{name}.npz", result.to_npz())


class Elsewhere(Run):
    """A run whose test images are read from another place than its config names, because they were
    moved or are other images of the same classes. Evaluations on them are stored with the others,
    since each records which images were used. Results of probes do not record that, so they are not
    stored. Creating the object raises UserError if the images have other classes, another size or
    another number of channels than the run's.
    """

    def __init__(self, run: Run, source: Source) -> None:
        super().__init__(run.path)
        size = {"size": self.shape[2]} if "size" in registry.hints(type(source)) else {}
        self._source = dataclasses.replace(source, **size)
        split = load("robustviz.data").load(self._source, "test")
        shape = (len(split.classes), *split.images.shape[1:3])
        if self.classes and split.classes != self.classes:
            raise UserError(
                f"These images have the classes {', '.join(split.classes[:5])}, but {self.id} was"
                f" trained on {', '.join(self.classes[:5])}: the classes must be the same."
            )
        if shape != self.shape:
            raise UserError(
                f"These images have {shape[1]} channels and {shape[2]} pixels a side,"
                f" and {self.id} reads {self.shape[1]} and {self.shape[2]}."
            )

    @cached_property
    def config(self) -> TrainConfig:
        return dataclasses.replace(super().config, data=self._source)

    def cached(self, kind: type[R], name: str) -> R | None:
        """Returns None, because the stored results were measured on other images."""
        return None

    def keep(self, name: str, result: Result) -> None:
        """Does nothing, because results on these images are not stored."""


def versions() -> JSON:
    """Returns the versions of packages, the platform and the processor's instructions (such as
    AVX2) that are in use now, which a new run records: they decide how numbers are rounded.
    """
    import numpy
    import torch

    from robustviz import __version__

    return {
        "robustviz": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def create(
    config: TrainConfig,
    *,
    name: str | None = None,
    folder: Path | None = None,
    found: Mapping[str, object] | None = None,
) -> Run:
    """Create a run folder for `config`, state `queued`, and return its run. If the run exists
    already with the same config (settings that are not part of the id may differ), it is returned
    unchanged.

    `name`: the run's id, None: the config's. `folder`: the folder in which to put the run's folder,
    None: that of the user's runs. `found`: facts to add to config.json (`entries.FOUND_OUT`), such
    as a `label`.

    Raises UserError for an invalid name, and if a folder of this name holds a run with another
    config or anything else: nothing is ever overwritten.
    """
    name = name or config.run_id
    if not ID.fullmatch(name):
        raise UserError(f"{name!r} is no run id: use 1 to 64 of a-z, 0-9 and '-'.", code=2)
    run = Run((folder or home()).expanduser().resolve() / name)
    asked = config.to_json()
    # A kill during the very first write leaves only a temporary file; such a folder counts as
    # empty.
    if run.path.exists() and (
        not run.path.is_dir() or any(not entry.match(".*.tmp") for entry in run.path.iterdir())
    ):
        if not (run.path / "config.json").exists():
            raise UserError(
                f"{run.path} exists and is not a run folder; choose another --name or --out.",
                code=2,
            )
        if run.config.run_id != config.run_id:  # settings that are not part of the id may differ
            raise UserError(
                f"A run named {name} exists with other settings; choose another --name, or remove"
                " it first.",
                code=2,
            )
        return run
    more = {"versions": versions(), **(found or {})}
    if code := [*plugins.needed(config), *cast(list[JSON], more.get("plugins", []))]:
        more["plugins"] = code
    write_file(run.path / "config.json", to_bytes(asked | more))
    run.set_status(state="queued", queued=time.time(), device=asked["device"])
    return run


@functools.lru_cache(maxsize=8192)  # if smaller than the number of runs, it would never hit
def _opened(path: str, stamp: tuple[int, int, int]) -> Run:
    return Run(Path(path))


def _open(path: str) -> Run:
    """Returns the run in a folder, unchecked. It is the same object as before while its config.json
    does not change, because pages ask for all runs at every click.
    """
    return _opened(path, stamp(os.path.join(path, "config.json")))


def look_up(path_or_id: str | os.PathLike[str]) -> Run:
    """Returns the run at a path or with an id, as `open_run` does but without torch: it does not
    check whether this version knows the run's settings. Raises UserError if there is no such run,
    and if its config.json is damaged.
    """
    text = os.fspath(path_or_id)
    folder = _by_id(text) or Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise _unknown(text)
    run = _open(str(folder))
    _ = run.info
    return run


def _by_id(text: str) -> Path | None:
    """The folder of the run with this id, the user's before the shipped one; None if there is
    none.
    """
    inside = (home() / text, zoo() / text) if ID.fullmatch(text) else ()
    return next((folder for folder in inside if folder.is_dir()), None)


def _unknown(text: str) -> UserError:
    return UserError(registry.unknown("run", text, [run.id for run in all_runs()], 5))


def open_run(path_or_id: str | os.PathLike[str]) -> Run:
    """Returns the run at a path or with an id; the user's runs are searched before the shipped
    ones.

    Raises UserError if there is none, with the nearest ids; also if its config.json is damaged or
    has settings that this version does not know, and if it needs a plug-in that is missing here.
    """
    run = look_up(path_or_id)
    _ = run.config
    return run


def open_model(run_id: str) -> Run:
    """Returns the run with that id, a shipped one before a user's run of the same id: what views
    display must not change because somebody starts the same training. The id may come from a URL,
    so it is never used as a path. Raises UserError as `open_run` does.
    """
    if not ID.fullmatch(run_id or ""):
        raise UserError(f"{run_id!r} is no run id; choose a model from the list.")
    shipped = _shipped(str(zoo()), stamp(zoo())).get(run_id)
    if shipped is None:
        if _by_id(run_id) is None:
            raise _unknown(run_id)
        return open_run(run_id)
    _ = shipped.info
    return shipped


def find_run(name: str | None, *, data: Source | None = None, net: str = "", role: str = "") -> Run:
    """Returns the run that a setting refers to, by id (shipped runs first) or by path. If `name` is
    empty, returns the shipped ordinary run (`Run.ordinary`) with the architecture `net` and seed 0
    on `data`; `role` says in error messages what the run is for. Raises UserError if there is none.
    """
    if name:
        return open_model(name) if ID.fullmatch(name) else open_run(name)
    for run in all_runs():
        if (
            run.ordinary
            and (run.architecture, run.seed) == (net, 0)
            and run.info["data"] == registry.encode(data)
        ):
            return run
    raise UserError(
        f"robustviz comes with no ordinary {net} on {data.called if data else 'this data'} to use"
        f" as the {role}: train one with the method standard and the net {net}, and name its run as"
        f" the {role} (on the command line: --set method.{role}=RUN)."
    )


def all_runs(*, damaged: bool = False) -> list[Run]:
    """Returns all runs: the shipped ones first, by id, then the user's, newest last. Damaged
    folders are included only if `damaged` is set.
    """
    runs = (*_shipped(str(zoo()), stamp(zoo())).values(), *(run for run, _ in of_user()))
    return [run for run in runs if damaged or sound(run)]


def of_user() -> list[tuple[Run, Status]]:
    """Returns the user's runs with their statuses, in the order in which they were queued, the
    latest last. Damaged folders are included. Each status is read only once.
    """
    found = [(run, run.status()) for run in _runs_in(str(home()))]
    return sorted(found, key=lambda each: each[1]["queued"])


@functools.lru_cache(maxsize=4)
def _shipped(folder: str, stamp: tuple[int, int, int]) -> dict[str, Run]:
    """Returns the shipped runs by id, in order. They are opened only once, because nobody writes
    into their folders while the app runs.
    """
    return {run.id: run for run in sorted(_runs_in(folder), key=lambda run: run.id)}


def _runs_in(folder: str) -> list[Run]:
    """Returns a run for each subfolder of `folder` whose name is a valid run id, even if its
    config.json cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return [
                _open(each.path) for each in entries if ID.fullmatch(each.name) and each.is_dir()
            ]
    except OSError:
        return []


def sound(run: Run) -> bool:
    """Whether the run's config.json can be read and is valid."""
    with contextlib.suppress(UserError):
        return bool(run.info)
    return False


def fault(run: Run) -> str:
    """Returns what is damaged in a run's config.json or eval.json, in one sentence; empty if
    nothing is. Other files are not checked.
    """
    try:
        _ = run.info, run.evaluations()
    except UserError as error:
        return str(error)
    return ""


def remove(run: Run) -> None:
    """Delete a run folder. Raises UserError for a shipped run, for one that another process is
    writing, and if deleting fails.
    """
    if run.shipped:
        raise UserError(f"{run.id} came with robustviz and is read-only.", code=2)
    with run.locked():
        pass
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        raise UserError(
            f"{run.path} could not be removed ({error.strerror or error}); close the program that"
            " uses it."
        ) from error
