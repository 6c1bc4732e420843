"""The measured verdicts on the papers' claims, read from a file that `python -m robustviz claims`
writes.
"""

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
    """One expectation of a claim on one data set, and the verdict on it.

    `name`: the claim's short name; `about`: its method's key; `label`: the method's printed name;
    `claim`: the claim as a sentence; `says`: what is expected of the number `metric`, which
    `measured` describes. `word` and `text`: the verdict, short and in full. `effect`: the mean
    difference over the seeds, positive if it is as claimed; None without any seed. `low`, `high`:
    the ends of its confidence interval (95%, corrected for the number of claims). `notices`: the
    smallest true difference that such runs would call `seen here` with a probability of 80%, or
    with `not_worse` the smallest true loss that they would call `not seen here`. `low`, `high` and
    `notices` are None with too few seeds. `seeds`: how many of the `wanted` seeds were measured.
    `smallest`: the smallest difference that counts. `not_worse`: the claim is only that the metric
    gets worse by at most `smallest`. `command` repeats the measurement.
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
        """The difference `value` in units of `smallest`: the quotient of the two; NaN for None."""
        return math.nan if value is None else value / self.smallest


@dataclass(frozen=True)
class Found:
    """All rows, and for each data set a sentence on its pilot runs (`pilots`)."""

    rows: tuple[Row, ...]
    pilots: dict[str, str]

    @property
    def data(self) -> list[str]:
        """The keys of the data sets, in order of first appearance in `rows`."""
        return list(dict.fromkeys(row.data for row in self.rows))

    @property
    def claims(self) -> list[str]:
        """The names of the claims (`Row.name`), in order of first appearance in `rows`."""
        return list(dict.fromkeys(row.name for row in self.rows))

    def of(self, claim: str, data: str) -> list[Row]:
        """The rows of one claim (by its `name`) on one data set."""
        return [row for row in self.rows if (row.name, row.data) == (claim, data)]


def whole(rows: Sequence[Row]) -> str:
    """The verdict on a claim, one of `ORDER`, from the verdicts on its expectations (`rows`).
    Of these verdicts, the one that comes first in `ORDER` is returned. So a claim is seen only if
    all its expectations are, and not seen if one of them is not. Raises ValueError for no rows.
    """
    return min((row.word for row in rows), key=ORDER.index)


def in_part(rows: Sequence[Row]) -> str:
    """How many of a claim's expectations (`rows`) are seen, and how many are not seen, as `1 of 3
    seen, 1 not` (the third is undecided); empty if all or none are seen.
    """
    seen, unseen = (
        sum(row.word == word for row in rows) for word in ("seen here", "not seen here")
    )
    if seen in (0, len(rows)):
        return ""
    return f"{seen} of {len(rows)} seen" + f", {unseen} not" * bool(unseen)


def found() -> Found:
    """All rows of the shipped file. Raises UserError if the file is missing or damaged."""
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
        return Found(tuple(build(Row, row) for row in content["rows"]), dict(content["pilots"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{FILE} is damaged: python -m robustviz claims writes it anew.") from error
