"""Small images as crisp PNGs: enlarged by whole factors, with nearest-neighbour sampling."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from robustviz import memory
from robustviz.stats import Floats


def gain(eps: float) -> float:
    """The factor by which a perturbation is magnified for display: 0.5/ε, or 1 for ε = 0. Drawn
    around mid-grey, −ε then becomes black and +ε white.
    """
    return 0.5 / eps if eps > 0 else 1.0


def delta(x: Floats, x_adv: Floats, eps: float) -> Floats:
    """The perturbation x_adv − x as an image (C, H, W) in [0, 1], clipped to this range.
    Mid-grey is no change, black is −ε and white is +ε; for `eps` = 0 black is −0.5, white +0.5.
    """
    return np.clip(0.5 + (x_adv - x) * gain(eps), 0, 1)


def pixels(x: Floats) -> np.ndarray:
    """An image (C, H, W) in [0, 1], clipped to this range, as uint8 (H, W, 3). A single channel is
    repeated as grey; of more than three channels, the first three are used. Two channels are not
    supported.
    """
    levels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels[:, :, :3]


def png(x: Floats, side: int = 192) -> bytes:
    """An image (C, H, W) in [0, 1] as a PNG (bytes). Each pixel of the image becomes a square of
    pixels, such that the longer side has about `side` pixels.
    """
    return sheet([x], side)


def sheet(
    images: Sequence[Floats], side: int = 96, columns: int | None = None, gap: int = 6
) -> bytes:
    """Images of one size, (C, H, W) in [0, 1], in one PNG (bytes), with `gap` transparent pixels
    between them.

    They are arranged row by row in `columns` columns (None: in one row). Each is enlarged by the
    whole factor that brings its longer side nearest to `side` pixels, and never made smaller. One
    sheet costs the browser one request; 64 single pictures would cost 64.
    """
    tiles = np.stack([pixels(image) for image in images])
    return _sheet(tiles.tobytes(), tiles.shape, side, columns or len(tiles), gap)


SCALES = (1, 8)  # the scales of strips: the original size, and one large enough for paper


def strip(results: Iterable[object], scale: int, at: int = 0) -> bytes:
    """A PNG with one row per result: the clean image, the attacked one, and the perturbation, in
    which black is −ε and white is +ε. Each pixel of an image becomes `scale` × `scale` pixels. If a
    result has several attack strengths, `at` is the index of the one shown. Results without such
    pictures are left out; returns b"" if none has them.
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
    """Make the PNG of `sheet`. `content`: the bytes of the images, uint8 of `shape` (n, H, W, 3).
    The PNG is cached, because a page shows the same pictures again at every click.

    PNG can store each row as differences from the pixels to the left or from the row above, so
    enlarging a pixel to a square adds almost nothing to the file. This encoder is our own because
    Pillow tries five kinds of difference on every row, which is slow.
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
    filtered[:, :, 0] = 2  # PNG filter "Up": difference from the row above
    filtered[:, : height * scale : scale, 0] = 1  # filter "Sub": difference from the left neighbour
    first = filtered[:, : height * scale : scale, 1:].reshape(lines.shape)
    first[:, :, 0], first[:, :, 1:] = lines[:, :, 0], lines[:, :, 1:] - lines[:, :, :-1]
    filtered[:, : height * scale : scale, 1:] = first.reshape(rows, height, -1)
    filtered[:, height * scale : height * scale + 1, 0] = 0  # no filter: transparent
    body = filtered.reshape(rows * tall, -1)[: rows * tall - gap]
    # run-length coding is enough: the data are long runs of zeros, and little else repeats
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
