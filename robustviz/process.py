"""What belongs to a whole process: which packages it goes without, and with how many threads torch
computes. A program that imports robustviz as a library is left as it is.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator

_turn = threading.Lock()
_mine = threading.local()  # `depth`: how many `threads` this thread is inside of
_inside = 0  # how many `threads` the process is inside of
_usual = 0  # how many threads torch had before the first of them


def leave_out_triton() -> None:
    """Have triton taken for not installed, as it is on Windows, on macOS and beside a torch for
    CPUs.

    For the command line, a training's worker and the tests, before they import torch. torch imports
    it for torch.compile's GPU kernels, which nothing here uses. That takes 70 MB, and where
    anything still holds one of its objects when the process ends, two screens of "nanobind:
    leaked …" follow. Once torch is imported this does nothing: what torch has found it may want.
    """
    if "torch" not in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # what the import system itself writes for "there is none"


@functools.cache
def default_threads() -> int:
    """max(1, physical cores − 1): one core stays free for the page that watches."""
    try:
        import psutil

        cores = psutil.cpu_count(logical=False)
    except ImportError:  # a GPU server without the dashboard's packages
        cores = None
    return max(1, (cores or os.cpu_count() or 1) - 1)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes with `count` CPU threads in this thread, and afterwards with as many
    as before. Nothing else in robustviz changes the count.

    Sums are split by it, so the same numbers need the same count. It belongs to the process, and
    two sessions of the app may be inside at once: each then puts back what was there before both.
    """
    global _inside, _usual
    import torch

    depth = getattr(_mine, "depth", 0)
    with _turn:
        now = torch.get_num_threads()  # a thread's first question would undo what is set below
        before = now if depth or not _inside else _usual
        _usual = _usual if _inside else before
        _inside, _mine.depth = _inside + 1, depth + 1
        torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        with _turn:
            _inside, _mine.depth = _inside - 1, depth
            torch.set_num_threads(before)
