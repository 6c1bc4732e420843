"""The idx format of MNIST and its kin, read as it is published: packed or not, so that a read-only
folder of `.gz` files needs no second, unpacked copy.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from robustviz.data import places
from robustviz.data.base import Dataset, check_split
from robustviz.data.splits import official

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def content(path: Path) -> bytes:
    """The bytes of `path`, or of `path.gz` unpacked. Raises UserError where the archive is
    damaged.
    """
    if path.is_file():
        return path.read_bytes()
    packed = path.with_name(path.name + ".gz")
    try:
        return gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise places.damaged(packed, f"it cannot be unpacked ({error})") from error


def parse(raw: bytes, path: Path) -> np.ndarray:
    """The uint8 array in the bytes of an idx file, with the shape that its head states. Raises
    UserError.
    """
    dims = raw[3] if len(raw) >= 4 and raw[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(raw, ">u4", dims, 4).tolist() if dims and len(raw) >= 4 + 4 * dims else []
    if not shape or len(raw) != 4 + 4 * dims + int(np.prod(shape)):
        raise places.damaged(path, "it is not a complete idx file of bytes")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def load(
    key: str,
    label: str,
    torchvision_name: str,
    url: str,
    classes: tuple[str, ...],
    md5: Mapping[str, str],
    split: str,
    n: int | None,
) -> Dataset:
    """The split (N, 1, 28, 28) of an idx data set under the data root, downloaded first where it is
    absent.

    `md5` has the checksum of each file's unpacked content; one that differs is used and told on the
    card.
    """
    check_split(split)
    names = FILES["test" if split == "test" else "train"]
    raw_folder = f"{torchvision_name}/raw"
    place = places.find(names, places.folders(key, raw_folder, "raw"))
    if place is None:

        def fetch(target: Path) -> None:
            import torchvision.datasets

            getattr(torchvision.datasets, torchvision_name)(str(target), train=True, download=True)

        places.download(label, url, fetch, places.root() / key, "the four idx files (.gz)")
        place = places.root() / key / raw_folder
    raw = [content(place / name) for name in names]
    images, y = (parse(part, place / name) for part, name in zip(raw, names, strict=True))
    if (
        images.ndim != 3
        or images.shape[1:] != (28, 28)
        or y.shape != images.shape[:1]
        or not len(y)
    ):
        raise places.damaged(
            place, f"images {images.shape} and labels {y.shape} do not belong together"
        )
    if int(y.max()) >= len(classes):
        raise places.damaged(
            place / names[1],
            f"it has the label {int(y.max())}, but {label} has {len(classes)} classes",
        )
    labels = torch.from_numpy(y.astype(np.int64))
    where = official(labels, split, n)
    differs = [name for part, name in zip(raw, names, strict=True) if places.md5(part) != md5[name]]
    kind = "test" if split == "test" else "training"
    card = (
        f"{len(where):,} of {len(y):,} {label} images of the official {kind} set, 28x28 grey,"
        f" {len(classes)} classes."
    )
    if differs:
        card += f" The checksum of {' and '.join(differs)} differs from the original."
    return Dataset(
        key,
        split,
        torch.from_numpy(images[where.numpy()]).unsqueeze(1),
        labels[where],
        classes,
        card=card,
    )
