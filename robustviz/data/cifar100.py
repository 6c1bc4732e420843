"""CIFAR-100, read from the official files (all 100 classes) or from a folder of pictures, which may
have only some of the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robustviz.data import batches, places
from robustviz.data.base import Dataset
from robustviz.data.fetch import File
from robustviz.data.published import Published, class_folders, laptop, part, rows, torchvision
from robustviz.registry import register

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
ARCHIVE = "cifar-100-python"
FILE = File(URL, "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437)


@register("data/cifar100")
@dataclass(frozen=True)
class CIFAR100(Published):
    """50,000 training and 10,000 test photographs of 100 classes, 3x32x32.

    Source: Krizhevsky 2009, as CIFAR-10.
    """

    label = "CIFAR-100"
    recipe = laptop("crop_flip")

    def files(self, split: str) -> tuple[File, ...]:
        """The one archive to download, which holds the training and the test images."""
        return (FILE,)

    def here(self, split: str) -> bool:
        """Whether the data set is on this computer, as official files or as class folders."""
        return any(self._places())

    def _places(self) -> tuple[Path | None, Path | None]:
        """The folder with the official files, and the one with class folders; None for each that
        does not exist.
        """
        return (
            places.find(("train", "test", "meta"), places.folders(self.key, ARCHIVE)),
            class_folders(self.key, "cifar-100", "train", "test"),
        )

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 3, 32, 32); downloaded if no copy is on this computer.

        From the official files, the classes are the 100 fine ones in alphabetical order.
        """
        name = part(split, "train", "test")
        place, some = self._places()
        if place is None and some is not None:
            return self.from_folders(split, n, some, "train", "test", size=32, of=100, titles={})
        place = (
            place
            or self.fetched(split, URL, torchvision("CIFAR100"), f"the folder {ARCHIVE}") / ARCHIVE
        )
        images, y, md5 = batches.pixels(place / name, "fine_labels", 100)
        meta, _ = batches.read(place / "meta")
        classes = tuple(map(batches.text, meta.get("fine_label_names", ())))
        if len(classes) != 100:
            raise places.damaged(place / "meta", f"it names {len(classes)} classes instead of 100")
        return self.selected(
            split, n, torch.from_numpy(y), classes, rows(images), "" if md5 == MD5[name] else name
        )
