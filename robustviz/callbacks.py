"""Callbacks for trainings, as in `train_run(config, callbacks=[TensorBoard()])`.

A callback is an instance of a subclass of `Callback`, which overrides the methods it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from robustviz.imports import load
from robustviz.training.progress import Answer
from robustviz.types import UserError

if TYPE_CHECKING:
    from robustviz.runs.folder import Run
    from robustviz.training.progress import EpochRecord


class Callback:
    """Base class of callbacks, which are called when a training begins or resumes, after each
    epoch, and when the training ends. By default nothing happens. For a run that is already
    finished nothing is called.
    """

    def on_begin(self, run: Run) -> None:
        """Called before the first epoch that this call trains; in a resumed run that is not the
        run's first epoch.
        """

    def on_epoch(self, run: Run, record: EpochRecord) -> Answer | None:
        """Called after each epoch, once its record is saved. Return "pause" or "stop" to end the
        training here (it can be resumed later), "go" or None to continue. After the last epoch the
        answer has no effect.
        """

    def on_end(self, run: Run, state: str) -> None:
        """Called when the training ends, but not when it fails or is interrupted with Ctrl-C.
        `state` is "done" (the run has then already been evaluated on the test split), "paused" or
        "stopped".
        """


def told(callback: Callback, event: str, *facts: object) -> Answer | None:
    """Call the method named `event` of `callback` with the arguments `facts`, and return what it
    returns: "go", "pause", "stop" or None.

    Raises UserError if the method returns anything else or raises an exception; the message names
    the callback and the method. A UserError that the method raises is passed on unchanged.
    """
    try:
        answer = getattr(callback, event)(*facts)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The callback {type(callback).__name__} failed in {event}: {type(error).__name__}:"
            f" {error}. The training so far is saved: fix the callback and train the same config"
            " again."
        ) from error
    if answer not in (None, "go", "pause", "stop"):
        raise UserError(
            f"The callback {type(callback).__name__} returned {answer!r} from {event}:"
            ' return "go", "pause", "stop" or None.'
        )
    return answer  # type: ignore[no-any-return]


class AfterEpoch(Callback):
    """A callback that calls `do` with the record after each epoch and passes on its answer: "go",
    "pause", "stop" or None.
    """

    def __init__(self, do: Callable[[EpochRecord], Answer | None]) -> None:
        self.do = do

    def on_epoch(self, run: Run, record: EpochRecord) -> Answer | None:
        return self.do(record)


class TensorBoard(Callback):
    """A callback that writes each epoch's losses, validation accuracies, learning rate and duration
    as scalars for TensorBoard, and the test accuracies at the end of a completed training.

    `folder`: where to write; None: `tensorboard` in the run's folder. View the scalars with
    `tensorboard --logdir FOLDER`. Creating the object raises UserError if the package tensorboard
    is not installed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder
        try:
            self._make = load("tensorboard.summary").Writer
        except ImportError as error:
            raise UserError(
                "TensorBoard needs its own package: install it with pip install tensorboard."
            ) from error

    def on_begin(self, run: Run) -> None:
        self._writer = self._make(str(self.folder or run.path / "tensorboard"))

    def on_epoch(self, run: Run, record: EpochRecord) -> None:
        for name, value in {
            **{f"loss/{name}": value for name, value in record.losses.items()},
            "validation/clean_acc": record.clean_acc,
            "validation/robust_acc": record.robust_acc,
            "training/lr": record.lr,
            "training/seconds": record.seconds,
        }.items():
            self._writer.add_scalar(name, value, step=record.epoch)
        self._writer.flush()

    def on_end(self, run: Run, state: str) -> None:
        test = run.evaluation()
        if state == "done" and test is not None:
            step = len(run.records())
            self._writer.add_scalar("test/clean_acc", test.clean_acc, step=step)
            self._writer.add_scalar("test/robust_acc", test.robust_acc, step=step)
        self._writer.close()
