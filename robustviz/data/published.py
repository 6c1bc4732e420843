"""What the published data sets share: each has a training and a test part, is downloaded if it is
absent, and states on its card which of its images are used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from robustviz.data import pictures, places, splits
from robustviz.data.base import Dataset, Recipe, Source
from robustviz.data.fetch import File, fetch
from robustviz.imports import load
from robustviz.types import UserError

T = TypeVar("T")
Pick = Callable[[torch.Tensor], torch.Tensor]  # indices (M,) -> images uint8 (M, C, H, W)


class Published(Source):
    """The base class of sources whose files are published for download.

    The split val is 10% of the official training part, and train is the rest of that part.
    """

    @abstractmethod
    def files(self, split: str) -> tuple[File, ...]:
        """The files to download for a split."""

    @abstractmethod
    def here(self, split: str) -> bool:
        """Whether the split's files are on this computer."""

    def fetched(self, split: str, url: str, unpack: Callable[[Path], object], by_hand: str) -> Path:
        """Download the split's files and call `unpack(folder)` on their folder.

        Returns this folder: `key` under the data root. `url` and `by_hand` are as in
        `places.download`. Raises UserError if the download fails.
        """

        def whole(target: Path) -> None:
            for file in self.files(split):
                fetch(file, target)
            unpack(target)

        return places.download(self.label, url, whole, places.root() / self.key, by_hand)

    def selected(
        self,
        split: str,
        n: int | None,
        y: torch.Tensor,
        classes: tuple[str, ...],
        pick: Pick,
        differs: str = "",
    ) -> Dataset:
        """The split, whose images are chosen from the official training or test part.

        `y` (N,) are the labels of all images in this part, and `pick` returns the images with given
        indices. `n` limits the training split. `differs` names the files whose checksum is not the
        published one, for the card.
        """
        where = splits.official(y, split, n)
        images = pick(where)
        height, width = images.shape[-2:]
        return Dataset(
            self.key,
            split,
            images,
            y[where],
            classes,
            card=f"{len(where):,} of {len(y):,} {self.label} images of the official"
            f" {part(split, 'training', 'test')} set, {height}x{width}"
            f" {'RGB' if images.shape[1] == 3 else 'grey'}, {len(classes)} classes."
            f"{f' The checksum of {differs} differs from the original.' if differs else ''}",
        )

    def photographs(
        self,
        split: str,
        n: int | None,
        place: Path,
        listing: pictures.Listing,
        whose: str,
        *,
        size: int,
        of: int,
        titles: Mapping[str, str],
    ) -> Dataset:
        """The split as a data set, made of the files in `listing` that belong to it.

        Only these files are decoded; those that cannot be read are left out, or UserError is
        raised, as by `pictures.read`. `n`: as in `load`; `place`: the folder that holds the files;
        `whose`: what the card calls the part that `listing` is, such as `test folder`; `size`: the
        side of the images in pixels; `of`: the number of classes of the full data set; `titles`:
        readable names of class folders.
        """
        chosen = listing.take(splits.official(listing.y, split, n))
        images, kept, notes = pictures.read(chosen.files, size)
        classes = distinct([titles.get(name, name) for name in listing.classes], listing.classes)
        return Dataset(
            self.key,
            split,
            images,
            chosen.y[kept],
            classes,
            names=tuple(pictures.relative(chosen.files[i], place) for i in kept.tolist()),
            card=f"{len(kept):,} of {len(listing.y):,} {self.label} images of the {whose},"
            f" {size}x{size} RGB, {f'{len(classes)} of ' if len(classes) < of else ''}{of} classes."
            f" {notes}".strip(),
        )

    def from_folders(
        self,
        split: str,
        n: int | None,
        place: Path,
        train: str,
        test: str,
        *,
        size: int,
        of: int,
        titles: Mapping[str, str],
    ) -> Dataset:
        """The split of a data set that is stored as class folders in two folders.

        `train` and `test` are the names of these folders; other arguments are as in `photographs`.
        Raises UserError if there are fewer than two classes, if the folder `test` has a class that
        `train` lacks, and as `photographs` does.
        """
        listing = pictures.list_classes(place / train)
        if len(listing.classes) < 2:
            raise UserError(
                f"{place / train} has pictures in fewer than two class folders: put at least two"
                " there."
            )
        if split == "test":
            listing = pictures.list_classes(place / test, listing.classes)
        return self.photographs(
            split,
            n,
            place,
            listing,
            f"{part(split, 'training', 'test')} folder",
            size=size,
            of=of,
            titles=titles,
        )


def laptop(augment: str) -> Recipe:
    """Training settings with which a laptop without a GPU learns a large data set in minutes.

    They use 10,000 training images, with the augmentation `augment`.
    """
    return {
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "augment": augment,
        "n_train": 10_000,
        "net": "small_resnet",
    }


def part(split: str, train: T, test: T) -> T:
    """`test` if `split` is test; `train` if `split` is train or val, which are both cut from the
    official training part. Raises UserError for another split.
    """
    return test if splits.check_split(split) == "test" else train


def rows(array: np.ndarray) -> Pick:
    """A function that returns the images with given indices from `array`, uint8 (N, C, H, W)."""
    return lambda where: torch.from_numpy(np.ascontiguousarray(array[where.numpy()]))


def torchvision(name: str, **options: object) -> Callable[[Path], object]:
    """A function that makes torchvision unpack the files of its data set `name` in a given folder,
    and download them if they are missing; `options` go to torchvision's class.
    """
    return lambda target: getattr(load("torchvision.datasets"), name)(
        str(target), download=True, **options
    )


def class_folders(key: str, other: str, train: str, test: str) -> Path | None:
    """A folder of the data set `key` under the data root with at least two class folders in each
    of its folders `train` and `test`; None if there is none.

    It is called `key` (also with `-` for `_`) or `other`; names with `-subset` or `_subset` added
    to one of these are tried last.
    """
    dashed = key.replace("_", "-")
    names = (key, dashed, other, f"{dashed}-subset", f"{key}_subset", f"{other}-subset")
    return next(
        (
            place
            for place in map(places.root().joinpath, names)
            if all(
                half.is_dir() and len(pictures.subfolders(half)) > 1
                for half in (place / train, place / test)
            )
        ),
        None,
    )


def distinct(titles: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The `titles`; where a title occurs more than once, the name at the same place in `names` (a
    class folder) is added in brackets.
    """
    return tuple(
        title if titles.count(title) == 1 else f"{title} ({name})"
        for title, name in zip(titles, names, strict=True)
    )
