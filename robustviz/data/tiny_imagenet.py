"""Tiny-ImageNet: photographs of 200 classes, 64x64 pixels, read from the official archive's layout
or from class folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robustviz.data import pictures, places
from robustviz.data.base import Dataset
from robustviz.data.fetch import File
from robustviz.data.published import Published, class_folders, laptop, part
from robustviz.imports import load
from robustviz.registry import register

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ARCHIVE = "tiny-imagenet-200"
FILE = File(URL, "tiny-imagenet-200.zip", MD5, 248_100_043)
ANNOTATIONS = "val/val_annotations.txt"


@register("data/tiny_imagenet")
@dataclass(frozen=True)
class TinyImageNet(Published):
    """100,000 training and 10,000 test photographs of 200 classes, 3x64x64.

    The official test set has no labels, so the test split here is the official validation set.
    Source: Stanford CS231n.
    """

    label = "Tiny-ImageNet"
    default_eps = 4 / 255
    recipe = laptop("crop_flip")

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 3, 64, 64); the classes are ordered by their WordNet ids.

        It is downloaded if it is not on this computer.
        """
        whose = f"{part(split, 'training', 'validation')} set"
        place, some = self._official(), self._folders()
        if place is None and some is not None:
            return self.from_folders(
                split, n, some, "train", "val", size=64, of=200, titles=_titles(some)
            )
        if place is None:
            target = self.fetched(split, URL, _fetch, f"the unpacked folder {ARCHIVE}")
            place = self._official() or target / ARCHIVE
        listing = pictures.list_classes(place / "train")
        if len(listing.classes) < 2:
            raise places.damaged(place / "train", "it has pictures in fewer than two class folders")
        if split == "test":
            listing = _annotated(place, listing.classes)
        return self.photographs(
            split, n, place, listing, whose, size=64, of=200, titles=_titles(place)
        )

    def files(self, split: str) -> tuple[File, ...]:
        """The one archive to download, which holds the training and the test images."""
        return (FILE,)

    def here(self, split: str) -> bool:
        """Whether the data set is on this computer, unpacked from the official archive or as class
        folders.
        """
        return any((self._official(), self._folders()))

    def _folders(self) -> Path | None:
        return class_folders(self.key, ARCHIVE, "train", "val")

    def _official(self) -> Path | None:
        return places.find((ANNOTATIONS,), places.folders(self.key, ARCHIVE))


def _annotated(place: Path, classes: tuple[str, ...]) -> pictures.Listing:
    """The list of the pictures in the official val folder; a table there has their classes."""
    number = {name: k for k, name in enumerate(classes)}
    table = [line.split("\t") for line in (place / ANNOTATIONS).read_text("utf-8").splitlines()]
    rows = [row for row in table if len(row) > 1 and row[1] in number]
    return pictures.Listing(
        classes,
        tuple(place / "val" / "images" / row[0] for row in rows),
        torch.tensor([number[row[1]] for row in rows], dtype=torch.int64),
    )


def _fetch(target: Path) -> None:
    load("torchvision.datasets.utils").download_and_extract_archive(
        URL, str(target), md5=MD5, remove_finished=True
    )


def _titles(place: Path) -> dict[str, str]:
    """The first English name of each WordNet id that `classes.tsv` or `words.txt` lists."""
    for name in ("classes.tsv", "words.txt"):
        if (place / name).is_file():
            lines = (place / name).read_text("utf-8").splitlines()
            rows = (line.split("\t", 1) for line in lines if "\t" in line)
            return {wordnet: names.split(",")[0].strip() for wordnet, names in rows}
    return {}
