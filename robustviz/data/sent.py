"""Reads one uploaded picture file, whose type is recognised by its content. The result is its
central square, upright, as a PNG in 8-bit RGB without EXIF data.
"""

from __future__ import annotations

import hashlib
import io
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from robustviz.data import pictures
from robustviz.types import UserError, harmless

MOST_BYTES = 50_000_000  # of one picture file
LEAST_SIDE, MOST_SIDE = 8, 224
NO_PICTURE = "it is not a picture, despite its name"
# pictures with more pixels are read one at a time, because each takes a lot of memory
LARGE = 16_000_000
# formats that Pillow decodes itself; for others it starts programs or opens further files
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
TURNED, GREY, CMYK, CLEAR, MOVING = (
    "rotated upright (EXIF orientation)",
    "grey",
    "in a printer's colours (CMYK), converted to red, green and blue",
    "with transparent parts, which became white",
    "animated, of which only the first frame was used",
)
_one_large = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A picture that was read. `png`: the bytes of a PNG; `hash`: 16 hexadecimal digits, computed
    from its pixels; `done`: what the file was or what was changed, in words such as `TURNED`.
    """

    png: bytes
    hash: str
    done: frozenset[str]


def read(content: bytes, temporary: Path) -> Picture:
    """The picture in the bytes `content` of a file, as a square of at most 224 × 224 pixels.

    The path `temporary` is used for a working file, which is deleted afterwards. Raises ValueError,
    with a few words as text, if it is not a picture, or too small or too large; for a broken file
    Pillow raises many types of error, mostly OSError.
    """
    if not 0 < len(content) <= MOST_BYTES:
        larger = f"it is larger than {MOST_BYTES // 1_000_000} MB"
        raise ValueError(larger if content else "the file is empty")
    try:
        temporary.write_bytes(content)
        short, pixels, done = _looked_at(temporary)
        with _one_large if pixels > LARGE else threading.Lock():
            square, more = pictures.read_picture(temporary, min(short, MOST_SIDE))
    finally:
        temporary.unlink(missing_ok=True)
    if pictures.OWN_RANGE in more:
        done |= {"of more than 8 bits, scaled to 8 bits by the file's own range of values"}
    elif pictures.DEEP in more:
        done |= {"of more than 8 bits, scaled to 8 bits"}
    return Picture(*packed(square.transpose(1, 2, 0)), frozenset(done))


def read_one(content: bytes, temporary: Path, name: str) -> Picture:
    """The picture in the bytes `content`, as from `read`, but every failure is a UserError.

    `name` is the file's name in the message.
    """
    try:
        return read(content, temporary)
    except Exception as error:  # Pillow raises many types of error for a broken file
        why = harmless(" ".join(str(error).split())[:120] or type(error).__name__)
        formats = " PNG, JPEG, GIF, WebP, BMP and TIFF are read." * (why == NO_PICTURE)
        raise UserError(f"{harmless(name)} cannot be taken: {why}.{formats}") from error


def packed(pixels: np.ndarray) -> tuple[bytes, str]:
    """Returns pixels uint8 (H, W, 3) as the bytes of a PNG, and their hash (16 hex digits)."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=4)
    said = f"{pixels.shape}".encode() + pixels.tobytes()
    return out.getvalue(), hashlib.sha256(said).hexdigest()[:16]


def _looked_at(path: Path) -> tuple[int, int, set[str]]:
    """Returns the length of a picture's shorter side, its number of pixels, and which of `TURNED`
    to `MOVING` hold for it. Raises ValueError if it is not a picture, too small or too large.
    """
    try:
        opened = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(_too_many()) from error
    except Exception as error:
        raise ValueError(NO_PICTURE) from error
    with opened:
        width, height = opened.size
        if width * height > pictures.MOST_PIXELS:
            raise ValueError(_too_many())
        if min(width, height) < LEAST_SIDE:
            raise ValueError(
                f"it has {width}×{height} pixels; at least {LEAST_SIDE}×{LEAST_SIDE} are needed"
            )
        clear = opened.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info
        signs = {
            TURNED: opened.getexif().get(0x0112, 1) not in (0, 1),
            GREY: opened.mode in ("1", "L", "LA", "I", "F") or opened.mode.startswith("I;16"),
            CMYK: opened.mode == "CMYK",
            CLEAR: clear,
            # an MPO file of a phone has several copies of one picture, for 3D screens
            MOVING: opened.format != "MPO" and bool(getattr(opened, "is_animated", False)),
        }
    return min(width, height), width * height, {what for what, is_so in signs.items() if is_so}


def _too_many() -> str:
    return f"it has more than {pictures.MOST_PIXELS // 1_000_000} million pixels"
