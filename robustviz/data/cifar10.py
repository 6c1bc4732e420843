"""CIFAR-10, read from the official batch files or from a compact lossless copy of them."""

from __future__ import annotations

import lzma
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from robustviz.data import batches, places, splits
from robustviz.data.base import Dataset
from robustviz.data.fetch import File
from robustviz.data.published import Published, laptop, part, rows, torchvision
from robustviz.registry import register

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE = "cifar-10-batches-py"
FILE = File(URL, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071)
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
class CIFAR10(Published):
    """50,000 training and 10,000 test photographs of 10 classes of animals and vehicles, 3x32x32.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features.
    """

    label = "CIFAR-10"
    recipe = laptop("crop_flip")

    def files(self, split: str) -> tuple[File, ...]:
        """The one archive to download, which holds the training and the test images."""
        return (FILE,)

    def here(self, split: str) -> bool:
        """Whether the split's files are on this computer, as official files or compact copy."""
        return any(self._places(split))

    def _places(self, split: str) -> tuple[Path | None, Path | None]:
        """The folder with the split's official files, and the one with its compact copy; each is
        None if there is none.
        """
        names, compact = _names(split)
        return (
            places.find(names, places.folders(self.key, ARCHIVE)),
            places.find(compact, places.folders(self.key)),
        )

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 3, 32, 32); downloaded if no copy is on this computer. `n`
        limits the training split only.
        """
        names, compact = _names(split)
        place, packed = self._places(split)
        if place is None and packed is not None:
            return self._unpacked([packed / name for name in compact], split, n)
        place = (
            place
            or self.fetched(split, URL, torchvision("CIFAR10"), f"the folder {ARCHIVE}") / ARCHIVE
        )
        images, labels, checksums = zip(
            *(batches.pixels(place / name, "labels", 10) for name in names), strict=True
        )
        count = sum(md5 != MD5[name] for name, md5 in zip(names, checksums, strict=True))
        return self.selected(
            split,
            n,
            torch.from_numpy(np.concatenate(labels)),
            CLASSES,
            rows(np.concatenate(images)),
            f"{count} of {len(names)} files" if count else "",
        )

    def _unpacked(self, paths: list[Path], split: str, n: int | None) -> Dataset:
        # threads help, because lzma releases the GIL
        with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
            raws = list(pool.map(unpack, paths))
        y = torch.from_numpy(np.concatenate([labels for labels, _ in raws]).astype(np.int64))
        drawn = self.selected(split, n, y, CLASSES, lambda where: _decoded(raws, where))
        note = "Read from the compact copy"
        listed = paths[0].with_name("jpeg_filled_rows.csv")
        if listed.is_file():
            table = (line.split(",") for line in listed.read_text("utf-8").splitlines()[1:])
            filled = {int(row[1]) for row in table if row[0] == part(split, "train", "test")}
            count = len(filled.intersection(splits.official(y, split, n).tolist()))
            note += (
                f", whose checksum differs from the original: {count} of these images are JPEG"
                " copies"
            )
        return replace(drawn, card=f"{drawn.card} {note}.")


def _names(split: str) -> tuple[list[str], list[str]]:
    """The names of the files that hold a split: the official ones and those of the compact copy."""
    return (
        part(split, [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
        part(split, [f"train_{i}.xz" for i in range(1, 6)], ["test.xz"]),
    )


def _decoded(raws: list[tuple[np.ndarray, np.ndarray]], where: torch.Tensor) -> torch.Tensor:
    """The images uint8 (M, 3, 32, 32) with indices `where` (M,); image 0 is the first of the first
    compact file, and the count goes on through the others. `raws` has what `unpack` returns for
    each file.
    """
    images = torch.empty(len(where), 3, 32, 32, dtype=torch.uint8)
    start = 0
    for labels, residual in raws:
        mine = torch.nonzero((where >= start) & (where < start + len(labels))).flatten()
        images[mine] = torch.from_numpy(decode(residual[:, (where[mine] - start).numpy()]))
        start += len(labels)
    return images


def unpack(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and prediction residuals (3, N, 32, 32) of a compact file, both uint8.

    `decode` turns the residuals into images. Raises UserError if the file is damaged.
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
    """Images uint8 (N, 3, 32, 32) from prediction residuals uint8 (3, N, 32, 32).

    When the file was written, green was first subtracted from red and blue. Then each value was
    replaced by its difference from the median of three numbers: the left neighbour, the upper one,
    and left + upper - upper left. All differences are modulo 256. Decoding a pixel needs the
    neighbours decoded before it, but no other image, so each position is decoded for all images at
    once.
    """
    # padded with a row of zeros above and a column of zeros to the left
    out = np.zeros((33, 33, 3, residual.shape[1]), np.uint8)
    res = np.ascontiguousarray(residual.transpose(2, 3, 0, 1))
    for r in range(32):
        for c in range(32):
            left, up, diag = out[r + 1, c], out[r, c + 1], out[r, c]
            low, high = np.minimum(left, up), np.maximum(left, up)
            # the sum is only used where it lies between low and high and so fits into a byte;
            # an intermediate overflow does no harm
            guess = np.where(diag >= high, low, np.where(diag <= low, high, left + up - diag))
            np.add(res[r, c], guess, out=out[r + 1, c + 1])
    rgb = np.ascontiguousarray(out[1:, 1:].transpose(3, 2, 0, 1))
    rgb[:, ::2] += rgb[:, 1:2]
    return rgb
