"""SVHN: house numbers cut from street photographs. Digits again, with everything around them that
MNIST leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robustviz.data import places
from robustviz.data.base import Dataset, Recipe, Source, check_split
from robustviz.data.splits import official
from robustviz.imports import load
from robustviz.registry import register
from robustviz.types import UserError

URL = "http://ufldl.stanford.edu/housenumbers/"
MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


@register("data/svhn")
@dataclass(frozen=True)
class SVHN(Source):
    """73,257 + 26,032 house-number digits, 3x32x32. Source: Netzer et al. 2011,
    ufldl.stanford.edu/housenumbers.
    """

    label = "SVHN"
    recipe: ClassVar[Recipe] = {
        # no flips: a mirrored 2 is no digit
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "augment": "crop",
        "n_train": 10_000,
        "net": "small_resnet",
    }

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split: images (N, 3, 32, 32). Labels are the digits themselves."""
        check_split(split)
        part = "test" if split == "test" else "train"
        name = f"{part}_32x32.mat"
        try:
            loadmat = load("scipy.io").loadmat
        except ImportError:
            raise UserError(
                "SVHN is stored in MATLAB files, and scipy, which reads them, is not installed: run"
                " `pip install scipy`."
            ) from None
        place = places.find((name,), places.folders("svhn", "SVHN"))
        if place is None:

            def fetch(target: Path) -> None:
                import torchvision.datasets

                torchvision.datasets.SVHN(str(target), split=part, download=True)

            places.download("SVHN", URL + name, fetch, places.root() / "svhn", name)
            place = places.root() / "svhn"
        try:
            content = loadmat(str(place / name))
            pixels, digit = content["X"], content["y"].ravel().astype(np.int64)
        except Exception as error:  # scipy raises many kinds for a damaged file
            raise places.damaged(
                place / name, f"it is no MATLAB file with X and y ({error})"
            ) from error
        if (
            pixels.dtype != np.uint8
            or pixels.shape != (32, 32, 3, len(digit))
            or not len(digit)
            or digit.min() < 0
            or digit.max() > 10
        ):
            raise places.damaged(
                place / name,
                f"images {pixels.shape} and labels {digit.shape} are not those of SVHN",
            )
        y = torch.from_numpy(digit % 10)  # the files write 10 for the digit 0
        where = official(y, split, n)
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)[where.numpy()]))
        kind = "test" if split == "test" else "training"
        card = (
            f"{len(where):,} of {len(y):,} SVHN images of the official {kind} set, 32x32 RGB, 10"
            " classes."
        )
        if places.md5((place / name).read_bytes()) != MD5[name]:
            card += f" The checksum of {name} differs from the original."
        return Dataset("svhn", split, images, y[where], tuple("0123456789"), card=card)
