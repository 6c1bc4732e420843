"""Tests the queue: one training per device, oldest first. A process that has ended is noticed, and
another process with the same id is not mistaken for it.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from robustviz.cli import main
from robustviz.runs import folder, queue
from robustviz.runs.folder import Run
from robustviz.training.config import TrainConfig
from robustviz.types import UserError


@pytest.fixture
def spawned(runs_home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Starts no process. Returns the ids of the runs that would be started; each is recorded as
    running in this process.
    """
    out: list[str] = []

    def spawn(run: Run) -> SimpleNamespace:
        assert run.status()["state"] == "queued"
        out.append(run.id)
        return SimpleNamespace(pid=os.getpid())

    monkeypatch.setattr(queue, "_spawn", spawn)
    return out


def submit(config: TrainConfig, *names: str) -> list[Run]:
    return [queue.submit(config, name=name) for name in names]


def states(*every: Run) -> list[str]:
    return [run.status()["state"] for run in every]


def dead() -> dict[str, float]:
    """Returns the identity of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    found = queue.identity(process.pid)
    assert queue.alive(found)
    process.kill()
    process.wait()
    return found


def test_of_two_submitted_one_starts_and_the_other_follows_when_it_is_done(
    spawned: list[str], tiny: TrainConfig
) -> None:
    one, other, third = submit(tiny, "one", "other", "third")
    assert spawned == ["one"] and states(one, other, third) == ["running", "queued", "queued"]
    assert [run.id for run in queue.running()] == ["one"]
    assert [run.id for run in queue.waiting()] == ["other", "third"]
    assert queue.pump() == []
    one.set_status(state="done")
    assert [run.id for run in queue.pump()] == ["other"] and spawned == ["one", "other"]
    other.set_status(state="failed")
    queue.pump()
    assert spawned == ["one", "other", "third"] and queue.waiting() == []


def test_a_gpu_and_the_cpu_work_side_by_side(spawned: list[str], tiny: TrainConfig) -> None:
    submit(tiny, "cpu-1", "cpu-2")
    submit(dataclasses.replace(tiny, device="cuda"), "gpu-1", "gpu-2")
    assert spawned == ["cpu-1", "gpu-1"]


def test_a_started_run_says_who_runs_it(spawned: list[str], tiny: TrainConfig) -> None:
    (run,) = submit(tiny, "one")
    status = run.status()
    assert (
        status["pid"] == os.getpid()
        and abs(status["started"] - psutil.Process().create_time()) < 0.01
    )
    assert queue.alive(status) and time.time() - status["heartbeat"] < 60


def test_the_same_settings_are_not_queued_twice(spawned: list[str], tiny: TrainConfig) -> None:
    one = queue.submit(tiny)
    assert queue.submit(tiny).path == one.path and spawned == [one.id]
    one.set_status(state="done")
    before = (one.path / "status.json").read_bytes()
    assert queue.submit(tiny).path == one.path and (one.path / "status.json").read_bytes() == before


@pytest.mark.parametrize("state", ["failed", "stopped", "paused", "interrupted"])
def test_submitting_again_resumes_what_was_not_finished(
    state: str, spawned: list[str], tiny: TrainConfig
) -> None:
    run = queue.submit(tiny)
    run.set_status(state=state, error="Something.")
    run.ask("stop")
    queue.submit(tiny)
    assert spawned == [run.id, run.id] and run.status()["error"] == "" and run.wanted() == ""


# Requests to pause or stop.


@pytest.mark.parametrize(("want", "state"), [("pause", "paused"), ("stop", "stopped")])
def test_a_queued_run_pauses_and_stops_at_once(
    want: str, state: str, spawned: list[str], tiny: TrainConfig
) -> None:
    _, other = submit(tiny, "one", "other")
    queue.ask(other, want)
    assert states(other) == [state] and queue.waiting() == [] and other.wanted() == ""
    queue.enqueue(other)
    assert states(other) == ["queued"]


def test_the_command_line_pauses_a_run_and_waits_until_it_has(
    spawned: list[str],
    tiny: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, other = submit(tiny, "one", "other")

    def heard(seconds: float) -> None:  # What the training process does while the command waits.
        assert run.wanted() == "pause"
        run.ask("")
        run.set_status(state="paused")

    monkeypatch.setattr(queue.time, "sleep", heard)
    assert main(["pause", "one"]) == 0
    assert "one is paused; go on with: python -m robustviz resume one" in capsys.readouterr().out
    assert states(run, other) == ["paused", "running"]  # The next run's turn.
    assert main(["pause", "one"]) == 1
    assert "is not running; it is paused" in capsys.readouterr().err


def test_a_running_run_is_asked_through_its_folder(spawned: list[str], tiny: TrainConfig) -> None:
    (run,) = submit(tiny, "one")
    queue.ask(run, "pause")
    assert run.wanted() == "pause" and states(run) == ["running"]


@pytest.mark.parametrize(
    "state", ["done", "imported", "failed", "paused", "stopped", "interrupted"]
)
def test_a_run_that_is_not_at_work_cannot_be_asked(
    state: str, spawned: list[str], tiny: TrainConfig
) -> None:
    (run,) = submit(tiny, "one")
    run.set_status(state=state)
    with pytest.raises(UserError, match=f"not running; it is {state}"):
        queue.ask(run, "stop")
    assert not (run.path / "control.json").exists()


def test_what_runs_or_is_over_or_shipped_cannot_be_queued(
    spawned: list[str], tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = submit(tiny, "one")
    with pytest.raises(UserError, match="running already"):
        queue.enqueue(run)
    run.set_status(state="done")
    with pytest.raises(UserError, match="nothing to resume"):
        queue.enqueue(run)
    monkeypatch.setattr(folder, "zoo", lambda: tmp_path / "zoo")
    shipped = folder.create(tiny, name="shipped", folder=tmp_path / "zoo")
    with pytest.raises(UserError, match="read-only"):
        queue.enqueue(shipped)


# Processes that have ended.


def test_a_run_whose_process_is_gone_is_interrupted_and_can_be_resumed(
    spawned: list[str], tiny: TrainConfig
) -> None:
    one, _other = submit(tiny, "one", "other")
    one.set_status(**dead())
    assert queue.running() == []
    assert [run.id for run in queue.pump()] == ["other"]  # Its device is free again.
    assert states(one) == ["interrupted"] and "resume" in one.status()["error"]
    queue.enqueue(one)
    assert states(one) == ["queued"]


def test_another_process_with_the_same_id_is_not_it(spawned: list[str], tiny: TrainConfig) -> None:
    (run,) = submit(tiny, "one")
    queue.sweep()
    assert states(run) == ["running"]
    run.set_status(started=run.status()["started"] - 100)
    queue.sweep()
    assert states(run) == ["interrupted"]


@pytest.mark.parametrize(
    "status", [{}, {"pid": None}, {"pid": 2**30, "started": 1.0}, {"pid": "x"}]
)
def test_a_status_without_a_process_is_not_alive(status: dict[str, object]) -> None:
    assert not queue.alive(status)


def test_a_sweep_leaves_everything_else_alone(spawned: list[str], tiny: TrainConfig) -> None:
    every = submit(tiny, "a", "b", "c", "d")
    for run, state in zip(every, ("done", "paused", "failed", "queued"), strict=True):
        run.set_status(state=state, **dead())
    queue.sweep()
    assert states(*every) == ["done", "paused", "failed", "queued"]


def test_the_queue_is_held_by_one_at_a_time(runs_home: Path) -> None:
    with queue.queue_lock():
        code = (
            "import filelock, sys\ntry: filelock.FileLock(sys.argv[1], timeout=0).acquire()\nexcept"
            " filelock.Timeout: print('held')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder.home() / ".queue.lock")],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == "held"


@pytest.mark.long
def test_a_run_that_does_not_stop_when_asked_is_ended_by_its_recorded_process(
    runs_home: Path, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "PATIENCE", 2.0)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(queue, "_children", [process])
    run = folder.create(tiny)
    run.set_status(state="running", **queue.identity(process.pid))
    assert queue.stop(run) == "interrupted"
    assert process.wait(timeout=60) != 0


def test_a_run_whose_process_has_just_ended_is_stopped_without_an_error(
    runs_home: Path, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=60)
    run = folder.create(tiny)
    run.set_status(state="running", pid=ended.pid, started=1.0)
    monkeypatch.setattr(queue, "ask", lambda run, wish: None)
    assert queue.stop(run) == "interrupted"


# One real start, from the queue to the run folder.


@pytest.mark.long
def test_a_submitted_run_runs_in_a_process_of_its_own_and_hears_a_stop(
    runs_home: Path, tiny: TrainConfig
) -> None:
    run = queue.submit(dataclasses.replace(tiny, net="small_resnet", epochs=500))
    try:
        patience = time.monotonic() + 250
        while not run.status().get("phase"):
            assert run.status()["state"] == "running" and time.monotonic() < patience, (
                run.path / "log.txt"
            ).read_text()
            time.sleep(0.02)
        pid = run.status()["pid"]
        assert pid != os.getpid() and queue.alive(run.status())
        if hasattr(os, "getsid"):  # Ctrl-C in the server's terminal does not reach the process.
            assert os.getsid(pid) != os.getsid(0)
    finally:
        stopped = queue.stop(run)
        for child in queue._children:
            child.wait(timeout=60)
    assert stopped == "stopped" and "stopped in epoch" in (run.path / "log.txt").read_text()
    assert run.load_state() is not None and not (run.path / "control.json").exists()


def test_a_training_that_holds_its_run_is_at_work_whatever_the_clock_says(
    spawned: list[str], tiny: TrainConfig
) -> None:
    (run,) = submit(tiny, "one")
    with run.locked():
        run.set_status(started=run.status()["started"] - 3600)  # As if the clock had been changed.
        assert not queue.alive(run.status()) and run.is_held()
        queue.sweep()
        assert states(run) == ["running"]
        queue.ask(run, "stop")
    assert not run.is_held()
    queue.sweep()
    assert states(run) == ["interrupted"]


def test_what_a_process_trains_itself_is_never_taken_by_the_queue(
    spawned: list[str], tiny: TrainConfig
) -> None:
    run = queue.claim(tiny)
    assert queue.pump() == [] and spawned == []
    assert run.status()["pid"] == os.getpid() and states(run) == ["running"]
    run.set_status(state="paused")
    assert states(queue.claim(tiny)) == ["running"]
    run.set_status(state="done")
    assert states(queue.claim(tiny)) == ["done"]


def test_a_removed_run_stays_away(spawned: list[str], tiny: TrainConfig) -> None:
    (run,) = submit(tiny, "one")
    run.set_status(state="paused")
    folder.remove(run)
    for act in (lambda: queue.enqueue(run), lambda: run.set_status(state="done")):
        with pytest.raises(UserError, match="was removed"):
            act()
    assert not run.path.exists()


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_a_dead_run_that_may_not_be_written_stops_nobody(
    spawned: list[str], tiny: TrainConfig
) -> None:
    one, _ = submit(tiny, "one", "other")
    one.set_status(**dead())
    one.path.chmod(0o500)
    try:
        assert [run.id for run in queue.pump()] == ["other"]
    finally:
        one.path.chmod(0o700)


def test_more_than_is_allowed_does_not_wait(
    spawned: list[str], tiny: TrainConfig, runs_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTVIZ_MOST_QUEUED", "1")
    first, second = (queue.submit(tiny, name=name) for name in ("first", "second"))
    assert states(first, second) == ["running", "queued"]
    with pytest.raises(UserError, match=r"queue is full \(1 of at most 1 "):
        queue.submit(tiny, name="third")
    assert not (runs_home / "third").exists()
    assert queue.submit(tiny, name="second").id == "second"  # This run is already in the queue.
    queue.ask(second, "pause")
    third = queue.submit(tiny, name="third")
    with pytest.raises(UserError, match="The queue is full"):
        queue.enqueue(second)
    assert states(second, third) == ["paused", "queued"]


def test_many_who_come_at_once_do_not_pass_the_limit(
    spawned: list[str], tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTVIZ_MOST_QUEUED", "2")

    def want(number: int) -> bool:
        try:
            return bool(queue.submit(tiny, name=f"run-{number}"))
        except UserError:
            return False

    with ThreadPoolExecutor(8) as people:
        accepted = sum(people.map(want, range(8)))
    assert accepted == len(queue.mine()) <= 3 and len(queue.waiting()) <= 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EPOCHS", "0", "3 epochs are too many here: at most 0 are allowed"),
        ("GB", "0.001", "0.001 GB are allowed: remove some first"),
        ("QUEUED", "0", "The queue is full"),
        ("EPOCHS", "many", "ROBUSTVIZ_MOST_EPOCHS=many is not a number"),
        ("GB", "nan", "is not a number"),
        ("QUEUED", "-1", "is not a number"),
    ],
)
def test_what_a_server_does_not_allow_is_one_sentence_and_leaves_no_folder(
    spawned: list[str],
    tiny: TrainConfig,
    runs_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    said: str,
) -> None:
    waits = queue.submit(tiny, name="waits")
    waits.set_status(state="paused")
    (runs_home / "large").mkdir()
    (runs_home / "large" / "file").write_bytes(bytes(2_000_000))
    monkeypatch.setenv(f"ROBUSTVIZ_MOST_{name}", value)
    for act in (lambda: queue.submit(tiny, name="more"), lambda: queue.enqueue(waits)):
        with pytest.raises(UserError, match=said):
            act()
    assert not (runs_home / "more").exists() and states(waits) == ["paused"]
