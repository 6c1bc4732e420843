"""Tests trainings that are killed at any point, or whose disk is full at any point: the resumed
training ends with the same result, bit for bit.

Within this process a kill is an exception that no code catches, raised in the k-th write or rename,
for every k. A few real kills of real processes follow.
"""

from __future__ import annotations

import builtins
import dataclasses
import errno
import io
import itertools
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustviz import data
from robustviz.methods import Standard
from robustviz.runs import files, folder, queue, worker
from robustviz.runs.folder import Run
from robustviz.training import evaluate, loop
from robustviz.training.config import TrainConfig
from robustviz.training.progress import Tick
from robustviz.types import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """An exception that no code may catch."""


class Faults:
    """Counts the writes and renames of a run folder and makes the k-th one fail, only that one
    (`once`) or all from there on.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException], *, once: bool
    ) -> None:
        self.error, self.once = error, once
        self.seen, self.at = 0, 0
        rename = files.rename

        def faulty_rename(source: Path, target: Path) -> None:
            self.count()
            rename(source, target)

        class Torn(io.FileIO):
            def write(inner, content: Any) -> int:
                try:
                    self.count()
                except BaseException:
                    super().write(content[: len(content) // 2])
                    raise
                return super().write(content)

        monkeypatch.setattr(files, "rename", faulty_rename)
        monkeypatch.setattr(
            files,
            "open",
            lambda path, mode: Torn(path, mode) if "w" in mode else builtins.open(path, mode),
            raising=False,
        )

    def count(self) -> None:
        self.seen += 1
        if self.at and (self.seen == self.at or (self.seen > self.at and not self.once)):
            raise self.error()

    def arm(self, at: int) -> None:
        self.seen, self.at = 0, at


def outcome(run: Run) -> dict[str, Any]:
    """Returns everything that a training leaves, without times."""
    run = Run(run.path)
    return {
        "net": (run.path / "net.safetensors").read_bytes(),
        "last": (run.path / "last.safetensors").read_bytes(),
        "records": [
            {name: value for name, value in record.items() if name != "seconds"}
            for record in run.records()
        ],
        "evaluation": dataclasses.replace(run.evaluation(), seconds=0),  # type: ignore[type-var]
        "state": run.status()["state"],
        "config": run.config,
    }


@pytest.fixture
def config(tiny: TrainConfig) -> TrainConfig:
    return dataclasses.replace(tiny, n_train=48, epochs=2, snapshots=2)


@pytest.fixture
def quick(runs_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a whole run take a tenth of a second: twelve validation and test images, and no
    doctor.
    """
    whole = data.load
    monkeypatch.setattr(
        data,
        "load",
        lambda source, split="train", n=None: whole(source, split, n).take(
            12 if split != "train" else 10**6
        ),
    )
    monkeypatch.setattr(evaluate, "examine", lambda *a, **k: ())
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def whole_run(config: TrainConfig, **kwargs: Any) -> Run:
    run = folder.create(config, **kwargs)
    assert worker.execute(run) == "done"
    return run


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_a_kill_in_any_write_or_rename_is_made_good_by_a_resume(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome(whole_run(config, name="whole"))
    faults = Faults(monkeypatch, Killed, once=True)
    for k in itertools.count(1):
        faults.arm(k)
        try:
            run = whole_run(config, name=f"killed-{k}")
            break  # The training has no k-th write.
        except Killed:
            faults.arm(0)
            run = whole_run(config, name=f"killed-{k}")
        assert outcome(run) == expected, f"killed in write or rename {k}"
    assert k > 30


# The config, status, weights of two epochs, state, metrics, strip and evaluation are each written
# and renamed.


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_a_disk_that_fills_up_anywhere_is_one_clear_sentence_and_is_made_good_by_a_resume(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome(whole_run(config, name="whole"))
    faults = Faults(
        monkeypatch, lambda: OSError(errno.ENOSPC, "No space left on device"), once=False
    )
    for k in itertools.count(1):
        faults.arm(k)
        try:
            run = whole_run(config, name=f"full-{k}")
            break
        except UserError as error:
            assert "disk is full" in str(error) and "\n" not in str(error)
            left = [path.name for path in (folder.home() / f"full-{k}").rglob("*.tmp")]
            assert not left, f"{left} left after write or rename {k}"
            faults.arm(0)
            run = whole_run(config, name=f"full-{k}")
        assert outcome(run) == expected, f"full from write or rename {k} on"
    assert k > 30


@pytest.mark.usefixtures("quick")
def test_one_failed_write_is_written_down_as_failed(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(
        monkeypatch, lambda: OSError(errno.ENOSPC, "No space left on device"), once=True
    )
    run = folder.create(config)
    faults.arm(9)
    with pytest.raises(UserError):
        worker.execute(run)
    assert run.status()["state"] == "failed" and "disk is full" in run.status()["error"]


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_done_is_left_alone(config: TrainConfig) -> None:
    run = whole_run(config)
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in run.path.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    assert worker.execute(run) == "done"
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in run.path.rglob("*")
        if path.is_file() and path.name != ".lock"
    } == before


@pytest.mark.usefixtures("quick")
def test_a_finished_run_folder_holds_what_was_promised(config: TrainConfig) -> None:
    run = whole_run(config)
    names = {
        path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()
    } - {".lock"}
    assert names == {
        "config.json",
        "status.json",
        "metrics.jsonl",
        "net.safetensors",
        "last.safetensors",
        "state/state.safetensors",
        "snapshots/epoch-0002.safetensors",
        "eval.json",
        "live.npz",
    }
    status = run.status()
    assert (status["state"], status["epoch"], status["pid"]) == ("done", 2, os.getpid())
    assert [record["epoch"] for record in run.records()] == [1, 2] and list(
        run.metrics()["epoch"]
    ) == [1, 2]
    with np.load(run.path / "live.npz", allow_pickle=False) as live:
        assert live["x_adv"].shape == (8, 1, 8, 8) and int(live["epoch"]) == 2
    assert Run(run.path).net(epoch=2).head.weight.dtype == torch.float32


@pytest.mark.usefixtures("quick")
def test_last_holds_the_last_epoch_and_net_the_best(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clean and robust counts of the first and second epoch: the first is the best.
    counts = iter([9, 9, 3, 3])
    monkeypatch.setattr(loop, "count_right", lambda *a, **k: torch.ones(next(counts)))
    run = whole_run(config)
    alone = loop.Training(config)
    monkeypatch.setattr(loop, "count_right", lambda *a, **k: torch.ones(1))
    weights = [
        {name: value.clone() for name, value in alone.net.state_dict().items()}
        for _ in alone.epochs()
    ]
    for which, expected in (("best", weights[0]), ("last", weights[1])):
        found = Run(run.path).net(which=which).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.usefixtures("quick")
def test_a_resume_restores_the_best_weights_also_where_no_later_epoch_is_better(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([9, 9, 3, 3])
    monkeypatch.setattr(loop, "count_right", lambda *a, **k: torch.ones(next(counts)))
    monkeypatch.setattr(worker, "HEARTBEAT", 0.0)
    run = folder.create(config)
    assert (
        worker.execute(run, lambda line: run.ask("pause") if line.startswith("epoch") else None)
        == "paused"
    )
    best = (run.path / "net.safetensors").read_bytes()
    (run.path / "net.safetensors").write_bytes(best[:100])
    assert worker.execute(run) == "done" and (run.path / "net.safetensors").read_bytes() == best


@pytest.mark.usefixtures("quick")
def test_the_time_left_includes_the_validation_of_each_epoch_and_the_test(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    now = types.SimpleNamespace(perf_counter=lambda: clock[0], time=time.time)
    monkeypatch.setattr(worker, "time", now)
    beat = worker._Heartbeat(folder.create(config), n_val=1000, n_test=300)
    for batch in range(8):
        beat(Tick(0, 3, batch, 8, "train"))
        clock[0] += 1  # A step takes one second …
    for _ in range(4):
        beat(Tick(0, 3, 8, 8, "validate"))
        clock[0] += 5  # … and the validation 20.
    assert beat.eta(Tick(0, 3, 8, 8, "validate")) is None  # What a test takes is not known yet.
    beat.epoch_done()
    image = 20 / 1000  # Under PGD-10; the doctor checks 100 images.
    test = image * (2 * 300 + 33 * 100)
    assert beat.eta(Tick(1, 3, 0, 8, "train")) == 2 * 8 + 2 * 20 + test
    beat.phase = "evaluate"
    lefts = [beat.eta(Tick(3, 3, seen, 900, "validate")) for seen in (0, 250, 300, 600, 900)]
    assert lefts == [test, test - 500 * image, 3300 * image, 1650 * image, 0]


# Pause and stop.


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("want", "state"), [("pause", "paused"), ("stop", "stopped")])
def test_a_wish_ends_the_run_and_a_resume_ends_it_as_if_never_stopped(
    want: str, state: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome(whole_run(config, name="whole"))
    monkeypatch.setattr(worker, "HEARTBEAT", 0.0)
    run = folder.create(config, name="asked")
    looks = itertools.count()
    monkeypatch.setattr(Run, "wanted", lambda self: want if next(looks) == 5 else "")
    assert worker.execute(run) == state
    status = run.status()
    assert status["state"] == state and status["eta"] is None
    assert 0 < status["epoch"] * 2 + status["batch"] < 4
    assert worker.execute(run) == "done"
    assert outcome(run) == expected


@pytest.mark.usefixtures("quick")
def test_a_wish_in_the_folder_is_heard_and_taken_back(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "HEARTBEAT", 0.0)
    run = folder.create(config)
    assert (
        worker.execute(run, lambda line: run.ask("pause") if line.startswith("epoch") else None)
        == "paused"
    )
    assert run.status()["epoch"] == 1 and not (run.path / "control.json").exists()
    run.ask("stop")  # A request from before does not stop a new start.
    assert worker.execute(run) == "done"


@pytest.mark.usefixtures("quick")
def test_a_wish_left_while_the_process_was_starting_is_heard(config: TrainConfig) -> None:
    run = folder.create(config)
    # As the queue does when it starts a process.
    run.set_status(state="running", **queue.identity())
    run.ask("pause")
    assert worker.execute(run) == "paused" and run.status()["batch"] == 0
    assert worker.execute(run) == "done"


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_the_heartbeat_says_where_the_training_is(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "HEARTBEAT", 0.0)
    seen: list[dict[str, Any]] = []
    whole = Run.set_status
    monkeypatch.setattr(
        Run, "set_status", lambda self, **changes: (seen.append(changes), whole(self, **changes))[1]
    )
    run = whole_run(dataclasses.replace(config, epochs=6))
    phases = [beat["phase"] for beat in seen if beat.get("phase")]
    assert phases[0] == "train" and "validate" in phases and phases[-1] == "evaluate"
    steps = [(beat["epoch"], beat["batch"]) for beat in seen if beat.get("phase") == "train"]
    assert steps == [(epoch, batch) for epoch in range(6) for batch in (0, 1)]
    tested = [(beat["batch"], beat["batches"]) for beat in seen if beat.get("phase") == "evaluate"]
    assert tested[0][0] == 0 and tested[-1][0] > 0 and len({total for _, total in tested}) == 1
    assert [images for images, _ in tested] == sorted(images for images, _ in tested)
    etas = [beat["eta"] for beat in seen if beat.get("phase") == "train"]
    assert etas[:5] == [None] * 5 and etas[-1] is not None  # An estimate needs five steps.
    assert run.status()["phase"] == "" and run.status()["eta"] is None


def test_the_estimate_is_the_median_step_times_the_steps_left() -> None:
    beat = worker._Heartbeat(Run(Path("nowhere")), n_val=1, n_test=1)
    beat.validating = 0.0
    beat.steps.extend([2.0, 2.0, 1.0, 90.0])
    # 2 steps of this epoch and 4 of the next.
    now = loop.Tick(epoch=1, epochs=3, batch=2, batches=4, phase="train")
    assert beat.eta(now) is None
    beat.steps.append(2.0)
    assert beat.eta(now) == 12.0


# Errors.


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (MemoryError(), "memory is full"),
        (RuntimeError("odd\nthing"), "Unexpected RuntimeError"),
        (UserError("Clear words."), "Clear words."),
        (type("OutOfMemoryError", (RuntimeError,), {})("cuda"), "GPU's memory is full"),
        (OSError(errno.ENOSPC, "full"), "disk is full"),
    ],
    ids=["memory", "unexpected", "user", "gpu memory", "disk"],
)
def test_whatever_goes_wrong_is_written_down_as_a_sentence(
    raised: Exception, words: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(Standard, "loss", fail)
        run = folder.create(dataclasses.replace(config, method="standard"))
        with pytest.raises(UserError, match=words):
            worker.execute(run)
    assert run.status()["state"] == "failed" and words in run.status()["error"]
    assert worker.execute(run) == "done"  # The run can be resumed.
    assert run.status()["error"] == ""


@pytest.mark.usefixtures("quick")
def test_ctrl_c_leaves_the_run_interrupted(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Standard, "loss", interrupt)
    run = folder.create(dataclasses.replace(config, method="standard"))
    with pytest.raises(KeyboardInterrupt):
        worker.execute(run)
    assert run.status()["state"] == "interrupted"


@pytest.mark.usefixtures("quick")
def test_a_training_that_diverges_says_so_in_its_folder(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Standard, "loss", lambda self, net, batch, aux: {"ce": net(batch.x).sum() * float("nan")}
    )
    run = folder.create(dataclasses.replace(config, method="standard"))
    with pytest.raises(UserError, match="NaN"):
        worker.execute(run)
    assert run.status()["state"] == "failed" and "lower learning rate" in run.status()["error"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("where", ["config.json", "state/state.safetensors"])
def test_a_damaged_folder_is_refused_in_one_sentence(
    where: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder.create(config)
    monkeypatch.setattr(worker, "HEARTBEAT", 0.0)
    worker.execute(run, lambda line: run.ask("pause") if line.startswith("epoch") else None)
    (run.path / where).write_bytes(b"{")
    with pytest.raises(UserError, match="damaged") as caught:
        worker.execute(Run(run.path))
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "where",
    [
        "status.json",
        "control.json",
        "metrics.jsonl",
        "net.safetensors",
        "last.safetensors",
        "live.npz",
    ],
)
def test_damage_to_what_people_read_is_repaired_by_a_resume(
    where: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome(whole_run(config, name="whole"))
    run = folder.create(config, name="hurt")
    with monkeypatch.context() as patch:
        patch.setattr(worker, "HEARTBEAT", 0.0)
        assert (
            worker.execute(run, lambda line: run.ask("pause") if line.startswith("epoch") else None)
            == "paused"
        )
    (run.path / where).write_bytes(b'{"state": "ru')
    assert worker.execute(run) == "done"
    assert outcome(run) == expected


@pytest.mark.long
def test_two_processes_do_not_write_one_run(runs_home: Path, config: TrainConfig) -> None:
    run = folder.create(config)
    with run.locked(), pytest.raises(UserError, match="another process"):
        worker.execute(Run(run.path))
    assert run.status()["state"] == "queued"  # The process that was refused did not write either.


def test_usage_and_unknown_runs_have_their_exit_status(
    runs_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worker.main([]) == 2 and worker.main(["gone"]) == 1
    assert "usage" in (said := capsys.readouterr().err) and "gone" in said


@pytest.mark.usefixtures("quick")
def test_the_log_has_the_details_that_the_sentence_promises(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def odd(*args: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(Standard, "loss", odd)
    run = folder.create(dataclasses.replace(config, method="standard"))
    assert worker.main([run.id]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("Unexpected RuntimeError: odd")
    said = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "Traceback" in said and "in odd" in said


@pytest.mark.long
def test_what_a_killed_process_left_half_written_is_swept(
    config: TrainConfig, runs_home: Path
) -> None:
    run = folder.create(config)
    litter = run.path / "state" / ".state.safetensors.1-2.tmp"
    litter.parent.mkdir()
    litter.write_bytes(b"half")
    worker.execute(run)
    assert not litter.exists() and (run.path / "state" / "state.safetensors").exists()


# Real processes, really killed.


def start(run: Run) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "robustviz.runs.worker", str(run.path)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def killed(run: Run, moment: Callable[[], bool]) -> None:
    process = start(run)
    try:
        patience = time.monotonic() + 250
        while not moment():
            assert process.poll() is None and time.monotonic() < patience, (
                "it ended before the kill"
            )
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert (
        process.returncode == (1 if os.name == "nt" else -signal.SIGKILL)
        and run.status()["state"] == "running"
    )
    queue.sweep()
    assert run.status()["state"] == "interrupted" and "resume" in run.status()["error"]


def killed_and_resumed(config: TrainConfig, *moments: Callable[[Run], bool]) -> None:
    run = folder.create(config, name="killed")
    for moment in moments:
        killed(run, lambda moment=moment: moment(run))
    assert worker.execute(run) == "done"
    assert outcome(run) == outcome(whole_run(config, name="whole"))


def finished(epochs: int) -> Callable[[Run], bool]:
    return lambda run: len(run.records()) >= epochs


@pytest.fixture
def long(runs_home: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Returns a training that takes a second in another process, which knows only registered
    networks.
    """
    monkeypatch.setattr(evaluate, "examine", lambda *a, **k: ())
    return dataclasses.replace(config, epochs=6, net="small_resnet")


@pytest.mark.slow
def test_a_real_kill_is_made_good_by_a_resume(long: TrainConfig) -> None:
    killed_and_resumed(long, lambda run: run.status().get("phase") == "train", finished(2))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["standard", "trades", "pgd_at"])
@pytest.mark.parametrize("epochs", [1, 4])
def test_a_real_kill_at_other_moments_is_made_good_too(
    method: str, epochs: int, long: TrainConfig
) -> None:
    killed_and_resumed(dataclasses.replace(long, method=method, ema=0.9), finished(epochs))


@pytest.mark.slow
def test_a_real_kill_while_weights_are_written_is_made_good_too(long: TrainConfig) -> None:
    run_folder = folder.home() / "killed"
    killed_and_resumed(
        long,
        lambda run: bool(list(run_folder.rglob(".*.tmp"))) and len(run.records()) > 0,
        lambda run: (run_folder / "eval.json").exists() or run.status().get("phase") == "evaluate",
    )
