"""Pictures that a table lists: a CSV file with the columns `path`, `label` and `split`."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from robustviz import paths
from robustviz.data import pictures, splits
from robustviz.data.base import Dataset, Recipe, Source
from robustviz.data.folder import VAL_NAMES, Folder, by_content, pictured
from robustviz.registry import option, register
from robustviz.types import UserError, harmless

SAID = {**dict.fromkeys(("train", "training"), 0), **dict.fromkeys(VAL_NAMES, 1), "test": 2}
MOST_BYTES = 500_000_000


@register("data/manifest", offered=False)
@dataclass(frozen=True)
class Manifest(Source):
    """The pictures that the CSV file `path` lists, one in each row.

    Its columns: `path` (relative to the folder of the CSV file, or absolute), `label` (any text),
    and `split` (train, val or test; in every row or in none). If no row is val, the last 10% of a
    seeded shuffle of train is val. If the column `split` is missing or empty, 70 / 10 / 20% are
    train, val and test by a hash of each picture's content. Other columns are ignored. Pictures are
    read as in `Folder`.
    """

    label = "A table of your own pictures"
    recipe: ClassVar[Recipe] = Folder.recipe

    path: str = option("", "CSV file with the columns path, label, split", kind="folder")
    size: int = option(32, "height and width in pixels after resizing", low=8, high=224)
    name: str = option("", "name of this data set, see `data add`", kind="name", later=True)

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 3, size, size).

        The classes are the labels: numbers first, in numerical order, then other texts, sorted. The
        split's `names` are file paths relative to the folder of the CSV file. Raises UserError if
        the table or a picture in it is missing, if a row is incomplete or repeats a picture, if
        there are fewer than two labels, or if the split has no row.
        """
        splits.check_split(split)
        place = Path(self.path).expanduser()
        if not self.path or not place.is_file():
            raise UserError(
                f"The table {place if self.path else '(none is named)'} does not exist: name a CSV"
                " file with the columns path, label and split."
            )
        paths.check_open(place)
        listing, which, notes = _table(place)
        chosen = listing.take(torch.tensor(which) == splits.SPLITS.index(split))
        if 1 not in which and split != "test":
            train = listing.take(torch.tensor(which) == 0)
            chosen = train.take(splits.train_and_val(train.y, split))
        if not chosen.files:
            raise UserError(f"{place} has no row whose split is {split}: add some.")
        return pictured(self, chosen, split, n, place, notes)


def _table(place: Path) -> tuple[pictures.Listing, list[int], str]:
    """Returns the table's pictures, the split of each as its index in `splits.SPLITS`, and "" or a
    sentence for the card. Raises UserError for an invalid table, as `Manifest.load` says.
    """
    rows = _rows(place)
    labels = sorted({row["label"] for _, row in rows}, key=_by_number)
    if len(labels) < 2:
        raise UserError(
            f"{place} has fewer than two labels ({', '.join(map(harmless, labels)) or 'none'}):"
            " at least two are needed."
        )
    at = {label: k for k, label in enumerate(labels)}
    files = tuple(place.parent / row["path"] for _, row in rows)
    y = torch.tensor([at[row["label"]] for _, row in rows], dtype=torch.int64)
    listing = pictures.Listing(tuple(labels), files, y)
    _check_files(place, rows, files)
    if not any(row["split"] for _, row in rows):
        return (listing, *by_content(listing))
    return listing, [_split(place, line, row["split"]) for line, row in rows], ""


def _rows(place: Path) -> list[tuple[int, dict[str, str]]]:
    """The table's rows as (line number, cells by column name). Raises UserError if the file is not
    such a table, or if a row lacks its path or label.
    """
    if place.stat().st_size > MOST_BYTES:
        raise UserError(f"{place} is larger than {MOST_BYTES // 1_000_000} MB: split it.")
    try:
        with open(place, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
            if missing := [name for name in ("path", "label") if name not in columns]:
                found = ", ".join(map(harmless, list(columns.values())[:6])) or "none"
                raise UserError(
                    f"{place} has no column {missing[0]} (its columns: {found}): the first line"
                    " should be path,label,split."
                )
            rows = [
                (reader.line_num, {key: _cell(row, columns, key) for key in (*columns, "split")})
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = "it is not in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise UserError(f"{place} cannot be read as a CSV file: {why}.") from error
    for line, row in rows:
        if not row["path"] or not row["label"]:
            raise UserError(f"Line {line} of {place} lacks its path or its label: fill it in.")
    return rows


def _cell(row: dict[str, str], columns: dict[str, str], name: str) -> str:
    return (row.get(columns.get(name, "")) or "").strip()


def _check_files(
    place: Path, rows: list[tuple[int, dict[str, str]]], files: tuple[Path, ...]
) -> None:
    """Raises UserError if a picture is missing, or listed in two rows."""
    lines: dict[str, int] = {}
    for (line, row), file in zip(rows, files, strict=True):
        if not pictures.ordinary(file):
            raise UserError(
                f"Line {line} of {place} names {harmless(row['path'])}, and there is no such file"
                " that may be read: paths count from the table's own folder."
            )
        first = lines.setdefault(os.path.normpath(file), line)
        if first != line:
            raise UserError(
                f"Lines {first} and {line} of {place} name the same picture,"
                f" {harmless(row['path'])}: one that is trained on must not be tested on."
            )


def _split(place: Path, line: int, text: str) -> int:
    if text.lower() not in SAID:
        raise UserError(
            f"Line {line} of {place} has the split {harmless(text)!r}: write train, val or test in"
            " every row, or leave the split out of all rows."
        )
    return SAID[text.lower()]


def _by_number(label: str) -> tuple[bool, int, str]:
    number = label.isdecimal() and len(label) < 10
    return not number, int(label) if number else 0, label
