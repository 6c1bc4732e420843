"""Large packages are imported by one thread at a time.

Python locks each module by itself. Of two threads that enter a package by different doors each then
waits for the other, and Python resolves that by `_DeadlockError`, or by handing out a module that
is half there. So whatever is imported late, inside a function, comes through `load`. A server has
all that first screens need before anybody comes, and one thread that imports the rest: whoever asks
`load` for a part of it meanwhile waits for what that thread is at. A plain `import torch` inside a
function waits too, because everybody enters torch by its own door.
"""

import contextlib
import functools
import importlib
import sys
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
    """The module of that name; one that is there as a whole at once. While one thread imports here,
    others wait. Raises ImportError as an import does.
    """
    if _whole(name):
        return sys.modules[name]
    with _turn:
        return importlib.import_module(name)


def _whole(name: str) -> bool:
    """Whether nobody is at importing it, or a package that it is in."""
    packages = [name[:at] for at, sign in enumerate(f"{name}.") if sign == "."]
    specs = [getattr(sys.modules.get(each), "__spec__", None) for each in packages]
    return all(spec is not None and not getattr(spec, "_initializing", False) for spec in specs)


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
