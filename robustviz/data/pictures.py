"""Reads folders of photographs: lists the picture files of each class and converts them to RGB
squares of one size. People's folders hold all sorts of files, so files that are not pictures are
ignored, and pictures that cannot be read are counted.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin

from robustviz import paths
from robustviz.types import UserError

SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
    }
)
MOST_PIXELS = 64_000_000  # limit, because a small file can unpack to a huge picture
MOST_BYTES = 200_000_000
# what was done to a picture when it was read
RESIZED = "resized"
DEEP = "of more than 8 bits"
OWN_RANGE = "scaled by its own range"
WHITE = 2**16 - 1  # the value of white in 16 bits
# If all values of a 16-bit file are below this share of white, its pictures really have fewer bits,
# such as 10 or 12.
DARK = 1 / 8
# share of unreadable files up to which they are only mentioned on the card; above it is an error
FEW = 0.05


@dataclass(frozen=True)
class Listing:
    """A list of picture files with their classes.

    `y` (N,) int64 are the indices of their classes in `classes`; `empty` has the names of class
    folders without pictures.
    """

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    y: torch.Tensor
    empty: tuple[str, ...] = ()

    def take(self, which: torch.Tensor) -> Listing:
        """The pictures with indices `which` (M,), or where a boolean mask `which` (N,) is true."""
        files = tuple(self.files[i] for i in torch.arange(len(self.y))[which].tolist())
        return replace(self, files=files, y=self.y[which])


def hidden(name: str) -> bool:
    """Whether `name` is that of a hidden file or folder, such as .DS_Store, ._a.png, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted by name. Hidden folders are left out, and those outside the
    folders that may be read (`paths.open_to`). Raises OSError if `folder` cannot be read.
    """
    return sorted(
        (p for p in folder.iterdir() if not hidden(p.name) and p.is_dir() and paths.open_to(p)),
        key=lambda p: p.name,
    )


def pictures(folder: Path) -> Iterator[Path]:
    """Yields the files in `folder` and its subfolders that are pictures by their suffix.

    The order is the same on every system. Hidden files and folders, pipes, devices, broken links,
    links to folders and links out of `ROBUSTVIZ_FOLDERS` are left out. Nothing is yielded if
    `folder` cannot be read.
    """
    for where, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not hidden(name))
        yield from (
            Path(where) / name
            for name in sorted(files)
            if not hidden(name)
            and Path(name).suffix.lower() in SUFFIXES
            and ordinary(Path(where) / name)
        )


def ordinary(path: Path) -> bool:
    """Whether `path` is a regular file that may be read; a pipe or a device might never end."""
    try:
        return stat.S_ISREG(path.stat().st_mode) and paths.open_to(path)
    except OSError:
        return False


def list_classes(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The list of the pictures in `folder`, which has a folder for each class.

    `classes` gives the names of the classes in order; None: those of all folders with pictures,
    sorted. Raises UserError if `folder` cannot be read, or if a folder with pictures in it is not
    one of `classes`.
    """
    try:
        found = {place.name: tuple(pictures(place)) for place in subfolders(folder)}
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror or error}): check its name and"
            " its permissions."
        ) from error
    full = [name for name, files in found.items() if files]
    names = tuple(full if classes is None else classes)
    strange = [name for name in full if name not in names]
    if strange:
        raise UserError(
            f"{folder} has the class {strange[0]!r}, which the training folder does not have: both"
            " need the same class folders."
        )
    return Listing(
        names,
        tuple(path for name in names for path in found.get(name, ())),
        torch.tensor(
            [k for k, name in enumerate(names) for _ in found.get(name, ())], dtype=torch.int64
        ),
        tuple(name for name, files in found.items() if not files),
    )


def read_picture(path: Path, size: int) -> tuple[np.ndarray, frozenset[str]]:
    """The picture in a file as uint8 (3, size, size), and what was done to it.

    The second value has those of RESIZED, DEEP and OWN_RANGE that apply. The picture is rotated as
    its EXIF data says, values of more than 8 bits are scaled to 8 as `data.folder.Folder` says,
    transparent parts are laid on white, the shorter side is resized to `size`, and all but the
    central square is cut off. Raises ValueError if the file has too many bytes or pixels, or grey
    values that are NaN or infinite; for a file that is not a picture Pillow raises many types of
    error, mostly OSError.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 1_000_000} MB")
    with Image.open(path) as opened:
        original = opened.size
        if original[0] * original[1] > MOST_PIXELS:
            raise ValueError(f"it has more than {MOST_PIXELS // 1_000_000} million pixels")
        if original[0] >= 4 * size and original[1] >= 4 * size:
            # a JPEG can be decoded at a lower resolution, which is faster
            opened.draft(None, (2 * size, 2 * size))
        # how Pillow will decode the file's bytes; it forgets this once they are decoded
        stored = opened.tile[0] if opened.tile else None
        picture, done = _eight_bits(ImageOps.exif_transpose(opened), opened, stored)
        if _is_dark_colour(picture, stored):
            picture, done = _deep_colour(path, picture), {DEEP, OWN_RANGE}
        if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
        if picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(picture).transpose(2, 0, 1), frozenset(
            done | ({RESIZED} if original != (size, size) else set())
        )


def _raw_mode(stored: Any) -> str:
    """The layout of the values in a file, as Pillow's tile `stored` states it, for example
    `RGB;16B`.
    """
    args = getattr(stored, "args", None) or ("",)
    return str(args if isinstance(args, str) else args[0])


def _ppm_white(stored: Any) -> int | None:
    """The value of white that the header of a PGM or PPM states; None for any other file."""
    head = stored.args if getattr(stored, "codec_name", "") in ("ppm", "ppm_plain") else None
    return int(head[1]) if isinstance(head, tuple) else None


def _is_dark_colour(picture: Image.Image, stored: Any) -> bool:
    """Whether `picture` is in colour (or has transparent parts), its file has 16 bits a value, and
    the upper 8 bits of its colours, the only ones that Pillow returns, all stay below 1/8 of white.
    """
    return (
        (";16" in _raw_mode(stored) or _ppm_white(stored) == WHITE)
        and picture.mode in ("RGB", "RGBA")
        and int(np.asarray(picture)[..., :3].max(initial=0)) < 256 * DARK
    )


def _deep_colour(path: Path, upper: Image.Image) -> Image.Image:
    """The 16-bit picture in `path` scaled to 8 bits, with its largest colour value as white.

    `upper` has its upper 8 bits. Transparency is scaled by its own largest value if that is below
    1/8 of the largest possible one. Pillow returns only 8 of the 16 bits; told that the byte order
    is the opposite, it returns the other 8.
    """
    values = np.asarray(upper).astype(np.int64)
    with Image.open(path) as again:
        again.tile = tiles = [tile._replace(args=_turned(tile)) for tile in again.tile]
        lower = np.asarray(ImageOps.exif_transpose(again)).astype(np.int64)
    # grey with transparency, read as four bytes: each has its upper, then its lower byte
    if _raw_mode(tiles[0]) == "RGBA":
        values = np.stack(
            [256 * lower[..., 0] + lower[..., 1]] * 3 + [256 * lower[..., 2] + lower[..., 3]],
            axis=2,
        )
    elif _ppm_white(tiles[0]):
        values = lower
    # for colours multiplied by their transparency the lower bytes cannot be read
    elif not _raw_mode(tiles[0]).startswith("RGBa"):
        values = 256 * values + lower
    shown = np.zeros(values.shape, np.uint8)
    for part in (slice(0, 3), slice(3, 4)):
        most = values[..., part].max(initial=0)
        white = most if part.start == 0 or most < WHITE * DARK else WHITE
        shown[..., part] = np.rint(values[..., part] * (255 / max(white, 1)))
    return Image.fromarray(shown)


def _turned(tile: Any) -> Any:
    """The arguments with which Pillow decodes the lower bytes of a tile's values."""
    raw, args = _raw_mode(tile), tile.args or ()
    if _ppm_white(tile):
        return raw, int(WHITE * DARK)  # a white 1/8 as large, so 3 more bits are returned
    orders = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    other = "RGBA" if raw == "LA;16B" else raw[:-1] + orders.get(raw[-1], "L")
    return other if isinstance(args, str) else (other, *args[1:])


def _eight_bits(
    picture: Image.Image, file: Image.Image, stored: Any = None
) -> tuple[Image.Image, set[str]]:
    """Returns a grey picture of more than 8 bits scaled to 8 bits, and {DEEP} or {DEEP, OWN_RANGE}.

    Any other picture is returned unchanged, with an empty set. `file` is the picture as it was
    opened. If the type of the file says what white is, that is used: 65,535 for 16 bits, 4,095 for
    12, a PGM's own maximum (from `stored`), 1 for floats that all lie in [0, 1]. There is one
    exception: if all values of 16 bits are below 1/8 of white, or all floats below 1/255, their
    largest value becomes white and zero black. For 32-bit, signed and other float values the type
    does not say what white is: the smallest value becomes black and the largest white; if all are
    equal, all become black. Raises ValueError for NaN or infinite values.
    """
    tags = getattr(file, "tag_v2", {})  # only TIFF files have them
    signed = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 2
    if not (
        picture.mode in ("I", "F")
        or picture.mode.startswith("I;16")
        or (picture.mode == "L" and signed)
    ):
        return picture, set()
    values, white = np.asarray(picture), None
    if picture.mode.startswith("I;16"):
        white = 2 ** tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
    elif picture.mode == "I" and file.format != "TIFF":
        white = WHITE  # Pillow scales a PGM of any maximum to 16 bits
    elif picture.mode == "L":
        values = values.view(np.int8)  # Pillow reads signed bytes as unsigned
    elif picture.mode == "I" and not signed:
        values = values.view(np.uint32)  # Pillow reads unsigned 32-bit values as signed
    values = values.astype(np.float64)
    if broken := int((~np.isfinite(values)).sum()):
        raise ValueError(f"{broken} of its {values.size} grey values are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    if picture.mode == "F" and low >= 0 and high <= 1:
        white = 1
    dark = {WHITE: WHITE * DARK, 1: 1 / 255}.get(white or 0, 0)
    by_head = _ppm_white(stored) not in (None, WHITE)
    own = white is None or (0 < high < dark and not by_head)
    black, top = (low, high) if white is None else (0, high if own else white)
    grey = (values - black) / (top - black or 1)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # the file stores it inverted
        grey = 1 - grey
    return Image.fromarray(np.rint(grey * 255).astype(np.uint8)), (
        {DEEP, OWN_RANGE} if own else {DEEP}
    )


def read(files: Sequence[Path], size: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Read picture files as images uint8 (M, 3, size, size), leaving out those that cannot be read.

    Returns the images, the indices in `files` (M,) int64 of those that could be read, and sentences
    for the card on resized, scaled and unreadable pictures. Raises UserError, naming the first
    unreadable file, if at least two files and more than 5% cannot be read, or if none can.
    """

    images = torch.zeros(len(files), 3, size, size, dtype=torch.uint8)

    def attempt(row: int) -> frozenset[str] | str:
        try:
            pixels, done = read_picture(files[row], size)
            images[row] = torch.from_numpy(np.ascontiguousarray(pixels))
            return done
        except Exception as error:
            # for a broken file Pillow raises many types, such as SyntaxError and struct.error
            return " ".join(str(error).split()) or type(error).__name__

    with ThreadPoolExecutor(
        min(8, os.cpu_count() or 1)
    ) as pool:  # threads help, because Pillow's decoders release the GIL
        results = list(pool.map(attempt, range(len(files))))
    good = {i: result for i, result in enumerate(results) if not isinstance(result, str)}
    bad = [i for i, result in enumerate(results) if isinstance(result, str)]
    if bad and (not good or len(bad) > max(1, FEW * len(files))):
        raise UserError(
            f"{len(bad)} of {len(files)} pictures cannot be read, the first is {files[bad[0]]}"
            f" ({results[bad[0]]}): take them out of the folder or put good copies there."
        )
    kept = torch.tensor(list(good), dtype=torch.int64)
    resized, deep, own = (
        sum(name in done for done in good.values()) for name in (RESIZED, DEEP, OWN_RANGE)
    )
    whose = f", {own:,} of them by the file's own range of values" if own else ""
    notes = {
        f"{resized:,} pictures of other sizes were resized by their short side and cropped to the"
        f" middle {size}x{size}.": resized,
        f"{deep:,} picture{'s' if deep > 1 else ''} of more than 8 bits"
        f" {'were' if deep > 1 else 'was'} scaled to 8 bits{whose}.": deep,
        f"{len(bad)} unreadable file{'s were' if len(bad) > 1 else ' was'} left out, the first:"
        f" {files[bad[0]].name if bad else ''}.": len(bad),
    }
    return (
        images[kept] if bad else images,
        kept,
        " ".join(note for note, count in notes.items() if count),
    )


def relative(path: Path, folder: Path) -> str:
    """The path of a file relative to `folder`, with forward slashes.

    Of a file that is not in the folder it is the file name alone.
    """
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
