"""A surface on a fine grid at about the cost of a coarse one: points are computed where the surface
bends and interpolated elsewhere, and the interpolation error is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustviz.stats import Bools, Floats, Ints
from robustviz.training.evaluation import pack
from robustviz.types import JSON

FIRST = 4  # the first pass computes every fourth point
# Cells that linear interpolation gets right to this fraction of the drawn range are not refined.
# For comparison: contour lines are 0.05 of the range of the losses apart.
SEEN = 0.01
TRIED = 64  # interpolated points that are computed afterwards, to measure the error


@dataclass(frozen=True)
class Refined:
    """A surface of which some points were computed and the others interpolated.

    `values` (G,G,K): the K values at each point; `computed` (G,G): True where a point was computed.
    `tried` (T,2): row and column of the points that were interpolated first and then computed, to
    measure the error; there, `values` has the computed ones, and `guess` (T,K) the interpolated
    ones.
    """

    values: Floats
    computed: Bools
    tried: Ints
    guess: Floats

    @property
    def found(self) -> Floats:
        """The computed values (T,K) at the points `tried`."""
        return np.asarray(self.values[tuple(self.tried.T)])

    def meta(self, names: Sequence[str], off: Floats) -> JSON:
        """The dict for a result's `meta["refined"]`. `points`, `computed`, `tried`: how many points
        there are, how many of them were computed (those tried included), and how many tried.
        `error`: the largest absolute interpolation error of each quantity, by name; 0 if no point
        was tried. `where`: which points were computed, row by row, as text from `evaluation.pack`.

        `off` (T,D): the interpolation errors of D quantities at the points tried; `names`: their
        names, of which surplus ones are ignored.
        """
        return {
            "points": self.computed.size,
            "computed": int(self.computed.sum()),
            "tried": len(self.tried),
            "error": dict(zip(names, np.abs(off).max(axis=0, initial=0).tolist(), strict=False)),
            "where": pack(self.computed.ravel()),
        }


def refined(
    compute: Callable[[Ints, Ints], Floats],
    drawn: Callable[[Floats], Floats],
    grid: int,
    seed: int = 0,
) -> Refined:
    """Returns a surface of `grid` × `grid` points, computed where it bends and interpolated
    elsewhere. `compute` takes the rows and columns of P points and returns their values (P,K).

    The first pass computes the points whose row and column are both at an edge or a multiple of
    four steps from the middle; then the spacing is halved twice. Second differences estimate the
    error of linear interpolation in each cell. Where it exceeds 1% of the range of the drawn
    quantities in the first pass (`drawn` maps values (N,K) to these, (N,D)), all points of the cell
    are computed at the new spacing. The others come from the cubic through the four nearest points
    of the coarser grid along each direction. Last, up to 64 interpolated points, which `seed`
    selects, are computed to measure the error. If a value on one of the two coarser grids is not
    finite, all points are computed.
    """
    nodes, spans = _lattice(grid, FIRST), None
    computed = _both(grid, nodes)
    known = compute(*np.nonzero(computed))
    values = np.zeros((grid, grid, known.shape[1]))
    values[computed] = known

    def fill(wanted: Bools) -> None:
        i, j = np.nonzero(wanted & ~computed)
        if len(i):
            values[i, j], computed[i, j] = compute(i, j), True

    for step in (FIRST // 2, FIRST // 4):
        here = values[np.ix_(nodes, nodes)]
        if not np.isfinite(here).all():
            fill(np.ones_like(computed))
            break
        shown = drawn(here.reshape(len(nodes) ** 2, -1)).reshape(len(nodes), len(nodes), -1)
        spans = np.ptp(shown, axis=(0, 1)) if spans is None else spans
        finer = _lattice(grid, step)
        weight, place = _cubic(nodes, finer), np.ix_(finer, finer)
        values[place] = np.where(
            computed[place][..., None],
            values[place],
            np.einsum("mi,ijk,nj->mnk", weight, here, weight, optimize=True),
        )
        wanted = np.zeros_like(computed)
        bends = _bend(nodes, shown) + _bend(nodes, shown.swapaxes(0, 1)).swapaxes(0, 1)
        for i, j in np.argwhere((bends > SEEN * spans).any(2)):
            wanted[nodes[i] : nodes[i + 1] + 1, nodes[j] : nodes[j + 1] + 1] = True
        fill(wanted & _both(grid, finer))
        nodes = finer
    left = np.argwhere(~computed)
    tried = left[
        torch.randperm(len(left), generator=torch.Generator().manual_seed(seed)).numpy()[:TRIED]
    ]
    guess = values[tuple(tried.T)]
    wanted = np.zeros_like(computed)
    wanted[tuple(tried.T)] = True
    fill(wanted)
    return Refined(values, computed, tried, guess)


def _lattice(grid: int, step: int) -> Ints:
    """The indices 0 to `grid` − 1 that are a multiple of `step` from the middle, and both ends."""
    return np.unique([0, *range(grid // 2 % step, grid, step), grid - 1])


def _both(grid: int, nodes: Ints) -> Bools:
    """Returns a mask (grid, grid), True where both the row and the column are in `nodes`."""
    among = np.isin(np.arange(grid), nodes)
    return among[:, None] & among


def _bend(nodes: Ints, shown: Floats) -> Floats:
    """The error in each cell, (n−1,n−1,D), of linear interpolation along axis 0 between
    neighbouring `nodes` (n,), estimated from the second differences of `shown` (n,n,D).
    """
    length = np.diff(nodes).astype(float)[:, None, None]
    second = (
        np.abs(np.diff(np.diff(shown, axis=0) / length, axis=0)) * 2 / (length[1:] + length[:-1])
    )
    # the first and last node have no second difference: they take that of their neighbour
    second = np.pad(second, [(1, 1), (0, 0), (0, 0)], mode="edge")
    cell = np.maximum(second[1:], second[:-1]) * length**2 / 8
    return np.asarray(np.maximum(cell[:, 1:], cell[:, :-1]))


def _cubic(nodes: Ints, at: Ints) -> Floats:
    """The weights (len(at), n) with which the values at the n `nodes` give the value at each index
    of `at`: by the cubic through the four nodes around the index (with n < 4, through all).
    """
    weights = np.zeros((len(at), len(nodes)))
    for row, first in enumerate(
        np.clip(np.searchsorted(nodes, at, side="right") - 2, 0, max(len(nodes) - 4, 0))
    ):
        four = nodes[first : first + 4].astype(float)
        for column, own in enumerate(four):
            others = np.delete(four, column)
            weights[row, first + column] = np.prod((at[row] - others) / (own - others))
    return weights
