"""How far a long measurement is, told to whoever waits for it: a page's bar that counts images.

Whoever attacks or looks at images says how many are done; nobody has to listen. What is told goes
to the listener of the same thread only, so that forty sessions do not hear each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Watch:
    """`done` images of `total`; `total` is 0 where nobody said how many there will be."""

    tell: Callable[[int, int], object]
    done: int = 0
    total: int = 0


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(tell: Callable[[int, int], object]) -> Iterator[None]:
    """Inside, `tell(done, total)` is called whenever images are done."""
    token = _watch.set(Watch(tell))
    try:
        yield
    finally:
        _watch.reset(token)


def expect(images: int) -> None:
    """So many more images will be looked at or attacked."""
    if (watch := _watch.get()) is not None:
        watch.total += images


def count(images: int) -> None:
    """So many more images are done."""
    if (watch := _watch.get()) is not None:
        watch.done += images
        watch.tell(watch.done, watch.total)
