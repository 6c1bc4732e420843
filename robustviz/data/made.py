"""Images that a Python function of the user returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from robustviz.data import arrays, splits
from robustviz.data.base import Dataset, Recipe, Source, unequal
from robustviz.data.folder import Folder
from robustviz.imports import load
from robustviz.registry import option, register
from robustviz.types import UserError, harmless

MOST = 1_000_000  # images that are read one by one from a data set


@register("data/made", offered=False)
@dataclass(frozen=True)
class Made(Source):
    """The images that your own Python function `make` returns for a split's name.

    The name is `train`, `val` or `test`. The function returns `(images, labels)` or `(images,
    labels, classes)`, a PyTorch data set of `(image, label)`, or a `Dataset`. It may return None
    for `val`: then the last 10% of a seeded shuffle of train become val.

    Images are arrays or tensors (N, H, W), (N, H, W, C) or (N, C, H, W), square and of one size,
    uint8 or floats in [0, 1]; those of a data set may be PIL images. Labels are integers from 0, of
    at least two classes. The function may be called several times for a split and must return the
    same images every time. Its code is imported only if it is trusted on this computer
    (`robustviz.plugins.resolve`).
    """

    label = "Images from your own Python function"
    recipe: ClassVar[Recipe] = Folder.recipe

    make: str = option("", "The function, FILE.py:make or package.module:make", kind="folder")
    name: str = option("", "name of this data set, see `data add`", kind="name", later=True)

    def placed(self) -> Made:
        """The same source with the absolute path of the Python file, if `make` names a file."""
        place, colon, made = self.make.rpartition(":")
        if not colon or not (place.endswith(".py") or "/" in place or "\\" in place):
            return self
        return replace(self, make=f"{Path(place).expanduser().resolve()}:{made}")

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, C, H, W) of 1 or 3 channels.

        Raises UserError if the function is not trusted on this computer, if it raises an error, if
        it does not return square images with labels, or if it returns no images for the split.
        """
        splits.check_split(split)
        who = f"The data set {self.name or self.make}"
        make = load("robustviz.plugins").resolve(self.make, asked_by=who)
        found = self._made(make, split)
        if found is None and split == "val":
            found = self._made(make, "train")
            found = found and replace(found.take(splits.train_and_val(found.y, "val")), split="val")
        elif found is not None and split == "train" and self._made(make, "val") is None:
            found = found.take(splits.train_and_val(found.y, "train"))
        if found is None or not len(found):
            raise UserError(f"{self.make} returns no images for the split {split}.")
        if n is not None and split == "train":
            found = found.take(splits.first(found.y, torch.arange(len(found)), n))
        (height, width), called = found.images.shape[-2:], Path(self.make).name
        card = (
            f"{len(found):,} images of {len(found.classes)} classes that {called} gives"
            f" (split {split}), {height}x{width} {'RGB' if found.images.shape[1] == 3 else 'grey'}."
        )
        card = " ".join(filter(None, (card, found.card, unequal(found))))
        return replace(found, key=self.called, card=harmless(card))

    def _made(self, make: Callable[..., Any], split: str) -> Dataset | None:
        try:
            given = make(split)
            if given is None or isinstance(given, Dataset):
                return given
            return _dataset(given, split)
        except UserError as error:
            raise UserError(f"{self.make}, split {split}: {error}") from error
        except Exception as error:  # the user's code can raise anything
            said = harmless(error) or "no message"
            raise UserError(
                f"{self.make} raised {type(error).__name__} for the split {split}: {said}."
            ) from error


def _dataset(given: Any, split: str) -> Dataset:
    """Converts what the function returned to uint8 images, with a card that says how. Raises
    UserError if it is not square images with labels.
    """
    images, labels, names = _parts(given)
    x = np.asarray(images.numpy() if isinstance(images, torch.Tensor) else images)
    if x.ndim not in (3, 4) or x.dtype.kind not in "buif":
        raise UserError(
            f"the images have shape {x.shape} and type {x.dtype}; they must be numbers of shape"
            " (N, H, W), (N, H, W, C) or (N, C, H, W)."
        )
    x = arrays.channels_last(x, "it gives")
    if x.shape[1] != x.shape[2]:
        raise UserError(f"the images are {x.shape[1]}x{x.shape[2]}: crop them to squares.")
    y = np.asarray(labels.numpy() if isinstance(labels, torch.Tensor) else labels)
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise UserError(
            f"the labels have shape {y.shape} and type {y.dtype}; {len(x)} images need {len(x)}"
            " integers."
        )
    classes = tuple(map(harmless, names)) or tuple(map(str, range(int(y.max(initial=0)) + 1)))
    if len(classes) < 2 or y.min(initial=0) < 0 or y.max(initial=0) >= len(classes):
        raise UserError(
            f"the labels range from {y.min(initial=0)} to {y.max(initial=0)} with {len(classes)}"
            " classes: count from 0, and give at least two classes."
        )
    verdict = arrays.diagnose(x)
    if not verdict.sure:
        raise UserError(f"{verdict.sentence} Give bytes, or floats from 0 to 1.")
    pixels = np.ascontiguousarray(arrays.to_bytes(x, verdict.reading).transpose(0, 3, 1, 2))
    tells = verdict.reading not in ("unit", "grey") or arrays.ROUNDED in verdict.sentence
    told = verdict.sentence if tells else ""
    positions = torch.from_numpy(y.astype(np.int64))
    return Dataset("made", split, torch.from_numpy(pixels), positions, classes, card=told)


def _parts(given: Any) -> tuple[Any, Any, Sequence[str]]:
    """Returns the images, the labels and the names of the classes in what the function returned.

    There are no names if the function gives none. Raises UserError if it returned something else,
    an empty or too large data set, or images of different sizes.
    """
    if (
        isinstance(given, (tuple, list))
        and len(given) in (2, 3)
        and not isinstance(given[0], (tuple, list))  # else these are two or three images
    ):
        images, labels, *names = given
        return images, labels, names[0] if names else ()
    if not hasattr(given, "__getitem__") or not hasattr(given, "__len__"):
        raise UserError(
            f"it returned an object of type {type(given).__name__}; it must return (images, labels)"
            " or a data set of (image, label)."
        )
    if len(given) > MOST:
        raise UserError(f"the data set has {len(given):,} images; at most {MOST:,} are allowed.")
    if not len(given):
        raise UserError("the data set is empty.")
    items = [given[k] for k in range(len(given))]
    pictures = [_array(item[0]) for item in items]
    if sizes := sorted({each.shape for each in pictures}, reverse=True)[1:]:
        raise UserError(
            f"the images have different sizes ({pictures[0].shape} and {sizes[0]}): resize them in"
            " the function."
        )
    called = tuple(map(str, getattr(given, "classes", None) or ()))
    return np.stack(pictures), [int(item[1]) for item in items], called


def _array(image: Any) -> NDArray[Any]:
    if isinstance(image, torch.Tensor):
        return image.numpy()
    if hasattr(image, "convert"):  # a PIL picture
        image = image if image.mode == "L" else image.convert("RGB")
    return np.asarray(image)
