"""A waiting line for measurements, so that forty people who start one at the same time wait in
order, see their place, and do not slow each other down.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LOOK = 0.2  # seconds between two calls of `tell`, which may raise to leave the line


@dataclass(eq=False)
class Line:
    """A first-come, first-served lock: at most `at_once` threads are inside `turn` at a time."""

    at_once: int = 1
    _turn: threading.Condition = field(default_factory=threading.Condition)
    _waiting: deque[object] = field(default_factory=deque)
    _inside: int = 0

    @contextmanager
    def turn(self, tell: Callable[[int], object] = lambda place: None) -> Iterator[None]:
        """A context manager that waits until this thread may enter. While it waits, `tell(place)`
        is called about every `LOOK` seconds, where `place` is 1 for the next in line; if `tell`
        raises, the thread leaves the line and the error is passed on.
        """
        ticket = object()
        with self._turn:
            self._waiting.append(ticket)
        try:
            while not self._entered(ticket, tell):
                pass
        except BaseException:
            with self._turn:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                self._turn.notify_all()
            raise
        try:
            yield
        finally:
            with self._turn:
                self._inside -= 1
                self._turn.notify_all()

    def _entered(self, ticket: object, tell: Callable[[int], object]) -> bool:
        with self._turn:
            if self._waiting[0] is not ticket or self._inside >= self.at_once:
                self._turn.wait(LOOK)
            place = self._waiting.index(ticket) + 1
            if place == 1 and self._inside < self.at_once:
                self._waiting.popleft()
                self._inside += 1
                self._turn.notify_all()
                return True
        tell(place)
        return False

    def __len__(self) -> int:
        """How many threads are waiting."""
        return len(self._waiting)


QUICK, LONG = Line(), Line()  # two, so that sliders do not wait for measurements of a minute
