"""Measures of features: how tight the classes are, how far apart, and how far an attack moves them.

Pure functions of features (N, D) and labels (N,), computed in float64. Degenerate cases (all points
equal, zero vectors, an image that did not move) have a documented value and give no warning.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from robustviz.imports import load
from robustviz.types import UserError, plain

LARGE = 1e100  # squares of values above it, or below 1/LARGE, do not fit float64
SCORES = "Silhouette and Davies-Bouldin come"
BLOCK = 1024  # rows of a distance matrix held at once: 40 MB at 5,000 points


def unit(z: Tensor) -> Tensor:
    """The rows of `z` (N, D) scaled to length 1, float64; a zero vector stays zero."""
    z = z.double()
    length = z.norm(dim=1, keepdim=True)
    return z / torch.where(length > 0, length, 1)


def alignment(z: Tensor, y: Tensor) -> float:
    """The alignment E‖u − v‖² over all pairs of different points u, v of the same class, each
    scaled to length 1: from 0 (each class is a single direction) to 4.

    `z` (N, D), `y` (N,). Raises UserError if no class has two points. Source: Wang and Isola 2020
    (arXiv 2005.10242), with α = 2. `Differs:` positive pairs are those of one class, not two
    augmentations of one image.
    """
    z, y = _checked(z, y)
    u, total, pairs = unit(z), 0.0, 0
    for label in y.unique():
        own = u[y == label]
        # Σ over unordered pairs ‖u − v‖² = n·Σ‖u‖² − ‖Σu‖², without the pairs
        total += float(len(own) * own.square().sum() - own.sum(dim=0).square().sum())
        pairs += len(own) * (len(own) - 1) // 2
    require(
        pairs > 0,
        "Alignment compares points of one class, but no class has two of them: use more images.",
    )
    return max(total, 0.0) / pairs


def alignment_of_pairs(u: Tensor, v: Tensor) -> float:
    """The mean ‖u − v‖² over the rows of `u` and `v`, both (N, D), each row scaled to length 1: row
    i of `u` is the features of a clean image, row i of `v` those of its attacked twin. From 0 (no
    direction changed) to 4. Raises UserError for different shapes.
    """
    u, v = _twins(u, v)
    return float((unit(u) - unit(v)).square().sum(dim=1).mean())


def uniformity(z: Tensor) -> float:
    """The uniformity log E exp(−2‖u − v‖²) over pairs of different points u, v, each scaled to
    length 1: from 0 (all in one direction) down to −8.

    `z` (N, D); in high dimensions evenly spread points reach about −4. Raises UserError for fewer
    than two points. Source: Wang and Isola 2020 (arXiv 2005.10242), with t = 2.
    """
    z = cloud(z)
    require(len(z) > 1, "Uniformity compares pairs of points: use two images or more.")
    u, total = unit(z), 0.0
    length = u.square().sum(dim=1)
    for start in range(0, len(u), BLOCK):
        rows = slice(start, start + BLOCK)
        squared = (length[rows, None] + length - 2 * u[rows] @ u.T).clamp(min=0)
        squared.diagonal(start).fill_(torch.inf)  # no pairs of a point with itself
        total += float(torch.exp(-2 * squared).sum())
    return math.log(total / (len(u) * (len(u) - 1)))


def class_centres(z: Tensor, y: Tensor, classes: int) -> Tensor:
    """The mean features of each class, (K, D) float64, where K = `classes`; NaN for a class without
    points. Raises UserError for a label outside 0 to K − 1.
    """
    z, y = _checked(z, y)
    classes = whole(classes, "classes")
    require(
        int(y.max()) < classes,
        f"The label {int(y.max())} is outside 0 to {classes - 1}: the number of classes"
        f" ({classes}) is too small, or the labels are of other data.",
    )
    return (
        torch.zeros(classes, z.shape[1], dtype=torch.float64).index_add_(0, y, z)
        / torch.bincount(y, minlength=classes)[:, None]
    )


def centre_cosines(clean: Tensor, adv: Tensor, y: Tensor, classes: int) -> Tensor:
    """The cosines between the class centres of `clean` and of `adv`, both (N, D), as (K, K)
    float64: row i is the centre of class i in `clean`, column j that of class j in `adv`.

    Cosines are −1 to 1. Features after a ReLU are never negative, so their cosines are 0 to 1, and
    above 0 between different classes too: compare with the matrix of `clean` and `clean`. NaN for a
    class without points, 0 for a centre that is the zero vector.
    """
    clean, adv = _twins(clean, adv)
    return (unit(class_centres(clean, y, classes)) @ unit(class_centres(adv, y, classes)).T).clamp(
        -1, 1
    )


def cosines_to_centres(z: Tensor, centres: Tensor) -> Tensor:
    """The cosine between each point of `z` (N, D) and each of `centres` (K, D), one per class, as
    (N, K) float64: NaN for a centre that is NaN (a class without points), 0 for a point or a centre
    that is the zero vector.

    If an attack scatters a class in all directions, the class's mean may stay the same; these
    cosines show the scattering, those of `centre_cosines` do not. Raises UserError as `cloud` does
    for `z`, and for centres that are infinite, too large or too small to be squared, or not floats
    of shape (K, D).
    """
    z = cloud(z)
    require(
        isinstance(centres, Tensor) and centres.is_floating_point(),
        "Centres must be a tensor of floats (K, D), as class_centres returns them, but these are"
        f" {_sort(centres)}.",
    )
    centres = centres.detach().cpu().double()
    require(
        not bool(centres.isinf().any()),
        "Some of these centres are infinite, so no cosine can be computed: check the features"
        " that they were computed from.",
    )
    _check_range(centres.nan_to_num())
    require(
        centres.ndim == 2 and centres.shape[1] == z.shape[1],
        f"The centres must have shape (K, {z.shape[1]}), as the points have {z.shape[1]}"
        f" features, but they have shape {tuple(centres.shape)}.",
    )
    return (unit(z) @ unit(centres).T).clamp(-1, 1)


def silhouette(z: Tensor, y: Tensor) -> float:
    """The mean silhouette with Euclidean distance, by scikit-learn: from −1 (points are nearer to
    another class) to 1 (classes are tight and far apart).

    0 if all points are equal, and for a point that is alone in its class. Raises UserError unless
    there are at least two classes and more points than classes, and if scikit-learn is not
    installed. Source: Rousseeuw 1987.
    """
    z, y = _clusters(z, y, "The silhouette")
    return float(sklearn("metrics", SCORES).silhouette_score(z.numpy(), y.numpy()))


def davies_bouldin(z: Tensor, y: Tensor) -> float:
    """The Davies-Bouldin index, by scikit-learn; 0 is best. The ratio of two classes is the sum of
    their spreads (mean distance of a point to its class's centre), divided by the distance between
    the two centres. The index is the mean over the classes of each class's largest ratio.

    Infinite if two class centres coincide. Raises UserError unless there are at least two classes
    and more points than classes, and if scikit-learn is not installed. Source: Davies and Bouldin
    1979. `Differs:` scikit-learn ignores coinciding centres, so that a collapsed network would get
    the best value, 0.
    """
    z, y = _clusters(z, y, "The Davies-Bouldin index")
    present, y = y.unique(return_inverse=True)
    if bool((torch.pdist(class_centres(z, y, len(present))) == 0).any()):
        return math.inf
    z = z / z.abs().max()  # scikit-learn's test for zero spread depends on the scale
    return float(sklearn("metrics", SCORES).davies_bouldin_score(z.numpy(), y.numpy()))


def knn_accuracy(z: Tensor, y: Tensor, k: int, among: Tensor | None = None) -> float:
    """The fraction of points, 0 to 1, whose class is the most common among their `k` nearest
    neighbours, leave-one-out.

    `among` (N, D): the points among which neighbours are searched, by default `z` itself. Row i of
    `among` is point i itself or its clean twin, so it has the label of point i and never counts as
    a neighbour of point i. Ties between classes go to the lowest class, ties between distances to
    the lowest row. Raises UserError if `k` is below 1, for fewer than k+1 points, and if `among`
    has another shape than `z`.
    """
    z, y = _checked(z, y)
    return float((votes(z, y, k, among) == y).double().mean())


def votes(z: Tensor, y: Tensor, k: int, among: Tensor | None = None) -> Tensor:
    """The most common class among the `k` nearest neighbours of each point of `z` (N, D), as (N,)
    of the type of the labels `y` (N,); `among`, ties and errors as in `knn_accuracy`.
    """
    return y[neighbours(z, k, among)].mode(dim=1).values  # torch takes the lowest of several modes


def neighbourhood_hit(z: Tensor, y: Tensor, k: int, among: Tensor | None = None) -> float:
    """The mean fraction of the `k` nearest neighbours that belong to the point's own class, 0 to 1;
    `among` and errors as in `knn_accuracy`.

    Source: Paulovich et al. 2008 (Least Square Projection, TVCG 14(3)).
    """
    z, y = _checked(z, y)
    return float((y[neighbours(z, k, among)] == y[:, None]).double().mean())


def neighbours(z: Tensor, k: int, among: Tensor | None = None) -> Tensor:
    """The row indices of the `k` nearest points of each point, (N, k) int64, by Euclidean distance,
    nearest first; `among`, ties and errors as in `knn_accuracy`.
    """
    z = cloud(z)
    bank, k = z if among is None else _twins(z, among)[1], whole(k, "k")
    require(
        0 < k < len(bank),
        f"{k} neighbours need at least {k + 1} points, but there are {len(bank)}: use more"
        " images, or a smaller k.",
    )
    out = []
    for start in range(0, len(z), BLOCK):
        # Computed from differences: with a matrix product, rounding errors would hide which
        # neighbour is nearer when all points are far from the origin.
        far = torch.cdist(
            z[start : start + BLOCK], bank, compute_mode="donot_use_mm_for_euclid_dist"
        )
        far.diagonal(start).fill_(torch.inf)
        out.append(far.sort(dim=1, stable=True).indices[:, :k])
    return torch.cat(out)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA, ‖YᵀX‖²_F / (‖XᵀX‖_F·‖YᵀY‖_F) of centred columns: from 0 (nothing in common) to 1
    (equal up to rotation, scale and shift).

    `x` (N, D) and `y` (N, E) are features of the same N images. 0 if one of them is constant.
    Raises UserError for different numbers of images. Source: Kornblith et al. 2019
    (arXiv 1905.00414), section 3, with linear kernels.
    """
    x, y = cloud(x), cloud(y)
    require(
        len(x) == len(y),
        f"CKA compares features of the same images, but there are {len(x)} and {len(y)} images.",
    )
    x, y = (_near_one(z - z.mean(dim=0)) for z in (_moved(x), _moved(y)))
    below = float((x.T @ x).norm() * (y.T @ y).norm())
    return min(float((y.T @ x).square().sum()) / below, 1.0) if below else 0.0


class Displacement(NamedTuple):
    """How far the features of each of N images moved, in two ways. `lipschitz` (N,): divided by the
    size of the image's change; `relative` (N,): divided by the mean distance between class centres.
    """

    lipschitz: Tensor
    relative: Tensor


def displacement(
    clean: Tensor,
    moved: Tensor,
    x: Tensor,
    x_moved: Tensor,
    y: Tensor,
    classes: int,
    norm: Literal["linf", "l2"] = "linf",
) -> Displacement:
    """How far the features `moved` (N, D) are from `clean` (N, D), for each image, measured in two
    ways; float64.

    `lipschitz`: ‖Δz‖₂ / ‖Δx‖, where `norm` gives the norm of the image's change (by default ‖·‖∞ in
    pixel units). It is a lower bound on the local Lipschitz constant, between these norms, of the
    map from images to features; 0 for an image that did not change. It grows with the scale of the
    features, so use it to compare attack and noise on one network. `relative`: ‖Δz‖₂ /
    `centre_distance` of the clean features, without a unit, for comparing networks; 1 means as far
    as from class to class. `relative` is infinite if all centres coincide and the point moved, 0 if
    the point did not move.

    `x`, `x_moved`: the images before and after, floats (N,C,H,W) in [0, 1]; `y` (N,): their labels,
    below `classes`. Raises UserError for inputs that do not fit together, and if fewer than two
    classes have points.

    Source: Yang et al. 2020 (arXiv 2003.02460), the empirical local Lipschitz constant. `Differs:`
    there ‖Δf‖₁ of the outputs, maximised over the ball; here the features, at the given point.
    """
    clean, moved = _twins(clean, moved)
    require(norm in ("linf", "l2"), f"The norm {norm!r} is not known: use linf or l2.", 2)
    require(
        isinstance(x, Tensor) and isinstance(x_moved, Tensor),
        f"Images must be tensors (N,C,H,W) in [0, 1], but these are a {type(x).__name__} and a"
        f" {type(x_moved).__name__}: use torch.as_tensor.",
    )
    require(
        x.ndim > 1 and x.numel() > 0,
        f"Images of shape {tuple(x.shape)} have no pixels to change: the shape must be (N,C,H,W).",
    )
    require(
        x.shape == x_moved.shape and len(x) == len(clean),
        f"Images of shapes {tuple(x.shape)} and {tuple(x_moved.shape)} do not belong to"
        f" {len(clean)} points.",
    )
    require(
        x.is_floating_point() and x_moved.is_floating_point(),
        f"Images must be floats in [0, 1], but these are {_sort(x)} and {_sort(x_moved)}: divide"
        " grey levels by 255.",
    )
    change = x_moved.detach().cpu().double() - x.detach().cpu().double()
    require(
        bool(change.isfinite().all()),
        "Some pixels are NaN or infinite, so the change of the image cannot be measured: check"
        " the attack that made them.",
    )
    far = (moved - clean).norm(dim=1)
    change = change.flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2)
    return Displacement(
        torch.where(change > 0, far / torch.where(change > 0, change, 1), 0),
        torch.where(far > 0, far / centre_distance(clean, y, classes), 0),
    )


def centre_distance(z: Tensor, y: Tensor, classes: int) -> float:
    """The mean Euclidean distance between class centres, over all pairs of classes that have points
    in `z` (N, D); `y` (N,): the labels, below `classes`. Raises UserError if fewer than two classes
    have points.
    """
    z, y = _checked(z, y)
    centres = class_centres(_moved(z), y, classes)
    centres = centres[~centres.isnan().any(dim=1)]
    require(
        len(centres) > 1,
        "The distance between class centres needs points of two classes or more: use more images.",
    )
    return float(torch.pdist(centres).mean())


# Helpers.


def _moved(z: Tensor) -> Tensor:
    """`z` shifted so that its first point is the origin: distances stay the same, and points that
    are all equal become exactly zero.
    """
    return z - z[0]


def require(holds: bool, sentence: str, code: int = 1) -> None:
    """Raises UserError with this sentence and exit code unless `holds` is true."""
    if not holds:
        raise UserError(sentence, code=code)


def cloud(z: Tensor) -> Tensor:
    """Features `z` (N, D) of any float dtype, detached, as float64 on the CPU. Raises UserError for
    anything else, for an empty tensor, for NaN and infinite values, and if the largest absolute
    value is above 1e100, or below 1e−100 but not 0, since squares would not fit in float64.
    """
    require(
        isinstance(z, Tensor),
        f"Features must be a tensor of floats (N, D), but these are {_sort(z)}: use"
        " torch.as_tensor.",
    )
    require(
        z.ndim == 2 and z.numel() > 0,
        "Features must have shape (N, D), one row per image and at least one, but these have"
        f" shape {tuple(z.shape)}.",
    )
    require(
        z.is_floating_point(),
        f"Features must be floats, but these are {_sort(z)}: pass the input of the network's last"
        " layer.",
    )
    z = z.detach().cpu().double()
    broken = int((~z.isfinite()).sum())
    require(
        not broken,
        f"{broken} of {z.numel()} numbers in these features are NaN or infinite, so nothing can"
        " be measured or drawn: the network's weights have diverged, or the images contain NaN."
        " Train with a lower learning rate, or use another run.",
    )
    _check_range(z)
    return z


def _check_range(z: Tensor) -> None:
    largest = float(z.abs().amax()) if z.numel() else 0.0
    require(
        not largest or 1 / LARGE <= largest <= LARGE,
        f"The largest of these numbers is {largest:.3g}, too {'large' if largest > 1 else 'small'}"
        " to be squared: scale them first, e.g. z / z.abs().max().",
    )


def _near_one(z: Tensor) -> Tensor:
    """`z` itself, or `z` divided by its largest absolute value if that is outside 1e−50 to 1e50,
    because sums of fourth powers might then overflow or underflow.
    """
    largest = float(z.abs().amax())
    return z if not largest or LARGE**-0.5 <= largest <= LARGE**0.5 else z / largest


def whole(value: Any, name: str) -> int:
    """`value` as an int; 3.0 and NumPy's numbers are accepted. Raises UserError for anything else;
    `name` is what the message calls the value.
    """
    number = plain(value)
    require(
        not isinstance(number, bool)
        and (isinstance(number, int) or (isinstance(number, float) and number.is_integer())),
        f"{name}={value!r} is not a whole number; write it like 10.",
        2,
    )
    return int(number)


def _twins(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    u, v = cloud(u), cloud(v)
    require(
        u.shape == v.shape,
        f"Features of shapes {tuple(u.shape)} and {tuple(v.shape)} do not match: row i of both"
        " must belong to the same image.",
    )
    return u, v


def _checked(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The features as `cloud` gives them, and their labels as int64 on the CPU. Raises UserError
    unless the labels are (N,), of an integer dtype and at least 0.
    """
    z = cloud(z)
    require(
        isinstance(y, Tensor)
        and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool),
        f"Labels must be a tensor of integers, the class of each point, but these are {_sort(y)}.",
    )
    require(
        y.shape == (len(z),),
        f"{len(z)} points need one label each, shape ({len(z)},), but the labels have shape"
        f" {tuple(y.shape)}; for one-hot rows use argmax(1), for a single column squeeze(1).",
    )
    y = y.detach().cpu().long()
    require(
        int(y.min()) >= 0,
        f"The label {int(y.min())} is below 0, so it is not a class: leave out the points without"
        " a class.",
    )
    return z, y


def _sort(some: object) -> str:
    """What kind of object this is, as text for an error message: the dtype of a tensor, else the
    type.
    """
    return (
        str(some.dtype).removeprefix("torch.")
        if isinstance(some, Tensor)
        else f"a {type(some).__name__}"
    )


def _clusters(z: Tensor, y: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """The points, shifted as by `_moved`, and their labels. Raises UserError unless there are at
    least two classes and more points than classes; `what` is the measure that the message names.
    """
    z, y = _checked(z, y)
    classes = len(y.unique())
    require(
        1 < classes < len(y),
        f"{what} needs two classes or more and more points than classes; here: {classes} and"
        f" {len(y)}. Use more images.",
    )
    return _moved(z), y


def sklearn(part: str, what: str) -> Any:
    """The module `part` of scikit-learn, such as `metrics`. Raises UserError if scikit-learn is not
    installed; `what` is the beginning of its message, up to "from scikit-learn".
    """
    try:
        return load(f"sklearn.{part}")
    except ImportError:
        raise UserError(
            f"{what} from scikit-learn, which is not installed: run `pip install scikit-learn`."
        ) from None
