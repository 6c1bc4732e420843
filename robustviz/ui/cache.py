"""What pages ask for again and again: a probe's answer, and what is drawn of it. Both are kept in
memory, the latest first.

Answers are looked up by text, because hashing arrays would take two different images for one. What
is drawn of an answer is looked up by the answer itself, which nobody changes: another one, of other
weights or settings, can never show it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
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
    """The user's run with an id. An id from an address is never taken for a path."""
    if not folder.ID.fullmatch(run_id or ""):
        raise UserError(f"{run_id!r} is no run id; choose a run from the list.")
    return folder.open_run(run_id)


def measure(run: folder.Run, spec: ProbeSpec[R]) -> R:
    """What the run answers, measured now or read from its folder; with torch."""
    return cast(R, load("robustviz.views.measure").measure(run, spec))


def _probe_of(spec: ProbeSpec[Any]) -> Any:
    return load("robustviz.views.measure").probe_of(spec)


def _slot(run_id: str, spec: ProbeSpec[R]) -> tuple[Slot[R], folder.Run]:
    """Where the answer lies; it is there already where it was shipped, which needs no torch. A run
    that goes on training has other weights, so another place.
    """
    run = folder.open_model(run_id)
    key = (str(run.path), run.weights, registry.key(spec))
    if (shipped := pack.kept(run, spec)) is None:
        return ANSWERS[(*key, _probe_of(spec).name(run, spec))], run
    slot = ANSWERS[key]
    slot.put(shipped)
    return slot, run


def answer(run_id: str, spec: ProbeSpec[R]) -> R:
    """What a run answers to a spec, from memory where it was asked for lately."""
    slot, run = _slot(run_id, spec)
    return slot.filled(lambda: measure(run, spec))


def kept(run_id: str, spec: ProbeSpec[R]) -> R | None:
    """The answer if it is in memory or on disk already, else None."""
    slot, run = _slot(run_id, spec)
    if slot.value is None:
        slot.put(_probe_of(spec).kept(run, spec))
    return slot.value


def result_or_none(run_id: str, spec: ProbeSpec[R], patience: float) -> R | None:
    """As `answer`, but None where that takes more than `patience` seconds: a thread goes on
    measuring, and `pending` says how long.

    What went wrong in the thread is raised here when it is asked for next, and then tried again.
    """
    slot, run = _slot(run_id, spec)
    with _STARTING:
        if (work := slot.work) is None:
            slot.work = work = Future()
            threading.Thread(target=_measure, args=(slot, spec, run, work), daemon=True).start()
    try:
        return work.result(patience)
    except TimeoutError:
        return None
    except Exception:
        slot.work = None
        raise


def pending(run_id: str, spec: ProbeSpec[Any]) -> bool:
    """Whether a thread is measuring this."""
    work = _slot(run_id, spec)[0].work
    return work is not None and not work.done()


def _measure(slot: Slot[R], spec: ProbeSpec[R], run: folder.Run, work: Future[R]) -> None:
    try:
        work.set_result(slot.filled(lambda: measure(run, spec)))
    except Exception as error:
        work.set_exception(error)


_STARTING = threading.Lock()


def made(make: Callable[[], T], results: tuple[Result, ...], *more: Hashable) -> T:
    """What `make` makes of these very results and of `more`: once, and again only for others."""
    # the results are kept with it, so that no other object can get their ids
    slot = ANSWERS[("drawn", *map(id, results), *more)]
    return cast(T, slot.filled(lambda: (results, make()))[1])
