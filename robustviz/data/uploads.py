"""Uploads: pictures from a zip, a folder, single files or arrays are written to a *draft*, a folder
of PNGs with one folder for each class, which the user looks at and then keeps or deletes. File
types are recognised by content, not by name. Only the central square of a picture is stored,
upright, as 8-bit RGB.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from robustviz.data import arrays, own, pictures, sent
from robustviz.types import UserError, harmless

MOST_PICTURES = 20_000
MOST_CLASSES = 1000
MOST_SECONDS = 300
DRAFT = ".draft-"
KEPT_HOURS = 24  # after which an abandoned draft is deleted
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)

Tell = Callable[[int, int], object]


@dataclass(frozen=True)
class Entry:
    """A file that was sent: its `path` on the sender's side, and `read()` for its bytes."""

    path: PurePosixPath
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Report:
    """The result of an upload: the number of pictures written to the draft (`taken`), and `notes`,
    sentences on what was changed or left out.
    """

    taken: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """The class `name` of a picture, and its `split`: train, val, test, or "" if it has none."""

    split: str
    name: str


@dataclass
class _Found:
    """The result of sorting files by their folders: those to read, each with its class and split,
    and sentences for the user.
    """

    places: list[tuple[Entry, Place]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def new_draft() -> Path:
    """Makes an empty folder for a new draft and returns it; drafts older than a day are deleted.

    Raises UserError if the folder cannot be made.
    """
    home = own.home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        for old in home.glob(f"{DRAFT}*"):
            if time.time() - old.stat().st_mtime > KEPT_HOURS * 3600:
                shutil.rmtree(old, ignore_errors=True)
        draft = home / f"{DRAFT}{secrets.token_hex(8)}"
        draft.mkdir()
    except OSError as error:
        raise UserError(
            f"{home} cannot be written to ({error.strerror or error}): check its permissions, or"
            " set ROBUSTVIZ_RUNS."
        ) from error
    return draft


def throw_away(draft: Path) -> None:
    """Delete a draft; any other folder is left as it is."""
    if draft.name.startswith(DRAFT):
        shutil.rmtree(draft, ignore_errors=True)


def images_of(draft: Path) -> Path:
    """The folder of a draft that holds the pictures; it may not exist yet."""
    return draft / "pictures"


def take_in(
    draft: Path, entries: Sequence[Entry], name: str = "", tell: Tell = lambda done, total: None
) -> Report:
    """Check files and write those that are pictures into a draft; returns a report.

    Their classes are taken from the names of their folders, or all are of class `name` if it is
    given. A picture sent in two classes is left out of both, and deleted from the draft if an
    earlier upload put it there. Hidden files are ignored. `tell(done, total)` is called after each
    file, with numbers of files. Raises UserError with one sentence if no file is a picture that can
    be read, if there are too many files or classes, if reading takes longer than `MOST_SECONDS`, or
    if the classes or splits do not fit those of the draft; the draft is then unchanged.
    """
    found = _sort(entries, name)
    before = _kept(draft)
    _check(found.places, before)
    incoming = draft / ".incoming"
    incoming.mkdir(exist_ok=True)
    try:
        return _take(draft, incoming, found, before, tell)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _sort(entries: Sequence[Entry], name: str) -> _Found:
    """Finds the class and split of each file from its folders; all are of class `name`, without a
    split, if it is given. Hidden files are dropped. Raises UserError if there are no files, too
    many, or no folders to tell the classes.
    """
    found = _Found()
    files = [entry for entry in entries if not any(map(pictures.hidden, entry.path.parts))]
    if len(files) > MOST_PICTURES:
        raise UserError(
            f"These are {len(files):,} files; an upload can have at most {MOST_PICTURES:,}: add the"
            " folder on the command line with `python -m robustviz data add folder:PATH --name"
            " NAME`."
        )
    if not files:
        raise UserError("It has no files: choose a zip or a folder with pictures.")
    if name:
        found.places = [(entry, Place("", class_name(name))) for entry in files]
        return found
    folders = [entry.path.parts[:-1] for entry in files]
    while len({parts[:1] for parts in folders if parts}) == 1 and any(
        len(parts) > 1 for parts in folders
    ):
        folders = [parts[1:] for parts in folders]  # drop a folder that all files share
    inside = [parts for parts in folders if parts]
    if not inside:
        raise UserError(
            "These pictures are not in folders, so their classes are unknown: put each class into"
            " a folder of its own, or send them class by class."
        )
    if loose := len(folders) - len(inside):
        found.notes.append(f"{_files(loose)} outside the class folders left out.")
    split_at = _split_level(inside)
    if split_at == 1:
        found.notes.append("The folders train and test inside the classes are taken as the split.")
    for entry, parts in zip(files, folders, strict=True):
        if not parts:
            continue
        if split_at is None:
            found.places.append((entry, Place("", class_name(parts[0]))))
        elif len(parts) > 1 and parts[split_at].lower() in SPLITS:
            place = Place(SPLITS[parts[split_at].lower()], class_name(parts[1 - split_at]))
            found.places.append((entry, place))
    if split_at is None and (high := _too_high(inside)):
        found.notes.append(high)
    if left := len(inside) - len(found.places):
        found.notes.append(f"{_files(left)} outside the folders train and test left out.")
    return found


def _split_level(folders: list[tuple[str, ...]]) -> int | None:
    """The level, 0 or 1, at which the folders are named after splits; None if there is none.

    At that level there must be a train folder and a test or val folder; at level 1, inside the
    classes, there must be no folder of another name.
    """
    for level in (0, 1):
        deep = [parts[level].lower() for parts in folders if len(parts) > level]
        named = {SPLITS.get(part) for part in deep}
        if "train" in named and named & {"test", "val"} and (level == 0 or None not in named):
            return level
    return None


def _too_high(folders: list[tuple[str, ...]]) -> str:
    """A hint that the folder may be one level too high, if every class holds only folders, at least
    two of them; else an empty text.
    """
    below: dict[str, set[str]] = {}
    for parts in folders:
        below.setdefault(parts[0], set()).add(parts[1] if len(parts) > 1 else "")
    if any("" in names or len(names) < 2 for names in below.values()):
        return ""
    first, names = next(iter(below.items()))
    some = ", ".join(harmless(one) for one in sorted(names)[:3])
    return (
        f"{harmless(first)} contains only folders ({some}): if these are the classes, send"
        f" {harmless(first)} alone."
    )


def class_name(raw: str) -> str:
    """The name of a class for people and for its folder: `raw` without `: * ? " /`, with characters
    of Markdown and HTML replaced, and cut to 60 characters. Raises UserError if nothing is left.
    """
    plain = harmless(unicodedata.normalize("NFC", raw)).translate(dict.fromkeys(map(ord, ':*?"/')))
    short = plain.strip(" .")[:60].strip(" .")
    if not short:
        raise UserError("A class has no name: name its folder, or write one.")
    return short


def _check(places: list[tuple[Entry, Place]], before: dict[str, Place]) -> None:
    """Raises UserError if the names of two classes differ only in upper and lower case, if there
    are too many classes or pictures, or if only some of the pictures have a split. `before`: the
    pictures already in the draft.
    """
    every = [place for _, place in places] + list(before.values())
    names = sorted({place.name for place in every})
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f"Two classes are called {other} and {name}: give them other names.")
    if len(names) > MOST_CLASSES:
        raise UserError(f"These are {len(names):,} classes; at most {MOST_CLASSES:,} are allowed.")
    if len({bool(place.split) for place in every}) > 1:
        raise UserError(
            "Some of these pictures lie in folders train and test, and others do not: sort all of"
            " them, or none."
        )
    if len(every) > MOST_PICTURES:
        raise UserError(
            f"That makes {len(every):,} pictures; at most {MOST_PICTURES:,} are allowed."
        )


def _kept(draft: Path) -> dict[str, Place]:
    """The class and split of each picture in a draft, by the hash in its file name."""
    home, kept = images_of(draft), {}
    for path in home.rglob("*.png"):
        parts = path.relative_to(home).parts
        kept[path.stem.rpartition("-")[2]] = Place(parts[0] if len(parts) == 3 else "", parts[-2])
    return kept


@dataclass
class _Tally:
    """What has been written to a draft from one upload so far, and what was left out.

    By hash, `before` has the pictures that were in the draft already, `taken` those of this upload;
    `written` are the latter's files. `said` counts what was done to them. `bad` and `double` name
    the files that cannot be read or were sent twice; `unclear` are hashes of pictures in two
    classes.
    """

    draft: Path
    before: dict[str, Place]
    taken: dict[str, Place] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    unclear: set[str] = field(default_factory=set)

    def enter(self, entry: Entry, place: Place, result: sent.Picture | str) -> None:
        """Write a picture to its place, unless the draft has it already or it could not be read.

        If it could not be read, `result` is the reason, as text.
        """
        shown = harmless(entry.path)
        if isinstance(result, str):
            self.bad.append(f"{shown} ({harmless(result)})")
            return
        known = self.taken.get(result.hash) or self.before.get(result.hash)
        if known is not None:
            self.double.append(shown)
            if known.name != place.name:
                self.unclear.add(result.hash)
            return
        path = images_of(self.draft) / place.split / place.name / _file(entry, result.hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.written.append(path)
        path.write_bytes(result.png)
        self.taken[result.hash] = place
        self.said.update(result.done)

    def undo(self) -> None:
        """Restore the draft as it was before this upload."""
        for path in self.written:
            path.unlink(missing_ok=True)
        _tidy(self.draft)

    def report(self, notes: list[str]) -> Report:
        """The report on this upload. Pictures that lay in two classes are removed from the draft
        first.
        """
        lost = _forget(self.draft, self.unclear)
        notes = [*notes, *(f"{_pictures(n)} {what}." for what, n in self.said.items())]
        if self.bad:
            notes.append(f"{_files(len(self.bad))} left out, the first: {self.bad[0]}.")
        if self.double:
            twice = _pictures(len(self.double))
            notes.append(f"{twice} sent a second time and left out, the first: {self.double[0]}.")
        if lost:
            notes.append(f"{_pictures(lost)} in two classes left out of both.")
        return Report(len(self.taken) - len(self.unclear & set(self.taken)), tuple(notes))


def _take(
    draft: Path, incoming: Path, found: _Found, before: dict[str, Place], tell: Tell
) -> Report:
    deadline, count = time.monotonic() + MOST_SECONDS, len(found.places)
    tally = _Tally(draft, before)

    def attempt(row: int) -> sent.Picture | str:
        if time.monotonic() > deadline:
            raise UserError(
                f"Looking at these files takes longer than {MOST_SECONDS // 60} minutes: send"
                " fewer or smaller ones, or name the folder on the command line."
            )
        try:
            return sent.read(found.places[row][0].read(), incoming / str(row))
        except Exception as error:  # Pillow raises many types of error for a broken file
            return " ".join(str(error).split())[:120] or type(error).__name__

    pool = ThreadPoolExecutor(2)
    try:
        for row, result in enumerate(pool.map(attempt, range(count))):
            tally.enter(*found.places[row], result)
            tell(row + 1, count)
        if not tally.taken and not tally.double:
            first = tally.bad[0]
            raise UserError(f"None of {_files(count)} is a picture that can be taken: {first}.")
    except BaseException as error:  # also if the user has left the page
        pool.shutdown(cancel_futures=True)
        tally.undo()
        if isinstance(error, OSError):
            raise UserError(f"Nothing could be written ({error.strerror or error}).") from error
        raise
    pool.shutdown()
    return tally.report(found.notes)


def _file(entry: Entry, digest: str) -> str:
    """The file name of a picture: the plain characters of its own name, and the hash of its
    pixels.
    """
    stem = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", entry.path.stem))[:40].strip("_")
    return f"{stem or 'picture'}-{digest}.png"


def _forget(draft: Path, hashes: Iterable[str]) -> int:
    """Delete the pictures with these hashes from a draft; returns how many were deleted."""
    lost = 0
    for digest in hashes:
        for path in images_of(draft).rglob(f"*-{digest}.png"):
            path.unlink()
            lost += 1
    _tidy(draft)
    return lost


def _tidy(draft: Path) -> None:
    """Remove the empty folders of a draft."""
    for place in sorted(images_of(draft).rglob("*"), reverse=True):
        if place.is_dir():
            with suppress(OSError):
                place.rmdir()


def _files(count: int) -> str:
    return f"{count:,} file" + "s" * (count != 1)


def _pictures(count: int) -> str:
    return f"{count:,} picture" + "s" * (count != 1)


def take_arrays(
    draft: Path,
    found: arrays.Arrays,
    reading: str,
    order: str = arrays.RGB,
    name: str = "",
    tell: Tell = lambda done, total: None,
) -> Report:
    """Write the images of a NumPy file into a draft.

    `reading` is the key in `arrays.READINGS` by which numbers are converted to pixels, and `order`
    the order of the channels. Images without labels are of class `name`. The splits of `found` are
    kept if train and at least one other are among them. `tell` and the result are as in `take_in`.
    Raises UserError as `take_in` does, and if there are neither labels nor a `name`.
    """
    entries: list[Entry] = []
    named = {part.split for part in found.parts} - {""}
    for part in found.parts:
        if part.y is None and not name:
            raise UserError(
                "These images have no labels: save x and y in one file, or write which class all"
                " of them are."
            )
        sorted_out = len(found.parts) > 1 and "train" in named and bool(named - {"train"})
        split = part.split if sorted_out else ""
        wide = len(str(len(part.x)))
        for row in range(len(part.x)):
            label = name if part.y is None else _label(found.classes, int(part.y[row]))
            path = PurePosixPath(split, class_name(label), f"{row:0{wide}}.png")

            def write(x: np.ndarray = part.x, row: int = row) -> bytes:
                pixels = arrays.to_bytes(x[row : row + 1], reading, order)[0]
                return sent.packed(
                    np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
                )[0]

            entries.append(Entry(path, write))
    return take_in(draft, entries, "" if any(p.y is not None for p in found.parts) else name, tell)


def _label(classes: tuple[str, ...], y: int) -> str:
    return classes[y] if classes else str(y)


def counts(draft: Path) -> dict[str, dict[str, int]]:
    """The number of pictures by class and split, as `{class: {split: count}}` with sorted classes.

    The split is an empty text for pictures without one.
    """
    tally: dict[str, dict[str, int]] = {}
    for place in sorted(_kept(draft).values(), key=lambda place: (place.name, place.split)):
        by_split = tally.setdefault(place.name, {})
        by_split[place.split] = by_split.get(place.split, 0) + 1
    return tally


def examples(draft: Path, name: str, most: int) -> list[Path]:
    """The paths of at most `most` pictures of class `name` in a draft, the first alphabetically."""
    found = (path for path in images_of(draft).rglob("*.png") if path.parent.name == name)
    return list(itertools.islice(sorted(found), most))


def keep(draft: Path, name: str, size: int, card: str = "") -> own.Own:
    """Turn a draft into the user's data set `name`, whose images will have `size` × `size` pixels:
    its pictures are moved, and the draft is deleted. Returns the data set.

    Raises UserError if the name is invalid or taken, if there are fewer than two classes, or if the
    pictures cannot be split or moved; the draft is then unchanged.
    """
    from robustviz.data.folder import Folder

    own.check_name(name)
    if len(found := counts(draft)) < 2:
        what = f"pictures of one class only ({next(iter(found))})" if found else "no pictures"
        raise UserError(f"These are {what}: at least two classes are needed.")
    # raises UserError if the pictures cannot be split
    Folder(str(images_of(draft)), size).load("train", 1)
    target = own.folder(name)
    try:
        target.mkdir(parents=True, exist_ok=True)
        os.replace(images_of(draft), images_of(target))
    except OSError as error:
        raise UserError(
            f"{target} could not be written ({error.strerror or error}): choose another name."
        ) from error
    try:
        kept = own.add(name, Folder(str(images_of(target)), size), card)
    except BaseException:  # a full disk, say: the draft gets its pictures back
        os.replace(images_of(target), images_of(draft))
        raise
    throw_away(draft)
    return kept
