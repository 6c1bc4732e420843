"""The progress of a long measurement in images, reported to the page's progress bar.

Code that attacks or measures images calls `expect` and `count`; without a listener they do nothing.
Only a listener of the same thread is called, so that sessions of the app do not get each other's
progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Watch:
    """A listener `tell(done, total)` and its counts of images; `total` stays 0 unless `expect` is
    called.
    """

    tell: Callable[[int, int], object]
    done: int = 0
    total: int = 0


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(tell: Callable[[int, int], object]) -> Iterator[None]:
    """A context manager: inside it, whenever this thread reports images by `count`, `tell(done,
    total)` is called with the numbers of images that are done and that were announced by `expect`.
    """
    token = _watch.set(Watch(tell))
    try:
        yield
    finally:
        _watch.reset(token)


def expect(images: int) -> None:
    """Announce that `images` more images will be attacked or measured."""
    if (watch := _watch.get()) is not None:
        watch.total += images


def count(images: int) -> None:
    """Report that `images` more images have been attacked or measured; this calls the listener."""
    if (watch := _watch.get()) is not None:
        watch.done += images
        watch.tell(watch.done, watch.total)
