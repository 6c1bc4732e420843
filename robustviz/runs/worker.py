"""The worker trains a run from its config to its evaluation, and can be killed at any time. The app
starts `python -m robustviz.runs.worker RUN`; the command line calls `execute` in its own process.
The order in which files are written makes a kill harmless: first weights, then the saved state that
refers to them, then the files that people read.
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
from robustviz.training.progress import ANSWERS, Answer, Tick, tolerance_note
from robustviz.training.world import ALONE, World, reports_errors
from robustviz.types import UserError

if TYPE_CHECKING:
    from robustviz.training.loop import Training

HEARTBEAT = 1.0  # seconds between two writes of the status, and two checks for requests
WINDOW = 20  # batches whose median time is used to estimate the time left
STATES: dict[str, State] = {"done": "done", "pause": "paused", "stop": "stopped"}

Say = Callable[[str], object]


def execute(
    run: Run, say: Say = lambda line: None, world: World = ALONE, callbacks: Sequence[Callback] = ()
) -> str:
    """Train `run` from its current position to the end and evaluate it; returns the state it ended
    in: done, paused or stopped. `callbacks` are called during the training, `say` with each line of
    its output. A run that is already done or imported is left unchanged, and "done" is returned.

    In a `world` of several processes all of them call this; the first one writes and evaluates, and
    the others return when the training ends. Raises UserError if another process writes the run,
    and for any error of the training, after writing it into the run's status. After Ctrl-C the
    state is `interrupted`, and KeyboardInterrupt is passed on.
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
    """Returns an error as a sentence for a person, if possible with what to do. For unknown errors
    the traceback is appended to log.txt.
    """
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
            "Another process of this training ended unexpectedly; resume continues from the last"
            " finished epoch.",
        ),
    ):
        if applies:
            return sentence
    with contextlib.suppress(OSError), open(run.path / "log.txt", "a", encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    if line := plugins.line_of(error):
        return f"{type(error).__name__} in {line}: {error}. The details are in log.txt."
    return (
        f"Unexpected {type(error).__name__}: {error}. The details are in log.txt; please report it."
    )


def _begin(run: Run, status: Status) -> None:
    # left by a process that was killed while writing; nobody else writes now
    for litter in run.path.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            litter.unlink()
    # An old request no longer counts, but one made since the queue started this process does.
    if (status["state"], status["pid"]) != ("running", os.getpid()):
        run.ask("")
    run.set_status(state="running", error="", note="", heartbeat=time.time(), **queue.identity())


def _fail(run: Run, sentence: str, state: State = "failed") -> None:
    # if the disk is full, the missing heartbeat shows that the run failed
    with contextlib.suppress(UserError):
        if reports_errors():
            run.set_status(state=state, error=sentence)


def _training(run: Run, world: World) -> tuple[Training, bool]:
    """Returns (training, resumed): the run's training, restored to its saved position if there is
    one, and whether there was one.
    """
    from robustviz.training.loop import Training

    training, state = Training(run.config, world), run.load_state()
    if state is not None:
        training.restore(*state)
    return training, state is not None


def _follow(run: Run, world: World) -> str:
    """Do the work of all processes but the first: take part in every step, and write nothing.
    Returns the state in which the training ended: done, paused or stopped.
    """
    training, _ = _training(run, world)
    deque(training.epochs(), maxlen=0)
    world.leave()
    return STATES[training.ended]


def _work(run: Run, say: Say, world: World, callbacks: Sequence[Callback]) -> str:
    training, resumed = _training(run, world)
    describe(run, training)
    for each in callbacks:
        told(each, "on_begin", run)
    if world.size > 1:
        say(
            f"{world.size} processes share every batch; batch norm sees the part of its process"
            + (
                ", and so does the loss, which compares images of a batch"
                if training.method.compares
                else ""
            )
        )
    if resumed:
        _take_up(run, training, say)
    beat = _Heartbeat(run, n_val=len(training.val), n_test=_tested(run))
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
            answer = told(each, "on_epoch", run, record) or "go"
            beat.wish = max(beat.wish, answer, key=ANSWERS.index)
    world.leave()
    ended = (
        _finish(run, training, beat, say) if training.ended == "done" else _rest(run, training, say)
    )
    for each in callbacks:
        told(each, "on_end", run, ended)
    return ended


def _take_up(run: Run, training: Training, say: Say) -> None:
    """Say if a resumed training may differ from an uninterrupted one, and rewrite the files that
    people read from the saved state, which is the valid one: a kill may have come after the state
    was written and before those files were.
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
    """Save a training that the person paused or stopped, and return `paused` or `stopped`."""
    run.save_state(*training.state())
    run.ask("")
    ended = STATES[training.ended]
    run.set_status(
        state=ended, heartbeat=time.time(), epoch=training.epoch, batch=training.batch, eta=None
    )
    say(f"{ended} in epoch {training.epoch + 1}, before batch {training.batch + 1}")
    return ended


def _tested(run: Run) -> int:
    """Returns the number of test images on which the run is evaluated in the end."""
    from robustviz.data import load

    n = len(load(run.config.data, "test"))
    return min(n, run.config.test_n or n)


def _finish(run: Run, training: Training, beat: _Heartbeat, say: Say) -> str:
    """Evaluate a completed training, mark its run as done, and return "done". If it stopped early,
    the run gets a note that says so. During the evaluation the status counts images as `batch` and
    `batches`.
    """
    from robustviz.training.evaluate import evaluate, seen

    n, ticks = beat.n_test, itertools.count()

    def look() -> None:
        beat.last = 0.0  # write every tick: they are few, and seconds apart
        images, every = seen(next(ticks), n)
        beat(Tick(training.epoch, int(run.config.epochs or 1), images, every, "validate"))

    beat.phase = "evaluate"
    if training.epoch < int(run.config.epochs or 1):
        count = run.config.patience
        epochs = f"{count} epoch{'s' * (count > 1)}"
        note = f"Stopped early: no better validation accuracy in {epochs}."
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
    """Write into config.json what a reader needs to build the network without the data set: the
    number and names of the classes, and the channels and size of the images. The device is written
    too, and the number of processes if several train. If `images` is there already, nothing is
    written.
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
    # Rewritten, not appended: a resume may go back behind an epoch that is already listed.
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
    """A callback that is called before every step, and during validation and evaluation. It returns
    `wish`, what another callback asked for, if that is not "go". Else it returns "pause" or "stop"
    if a person asked for that, and "go" otherwise. Once a second it looks for such a request and
    writes the position into the run's status. `n_val`, `n_test`: the numbers of validation and test
    images, for the estimate of the time left.
    """

    run: Run
    n_val: int
    n_test: int
    last: float = 0.0
    wish: Answer = "go"
    before: float | None = None
    began: float | None = None  # when the last step began
    steps: deque[float] = field(default_factory=functools.partial(deque, maxlen=WINDOW))
    validating: float | None = None  # seconds; None until an epoch is done
    phase: str = ""

    def __call__(self, tick: Tick) -> Answer:
        now = time.perf_counter()
        if tick.phase == "train" and self.before is not None:
            self.steps.append(now - self.before)
        self.before = now if tick.phase == "train" else None
        self.began = self.before or self.began
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
        """Store in `validating` how many seconds an epoch takes beyond its training steps."""
        if self.steps and self.began is not None:
            spent = time.perf_counter() - self.began
            self.validating = max(0.0, spent - statistics.median(self.steps))
        self.before = None

    def eta(self, tick: Tick) -> float | None:
        """Returns the estimated number of seconds left, including the final evaluation; None before
        an epoch and five steps are done. It is computed from the median time of the last steps and
        from the time of the last validation, which runs PGD-10.
        """
        from robustviz.training.evaluate import left

        if self.validating is None or len(self.steps) < 5 or not tick.batches:
            return None
        image = self.validating / self.n_val
        if self.phase:  # the final evaluation
            return round(image * left(tick.batch, self.n_test), 1)
        epochs = tick.epochs - tick.epoch
        steps = epochs * tick.batches - tick.batch
        tests = self.validating * epochs + image * left(0, self.n_test)
        return round(statistics.median(self.steps) * steps + tests, 1)


def main(argv: list[str] | None = None) -> int:
    """Train the run whose folder or id is the only argument, then start the next queued runs.
    Returns the exit status: 0 for success, 1 for an error, which is also in the run's status, 2 for
    wrong usage.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m robustviz.runs.worker RUN", file=sys.stderr)
        return 2
    # Wait until the process that started this one has written its status line, so that it cannot
    # overwrite ours.
    with queue.queue_lock():
        pass
    plugins.load_all()
    try:
        # `look_up` does not check the settings, so that errors in them go into the run's status
        execute(look_up(arguments[0]), lambda line: print(line, flush=True))
        return 0
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    finally:
        queue.pump()


if __name__ == "__main__":
    # Leave priority to the page that shows the run: nice 5. This process also starts the next
    # worker, which inherits the value, so it is raised to 5 and not by 5.
    if hasattr(os, "nice"):
        os.nice(max(0, 5 - os.nice(0)))
    leave_out_triton()
    raise SystemExit(main())
