"""Tests sheets of small pictures: the PNG written by our code against Pillow's, pixel by pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from robustviz import figures


def slow(images: list[np.ndarray], scale: int, columns: int, gap: int) -> np.ndarray:
    """A reference that builds the same sheet pixel by pixel, as an (H, W, 4) array."""
    height, width = images[0].shape[1:]
    rows = -(-len(images) // columns)
    out = np.zeros(
        (rows * (height * scale + gap) - gap, columns * (width * scale + gap) - gap, 4), np.uint8
    )
    for number, image in enumerate(images):
        top, left = (
            number // columns * (height * scale + gap),
            number % columns * (width * scale + gap),
        )
        for row in range(height * scale):
            for column in range(width * scale):
                pixel = np.round(image[:, row // scale, column // scale] * 255).astype(np.uint8)
                out[top + row, left + column] = [
                    *(pixel if len(pixel) == 3 else [pixel[0]] * 3),
                    255,
                ]
    return out


@pytest.mark.parametrize(
    ("count", "shape", "side", "columns", "gap", "scale"),
    [
        (1, (1, 8, 8), 32, None, 6, 4),
        (3, (3, 6, 6), 12, None, 6, 2),
        (5, (3, 4, 7), 20, 2, 3, 3),
        (4, (1, 5, 5), 5, 2, 0, 1),
        (2, (3, 9, 3), 1, None, 1, 1),
    ],
)
def test_every_pixel_is_where_it_belongs(count, shape, side, columns, gap, scale):
    images = list(np.random.default_rng(0).random((count, *shape)))
    found = Image.open(io.BytesIO(figures.sheet(images, side, columns, gap)))
    assert (found.format, found.mode) == ("PNG", "RGBA")
    np.testing.assert_array_equal(np.asarray(found), slow(images, scale, columns or count, gap))


def test_another_picture_is_another_sheet():
    image = np.zeros((3, 8, 8))
    before = figures.sheet([image], 32)
    image[0, 0, 0] = 1
    assert figures.sheet([image], 32) != before
    assert figures.sheet([np.zeros((3, 8, 8))], 32) == before
