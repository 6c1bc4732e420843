"""What was found about each claim: the rows that `python -m robustviz claims` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustviz import paths
from robustviz.registry import build
from robustviz.types import JSON, UserError

FILE = paths.ROOT / "checkpoints" / "claims" / "found.json"
ORDER = ("not seen here", "not decided", "cannot tell", "cannot tell (ceiling)", "seen here")


@dataclass(frozen=True)
class Row:
    """One expectation of a claim on one data set, and its verdict.

    `about`: the method's key and, in `label`, its printed name; `claim` the whole sentence, `says`
    what is expected of `metric`, a number described by `measured`; `effect`, `low`, `high`: mean
    difference over `seeds` of `wanted` seeds and its interval, positive where it is as claimed,
    None where there are too few; `notices`: the difference that these runs would find four times
    in five; `smallest`: what counts, with `not_worse` what may be lost; `command` repeats it.
    """

    name: str
    about: str
    label: str
    claim: str
    says: str
    data: str
    metric: str
    measured: str
    word: str
    text: str
    effect: float | None
    low: float | None
    high: float | None
    notices: float | None
    seeds: int
    wanted: int
    smallest: float
    not_worse: bool
    command: str

    def scaled(self, value: float | None) -> float:
        """A difference in units of the smallest that counts; NaN where there is none."""
        return math.nan if value is None else value / self.smallest


@dataclass(frozen=True)
class Found:
    """All rows, what the seeds of each data set came from, and how many claims there are."""

    rows: tuple[Row, ...]
    pilots: dict[str, str]

    @property
    def data(self) -> list[str]:
        """The data sets, as they come."""
        return list(dict.fromkeys(row.data for row in self.rows))

    @property
    def claims(self) -> list[str]:
        """The claims' names, as they come."""
        return list(dict.fromkeys(row.name for row in self.rows))

    def of(self, claim: str, data: str) -> list[Row]:
        """A claim's rows on one data set."""
        return [row for row in self.rows if (row.name, row.data) == (claim, data)]


def whole(rows: Sequence[Row]) -> str:
    """The verdict on a claim: seen where all that it expects is seen, not seen where one is not,
    else the least sure of its verdicts.
    """
    return min((row.word for row in rows), key=ORDER.index)


def found() -> Found:
    """What is known. Raises UserError where the file is missing or damaged."""
    try:
        content: JSON = json.loads(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "Nothing is known about the claims yet: python -m robustviz claims measures them."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{FILE} cannot be read: python -m robustviz claims writes it anew."
        ) from error
    try:
        rows = tuple(build(Row, row) for row in content["rows"])
        return Found(rows, dict(content["pilots"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{FILE} is damaged: python -m robustviz claims writes it anew.") from error
