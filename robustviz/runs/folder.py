"""A run is a folder: what was asked, how it went, the weights, the evaluations. The only channel
between a training process, the pages, the command line and a notebook.

Every write goes to a temporary file beside its target, is flushed to disk and renamed, so a reader
sees the old file or the new one and a killed process leaves nothing half-written. No torch is
needed to look at a run.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from robustviz import paths
from robustviz.registry import unknown
from robustviz.training.evaluation import Evaluation
from robustviz.types import JSON, UserError
from robustviz.views.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from robustviz.nets import Classifier
    from robustviz.training.config import TrainConfig

R = TypeVar("R", bound=Result)

ID = re.compile(r"^[a-z0-9-]{1,64}$")
REPOSITORY = paths.ROOT
_ZOO = REPOSITORY / "checkpoints" / "zoo"
STATES = ("queued", "running", "paused", "done", "stopped", "failed", "interrupted", "imported")
OVER = ("done", "imported")  # nothing is left to resume


def home() -> Path:
    """Where the user's runs live: `ROBUSTVIZ_RUNS`, else `checkpoints/runs` in the repository, else
    (an installed copy) the system's folder for programs' data.
    """
    return _home(str(paths.users("runs", "ROBUSTVIZ_RUNS", "checkpoints/runs")), os.getcwd())


@functools.lru_cache(maxsize=8)
def _home(asked: str, here: str) -> Path:
    return Path(asked).expanduser().resolve()


def zoo() -> Path:
    """Where the shipped runs live; read-only to the app and the command line."""
    return _ZOO


# Writing so that nothing is ever half there.


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step. Raises UserError where the disk is full or the
    folder is not writable.
    """
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
    )  # two sessions of the app are two threads
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Add one line to `path` and flush it to disk. A torn last line is what `read_lines` drops."""
    try:
        with open(path, "ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def rename(source: Path, target: Path) -> None:
    """Rename onto `target`, trying for two seconds where Windows says that somebody is
    reading it.
    """
    for patience in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, None):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if patience is None or os.name != "nt":
                raise
            time.sleep(patience)


def cannot_write(path: Path, error: OSError) -> UserError:
    """The sentence for a write that failed; what was there before is still there."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return UserError(
            f"The disk is full, so {path.name} in {path.parent} could not be written; free some"
            " space and resume the run."
        )
    return UserError(
        f"{path} could not be written ({error.strerror or error}); check that the folder is"
        " writable, or set ROBUSTVIZ_RUNS."
    )


def read_json(path: Path) -> JSON:
    """The JSON object in `path`. Raises UserError where it is missing or broken."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: the run folder {path.parent.name} is incomplete. Remove it, or"
            " restore the file."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON: the run folder {path.parent.name} is damaged. Remove"
            " it, or restore the file."
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f"{path} does not hold a JSON object: the run folder {path.parent.name} is damaged."
        )
    return found


def read_lines(path: Path) -> list[JSON]:
    """The JSON lines of `path`; a half-written last line is dropped, a missing file has none."""
    try:
        text = path.read_bytes()
    except OSError:
        return []
    out: list[JSON] = []
    for line in text.split(b"\n"):
        try:
            out.append(json.loads(line))
        except ValueError:
            continue
    return out


def to_bytes(value: Any) -> bytes:
    """JSON as people read it."""
    return (json.dumps(value, indent=1) + "\n").encode()


@functools.lru_cache(maxsize=1024)
def _digest(path: Path, stamp: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _stamp(path: Path | str) -> tuple[int, int, int]:
    """What changes whenever `write_file` replaces a file; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size


@functools.lru_cache(maxsize=256)
def _evaluations(path: Path, stamp: tuple[int, int, int]) -> tuple[Evaluation, ...]:
    return tuple(Evaluation.from_json(entry) for entry in read_json(path).get("evaluations", []))


class Run:
    """One run folder. Making the object reads nothing; `open_run` checks that the folder is one."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def id(self) -> str:
        return self.path.name

    @cached_property
    def shipped(self) -> bool:
        """Whether this run came with robustviz and must not be written to."""
        return self.path.parent == zoo() or self.path.resolve().parent == zoo().resolve()

    @property
    def notes(self) -> Path:
        """Where evaluations and probes of this run may be written: its own folder, or for a shipped
        one a cache.
        """
        return home() / ".zoo-cache" / self.id if self.shipped else self.path

    # What was asked.

    @cached_property
    def info(self) -> JSON:
        """`config.json` as it is, without torch: the config's fields plus `versions`."""
        return read_json(self.path / "config.json")

    @cached_property
    def config(self) -> TrainConfig:
        """The config this run was made with. Raises UserError where it is damaged or from another
        version.
        """
        from robustviz.training.config import TrainConfig

        return TrainConfig.from_json(
            {name: value for name, value in self.info.items() if name not in ("versions", "images")}
        )

    @property
    def data_key(self) -> str:
        return str(self.info.get("data", {}).get("key", "?"))

    @property
    def method_key(self) -> str:
        return str(self.info.get("method", {}).get("key", "?"))

    @property
    def name(self) -> str:
        """How a setting of another run names this one: its id where that finds it, else its
        path.
        """
        return (
            self.id
            if self.path.resolve().parent in (home().resolve(), zoo().resolve())
            else str(self.path.resolve())
        )

    @property
    def architecture(self) -> str:
        return str(self.info.get("net", "?"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, channels and pixels of a side of the images this network was made for; zeros
        before it has begun.
        """
        images = self.info.get("images") or {}
        return (
            int(images.get("classes", 0)),
            int(images.get("channels", 0)),
            int(images.get("size", 0)),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes; none before it has begun."""
        return tuple((self.info.get("images") or {}).get("names", ()))

    @property
    def eps(self) -> float:
        return float(self.info.get("eps", 0.0))

    # How it goes.

    def status(self) -> JSON:
        """`status.json`, or `{"state": "queued"}`-like defaults where there is none yet."""
        with contextlib.suppress(UserError):
            return read_json(self.path / "status.json")
        return {"state": "failed", "error": "status.json is missing or damaged."}

    def set_status(self, **changes: Any) -> None:
        """Merge `changes` into `status.json`."""
        old = self.status() if (self.path / "status.json").exists() else {}
        write_file(self.path / "status.json", to_bytes(old | changes))

    def wanted(self) -> str:
        """What the person asked of the running process: `pause`, `stop` or nothing."""
        with contextlib.suppress(UserError):
            return str(read_json(self.path / "control.json").get("want", ""))
        return ""

    def ask(self, want: str) -> None:
        """Leave a wish for the running process; empty: take it back."""
        if want:
            write_file(self.path / "control.json", to_bytes({"want": want}))
        else:
            (self.path / "control.json").unlink(missing_ok=True)

    # What came out.

    def records(self) -> list[JSON]:
        """The finished epochs, one mapping each."""
        return read_lines(self.path / "metrics.jsonl")

    def metrics(self) -> pd.DataFrame:
        """The finished epochs as a table: one row an epoch, each loss term a column
        `loss_<term>`.
        """
        import pandas as pd

        rows = []
        for record in self.records():
            losses = record.pop("losses", {})
            rows.append(record | {f"loss_{name}": value for name, value in losses.items()})
        return pd.DataFrame(rows)

    def net(self, epoch: int | None = None, which: str = "best") -> Classifier:
        """The trained network on the CPU, in eval mode: the best epoch's, the last's, or a
        snapshot's.

        Raises UserError where the weights are missing, damaged, or of another architecture.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from robustviz import nets
        from robustviz.chance import drawn_from

        name = {"best": "net.safetensors", "last": "last.safetensors"}[which]
        path = self.path / (name if epoch is None else f"snapshots/epoch-{epoch:04d}.safetensors")
        if not path.exists():
            raise UserError(
                f"The run {self.id} has no {path.name}: "
                + (
                    "it has not finished an epoch yet."
                    if epoch is None
                    else "no snapshot of that epoch was kept."
                )
            )
        shape = self.info.get("images") or {}
        try:
            weights = load_file(path)
            with drawn_from(
                torch.Generator()
            ):  # weights that are replaced at once; the global generator belongs to everybody
                net = nets.build(
                    self.config.net,
                    int(shape["classes"]),
                    int(shape["channels"]),
                    int(shape["size"]),
                )
            net.load_state_dict(
                {
                    key: value.float() if value.is_floating_point() else value
                    for key, value in weights.items()
                }
            )
        except (SafetensorError, RuntimeError, OSError, KeyError) as error:
            raise UserError(
                f"The weights of {self.id} ({path.name}) are damaged or of another network; restore"
                " the file or train again."
            ) from error
        return net.eval()

    @property
    def snapshots(self) -> list[int]:
        """The epochs whose weights were kept besides the best ones, in order: what `net(epoch=…)`
        can load.
        """
        names = (
            path.stem.removeprefix("epoch-")
            for path in (self.path / "snapshots").glob("epoch-*.safetensors")
        )
        return sorted(int(name) for name in names if name.isdecimal())

    def evaluations(self) -> list[Evaluation]:
        """Every evaluation written down, oldest first: shipped ones, then those made here."""
        out: dict[str, Evaluation] = {}
        for folder in dict.fromkeys((self.path, self.notes)):
            if any(stamp := _stamp(folder / "eval.json")):
                for found in _evaluations(folder / "eval.json", stamp):
                    if found.weights == self.weights:
                        out[found.key] = found
        return list(out.values())

    def evaluation(self, key: str | None = None) -> Evaluation | None:
        """The evaluation with that key, else the plain one (PGD-20 at the run's ε, whole test
        split), else None.
        """
        every = self.evaluations()
        if key is not None:
            return next((found for found in every if found.key == key), None)
        plain = [
            found
            for found in every
            if found.attack.get("key") == "pgd"
            and found.attack.get("steps") == 20
            and found.attack.get("restarts") == 1
            and found.attack.get("start") == "uniform"
            and found.attack.get("step_size") is None
            and not found.attack.get("targeted")
            and found.eps == self.eps
            and found.seed == 0
        ]
        return max(plain, key=lambda found: found.n) if plain else None

    def add_evaluation(self, found: Evaluation) -> Evaluation:
        """Write an evaluation down, in place of one with the same protocol; returned with its key.

        Measured once more with the same verdicts, a rung of a ladder stays one.
        """
        import dataclasses

        from robustviz import registry

        name = registry.key(
            {"attack": found.attack, "n": found.n, "seed": found.seed, "split": found.split}
        )
        found = dataclasses.replace(found, key=name.replace("dict-", ""), weights=self.weights)
        before = self.evaluation(found.key)
        if (
            before is not None
            and before.rung
            and not found.rung
            and before.robust_right == found.robust_right
        ):
            order = tuple(finding for finding in before.doctor if finding.name == "order")
            found = dataclasses.replace(
                found,
                rung=before.rung,
                cumulative_k=before.cumulative_k,
                doctor=(*found.doctor, *order),
            )
        path = self.notes / "eval.json"
        old = read_json(path).get("evaluations", []) if path.exists() else []
        kept = [entry for entry in old if entry.get("key") != found.key]
        write_file(path, to_bytes({"evaluations": [*kept, found.to_json()]}))
        return found

    # Cached probes.

    @property
    def weights(self) -> str:
        """A hash of the best weights, short; empty without any. What was measured on other weights
        does not count.
        """
        path = self.path / "net.safetensors"
        stamp = _stamp(path)
        return _digest(path, stamp[0]) if any(stamp) else ""

    def cached(self, kind: type[R], name: str) -> R | None:
        """A probe's result kept under `name`, shipped or made here, or None (also where the file is
        damaged).
        """
        for folder in dict.fromkeys((self.notes, self.path)):
            path = folder / "probes" / f"{name}.npz"
            if path.exists():
                with contextlib.suppress(UserError, OSError):
                    found = kind.from_npz(path.read_bytes())
                    if found.meta.get("weights") == self.weights:
                        return found
        return None

    def keep(self, name: str, result: Result) -> None:
        """Keep a probe's result under `name`, with the hash of the weights it was measured on."""
        result.meta["weights"] = self.weights
        write_file(self.notes / "probes" / f"{name}.npz", result.to_npz())

    # What a resume needs.

    def save_state(self, tensors: Mapping[str, torch.Tensor], plain: JSON) -> None:
        """Freeze a training in one file, so that no kill can tear weights from position."""
        from safetensors.torch import save

        write_file(
            self.path / "state" / "state.safetensors",
            save(dict(tensors), metadata={"plain": json.dumps(plain)}),
        )

    def load_state(self) -> tuple[dict[str, torch.Tensor], JSON] | None:
        """What `save_state` kept, or None. Raises UserError where the file is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self.path / "state" / "state.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                plain = json.loads(file.metadata()["plain"])
                return {name: file.get_tensor(name) for name in file.keys()}, plain  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"The saved state of {self.id} is damaged, so it cannot be resumed; its finished"
                " weights are untouched."
            ) from error

    def save_weights(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Write weights as safetensors under `name`."""
        from safetensors.torch import save

        write_file(
            self.path / name,
            save({key: value.detach().cpu().contiguous() for key, value in weights.items()}),
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for one writer; the system lets go when a process dies. Raises UserError
        where it is held.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"The run {self.id} is being written by another process; wait for it, or stop it"
                " first."
            ) from error
        try:
            yield
        finally:
            lock.release()


def versions() -> JSON:
    """What a run was made with: package versions and platform."""
    import numpy
    import torch

    from robustviz import __version__

    return {
        "robustviz": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
    }


def create(config: TrainConfig, *, name: str | None = None, folder: Path | None = None) -> Run:
    """A new run folder for `config`, state `queued`; or the existing one, if it was made with the
    same config.

    Raises UserError for an unusable name and for a folder that holds something else: nothing is
    ever overwritten.
    """
    name = name or config.run_id
    if not ID.fullmatch(name):
        raise UserError(f"{name!r} is no run id: use 1 to 64 of a-z, 0-9 and '-'.", code=2)
    run = Run((folder or home()).expanduser().resolve() / name)
    asked = config.to_json()
    # A kill in the very first write leaves a temporary file and nothing else; that is still an
    # empty folder.
    if run.path.exists() and (
        not run.path.is_dir() or any(not entry.match(".*.tmp") for entry in run.path.iterdir())
    ):
        if not (run.path / "config.json").exists():
            raise UserError(
                f"{run.path} exists and is not a run folder; choose another --name or --out.",
                code=2,
            )
        theirs = {
            name: value
            for name, value in run.info.items()
            if name not in ("device", "threads", "versions", "images")
        }
        if theirs != {
            name: value for name, value in asked.items() if name not in ("device", "threads")
        }:
            raise UserError(
                f"A run named {name} exists with other settings; choose another --name, or remove"
                " it first.",
                code=2,
            )
        return run
    write_file(run.path / "config.json", to_bytes(asked | {"versions": versions()}))
    run.set_status(state="queued", queued=time.time(), device=asked["device"])
    return run


@functools.lru_cache(maxsize=1024)
def _opened(path: str, stamp: tuple[int, int, int]) -> Run:
    run = Run(Path(path))
    _ = run.info
    return run


def _open(path: str) -> Run:
    """The run in a folder, one object as long as its config.json stays: pages ask for all runs at
    every click.

    Raises UserError where config.json is missing or damaged.
    """
    return _opened(path, _stamp(os.path.join(path, "config.json")))


def open_run(path_or_id: str | os.PathLike[str]) -> Run:
    """The run at a path, or with an id, among the user's runs first and then the shipped ones.

    Raises UserError naming the nearest id where there is none, and for a damaged folder.
    """
    text = os.fspath(path_or_id)
    if ID.fullmatch(text):
        for parent in (home(), zoo()):
            if os.path.isdir(inside := os.path.join(parent, text)):
                return _open(inside)
    path = Path(text).expanduser()
    if path.is_dir():
        return _open(str(path.resolve()))
    raise UserError(unknown("run", text, [run.id for run in all_runs()]))


def open_model(run_id: str) -> Run:
    """As `open_run` for an id, but the shipped run where one has it: what views show must not
    change because somebody began to train the same thing. An id from an address is never taken for
    a path.
    """
    if not ID.fullmatch(run_id or ""):
        raise UserError(f"{run_id!r} is no run id; choose a model from the list.")
    shipped = _shipped(str(zoo()), _stamp(zoo())).get(run_id)
    if shipped is None:
        return open_run(run_id)
    _ = shipped.info
    return shipped


def all_runs(*, damaged: bool = False) -> list[Run]:
    """Every run: shipped first, then the user's, newest last. Damaged folders only if asked for."""
    shipped = _shipped(str(zoo()), _stamp(zoo()))
    mine = sorted(_runs_in(str(home())), key=lambda run: str(run.status().get("queued", "")))
    return [run for run in (*shipped.values(), *mine) if damaged or _sound(run)]


@functools.lru_cache(maxsize=4)
def _shipped(folder: str, stamp: tuple[int, int, int]) -> dict[str, Run]:
    """The shipped runs by id, in order. Nobody writes into their folders while the app runs, so
    they are opened once.
    """
    return {run.id: run for run in sorted(_runs_in(folder), key=lambda run: run.id)}


def _runs_in(folder: str) -> list[Run]:
    """What could be a run, also where its config.json cannot be read."""
    try:
        with os.scandir(folder) as entries:
            paths = [entry.path for entry in entries if ID.fullmatch(entry.name) and entry.is_dir()]
    except OSError:
        return []
    out = []
    for path in paths:
        try:
            out.append(_open(path))
        except UserError:
            out.append(Run(Path(path)))
    return out


def _sound(run: Run) -> bool:
    try:
        return isinstance(run.info.get("method"), dict) and isinstance(run.info.get("data"), dict)
    except UserError:
        return False


def remove(run: Run) -> None:
    """Delete a run folder. Raises UserError for a shipped run and for one that is being written."""
    if run.shipped:
        raise UserError(f"{run.id} came with robustviz and is read-only.", code=2)
    with run.locked():
        pass
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        raise UserError(
            f"{run.path} could not be removed ({error.strerror or error}); close what has it open."
        ) from error
