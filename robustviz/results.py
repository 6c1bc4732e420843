"""What probes return and figures read: frozen dataclasses of NumPy arrays, each savable as one `.npz` without pickle.

No torch here, so that a notebook on a machine without it can still draw what another one computed.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustviz.imports import load
from robustviz.types import JSON, UserError, eps_text, plain

R = TypeVar("R", bound="Result")
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
FEW = 100  # below so many images a percentage says little


def wilson(k: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval (low, high), fractions, of a share of which `k` of `n` were seen. (0, 1) for n = 0.

    Source: Wilson 1927, the score interval; unlike p ± 2σ it stays inside [0, 1] and is honest near its ends.
    """
    if n == 0:
        return 0.0, 1.0
    p, spread = k / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    # At the ends the formula gives 0 and 1 but for rounding, which would print as 2.8e-17.
    return 0.0 if k == 0 else max(0.0, centre - half), 1.0 if k == n else min(1.0, centre + half)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """How many standard errors a two-sided interval of that `level` reaches to each side of a mean, by Student's t with so
    many degrees of freedom: 12.71 for one, 1.96 for very many, infinite for none. Raises UserError where scipy is missing.
    """
    if freedom < 1:
        return math.inf
    try:
        stdtrit = load("scipy.special").stdtrit
    except ImportError:
        raise UserError("Intervals of means come from scipy, which is not installed: run `pip install scipy`.") from None
    return float(stdtrit(freedom, (1 + level) / 2))


def mean_interval(values: Floats | Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The mean of `values` (n,) and its interval (low, high) by Student's t, of 95 % unless `level` says otherwise; infinite
    for a single value. Raises UserError for none, for what is no row of finite numbers, and where scipy is missing.
    """
    level = plain(level)
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise UserError(f"level={level!r} is no share of intervals that hold the mean: it lies between 0 and 1, such as 0.95.")
    values = _row(values)
    n = len(values)
    mean = float(np.mean(values))
    half = t_quantile(n - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return mean, mean - half, mean + half


def _row(values: Any) -> Floats:
    """`values`, an array, tensor or list of numbers, as an array (n,). Raises UserError for none and for anything else."""
    try:
        row = np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values)
    except (TypeError, ValueError, RuntimeError):
        row = np.asarray(None)
    if row.ndim != 1 or (len(row) and row.dtype.kind not in "biuf"):
        what = f"an array of shape {row.shape}" if row.dtype.kind in "biuf" and row.ndim else f"a {type(values).__name__}"
        raise UserError(f"A mean is taken of a row of numbers, shape (n,), and this is {what}: take one row at a time.")
    if not len(row):
        raise UserError("There is no mean of no values: measure at least one image.")
    if broken := int((~np.isfinite(row)).sum()):
        raise UserError(f"{broken} of {len(row)} values are NaN or infinite, so they have no mean: leave them out and say so.")
    return row.astype(np.float64)


def tango(b: int, c: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval (low, high) of a difference of two shares of the same `n` images: `b` right for the first only,
    `c` for the second only. (−1, 1) for n = 0.

    It holds every difference Δ that the score test does not reject; at Δ = 0 that test is McNemar's.
    Source: Tango 1998 (Statistics in Medicine 17, 891), equations 4 to 6.
    """
    if n == 0:
        return -1.0, 1.0

    def score(delta: float) -> float:
        """How many standard errors b − c lies above what Δ makes us expect; falls as Δ grows."""
        half = (2 * n - b + c) * delta - b - c
        root = max(0.0, half * half + 8 * n * c * delta * (1 - delta))
        q = (math.sqrt(root) - half) / (4 * n)  # the likeliest share of images right for the second only
        variance = n * (2 * q + delta * (1 - delta))
        above = b - c - n * delta
        return above / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, above) if above else 0.0

    def where(level: float, low: float, high: float) -> float:
        for _ in range(60):  # bisection to the last bit
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > level else (low, middle)
        return (low + high) / 2

    seen = (b - c) / n
    return where(z, -1.0, seen), where(-z, seen, 1.0)


def mcnemar(b: int, c: int) -> float:
    """The two-sided exact p of McNemar's test: how likely `b` against `c` or worse is where a coin decides each of b + c.

    Source: McNemar 1947, with the binomial distribution in place of χ². Whole numbers all the way, so no digit is lost.
    """
    total, few = b + c, min(b, c)
    return min(1.0, 2 * sum(math.comb(total, i) for i in range(few + 1)) / 2**total)


def pack(right: NDArray[np.bool_]) -> str:
    """One bit an image, as hex digits: what eval.json keeps of (N,) verdicts."""
    return bytes(np.packbits(right)).hex()


def unpack(digits: str, n: int) -> NDArray[np.bool_]:
    """The (N,) verdicts that `pack` wrote. Raises UserError where there are fewer than `n`."""
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8))
    except (ValueError, TypeError) as error:
        raise UserError("The verdicts in eval.json are damaged: remove the file and evaluate the run again.") from error
    if not n <= len(bits) < n + 8:
        raise UserError("The verdicts in eval.json do not fit its n: remove the file and evaluate the run again.")
    return bits[:n].astype(bool)


@dataclass(frozen=True)
class Result:
    """Base of all results: arrays, plus `meta` with what made them (run id, protocol, class names)."""

    meta: JSON = field(default_factory=dict, kw_only=True)

    def to_npz(self) -> bytes:
        """The result as the bytes of an `.npz`: each array under its name, everything else as JSON under `json`."""
        arrays: dict[str, Any] = {}
        rest: JSON = {}
        for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self)):
            if isinstance(value, np.ndarray):
                arrays[name] = value
            else:
                rest[name] = value
        buffer = io.BytesIO()
        np.savez_compressed(buffer, json=np.array(json.dumps(rest)), **arrays)
        return buffer.getvalue()

    def rows(self) -> list[JSON]:
        """The result as a table. Raises UserError where it is none."""
        raise UserError(f"A {type(self).__name__} is not a table: give --out a name that ends in .npz.", code=2)

    def to_csv(self) -> bytes:
        """The table as CSV with a header. Raises UserError where there is none."""
        rows, out = self.rows(), io.StringIO()
        writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode()

    @classmethod
    def from_npz(cls: type[R], data: bytes) -> R:
        """The result that `to_npz` wrote. Raises UserError where the bytes are something else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            return cls(**json.loads(str(found.pop("json"))), **found)
        except Exception as error:  # a damaged zip raises a dozen kinds (zlib, zipfile, struct, …); each means: not this
            raise UserError(f"This is not a saved {cls.__name__}: {' '.join(str(error).split())}. Compute it again.") from error


@dataclass(frozen=True)
class Adversarial(Result):
    """One image attacked on one network.

    `x`, `x_adv` (C,H,W) in [0,1]; `y` the true class; `probs`, `probs_adv` (K,) softmax outputs before and after;
    `eps` the radius, `distance` the measured max |δ| (or ‖δ‖₂).
    """

    x: Floats
    x_adv: Floats
    y: int
    probs: Floats
    probs_adv: Floats
    eps: float
    distance: float


@dataclass(frozen=True)
class AccuracyCurve(Result):
    """Accuracy under one attack at several radii on the same `n` images: `eps` (E,), `k` (E,) still right."""

    eps: Floats
    k: Ints
    n: int

    @property
    def accuracy(self) -> Floats:
        """Fractions (E,)."""
        return self.k / max(self.n, 1)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals (E, 2)."""
        return np.array([wilson(int(k), self.n) for k in self.k])


@dataclass(frozen=True)
class SmallestEps(Result):
    """The smallest radius found at which an attack changes the answer, per image.

    `eps` (N,): 0 where the clean image is wrong already, infinite where even `limit` was not enough; `index` (N,)
    positions in the test split; `limit` the largest radius tried; `tolerance` the width of the last bracket.
    """

    eps: Floats
    index: Ints
    limit: float
    tolerance: float


@dataclass(frozen=True)
class Trajectory(Result):
    """One image's way through an attack: `probs` (steps+1, K) after each step, `loss` (steps+1,), `y`, `eps`."""

    probs: Floats
    loss: Floats
    y: int
    eps: float


@dataclass(frozen=True)
class Features(Result):
    """Penultimate features of the same `n` images untouched, attacked, and with random noise of the same ε.

    `clean`, `adversarial`, `noise` (n,D) float32; `y` the true classes, `pred`, `pred_adv`, `pred_noise` (n,) the
    answers; `index` (n,) image numbers. `centres_clean`, `centres_adv`, `centres_noise` (K,K): cosine of the clean centre
    of the row's class and the centre of the column's class among the clean, attacked, noisy points (NaN: no image of
    the class). `lipschitz_adv`, `lipschitz_noise` (n,): feature displacement per change of the image; `moved_adv`,
    `moved_noise` (n,): the same displacement in mean distances between clean class centres. `measures`: for `clean`,
    `adversarial` and `noise` each measure of `robustviz.measures` by name.
    """

    clean: Floats
    adversarial: Floats
    noise: Floats
    y: Ints
    pred: Ints
    pred_adv: Ints
    pred_noise: Ints
    index: Ints
    centres_clean: Floats
    centres_adv: Floats
    centres_noise: Floats
    lipschitz_adv: Floats
    lipschitz_noise: Floats
    moved_adv: Floats
    moved_noise: Floats
    measures: dict[str, dict[str, float]]

    def rows(self) -> list[JSON]:
        """A row an image; where a class was asked for, that class's row of the table of causes."""
        if "table" in self.meta:
            return list(self.meta["table"])
        names = list(self.meta["classes"])
        return [
            {
                "image": int(self.index[i]), "class": names[self.y[i]], "clean": names[self.pred[i]], "attacked": names[self.pred_adv[i]],
                "noise": names[self.pred_noise[i]], "moved_attacked": float(self.moved_adv[i]), "moved_noise": float(self.moved_noise[i]),
            }
            for i in range(len(self.y))
        ]  # fmt: skip

    @property
    def right(self) -> Bools:
        """Which untouched images the network reads rightly, (n,)."""
        return np.asarray(self.pred == self.y)

    @property
    def fooled(self) -> Bools:
        """Which of these the attack takes away, (n,)."""
        return np.asarray(self.right & (self.pred_adv != self.y))

    def cosines(self, of: str) -> tuple[Floats, Floats]:
        """`own_and_other` of the `clean`, `adversarial` or `noise` points."""
        return own_and_other(getattr(self, of), self.clean, self.y)


def own_and_other(z: Floats, clean: Floats, y: Ints) -> tuple[Floats, Floats]:
    """For each point of `z` (n,D) the cosine to the centre of its own class among the `clean` points (n,D), and to the nearest
    centre of another class: (n,) each, −1 to 1; −1 where there is no other class. A vector of length zero has cosine 0.
    """
    clean, known = np.asarray(clean, dtype=np.float64), np.unique(y)
    centres = np.stack([clean[y == label].mean(axis=0) for label in known])
    to = (_unit(np.asarray(z, dtype=np.float64)) @ _unit(centres).T).clip(-1, 1)
    own = known == y[:, None]
    return to[own], np.where(own, -1.0, to).max(axis=1)


def _unit(z: Floats) -> Floats:
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1.0)


@dataclass(frozen=True)
class FeatureMap(Result):
    """Features of the same `n` images as points of a plane: untouched, attacked, and with random noise of the same ε.

    `clean`, `adversarial`, `noise` (n,2); `placed` (n,2), or (0,2): the attack at another ε, put into the finished map, and
    `pred_placed` its answers; `y`, `pred`, `pred_adv`, `pred_noise`, `index` (n,) as in `Features`. `own`, `other` (3,n):
    cosine in feature space to the clean centre of the own class and to the nearest other one; rows: clean, adversarial,
    noise. `moved` (n,): how far the attack moved each image, in mean distances between class centres. `axes` (D,2), `origin`
    (D,): a point z lies at (z − origin) @ axes; empty for UMAP, which has no axes. `share`: of what the plane was laid
    through (class centres, or all points), the part of the variance that it holds; NaN for UMAP. `trust`: trustworthiness
    of the map with 15 neighbours by cosine, 0 to 1; NaN for fewer than 16 images.
    """

    clean: Floats
    adversarial: Floats
    noise: Floats
    placed: Floats
    y: Ints
    pred: Ints
    pred_adv: Ints
    pred_noise: Ints
    pred_placed: Ints
    index: Ints
    own: Floats
    other: Floats
    moved: Floats
    axes: Floats
    origin: Floats
    share: float
    trust: float

    @property
    def right(self) -> Bools:
        """Which untouched images the network reads rightly, (n,)."""
        return np.asarray(self.pred == self.y)

    @property
    def fooled(self) -> Bools:
        """Which of these the attack takes away, (n,)."""
        return np.asarray(self.right & (self.pred_adv != self.y))

    @property
    def astray(self) -> Ints:
        """How many clean, attacked, noisy points lie nearer to another class's centre than to their own, by cosine, (3,)."""
        return np.asarray((self.other > self.own).sum(axis=1))


@dataclass(frozen=True)
class FeatureFilm(Result):
    """Features of the same n images at E epochs of one training, on the plane of the last epoch's class centres or by UMAP.

    `epochs` (E,); `clean`, `adversarial` (E,n,2); `y`, `index` (n,); `pred`, `pred_adv` (E,n). The rest are means in feature
    space, one an epoch: `own`, `other` (E,3) cosine to the clean centre of the own class and to the nearest other one, for
    clean, attacked, noisy images; `moved` (E,2) how far attack and noise move an image, in mean distances between class
    centres, infinite where the centres coincide.
    """

    epochs: Ints
    clean: Floats
    adversarial: Floats
    y: Ints
    index: Ints
    pred: Ints
    pred_adv: Ints
    own: Floats
    other: Floats
    moved: Floats


@dataclass(frozen=True)
class Misalignment(Result):
    """Why the images of each class do not stay with it: a row a class (K), and a row an image (N).

    Of each class: `n` images, of them `clean_k` right untouched and `robust_k` under the attack; `train_n`, `train_k`
    the same on a sample of the training split, untouched. Lengths are over the mean distance between two classes' clean
    centres: `spread` (mean distance of a clean image to its own centre), `distance` to the `nearest` wrong class's
    centre; `along`, `across`: how far the attack moves an image on the line to that centre (0: not at all, 1: as far as
    from centre to centre) and off it, over the distance of the two; `along_noise`: the same for noise of the same ε.
    `margin`: mean z_y − max other, untouched. `boundary`: where on the line to the centre of `boundary_class` the head
    changes its answer (0: own centre, 1: the other; NaN where it tells them apart nowhere); `boundary_0`: where it would
    without its constant offsets; `boundary_nearest`: where on the line to the `nearest`. `confidence`: mean softmax output for the true class on the training sample over the
    median of the other classes. `taken`: clean images of other classes that are called this. `landed` (K,K): attacked
    images of the row's class that are called the column's. `kind`, `sentence`: the diagnosis. NaN, and −1 for a class:
    not defined.

    Of each image: `index` its number, `y`, `pred`, `pred_adv`; `own`: distance to its own clean centre;
    `misaligned`: cosine to the nearest other clean centre minus cosine to its own, −2 to 2, untouched; `outlier`: whether
    it lies unusually far from its class or nearer to another; `files`: their names, where the data has files.
    """

    n: Ints
    clean_k: Ints
    robust_k: Ints
    train_n: Ints
    train_k: Ints
    spread: Floats
    distance: Floats
    nearest: Ints
    along: Floats
    across: Floats
    along_noise: Floats
    margin: Floats
    boundary: Floats
    boundary_class: Ints
    boundary_0: Floats
    boundary_nearest: Floats
    confidence: Floats
    taken: Ints
    landed: Ints
    kind: list[str]
    sentence: list[str]
    index: Ints
    y: Ints
    pred: Ints
    pred_adv: Ints
    own: Floats
    misaligned: Floats
    outlier: Bools
    files: list[str]

    @property
    def order(self) -> list[int]:
        """The classes, the one with the lowest accuracy under attack first; those without an image last."""
        share = np.where(self.n > 0, self.robust_k / np.maximum(self.n, 1), 2.0)
        return [int(c) for c in np.argsort(share, kind="stable")]

    @property
    def gap(self) -> Floats:
        """Clean accuracy on the training sample minus that on the test images, (K,); NaN where one is missing."""
        return _shares(self.train_k, self.train_n) - _shares(self.clean_k, self.n)

    @property
    def auc(self) -> tuple[float, float, float, int, int]:
        """How well `misaligned` tells which images the attack fools, of those right untouched: AUC, its 95 % interval
        (low, high), how many were fooled, how many not. 0.5 is chance; NaN where all or none were fooled.
        """
        right = self.pred == self.y
        fooled = self.pred_adv != self.y
        return auc(self.misaligned[right & fooled], self.misaligned[right & ~fooled])

    def lands(self, c: int, most: int = 3) -> list[tuple[int, int]]:
        """Where attacked images of a class go: (class, how many), the commonest answers first, none for 0."""
        found = np.argsort(-self.landed[c], kind="stable")[:most]
        return [(int(k), int(self.landed[c, k])) for k in found if self.landed[c, k] > 0]

    def rows(self) -> list[JSON]:
        """The table, worst class first."""
        names, out = list(self.meta["classes"]), list[JSON]()
        for c in self.order:
            n = int(self.n[c])
            clean, robust = (wilson(int(k[c]), n) for k in (self.clean_k, self.robust_k))
            there = n > 0
            out.append({
                "class": names[c], "n": n,
                "clean": self.clean_k[c] / n if there else None, "clean_low": clean[0], "clean_high": clean[1],
                "robust": self.robust_k[c] / n if there else None, "robust_low": robust[0], "robust_high": robust[1],
                "spread": _number(self.spread[c]), "nearest": names[self.nearest[c]] if self.nearest[c] >= 0 else None,
                "distance": _number(self.distance[c]),
                "lands": ", ".join(f"{names[k]} ({count})" for k, count in self.lands(c)),
                "along": _number(self.along[c]), "across": _number(self.across[c]), "along_noise": _number(self.along_noise[c]),
                "margin": _number(self.margin[c]), "boundary": _number(self.boundary[c]),
                "boundary_to": names[self.boundary_class[c]] if self.boundary_class[c] >= 0 else None,
                "train_n": int(self.train_n[c]), "gap": _number(self.gap[c]), "diagnosis": self.kind[c], "sentence": self.sentence[c],
            })  # fmt: skip
        return out

    def line(self, c: int) -> str:
        """The row and the sentence of one class in words."""
        name, n = list(self.meta["classes"])[c], int(self.n[c])
        if not n:
            return self.sentence[c]
        clean, robust = (wilson(int(k[c]), n) for k in (self.clean_k, self.robust_k))
        names, train_n = list(self.meta["classes"]), int(self.train_n[c])
        lands = ", ".join(f"{names[k]} ({count})" for k, count in self.lands(c))
        gap = f"train–test gap {100 * self.gap[c]:+.0f} points ({train_n} training images)" if train_n else "no training image"
        nearest = f"nearest wrong centre {names[self.nearest[c]]} at {self.distance[c]:.2f}" if self.nearest[c] >= 0 else "no other centre"
        return (
            f"{name}: n = {n}, clean {self.clean_k[c] / n:.0%} [{clean[0]:.0%}, {clean[1]:.0%}], {self.meta['printed']} "
            f"{self.robust_k[c] / n:.0%} [{robust[0]:.0%}, {robust[1]:.0%}]; spread {self.spread[c]:.2f}, {nearest}; lands on {lands}; "
            f"moved {self.along[c]:.2f} along and {self.across[c]:.2f} across that line; head margin {self.margin[c]:.2f}; {gap}.\n"
            f"{self.kind[c]}: {self.sentence[c]}"
        )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def auc(high: Floats, low: Floats, z: float = 1.959964) -> tuple[float, float, float, int, int]:
    """How often one of `high` exceeds one of `low` (ties count half), its 95 % interval (low, high), and the two counts.

    NaN where one of them is empty. Source: Hanley and McNeil 1982 (Radiology 143, 29), equations 1 and 2 for the standard
    error; cut off at 0 and 1. `Differs:` where the two do not overlap at all their error is 0; ours is that of half a pair.
    """
    m, n = len(high), len(low)
    if not m or not n:
        return math.nan, math.nan, math.nan, m, n
    beaten = np.sort(low)
    below, upto = np.searchsorted(beaten, high, "left"), np.searchsorted(beaten, high, "right")
    area = float((below + upto).sum() / (2 * m * n))
    a = min(max(area, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    first, second = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt(max(0.0, a * (1 - a) + (m - 1) * (first - a * a) + (n - 1) * (second - a * a)) / (m * n))
    return area, max(0.0, area - z * error), min(1.0, area + z * error), m, n


@dataclass(frozen=True)
class Stages(Result):
    """How alike a network's inside is for an image and its attacked or noisy twin, stage by stage.

    `names` (S): the pixels, the stages of `maps`, the features, the logits; `adversarial`, `noise` (S,n): cosine of the two
    twins there, −1 to 1.
    """

    names: list[str]
    adversarial: Floats
    noise: Floats


@dataclass(frozen=True)
class Pairs(Result):
    """How far apart the features of two images lie, all pairs, at length 1: `edges` (B+1) from 0 to 2, `same`, `different`
    (B): how many pairs of one class and of two; `margin`: what the run's method pushed different classes apart to, or None.
    """

    edges: Floats
    same: Ints
    different: Ints
    margin: float | None


@dataclass(frozen=True)
class Uniformity(Result):
    """How tight classes are and how evenly features spread over the sphere, at the end of some epochs: `epoch` (E) counted
    from 1, −1 for the network that was kept; `alignment`, `uniformity` (E).
    """

    epoch: Ints
    alignment: Floats
    uniformity: Floats


@dataclass(frozen=True)
class WhiteBox(Result):
    """What one network makes of n images: `logits` (n,K) of the untouched ones, `right` (n,) whether it knows them, and
    `fooled` (n,) whether its own attack takes that away.
    """

    logits: Floats
    right: Bools
    fooled: Bools


@dataclass(frozen=True)
class Transfer(Result):
    """How often images made on one network, the source, fool others that the attacker never saw.

    A row a target (T), a column an image (n). `qualified` (T,n): source and target know the untouched image and each is
    fooled by its own attack; `wrong` (T,n): the target misreads the source's attacked image, qualified or not.
    `before_qualified`, `before_wrong`: the same for what the source was before it was aligned, (0,n) for any other run.
    `kl` (M,M): mean KL(pᵢ ‖ pⱼ) of the untouched images' softmax outputs, rows and columns as in `models`: the source,
    the targets, and of an aligned source the network before and the witness. `accuracy` (M,): untouched.
    """

    targets: list[str]
    qualified: Bools
    wrong: Bools
    before_qualified: Bools
    before_wrong: Bools
    models: list[str]
    kl: Floats
    accuracy: Floats

    @property
    def aligned(self) -> bool:
        """Whether there is a network from before an alignment to compare with."""
        return len(self.before_wrong) > 0

    @property
    def n(self) -> Ints:
        """How many images qualify, (T,)."""
        return self.qualified.sum(axis=1)

    @property
    def k(self) -> Ints:
        """On how many of these the target is wrong, (T,)."""
        return (self.qualified & self.wrong).sum(axis=1)

    @property
    def error(self) -> Floats:
        """The transfer score: k/n, (T,), NaN where no image qualifies."""
        return _shares(self.k, self.n)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals of `error`, (T,2)."""
        return np.array([wilson(int(k), int(n)) for k, n in zip(self.k, self.n, strict=True)])

    @property
    def error_of_all(self) -> Floats:
        """The targets' error on all attacked images, qualified or not, (T,)."""
        return self.wrong.mean(axis=1)

    @property
    def before_error(self) -> Floats:
        """The transfer score of the network before, on the images that qualify for it, (T,); none for other runs."""
        return _shares((self.before_qualified & self.before_wrong).sum(axis=1), self.before_qualified.sum(axis=1))

    @property
    def paired(self) -> Ints:
        """(T,3) on the images that qualify before and after: how many, fooling only after, fooling only before."""
        both = self.qualified & self.before_qualified if self.aligned else self.before_qualified
        after, before = (self.wrong, self.before_wrong) if self.aligned else (self.before_wrong, self.before_wrong)
        return np.stack([both.sum(1), (both & after & ~before).sum(1), (both & ~after & before).sum(1)], axis=1)

    @property
    def difference(self) -> Floats:
        """Error after minus error before on the images that qualify for both, (T,)."""
        return _shares(self.paired[:, 1] - self.paired[:, 2], self.paired[:, 0])

    @property
    def difference_interval(self) -> Floats:
        """Tango's 95 % intervals of `difference`, (T,2)."""
        return np.array([tango(int(b), int(c), int(n)) for n, b, c in self.paired]).reshape(-1, 2)

    @property
    def p(self) -> Floats:
        """McNemar's exact p of `difference`, (T,)."""
        return np.array([mcnemar(int(b), int(c)) for _, b, c in self.paired])


def _shares(k: Ints, n: Ints) -> Floats:
    return np.where(n > 0, k / np.maximum(n, 1), np.nan)


@dataclass(frozen=True)
class Painted(Result):
    """One image attacked within a painted budget on one network.

    `x`, `x_adv`, `x_full` (C,H,W) in [0,1]: untouched, attacked within the budget, attacked with `eps` everywhere; `mask`
    (H,W): where the budget is `eps`, elsewhere it is `eps_low`; `y` the true class; `probs`, `probs_adv`, `probs_full` (K,)
    softmax outputs; `inside`, `outside` the measured max |δ| of x_adv where the mask is and is not.
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
    def share(self) -> float:
        """How much of the image has the full ε, a fraction."""
        return float(self.mask.mean())

    @property
    def uniform(self) -> bool:
        """Whether the budget is `eps` everywhere, so that this is the attacker of every robust number."""
        return bool(self.mask.all()) or self.eps_low == self.eps


@dataclass(frozen=True)
class Attention(Result):
    """Where a network looks on one image, untouched and attacked, and the budget that PART makes of it.

    `x`, `x_adv`, `x_part` (C,H,W) in [0,1]: untouched, attacked with `eps` everywhere, attacked within the budget. `heat`,
    `heat_adv` (h,w): raw signed class activation maps of the first two, for the classes `label` and `label_adv`;
    `heat_random` (R,h,w): the map of `x` for `label` by the same network with random weights, R times. `mask` (H,W) bool, or
    (3,H,W) for jet-compat: the important pixels of `x`; `budget`, of the same shape: each pixel's radius, `eps` or `eps_low`.
    `object` (H,W) bool: the true object, or (0,0) where the data does not know it. `y`: the true class; `probs`,
    `probs_adv`, `probs_part` (K,): softmax outputs. `drift`: rank correlation of `heat` and `heat_adv`; `control` (R,): of `heat` and
    each random map; NaN where a map is constant.
    """

    x: Floats
    x_adv: Floats
    x_part: Floats
    heat: Floats
    heat_adv: Floats
    heat_random: Floats
    mask: Bools
    budget: Floats
    object: Bools
    y: int
    label: int
    label_adv: int
    probs: Floats
    probs_adv: Floats
    probs_part: Floats
    eps: float
    eps_low: float
    drift: float
    control: Floats

    @property
    def spent(self) -> Floats:
        """|δ| of the attack within the budget, (C,H,W), in pixel units."""
        return np.asarray(np.abs(self.x_part - self.x))

    @property
    def at_limit(self) -> Bools:
        """Where this attack spends all that the budget allows, to an eighth of a grey level, (C,H,W)."""
        return np.asarray(self.spent >= self.budget - 1 / 2040)

    @property
    def constant(self) -> bool:
        """Whether the clean image's map is the same everywhere, so that it points at nothing."""
        return flat(self.heat)


def flat(heat: Floats) -> bool:
    """Whether a map (h,w) is constant, to a millionth of its size: the rest is rounding. One that is not finite is, too."""
    return not float(np.ptp(heat)) > 1e-6 * float(np.abs(heat).max())


def spearman(u: Floats, v: Floats) -> float:
    """Spearman's rank correlation of two arrays of the same shape, −1 to 1; ties share their mean rank; NaN where one is constant."""
    if flat(u) or flat(v):
        return math.nan
    ranks = []
    for values in (np.ravel(u), np.ravel(v)):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        rank = (np.cumsum(count) - (count - 1) / 2)[place]
        ranks.append(rank - rank.mean())
    one, two = ranks
    return float((one @ two) / math.sqrt((one @ one) * (two @ two)))


@dataclass(frozen=True)
class Overlap(Result):
    """How well the maps of a network and the masks made of them lie on the true object, image by image.

    `iou`, `pointing`, `energy` (3,n), fractions; rows: the map of the untouched image, of the attacked one, and of the
    untouched one by the same network with random weights. `iou`: of the important-pixel mask and the object. `pointing`: the
    share of the map's hottest pixels (mostly one) that lie on the object. `energy`: the share of the positive map that lies
    on the object. `area` (n,): the object's share of the image: what a blind guess gets in the last two. `chance` (n,): the IoU
    expected of a mask of the same size thrown at random. `constant` (3,): how many maps say nothing; they count with what
    a blind guess gets. `index`, `y` (n,): image numbers and true classes.
    """

    iou: Floats
    pointing: Floats
    energy: Floats
    area: Floats
    chance: Floats
    constant: Ints
    index: Ints
    y: Ints

    def interval(self, measure: str, row: int) -> tuple[float, float, float]:
        """Mean and 95 % interval of `iou`, `pointing` or `energy`: Wilson's for pointing, Student's t for the means, cut to 0…1."""
        values = getattr(self, measure)[row]
        if measure == "pointing":
            return float(values.mean()), *wilson(float(values.sum()), len(values))
        mean, low, high = mean_interval(values)
        return mean, max(0.0, low), min(1.0, high)

    def gap(self, other: Overlap, measure: str, row: int) -> tuple[float, float, float]:
        """By how much this exceeds the other on the same images: mean paired difference, 95 % t-interval. Raises UserError
        where the images are not the same."""
        if (
            self.meta["data"] != other.meta["data"]
            or not np.array_equal(self.index, other.index)
            or not np.array_equal(self.area, other.area)
        ):
            raise UserError("These two were not measured on the same images, so they cannot be compared image by image.")
        return mean_interval(getattr(self, measure)[row] - getattr(other, measure)[row])

    def rows(self) -> list[JSON]:
        """A row an image."""
        names = list(self.meta["classes"])
        return [
            {"image": int(self.index[i]), "class": names[self.y[i]], "object_area": float(self.area[i])}
            | {f"{measure}_{kind}": float(getattr(self, measure)[row, i]) for measure in OVERLAPS for row, kind in enumerate(MAPS)}
            for i in range(len(self.y))
        ]


MAPS = ("clean", "attacked", "random")  # the rows of an `Overlap`
OVERLAPS = ("iou", "pointing", "energy")


@dataclass(frozen=True)
class Road(Result):
    """Whether a map is faithful: how the softmax output reacts when what it calls important is painted over.

    `score` (3,n), −1 to 1: ROAD's mean of (least relevant removed first − most relevant removed first) / 2 over shares of the
    pixels; above 0: the map's pixels matter to the network. Rows: the class activation map, the map of the same network with
    random weights, a map of random numbers on the same grid. `index` (n,): image numbers; constant maps are left out, and
    `constant` counts them.
    """

    score: Floats
    index: Ints
    constant: int


@dataclass(frozen=True)
class Quadrants(Result):
    """What it costs to give one quarter of the image a smaller radius in training, for each quarter, over seeds.

    `names` (V): the four quadrants in the order of reading, then the controls that are there (`full`, `low`: one radius
    everywhere). `clean`, `robust` (V,S): accuracy of each network, fractions. `clean_interval`, `robust_interval` (V,3):
    mean and 95 % t-interval over seeds. `clean_lead`, `robust_lead` (4,3): by how much the best quadrant is ahead of each,
    mean and t-interval of the differences seed by seed, 95 % for all six pairs together; NaN for the best one itself.
    """

    names: list[str]
    clean: Floats
    robust: Floats
    clean_interval: Floats
    robust_interval: Floats
    clean_lead: Floats
    robust_lead: Floats

    def best(self, kind: str) -> tuple[int, bool]:
        """The quadrant with the highest mean of `clean` or `robust`, and whether it is decidedly ahead of all others."""
        lead = self.clean_lead if kind == "clean" else self.robust_lead
        at = int(np.isnan(lead[:, 0]).argmax())
        return at, bool((np.delete(lead[:, 1], at) > 0).all())


@dataclass(frozen=True)
class Contributions(Result):
    """What each feature adds to the logit of an image's true class, and one draw of guided dropout.

    `parts` (n,D): feature times its weight for the class; `bias` (n,): what the class starts from; `mask` (n,D): what guided
    dropout multiplies each part by, 0 where it is dropped; `y`, `pred`, `index` (n,): true class, answer, image number.
    """

    parts: Floats
    bias: Floats
    mask: Floats
    y: Ints
    pred: Ints
    index: Ints

    @property
    def logit(self) -> Floats:
        """The logit of the true class, (n,)."""
        return self.parts.sum(axis=1) + self.bias

    @property
    def shares(self) -> Floats:
        """Share of all that speaks for the class which the k largest parts hold, k = 0 to D, (n,D+1); NaN where nothing does."""
        up = -np.sort(-np.maximum(self.parts.astype(np.float64), 0), axis=1)
        total = up.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return np.concatenate([np.zeros_like(total), up.cumsum(axis=1)], axis=1) / np.where(total > 0, total, np.nan)

    @property
    def half(self) -> Floats:
        """The smallest number of features that hold half of it, (n,); NaN where nothing speaks for the class."""
        reached = self.shares >= 0.5
        return np.where(reached.any(axis=1), reached.argmax(axis=1), np.nan)

    @property
    def effective(self) -> Floats:
        """(Σc⁺)² / Σ(c⁺)²: how many equal parts would be as spread out, (n,), 1 to D; NaN as above."""
        up = np.maximum(self.parts.astype(np.float64), 0)
        below = (up**2).sum(axis=1)
        return np.where(below > 0, up.sum(axis=1) ** 2 / np.where(below > 0, below, 1), np.nan)


@dataclass(frozen=True)
class Pairing(Result):
    """What logit pairing would ask of a network, image by image.

    `ce`, `ce_adv` (n,): cross-entropy of the untouched and of the attacked image; `pairing` (n,): mean squared difference of
    their logits; `cosine` (n,): of the gradients of pairing and of the two cross-entropies' mean with respect to all
    weights, NaN where one of them is zero; `right_adv` (n,): whether the attacked image is read rightly; `y`, `index` (n,).
    """

    ce: Floats
    ce_adv: Floats
    pairing: Floats
    cosine: Floats
    right_adv: Bools
    y: Ints
    index: Ints

    def weight(self, kind: str) -> Floats:
        """The weight of each pair, (n,), 0 to 1: AALP's `pair_weight` by name."""
        return {
            "adversarial": np.exp(-self.ce_adv), "clean": np.exp(-self.ce), "loss": 1 / (1 + self.ce_adv), "ones": np.ones_like(self.ce),
        }[kind]  # fmt: skip

    def opposed(self, kind: str = "ones") -> tuple[float, float, float]:
        """Which share of the pairs' weight lies on images whose two gradients oppose each other (cosine below 0), and its
        95 % interval: Wilson's, with Kish's effective number of images. (NaN, 0, 1) where no pair has any.
        """
        there = np.isfinite(self.cosine)
        weight, against = self.weight(kind)[there].astype(np.float64), self.cosine[there] < 0
        total = weight.sum()
        if not total > 0:
            return math.nan, 0.0, 1.0
        share, count = float(weight[against].sum() / total), float(total**2 / (weight**2).sum())
        low, high = wilson(share * count, count)
        return share, low, high

    def relief(self, kind: str) -> tuple[float, float, float]:
        """By how much the weights change that share, and its 95 % interval, from the same images. (NaN, −1, 1) for
        fewer than two."""
        there = np.isfinite(self.cosine)
        weight, against = self.weight(kind)[there].astype(np.float64), (self.cosine[there] < 0).astype(np.float64)
        if len(weight) < 2 or not weight.sum() > 0:
            return math.nan, -1.0, 1.0
        share = float((weight * against).sum() / weight.sum())
        # Linearised: what each image moves the two shares by.
        pulls = weight / weight.mean() * (against - share) - (against - against.mean())
        moved, (_, low, high) = share - float(against.mean()), mean_interval(pulls)
        return moved, max(-1.0, moved + low), min(1.0, moved + high)


@dataclass(frozen=True)
class AttackSteps(Result):
    """Which of n images stay right as an attack takes more steps, and without gradients.

    `steps` (S,): where PGD was looked at; `right` (S,n): right at this look and at every earlier one; `clean` (n,): right
    untouched; `square` (n,): right under Square with `queries`.
    """

    steps: Ints
    right: Bools
    clean: Bools
    square: Bools
    queries: int

    @property
    def n(self) -> int:
        return len(self.clean)

    @property
    def accuracy(self) -> Floats:
        """Fractions (S,)."""
        return self.right.mean(axis=1)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals (S,2)."""
        return np.array([wilson(int(k), self.n) for k in self.right.sum(axis=1)])


@dataclass(frozen=True)
class SoftLabels(Result):
    """One image's softmax outputs at a temperature: `logits`, `logits_adv` (K,) of the image untouched and attacked at
    `eps`, `y` the true class, `temperature` T.
    """

    logits: Floats
    logits_adv: Floats
    y: int
    temperature: float
    eps: float

    @property
    def probs(self) -> Floats:
        """softmax(logits/T) of the untouched image, (K,)."""
        return soft_label(self.logits, self.temperature)

    @property
    def probs_adv(self) -> Floats:
        """softmax(logits/T) of the attacked image, (K,)."""
        return soft_label(self.logits_adv, self.temperature)


def soft_label(logits: Floats, temperature: float) -> Floats:
    """softmax(logits/T) over the last axis, float64."""
    raised = np.asarray(logits, dtype=np.float64) / temperature
    raised = np.exp(raised - raised.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def entropy(p: Floats) -> float:
    """−Σ p·log p of a distribution (K,), in nats: 0 (sure of one class) to log K."""
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum())


def divergence(p: Floats, q: Floats) -> float:
    """KL(p ‖ q) of two distributions (K,), in nats."""
    return float((p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300)))).sum())


@dataclass(frozen=True)
class Surface(Result):
    """The loss of one network on a plane through one image: row i and column j are the point x + aᵢ·d + bⱼ·r.

    `x`, `d`, `r` (C,H,W): the image, the adversarial direction and the random one, entries of d and r in −1…1; `a`, `b`
    (G,) in pixel units, the middle one exactly 0. Points are not clipped to [0, 1], so that the plane is flat. `y` the
    true class. `hard` (G,G): cross-entropy to y. `soft` (G,G): T²·KL(q ‖ softmax(logits/T)) with q = `label` (K,), the
    witness's softmax output at T for the untouched image; both are empty without a witness. `pred` (G,G): the answer.
    `eps`: the run's radius. Of a refined surface `meta["refined"]` says which points were computed (`where`, for `unpack`)
    and by how much interpolation was off where it was tried (`error`).
    """

    x: Floats
    d: Floats
    r: Floats
    a: Floats
    b: Floats
    y: int
    hard: Floats
    soft: Floats
    label: Floats
    pred: Ints
    eps: float

    def loss(self, target: str) -> Floats:
        """`hard` or `soft`, (G,G). Raises UserError for a soft loss without a witness."""
        if target == "soft" and not self.soft.size:
            raise UserError(
                "There is no witness, so there is no soft label to measure the loss to: choose the true class, or name a witness."
            )
        return self.soft if target == "soft" else self.hard

    @property
    def middle(self) -> int:
        """The index of the image itself in `a` and in `b`."""
        return len(self.a) // 2


@dataclass(frozen=True)
class WeightSurface(Result):
    """The mean cross-entropy of `n` images where the weights are moved: row i and column j are at w + aᵢ·u + bⱼ·v.

    `a`, `b` (G,): 1 is as long, filter by filter, as the weights themselves; the middle one is exactly 0. `loss` (G,G).
    `meta["refined"]` as of a `Surface`; its `error` is of log₁₀.
    """

    a: Floats
    b: Floats
    loss: Floats
    n: int


@dataclass(frozen=True)
class Gradients(Result):
    """The gradient of the cross-entropy by the pixels, image by image, at `index` (n,).

    `norm` (n,): its ℓ2 norm. `share` (n,): the part of Σ|gradient| that lies on the true object, `area` (n,): the part of
    the picture that the object covers, which is what a gradient without preference has; both empty where the data has no
    masks. `cosine` (T,n): with the gradients of the networks `targets` (T).
    """

    index: Ints
    norm: Floats
    share: Floats
    area: Floats
    targets: list[str]
    cosine: Floats


@dataclass(frozen=True)
class Curvature(Result):
    """The largest eigenvalue by size of the loss's Hessian by the pixels, image by image, at `index` (n,).

    `eigenvalue` (n,), signed; `residual` (n,): ‖Hv − λv‖/|λ| at the end, so some eigenvalue lies within that part of λ.
    `same` (n,): whether the smoothed copy on which it is measured answers as the network does.
    """

    index: Ints
    eigenvalue: Floats
    residual: Floats
    same: Bools


@dataclass(frozen=True)
class Strip:
    """A few images attacked at the end of an epoch: `x`, `x_adv` (N,C,H,W), `y`, `pred`, `pred_adv` (N,)."""

    x: Floats
    x_adv: Floats
    y: Ints
    pred: Ints
    pred_adv: Ints
    eps: float
    epoch: int


@dataclass(frozen=True)
class Finding:
    """One check of the doctor: its name, whether nothing was found, what was measured, one sentence."""

    name: str
    ok: bool
    value: float
    text: str


# What an attack is called, and the settings that go without saying; a test holds both against the attacks themselves.
NAMES = {
    "fgsm": "FGSM", "pgd": "PGD-{steps}", "cw": "CW-{steps}", "mim": "MIM-{steps}", "dim": "DIM-{steps}", "tim": "TIM-{steps}",
    "apgd": "APGD-{loss}-{steps}", "square": "Square-{queries}", "autoattack": "AutoAttack",
}  # fmt: skip
USUAL: JSON = {
    "norm": "linf", "step_size": None, "targeted": False, "start": "uniform", "restarts": 1, "targets": 0, "decay": 0.0,
    "diversity": 0.5, "resize": 0.9, "kernel": 3, "p": 0.8, "variant": "autoattack",
}  # fmt: skip
OTHERWISE: dict[str, JSON] = {"fgsm": {"start": "zero"}, "mim": {"decay": 1.0}}


def attack_name(attack: Mapping[str, Any], classes: int = 0) -> str:
    """An attack's JSON in words, without its ε: `FGSM`, `PGD-100×5`, `AutoAttack`; what is set otherwise than usual in
    brackets. With fewer than ten classes AutoAttack's targeted parts have fewer targets than published, and its name says so.
    """
    key = str(attack.get("key", "?"))
    pattern, usual = NAMES.get(key, key), USUAL | OTHERWISE.get(key, {})
    said = {name: value.upper() if isinstance(value, str) else value for name, value in attack.items()}
    name = pattern.format_map(_Settings(said))
    if attack.get("restarts", 1) != 1:
        name += f"×{attack['restarts']}"
    notes = [f"{classes - 1} targets"] if key == "autoattack" and 0 < classes < 10 else []
    for setting, value in attack.items():
        said_already = setting in ("key", "eps", "restarts") or f"{{{setting}}}" in pattern
        if not said_already and (setting not in usual or value != usual[setting]):
            value = min(value, classes - 1) if setting == "targets" and classes else value  # there are no more wrong classes
            shown = f"{value:g}" if isinstance(value, float) else value
            notes.append({"norm": "ℓ2", "targeted": "targeted", "targets": f"{shown} targets"}.get(setting, f"{setting} {shown}"))
    return name + (f" ({', '.join(notes)})" if notes else "")


class _Settings(dict[str, Any]):
    """Gives a question mark for a setting that an entry from another version does not have."""

    def __missing__(self, key: str) -> str:
        return "?"


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on clean and on attacked images of one split, with everything needed to repeat it.

    `attack` is the attack's JSON with all settings; `clean_k`, `robust_k` of `n` images were right, untouched and
    attacked. Fractions and intervals are derived. `clean_right`, `robust_right`: the verdict on each of the n images in
    the order of `--n`, packed; `images` a hash of these images and labels; `classes` how many there are. `image_bytes`:
    what a forward pass remembers of an image; `at_once`: how many were computed together for want of memory, 0: all of a
    block of 250; it changes no verdict. As a rung of a ladder also `rung`, from 1, and `cumulative_k`: right under this and every weaker rung. Entries of older
    versions lack these.
    """

    attack: JSON
    eps: float
    n: int
    clean_k: int
    robust_k: int
    seed: int
    split: str
    seconds: float
    device: str
    doctor: tuple[Finding, ...] = ()
    key: str = ""
    weights: str = ""
    clean_right: str = ""
    robust_right: str = ""
    images: str = ""
    classes: int = 0
    rung: int = 0
    cumulative_k: int | None = None
    at_once: int = 0
    image_bytes: int = 0

    @property
    def clean_acc(self) -> float:
        return self.clean_k / max(self.n, 1)

    @property
    def robust_acc(self) -> float:
        return self.robust_k / max(self.n, 1)

    @property
    def ok(self) -> bool:
        """Whether no check of the doctor found a fault. Not a proof."""
        return all(finding.ok for finding in self.doctor)

    @property
    def printed(self) -> str:
        """The attack in words, without its ε: `PGD-20`, `PGD-100×5`, `AutoAttack`."""
        return attack_name(self.attack, self.classes)

    @property
    def verdict(self) -> str:
        """What the doctor says, in a table's cell: `no fault found`, or which checks failed."""
        failed = [finding.name for finding in self.doctor if not finding.ok]
        return f"FAULT: {', '.join(failed)}" if failed else "no fault found"

    @property
    def note(self) -> str:
        """A warning where the images are few, else nothing."""
        low, high = wilson(self.robust_k, self.n)
        wide = round(100 * (high - low))
        return f"Only {self.n} images: the 95 % interval is {wide} points wide; take at least {FEW}." if self.n < FEW else ""

    @property
    def line(self) -> str:
        """The evaluation in one line of a terminal."""
        low, high = wilson(self.robust_k, self.n)
        together = f", {self.cumulative_k} under it and every weaker one" if self.rung > 1 else ""
        few = f"  {self.at_once} images at a time, {self.image_bytes / 1e6:.0f} MB each" if self.at_once else ""
        return (
            f"{self.printed:<12} {self.robust_k:>5} of {self.n} right  {self.robust_acc:.3f} [{low:.3f}, {high:.3f}]{together}  "
            f"{self.seconds:.1f} s{few}  {self.verdict}"
        )

    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which images were right, untouched and attacked, (N,) each. Raises UserError for an entry without them."""
        if not self.clean_right or not self.robust_right:
            raise UserError("This was measured before robustviz kept the verdict on each image: evaluate the run again.")
        return unpack(self.clean_right, self.n), unpack(self.robust_right, self.n)

    def to_json(self) -> JSON:
        """Plain values, with fractions and 95 % intervals written out for people who read the file."""
        out = dataclasses.asdict(self)
        return out | {
            "clean_acc": self.clean_acc, "clean_interval": list(wilson(self.clean_k, self.n)),
            "robust_acc": self.robust_acc, "robust_interval": list(wilson(self.robust_k, self.n)),
            "printed": self.printed,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote; derived entries are ignored. Raises UserError for anything else."""
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            kept = {name: value for name, value in data.items() if name in names}
            kept["doctor"] = tuple(Finding(**finding) for finding in kept.get("doctor", ()))
            return cls(**kept)
        except (TypeError, AttributeError) as error:
            raise UserError("An entry of eval.json is damaged: remove the file and evaluate the run again.") from error


@dataclass(frozen=True)
class Paired:
    """Two evaluations on the same `n` images under the same attack: `first_only` images only the first got right
    attacked, `second_only` only the second. Everything else follows.
    """

    n: int
    first_only: int
    second_only: int
    attack: str
    eps: float

    @property
    def difference(self) -> float:
        """Robust accuracy of the first minus that of the second, a fraction."""
        return (self.first_only - self.second_only) / max(self.n, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Tango's 95 % score interval of the difference."""
        return tango(self.first_only, self.second_only, self.n)

    @property
    def p(self) -> float:
        """McNemar's exact p."""
        return mcnemar(self.first_only, self.second_only)

    @property
    def verdict(self) -> str:
        """`more robust` or `less robust` (the first than the second) where the interval excludes 0, else `not decided`."""
        low, high = self.interval
        return "more robust" if low > 0 else "less robust" if high < 0 else "not decided"

    @property
    def cell(self) -> str:
        """For a table: the difference in points with its interval, and the verdict."""
        low, high = self.interval
        return f"{100 * self.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points: {self.verdict}"

    def sentence(self, first: str, second: str) -> str:
        """The finding in one sentence; the names are the runs'."""
        low, high = self.interval
        facts = (
            f"{100 * self.difference:+.1f} points of accuracy under {self.attack} at ε {eps_text(self.eps)}, 95 % interval "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], n = {self.n}, {self.first_only} against {self.second_only} images, exact McNemar p = {self.p:.2g}"
        )
        if self.verdict == "not decided":
            return f"Which of {first} and {second} is more robust is not decided: {facts}."
        return f"{first} is {self.verdict} than {second}: {facts}."

    def to_json(self) -> JSON:
        """Plain values, derived ones included."""
        return dataclasses.asdict(self) | {
            "difference": self.difference, "interval": list(self.interval), "p": self.p, "verdict": self.verdict,
        }  # fmt: skip


def paired(first: Evaluation, second: Evaluation) -> Paired:
    """The difference in robust accuracy of two networks, from the images on which they differ.

    Raises UserError where the two were not measured alike: other images, attack, ε, n or seed.
    """
    for what, one, other in (
        ("attack", first.printed, second.printed), ("ε", f"{first.eps:.4g}", f"{second.eps:.4g}"), ("n", first.n, second.n),
        ("seed", first.seed, second.seed), ("split", first.split, second.split),
    ):  # fmt: skip
        if one != other:
            raise UserError(f"These two were not measured alike ({what}: {one} and {other}): evaluate both in the same way.")
    if first.attack != second.attack or first.eps != second.eps:
        raise UserError("These two were not measured alike (the attack's settings differ): evaluate both in the same way.")
    mine, theirs = first.right()[1], second.right()[1]
    if first.images != second.images:
        raise UserError("These two were measured on different images, so no pairs can be formed: take runs of the same data.")
    b, c = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    return Paired(first.n, b, c, first.printed, first.eps)


@dataclass(frozen=True)
class Ladder:
    """Stronger and stronger attacks on the same images: `rungs`, weakest first, each with its raw and cumulative k.

    `left_out`: one sentence where a rung does not apply to this data.
    """

    rungs: tuple[Evaluation, ...]
    left_out: str = ""

    @property
    def eps(self) -> float:
        return self.rungs[-1].eps

    @property
    def n(self) -> int:
        return self.rungs[-1].n

    @property
    def clean_acc(self) -> float:
        return self.rungs[0].clean_acc

    @property
    def robust_k(self) -> int:
        """How many images are right untouched and under every rung."""
        return int(self.rungs[-1].cumulative_k or 0)

    @property
    def robust_acc(self) -> float:
        return self.robust_k / max(self.n, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `robust_acc`."""
        return wilson(self.robust_k, self.n)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the monitor of the order says, one a rung."""
        return tuple(finding for rung in self.rungs for finding in rung.doctor if finding.name == "order")

    @property
    def ordered(self) -> bool:
        """Whether no stronger attack left clearly more images right than a weaker one."""
        return all(finding.ok for finding in self.findings)

    @property
    def verdict(self) -> str:
        """What the ladder says, in one or two sentences."""
        low, high = self.interval
        out = (
            f"{self.robust_k} of {self.n} images ({100 * self.robust_acc:.1f} % [{100 * low:.1f}, {100 * high:.1f}]) stay right under every "
            f"rung up to {self.rungs[-1].printed} at ε {eps_text(self.eps)}."
        )
        wrong = [rung.printed for rung in self.rungs if any(f.name == "order" and not f.ok for f in rung.doctor)]
        out += f" Out of order: {', '.join(wrong)}; a stronger attack must not leave more right." if wrong else " The rungs are in order."
        return f"{out} {self.left_out}".strip()

    def to_json(self) -> JSON:
        """Plain values; `robust_acc` is the last rung's cumulative accuracy."""
        return {
            "attack": "ladder", "n": self.n, "eps": self.eps, "seed": self.rungs[-1].seed, "clean_acc": self.clean_acc,
            "robust_acc": self.robust_acc, "robust_interval": list(self.interval), "rungs": [rung.to_json() for rung in self.rungs],
            "ordered": self.ordered, "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "left_out": self.left_out, "verdict": self.verdict,
        }  # fmt: skip


def climb(rungs: Sequence[Evaluation], method: str = "", left_out: str = "") -> Ladder:
    """The ladder of evaluations of one network on the same images, weakest attack first, with cumulative k and the monitor.

    Raw figures must be ordered, clean images first, with a tolerance of one point or two images, whichever is more. A
    network trained by `fgsm_at` is let off at FGSM: it may know FGSM's noise better than clean images (label leaking).
    Raises UserError for an evaluation without verdicts on each image.
    """
    out: list[Evaluation] = []
    still, lowest, lowest_name = rungs[0].right()[0], rungs[0].clean_k, "Clean"
    for number, rung in enumerate(rungs, 1):
        still = still & rung.right()[1]
        slack = max(2.0, rung.n / 100)
        leaks = method == "fgsm_at" and rung.attack.get("key") == "fgsm"
        text = f"{rung.printed} leaves {rung.robust_k} of {rung.n} right, {lowest_name} {lowest}"
        text += "; FGSM adversarial training is let off here (label leaking)." if leaks else f"; at most {slack:.0f} more are chance."
        order = Finding("order", leaks or rung.robust_k <= lowest + slack, float(rung.robust_k - lowest), text)
        doctor = (*(finding for finding in rung.doctor if finding.name != "order"), order)
        out.append(dataclasses.replace(rung, doctor=doctor, rung=number, cumulative_k=int(still.sum())))
        if rung.robust_k < lowest:
            lowest, lowest_name = rung.robust_k, rung.printed
    return Ladder(tuple(out), left_out)


def ladders(found: Sequence[Evaluation]) -> list[Ladder]:
    """The ladders among a run's evaluations, oldest first: rungs on the same images at the same ε, weakest first."""
    groups: dict[tuple[Any, ...], dict[int, Evaluation]] = {}
    for one in found:
        if one.rung:
            groups.setdefault((one.eps, one.n, one.seed, one.split, one.images), {})[one.rung] = one
    return [Ladder(tuple(rung for _, rung in sorted(rungs.items()))) for rungs in groups.values()]
