"""Small images as pictures that a browser shows crisply: whole multiples of their size, nearest
neighbour, PNG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from robustviz import memory
from robustviz.stats import Floats


def gain(eps: float) -> float:
    """By how much a change is magnified when it is shown: 0.5/ε, so that ±ε reaches black and
    white. 1 for ε = 0.
    """
    return 0.5 / eps if eps > 0 else 1.0


def delta(x: Floats, x_adv: Floats, eps: float) -> Floats:
    """The change x_adv − x as an image around mid-grey, (C,H,W) in [0,1]: grey is no change, ±ε is
    black or white.
    """
    return np.clip(0.5 + (x_adv - x) * gain(eps), 0, 1)


def pixels(x: Floats) -> np.ndarray:
    """(C,H,W) in [0,1] as uint8 (H,W,3)."""
    levels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels[:, :, :3]


def png(x: Floats, side: int = 192) -> bytes:
    """An image (C,H,W) in [0,1] as PNG of about `side` pixels, each pixel a square."""
    return sheet([x], side)


def sheet(
    images: Sequence[Floats], side: int = 96, columns: int | None = None, gap: int = 6
) -> bytes:
    """Several images of one size in one PNG, row by row, `gap` transparent pixels between them.

    One picture costs the browser one request; sixty-four of them cost sixty-four.
    """
    tiles = np.stack([pixels(image) for image in images])
    return _sheet(tiles.tobytes(), tiles.shape, side, columns or len(tiles), gap)


SCALES = (1, 8)  # of strips: as the image is, and large enough for a page of paper


def strip(results: Iterable[object], scale: int, at: int = 0) -> bytes:
    """The image of each result untouched, attacked, and what was added (± its ε is black or white),
    a row a result, as PNG; a pixel is `scale` wide. `at`: which level, where a result has several.
    Empty where no result has such pictures.
    """
    tiles: list[Floats] = []
    for result in results:
        one = result.at(at) if hasattr(result, "at") else result
        x, x_adv = (np.asarray(getattr(one, name, 0.0)) for name in ("x", "x_adv"))
        if x.ndim == x_adv.ndim == 3 and x.dtype.kind == "f":
            tiles += [x, x_adv, delta(x, x_adv, float(getattr(one, "eps", 0)))]
    return sheet(tiles, scale * max(tiles[0].shape[1:]), 3, scale) if tiles else b""


@memory.remembered(memory.ANSWERS)
def _sheet(content: bytes, shape: tuple[int, ...], side: int, columns: int, gap: int) -> bytes:
    """A page shows the same pictures again at every click.

    PNG keeps each row as its difference from its left neighbours or from the row above, so a pixel
    that was made a square costs as much as before. Written here, because Pillow tries five kinds of
    difference on every row.
    """
    tiles = np.frombuffer(content, np.uint8).reshape(shape)
    height, width = shape[1:3]
    scale = max(1, round(side / max(height, width)))
    rows, tall, wide = -(-len(tiles) // columns), height * scale + gap, width * scale + gap
    lines = np.zeros((rows, height, columns, wide, 4), np.uint8)
    for number, tile in enumerate(tiles):
        place = lines[number // columns, :, number % columns, : width * scale]
        place[..., :3], place[..., 3] = tile.repeat(scale, 1), 255
    lines = lines.reshape(rows, height, columns * wide, 4)[:, :, : columns * wide - gap]
    filtered = np.zeros((rows, tall, 1 + 4 * lines.shape[2]), np.uint8)
    filtered[:, :, 0] = 2  # as the row above
    filtered[:, : height * scale : scale, 0] = 1  # less its left neighbour
    first = filtered[:, : height * scale : scale, 1:].reshape(lines.shape)
    first[:, :, 0], first[:, :, 1:] = lines[:, :, 0], lines[:, :, 1:] - lines[:, :, :-1]
    filtered[:, : height * scale : scale, 1:] = first.reshape(rows, height, -1)
    filtered[:, height * scale : height * scale + 1, 0] = 0  # the first transparent row
    body = filtered.reshape(rows * tall, -1)[: rows * tall - gap]
    # long runs of zeros, and little else repeats
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", lines.shape[2], len(body), 8, 6, 0, 0, 0)),
        (b"IDAT", deflate.compress(body.tobytes()) + deflate.flush()),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
