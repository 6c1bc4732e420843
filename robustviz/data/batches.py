"""Reads CIFAR's batch files, which are Python pickles. Loading a pickle can run any code, and a
data file should not: only arrays, numbers, text and containers are rebuilt here, anything else is
refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from robustviz.data import places


def _dtype(name: str, align: object = False, copy: object = True) -> np.dtype[Any]:
    # old files pass align=0 instead of False, which NumPy 2.4 warns about
    return np.dtype(name, align=bool(align), copy=bool(copy))


def _bytes(letters: str, encoding: str = "latin1") -> bytes:
    # Python 3 encodes bytes in this way in protocol 2 pickles. No other codec is needed, and some
    # codecs run code.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding!r}")
    return letters.encode("latin1")


# NumPy's function that rebuilds arrays; its module depends on the NumPy version
_multiarray = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _multiarray,
    ("numpy._core.multiarray", "_reconstruct"): _multiarray,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _bytes,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it wants to run {module}.{name}, which a data file has no need of"
            )
        return _ALLOWED[module, name]


def text(name: str | bytes) -> str:
    """A name from a batch file as text. The file has it as bytes or as text, depending on the
    Python version that wrote the file.
    """
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Returns the dictionary in a batch file, with keys as text, and the file's md5 (hex).

    Raises UserError if the file is damaged or contains anything but plain data.
    """
    raw = path.read_bytes()
    try:
        entry = _Arrays(io.BytesIO(raw), encoding="latin1").load()
        return {text(k): v for k, v in entry.items()}, places.md5(raw)
    except Exception as error:  # a damaged pickle can raise anything
        raise places.damaged(path, f"{error or type(error).__name__}") from error


def pixels(path: Path, labels: str, classes: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Images uint8 (N, 3, 32, 32), labels int64 (N,) and the md5 (hex) of a batch file.

    `labels` is the key of the labels in the file, `classes` the number of classes. Raises UserError
    if the file is damaged, has no labels, does not have one row of 3,072 bytes for each label, or
    has a label outside 0 to `classes` − 1.
    """
    entry, md5 = read(path)
    data, y = entry.get("data"), np.asarray(entry.get(labels, []), dtype=np.int64)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape != (len(y), 3072)
        or not len(y)
    ):
        raise places.damaged(path, "its pixels are not one row of 3,072 bytes for each label")
    if y.min() < 0 or y.max() >= classes:
        raise places.damaged(path, f"its labels are not all in 0 to {classes - 1}")
    return data.reshape(-1, 3, 32, 32), y, md5
