"""Writes the parts of the README and of docs/claims.md about the claims, which are generated from
the findings and never edited by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustviz import paths
from robustviz.runs.files import write_file
from robustviz.types import table
from robustviz.views.claims.result import ORDER, Found, Row, in_part, whole

if TYPE_CHECKING:
    from robustviz.claims.study import Side

README, DOCS = paths.ROOT / "README.md", paths.ROOT / "docs" / "claims.md"


def write(found: Found, sides: Sequence[Side]) -> None:
    """Replace the generated parts of the README and of docs/claims.md by the present findings. A
    file that does not exist is left out.
    """
    for file, mark, text in (
        (README, "claims", counts(found)),
        (DOCS, "claims", summary(found)),
        (DOCS, "expectations", expectations(found.rows)),
        (DOCS, "networks", networks(sides)),
    ):
        if file.exists():
            write_file(file, between(file, mark, text).encode())


def between(file: Path, mark: str, text: str) -> str:
    """The content of `file` with the part between two comments replaced by `text`. The comments are
    `<!-- mark -->` and `<!-- /mark -->`, and stay. The file is not changed. Raises ValueError if
    the first comment is missing or occurs twice, and IndexError if the second one does not follow
    it.
    """
    first, last = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, rest = file.read_text(encoding="utf-8").split(first)
    return f"{before}{first}\n{text}\n{last}{rest.split(last)[1]}"


def counts(found: Found) -> str:
    """For the README: a Markdown table with one row for each data set on which at least one claim
    is decided: the number of claims, and how many of them are seen, are seen in part, and have each
    of the other verdicts, counted as on the Claims page. Raises ValueError if a claim has no row
    for a data set.
    """
    seen, *others = reversed(ORDER)
    words = (seen, "seen in part", *others)
    rows = []
    for data in found.data:
        every = [found.of(name, data) for name in found.claims]
        if {*map(whole, every)} != {"not decided"}:
            counted = Counter("seen in part" if in_part(each) else whole(each) for each in every)
            rows.append([data, str(len(every)), *(str(counted[word]) for word in words)])
    return table(["data", "claims", *words], rows)


def summary(found: Found) -> str:
    """A Markdown table of the verdicts, with one row for each claim and one column for each data
    set. A claim that is seen in part has the counts of its expectations as verdict, an undecided
    one also the number of its measured seeds.
    """
    head = ["what is claimed", *found.data]
    return table(
        head,
        (
            [found.of(name, found.data[0])[0].claim, *(_whole(found, name, d) for d in found.data)]
            for name in found.claims
        ),
    )


def _whole(found: Found, name: str, data: str) -> str:
    rows = found.of(name, data)
    word = whole(rows)
    if word != "not decided":
        return in_part(rows) or word
    return f"not decided ({min(row.seeds for row in rows)} of {rows[0].wanted})"


def expectations(rows: Iterable[Row]) -> str:
    """A Markdown table of the expectations with verdict, difference and interval. Those for which
    nothing has been measured yet are only counted, in a sentence below the table.
    """
    rows = list(rows)
    begun = [row for row in rows if row.seeds]
    lines = ([r.label, r.data, r.says, r.text, difference(r)] for r in begun)
    rest = len(rows) - len(begun)
    more = f"\n\n{rest} more have not been measured yet." if rest else ""
    return table(["claim of", "data", "expected", "verdict", "difference"], lines) + more


def difference(row: Row) -> str:
    """The mean difference and, if there are enough seeds, its interval, as text; `–` if nothing was
    measured.
    """
    effect = "–" if row.effect is None else f"{row.effect:+.3f}"
    span = "" if row.low is None or row.high is None else f" [{row.low:+.3f}, {row.high:+.3f}]"
    return effect + span


def networks(sides: Sequence[Side]) -> str:
    """A Markdown table with one row for each network and data set with a measured seed: the number
    of seeds, and the accuracies on clean images and under PGD-20 and CW-100 together.

    An accuracy is the mean over the seeds and, for several seeds, in brackets the lowest and the
    highest; `–` where the accuracy on clean images was not measured.
    """
    lines = (
        [
            side.data,
            side.label,
            f"{side.seeds} of {side.wanted}",
            *map(_span, (side.clean, side.both)),
        ]
        for side in sides
        if side.seeds
    )
    return table(["data", "network", "seeds", "untouched", "under PGD-20 and CW-100"], lines)


def _span(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"
