"""robustviz: train small image models with adversarial-robustness methods, and see what each one
does.

The short way in: `open_run`, `train`, `TrainConfig`. Names are looked up when first used, so that
importing the package costs nothing and the first page of the app never loads torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "open_run": "robustviz.runs.folder",
    "train": "robustviz.training.loop",
    "TrainConfig": "robustviz.training.config",
}
_ROOMS = (
    "attacks",
    "cam",
    "data",
    "figures",
    "losses",
    "measures",
    "methods",
    "nets",
    "probes",
    "registry",
    "runs",
    "stats",
    "training",
    "types",
    "views",
)

__all__ = ["TrainConfig", "open_run", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"robustviz.{name}")
    raise AttributeError(f"module 'robustviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_ROOMS])
