"""The handwritten digits that come with scikit-learn: no download is needed and training takes
seconds, so they are the default of the command line.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robustviz.data.base import Dataset, Recipe, Source
from robustviz.data.splits import check_split, stratified_order, stratified_split
from robustviz.registry import register
from robustviz.types import UserError


@register("data/digits")
@dataclass(frozen=True)
class Digits(Source):
    """1,797 scanned handwritten digits, grey, 1x8x8: the smallest and fastest data set.

    Train, val and test have 1,257 / 180 / 360 images; the split is stratified, with seed 0.
    """

    label = "Digits (8x8)"
    # at 8/255 a standard network still has 96% accuracy; at .15 the attack succeeds, though the
    # noise is visible
    default_eps = 0.15
    at_hand = True
    recipe: ClassVar[Recipe] = {
        "epochs": 20,
        "batch_size": 64,
        "lr": 0.1,
        "augment": "none",
        "n_train": None,
        "net": "small_resnet",
    }

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 1, 8, 8); grey levels 0 to 16 are scaled to 0 to 255.

        Raises UserError if scikit-learn is not installed.
        """
        check_split(split)
        raw = torch.from_numpy(_table())
        grey, y = raw[:, :-1].reshape(-1, 8, 8), raw[:, -1].long()
        rest, test = stratified_split(y, 360)
        train, val = (rest[part] for part in stratified_split(y[rest], 180))
        where = {"train": train, "val": val, "test": test}[split]
        if split == "train" and n is not None:
            where = where[stratified_order(y[where])[:n]]
        return Dataset(
            self.key,
            split,
            (grey[where] * (255 / 16)).round().to(torch.uint8).unsqueeze(1),
            y[where],
            tuple("0123456789"),
            card=f"{len(where):,} of 1,797 handwritten digits, 8x8 grey, 10 classes, from"
            " scikit-learn. A perturbation of eps 0.15 is visible; at 8/255 a standard network"
            " still has about 96% accuracy.",
        )


def _table() -> np.ndarray:
    """The table in scikit-learn's data file, float64 (1797, 65): each row has 64 pixels and the
    digit.

    The file is found and read without importing scikit-learn, which would take a second. Raises
    UserError if scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise UserError(
            "The digits come with scikit-learn, which is not installed: run `pip install"
            " scikit-learn`."
        )
    return np.loadtxt(
        Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=","
    )
