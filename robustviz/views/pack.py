"""Reads, without importing torch, what `make story` measured in advance: for the default pairs of
networks, the results that the pages' first screens need, on a few test images.

`checkpoints/story/<run id>.zip` has each result as `<registry key of the spec>.npz`, with the hash
of the weights it was measured on; `checkpoints/story/<data>.npz` has the test images of a data set.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from robustviz import memory, paths, registry
from robustviz.types import UserError
from robustviz.views.result import ProbeSpec, Result

if TYPE_CHECKING:
    from robustviz.runs.folder import Run

R = TypeVar("R", bound=Result)

FOLDER = paths.ROOT / "checkpoints" / "story"


@dataclass(frozen=True)
class Images:
    """Images of a test split: their indices in it (N,), their uint8 pixels (N, C, H, W), and their
    class indices (N,).
    """

    index: np.ndarray
    x: np.ndarray
    y: np.ndarray


def kept(run: Run, spec: ProbeSpec[R]) -> R | None:
    """The shipped result of a spec for a run, without computing anything. None if the run or the
    result is not shipped, if the result is damaged, or if it was measured on other weights.
    """
    if not run.shipped:
        return None
    name = f"{registry.key(spec)}.npz"
    kind: Any = spec.result
    return cast("R | None", _answer(FOLDER / f"{run.id}.zip", name, kind, run.weights))


@memory.remembered(memory.ANSWERS)
def _answer(file: Path, name: str, kind: type[Any], weights: str) -> Result | None:
    try:
        with zipfile.ZipFile(file) as pack:
            result: Result = kind.from_npz(pack.read(name))
    except (OSError, KeyError, zipfile.BadZipFile, UserError):  # missing or damaged
        return None
    return result if result.meta.get("weights") == weights else None


@memory.remembered(memory.ANSWERS)
def images(data: str) -> Images:
    """The test images of a data set (given by its key) on which the shipped results for the pages'
    first screens were measured. N = 0 if none are shipped for this data set or the file is damaged.
    """
    try:
        content = (FOLDER / f"{data}.npz").read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return Images(*(file[name] for name in ("index", "x", "y")))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return Images(np.zeros(0, int), np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, int))
