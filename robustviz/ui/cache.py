"""The cache of what pages need again and again: results of probes on a run, and figures made from
them.

Results are found by texts (path, weights and settings), not by a hash of arrays, which could
confuse two images. Figures are found by the result objects themselves, so a figure of other weights
is never shown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any, TypeVar, cast

from robustviz import registry
from robustviz.imports import load
from robustviz.memory import ANSWERS, Slot
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.views import pack
from robustviz.views.result import ProbeSpec, Result

T = TypeVar("T")
R = TypeVar("R", bound=Result)


def open_by_id(run_id: str) -> folder.Run:
    """The run with this id, the user's own before a shipped one. Raises UserError as `open_run`
    does, and if the id is not valid: an id from an address must never be used as a path.
    """
    if not folder.ID.fullmatch(run_id or ""):
        raise UserError(f"{run_id!r} is no run id; choose a run from the list.")
    return folder.open_run(run_id)


def measure(run: folder.Run, spec: ProbeSpec[R]) -> R:
    """The result of the probe of `spec` for a run, read from the run's folder if it is stored
    there, else measured now; this imports torch. Raises UserError if the run cannot give the
    result.
    """
    return cast(R, load("robustviz.views.measure").measure(run, spec))


def _probe_of(spec: ProbeSpec[Any]) -> Any:
    return load("robustviz.views.measure").probe_of(spec)


def _slot(run_id: str, spec: ProbeSpec[R]) -> tuple[Slot[R], folder.Run]:
    """The cache slot of a result, and the run. A shipped result is put into its slot here, which
    needs no torch. The slot's key contains the hash of the weights, so a run that is trained
    further gets another slot.
    """
    run = folder.open_model(run_id)
    key = (str(run.path), run.weights, registry.key(spec))
    if (shipped := pack.kept(run, spec)) is None:
        return ANSWERS[(*key, _probe_of(spec).name(run, spec))], run
    slot = ANSWERS[key]
    slot.put(shipped)
    return slot, run


def answer(run_id: str, spec: ProbeSpec[R]) -> R:
    """The result of the probe of `spec` for a run: from memory if it is still there, else from
    disk, else measured now. Raises UserError if the run cannot give the result.
    """
    slot, run = _slot(run_id, spec)
    return slot.filled(lambda: measure(run, spec))


def kept(run_id: str, spec: ProbeSpec[R]) -> R | None:
    """The result that `answer` gives, if it is in memory or on disk already; else None. Measures
    nothing.
    """
    slot, run = _slot(run_id, spec)
    if slot.value is None:
        slot.put(_probe_of(spec).kept(run, spec))
    return slot.value


def result_or_none(run_id: str, spec: ProbeSpec[R], patience: float) -> R | None:
    """The result as `answer` gives it, or None if that takes more than `patience` seconds; a thread
    then goes on measuring, and `pending` says whether it is still at work.

    An error in the thread is raised by this call or, if it comes later, by the next one; the call
    after that starts anew.
    """
    slot, run = _slot(run_id, spec)
    with _STARTING:
        if (work := slot.work) is None:
            slot.work = work = Future()
            threading.Thread(target=_measure, args=(slot, spec, run, work), daemon=True).start()
    wait([work], patience)
    if not work.done():
        return None
    try:
        return work.result()
    except Exception:
        slot.work = None
        raise


def pending(run_id: str, spec: ProbeSpec[Any]) -> bool:
    """Whether a thread that `result_or_none` started is still measuring this result."""
    work = _slot(run_id, spec)[0].work
    return work is not None and not work.done()


def _measure(slot: Slot[R], spec: ProbeSpec[R], run: folder.Run, work: Future[R]) -> None:
    try:
        work.set_result(slot.filled(lambda: measure(run, spec)))
    except Exception as error:
        work.set_exception(error)


_STARTING = threading.Lock()


def made(make: Callable[[], T], results: tuple[Result, ...], *more: Hashable) -> T:
    """The value of `make()`, which is called only if no value is cached yet for these result
    objects and `more`.
    """
    # the results are stored too, so that their ids cannot be reused by other objects
    slot = ANSWERS[("drawn", *map(id, results), *more)]
    return cast(T, slot.filled(lambda: (results, make()))[1])
