"""The process behind a training: it moves a run folder from its config to its evaluation, and can
be killed anywhere.

`python -m robustviz.runs.worker RUN` is what the app starts; the command line calls `execute` in
its own process. The order of writes is what makes a kill harmless: weights, then the state that
says they count, then what people read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import statistics
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from robustviz.process import leave_out_triton
from robustviz.runs import queue
from robustviz.runs.folder import OVER, Run, open_run, to_bytes, versions, write_file
from robustviz.training.world import ALONE, World, reports_errors
from robustviz.types import JSON, UserError

HEARTBEAT = 1.0  # seconds between two looks at the person's wishes and two status lines
WINDOW = 20  # batches whose median time the estimate rests on

Say = Callable[[str], None]


def execute(run: Run, say: Say = lambda line: None, world: World = ALONE) -> str:
    """Train `run` from where it is to its end and evaluate it; the state it ended in: done, paused
    or stopped.

    In a `world` of several processes all of them call this; the first one writes and evaluates, the
    others are done when the training is. Raises UserError, after writing it into the run's status,
    for anything a person can act on. A run that is done already is left alone.
    """
    with run.locked() if world.main else contextlib.nullcontext():
        status = run.status()
        if status.get("state") in OVER:
            return "done"
        with world.main_first():
            if world.main:
                _begin(run, status)
        try:
            return _work(run, say, world) if world.main else _follow(run, world)
        except UserError as error:
            _fail(run, str(error))
            raise
        except MemoryError as error:
            raise _failed(
                run, "The memory is full; train with a smaller batch_size or fewer images."
            ) from error
        except KeyboardInterrupt:
            if reports_errors():
                run.set_status(
                    state="interrupted",
                    error=(
                        "Interrupted from the keyboard; resume goes on from the last finished"
                        " epoch."
                    ),
                )
            raise
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":  # torch's, for a GPU
                raise _failed(
                    run,
                    "The GPU's memory is full; retry with half the batch_size, or with device cpu.",
                ) from error
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise _failed(
                    run, "The disk is full; free some space and resume the run."
                ) from error
            if world.lost(error):
                raise _failed(
                    run,
                    "Another process of this training ended without a word; resume goes on from the"
                    " last finished epoch.",
                ) from error
            with (
                contextlib.suppress(OSError),
                open(run.path / "log.txt", "a", encoding="utf-8") as log,
            ):
                traceback.print_exception(error, file=log)
            raise _failed(
                run,
                f"Unexpected {type(error).__name__}: {error}. The details are in log.txt; please"
                " report it.",
            ) from error


def _begin(run: Run, status: JSON) -> None:
    for litter in run.path.rglob(
        ".*.tmp"
    ):  # of a process that was killed while it wrote; nobody else writes now
        with contextlib.suppress(OSError):
            litter.unlink()
    # An old wish is none; but one that was left since the queue started this process counts.
    if status.get("state") != "running" or status.get("pid") != os.getpid():
        run.ask("")
    run.set_status(state="running", error="", note="", heartbeat=time.time(), **queue.identity())


def _failed(run: Run, sentence: str) -> UserError:
    _fail(run, sentence)
    return UserError(sentence)


def _fail(run: Run, sentence: str) -> None:
    if reports_errors():
        with contextlib.suppress(
            UserError
        ):  # the disk may be full: then the missing heartbeat tells
            run.set_status(state="failed", error=sentence)


def _follow(run: Run, world: World) -> str:
    """What all processes but the first do: take part in every step, and write nothing."""
    from robustviz.training.loop import Training

    training = Training(run.config, world)
    state = run.load_state()
    if state is not None:
        training.restore(*state)
    for _ in training.epochs():
        pass
    world.leave()
    return str(training.ended)


def _work(run: Run, say: Say, world: World) -> str:
    from robustviz.training.evaluate import evaluate
    from robustviz.training.loop import Tick, Training, tolerance_note

    config = run.config
    training = Training(config, world)
    describe(run, training)
    if world.size > 1:
        compares = (
            ", and so does the loss, which compares images of a batch"
            if training.method.compares
            else ""
        )
        say(f"{world.size} processes share every batch; batch norm sees each one's part{compares}")
    state = run.load_state()
    if state is not None:
        training.restore(*state)
        then = {"processes": 1} | run.info.get("versions", {}) | {"device": config.device}
        note = tolerance_note(
            then, versions() | {"device": training.config.device, "processes": world.size}
        )
        if note:
            say(note)
        run.set_status(note=note)
        # A kill may have fallen between the state and what people read; the state is what counts.
        write_file(
            run.path / "metrics.jsonl", b"".join(_line(record) for record in training.records)
        )
        if training.best:
            run.save_weights("net.safetensors", training.best)
    beat = _Heartbeat(run)
    for record in training.epochs(beat):
        _save(run, training)
        beat.epoch_done(record.seconds)
        terms = " ".join(f"{name} {value:.3f}" for name, value in record.losses.items())
        say(
            f"epoch {record.epoch:>3}/{config.epochs}  {terms}  clean {record.clean_acc:.3f} "
            f" robust {record.robust_acc:.3f} (PGD-10, n={record.n_val}, validation) "
            f" {record.seconds:.1f} s"
        )
    world.leave()
    if training.ended != "done":
        run.save_state(*training.state())
        run.ask("")
        ended = "paused" if training.ended == "pause" else "stopped"
        run.set_status(
            state=ended, heartbeat=time.time(), epoch=training.epoch, batch=training.batch, eta=None
        )
        say(f"{ended} in epoch {training.epoch + 1}, before batch {training.batch + 1}")
        return ended
    tick = Tick(training.epoch, int(config.epochs or 1), 0, 0, "validate")
    beat.phase = "evaluate"
    found = evaluate(run, device=training.config.device, tick=lambda: beat(tick))
    say(
        f"test: clean {found.clean_acc:.4f}, {found.printed} {found.robust_acc:.4f} (eps"
        f" {found.eps:.4f}, n={found.n})"
    )
    seconds = sum(record["seconds"] for record in training.records) + found.seconds
    run.set_status(
        state="done",
        heartbeat=time.time(),
        epoch=training.epoch,
        eta=None,
        phase="",
        seconds=round(seconds, 3),
    )
    return "done"


def describe(run: Run, training: Any) -> None:
    """Write what the images are like into config.json, once: a reader then needs no data set to
    build the net.
    """
    if "images" not in run.info:
        images = {
            "classes": len(training.classes),
            "channels": int(training.images.shape[1]),
            "size": int(training.images.shape[-1]),
            "names": list(training.classes),
        }
        made = run.info.get("versions", {}) | (
            {"processes": training.world.size} if training.world.size > 1 else {}
        )
        write_file(
            run.path / "config.json",
            to_bytes(
                run.info | {"images": images, "device": training.config.device, "versions": made}
            ),
        )
        del run.info


def _line(record: dict[str, Any]) -> bytes:
    import json

    return json.dumps(record).encode() + b"\n"


def _save(run: Run, training: Any) -> None:
    if training.best_epoch == training.epoch:
        run.save_weights("net.safetensors", training.best)
    weights = training.judged.state_dict()
    run.save_weights("last.safetensors", weights)
    every = training.config.snapshots
    if every and (training.epoch % every == 0 or training.epoch == training.config.epochs):
        half = {
            name: value.half() if value.is_floating_point() else value
            for name, value in weights.items()
        }
        run.save_weights(f"snapshots/epoch-{training.epoch:04d}.safetensors", half)
    run.save_state(*training.state())
    # Whole, not appended: a resume may take back an epoch that a torn write had announced.
    write_file(run.path / "metrics.jsonl", b"".join(_line(record) for record in training.records))
    strip = io.BytesIO()
    np.savez(strip, **asdict(training.strip()))
    write_file(run.path / "live.npz", strip.getvalue())


class _Heartbeat:
    """Asked before every step: once a second it writes where the training is and reads what the
    person wants.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.last = 0.0
        self.before: float | None = None
        self.steps: deque[float] = deque(maxlen=WINDOW)
        self.validating = 0.0
        self.phase = ""

    def __call__(self, tick: Any) -> Any:
        now = time.perf_counter()
        if tick.phase == "train":
            if self.before is not None:
                self.steps.append(now - self.before)
            self.before = now
        else:
            self.before = None
        if now - self.last < HEARTBEAT:
            return "go"
        self.last = now
        self.run.set_status(
            heartbeat=time.time(),
            epoch=tick.epoch,
            epochs=tick.epochs,
            batch=tick.batch,
            batches=tick.batches,
            phase=self.phase or tick.phase,
            eta=self.eta(tick),
        )
        return self.run.wanted() or "go"

    def epoch_done(self, seconds: float) -> None:
        """Learn what an epoch costs beyond its steps."""
        if self.steps:
            self.validating = max(0.0, time.perf_counter() - (self.before or time.perf_counter()))
        self.before = None

    def eta(self, tick: Any) -> float | None:
        """Seconds left by the median of the last steps; None before five of them."""
        if len(self.steps) < 5 or not tick.batches:
            return None
        left = (tick.epochs - tick.epoch) * tick.batches - tick.batch
        return round(
            statistics.median(self.steps) * left + self.validating * (tick.epochs - tick.epoch + 1),
            1,
        )


def main(argv: list[str] | None = None) -> int:
    """Run one job and then start the next in the queue. The exit status says how it went; the run
    folder says more.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m robustviz.runs.worker RUN", file=sys.stderr)
        return 2
    # Wait until whoever started this process has written that it did, so that its status line
    # cannot undo ours.
    with queue.queue_lock():
        pass
    try:
        run = open_run(Path(arguments[0]) if os.sep in arguments[0] else arguments[0])
        execute(run, lambda line: print(line, flush=True))
        return 0
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    finally:
        queue.pump()


if __name__ == "__main__":
    if hasattr(
        os, "nice"
    ):  # the page that watches goes first; the next in the queue is started from here, and no nicer
        os.nice(max(0, 5 - os.nice(0)))
    leave_out_triton()
    raise SystemExit(main())
