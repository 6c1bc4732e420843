"""Folders of photographs: which files are pictures of which class, and what they are as equal squares of RGB. People's
folders hold all sorts of things, so what is no picture is passed over and what is a broken one is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from robustviz.types import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
MOST_PIXELS = 64_000_000  # a small file can claim to be a huge picture and fill the memory
FEW = 0.05  # share of unreadable files that is told on the card; above it something is wrong with the folder


@dataclass(frozen=True)
class Listing:
    """Picture files, `y` (N,) int64 their positions in `classes`, and the class folders that hold no picture."""

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    y: torch.Tensor
    empty: tuple[str, ...] = ()


def hidden(name: str) -> bool:
    """Whether a file or folder is an operating system's own: .DS_Store, ._a.png, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that a person put there, by name."""
    return sorted((p for p in folder.iterdir() if p.is_dir() and not hidden(p.name)), key=lambda p: p.name)


def pictures(folder: Path) -> Iterator[Path]:
    """The picture files in `folder` and below it, in an order that is the same on every system."""
    for where, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not hidden(name))
        for name in sorted(files):
            if not hidden(name) and Path(name).suffix.lower() in SUFFIXES:
                yield Path(where) / name


def list_classes(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The pictures in the class folders of `folder`; `classes` names them in order, None: what is there, sorted.

    Raises UserError where a class folder is not one of `classes`.
    """
    try:
        found = {place.name: tuple(pictures(place)) for place in subfolders(folder)}
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read ({error.strerror or error}): check its name and its permissions.") from error
    full = [name for name, files in found.items() if files]
    names = tuple(full if classes is None else classes)
    strange = [name for name in full if name not in names]
    if strange:
        raise UserError(f"{folder} has the class {strange[0]!r}, which the training folder lacks: give both the same class folders.")
    y = [k for k, name in enumerate(names) for _ in found.get(name, ())]
    files = tuple(path for name in names for path in found.get(name, ()))
    return Listing(names, files, torch.tensor(y, dtype=torch.int64), tuple(name for name, files in found.items() if not files))


def read_picture(path: Path, size: int) -> tuple[np.ndarray, bool]:
    """uint8 (3, size, size) of a picture file, and whether its size was another.

    Turned as the camera noted, transparent parts on white, short side resized to `size`, the middle square kept.
    Raises OSError or ValueError where the file is no picture or a monstrous one.
    """
    with Image.open(path) as opened:
        original = opened.size
        if original[0] * original[1] > MOST_PIXELS:
            raise ValueError(f"it has more than {MOST_PIXELS // 1_000_000} million pixels")
        if original[0] >= 4 * size and original[1] >= 4 * size:
            opened.draft(None, (2 * size, 2 * size))  # a JPEG's decoder can skip what the resize would throw away
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
        if picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(picture).transpose(2, 0, 1), original != (size, size)


def read(files: Sequence[Path], size: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """(images uint8 (M, 3, size, size), positions (M,) int64 of those that could be read, sentences for the card).

    Raises UserError naming the first unreadable file where more than 5 % are, and more than one.
    """

    def attempt(path: Path) -> tuple[np.ndarray, bool] | str:
        try:
            return read_picture(path, size)
        except Exception as error:  # Pillow raises many kinds for a broken file, SyntaxError and struct.error among them
            return " ".join(str(error).split()) or type(error).__name__

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow's decoders leave the interpreter free
        results = list(pool.map(attempt, files))
    good = {i: result for i, result in enumerate(results) if not isinstance(result, str)}
    bad = [i for i, result in enumerate(results) if isinstance(result, str)]
    if bad and (not good or len(bad) > max(1, FEW * len(files))):
        raise UserError(
            f"{len(bad)} of {len(files)} pictures cannot be read, the first is {files[bad[0]]} ({results[bad[0]]}): "
            "take them out of the folder or put good copies there."
        )
    images = torch.zeros(len(good), 3, size, size, dtype=torch.uint8)
    for row, (pixels, _) in enumerate(good.values()):
        images[row] = torch.from_numpy(np.ascontiguousarray(pixels))
    resized = sum(other for _, other in good.values())
    notes = []
    if resized:
        notes.append(f"{resized:,} pictures of other sizes were resized by their short side and cropped to the middle {size}x{size}.")
    if bad:
        notes.append(f"{len(bad)} unreadable file{'s were' if len(bad) > 1 else ' was'} left out, the first: {files[bad[0]].name}.")
    return images, torch.tensor(list(good), dtype=torch.int64), " ".join(notes)


def relative(path: Path, folder: Path) -> str:
    """The name of a file within a folder, with forward slashes on every system."""
    return path.relative_to(folder).as_posix()
