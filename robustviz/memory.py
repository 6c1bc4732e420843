"""What is kept in memory of what was computed or read: the latest, up to a number of bytes that
everything kept shares. Forty people who look at everything fill it, and no more.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

OBJECT = 100  # bytes of whatever has no size of its own: a number, a list's place
PLACE = 1000  # of a slot, also of an empty one


def size_of(value: object) -> int:
    """About how many bytes a value takes: exact for arrays, tensors and text, an estimate for what
    is made of them. What stands in it twice counts twice.
    """
    if isinstance(own := getattr(value, "nbytes", None), int):  # NumPy's and torch's
        return OBJECT + own
    if isinstance(value, bytes | str):
        return OBJECT + len(value)
    if isinstance(value, Mapping):
        return OBJECT + sum(size_of(key) + size_of(one) for key, one in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return OBJECT + sum(map(size_of, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return size_of([getattr(value, each.name) for each in dataclasses.fields(value)])
    if hasattr(value, "state_dict"):  # a network
        return size_of(dict(value.state_dict()))
    if hasattr(value, "to_plotly_json"):  # a figure
        return size_of(value.to_plotly_json())
    return OBJECT


class Slot(Generic[T]):
    """The place of one value; empty until somebody makes it, and two that ask at once wait for one
    making.
    """

    def __init__(self, home: Memory, key: Hashable) -> None:
        self.home, self.key, self.size = home, key, PLACE + size_of(key)
        self.value: T | None = None
        self.lock = threading.Lock()
        self.work: Future[T] | None = None  # a thread's, that makes it while the page goes on

    @property
    def busy(self) -> bool:
        """Whether somebody is making its value."""
        return self.lock.locked() or (self.work is not None and not self.work.done())

    def put(self, value: T | None, size: int | None = None) -> None:
        """Let it hold a value, if that is one; the memory hears how large, `size` where known."""
        if value is not None and value is not self.value:
            self.value = value
            size = size_of(value) if size is None else size
            self.home.weigh(self, PLACE + size_of(self.key) + size)

    def filled(self, make: Callable[[], T], size: int | None = None) -> T:
        """The value, made now where there is none."""
        with self.lock:
            if (value := self.value) is None:
                self.put(value := make(), size)
            return value


class Memory:
    """The latest slots by key, at most `limit` bytes of them. The latest `least` stay however large
    they are, and so does what is being made.
    """

    def __init__(self, limit: int, least: int = 1) -> None:
        self.limit, self.least, self.bytes = limit, least, 0
        self._turn = threading.Lock()
        self._slots: OrderedDict[Hashable, Slot[Any]] = OrderedDict()

    def __getitem__(self, key: Hashable) -> Slot[Any]:
        with self._turn:
            if (slot := self._slots.get(key)) is None:
                slot = self._slots[key] = Slot(self, key)
                self.bytes += slot.size
            self._slots.move_to_end(key)
            self._tidy()
            return slot

    def __len__(self) -> int:
        return len(self._slots)

    def weigh(self, slot: Slot[Any], size: int) -> None:
        """Take down how large a slot has become."""
        with self._turn:
            if self._slots.get(slot.key) is slot:
                self.bytes += size - slot.size
                slot.size = size
                self._tidy()

    def clear(self) -> None:
        """Forget everything."""
        with self._turn:
            self._slots.clear()
            self.bytes = 0

    def _tidy(self) -> None:
        if self.bytes <= self.limit:
            return
        for key in [*self._slots][: -self.least]:
            if not (slot := self._slots[key]).busy:
                del self._slots[key]
                self.bytes -= slot.size
            if self.bytes <= self.limit:
                return


ANSWERS = Memory(192_000_000)  # and what is drawn of them
WORKING = Memory(192_000_000, least=4)  # what is measured with: two networks and their images


def remembered(
    home: Memory, size: Callable[..., int] | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: what the function gives for the same arguments is kept in that memory. Unlike
    lru_cache, two that ask at once wait for one computing. `size`: how large the answer to these
    arguments is, where that is known without looking through it.
    """

    def enter(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def ask(*given: P.args, **options: P.kwargs) -> T:
            slot: Slot[tuple[T]] = home[(function, *given, *sorted(options.items()))]
            known = size(*given, **options) if size else None
            return slot.filled(lambda: (function(*given, **options),), known)[0]

        return ask

    return enter
