"""`train_run`: trains in the current process, from Python, into a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from robustviz.callbacks import AfterEpoch, Callback
from robustviz.runs import queue, worker
from robustviz.runs.folder import Run, find_run
from robustviz.training.config import TrainConfig
from robustviz.training.loop import check
from robustviz.training.progress import Answer, EpochRecord
from robustviz.types import UserError


def train_run(
    config: TrainConfig,
    *,
    name: str | None = None,
    out: str | PathLike[str] | None = None,
    on_epoch: Callable[[EpochRecord], Answer | None] | None = None,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], object] | None = None,
) -> Run:
    """Train `config` to its end, evaluate it on the test split, and return its run, for probes,
    figures and commands.

    Calling it again with the same config continues a training that did not finish, and returns a
    finished run at once. `name`: the run's id; `out`: the folder in which to put the run's folder,
    None: that of your runs, which are the ones on the pages. `on_epoch(record)` is called after
    each epoch and may return "pause" or "stop"; the training then ends there, and its run is
    returned. `callbacks`: see `robustviz.callbacks`. `say` is called with each line that the
    command line would print. Raises UserError for settings that cannot be trained, before a folder
    exists, and for any error during training.
    """
    if not isinstance(config, TrainConfig):
        raise UserError(
            f"A TrainConfig is wanted, and this is a {type(config).__name__}: write"
            ' train_run(TrainConfig(data="digits", method="pgd_at")).'
        )
    for each in callbacks:
        if not isinstance(each, Callback):
            raise UserError(
                f"{each!r} is not a callback: pass an instance of a subclass of"
                " robustviz.callbacks.Callback, or a function as on_epoch."
            )
    config = config.on_this_machine(find_run)
    check(config)
    run = queue.claim(config, name=name, place=None if out is None else Path(out))
    every = [*callbacks, *([AfterEpoch(on_epoch)] if on_epoch else [])]
    worker.execute(run, (lambda line: None) if say is None else say, callbacks=every)
    return run
