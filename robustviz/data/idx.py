"""The idx file format of MNIST and similar sets. Files are read packed (`.gz`) or unpacked, so that
a read-only folder of `.gz` files needs no second, unpacked copy.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robustviz.data import places
from robustviz.data.base import Dataset
from robustviz.data.fetch import File
from robustviz.data.published import Published, part, rows, torchvision

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class Idx(Published):
    """The base class of data sets of 28x28 grey pictures in idx files.

    `archive` is the data set's name in torchvision, `url` the download address. `md5` has the
    checksum of each file's unpacked content; a file that differs is used, and the card says so.
    `packed` has the md5 and the size in bytes of each file as published (`.gz`).
    """

    classes: ClassVar[tuple[str, ...]]
    archive: ClassVar[str]
    url: ClassVar[str]
    md5: ClassVar[Mapping[str, str]]
    packed: ClassVar[Mapping[str, tuple[str, int]]]

    def files(self, split: str) -> tuple[File, ...]:
        """The files to download: all four for every split, as torchvision unpacks them together."""
        return tuple(
            File(f"{self.url}{name}.gz", f"{self.archive}/raw/{name}.gz", md5, size)
            for name, (md5, size) in self.packed.items()
        )

    def here(self, split: str) -> bool:
        """Whether the two files of the split, images and labels, are on this computer."""
        return self._place(split) is not None

    def _place(self, split: str) -> Path | None:
        names = part(split, FILES["train"], FILES["test"])
        return places.find(names, places.folders(self.key, f"{self.archive}/raw", "raw"))

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 1, 28, 28); downloaded if it is not on this computer.

        Raises UserError if the download fails, or if a file is damaged.
        """
        names = part(split, FILES["train"], FILES["test"])
        place = self._place(split) or (
            self.fetched(
                split, self.url, torchvision(self.archive, train=True), "the four idx files (.gz)"
            )
            / f"{self.archive}/raw"
        )
        raw = {name: content(place / name) for name in names}
        images, y = (parse(held, place / name) for name, held in raw.items())
        if (
            images.ndim != 3
            or images.shape[1:] != (28, 28)
            or y.shape != images.shape[:1]
            or not len(y)
        ):
            raise places.damaged(
                place, f"images {images.shape} and labels {y.shape} do not belong together"
            )
        if (most := int(y.max())) >= len(self.classes):
            raise places.damaged(
                place / names[1],
                f"it has the label {most}, but {self.label} has {len(self.classes)} classes",
            )
        return self.selected(
            split,
            n,
            torch.from_numpy(y.astype(np.int64)),
            self.classes,
            lambda where: rows(images)(where).unsqueeze(1),
            " and ".join(n for n, held in raw.items() if places.md5(held) != self.md5[n]),
        )


def content(path: Path) -> bytes:
    """The bytes of the file `path` or, if there is none, of `path.gz` unpacked.

    Raises UserError if `path.gz` is damaged or missing.
    """
    if path.is_file():
        return path.read_bytes()
    packed = path.with_name(path.name + ".gz")
    try:
        return gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise places.damaged(packed, f"it cannot be unpacked ({error})") from error


def parse(raw: bytes, path: Path) -> np.ndarray:
    """The uint8 array in the bytes `raw` of an idx file, in the shape that its header states.

    Raises UserError, naming `path`, if the bytes are not a complete idx file.
    """
    dims = raw[3] if len(raw) >= 4 and raw[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(raw, ">u4", dims, 4).tolist() if dims and len(raw) >= 4 + 4 * dims else []
    if not shape or len(raw) != 4 + 4 * dims + int(np.prod(shape)):
        raise places.damaged(path, "it is not a complete idx file of bytes")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)
