"""What is told of a training as it goes: `train_run(config, callbacks=[TensorBoard()])`.

A callback is any object with the three functions of `Callback`; subclass that and write those you
want.
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
    """Told when a training begins or goes on, after each epoch, and when it ends."""

    def on_begin(self, run: Run) -> None:
        """Before the first epoch here; of a run that is resumed that is not its first."""

    def on_epoch(self, run: Run, record: EpochRecord) -> Answer | None:
        """After an epoch, which is written down. "pause" or "stop" ends the training here; it can
        be resumed.
        """

    def on_end(self, run: Run, state: str) -> None:
        """It is `done`, and evaluated on the test split, or `paused` or `stopped`."""


def told(callback: Callback, event: str, *facts: object) -> Answer | None:
    """Call `callback.<event>(*facts)`. Raises UserError that says whose fault it was where it
    raises.
    """
    try:
        answer = getattr(callback, event)(*facts)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The callback {type(callback).__name__} failed in {event}: {type(error).__name__}:"
            f" {error}. What was trained is kept; mend it and train the same config again."
        ) from error
    if answer not in (None, "go", "pause", "stop"):
        raise UserError(
            f"The callback {type(callback).__name__} answered {answer!r} in {event}: pause, stop,"
            " go or nothing is meant."
        )
    return answer  # type: ignore[no-any-return]


class AfterEpoch(Callback):
    """Calls a function with each epoch's record; what it returns counts as the answer."""

    def __init__(self, do: Callable[[EpochRecord], Answer | None]) -> None:
        self.do = do

    def on_epoch(self, run: Run, record: EpochRecord) -> Answer | None:
        return self.do(record)


class TensorBoard(Callback):
    """Writes each epoch's losses and validation accuracies, and the accuracies on the test split at
    the end, as scalars for TensorBoard.

    `folder`: where to; None: `tensorboard` in the run's folder. Look at them with
    `tensorboard --logdir FOLDER`. Raises UserError where the package tensorboard is missing.
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
