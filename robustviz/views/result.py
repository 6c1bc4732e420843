"""What is asked of a run and what comes back: base classes of the specs and results of all views.

No torch here, so that a page asks, and a notebook draws, without it.
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
    """Rows as CSV with a header, which has the names of all rows."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


@dataclass(frozen=True)
class Result:
    """Base of all results: arrays, plus `meta` with what made them (run id, protocol, class
    names).
    """

    meta: JSON = field(default_factory=dict, kw_only=True)

    def to_npz(self) -> bytes:
        """The result as the bytes of an `.npz` without pickle: each array under its name,
        everything else as JSON under `json`.
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
        """The result as a table. Raises UserError where it is none."""
        raise UserError(
            f"A {type(self).__name__} is not a table: give --out a name that ends in .npz.", code=2
        )

    def to_csv(self) -> bytes:
        """The table as CSV with a header. Raises UserError where there is none."""
        return csv_of(self.rows())

    @classmethod
    def from_npz(cls: type[T], data: bytes) -> T:
        """The result that `to_npz` wrote. Raises UserError where the bytes are something else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(**json.loads(str(arrays.pop("json"))), **arrays)
        except Exception as error:
            # a damaged zip raises a dozen kinds (zlib, zipfile, struct, …); each means: not this
            raise UserError(
                f"This is not a saved {cls.__name__}: {' '.join(str(error).split())}. Compute it"
                " again."
            ) from error


@dataclass(frozen=True)
class ProbeSpec(Spec, Generic[R]):
    """What is asked of a run: the settings of one probe. The probe itself stands in `probe.py`
    beside the spec, decorated with `@probe(ThisSpec)`, and gives an R.
    """

    result: ClassVar[type[Result]]

    @property
    def cacheable(self) -> bool:
        """Whether the answer takes long enough to be kept in the run's folder."""
        return True
