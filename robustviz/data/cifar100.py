"""CIFAR-100, complete from the official files, or the classes that a folder of pictures has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from robustviz.data import batches, pictures, places
from robustviz.data.base import Dataset, Recipe, Source, check_split
from robustviz.data.splits import official
from robustviz.registry import register
from robustviz.types import UserError

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


@register("data/cifar100")
@dataclass(frozen=True)
class CIFAR100(Source):
    """50,000 + 10,000 small photographs of 100 classes, 3x32x32. Source: Krizhevsky 2009, as
    CIFAR-10.
    """

    label = "CIFAR-100"
    recipe: ClassVar[Recipe] = {
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "augment": "crop_flip",
        "n_train": 10_000,
        "net": "small_resnet",
    }

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split: images (N, 3, 32, 32); classes are the fine ones, in alphabetical order."""
        check_split(split)
        names = ("train", "test", "meta")
        place = places.find(names, places.folders("cifar100", "cifar-100-python"))
        some = class_folders("cifar100", "cifar-100", "train", "test")
        if place is None and some is not None:
            return from_folders(
                "cifar100", "CIFAR-100", some, "train", "test", split, n, size=32, of=100
            )
        if place is None:

            def fetch(target: Path) -> None:
                import torchvision.datasets

                torchvision.datasets.CIFAR100(str(target), download=True)

            places.download(
                "CIFAR-100", URL, fetch, places.root() / "cifar100", "the folder cifar-100-python"
            )
            place = places.root() / "cifar100" / "cifar-100-python"
        name = "test" if split == "test" else "train"
        entry, md5 = batches.read(place / name)
        images, labels = batches.pixels(entry, "fine_labels", 100, place / name)
        classes = tuple(
            batches.text(label)
            for label in batches.read(place / "meta")[0].get("fine_label_names", ())
        )
        if len(classes) != 100:
            raise places.damaged(place / "meta", f"it names {len(classes)} classes instead of 100")
        y = torch.from_numpy(labels)
        where = official(y, split, n)
        kind = "test" if name == "test" else "training"
        card = (
            f"{len(where):,} of {len(y):,} CIFAR-100 images of the official {kind} set, 32x32 RGB,"
            " 100 classes."
        )
        if md5 != MD5[name]:
            card += f" The checksum of {name} differs from the original."
        return Dataset(
            "cifar100", split, torch.from_numpy(images[where.numpy()]), y[where], classes, card=card
        )


def class_folders(key: str, other: str, train: str, test: str) -> Path | None:
    """The first folder under the root with class folders of `key` in `train` and `test`; `-subset`
    names come last.
    """
    dashed = key.replace("_", "-")
    for name in (key, dashed, other, f"{dashed}-subset", f"{key}_subset", f"{other}-subset"):
        place = places.root() / name
        if all(
            (place / part).is_dir() and len(pictures.subfolders(place / part)) > 1
            for part in (train, test)
        ):
            return place
    return None


def from_folders(
    key: str,
    label: str,
    place: Path,
    train: str,
    test: str,
    split: str,
    n: int | None,
    *,
    size: int,
    of: int,
    titles: dict[str, str] | None = None,
) -> Dataset:
    """The split of a data set that lies as class folders in `place/train` and `place/test`; only
    its own files are decoded.

    `of` is how many classes the full set has; `titles` gives readable names to folders.
    """
    listing = pictures.list_classes(place / train)
    if len(listing.classes) < 2:
        raise UserError(
            f"{place / train} has pictures in fewer than two class folders: put at least two there."
        )
    if split == "test":
        listing = pictures.list_classes(place / test, listing.classes)
    where = official(listing.y, split, n)
    files = [listing.files[i] for i in where.tolist()]
    images, kept, notes = pictures.read(files, size)
    classes = (
        listing.classes
        if titles is None
        else distinct([titles.get(name, name) for name in listing.classes], listing.classes)
    )
    among = f"{len(classes)} of {of} classes" if len(classes) < of else f"{of} classes"
    kind = "test" if split == "test" else "training"
    card = (
        f"{len(kept):,} of {len(listing.y):,} {label} images of the {kind} folder, {size}x{size}"
        f" RGB, {among}."
    )
    names = tuple(pictures.relative(files[i], place) for i in kept.tolist())
    return Dataset(
        key,
        split,
        images,
        listing.y[where[kept]],
        classes,
        names=names,
        card=f"{card} {notes}".strip(),
    )


def distinct(titles: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """Titles, with the folder's name added where two are the same."""
    return tuple(
        title if titles.count(title) == 1 else f"{title} ({name})"
        for title, name in zip(titles, names, strict=True)
    )
