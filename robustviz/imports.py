"""`load` imports large packages in one thread at a time.

Python locks each module separately, so two threads that import parts of one package can deadlock.
Python resolves that by an error or a half-imported module. Imports inside functions therefore use
`load`.
"""

import contextlib
import functools
import importlib
import sys
import threading
from typing import Any

_turn = threading.RLock()

# What pages with a network on them import besides their panels, the slowest first, and what they
# may import later. The server imports these in one background thread; a page that needs one of
# them meanwhile waits for that thread.
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
    """Return the module `name`, importing it first unless it is fully imported already. Only one
    thread imports at a time; the others wait. Raises ImportError as an import does.
    """
    if _whole(name):
        return sys.modules[name]
    with _turn:
        return importlib.import_module(name)


def _whole(name: str) -> bool:
    """Whether the module and all packages that contain it are imported completely."""
    packages = [name[:at] for at, sign in enumerate(f"{name}.") if sign == "."]
    specs = [getattr(sys.modules.get(each), "__spec__", None) for each in packages]
    return all(spec is not None and not getattr(spec, "_initializing", False) for spec in specs)


@functools.cache
def needed() -> tuple[str, ...]:
    """The names of the modules that pages about networks import: `NEEDED`, and the panels of all
    views.
    """
    return (*NEEDED, *load("robustviz.views").modules("panel"))


def load_all(names: tuple[str, ...] = ()) -> None:
    """Import these modules one after the other; by default those that `needed` lists. Packages that
    are not installed are skipped: `load` raises the error when a page needs one of them.
    """
    for name in names or needed():
        with contextlib.suppress(ModuleNotFoundError):
            load(name)
