"""Base of all results: frozen dataclasses of NumPy arrays, each savable as one `.npz` without
pickle.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from robustviz.types import JSON, UserError

R = TypeVar("R", bound="Result")


@dataclass(frozen=True)
class Result:
    """Base of all results: arrays, plus `meta` with what made them (run id, protocol, class
    names).
    """

    meta: JSON = field(default_factory=dict, kw_only=True)

    def to_npz(self) -> bytes:
        """The result as the bytes of an `.npz`: each array under its name, everything else as JSON
        under `json`.
        """
        arrays: dict[str, Any] = {}
        rest: JSON = {}
        for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self)):
            if isinstance(value, np.ndarray):
                arrays[name] = value
            else:
                rest[name] = value
        buffer = io.BytesIO()
        np.savez_compressed(buffer, json=np.array(json.dumps(rest)), **arrays)
        return buffer.getvalue()

    def rows(self) -> list[JSON]:
        """The result as a table. Raises UserError where it is none."""
        raise UserError(
            f"A {type(self).__name__} is not a table: give --out a name that ends in .npz.", code=2
        )

    def to_csv(self) -> bytes:
        """The table as CSV with a header. Raises UserError where there is none."""
        rows, out = self.rows(), io.StringIO()
        writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode()

    @classmethod
    def from_npz(cls: type[R], data: bytes) -> R:
        """The result that `to_npz` wrote. Raises UserError where the bytes are something else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            return cls(**json.loads(str(found.pop("json"))), **found)
        except Exception as error:
            # a damaged zip raises a dozen kinds (zlib, zipfile, struct, …); each means: not this
            raise UserError(
                f"This is not a saved {cls.__name__}: {' '.join(str(error).split())}. Compute it"
                " again."
            ) from error
