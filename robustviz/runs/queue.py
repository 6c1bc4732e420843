"""The queue: one training per device, each in its own process that outlives the page and the
server. The queue has no file of its own: it consists of the run folders with state `queued`. `pump`
starts the runs whose turn it is; `sweep` finds runs whose process has ended. No torch is imported,
because pages check their jobs every second.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustviz.runs import folder
from robustviz.runs.files import cannot_write, held
from robustviz.runs.folder import Run
from robustviz.runs.inside import OVER, Status
from robustviz.types import JSON, UserError

if TYPE_CHECKING:
    from robustviz.training.config import TrainConfig

PATIENCE = 10.0  # seconds that a process has to stop by itself before it is terminated
_children: list[subprocess.Popen[bytes]] = []


def queue_lock() -> AbstractContextManager[None]:
    """Returns a context manager that holds the lock of the queue; the system releases it when the
    process dies. Raises UserError if another process still holds it after 30 seconds, and if the
    folder of the user's runs is not writable.
    """
    home = folder.home()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(home, error) from error
    return held(home / ".queue.lock", 30, f"The queue in {home} is busy; try again in a moment.")


def identity(pid: int | None = None) -> JSON:
    """Returns the id `pid` and the start time `started` (seconds since 1970) of a process, by
    default this one, for a run's status. The time is needed because ids are reused; it is 0 if
    there is no such process.
    """
    import psutil

    pid = pid or os.getpid()
    try:
        return {"pid": pid, "started": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "started": 0.0}


def alive(status: Mapping[str, Any]) -> bool:
    """Whether the process recorded in a status (`pid` and `started`) still runs."""
    import psutil

    for child in list(_children):  # an ended child process stays a zombie until it is polled
        if child.poll() is not None:
            with contextlib.suppress(ValueError):  # another session has just removed it
                _children.remove(child)
    try:
        process = psutil.Process(int(status.get("pid") or 0))
        return bool(
            abs(process.create_time() - float(status.get("started") or 0)) < 2
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.Error, ValueError, OverflowError):
        return False


def at_work(run: Run, status: Status) -> bool:
    """Whether a run is really being trained: its state is `running`, and the recorded process runs
    or some process holds the run's lock. The lock counts because setting the computer's clock
    changes the apparent start times of processes.
    """
    return status["state"] == "running" and (alive(status) or run.is_held())


def states() -> list[tuple[Run, Status]]:
    """Returns the user's runs and their statuses, without damaged runs. The run that was queued
    first comes first.
    """
    return [(run, status) for run, status in folder.of_user() if folder.sound(run)]


def mine() -> list[Run]:
    """Returns the user's undamaged runs. The run that was queued first comes first."""
    return [run for run, _ in states()]


def sweep() -> list[tuple[Run, Status]]:
    """Mark runs as interrupted if their process has ended, after a kill, a crash or a restart of
    the machine. Returns the user's undamaged runs with their statuses from before.
    """
    for run, status in (found := states()):
        if status["state"] == "running" and not at_work(run, status):
            with contextlib.suppress(UserError):  # a read-only folder must not stop the others
                run.set_status(
                    state="interrupted",
                    eta=None,
                    error="Its process ended unexpectedly; resume continues from the last finished"
                    " epoch.",
                )
    return found


def submit(
    config: TrainConfig, *, name: str | None = None, found: Mapping[str, object] | None = None
) -> Run:
    """Put a training into the queue, and start it if its device is free. Returns its run. If the
    config has a run already, that one is queued and returned; a running or finished one is left as
    it is. `name` and `found` as in `folder.create`.

    Raises UserError if the run cannot be created, and as `check_limits` does.
    """
    with queue_lock():  # otherwise another session may create a run between check and creation
        if not (folder.home() / (name or config.run_id) / "config.json").exists():
            check_limits(config.epochs)
        run = folder.create(config, name=name, found=found)
    if run.status()["state"] not in ("running", *OVER):
        try:
            enqueue(run)
        except UserError:  # another session may just have queued the same run
            if run.status()["state"] != "running":
                raise
    return run


def claim(
    config: TrainConfig,
    *,
    name: str | None = None,
    place: Path | None = None,
    found: Mapping[str, object] | None = None,
) -> Run:
    """Returns the run of a config that the calling process itself will train. The run is marked as
    running at once, so that the queue does not start it too; a run that is finished or being
    trained is left as it is. `place`: another folder than that of the user's runs; `name` and
    `found` as in `folder.create`. Raises UserError if the run cannot be created.
    """
    with queue_lock() if place is None else contextlib.nullcontext():
        run = folder.create(config, name=name, folder=place, found=found)
        status = run.status()
        if status["state"] not in OVER and not at_work(run, status):
            run.ask("")
            run.set_status(state="running", error="", **identity())
    return run


def enqueue(run: Run) -> None:
    """Put a run that is new, paused, stopped, failed or interrupted into the queue, and start it if
    its device is free. Raises UserError for shipped, removed, running and finished runs, and as
    `check_limits` does.
    """
    if run.shipped:
        raise UserError(f"{run.id} came with robustviz and is read-only.", code=2)
    with queue_lock():  # otherwise another session may start it between check and change
        status = run.status()
        if not (run.path / "config.json").exists():
            raise UserError(f"The run {run.id} was removed.")
        if at_work(run, status):
            raise UserError(f"The run {run.id} is running already.")
        if status["state"] in OVER:
            raise UserError(f"The run {run.id} is done; there is nothing to resume.")
        check_limits(run.info.get("epochs"), run.id)
        run.ask("")
        run.set_status(state="queued", queued=time.time(), error="", pid=None)
    pump()


def check_limits(epochs: int | None, but: str = "") -> None:
    """Raises UserError if the server's limits in the environment forbid this training:
    ROBUSTVIZ_MOST_EPOCHS, ROBUSTVIZ_MOST_QUEUED (waiting runs) and ROBUSTVIZ_MOST_GB (of all runs
    together). `but`: the id of the run to be queued, which is not counted as waiting.
    """
    if (most := _limit("EPOCHS")) is not None and (epochs or 0) > most:
        raise UserError(f"{epochs} epochs are too many here: at most {most:g} are allowed.")
    others = [run for run in waiting() if run.id != but]
    if (most := _limit("QUEUED")) is not None and len(others) >= most:
        raise UserError(
            f"The queue is full ({len(others)} of at most {most:g} trainings): try again when one"
            " has started."
        )
    check_room()


def check_room() -> None:
    """Raises UserError if the folder of the user's runs takes more space than ROBUSTVIZ_MOST_GB
    allows. If the variable is not set, nothing is checked.
    """
    if (most := _limit("GB")) is not None and (used := _bytes(folder.home()) / 1e9) > most:
        raise UserError(
            f"The runs take {used:.1f} GB, and {most:g} GB are allowed: remove some first"
            " (`python -m robustviz tidy`, or `remove`)."
        )


def _limit(name: str) -> float | None:
    """Returns the value of ROBUSTVIZ_MOST_<name> in the environment; None if it is not set. Raises
    UserError if it is not a number, or is negative.
    """
    text = os.environ.get(f"ROBUSTVIZ_MOST_{name}", "").strip()
    try:
        most = float(text) if text else None
    except ValueError:
        most = -1.0
    if most is not None and not most >= 0:
        raise UserError(
            f"ROBUSTVIZ_MOST_{name}={text} is not a number from 0: change it where robustviz"
            " was started."
        )
    return most


def _bytes(home: Path) -> int:
    """Returns the size in bytes of all files below the folder `home`; links are not followed."""
    total = 0
    for place, _, names in os.walk(home):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def waiting() -> list[Run]:
    """Returns the user's queued runs, the longest waiting first."""
    return [run for run, status in states() if status["state"] == "queued"]


def running() -> list[Run]:
    """Returns the user's runs that are really being trained (`at_work`)."""
    return [run for run, status in states() if at_work(run, status)]


def pump() -> list[Run]:
    """Mark runs whose process has ended (`sweep`), then start the oldest queued run of each device
    on which nothing is being trained. Returns the runs that were started.
    """
    if all(status["state"] != "queued" for _, status in sweep()):
        return []
    with queue_lock():
        busy, started = set(map(_device, running())), []
        for run in waiting():
            if _device(run) not in busy:
                busy.add(_device(run))
                started.append(run)
                run.set_status(
                    **identity(_spawn(run).pid), state="running", eta=None, heartbeat=time.time()
                )
    return started


def _device(run: Run) -> str:
    asked = str(run.info.get("device", ""))
    return "cuda:0" if asked == "cuda" else asked if asked.startswith("cuda") else "cpu"


def _spawn(run: Run) -> subprocess.Popen[bytes]:
    """Start a run's worker as a detached process and return it: it survives the server, and Ctrl-C
    in the server's terminal does not reach it.
    """
    where: dict[str, Any] = (
        {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
        if os.name == "nt"
        else {"start_new_session": True}
    )
    search = (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH"))
    with open(run.path / "log.txt", "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "robustviz.runs.worker", str(run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, search)), "PYTHONUNBUFFERED": "1"},
            **where,
        )
    _children.append(child)
    return child


def ask(run: Run, want: str) -> None:
    """Ask a run to `pause` or `stop`; the state of a queued run changes at once, a running one
    obeys before its next batch. Raises UserError if the run is neither queued nor running.
    """
    status = run.status()
    if status["state"] == "queued":
        run.set_status(state="paused" if want == "pause" else "stopped")
    elif at_work(run, status):
        run.ask(want)
    else:
        raise UserError(f"The run {run.id} is not running; it is {status['state']}.")


def pause(run: Run) -> str:
    """Pause a run and wait for it, at most ten seconds. Returns the run's state, which is still
    `running` if that was not enough; the evaluation at the end of a training, for example, cannot
    be interrupted. Queued runs are started (`pump`) before it returns. Raises UserError as `ask`
    does.
    """
    ask(run, "pause")
    if run.status()["state"] == "running":
        _ended(run)
        sweep()
    pump()
    return run.status()["state"]


def stop(run: Run) -> str:
    """Stop a run and wait for it; returns its state. Its process is first asked, then terminated,
    then killed, with ten seconds for each. Then queued runs are started (`pump`). Raises UserError
    as `ask` does.
    """
    import psutil

    ask(run, "stop")
    status = run.status()
    if status["state"] == "running":
        ways: list[Callable[[], object]] = [lambda: None]
        if alive(status):  # else it has just ended, or another process holds the run
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(status["pid"] or 0))
                ways += [process.terminate, process.kill]
        for firmly in ways:
            with contextlib.suppress(psutil.NoSuchProcess):
                firmly()
            if _ended(run):
                break
        sweep()
    pump()
    return run.status()["state"]


def remove(run: Run) -> None:
    """Delete a run folder, even a damaged one. Raises UserError for a shipped run, for one that is
    being trained, and if deleting fails.
    """
    if at_work(run, run.status()):
        raise UserError(f"The run {run.id} is running; stop it first.")
    folder.remove(run)


def _ended(run: Run) -> bool:
    end = time.monotonic() + PATIENCE
    while (going := at_work(run, run.status())) and time.monotonic() < end:
        time.sleep(0.1)
    return not going
