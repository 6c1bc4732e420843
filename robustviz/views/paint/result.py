"""The spec and result for an attack within a painted budget.

A mask is a grid of cells: single pixels up to 32 × 32, blocks of pixels in larger images, so that
its text is short enough for an address. The text has the cells row by row, eight per byte, as
base64url.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats
from robustviz.types import UserError
from robustviz.views.result import ProbeSpec, Result

NAMED = ("all", "none", "centre", "edge", "strongest", "part")  # masks that have a name
CELLS = 32  # at most so many in a row or column of the grid


def grid(height: int, width: int) -> tuple[int, int, int]:
    """Returns (rows, columns, pixels per side of a cell) of the grid over an image of this size.
    The last row and column may be cut off by the image's edge.
    """
    side = -(-max(height, width) // CELLS)
    return -(-height // side), -(-width // side), side


def to_text(cells: Bools) -> str:
    """Encodes a mask (rows, columns) as base64url, one bit a cell: 11 characters for 8 × 8 cells,
    171 for 32 × 32.
    """
    return base64.urlsafe_b64encode(np.packbits(cells).tobytes()).decode().rstrip("=")


def from_text(text: str, rows: int, columns: int) -> Bools:
    """Decodes a mask (rows, columns) from text. Raises UserError if its length or form is wrong."""
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        packed = b""
    if len(packed) != -(-rows * columns // 8):
        raise UserError(
            f"This is no painted mask for a grid of {rows}×{columns}: it must be"
            f" {len(to_text(np.zeros((rows, columns), bool)))} characters of base64url, or one of"
            f" {', '.join(NAMED)}.",
            code=2,
        )
    return (
        np.unpackbits(np.frombuffer(packed, np.uint8))[: rows * columns]
        .reshape(rows, columns)
        .astype(bool)
    )


@dataclass(frozen=True)
class Painted(Result):
    """One image attacked on one network within a painted budget.

    `x`, `x_adv`, `x_full` (C, H, W) in [0, 1]: clean, attacked within the budget, and attacked with
    `eps` everywhere. `mask` (H, W): where the budget is `eps`; elsewhere it is `eps_low`. `y`: the
    true class. `probs`, `probs_adv`, `probs_full` (K,): the softmax outputs. `inside`, `outside`:
    the measured max |δ| of x_adv inside and outside the mask, 0 where there is no pixel.
    """

    x: Floats
    x_adv: Floats
    x_full: Floats
    mask: Bools
    y: int
    probs: Floats
    probs_adv: Floats
    probs_full: Floats
    eps: float
    eps_low: float
    inside: float
    outside: float

    @property
    def uniform(self) -> bool:
        """Whether the budget is `eps` on every pixel, as in the attacks behind robust
        accuracies.
        """
        return bool(self.mask.all()) or self.eps_low == self.eps


@register("probe/painted")
@dataclass(frozen=True)
class PaintedSpec(ProbeSpec[Painted]):
    """One test image attacked with PGD within a painted budget.
    For comparison it is also attacked with the full ε everywhere.
    """

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    mask: str = option(
        "centre", f"Which pixels get the full ε: a painted mask as text, or {', '.join(NAMED)}."
    )
    eps: float | None = option(
        None,
        "Radius of the painted pixels, in [0, 1]; empty: the run's (the data's after l2 training).",
        low=0,
        kind="radius",
    )
    eps_low: float = option(0.0, "Radius of all other pixels, at most ε.", low=0, kind="radius")
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the random start.", low=0)

    result = Painted
    cacheable = False
