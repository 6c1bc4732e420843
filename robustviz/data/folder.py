"""A person's own pictures, sorted into one folder for each class. Unless there are folders train
and test, the split of a picture depends on its content. So renaming it changes nothing, and adding
others can change its split only in a class so small that one split would be empty by content alone.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from robustviz import paths
from robustviz.data import pictures, splits
from robustviz.data.base import Dataset, Recipe, Source, unequal
from robustviz.registry import option, register
from robustviz.types import UserError, harmless

VAL_NAMES = ("val", "valid", "validation")


@register("data/folder")
@dataclass(frozen=True)
class Folder(Source):
    """The pictures in the folder `path`, stored as `class/name.png`.

    The class folders may lie in the folders `train`, `test` and `val`; if there is `val` but no
    `test`, `val` is the test split. Unless there are both `test` and `val`, the last 10% of a
    seeded shuffle of train is the val split. Without such folders, 70 / 10 / 20% of the pictures
    are train, val and test by a hash of each file's content. Pictures are rotated upright, resized
    by their shorter side and cropped to the central square of `size` pixels. Pictures of more than
    8 bits are scaled to 8, so that the value of white in their type becomes 255. Some are scaled by
    their own range of values instead: where the type does not say what white is (32 bits, signed,
    floats beyond 0 to 1), and where all values are far below white (16 bits: below an eighth of it,
    floats: below 1/255).
    """

    label = "A folder of your own"
    recipe: ClassVar[Recipe] = {
        "epochs": 20,
        "batch_size": 64,
        "lr": 0.1,
        "augment": "crop_flip",
        "n_train": None,
        "net": "small_resnet",
    }

    path: str = option("", "Folder with one subfolder of images for each class", kind="folder")
    size: int = option(32, "height and width in pixels after resizing", low=8, high=224)
    name: str = option("", "name of this data set, see `data add`", kind="name", later=True)

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 3, size, size).

        The classes are the names of the class folders, sorted; the split's `names` are file paths
        relative to `path`. Unreadable pictures are left out. Raises UserError if `path` is no
        readable folder with pictures of at least two classes, if too many pictures cannot be read
        (see `pictures.read`), or if it is not clear which folders are the classes.
        """
        splits.check_split(split)
        if not self.path:
            raise UserError(
                "No folder was given: write folder:PATH, where PATH has one folder of pictures for"
                " each class.",
                code=2,
            )
        place = Path(self.path).expanduser()
        if not place.is_dir():
            raise UserError(
                f"The folder {place}"
                f" {'is a file, not a folder' if place.exists() else 'does not exist'}: name a"
                " folder that has one folder of pictures for each class. If the pictures of a run"
                " were moved, use --data with `evaluate` and `probe`."
            )
        paths.check_open(place)
        listing, notes = _listing(place, split)
        return pictured(self, listing, split, n, place, notes)


def pictured(
    source: Source, listing: pictures.Listing, split: str, n: int | None, place: Path, notes: str
) -> Dataset:
    """Reads the pictures in `listing`, those of one split, and returns the split as a `Dataset`.

    The images are (N, 3, size, size), where size is `source.pixels`. `n` limits the training split,
    `place` is the folder or table that the pictures come from, and `notes` are sentences to add to
    the card. Raises UserError if too many pictures cannot be read, or if fewer than two classes are
    left to train on.
    """
    size = source.pixels
    most = n if split == "train" else None
    chosen = listing.take(splits.first(listing.y, torch.arange(len(listing.y)), most))
    images, kept, told = pictures.read(chosen.files, size)
    y, base = chosen.y[kept], place if place.is_dir() else place.parent
    if split == "train" and len(set(y.tolist())) < 2 and (n is None or n > 1):
        raise UserError(
            f"{place} has training pictures of fewer than two classes: add pictures to the other"
            " classes."
        )
    names = tuple(harmless(pictures.relative(chosen.files[i], base)) for i in kept.tolist())
    found = Dataset(source.called, split, images, y, _names(listing.classes), names=names)
    card = (
        f"{len(y):,} pictures of {len(listing.classes)} classes from the"
        f" {'folder' if place.is_dir() else 'table'} {place.name} (split {split}),"
        f" {size}x{size} RGB."
    )
    card = " ".join(filter(None, (card, told, notes, unequal(found))))
    return replace(found, card=harmless(card))


def _names(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the classes for people: those of the folders, made harmless, with each accented
    letter as a single character. Raises UserError if two of them would be the same.
    """
    names = tuple(harmless(unicodedata.normalize("NFC", name)) for name in folders)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"Two classes would both be shown as {twice}: rename one of them.")
    return names


def _listing(place: Path, split: str) -> tuple[pictures.Listing, str]:
    """Returns the list of a split's pictures, and sentences for the card on folders that are left
    out or may be the wrong level, and on classes too small to be split. Raises UserError if fewer
    than two classes have pictures, or if it is not clear which folders are the classes.
    """
    ready = _inside(place)
    val = next((ready[name] for name in VAL_NAMES if name in ready), None)
    test = ready.get("test", val)
    if "train" not in ready or test is None:
        return _flat(place, split, _level(place, ready))
    train = _at_least_two(ready["train"])
    _check_splits_inside([*_inside(ready["train"]).values()])
    own = {"test": test, "val": val if val is not test else None}.get(split)
    if own is not None:
        return pictures.list_classes(own, train.classes), _left_out(train)
    if split == "val" or val in (None, test):  # val is taken from the training folder
        train = train.take(splits.train_and_val(train.y, split))
    return train, _left_out(train)


def _inside(place: Path) -> dict[str, Path]:
    """The folders in `place` by their names in lower case; empty if `place` cannot be read, which
    is reported later, when its pictures are listed.
    """
    try:
        return {sub.name.lower(): sub for sub in pictures.subfolders(place)}
    except OSError:
        return {}


def _level(place: Path, inside: dict[str, Path]) -> str:
    """A sentence for the card if `place` may be one level too high, else "".

    `inside`: the folders in `place`. The sentence is given if all of them that have pictures hold
    at least two folders of the same names, which may be the real classes, and no picture directly;
    if only one of them has pictures, UserError is raised instead. UserError is also raised if a
    folder train with classes in it has neither test nor val beside it, and if there are folders of
    splits below the classes.
    """
    _check_splits_inside([*inside.values()])
    full = {
        name: {sub.name for sub in pictures.subfolders(folder) if any(pictures.pictures(sub))}
        for name, folder in inside.items()
        if any(pictures.pictures(folder))
    }
    if "train" in full and len(full["train"]) > 1:
        raise UserError(
            f"{place} has a folder train with classes in it, and neither test nor val: add one with"
            f" the same class folders, or name {inside['train']} to have its pictures split here."
        )
    shared = set.intersection(*full.values()) if full else set()
    if len(shared) < 2 or any(_loose(inside[name]) for name in full):
        return ""
    named, first = ", ".join(sorted(shared)[:3]), inside[next(iter(full))]
    if len(full) == 1:
        raise UserError(
            f"{place} looks one level too high: pictures lie in {first.name}, in the folders"
            f" {named}. Name {first}."
        )
    return (
        f"Each class folder holds the folders {named}: if those are the classes, this is one level"
        f" too high, and {first.name} or another one is to be named."
    )


def _loose(folder: Path) -> bool:
    """Whether a picture lies directly in `folder` and not only in its subfolders.

    Only the first picture listed is looked at, because those in the folder itself come first.
    """
    first = next(pictures.pictures(folder), None)
    return first is not None and first.parent == folder


def _check_splits_inside(classes: list[Path]) -> None:
    """Raises UserError if one of the class folders has at least two folders in it that are named
    after splits.
    """
    for folder in classes:
        found = _inside(folder)
        splits_in = [name for name in ("train", "test", *VAL_NAMES) if name in found]
        inner = [name for split in splits_in for name in _inside(found[split])]
        if len(splits_in) > 1 and not inner:
            raise UserError(
                f"The class folder {folder} contains {' and '.join(splits_in)}, whose pictures"
                " would be mixed: put these folders above the classes, as"
                f" {folder.parent / 'train' / folder.name}."
            )
        if len(splits_in) > 1:
            raise UserError(
                f"{folder.parent} looks one level too high: {folder.name} in it has"
                f" {' and '.join(splits_in)}. Name {folder}."
            )


def _at_least_two(place: Path) -> pictures.Listing:
    """The list of the pictures in the class folders of `place`. Raises UserError if there are fewer
    than two classes with pictures.
    """
    listing = pictures.list_classes(place)
    if len(listing.classes) > 1:
        return listing
    loose = any(pictures.pictures(place))
    why = (
        f"pictures of one class only ({listing.classes[0]})"
        if listing.classes
        else ("pictures but no class folders" if loose else "no pictures")
    )
    raise UserError(
        f"{place} has {why}: at least two folders with pictures are needed, one for each class."
    )


def _flat(place: Path, split: str, more: str) -> tuple[pictures.Listing, str]:
    listing = _at_least_two(place)
    which, few = by_content(listing)
    notes = " ".join(filter(None, (_left_out(listing), few, more)))
    return listing.take(torch.tensor(which) == splits.SPLITS.index(split)), notes


def by_content(listing: pictures.Listing) -> tuple[list[int], str]:
    """Returns the split of each picture, as its index in `splits.SPLITS`, and a sentence for the
    card.

    The split depends on the content of the file, not on its name or place. The sentence names the
    classes with too few different pictures; it is empty if there are none. Raises UserError if a
    file cannot be read.
    """
    try:
        hashes = [_content(path) for path in listing.files]
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): check its permissions."
        ) from error
    which, small = splits.by_content(hashes, listing.y.tolist())
    names = ", ".join(listing.classes[k] for k in small)
    few = f"Too few different pictures for all three splits (fewer than 3): {names}."
    return which, few if small else ""


def _content(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _left_out(listing: pictures.Listing) -> str:
    return (
        f"Folders without pictures were left out: {', '.join(listing.empty)}."
        if listing.empty
        else ""
    )
