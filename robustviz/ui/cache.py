"""What pages ask for again and again: a probe's answer, and what is drawn of it. Both are kept in
memory, the latest first.

Answers are looked up by text, because hashing arrays would take two different images for one. What
is drawn of an answer is looked up by the answer itself, which nobody changes: another one, of other
weights or settings, can never show it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from robustviz import registry
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.types import UserError
from robustviz.views.result import Result

T = TypeVar("T")


def open_by_id(run_id: str) -> Run:
    """The user's run with an id. An id from an address is never taken for a path."""
    if not folder.ID.fullmatch(run_id or ""):
        raise UserError(f"{run_id!r} is no run id; choose a run from the list.")
    return folder.open_run(run_id)


@dataclass(eq=False)
class _Answer:
    """The place of one answer; empty until somebody measured it."""

    result: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    work: Future[Any] | None = None  # a thread's, that measures it while the page goes on


@functools.lru_cache(maxsize=256)
def _answer(path: str, weights: str, asked: str, name: str) -> _Answer:
    return _Answer()


def _place(run_id: str, probe: str, settings: dict[str, Any]) -> tuple[_Answer, Any, Run]:
    """Where the answer lies, and who gives it to whom. A run that goes on training has other
    weights, so another place.
    """
    spec, run = registry.build(registry.get("probe", probe), settings), folder.open_model(run_id)
    return _answer(str(run.path), run.weights, registry.key(spec), spec.name(run)), spec, run


def probe(run_id: str, name: str, **settings: Any) -> Any:
    """A probe's result, from memory where it was asked for lately."""
    place, spec, run = _place(run_id, name, settings)
    with place.lock:  # two sessions that ask at once wait for one measurement
        if place.result is None:
            place.result = spec(run)
        return place.result


def kept(run_id: str, name: str, **settings: Any) -> Any | None:
    """A slow probe's result if it is in memory or on disk already, else None."""
    place, spec, run = _place(run_id, name, settings)
    if place.result is None:
        place.result = spec.kept(run)
    return place.result


def soon(run_id: str, name: str, patience: float, **settings: Any) -> Any | None:
    """As `probe`, but None where that takes more than `patience` seconds: a thread goes on
    measuring, and `awaited` says how long.

    What went wrong in the thread is raised here when it is asked for next, and then tried again.
    """
    place, spec, run = _place(run_id, name, settings)
    with _STARTING:
        if (work := place.work) is None:
            place.work = work = Future()
            threading.Thread(target=_measure, args=(place, spec, run, work), daemon=True).start()
    try:
        return work.result(patience)
    except TimeoutError:
        return None
    except Exception:
        place.work = None
        raise


def awaited(run_id: str, name: str, **settings: Any) -> bool:
    """Whether a thread is measuring this."""
    work = _place(run_id, name, settings)[0].work
    return work is not None and not work.done()


def _measure(place: _Answer, spec: Any, run: Run, work: Future[Any]) -> None:
    try:
        with place.lock:
            if place.result is None:
                place.result = spec(run)
        work.set_result(place.result)
    except Exception as error:
        work.set_exception(error)


_STARTING = threading.Lock()


class _Same:
    """A result as a key: equal to itself only."""

    def __init__(self, it: Result) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


@functools.lru_cache(maxsize=64)
def _made(
    make: Callable[..., Any], results: tuple[tuple[str, _Same], ...], more: tuple[Any, ...]
) -> Any:
    return make({name: same.it for name, same in results}, *more)


def made(make: Callable[..., T], found: dict[str, Result], *more: Any) -> T:
    """What `make` makes of results by name, and of more that can be hashed: once, and again only
    for others.
    """
    return _made(make, tuple((name, _Same(result)) for name, result in found.items()), more)
