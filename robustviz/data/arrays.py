"""Reads images from a NumPy file: decides which of its arrays are images and which are labels, how
the axes are ordered, and how the numbers map to pixels. People save images divided by 255, in [-1,
1], or normalised for a network; `diagnose` recognises which, and `to_bytes` undoes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustviz.data import zips
from robustviz.types import UserError, harmless

SAMPLE = 256  # number of images that `diagnose` looks at
# If the pixels are on average closer to a whole grey level than this, in grey levels, a reading is
# certain; for random values the distance is 0.25.
GRID = 0.04
# If they are farther away than EXACT, and than FLOAT times the machine epsilon of their type (which
# matters for float16), the message says that they are rounded.
EXACT, FLOAT = 0.001, 32
SLACK = 0.004  # how far pixels may lie outside [0, 1]
BLUE = 0.02  # blue may be this much brighter than red on average before a warning is given

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LABELS = ("y", "label", "labels", "target", "targets")
NAMES = ("classes", "names", "class_names", "classnames")

ROUNDED = " They are rounded to 256 grey levels."

RGB, BGR = "red, green, blue", "blue, green, red"


@dataclass(frozen=True)
class Reading:
    """One way to convert stored numbers to pixels in [0, 1].

    The formula is `pixel = (number * std + mean) / white`, with `mean` and `std` per channel.
    """

    label: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    white: float = 1.0

    def fits(self, channels: int) -> bool:
        """Whether `mean` and `std` have one value, for all channels, or `channels` values."""
        return len(self.mean) in (1, channels)

    def pixels(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Images `x` (N, H, W, C) as float32 pixels, in [0, 1] if `x` was stored in this way."""
        std, mean = (np.asarray(each, np.float32) for each in (self.std, self.mean))
        return np.asarray((x.astype(np.float32) * std + mean) / self.white, np.float32)


READINGS = {
    "unit": Reading("0 to 1"),
    "grey": Reading("0 to 255", white=255.0),
    "signed": Reading("-1 to 1", (0.5,), (0.5,)),
    "imagenet": Reading("normalised as for ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": Reading(
        "normalised as for CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    ),
    "cifar2": Reading(
        "normalised as for CIFAR-10, with the standard deviations 0.2023, 0.1994, 0.2010",
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),
    "mnist": Reading("normalised as for MNIST", (0.1307,), (0.3081,)),
}


@dataclass(frozen=True)
class Verdict:
    """The result of `diagnose`: how stored numbers are probably to be converted to pixels.

    `reading` is a key of READINGS, `sure` is False if a person should check the choice because
    another reading may be right, and `sentence` explains the choice to a person.
    """

    reading: str
    sure: bool
    sentence: str


@dataclass(frozen=True)
class Part:
    """The images of one split of a NumPy file.

    `x` are the images (N, H, W, C) as stored, and `y` the labels (N,), or None if there are none.
    `split` is an empty text if the names of the arrays do not state a split.
    """

    split: str
    x: NDArray[Any]
    y: NDArray[np.int64] | None


@dataclass(frozen=True)
class Arrays:
    """The content of a NumPy file: its `parts`, one for each split, and the names of its `classes`.

    `classes` is empty if the file has no names; the labels are then used as names.
    """

    parts: tuple[Part, ...]
    classes: tuple[str, ...]


def load(path: Path) -> Arrays:
    """The images and labels in a `.npz` or `.npy` file, which is read without pickle.

    The file is read into memory as a whole, so it may have at most `zips.MOST_UNPACKED` bytes,
    unpacked. A file may have images without labels. Raises UserError with one sentence if this is
    not a NumPy file, if it is damaged or too large, if it is not clear which arrays are the images
    and which are the labels, if labels are not whole numbers from 0 to 9,999, or if they do not fit
    the images or the class names.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        if zips.is_zip(head):
            with zips.opened(file):  # checks what it unpacks to
                pass
        elif not head.startswith(b"\x93NUMPY"):
            raise UserError("This is not a NumPy file: write one with numpy.savez(FILE, x=…, y=…).")
        elif path.stat().st_size > zips.MOST_UNPACKED:
            raise UserError(
                f"This file has more than {zips.MOST_UNPACKED / 1e9:g} GB: save fewer images."
            )
    try:
        found = np.load(path, allow_pickle=False)
        named = {"x": found} if isinstance(found, np.ndarray) else {k: found[k] for k in found}
    except Exception as error:  # a damaged file raises many types of error
        why = "it holds Python objects" if "allow_pickle" in str(error) else "it is damaged"
        raise UserError(
            f"This NumPy file cannot be read: {why}. Write it again with numpy.savez(FILE, x=images"
            " as numbers, y=labels as whole numbers)."
        ) from error
    return _sorted_out(named)


def _sorted_out(named: dict[str, NDArray[Any]]) -> Arrays:
    images: dict[str, NDArray[Any]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    classes: tuple[str, ...] = ()
    for key, array in named.items():
        words = re.split(r"[^a-z]+", key.lower())
        split = next((SPLITS[word] for word in words if word in SPLITS), "")
        if array.ndim in (3, 4) and array.dtype.kind in "buif":
            _take(images, split, channels_last(array, key), named)
        elif set(words) & set(LABELS) or _like_labels(array):
            _take(labels, split, _whole(array, key), named)
        elif array.dtype.kind == "U" and array.ndim == 1 and {key.lower()} & set(NAMES):
            classes = tuple(map(str, array))
    if not images:
        raise UserError(
            f"There are no images in this file, only {_shapes(named)}: images are an array of shape"
            " (N, H, W), (N, H, W, 3) or (N, 3, H, W)."
        )
    parts = []
    for split, x in images.items():
        y = labels.get(split)
        if y is not None and len(y) != len(x):
            raise UserError(
                f"There are {len(y)} labels for {len(x)} images: save one label for each image."
            )
        parts.append(Part(split, x, y))
    most = max((int(y.max(initial=0)) for y in labels.values()), default=0)
    if classes and most >= len(classes):
        raise UserError(f"A label is {most}, and there are {len(classes)} names, counted from 0.")
    return Arrays(tuple(parts), classes)


def _take(home: dict[str, Any], split: str, array: Any, named: dict[str, NDArray[Any]]) -> None:
    if split in home:
        raise UserError(
            f"It is not clear which of {_shapes(named)} to take: save two arrays, x and y, or"
            " x_train, y_train, x_test and y_test."
        )
    home[split] = array


def _like_labels(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iu" and (array.ndim == 1 or array.shape[1:] == (1,))


def _whole(array: NDArray[Any], key: str) -> NDArray[np.int64]:
    flat = array.reshape(len(array), -1) if array.ndim else array.reshape(0, 0)
    if flat.shape[1] != 1 or array.dtype.kind not in "iuf" or (flat != np.rint(flat)).any():
        raise UserError(
            f"The labels {harmless(key)} have shape {array.shape} and type {array.dtype}: each"
            " image needs one integer."
        )
    if flat.min(initial=0) < 0 or flat.max(initial=0) > 9999:
        raise UserError(
            f"The labels range from {flat.min()} to {flat.max()}; they must be within 0 to 9,999."
        )
    return flat[:, 0].astype(np.int64)


def channels_last(array: NDArray[Any], key: str) -> NDArray[Any]:
    """Returns `array` as images (N, H, W, C) with 1 or 3 channels.

    `array` has the shape (N, H, W), (N, H, W, C) or (N, C, H, W). If both the second and the last
    axis could be the channels, the last one is taken; of (N, H, W, 4) the alpha channel is dropped.
    `key` is the array's name, for the message. Raises UserError if an array of four axes has no
    such channel axis.
    """
    if array.ndim == 3:
        return array[..., None]
    first, last = array.shape[1], array.shape[3]
    if last in (1, 3):
        return array
    if first in (1, 3):
        return array.transpose(0, 2, 3, 1)
    if last == 4:
        return array[..., :3]
    raise UserError(
        f"The images {harmless(key)} have shape {array.shape}, so neither the second nor the last"
        " axis has 1 or 3 channels: save them as (N, H, W, 3)."
    )


def _shapes(named: dict[str, NDArray[Any]]) -> str:
    return ", ".join(
        f"{harmless(key[:30])} {array.shape}" for key, array in list(named.items())[:6]
    )


def diagnose(x: NDArray[Any]) -> Verdict:
    """How the numbers of images `x` (N, H, W, C) are probably to be converted to pixels.

    At most 256 of the images are looked at. Booleans and integers are recognised by their type and
    range. For floats every reading in READINGS is tried: those that give pixels in [0, 1] are
    possible. If no number is negative, "0 to 1" is chosen if it is possible, else "0 to 255" if
    that is; otherwise the possible reading whose pixels lie closest to whole grey levels. Raises
    UserError for NaN or infinite values, if there are no images, and if no reading is possible.
    """
    if not x.size:
        raise UserError("The file has no images: choose one that has some.")
    few = x[np.linspace(0, len(x) - 1, min(SAMPLE, len(x)), dtype=int)]
    if x.dtype == bool:
        return Verdict("unit", True, "Black and white.")
    low, high = float(few.min()), float(few.max())
    if not np.isfinite([low, high]).all() or not np.isfinite(few).all():
        raise UserError("Some numbers are NaN or infinite: save finite numbers.")
    span = f"The numbers run from {low:.3g} to {high:.3g}"
    if x.dtype.kind in "iu" and (low < 0 or high > 255):
        raise UserError(f"{span}, not from 0 to 255 or 0 to 1: scale them before saving.")
    if x.dtype.kind in "iu":
        return Verdict(
            "unit" if high <= 1 and x.dtype.itemsize > 1 else "grey",
            high > 1,
            f"{span}, whole grey levels.",
        )
    fitting = {
        key: distance
        for key, reading in READINGS.items()
        if reading.fits(few.shape[3]) and (distance := _off_grid(reading.pixels(few))) is not None
    }
    if not fitting:
        raise UserError(
            f"{span}, which is neither 0 to 1 nor 0 to 255, -1 to 1, or normalised as for ImageNet,"
            " CIFAR-10 or MNIST: undo what was done to them before saving."
        )
    rounded = {
        key: ROUNDED if off > max(EXACT, FLOAT * np.finfo(x.dtype).eps) else ""
        for key, off in fitting.items()
    }
    if low >= 0 and "unit" in fitting:  # numbers in [0, 1] need no other explanation
        return Verdict("unit", True, f"{span}.{rounded['unit']}")
    if low >= 0 and "grey" in fitting:
        return Verdict("grey", high > 2, f"{span}: grey levels, divided by 255.{rounded['grey']}")
    best = min(fitting, key=fitting.__getitem__)
    label = READINGS[best].label
    if fitting[best] < GRID:
        return Verdict(
            best, True, f"{span}: already {label}; after undoing this they are whole grey levels."
        )
    others = ", ".join(READINGS[key].label for key in fitting if key != best)
    return Verdict(
        best,
        not others,
        f"{span}: {label} fits{f', but so does {others}. Look at the pictures' if others else ''}."
        + rounded[best],
    )


def _off_grid(pixels: NDArray[np.float32]) -> float | None:
    """The mean distance of `pixels` from the nearest whole grey level, in grey levels; None if they
    do not lie in [0, 1].
    """
    if pixels.min() < -SLACK or pixels.max() > 1 + SLACK:
        return None
    levels = pixels * 255
    return float(np.abs(levels - np.rint(levels)).mean())


def blue(pixels: NDArray[np.float32]) -> str:
    """A warning that red and blue may be swapped in `pixels` (N, H, W, C); "" if there is none.

    The warning is given if blue is clearly brighter than red on average, because in photographs it
    is mostly the other way. For grey images and for fewer than 8 images there is none.
    """
    if pixels.shape[3] != 3 or len(pixels) < 8:
        return ""
    red, _, last = pixels.mean((0, 1, 2))
    if last - red < BLUE:
        return ""
    return (
        "Blue is brighter than red here. In photographs it is mostly the opposite: check whether"
        " red and blue are swapped."
    )


def to_bytes(x: NDArray[Any], reading: str, order: str = RGB) -> NDArray[np.uint8]:
    """Images `x` (N, H, W, C) as uint8 with the channels in the order red, green, blue.

    `reading` is a key of READINGS and `order` the channel order of `x`. Values outside [0, 1] are
    clipped.
    """
    pixels = READINGS[reading].pixels(x)
    if order == BGR and pixels.shape[3] == 3:
        pixels = pixels[..., ::-1]
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
