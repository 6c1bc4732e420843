"""SVHN: house numbers cut from street photographs. They are digits as in MNIST, but in colour, with
varied backgrounds and neighbouring digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from robustviz.data import places
from robustviz.data.base import Dataset
from robustviz.data.fetch import File
from robustviz.data.published import Published, laptop, part, rows, torchvision
from robustviz.imports import load
from robustviz.registry import register
from robustviz.types import UserError

URL = "http://ufldl.stanford.edu/housenumbers/"
MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
SIZE = {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384}


@register("data/svhn")
@dataclass(frozen=True)
class SVHN(Published):
    """73,257 training and 26,032 test photographs of digits in house numbers, 3x32x32.

    Source: Netzer et al. 2011, ufldl.stanford.edu/housenumbers.
    """

    label = "SVHN"
    recipe = laptop("crop")  # no flips: a mirrored 2 is no digit

    def files(self, split: str) -> tuple[File, ...]:
        """The file that holds the split."""
        name = f"{part(split, 'train', 'test')}_32x32.mat"
        return (File(URL + name, name, MD5[name], SIZE[name]),)

    def here(self, split: str) -> bool:
        """Whether the file that holds the split is on this computer."""
        return self._place(split) is not None

    def _place(self, split: str) -> Path | None:
        (file,) = self.files(split)
        return places.find((file.path,), places.folders(self.key, "SVHN"))

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 3, 32, 32); the label of a digit is the digit itself.

        It is downloaded if it is not on this computer. Raises UserError if scipy is not installed.
        """
        (file,) = self.files(split)
        half, name = part(split, "train", "test"), file.path
        try:
            loadmat = load("scipy.io").loadmat
        except ImportError:
            raise UserError(
                "SVHN is stored in MATLAB files, and scipy, which reads them, is not installed: run"
                " `pip install scipy`."
            ) from None
        path = (
            self._place(split)
            or self.fetched(split, file.url, torchvision("SVHN", split=half), name)
        ) / name
        try:
            content = loadmat(str(path))
            pixels, digit = content["X"], content["y"].ravel().astype(np.int64)
        except Exception as error:  # scipy raises many types of error for a damaged file
            raise places.damaged(path, f"it is no MATLAB file with X and y ({error})") from error
        if (
            pixels.dtype != np.uint8
            or pixels.shape != (32, 32, 3, len(digit))
            or not len(digit)
            or digit.min() < 0
            or digit.max() > 10
        ):
            raise places.damaged(
                path, f"images {pixels.shape} and labels {digit.shape} are not those of SVHN"
            )
        return self.selected(
            split,
            n,
            torch.from_numpy(digit % 10),  # the files write 10 for the digit 0
            tuple("0123456789"),
            rows(pixels.transpose(3, 2, 0, 1)),
            "" if places.md5(path.read_bytes()) == MD5[name] else name,
        )
