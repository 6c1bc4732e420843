"""The process behind a training: it moves a run folder from its config to its evaluation, and can
be killed anywhere.

`python -m robustviz.runs.worker RUN` is what the app starts; the command line calls `execute` in
its own process. The order of writes is what makes a kill harmless: weights, then the state that
says they count, then what people read.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import json
import os
import statistics
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from robustviz import plugins
from robustviz.callbacks import Callback, told
from robustviz.process import leave_out_triton
from robustviz.runs import queue
from robustviz.runs.files import to_bytes, write_file
from robustviz.runs.folder import Run, look_up, versions
from robustviz.runs.inside import OVER, State, Status
from robustviz.training.progress import Answer, Tick, tolerance_note
from robustviz.training.world import ALONE, World, reports_errors
from robustviz.types import UserError

if TYPE_CHECKING:
    from robustviz.training.loop import Training

HEARTBEAT = 1.0  # seconds between two looks at the person's wishes and two status lines
WINDOW = 20  # batches whose median time the estimate rests on

Say = Callable[[str], object]


def execute(
    run: Run, say: Say = lambda line: None, world: World = ALONE, callbacks: Sequence[Callback] = ()
) -> str:
    """Train `run` from where it is to its end and evaluate it; the state it ended in: done, paused
    or stopped. `callbacks` are told how it goes.

    In a `world` of several processes all of them call this; the first one writes and evaluates, the
    others are done when the training is. Raises UserError, after writing it into the run's status,
    for anything a person can act on. A run that is done already is left alone.
    """
    with run.locked() if world.main else contextlib.nullcontext():
        status = run.status()
        if status["state"] in OVER:
            return "done"
        with world.main_first():
            if world.main:
                _begin(run, status)
        try:
            return _work(run, say, world, callbacks) if world.main else _follow(run, world)
        except KeyboardInterrupt:
            _fail(
                run,
                "Interrupted from the keyboard; resume goes on from the last finished epoch.",
                "interrupted",
            )
            raise
        except Exception as error:
            sentence = _sentence(run, error, world)
            _fail(run, sentence)
            if isinstance(error, UserError):
                raise
            raise UserError(sentence) from error


def _sentence(run: Run, error: Exception, world: World) -> str:
    """What a person can do about an error; where that is not known, the details go to log.txt."""
    for applies, sentence in (
        (isinstance(error, UserError), str(error)),
        (
            isinstance(error, MemoryError),
            "The memory is full; train with a smaller batch_size or fewer images.",
        ),
        (
            type(error).__name__ == "OutOfMemoryError",  # torch's, for a GPU
            "The GPU's memory is full; retry with half the batch_size, or with device cpu.",
        ),
        (
            isinstance(error, OSError) and error.errno == errno.ENOSPC,
            "The disk is full; free some space and resume the run.",
        ),
        (
            world.lost(error),
            "Another process of this training ended without a word; resume goes on from the last"
            " finished epoch.",
        ),
    ):
        if applies:
            return sentence
    with contextlib.suppress(OSError), open(run.path / "log.txt", "a", encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    return (
        f"Unexpected {type(error).__name__}: {error}. The details are in log.txt; please report it."
    )


def _begin(run: Run, status: Status) -> None:
    # of a process that was killed while it wrote; nobody else writes now
    for litter in run.path.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            litter.unlink()
    # An old wish is none; but one that was left since the queue started this process counts.
    if (status["state"], status["pid"]) != ("running", os.getpid()):
        run.ask("")
    run.set_status(state="running", error="", note="", heartbeat=time.time(), **queue.identity())


def _fail(run: Run, sentence: str, state: State = "failed") -> None:
    # the disk may be full: then the missing heartbeat tells
    with contextlib.suppress(UserError):
        if reports_errors():
            run.set_status(state=state, error=sentence)


def _training(run: Run, world: World) -> tuple[Training, bool]:
    """The run's training where it was left off, and whether it was."""
    from robustviz.training.loop import Training

    training, state = Training(run.config, world), run.load_state()
    if state is not None:
        training.restore(*state)
    return training, state is not None


def _follow(run: Run, world: World) -> str:
    """What all processes but the first do: take part in every step, and write nothing."""
    training, _ = _training(run, world)
    deque(training.epochs(), maxlen=0)
    world.leave()
    return training.ended


def _work(run: Run, say: Say, world: World, callbacks: Sequence[Callback]) -> str:
    training, resumed = _training(run, world)
    describe(run, training)
    for each in callbacks:
        told(each, "on_begin", run)
    if world.size > 1:
        say(
            f"{world.size} processes share every batch; batch norm sees each one's part"
            + (
                ", and so does the loss, which compares images of a batch"
                if training.method.compares
                else ""
            )
        )
    if resumed:
        _take_up(run, training, say)
    beat = _Heartbeat(run)
    for record in training.epochs(beat):
        _save(run, training)
        beat.epoch_done()
        terms = " ".join(f"{name} {value:.3f}" for name, value in record.losses.items())
        say(
            f"epoch {record.epoch:>3}/{run.config.epochs}  {terms}  clean {record.clean_acc:.3f} "
            f" robust {record.robust_acc:.3f} (PGD-10, n={record.n_val}, validation) "
            f" {record.seconds:.1f} s"
        )
        for each in callbacks:
            beat.wish = told(each, "on_epoch", run, record) or beat.wish
    world.leave()
    ended = (
        _finish(run, training, beat, say) if training.ended == "done" else _rest(run, training, say)
    )
    for each in callbacks:
        told(each, "on_end", run, ended)
    return ended


def _take_up(run: Run, training: Training, say: Say) -> None:
    """Say whether a resumed training goes on bit for bit, and write what people read of it: a kill
    may have fallen between the state and that; the state is what counts.
    """
    note = tolerance_note(
        {"processes": 1} | run.info.get("versions", {}) | {"device": run.config.device},
        versions() | {"device": training.config.device, "processes": training.world.size},
    )
    if other := plugins.changed(run.info.get("plugins", ())):
        note = f"{note} {other}".strip()
    if note:
        say(note)
    run.set_status(note=note)
    _write_records(run, training)
    if training.best:
        run.save_weights("net.safetensors", training.best)


def _rest(run: Run, training: Training, say: Say) -> str:
    """Keep a training that the person paused or stopped."""
    run.save_state(*training.state())
    run.ask("")
    ended = "paused" if training.ended == "pause" else "stopped"
    run.set_status(
        state=ended, heartbeat=time.time(), epoch=training.epoch, batch=training.batch, eta=None
    )
    say(f"{ended} in epoch {training.epoch + 1}, before batch {training.batch + 1}")
    return ended


def _finish(run: Run, training: Training, beat: _Heartbeat, say: Say) -> str:
    """Evaluate a training that is through. In its status a batch is an image then."""
    from robustviz.data import load
    from robustviz.training.evaluate import evaluate, seen

    n, ticks = len(load(run.config.data, "test")), itertools.count()
    n = min(n, run.config.test_n or n)

    def look() -> None:
        beat.last = 0.0  # there are few, and each is seconds from the next
        images, every = seen(next(ticks), n)
        beat(Tick(training.epoch, int(run.config.epochs or 1), images, every, "validate"))

    beat.phase = "evaluate"
    if training.epoch < int(run.config.epochs or 1):
        count = run.config.patience
        note = f"Stopped early: {count} epoch{'s' * (count > 1)} brought nothing better."
        run.set_status(note=note)
        say(note)
    test = evaluate(run, n=n, device=training.config.device, tick=look)
    say(
        f"test: clean {test.clean_acc:.4f}, {test.printed} {test.robust_acc:.4f} (eps"
        f" {test.eps:.4f}, n={test.n})"
    )
    run.set_status(
        state="done",
        heartbeat=time.time(),
        epoch=training.epoch,
        eta=None,
        phase="",
        seconds=round(sum(record["seconds"] for record in training.records) + test.seconds, 3),
    )
    return "done"


def describe(run: Run, training: Training) -> None:
    """Write what the images are like into config.json, once: a reader then needs no data set to
    build the net.
    """
    if "images" in run.info:
        return
    new = {
        **run.info,
        "images": {
            "classes": len(training.classes),
            "channels": int(training.images.shape[1]),
            "size": int(training.images.shape[-1]),
            "names": list(training.classes),
        },
        "device": training.config.device,
        "versions": run.info.get("versions", {})
        | ({"processes": training.world.size} if training.world.size > 1 else {}),
    }
    write_file(run.path / "config.json", to_bytes(new))
    del run.info


def _write_records(run: Run, training: Training) -> None:
    # Whole, not appended: a resume may take back an epoch that a torn write had announced.
    write_file(
        run.path / "metrics.jsonl",
        "".join(json.dumps(record) + "\n" for record in training.records).encode(),
    )


def _save(run: Run, training: Training) -> None:
    if training.best_epoch == training.epoch:
        run.save_weights("net.safetensors", training.best)
    weights = training.judged.state_dict()
    run.save_weights("last.safetensors", weights)
    every = training.config.snapshots
    if every and (training.epoch % every == 0 or training.epoch == training.config.epochs):
        run.save_weights(
            f"snapshots/epoch-{training.epoch:04d}.safetensors",
            {
                name: value.half() if value.is_floating_point() else value
                for name, value in weights.items()
            },
        )
    run.save_state(*training.state())
    _write_records(run, training)
    strip = io.BytesIO()
    np.savez(strip, **asdict(training.strip()))
    write_file(run.path / "live.npz", strip.getvalue())


@dataclass
class _Heartbeat:
    """Asked before every step: once a second it writes where the training is and reads what the
    person wants.
    """

    run: Run
    last: float = 0.0
    wish: Answer = "go"
    before: float | None = None
    steps: deque[float] = field(default_factory=functools.partial(deque, maxlen=WINDOW))
    validating: float = 0.0
    phase: str = ""

    def __call__(self, tick: Tick) -> Answer:
        now = time.perf_counter()
        if tick.phase == "train" and self.before is not None:
            self.steps.append(now - self.before)
        self.before = now if tick.phase == "train" else None
        if self.wish != "go":
            return self.wish
        if now - self.last < HEARTBEAT:
            return "go"
        self.last = now
        self.run.set_status(
            **asdict(tick) | {"phase": self.phase or tick.phase},
            heartbeat=time.time(),
            eta=self.eta(tick),
        )
        return self.run.wanted() or "go"

    def epoch_done(self) -> None:
        """Learn what an epoch costs beyond its steps."""
        if self.steps:
            self.validating = max(0.0, time.perf_counter() - (self.before or time.perf_counter()))
        self.before = None

    def eta(self, tick: Tick) -> float | None:
        """Seconds left by the median of the last steps; None before five of them."""
        if len(self.steps) < 5 or not tick.batches or self.phase:
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
    plugins.load_all()
    try:
        # what is wrong with its settings goes into its status
        execute(look_up(arguments[0]), lambda line: print(line, flush=True))
        return 0
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    finally:
        queue.pump()


if __name__ == "__main__":
    # the page that watches goes first; the next in the queue is started from here, and no nicer
    if hasattr(os, "nice"):
        os.nice(max(0, 5 - os.nice(0)))
    leave_out_triton()
    raise SystemExit(main())
