"""Large packages are imported by one thread at a time.

Python locks each module by itself. Of two threads that enter a package by different doors each then
waits for the other, and Python resolves that by `_DeadlockError`, or by handing out a module that
is half there. So whatever is imported late, inside a function, comes through `load`; and a server
calls `load_all` before a page that needs them.
"""

import contextlib
import functools
import importlib
import threading
from typing import Any

_turn = threading.RLock()

# What pages with a network on them are made of besides their panels, heaviest first, and what they
# may ask for later.
NEEDED = (
    "torch",
    "pandas",
    "plotly.io",
    "plotly.graph_objects",
    "safetensors.torch",
    "robustviz.probes",
    "robustviz.methods",
    "robustviz.training.loop",
)
LATER = (
    "scipy.special",
    "sklearn.metrics",
    "sklearn.manifold",
    "sklearn.datasets",
    "torchvision.datasets",
    "torchvision.models",
    "pytorch_grad_cam",
    "pytorch_grad_cam.metrics.road",
)


def load(name: str) -> Any:
    """The module of that name. While one thread imports here, others wait. Raises ImportError as an
    import does.
    """
    with _turn:
        return importlib.import_module(name)


@functools.cache
def needed() -> tuple[str, ...]:
    """What pages with a network on them are made of."""
    return (*NEEDED, *load("robustviz.views").modules("panel"))


def load_all(names: tuple[str, ...] = ()) -> None:
    """Import these, one after the other, or all that pages need; a package that is not installed is
    left to whoever asks for it by `load`.
    """
    for name in names or needed():
        with contextlib.suppress(ModuleNotFoundError):
            load(name)
