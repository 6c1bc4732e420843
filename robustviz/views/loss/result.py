"""What is asked about soft labels and the loss, and what comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustviz.registry import option, register
from robustviz.stats import Bools, Floats, Ints
from robustviz.types import UserError
from robustviz.views.result import ProbeSpec, Result

NO_WITNESS = (
    "There is no witness, so there is no soft label to measure the loss to: choose the true class,"
    " or name a witness."
)
REFINE_HELP = (
    "Compute every fourth point, and finer ones only where the surface bends; the rest is"
    " interpolated and its error measured."
)


@dataclass(frozen=True)
class SoftLabels(Result):
    """One image's softmax outputs at a temperature: `logits`, `logits_adv` (K,) of the image
    untouched and attacked at `eps`, `y` the true class, `temperature` T.
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


@register("probe/soft_labels")
@dataclass(frozen=True)
class SoftLabelsSpec(ProbeSpec[SoftLabels]):
    """One test image's softmax outputs at temperature T, untouched and under the network's
    own PGD.
    """

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    temperature: float = option(
        4.0, "T: the logits are divided by it; 1 is the network's usual output.", low=0.1, high=100
    )
    eps: float | None = option(
        None, "Radius of the attack in pixel units; empty: the run's.", low=0, kind="radius"
    )
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's random start.", low=0)

    result = SoftLabels
    cacheable = False


def soft_label(logits: Floats, temperature: float) -> Floats:
    """softmax(logits/T) over the last axis, float64."""
    raised = np.asarray(logits, dtype=np.float64) / temperature
    raised = np.exp(raised - raised.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def median_interval(values: Floats) -> tuple[float, float, float]:
    """The median of `values` (n,) and its interval (low, high) of at least 95 %, between two of the
    values; the smallest and the largest where there are fewer than six.

    Source: order statistics, the sign test's interval: the count below the median is binomial, so
    it is right for any tail, where Student's interval of a mean reaches below all values.
    """
    found, n = np.sort(values), len(values)
    below, k = 0.5**n, 0  # the chance that at most k values lie below the median
    while below + math.comb(n, k + 1) * 0.5**n <= 0.025:
        k += 1
        below += math.comb(n, k) * 0.5**n
    return float(np.median(found)), float(found[k]), float(found[n - 1 - k])


def entropy(p: Floats) -> float:
    """−Σ p·log p of a distribution (K,), in nats: 0 (sure of one class) to log K."""
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum())


def divergence(p: Floats, q: Floats) -> float:
    """KL(p ‖ q) of two distributions (K,), in nats."""
    return float((p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300)))).sum())


@dataclass(frozen=True)
class Surface(Result):
    """The loss of one network on a plane through one image: row i and column j are the point x +
    aᵢ·d + bⱼ·r.

    `x`, `d`, `r` (C,H,W): the image, the adversarial direction and the random one, entries of d and
    r in −1…1; `a`, `b` (G,) in pixel units, the middle one exactly 0. Points are not clipped to [0,
    1], so that the plane is flat. `y` the true class. `hard` (G,G): cross-entropy to y. `soft`
    (G,G): T²·KL(q ‖ softmax(logits/T)) with q = `label` (K,), the witness's softmax output at T for
    the untouched image; both are empty without a witness. `pred` (G,G): the answer. `eps`: the
    run's radius. Of a refined surface `meta["refined"]` says which points were computed (`where`,
    for `unpack`) and by how much interpolation was off where it was tried (`error`).
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
            raise UserError(NO_WITNESS)
        return self.soft if target == "soft" else self.hard

    @property
    def middle(self) -> int:
        """The index of the image itself in `a` and in `b`."""
        return len(self.a) // 2


@register("probe/surfaces")
@dataclass(frozen=True)
class SurfacesSpec(ProbeSpec[Surface]):
    """The loss at x + a·d + b·r for a, b from −`span` to `span`, to the true class and to a
    witness's soft label.

    d is made on the `reference` network, so that several networks can be shown the same plane: the
    sign of the gradient of its cross-entropy at x (sign(0) = 0), or with `direction=pgd` its
    20-step PGD change over ε from a zero start. r is ±1 at random, the same for every network.
    """

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    grid: int = option(21, "Points along each direction, an odd number.", low=3, high=101)
    span: float | None = option(
        None,
        "How far the plane reaches, in pixel units; empty: twice the run's ε.",
        low=0,
        high=1,
        kind="radius",
    )
    temperature: float | None = option(
        None, "T of the soft label; empty: the alignment's, else 4.", low=0.1, high=100
    )
    direction: Literal["sign", "pgd"] = option(
        "sign", "The adversarial direction: the gradient's sign, or where PGD ends."
    )
    seed: int = option(0, "Seed of the random direction.", low=0)
    reference: str = option(
        "",
        "Run on which the direction is made; empty: of an aligned run its source, else the run"
        " itself.",
        kind="run",
    )
    witness: str = option(
        "",
        "Run whose soft label is the target; empty: of an aligned run its witness, else none.",
        kind="run",
    )
    refine: bool = option(False, REFINE_HELP)

    result = Surface
    cacheable = False


@dataclass(frozen=True)
class WorstDirection(Result):
    """What a network answers on a plane through one image: row i and column j are the picture x +
    aᵢ·d + bⱼ·r, clipped to [0, 1], so that each is a picture one can show.

    `x` (C,H,W) uint8: the image; `d` (C,H,W) int8: 127 times the direction in which PGD ended, r is
    ±1 at random. `a`, `b` (G,) in pixel units; `a` reaches from −ε to 2ε, `b` from −1.5ε to 1.5ε.
    `odds` (G,G): log((1 − p)/p) of the true class `y`, so that the loss is log(1 + exp(odds));
    `margin` (G,G): by how much its log softmax leads the next class's, positive where the answer is
    right. `line` (L,K): log softmax at 0, 1, 2 … grey levels along d. With a witness `label` (K,),
    its log softmax of the untouched image, and `logp` (G,G,K), that of the plane; empty without.
    """

    x: Ints
    d: Ints
    a: Floats
    b: Floats
    odds: Floats
    margin: Floats
    logp: Floats
    line: Floats
    label: Floats
    y: int
    eps: float

    def picture(self, level: int) -> Floats:
        """The image moved by so many grey levels along its direction, (C,H,W) in [0, 1]."""
        return np.clip(self.x / 255 + level / 255 * (self.d / 127), 0, 1)

    @property
    def answers(self) -> Ints:
        """The class at each grey level along the direction, (L,)."""
        return np.asarray(self.line.argmax(axis=1))

    @property
    def change(self) -> int | None:
        """The first grey level along the direction at which the answer is not the true class; None
        where there is none.
        """
        wrong = np.flatnonzero(self.answers != self.y)
        return int(wrong[0]) if len(wrong) else None

    def soft(self, temperature: float) -> Floats:
        """T²·KL(q ‖ softmax(logits/T)) with q the witness's soft label at T, (G,G). Raises
        UserError without a witness.
        """
        if not self.label.size:
            raise UserError(NO_WITNESS)
        q = soft_label(self.label, temperature)
        p = np.maximum(soft_label(self.logp, temperature), 1e-300)
        apart = np.log(np.maximum(q, 1e-300)) - np.log(p)
        return np.asarray(np.maximum(temperature**2 * (q * apart).sum(axis=-1), 0))


@register("probe/worst_direction")
@dataclass(frozen=True)
class WorstDirectionSpec(ProbeSpec[WorstDirection]):
    """The answers at x + a·d + b·r, a from −ε to 2ε along the network's own worst direction: where
    its PGD of 20 steps ends, from a zero start. r is ±1 at random, the same for every network.
    """

    index: int = option(0, "Number of the test image.", low=0, kind="image")
    eps: float | None = option(
        None, "ε in pixel units; empty: the run's.", low=0, high=1, kind="radius"
    )
    grid: int = option(25, "Points along each direction: 1 more than a multiple of 6.", low=7)
    seed: int = option(0, "Seed of the random direction.", low=0)
    reference: str = option(
        "", "Run on which the direction is made; empty: the run itself.", kind="run"
    )
    witness: str = option("", "Run whose soft label is a target; empty: none.", kind="run")

    result = WorstDirection


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[WorstDirection], ...]:
    """What the first screen asks of each network about an image."""
    return (WorstDirectionSpec(index=index, eps=eps),)


@dataclass(frozen=True)
class WeightSurface(Result):
    """The mean cross-entropy of `n` images where the weights are moved: row i and column j are at w
    + aᵢ·u + bⱼ·v.

    `a`, `b` (G,): 1 is as long, filter by filter, as the weights themselves; the middle one is
    exactly 0. `loss` (G,G). `meta["refined"]` as of a `Surface`; its `error` is of log₁₀.
    """

    a: Floats
    b: Floats
    loss: Floats
    n: int


@register("probe/weight_surface")
@dataclass(frozen=True)
class WeightSurfaceSpec(ProbeSpec[WeightSurface]):
    """The mean cross-entropy of the first `n` test images at w + a·u + b·v, u and v two
    filter-normalised directions.

    Batch norm keeps its running statistics. u and v are drawn one after the other from one
    generator, so networks of the same architecture share the draw and differ in its scaling alone.
    """

    n: int = option(128, "How many test images.", low=1)
    grid: int = option(21, "Points along each direction, an odd number.", low=3, high=101)
    span: float = option(
        1.0, "How far it reaches; 1: as far as the weights are long.", low=0.001, high=10
    )
    seed: int = option(0, "Seed of the two directions.", low=0)
    refine: bool = option(False, REFINE_HELP)

    result = WeightSurface


@dataclass(frozen=True)
class Gradients(Result):
    """The gradient of the cross-entropy by the pixels, image by image, at `index` (n,).

    `norm` (n,): its ℓ2 norm. `share` (n,): the part of Σ|gradient| that lies on the true object,
    `area` (n,): the part of the picture that the object covers, which is what a gradient without
    preference has; both empty where the data has no masks. `cosine` (T,n): with the gradients of
    the networks `targets` (T).
    """

    index: Ints
    norm: Floats
    share: Floats
    area: Floats
    targets: list[str]
    cosine: Floats


@register("probe/gradients")
@dataclass(frozen=True)
class GradientsSpec(ProbeSpec[Gradients]):
    """Of the first `n` test images the gradient of the cross-entropy: its length, the part of it
    that lies on the true object (where the data has masks), and its cosine with the gradients of
    other networks.
    """

    n: int = option(200, "How many test images.", low=2)
    targets: str = option(
        "",
        "Runs whose gradients are compared, with commas between; empty: of an aligned run its"
        " witness and the shipped ordinary networks it never saw, of another the shipped ordinary"
        " networks.",
        kind="runs",
    )

    result = Gradients


@dataclass(frozen=True)
class Curvature(Result):
    """The largest eigenvalue by size of the loss's Hessian by the pixels, image by image, at
    `index` (n,).

    `eigenvalue` (n,), signed; `residual` (n,): ‖Hv − λv‖/|λ| at the end, so some eigenvalue lies
    within that part of λ. `same` (n,): whether the smoothed copy on which it is measured answers as
    the network does.
    """

    index: Ints
    eigenvalue: Floats
    residual: Floats
    same: Bools


def smoothing(result: Curvature) -> str:
    """What was measured in place of the network: a copy with softplus for each ReLU, or itself."""
    beta, relus = result.meta["beta"], result.meta.get("relus")
    if relus == 0:
        return "It has no ReLU, so it was measured as it is."
    each = "its ReLUs" if relus is None else f"each of its {relus} ReLUs"
    return f"Softplus with β = {beta:g} stands in for {each}."


@register("probe/curvature")
@dataclass(frozen=True)
class CurvatureSpec(ProbeSpec[Curvature]):
    """Of the first `n` test images the eigenvalue of largest size of the Hessian of the
    cross-entropy by the pixels, signed.

    Measured in float64 on a copy whose ReLUs, where it has any, are softplus with slope `beta`.
    Curvature grows with β, so only values of the same β can be compared.
    """

    n: int = option(50, "How many test images.", low=2)
    iterations: int = option(
        20,
        "Steps of the Lanczos iteration, each a product of the Hessian and a vector.",
        low=1,
        high=1000,
    )
    beta: float = option(
        10.0, "β of the softplus that stands in for each ReLU, if any.", low=10, high=1000
    )
    seed: int = option(0, "Seed of its random start.", low=0)

    result = Curvature
