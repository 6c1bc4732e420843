"""Base classes of the specs (which measurement to make on a run) and the results of all views.

This module does not import torch, so that pages can build specs, and notebooks draw results, fast.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import numpy as np

from robustviz.registry import Spec
from robustviz.types import JSON, UserError

T = TypeVar("T", bound="Result")
R = TypeVar("R", bound="Result", covariant=True)


def csv_of(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Rows as CSV bytes; the header has the column names of all rows, by first appearance."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


@dataclass(frozen=True)
class Result:
    """Base class of all results: arrays, and `meta`, a dict on their origin (run id, data …)."""

    meta: JSON = field(default_factory=dict, kw_only=True)

    def to_npz(self) -> bytes:
        """The result as the bytes of an `.npz` file without pickle.
        Each array is stored under its field's name, all other fields as JSON under `json`.
        """
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        arrays: JSON = {
            name: value for name, value in values.items() if isinstance(value, np.ndarray)
        }
        text = json.dumps({name: values[name] for name in values if name not in arrays})
        buffer = io.BytesIO()
        np.savez_compressed(buffer, json=np.array(text), **arrays)
        return buffer.getvalue()

    def rows(self) -> list[JSON]:
        """The result as a table: a list with one dict per row. Raises UserError for a class of
        results that has no table.
        """
        raise UserError(
            f"A {type(self).__name__} is not a table: give --out a name that ends in .npz.", code=2
        )

    def to_csv(self) -> bytes:
        """The table of `rows` as CSV bytes with a header. Raises UserError as `rows` does."""
        return csv_of(self.rows())

    @classmethod
    def from_npz(cls: type[T], data: bytes) -> T:
        """Load a result of this class from the bytes that `to_npz` returned.
        Raises UserError for any other or damaged bytes.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(**json.loads(str(arrays.pop("json"))), **arrays)
        except Exception as error:
            # a damaged zip raises a dozen kinds of error (zlib, zipfile, struct, …): catch them all
            raise UserError(
                f"These bytes are not a saved {cls.__name__}: {' '.join(str(error).split())}."
                " Compute it again."
            ) from error


@dataclass(frozen=True)
class ProbeSpec(Spec, Generic[R]):
    """The settings of one measurement on a run, whose result has type R (the class `result`).
    The function that measures is decorated with `@probe(ThisSpec)`. It is in the module `probe.py`
    beside the spec's, or imported by it.
    """

    result: ClassVar[type[Result]]

    @property
    def cacheable(self) -> bool:
        """Whether the result takes long enough to compute to be cached in the run's folder."""
        return True
