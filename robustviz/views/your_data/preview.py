"""Previews of pictures before they are stored: how a network will see them, how many there are, how
they will be split, and what networks predict for a single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustviz.data import arrays, folder, pictures, singles, splits, uploads
from robustviz.runs.folder import Run
from robustviz.runs.naming import labels
from robustviz.training.evaluation import UNEQUAL
from robustviz.views.measure import net_of
from robustviz.views.pictures import sheet

SHOWN = 8  # pictures shown per class
CLASSES = 12  # classes shown


@dataclass(frozen=True)
class Row:
    """One class in a preview: its `name`, and `count`, its number of pictures.
    `png`: the first `shown` of them in one PNG, as a network sees them.
    """

    name: str
    count: int
    shown: int
    png: bytes


def rows(draft: Path, counts: dict[str, dict[str, int]], size: int) -> list[Row]:
    """The preview of the first `CLASSES` classes, each with up to `SHOWN` pictures of `size` ×
    `size` pixels. `draft`: the folder of uploaded pictures that are not stored yet; `counts`: the
    number of pictures by class and split, as from `uploads.counts`.
    """
    found = []
    for name in list(counts)[:CLASSES]:
        files = uploads.examples(draft, name, SHOWN)
        seen = [seen_as(file, size) for file in files]
        png = sheet(seen, 64 if size <= 64 else size)
        found.append(Row(name, sum(counts[name].values()), len(seen), png))
    return found


def seen_as(file: Path, size: int) -> NDArray[np.float32]:
    """Returns a picture file as a network sees it, (3, size, size) in [0, 1]."""
    return pictures.read_picture(file, size)[0].astype(np.float32) / np.float32(255)


def counted(counts: dict[str, dict[str, int]]) -> str:
    """A sentence (Markdown) with the number of pictures and of classes; `counts`: see `rows`."""
    total = sum(sum(each.values()) for each in counts.values())
    return (
        f"**{total:,} picture{'s' * (total != 1)}** of {len(counts)} class"
        f"{'es' * (len(counts) != 1)}."
    )


def split(draft: Path, counts: dict[str, dict[str, int]]) -> str:
    """How the pictures will be split into train, val and test, in up to two sentences; empty for
    fewer than two classes. `draft`, `counts`: see `rows`.
    """
    if len(counts) < 2:
        return ""
    named: dict[str, int] = {}
    for each in counts.values():
        for where, n in each.items():
            named[where] = named.get(where, 0) + n
    if "" not in named:
        said = ", ".join(f"{named[where]:,} {where}" for where in splits.SPLITS if where in named)
        rest = "" if "val" in named else " A tenth of train is kept for validation."
        return f"Split as your folders say: {said}.{rest}"
    which, few = folder.by_content(pictures.list_classes(uploads.images_of(draft)))
    parts = torch.bincount(torch.tensor(which), minlength=3).tolist()
    ends = ("train", "validate", "test")
    said = ", ".join(f"{n:,} to {what}" for n, what in zip(parts, ends, strict=True))
    return f"Split by their content: {said}. {few}".strip()


def cautions(counts: dict[str, dict[str, int]]) -> list[str]:
    """Warnings, as sentences: fewer than two classes, very unequal ones (the largest has at least
    `UNEQUAL` times as many pictures as the smallest), a smallest class of fewer than 20 pictures.
    """
    sizes = {name: sum(each.values()) for name, each in counts.items()}
    if len(sizes) < 2:
        return ["One class is not enough: add pictures of another one."]
    rare, common = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    said = []
    if sizes[common] >= UNEQUAL * sizes[rare]:
        said.append(
            f"The classes are very unequal: {common} has {sizes[common]:,} pictures, {rare}"
            f" {sizes[rare]:,}. Read the balanced accuracy, in which all classes count alike."
        )
    if sizes[rare] < 20:
        said.append(f"{rare} has {sizes[rare]} pictures: accuracies will be imprecise.")
    return said


def of_arrays(found: arrays.Arrays, reading: str, order: str) -> tuple[bytes, int, str]:
    """A preview of a NumPy file, as three values: up to 16 of its images in one PNG, the number of
    images shown, and a warning if red and blue seem to be swapped, else "".
    The images are evenly spread over the file's first part. `reading` and `order` say how the
    numbers and the channels are interpreted (`arrays.READINGS`, `arrays.RGB` or `arrays.BGR`).
    """
    x = found.parts[0].x
    few = x[np.linspace(0, len(x) - 1, min(16, len(x)), dtype=int)]
    pixels = arrays.to_bytes(few, reading, order).astype(np.float32) / np.float32(255)
    many: Any = x[np.linspace(0, len(x) - 1, min(arrays.SAMPLE, len(x)), dtype=int)]
    colours = arrays.to_bytes(many, reading, order).astype(np.float32) / np.float32(255)
    return (
        sheet(list(pixels.transpose(0, 3, 1, 2)), 64, columns=8),
        len(few),
        arrays.blue(colours),
    )


def readings(found: arrays.Arrays) -> Sequence[str]:
    """The keys of `arrays.READINGS` that fit these images' number of channels."""
    channels = found.parts[0].x.shape[3]
    return [key for key, reading in arrays.READINGS.items() if reading.fits(channels)]


def seen_one(content: bytes, channels: int, size: int) -> NDArray[np.float32]:
    """A PNG as networks with `channels` channels see it, (channels, size, size) in [0, 1]."""
    return singles.fitted(content, channels, size).astype(np.float32) / np.float32(255)


def predicted(seen: NDArray[np.float32], networks: Sequence[Run]) -> str:
    """What one or two networks predict for the picture `seen`, as a sentence in Markdown.

    `seen`: (C, H, W) in [0, 1], as the networks see it. Raises UserError if weights cannot be read.
    """
    x = torch.from_numpy(seen)[None]
    best = [net_of(run)(x).softmax(1)[0].max(0) for run in networks]
    names, shares = labels(networks), [f"{float(share):.0%}" for share, _ in best]
    said = [f"**{run.classes[int(at)]}**" for run, (_, at) in zip(networks, best, strict=True)]
    if len(set(said)) == 1 < len(said):
        return f"{' and '.join(names)} both predict {said[0]} ({', '.join(shares)})."
    return f"{', '.join(map('{} predicts {} ({})'.format, names, said, shares))}."
