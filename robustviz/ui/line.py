"""A line in which measurements wait for their turn, so that forty people who ask at once wait in
order, see their place, and do not slow each other down.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LOOK = 0.2  # seconds after which whoever waits is told again: so they can leave


@dataclass(eq=False)
class Line:
    """First come, first served, `at_once` of them."""

    at_once: int = 1
    _turn: threading.Condition = field(default_factory=threading.Condition)
    _waiting: deque[object] = field(default_factory=deque)
    _inside: int = 0

    @contextmanager
    def turn(self, tell: Callable[[int], object] = lambda place: None) -> Iterator[None]:
        """Inside it is one's turn. Until then `tell(place)` is called now and then, 1 for whoever
        is next; what it raises leaves the line.
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
        """How many wait."""
        return len(self._waiting)


QUICK, LONG = Line(), Line()  # a slider's answer does not wait for what takes a minute
