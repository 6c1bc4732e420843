"""Settings of a whole process: that torch does not import triton, and with how many threads torch
computes. Importing robustviz as a library changes neither.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator

_turn = threading.Lock()
_mine = threading.local()  # `depth`: how many `threads` contexts this thread is inside
_inside = 0  # how many `threads` contexts the process is inside
_usual = 0  # how many threads torch had before the first of these contexts


def leave_out_triton() -> None:
    """Make Python treat triton as not installed, as it is on Windows, on macOS and with a CPU build
    of torch.

    The command line, the training process and the tests call this before they import torch. torch
    imports triton for torch.compile's GPU kernels, which nothing here uses. The import takes 70 MB,
    and if an object of triton is alive when the process ends, two screens of "nanobind: leaked …"
    are printed. If torch is imported already, this function does nothing, because torch may need
    the triton that it has found.
    """
    if "torch" not in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # None marks a missing module


@functools.cache
def default_threads() -> int:
    """The usual number of CPU threads, max(1, physical cores − 1): one core stays free for the page
    that shows the training. Without psutil, logical cores are counted.
    """
    try:
        import psutil

        cores = psutil.cpu_count(logical=False)
    except ImportError:  # e.g. on a GPU server without the dashboard's packages
        cores = None
    return max(1, (cores or os.cpu_count() or 1) - 1)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """A context manager: inside it torch computes with `count` CPU threads (at least 1) in this
    thread, afterwards with as many as before. Nothing else in robustviz changes the count.

    How a sum is split depends on the count, so reproducible numbers need the same count. torch's
    setting belongs to the process, and two sessions of the app may be inside such contexts at once:
    each then restores the count from before both. Only a context inside another one of the same
    thread restores the count of the outer one.
    """
    global _inside, _usual
    import torch

    depth = getattr(_mine, "depth", 0)
    with _turn:
        now = torch.get_num_threads()  # a thread's first call of it would undo the setting below
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
