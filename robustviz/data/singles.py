"""Single pictures that the user added beside the test images of a data set. Each has a number above
all indices of test images; by this number it can be viewed wherever a test image can be.

The number is computed from the picture and its class, so results cached under it stay valid.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from robustviz.data import own
from robustviz.types import UserError, harmless

FIRST = 1_000_000  # smaller numbers are test images
SPAN = 900_000_000  # so that numbers have at most nine digits, as page addresses require
WIDEST = 224


@dataclass(frozen=True)
class Single:
    """A picture that the user added.

    `number` identifies it, `name` is the name of its file, `label` its class, and `data` the name
    of the data set to which this class belongs.
    """

    number: int
    name: str
    label: str
    data: str

    def pixels(self, channels: int, size: int) -> np.ndarray:
        """The picture resized and cropped to uint8 (channels, size, size), as by `fitted`.

        Raises UserError if its file is gone or damaged.
        """
        try:
            return fitted((_folder(self.number) / "picture.png").read_bytes(), channels, size)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"The picture {self.name} cannot be read any more: add it once more."
            ) from error


def fitted(png: bytes, channels: int, size: int) -> np.ndarray:
    """A PNG resized and cropped to uint8 (channels, size, size), in grey unless `channels` is 3.

    Raises ValueError if it is wider or higher than 224 pixels, and OSError, ValueError or
    SyntaxError if it is not a PNG or damaged.
    """
    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        if max(opened.size) > WIDEST:
            raise ValueError("it is too large")
        shown = opened.convert("RGB" if channels == 3 else "L")
    shown = ImageOps.fit(shown, (size, size), Image.Resampling.BICUBIC)
    values = np.asarray(shown).reshape(size, size, -1).transpose(2, 0, 1)
    return np.repeat(values, channels, 0) if len(values) != channels else values.copy()


def is_own(index: int) -> bool:
    """Whether `index` is in the range of numbers of added pictures, and so of no test image."""
    return index >= FIRST


def add(png: bytes, digest: str, name: str, label: str, data: str) -> Single:
    """Save a picture of the user and return it: `png`, a square of at most 224 × 224 pixels.

    The number is computed from `digest`, the hash of the pixels in hexadecimal digits, and from
    label and data set, so adding the same picture again gives the same number. If a picture of
    another class or data set has this number, the next number is tried. Raises UserError if the
    picture cannot be written.
    """
    seed = int(digest, 16) + sum(label.encode()) * 7919 + sum(data.encode()) * 104_729
    number = FIRST + seed % SPAN
    while (found := get(number)) is not None and (found.label, found.data) != (label, data):
        number += 1
    said = {"name": harmless(name)[:80], "label": harmless(label), "data": harmless(data)}
    place = _folder(number)
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / "picture.png").write_bytes(png)
        (place / "picture.json").write_text(json.dumps(said), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{place} could not be written ({error.strerror or error}): check its permissions."
        ) from error
    return Single(number, **said)


def inverted(png: bytes) -> bytes:
    """The picture with every RGB value v replaced by 255 − v, as a PNG."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        ImageOps.invert(opened.convert("RGB")).save(out, "PNG")
    return out.getvalue()


def get(number: int) -> Single | None:
    """The picture with this number; None if there is none, or if its description is damaged."""
    if not FIRST <= number < 10**9:
        return None
    try:
        said: Any = json.loads((_folder(number) / "picture.json").read_text(encoding="utf-8"))
        return Single(number, *(harmless(said[key]) for key in ("name", "label", "data")))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def every() -> list[Single]:
    """All pictures that the user added, ordered by number."""
    try:
        names = [each.name for each in _home().iterdir()]
    except OSError:  # no picture has been added yet
        return []
    numbers = sorted(int(name) for name in names if name.isdecimal() and len(name) < 10)
    return [one for number in numbers if (one := get(number)) is not None]


def remove(number: int) -> None:
    """Delete a picture that the user added; other numbers are ignored."""
    if is_own(number):
        shutil.rmtree(_folder(number), ignore_errors=True)


def _home() -> Path:
    return own.home() / ".pictures"


def _folder(number: int) -> Path:
    return _home() / str(number)
