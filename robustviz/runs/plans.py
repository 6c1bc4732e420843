"""The files about sweeps, in `.sweeps` among the runs: NAME.json lists a sweep's runs, NAME.now
says which process adds them to the queue and how long that will take, and NAME.stop asks that
process to end. No torch is imported, because the Train page reads them every two seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustviz.runs import folder, queue
from robustviz.runs.files import read_json, to_bytes, write_file
from robustviz.runs.folder import Run
from robustviz.types import UserError

if TYPE_CHECKING:
    from robustviz.runs.sweeps import Now

EVERY = 2.0  # seconds between two writes of the time that a sweep still takes


class Stopped(Exception):
    """Raised in the process of a sweep when somebody asked on the Train page to end the sweep."""


@dataclass(frozen=True)
class Plan:
    """A sweep as other processes see it: its name, the ids of its runs, whether a process adds them
    to the queue now (`going`), and about how many seconds are left (None: unknown). `wrong`: why
    its file cannot be read; empty if it can.
    """

    name: str
    runs: tuple[str, ...]
    going: bool = False
    seconds: float | None = None
    wrong: str = ""


def _path(name: str, ending: str = ".json") -> Path:
    return folder.home() / ".sweeps" / f"{name}{ending}"


def keep_plan(name: str, ids: Iterable[str]) -> None:
    """Write into a file which runs (`ids`) belong to the sweep called `name`; a file with the same
    runs is left as it is. Raises UserError for an invalid name, for a damaged file, and if a sweep
    with that name has other runs.
    """
    if not folder.ID.fullmatch(name):
        raise UserError(f"{name!r} is no name: use 1 to 64 of a-z, 0-9 and '-'.", code=2)
    path, ids = _path(name), sorted(ids)
    if not path.exists():
        write_file(path, to_bytes({"name": name, "runs": ids}))
        return
    try:
        held = read_json(path).get("runs")
    except UserError as error:
        raise UserError(f"{path} is damaged: remove it, and start the sweep again.") from error
    if held != ids:
        raise UserError(
            f"A sweep called {name} exists with other points: choose another --name, or remove"
            f" {path}.",
            code=2,
        )


def every() -> list[Plan]:
    """Returns the sweeps in the folder of the user's runs. Sweeps whose process is alive come
    before the others; within each of these two groups the newest comes first.
    """
    found: list[tuple[float, Plan]] = []
    for path in (folder.home() / ".sweeps").glob("*.json"):
        if folder.ID.fullmatch(path.stem):
            with contextlib.suppress(OSError):  # removed meanwhile
                found.append((path.stat().st_mtime, _read(path)))
    return [plan for _, plan in sorted(found, key=lambda one: (one[1].going, one[0]), reverse=True)]


def _read(path: Path) -> Plan:
    name = path.stem
    try:
        ids = read_json(path).get("runs")
    except UserError:
        ids = None
    if not isinstance(ids, list) or not all(
        isinstance(each, str) and folder.ID.fullmatch(each) for each in ids
    ):
        wrong = f"The list of the sweep {name} is damaged: remove {path}, and start it again."
        return Plan(name, (), wrong=wrong)
    now: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # no process feeds it, or the file is damaged
        now = read_json(_path(name, ".now"))
    going, left = bool(now) and queue.alive(now), now.get("seconds")
    known = float(left) if going and isinstance(left, (int, float)) and left >= 0 else None
    return Plan(name, tuple(ids), going, known)


@contextlib.contextmanager
def fed(name: str, tell: Callable[[Now], object]) -> Iterator[Callable[[Now], object]]:
    """A context manager: inside it, this process counts as the one that adds the runs of the sweep
    called `name` to the queue. It yields a function to be called with the sweep's progress. That
    function calls `tell` with the progress and, at most every two seconds, writes the time left
    into a file.

    Once somebody asked that the sweep end (`stop`), this function, or else the end of the block,
    raises `Stopped`. In that case, and only then, the sweep's queued and running runs are asked to
    stop.
    """
    path, end = _path(name, ".now"), _path(name, ".stop")
    end.unlink(missing_ok=True)  # left over from before
    said = -EVERY

    def told(now: Now) -> None:
        nonlocal said
        tell(now)
        if end.exists():
            raise Stopped
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            with contextlib.suppress(UserError):  # the training itself reports a full disk
                write_file(path, to_bytes(queue.identity() | {"seconds": round(now.seconds, 1)}))

    try:
        yield told
        if end.exists():  # all runs stopped before the next report
            raise Stopped
    except Stopped:
        _ask(_read(_path(name)))  # the next run may have started before the request was seen
        raise
    finally:
        path.unlink(missing_ok=True)
        end.unlink(missing_ok=True)


def stop(plan: Plan) -> None:
    """Ask the process that adds a sweep's runs to the queue to end, and the sweep's queued and
    running runs to stop. Raises UserError if the folder of the user's runs is not writable.
    """
    if plan.going:
        write_file(_path(plan.name, ".stop"), b"")
    _ask(plan)


def _ask(plan: Plan) -> None:
    for run_id in plan.runs:
        run = Run(folder.home() / run_id)
        if run.path.is_dir() and run.status()["state"] in ("queued", "running"):
            with contextlib.suppress(UserError):  # it ended meanwhile
                queue.ask(run, "stop")
