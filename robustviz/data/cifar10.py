"""CIFAR-10, from the official batch files or from the compact lossless files of the shared
folder.
"""

from __future__ import annotations

import lzma
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robustviz.data import batches, places
from robustviz.data.base import Dataset, Recipe, Source, check_split
from robustviz.data.splits import official
from robustviz.registry import register

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


@register("data/cifar10")
@dataclass(frozen=True)
class CIFAR10(Source):
    """50,000 + 10,000 small photographs, 3x32x32. Source: Krizhevsky 2009, Learning Multiple Layers
    of Features.
    """

    label = "CIFAR-10"
    recipe: ClassVar[Recipe] = {
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "augment": "crop_flip",
        "n_train": 10_000,
        "net": "small_resnet",
    }

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split: images (N, 3, 32, 32)."""
        check_split(split)
        names = (
            ("test_batch",) if split == "test" else tuple(f"data_batch_{i}" for i in range(1, 6))
        )
        compact = ("test.xz",) if split == "test" else tuple(f"train_{i}.xz" for i in range(1, 6))
        place = places.find(names, places.folders("cifar10", "cifar-10-batches-py"))
        packed = places.find(compact, places.folders("cifar10"))
        if place is None and packed is not None:
            return _compact([packed / name for name in compact], split, n)
        if place is None:
            places.download(
                "CIFAR-10", URL, _fetch, places.root() / "cifar10", "the folder cifar-10-batches-py"
            )
            place = places.root() / "cifar10" / "cifar-10-batches-py"
        images, labels, differs = [], [], []
        for name in names:
            entry, md5 = batches.read(place / name)
            part, numbers = batches.pixels(entry, "labels", 10, place / name)
            images.append(part)
            labels.append(numbers)
            differs += [name] if md5 != MD5[name] else []
        y = torch.from_numpy(np.concatenate(labels))
        where = official(y, split, n)
        card = _card(len(where), len(y), split)
        if differs:
            card += (
                f" The checksum of {len(differs)} of {len(names)} files differs from the original."
            )
        return Dataset(
            "cifar10",
            split,
            torch.from_numpy(np.concatenate(images)[where.numpy()]),
            y[where],
            CLASSES,
            card=card,
        )


def _card(n: int, of: int, split: str) -> str:
    return (
        f"{n:,} of {of:,} CIFAR-10 images of the official"
        f" {'test' if split == 'test' else 'training'} set, 32x32 RGB, 10 classes."
    )


def _fetch(target: Path) -> None:
    import torchvision.datasets

    torchvision.datasets.CIFAR10(str(target), download=True)


def _compact(paths: list[Path], split: str, n: int | None) -> Dataset:
    with ThreadPoolExecutor(
        min(len(paths), os.cpu_count() or 1)
    ) as pool:  # lzma leaves the interpreter free
        raws = list(pool.map(unpack, paths))
    y = torch.from_numpy(np.concatenate([raw[0] for raw in raws]).astype(np.int64))
    where = official(y, split, n)
    images = torch.empty(len(where), 3, 32, 32, dtype=torch.uint8)
    start = 0
    for labels, residual in raws:
        mine = torch.nonzero((where >= start) & (where < start + len(labels))).flatten()
        images[mine] = torch.from_numpy(decode(residual[:, (where[mine] - start).numpy()]))
        start += len(labels)
    note = " Read from the compact copy"
    listed = paths[0].with_name("jpeg_filled_rows.csv")
    if listed.is_file():
        of_split = "test" if split == "test" else "train"
        filled = {
            int(line.split(",")[1])
            for line in listed.read_text("utf-8").splitlines()[1:]
            if line.startswith(of_split + ",")
        }
        count = len(filled.intersection(where.tolist()))
        note += (
            f", whose checksum differs from the original: {count} of these images are JPEG copies"
        )
    return Dataset(
        "cifar10",
        split,
        images,
        y[where],
        CLASSES,
        card=_card(len(where), len(y), split) + note + ".",
    )


def unpack(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and prediction residuals (3, N, 32, 32), both uint8, of a compact file. Raises
    UserError.
    """
    try:
        raw = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8)
    except (lzma.LZMAError, EOFError) as error:
        raise places.damaged(path, f"it cannot be unpacked ({error})") from error
    n, left = divmod(len(raw), 1 + 3 * 32 * 32)
    if left or not n or raw[:n].max() > 9:
        raise places.damaged(path, "it is not labels followed by 32x32 images of three channels")
    return raw[:n], raw[n:].reshape(3, n, 32, 32)


def decode(residual: np.ndarray) -> np.ndarray:
    """uint8 (N, 3, 32, 32) from residuals (3, N, 32, 32), modulo 256.

    Each value is stored as its difference to the median of left, upper and left + upper - diagonal;
    red and blue as their difference to green. A pixel needs its neighbours, an image not, so the
    work is done for all images at once.
    """
    out = np.zeros(
        (33, 33, 3, residual.shape[1]), np.uint8
    )  # a row above and a column to the left are zero
    res = np.ascontiguousarray(residual.transpose(2, 3, 0, 1))
    for r in range(32):
        for c in range(32):
            left, up, diag = out[r + 1, c], out[r, c + 1], out[r, c]
            low, high = np.minimum(left, up), np.maximum(left, up)
            # between low and high the sum fits into a byte again, so wrapping on the way does no
            # harm
            guess = np.where(diag >= high, low, np.where(diag <= low, high, left + up - diag))
            np.add(res[r, c], guess, out=out[r + 1, c + 1])
    rgb = np.ascontiguousarray(out[1:, 1:].transpose(3, 2, 0, 1))
    rgb[:, 0] += rgb[:, 1]
    rgb[:, 2] += rgb[:, 1]
    return rgb
