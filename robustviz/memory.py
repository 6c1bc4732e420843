"""Caches in memory for computed or loaded values. All values of a cache share a limit in bytes, and
the least recently used are dropped first, so that a class of forty people cannot fill the memory.
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

OBJECT = 100  # bytes counted for an object without a known size, and for each container
PLACE = 1000  # bytes counted for a slot, even an empty one


def size_of(value: object) -> int:
    """About how many bytes a value takes: close for arrays, tensors and ASCII text; an estimate for
    containers and dataclasses of these, for networks and for figures; and 100 for anything else. An
    object that occurs twice in a value counts twice.
    """
    if isinstance(own := getattr(value, "nbytes", None), int):  # NumPy arrays and torch tensors
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
    """The place of one cached value, empty until the value is computed. If two threads ask for the
    value at once, it is computed only once: the second thread waits for the first.
    """

    def __init__(self, home: Memory, key: Hashable) -> None:
        self.home, self.key, self.size = home, key, PLACE + size_of(key)
        self.value: T | None = None
        self.lock = threading.Lock()
        self.work: Future[T] | None = None  # of a background thread that computes it

    @property
    def busy(self) -> bool:
        """Whether the value is being computed."""
        return self.lock.locked() or (self.work is not None and not self.work.done())

    def put(self, value: T | None, size: int | None = None) -> None:
        """Store `value` and report its size in bytes to the cache: `size`, or an estimate if that
        is None. Nothing happens if `value` is None or is the stored value already.
        """
        if value is not None and value is not self.value:
            self.value = value
            size = size_of(value) if size is None else size
            self.home.weigh(self, PLACE + size_of(self.key) + size)

    def filled(self, make: Callable[[], T], size: int | None = None) -> T:
        """The stored value. If there is none yet, `make` computes it now; the new value is stored
        unless it is None. `size`: its size in bytes, or None for an estimate.
        """
        with self.lock:
            if (value := self.value) is None:
                self.put(value := make(), size)
            return value


class Memory:
    """A cache of slots with a limit in bytes. `memory[key]` returns the slot of a key, a new empty
    one if there is none, and counts as a use of it. If the limit is exceeded, the least recently
    used slots are dropped first. The `least` most recently used slots stay however large they are,
    and so do slots whose value is being computed.
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
        """Record the new size of a slot in bytes, and drop old slots if the limit is exceeded.
        Nothing happens if the slot itself has been dropped.
        """
        with self._turn:
            if self._slots.get(slot.key) is slot:
                self.bytes += size - slot.size
                slot.size = size
                self._tidy()

    def clear(self) -> None:
        """Drop all slots."""
        with self._turn:
            self._slots.clear()
            self.bytes = 0

    def _tidy(self) -> None:
        if self.bytes <= self.limit:
            return
        for key in [*self._slots][: max(0, len(self._slots) - self.least)]:
            if not (slot := self._slots[key]).busy:
                del self._slots[key]
                self.bytes -= slot.size
            if self.bytes <= self.limit:
                return


ANSWERS = Memory(192_000_000)  # the answers of probes, and figures of them
# what measurements use; the four slots used last, for two networks and their images, always stay
WORKING = Memory(192_000_000, least=4)


def remembered(
    home: Memory, size: Callable[..., int] | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: the function's results are cached in `home`, by its arguments, which must be
    hashable. Unlike with `lru_cache`, two threads that ask for the same result at once compute it
    only once. `size`: a function of the same arguments that gives the result's size in bytes;
    without it the size is estimated from the result.
    """

    def enter(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def ask(*given: P.args, **options: P.kwargs) -> T:
            slot: Slot[tuple[T]] = home[(function, *given, *sorted(options.items()))]
            known = size(*given, **options) if size else None
            return slot.filled(lambda: (function(*given, **options),), known)[0]

        return ask

    return enter
