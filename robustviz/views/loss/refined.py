"""A surface computed where it bends and interpolated where it does not, with the error of
interpolation measured: so that a fine grid costs no more than a coarse one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from robustviz.stats import Bools, Floats, Ints
from robustviz.training.evaluation import pack
from robustviz.types import JSON

FIRST = 4  # every fourth point is computed
SEEN = (
    0.01  # of what the values drawn span: a bend below is not refined; contour lines are 0.05 apart
)
TRIED = 64  # interpolated points that are computed after all, to measure the error


@dataclass(frozen=True)
class Refined:
    """`values` (G,G,K) on a grid of which the points `computed` (G,G) were computed and the others
    interpolated; and what interpolation had said, `guess` (T,K), at the points `tried` (T,2), row
    and column, before they were computed too.
    """

    values: Floats
    computed: Bools
    tried: Ints
    guess: Floats

    @property
    def found(self) -> Floats:
        """The values (T,K) at the points tried."""
        return np.asarray(self.values[tuple(self.tried.T)])

    def meta(self, names: Sequence[str], off: Floats) -> JSON:
        """What a result says of it; `off` (T,D): how far interpolation was off at the points tried,
        each of D measures by its name.
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
    """A surface of `grid` × `grid` points, computed where it bends: `compute` gives the values
    (P,K) at P rows and columns.

    First come every fourth point from the middle and the edges; then the distance is halved, twice.
    Where second differences say that a straight line across a cell is off by more than 1 % of the
    range of what is drawn, `drawn` (N,K) → (N,D), all its points are computed; the others come from
    the cubic through the four nearest nodes along each direction. `seed` draws the points that are
    tried. A surface that is not finite everywhere is computed everywhere.
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
    """Indices `step` apart, the middle among them, and both ends."""
    return np.unique([0, *range(grid // 2 % step, grid, step), grid - 1])


def _both(grid: int, nodes: Ints) -> Bools:
    """(grid, grid), True where row and column are nodes."""
    among = np.isin(np.arange(grid), nodes)
    return among[:, None] & among


def _bend(nodes: Ints, shown: Floats) -> Floats:
    """How far a straight line down the rows is off in the middle of each cell, (n−1,n−1,D), by
    second differences of (n,n,D).
    """
    length = np.diff(nodes).astype(float)[:, None, None]
    second = (
        np.abs(np.diff(np.diff(shown, axis=0) / length, axis=0)) * 2 / (length[1:] + length[:-1])
    )
    second = np.pad(second, [(1, 1), (0, 0), (0, 0)], mode="edge")  # at an edge as next to it
    cell = np.maximum(second[1:], second[:-1]) * length**2 / 8
    return np.asarray(np.maximum(cell[:, 1:], cell[:, :-1]))


def _cubic(nodes: Ints, at: Ints) -> Floats:
    """(len(at), n): the weight of each node in the cubic through the four nodes around each index
    of `at`.
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
