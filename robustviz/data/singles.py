"""Single pictures of the user's own, which stand beside the test images of a data set: each has a
number far above theirs, and wherever a test image can be looked at, it can be too.

The number follows from the picture and its class, so what was measured under it stays true of it.
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

FIRST = 1_000_000  # below are test images
SPAN = 900_000_000  # addresses keep numbers of nine digits
WIDEST = 224


@dataclass(frozen=True)
class Single:
    """A picture: its `number`, the `name` of its file, what is on it (`label`, one of the classes
    of the data set `data`).
    """

    number: int
    name: str
    label: str
    data: str

    def pixels(self, channels: int, size: int) -> np.ndarray:
        """The picture as a network of so many channels sees it, uint8 (channels, size, size).

        Raises UserError where its file is gone.
        """
        try:
            return fitted((_folder(self.number) / "picture.png").read_bytes(), channels, size)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"The picture {self.name} cannot be read any more: add it once more."
            ) from error


def fitted(png: bytes, channels: int, size: int) -> np.ndarray:
    """A PNG as a network of so many channels sees it, uint8 (channels, size, size).

    Raises OSError or ValueError where it is none, or a large one.
    """
    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        if max(opened.size) > WIDEST:
            raise ValueError("it is too large")
        shown = opened.convert("RGB" if channels == 3 else "L")
    shown = ImageOps.fit(shown, (size, size), Image.Resampling.BICUBIC)
    values = np.asarray(shown).reshape(size, size, -1).transpose(2, 0, 1)
    return np.repeat(values, channels, 0) if len(values) != channels else values.copy()


def is_own(index: int) -> bool:
    """Whether this is the number of a picture of the user's own, not of a test image."""
    return index >= FIRST


def add(png: bytes, digest: str, name: str, label: str, data: str) -> Single:
    """Keep a picture, a square PNG of at most 224 pixels whose hash is `digest` (hexadecimal)."""
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
    """The picture with light and dark exchanged, as a PNG."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        ImageOps.invert(opened.convert("RGB")).save(out, "PNG")
    return out.getvalue()


def get(number: int) -> Single | None:
    """The picture of that number; None where there is none."""
    if not FIRST <= number < 10**9:
        return None
    try:
        said: Any = json.loads((_folder(number) / "picture.json").read_text(encoding="utf-8"))
        return Single(number, *(harmless(said[key]) for key in ("name", "label", "data")))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def every() -> list[Single]:
    """All of them, by number."""
    try:
        names = sorted(each.name for each in _home().iterdir() if each.name.isdecimal())
    except OSError:  # nobody added any yet
        return []
    return [one for name in names if len(name) < 10 and (one := get(int(name))) is not None]


def remove(number: int) -> None:
    """Delete a picture."""
    if is_own(number):
        shutil.rmtree(_folder(number), ignore_errors=True)


def _home() -> Path:
    return own.home() / ".pictures"


def _folder(number: int) -> Path:
    return _home() / str(number)
