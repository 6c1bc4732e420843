"""Projections of high-dimensional points onto a plane: through class centres, by PCA, or by UMAP.

The first two are linear, so positions on the plane are true coordinates; UMAP shows only which
points are neighbours. New points can be placed in a finished map without changing the map.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustviz import embedder, measures
from robustviz.types import UserError

TRUST = 15  # how many neighbours `trustworthiness` compares
LEAST = 4  # points; with fewer, UMAP's spectral layout does not have two axes
FEWEST = 15  # images; the probes make no UMAP of fewer, which would show no neighbourhoods
# Points whose distances to all others are in memory at once, in one buffer that is reused. 1024
# points and a new buffer each time took more than twice as long.
ROWS = 256
HALVINGS = 64  # steps of the search for σ in `memberships`, enough for float64
# UMAP's epochs by the least number of points: many points need fewer than umap-learn's 500
EPOCHS = {5000: 200, 1000: 300, 0: 500}
AGAIN = 50  # UMAP's epochs when it starts from another map


def plane(z: Tensor) -> tuple[Tensor, Tensor, float]:
    """The plane of largest variance through points `z` (N,D): two axes (D,2) of length 1, the
    origin (D,), which is the mean of the points, and the share of the variance in the plane, 0 to
    1. The tensors are float64 on the CPU. An axis without variance is zero. Raises UserError for
    fewer than two points, where all points are equal, and where `measures.cloud` does (numbers that
    are not finite).

    Each axis is signed so that its component of largest absolute value is positive, which makes the
    picture the same on every machine.
    """
    z = measures.cloud(z)
    measures.require(
        len(z) > 1, "A single point has no plane to project onto: use two images or more."
    )
    origin = z.mean(dim=0)
    axes, spread = _axes(z - origin, z)
    measures.require(
        float(spread[0]) > 0,
        "All features are equal, so there is no plane of largest variance: the network has"
        " collapsed to one output.",
    )
    return axes, origin, float(spread.sum() / (z - origin).square().sum())


def centre_plane(z: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """The plane of largest variance through the class centres of points `z` (N,D) with labels `y`
    (N,): axes, origin and share as from `plane`, where the share is of the variance between the
    centres. Each class counts once, however many points it has, and a class without points is left
    out. `classes`: the number of classes. Raises UserError for points of fewer than two classes,
    for a label outside 0 to `classes` − 1, and where `plane` does.

    Two centres span only a line; the second axis is then the direction perpendicular to it in which
    the points vary most.
    """
    centres = measures.class_centres(z, y, classes)
    centres = centres[~centres.isnan().any(dim=1)]
    measures.require(
        len(centres) > 1,
        "The plane of the class centres needs points of two classes or more: use more images,"
        " or the projection pca.",
    )
    axes, origin, share = plane(centres)
    if len(centres) == 2:
        cloud = measures.cloud(z)
        rest = cloud - origin
        rest = rest - (rest @ axes[:, :1]) @ axes[:, :1].T
        axes[:, 1] = _axes(rest - rest.mean(dim=0), cloud)[0][:, 0]
    return axes, origin, share


def _axes(centred: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The first two right singular vectors (D,2) of the centred points `centred` (N,D), signed as
    in `plane`, and their squared singular values (2,). Vector and value are zero where the singular
    value is only rounding error, judged by the largest one and by the original points `z`.
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
    """The `k` nearest neighbours of each point of `z` (N,D) by exact cosine distance 1 − cos: their
    row indices (N,k), and the distances (N,k), float64 from 0 to 2; nearest first, with fewer
    columns where there are fewer than `k` points to choose from.

    The neighbours are rows of `among` (M,D). Without `among` they are rows of `z` itself, and each
    point is its own first neighbour at distance 0, as UMAP requires. Ties go to the lowest row. A
    vector of length zero is at distance 1 from all others. Raises UserError where `measures.cloud`
    does.
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
    """The `k` smallest values in each row of `block` (n,M) and their columns, (n,k) each: the first
    `k` columns of both tensors from `block.sort(dim=1, stable=True)`, twenty times as fast.
    """
    distance, row = block.topk(min(k + 1, block.shape[1]), dim=1, largest=False)
    # `topk` chooses arbitrarily among points that are equally far
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
    """The positions (N,2), float64, of points `z` (N,D) on a UMAP map with the cosine metric:
    umap-learn's layout on exact neighbours, the same for the same seed.

    `n_neighbors`: how many neighbours each point has, itself included. `min_dist`: the smallest
    distance between points on the map. `init` (N,2): an earlier map of the same points to start
    from; points whose neighbours are the same in both move little. `epochs`: the number of epochs
    of the layout, by default 500, from 1000 points 300, from 5000 points 200, and 50 with an
    `init`. In the app, a process that has already compiled umap-learn computes the layout
    (`embedder`); elsewhere the first call compiles for about ten seconds.

    Raises UserError for fewer than four points, for fewer than two neighbours, for as many
    neighbours as points or more, for numbers that are not finite, for an `init` of another shape,
    where all points have the same direction, and where umap-learn is not installed or fails.

    Source: McInnes et al. 2018 (arXiv 1802.03426). `Differs:` exact neighbours instead of
    approximate ones; fewer epochs from 1000 points, which lowers trustworthiness(15) by 0.001 and
    the share of neighbours that the map keeps by 0.01; with an `init`, a lower learning rate, and
    the map is not first stretched to a square.
    """
    z, n_neighbors = measures.cloud(z), measures.whole(n_neighbors, "n_neighbors")
    epochs = None if epochs is None else measures.whole(epochs, "epochs")
    measures.require(
        n_neighbors >= 2,
        "UMAP needs at least 2 neighbours of each point, including itself, but n_neighbors is"
        f" {n_neighbors}: use 15.",
    )
    most = max(n_neighbors, LEAST - 1)
    measures.require(
        len(z) > most,
        f"UMAP with {n_neighbors} neighbours needs more than {most} points, but there are"
        f" {len(z)}: use more images.",
    )
    measures.require(
        float((measures.unit(z) - measures.unit(z)[0]).abs().max()) >= 1e-9,
        "All features have the same direction, so UMAP with the cosine metric cannot separate"
        " them: the network has collapsed.",
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
    """`init`, the map of `n` points to start from, as a float64 tensor (n,2). Raises UserError for
    anything that is not numbers of this shape, and for values that are not finite.
    """
    try:
        at: Tensor = torch.as_tensor(init).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"init must be a tensor of shape (N, 2), but is a {type(init).__name__}."
        ) from error
    measures.require(
        at.shape == (n, 2) and bool(at.isfinite().all()),
        f"init must hold two finite numbers for each of the {n} points: this tensor has the"
        f" shape {tuple(at.shape)} or holds values that are not finite.",
    )
    return at


def place(new: Tensor, z: Tensor, at: Tensor, k: int = 15) -> Tensor:
    """The positions (M,2) of the points `new` (M,D) in a finished map, where the points `z` (N,D)
    lie at `at` (N,2) and stay.

    Each new point goes to the mean position of its `k` nearest neighbours among `z` by cosine,
    weighted by UMAP's `memberships`. A new point that equals one of these neighbours gets the
    neighbour's own position. Source: umap-learn's initial positions of new points, without its
    later optimisation.
    """
    if not len(new):
        return at.new_zeros(0, 2)
    rows, far = nearest(new, min(k, len(z)), among=z)
    weight = memberships(far)
    out = (weight[:, :, None] * at.double()[rows]).sum(dim=1) / weight.sum(dim=1, keepdim=True)
    same = (new[:, None].double() == z.double()[rows]).all(dim=2)
    first = rows.gather(1, same.int().argmax(dim=1, keepdim=True))[:, 0]
    return torch.where(same.any(dim=1, keepdim=True), at.double()[first], out)


def memberships(far: Tensor) -> Tensor:
    """UMAP's weights exp(−(d − ρ)/σ), (M,k) from 0 to 1, of the `k` neighbours of M points, whose
    distances are `far` (M,k), nearest first.

    ρ is the distance to a point's nearest neighbour. σ is chosen for each point so that its weights
    add up to log₂ k, or as close to that as possible. Where all distances are equal, all weights
    are 1.
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
    """The trustworthiness of a map, 0 to 1, by scikit-learn. It is 1 if the 15 nearest neighbours
    of each point in the map `at` (N,2) are also its 15 nearest by cosine in `z` (N,D), and less the
    farther apart in `z` the map's neighbours are. NaN for fewer than 32 points. Raises UserError
    where scikit-learn is not installed, and where `measures.cloud` does. Source: Venna and Kaski
    2001.
    """
    if len(z) < 2 * TRUST + 2:
        return math.nan
    u, at = measures.unit(measures.cloud(z)), measures.cloud(at)
    return float(
        measures.sklearn("manifold", "Trustworthiness comes").trustworthiness(
            u.numpy(), at.numpy(), n_neighbors=TRUST, metric="cosine"
        )
    )
