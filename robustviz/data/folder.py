"""A person's own pictures, sorted into one folder a class. The split follows the content of the
files, so that renaming, adding or moving pictures never carries one that was trained on into the
test.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from robustviz import paths
from robustviz.data import pictures, splits
from robustviz.data.base import Dataset, Recipe, Source
from robustviz.registry import option, register
from robustviz.types import UserError, harmless

VAL_NAMES = ("val", "valid", "validation")


@register("data/folder")
@dataclass(frozen=True)
class Folder(Source):
    """The pictures in `path`, as `class/name.png`, with or without `train` and `test` (or `val`)
    above the classes.

    With train and test folders: the last 10 % of a seeded shuffle of train is val, unless there is
    a val folder too. Without: 70 / 10 / 20 by a hash of each file's content. Pictures are turned
    upright, resized by their short side and cropped to the middle square of `size` pixels; those of
    more than 8 bits are scaled to 8 by the white of their type; where it has none (32 bits, signed,
    floats beyond 0 to 1) or the picture stays below an eighth of it, by their own range.
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

    path: str = option("", "Folder with one subfolder of images a class", kind="folder")
    size: int = option(32, "height and width in pixels after resizing", low=8, high=224)
    name: str = option("", "what it is called here, see `data add`", kind="name", later=True)

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split: images (N, 3, size, size); classes are the folders' names, sorted; names are
        relative to `path`.
        """
        splits.check_split(split)
        if not self.path:
            raise UserError(
                "No folder is named: write folder:PATH, where PATH holds one folder of pictures for"
                " each class.",
                code=2,
            )
        place = Path(self.path).expanduser()
        if not place.is_dir():
            raise UserError(
                f"The folder {place}"
                f" {'is a file, not a folder' if place.exists() else 'does not exist'}: name a"
                " folder that holds one folder of pictures for each class."
            )
        paths.check_open(place)
        listing, notes = _listing(place, split)
        most = n if split == "train" else None
        chosen = listing.take(splits.first(listing.y, torch.arange(len(listing.y)), most))
        images, kept, told = pictures.read(chosen.files, self.size)
        y = chosen.y[kept]
        if split == "train" and len(set(y.tolist())) < 2 and (n is None or n > 1):
            raise UserError(
                f"{place} leaves pictures of fewer than two classes to train on: add pictures to"
                " the other classes."
            )
        return Dataset(
            self.key,
            split,
            images,
            y,
            _names(listing.classes),
            names=tuple(harmless(pictures.relative(chosen.files[i], place)) for i in kept.tolist()),
            card=harmless(
                f"{len(y):,} pictures of {len(listing.classes)} classes from the folder"
                f" {place.name}, {self.size}x{self.size} RGB."
                + "".join(f" {sentence}" for sentence in (told, notes) if sentence)
            ),
        )


def _names(folders: tuple[str, ...]) -> tuple[str, ...]:
    """The classes' names as they are shown everywhere. Raises UserError where two look alike."""
    names = tuple(map(harmless, folders))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"Two class folders would both be shown as {twice}: rename one of them.")
    return names


def _listing(place: Path, split: str) -> tuple[pictures.Listing, str]:
    """The pictures of a split, and what the card says of those that are left out."""
    ready = {sub.name.lower(): sub for sub in pictures.subfolders(place)}
    val = next((ready[name] for name in VAL_NAMES if name in ready), None)
    test = ready.get("test", val)
    if "train" not in ready or test is None:
        return _flat(place, split)
    train = _at_least_two(ready["train"])
    own = {"test": test, "val": val if val is not test else None}.get(split)
    if own is not None:
        return pictures.list_classes(own, train.classes), _left_out(train)
    if split == "val" or val in (None, test):  # a part of the training folder is val
        train = train.take(splits.train_and_val(train.y, split))
    return train, _left_out(train)


def _at_least_two(place: Path) -> pictures.Listing:
    """The pictures in the class folders of `place`. Raises UserError where that are fewer than two
    classes.
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
        f"{place} has {why}: telling classes apart needs at least two folders with pictures, one"
        " for each class."
    )


def _flat(place: Path, split: str) -> tuple[pictures.Listing, str]:
    listing = _at_least_two(place)
    try:
        # it follows the picture, not its name or its place
        hashes = [_content(path) for path in listing.files]
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): check its permissions."
        ) from error
    which, small = splits.by_content(hashes, listing.y.tolist())
    names = ", ".join(listing.classes[k] for k in small)
    few = f"Too few different pictures for all three splits (fewer than 3): {names}."
    notes = " ".join(filter(None, (_left_out(listing), few if small else "")))
    return listing.take(torch.tensor(which) == splits.SPLITS.index(split)), notes


def _content(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _left_out(listing: pictures.Listing) -> str:
    return (
        f"Folders without pictures were left out: {', '.join(listing.empty)}."
        if listing.empty
        else ""
    )
