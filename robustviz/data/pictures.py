"""Folders of photographs: which files are pictures of which class, and what they are as equal
squares of RGB. People's folders hold all sorts of things, so what is no picture is passed over and
what is a broken one is counted.
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
MOST_PIXELS = 64_000_000  # a small file can claim to be a huge picture and fill the memory
MOST_BYTES = 200_000_000
# what is done to a picture
RESIZED = "resized"
DEEP = "of more than 8 bits"
OWN_RANGE = "scaled by its own range"
WHITE = 2**16 - 1  # of 16 bits
DARK = 1 / 8  # of its type's white: a 16-bit file that stays below holds fewer bits, 10, 12 or 14
# share of unreadable files that is told on the card; above it something is wrong with the folder
FEW = 0.05


@dataclass(frozen=True)
class Listing:
    """Picture files, `y` (N,) int64 their positions in `classes`, and the class folders that hold
    no picture.
    """

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    y: torch.Tensor
    empty: tuple[str, ...] = ()

    def take(self, which: torch.Tensor) -> Listing:
        """Of the pictures those at positions `which` (M,), or where it is true (N,)."""
        files = tuple(self.files[i] for i in torch.arange(len(self.y))[which].tolist())
        return replace(self, files=files, y=self.y[which])


def hidden(name: str) -> bool:
    """Whether a file or folder is an operating system's own: .DS_Store, ._a.png, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that a person put there, by name."""
    return sorted(
        (p for p in folder.iterdir() if not hidden(p.name) and p.is_dir() and paths.open_to(p)),
        key=lambda p: p.name,
    )


def pictures(folder: Path) -> Iterator[Path]:
    """The picture files in `folder` and below it, in an order that is the same on every system.
    Pipes, devices, links that lead nowhere or out of `ROBUSTVIZ_FOLDERS` are passed over.
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
    """Whether it is a file with an end: reading a pipe waits for good, a device never ends."""
    try:
        return stat.S_ISREG(path.stat().st_mode) and paths.open_to(path)
    except OSError:
        return False


def list_classes(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The pictures in the class folders of `folder`; `classes` names them in order, None: what is
    there, sorted.

    Raises UserError where a class folder is not one of `classes`.
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
            f"{folder} has the class {strange[0]!r}, which the training folder lacks: give both the"
            " same class folders."
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
    """uint8 (3, size, size) of a picture file, and which of RESIZED, DEEP, OWN_RANGE was done to
    it.

    Turned as the camera noted, grey values of more than 8 bits as `_eight_bits` says, transparent
    parts on white, short side resized to `size`, the middle square kept. Raises OSError or
    ValueError where the file is no picture or a monstrous one.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 1_000_000} MB")
    with Image.open(path) as opened:
        original = opened.size
        if original[0] * original[1] > MOST_PIXELS:
            raise ValueError(f"it has more than {MOST_PIXELS // 1_000_000} million pixels")
        if original[0] >= 4 * size and original[1] >= 4 * size:
            # a JPEG's decoder can skip what the resize would throw away
            opened.draft(None, (2 * size, 2 * size))
        # how the file's bytes are to be read; gone once they are
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
    """How `stored`, one of Pillow's tiles, says that the file's values lie: `RGB;16B`."""
    args = getattr(stored, "args", None) or ("",)
    return str(args if isinstance(args, str) else args[0])


def _ppm_white(stored: Any) -> int | None:
    """The white of a PGM or PPM by its own head; None for any other file."""
    head = stored.args if getattr(stored, "codec_name", "") in ("ppm", "ppm_plain") else None
    return int(head[1]) if isinstance(head, tuple) else None


def _is_dark_colour(picture: Image.Image, stored: Any) -> bool:
    """Whether a picture in colour, or with transparent parts, of which Pillow gives the upper 8 of
    16 bits, has next to nothing there.
    """
    return (
        (";16" in _raw_mode(stored) or _ppm_white(stored) == WHITE)
        and picture.mode in ("RGB", "RGBA")
        and int(np.asarray(picture)[..., :3].max(initial=0)) < 256 * DARK
    )


def _deep_colour(path: Path, upper: Image.Image) -> Image.Image:
    """The picture whose upper 8 bits are `upper`, its largest value as white (and as opaque, where
    that is as small), in 8 bits.

    Pillow reads 8 of the 16 bits only. Told that the bytes lie the other way round, it reads the
    other 8.
    """
    values = np.asarray(upper).astype(np.int64)
    with Image.open(path) as again:
        again.tile = tiles = [tile._replace(args=_turned(tile)) for tile in again.tile]
        lower = np.asarray(ImageOps.exif_transpose(again)).astype(np.int64)
    if _raw_mode(tiles[0]) == "RGBA":  # grey and transparency: upper, lower, upper, lower
        values = np.stack(
            [256 * lower[..., 0] + lower[..., 1]] * 3 + [256 * lower[..., 2] + lower[..., 3]],
            axis=2,
        )
    elif _ppm_white(tiles[0]):
        values = lower
    # colours over their transparency have no other half
    elif not _raw_mode(tiles[0]).startswith("RGBa"):
        values = 256 * values + lower
    shown = np.zeros(values.shape, np.uint8)
    for part in (slice(0, 3), slice(3, 4)):
        most = values[..., part].max(initial=0)
        white = most if part.start == 0 or most < WHITE * DARK else WHITE
        shown[..., part] = np.rint(values[..., part] * (255 / max(white, 1)))
    return Image.fromarray(shown)


def _turned(tile: Any) -> Any:
    """How to read a tile for the lower halves of its values."""
    raw, args = _raw_mode(tile), tile.args or ()
    if _ppm_white(tile):
        return raw, int(WHITE * DARK)  # all that there is, with 3 bits more
    orders = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    other = "RGBA" if raw == "LA;16B" else raw[:-1] + orders.get(raw[-1], "L")
    return other if isinstance(args, str) else (other, *args[1:])


def _eight_bits(
    picture: Image.Image, file: Image.Image, stored: Any = None
) -> tuple[Image.Image, set[str]]:
    """A grey picture of more than 8 bits in 8, and which of DEEP, OWN_RANGE that took; any other as
    it is. `file`: as it was opened.

    Where the file's type says what white is, that is kept: 65,535 for 16 bits, 4,095 for 12, a
    PGM's own maximum (it is in `stored`), 1 for floats that all lie in [0, 1]. But where all of 16
    bits' values lie below 1/8 of it, or all of the floats below 1/255, the type says too little:
    the largest of them is white, and zero black. 32-bit, signed and other floating values say
    nothing of white: their own smallest becomes black and their largest white; of equal ones all
    are black. Raises ValueError for values that are NaN or infinite.
    """
    tags = getattr(file, "tag_v2", {})  # a TIFF's
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
        white = WHITE  # Pillow brings a PGM of any maximum to 16 bits
    elif picture.mode == "L":
        values = values.view(np.int8)  # Pillow reads signed bytes as unsigned ones
    elif picture.mode == "I" and not signed:
        values = values.view(np.uint32)  # and unsigned words as signed ones
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
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # black and white are exchanged
        grey = 1 - grey
    return Image.fromarray(np.rint(grey * 255).astype(np.uint8)), (
        {DEEP, OWN_RANGE} if own else {DEEP}
    )


def read(files: Sequence[Path], size: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """(images uint8 (M, 3, size, size), positions (M,) int64 of those that could be read, sentences
    for the card).

    Raises UserError naming the first unreadable file where more than 5 % are, and more than one.
    """

    images = torch.zeros(len(files), 3, size, size, dtype=torch.uint8)

    def attempt(row: int) -> frozenset[str] | str:
        try:
            pixels, done = read_picture(files[row], size)
            images[row] = torch.from_numpy(np.ascontiguousarray(pixels))
            return done
        except Exception as error:
            # Pillow raises many kinds for a broken file, SyntaxError and struct.error among them
            return " ".join(str(error).split()) or type(error).__name__

    with ThreadPoolExecutor(
        min(8, os.cpu_count() or 1)
    ) as pool:  # Pillow's decoders leave the interpreter free
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
    whose = f"{own:,} of them by the file's own range" if own else "by its type's white"
    notes = {
        f"{resized:,} pictures of other sizes were resized by their short side and cropped to the"
        f" middle {size}x{size}.": resized,
        f"{deep:,} picture{'s' if deep > 1 else ''} of more than 8 bits"
        f" {'were' if deep > 1 else 'was'} scaled to 8, {whose}.": deep,
        f"{len(bad)} unreadable file{'s were' if len(bad) > 1 else ' was'} left out, the first:"
        f" {files[bad[0]].name if bad else ''}.": len(bad),
    }
    return (
        images[kept] if bad else images,
        kept,
        " ".join(note for note, count in notes.items() if count),
    )


def relative(path: Path, folder: Path) -> str:
    """The name of a file within a folder, with forward slashes on every system; that alone of one
    elsewhere.
    """
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
