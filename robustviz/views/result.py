"""Base classes of all views' specs (which say what to measure on a run) and results.

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
    """Rows as CSV bytes with a header. The columns are those of all rows, by first appearance."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


@dataclass(frozen=True)
class Result:
    """Base class of all results: arrays, and `meta`, a dict that says where they come from (run id,
    data …).
    """

    meta: JSON = field(default_factory=dict, kw_only=True)

    def to_npz(self) -> bytes:
        """The result as the bytes of an `.npz` file without pickle. Each array is stored under its
        field's name, all other fields as one JSON text under `json`.
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
        """The result as a table: a list with one dict per row. Raises UserError if results of this
        class have no table.
        """
        raise UserError(
            f"A {type(self).__name__} is not a table: give --out a name that ends in .npz.", code=2
        )

    def to_csv(self) -> bytes:
        """The table of `rows` as CSV bytes with a header. Raises UserError as `rows` does."""
        return csv_of(self.rows())

    @classmethod
    def from_npz(cls: type[T], data: bytes) -> T:
        """Load a result of this class from the bytes that `to_npz` returned. Raises UserError for
        damaged or any other bytes.
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
    """The settings of one measurement on a run, whose result has the type R, the class in `result`.
    The function that measures is decorated with `@probe(ThisSpec)`; the module `probe.py` beside
    the spec's module defines or imports that function.
    """

    result: ClassVar[type[Result]]

    @property
    def cacheable(self) -> bool:
        """Whether results are stored in the run's folder, because they take long to compute; here
        true.
        """
        return True
