"""Points of many dimensions as points of a plane: through class centres, along the largest
variance, or by UMAP.

A plane through the points is exact about what it shows; UMAP shows neighbourhoods and nothing else.
New points join a finished map without moving it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustviz import embedder, measures
from robustviz.types import UserError

TRUST = 15  # neighbours of the trustworthiness that is printed beside every map
LEAST = 4  # points; of fewer, UMAP's spectral start has no two axes
FEWEST = 15  # images; fewer have no neighbourhoods worth a map
# whose distances to all are held at once: a new piece of memory for each step and 1024 rows took
# more than twice as long
ROWS = 256
HALVINGS = 64  # of the bandwidth search in `memberships`: to the last bit
# of UMAP, by the least number of points: a crowd needs fewer than umap-learn's own 500
EPOCHS = {5000: 200, 1000: 300, 0: 500}
AGAIN = 50  # of UMAP from another map


def plane(z: Tensor) -> tuple[Tensor, Tensor, float]:
    """The plane of largest variance of points `z` (N,D): two axes (D,2) of length 1, its origin
    (D,), the share of variance it holds, 0 to 1. An axis without variance is zero. Raises UserError
    for fewer than two points, for numbers that are not finite, and where all points are equal.

    Each axis points so that its largest component is positive: the same picture on every machine.
    """
    z = measures.cloud(z)
    measures.require(
        len(z) > 1,
        "One point lies in every plane, so there is nothing to draw: take two images or more.",
    )
    origin = z.mean(dim=0)
    axes, spread = _axes(z - origin, z)
    measures.require(
        float(spread[0]) > 0,
        "All these features are equal, so they lie in no plane: the network has collapsed.",
    )
    return axes, origin, float(spread.sum() / (z - origin).square().sum())


def centre_plane(z: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """As `plane`, of the class centres of `z` (N,D): each class counts once, however many points it
    has.

    Two centres span a line only: the second axis is then where the points vary most beside it.
    """
    centres = measures.class_centres(z, y, classes)
    centres = centres[~centres.isnan().any(dim=1)]
    measures.require(
        len(centres) > 1,
        "The plane of the class centres needs points of two classes or more: take more images, or"
        " the projection pca.",
    )
    axes, origin, share = plane(centres)
    if len(centres) == 2:
        cloud = measures.cloud(z)
        rest = cloud - origin
        rest = rest - (rest @ axes[:, :1]) @ axes[:, :1].T
        axes[:, 1] = _axes(rest - rest.mean(dim=0), cloud)[0][:, 0]
    return axes, origin, share


def _axes(centred: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The first two right singular vectors (D,2) and their squared singular values (2,), without
    what is rounding of points `z`.
    """
    _, singular, right = torch.linalg.svd(centred, full_matrices=False)
    least = max(1e-9 * float(singular[0]), 1e-12 * float(z.abs().amax()))
    axes, spread = z.new_zeros(centred.shape[1], 2), z.new_zeros(2)
    for at, (size, axis) in enumerate(zip(singular[:2], right, strict=False)):
        if float(size) > least:
            axes[:, at] = axis * (1 if float(axis[axis.abs().argmax()]) > 0 else -1)
            spread[at] = size**2
    return axes, spread


def nearest(z: Tensor, k: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The `k` nearest points by cosine distance 1 − cos, exact: their rows (N,k) and the distances
    (N,k), nearest first.

    Without `among` (M,D) the neighbours are sought in `z` itself and each point comes first among
    its own, at distance 0, as UMAP wants it. Equal distances go to the lowest row. A vector of
    length zero is at distance 1 from all.
    """
    u = measures.unit(measures.cloud(z))
    bank = measures.unit(measures.cloud(z if among is None else among))
    blocks = []
    held = u.new_empty(min(ROWS, len(u)), len(bank))
    for start in range(0, len(u), ROWS):
        some = u[start : start + ROWS]
        block = torch.mm(some, bank.T, out=held[: len(some)])
        torch.sub(1, block, out=block).clamp_(0, 2)
        if among is None:
            block.diagonal(start).fill_(-1.0)
        blocks.append(_least(block, min(k, len(bank))))
    far, rows = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return rows, far.clamp(min=0)


def _least(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first `k` columns of `block.sort(dim=1, stable=True)`, without sorting the rest: twenty
    times as fast.
    """
    distance, row = block.topk(min(k + 1, block.shape[1]), dim=1, largest=False)
    # which of the equally far ones came in was chance
    tied = (distance[:, k:] == distance[:, k - 1 : k]).any(dim=1)
    row, order = row[:, :k].sort(dim=1)
    distance, by_distance = distance.gather(1, order).sort(dim=1, stable=True)
    row = row.gather(1, by_distance)
    if bool(tied.any()):
        distance[tied], row[tied] = (found[:, :k] for found in block[tied].sort(dim=1, stable=True))
    return distance, row


def umap(
    z: Tensor,
    *,
    seed: int = 0,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    init: Tensor | None = None,
    epochs: int | None = None,
) -> Tensor:
    """Points (N,D) on UMAP's plane (N,2): cosine metric, umap-learn's own layout on exact
    neighbours; the same for the same seed.

    `init` (N,2): a map of the same points as they were before, to start from; what keeps its
    neighbours stays where it is. `epochs` of the layout: by default 500, of 1000 points and more
    300, of 5000 and more 200, from an `init` 50. In the app a process that has compiled answers
    (`embedder`); elsewhere the first call compiles for ten seconds or so. Raises UserError where
    there are fewer than four points, two neighbours or not more points than neighbours, where
    numbers are not finite, where all points have one direction, and where umap-learn is not
    installed. Source: McInnes et al. 2018 (arXiv 1802.03426). `Differs:` exact neighbours, not
    approximate ones; fewer epochs of 1000 points and more, for 0.001 of trustworthiness(15) and
    0.01 of the neighbours; from an `init`, a lower learning rate and no stretching to a square.
    """
    z, n_neighbors = measures.cloud(z), measures.whole(n_neighbors, "n_neighbors")
    epochs = None if epochs is None else measures.whole(epochs, "epochs")
    measures.require(
        n_neighbors >= 2,
        "UMAP needs at least 2 neighbours of each point, itself among them, and n_neighbors is"
        f" {n_neighbors}: set 15.",
    )
    most = max(n_neighbors, LEAST - 1)
    measures.require(
        len(z) > most,
        f"UMAP with {n_neighbors} neighbours needs more than {most} points, and there are"
        f" {len(z)}; take more images.",
    )
    measures.require(
        float((measures.unit(z) - measures.unit(z)[0]).abs().max()) >= 1e-9,
        "All these features have the same direction, so UMAP by cosine has nothing to tell apart:"
        " the network has collapsed.",
    )
    rows, far = nearest(z, n_neighbors)
    return torch.from_numpy(
        embedder.map_of(
            z.float().numpy(),
            rows.numpy(),
            far.numpy(),
            None if init is None else _map(init, len(z)).detach().cpu().numpy(),
            seed=seed,
            min_dist=min_dist,
            epochs=epochs
            or (next(many for n, many in EPOCHS.items() if len(z) >= n) if init is None else AGAIN),
        )
    ).double()


def _map(init: Any, n: int) -> Tensor:
    """A map of `n` points to start from, float64. Raises UserError for what is none."""
    try:
        at: Tensor = torch.as_tensor(init).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            "A map to start from is wanted as a tensor (N, 2), and this is a"
            f" {type(init).__name__}."
        ) from error
    measures.require(
        at.shape == (n, 2) and bool(at.isfinite().all()),
        f"A map to start from needs two finite numbers for each of the {n} points, and this one, of"
        f" shape {tuple(at.shape)}, has not.",
    )
    return at


def place(new: Tensor, z: Tensor, at: Tensor, k: int = 15) -> Tensor:
    """Where new points (M,D) lie in a finished map that has `z` (N,D) `at` (N,2): (M,2), nothing
    moves.

    Each goes to the mean of its `k` nearest neighbours by cosine, weighted by UMAP's membership; a
    point that is in the map already goes where it is. Source: umap-learn's start for new points,
    without its later optimisation.
    """
    if not len(new):
        return at.new_zeros(0, 2)
    rows, far = nearest(new, min(k, len(z)), among=z)
    weight = memberships(far)
    out = (weight[:, :, None] * at.double()[rows]).sum(dim=1) / weight.sum(dim=1, keepdim=True)
    known = (new[:, None].double() == z.double()[rows[:, :1]]).all(dim=2)
    return torch.where(known, at.double()[rows[:, 0]], out)


def memberships(far: Tensor) -> Tensor:
    """UMAP's weights exp(−(d − ρ)/σ) of neighbours at distances `far` (M,k), nearest first, 0 to 1.

    ρ is the distance to the nearest, σ such that the weights add up to log₂ k; all are 1 where the
    distances are equal.
    """
    over = far - far[:, :1]
    low = torch.zeros(len(far), 1, dtype=torch.float64)
    high = torch.full_like(low, 1e3)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        many = torch.exp(-over / middle).sum(dim=1, keepdim=True) > math.log2(max(far.shape[1], 2))
        low, high = torch.where(many, low, middle), torch.where(many, middle, high)
    return torch.exp(-over / high.clamp(min=torch.finfo(torch.float64).tiny))


def trustworthiness(z: Tensor, at: Tensor) -> float:
    """How far the map's neighbourhoods are real: 1 where each point's 15 neighbours in the map `at`
    (N,2) are neighbours of `z` (N,D) by cosine too, by scikit-learn. NaN for fewer than 32 points.
    Source: Venna and Kaski 2001.
    """
    if len(z) < 2 * TRUST + 2:
        return math.nan
    u, at = measures.unit(measures.cloud(z)), measures.cloud(at)
    return float(
        measures.sklearn("manifold", "Trustworthiness comes").trustworthiness(
            u.numpy(), at.numpy(), n_neighbors=TRUST, metric="cosine"
        )
    )
