"""Small images as pictures that a browser shows crisply: whole multiples of their size, nearest neighbour, PNG."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from robustviz.results import Floats


def gain(eps: float) -> float:
    """By how much a change is magnified when it is shown: 0.5/ε, so that ±ε reaches black and white. 1 for ε = 0."""
    return 0.5 / eps if eps > 0 else 1.0


def delta(x: Floats, x_adv: Floats, eps: float) -> Floats:
    """The change x_adv − x as an image around mid-grey, (C,H,W) in [0,1]: grey is no change, ±ε is black or white."""
    return np.clip(0.5 + (x_adv - x) * gain(eps), 0, 1)


def pixels(x: Floats) -> np.ndarray:
    """(C,H,W) in [0,1] as uint8 (H,W,3)."""
    levels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels[:, :, :3]


def png(x: Floats, side: int = 192) -> bytes:
    """An image (C,H,W) in [0,1] as PNG of about `side` pixels, each pixel a square."""
    return sheet([x], side)


def sheet(images: Sequence[Floats], side: int = 96, columns: int | None = None, gap: int = 6) -> bytes:
    """Several images of one size in one PNG, row by row, `gap` transparent pixels between them.

    One picture costs the browser one request; sixty-four of them cost sixty-four.
    """
    tiles = np.stack([pixels(image) for image in images])
    return _sheet(tiles.tobytes(), tiles.shape, side, columns or len(tiles), gap)


@functools.lru_cache(maxsize=128)
def _sheet(content: bytes, shape: tuple[int, ...], side: int, columns: int, gap: int) -> bytes:
    """A page shows the same pictures again at every click."""
    tiles = np.frombuffer(content, np.uint8).reshape(shape)
    height, width = shape[1:3]
    scale = max(1, round(side / max(height, width)))
    rows = -(-len(tiles) // columns)
    canvas = np.zeros((rows * (height * scale + gap) - gap, columns * (width * scale + gap) - gap, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // columns) * (height * scale + gap), (number % columns) * (width * scale + gap)
        canvas[top : top + height * scale, left : left + width * scale, :3] = tile.repeat(scale, 0).repeat(scale, 1)
        canvas[top : top + height * scale, left : left + width * scale, 3] = 255
    out = io.BytesIO()
    Image.fromarray(canvas).save(out, "PNG", compress_level=1)
    return out.getvalue()
