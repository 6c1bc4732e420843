"""Specs and results of the Loss page's probes, without torch: soft labels, loss surfaces, input
gradients and curvature.
"""

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
    "There is no witness, so there is no soft label to compute a loss to: choose the loss to"
    " the true class, or name a witness."
)
REFINE_HELP = (
    "Compute every fourth point, and more points only where the surface bends; interpolate the"
    " rest and measure the interpolation error."
)


@dataclass(frozen=True)
class SoftLabels(Result):
    """One image's logits, clean and attacked, and the temperature of its soft labels.

    `logits`, `logits_adv` (K,): the logits of the clean image, and of the image attacked at radius
    `eps`; `y`: the true class; `temperature`: T.
    """

    logits: Floats
    logits_adv: Floats
    y: int
    temperature: float
    eps: float

    @property
    def probs(self) -> Floats:
        """softmax(logits/T) of the clean image, (K,)."""
        return soft_label(self.logits, self.temperature)

    @property
    def probs_adv(self) -> Floats:
        """softmax(logits/T) of the attacked image, (K,)."""
        return soft_label(self.logits_adv, self.temperature)


@register("probe/soft_labels")
@dataclass(frozen=True)
class SoftLabelsSpec(ProbeSpec[SoftLabels]):
    """Softmax outputs of one test image at temperature T, clean and under PGD.

    PGD attacks the run's own network.
    """

    index: int = option(0, "Index of the test image, counted from 0.", low=0, kind="image")
    temperature: float = option(
        4.0,
        "Temperature T, by which the logits are divided before the softmax; 1 changes nothing.",
        low=0.1,
        high=100,
    )
    eps: float | None = option(
        None,
        "Radius ε of the attack, for pixels in [0, 1]; empty: the run's ε (the data's after l2"
        " training).",
        low=0,
        kind="radius",
    )
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's random start.", low=0)

    result = SoftLabels
    cacheable = False


def soft_label(logits: Floats, temperature: float) -> Floats:
    """softmax(logits/T) over the last axis, in float64."""
    raised = np.asarray(logits, dtype=np.float64) / temperature
    raised = np.exp(raised - raised.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def median_interval(values: Floats) -> tuple[float, float, float]:
    """The median of `values` (n,) and the two ends, low and high, of its interval of at least 95%.
    The ends are two of the values. With fewer than six values the interval spans all of them, and
    its level is below 95%. Raises IndexError for no values.

    Source: order statistics, the interval of the sign test. The number of values below the median
    is binomial, so the interval holds for any distribution; with a long tail, Student's interval of
    the mean can reach below all values.
    """
    found, n = np.sort(values), len(values)
    # below / 2^n is the chance that at most k values lie below the median; integers are exact
    below, k = 1, 0
    while 40 * (below + math.comb(n, k + 1)) <= 2**n:
        k += 1
        below += math.comb(n, k)
    return float(np.median(found)), float(found[k]), float(found[n - 1 - k])


def entropy(p: Floats) -> float:
    """−Σ p·log p of a distribution (K,), in nats: 0 (sure of one class) to log K."""
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum())


def divergence(p: Floats, q: Floats) -> float:
    """KL(p ‖ q) of two distributions (K,), in nats; finite, because probabilities below 1e-300
    count as 1e-300.
    """
    return float((p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300)))).sum())


@dataclass(frozen=True)
class Surface(Result):
    """The loss of one network on a plane through one image. Row i and column j stand for the image
    x + aᵢ·d + bⱼ·r.

    `x`, `d`, `r` (C,H,W): the image in [0, 1], the adversarial and the random direction, both with
    entries in [−1, 1]. `a`, `b` (G,): steps along d and r in pixel units; the middle one is exactly
    0. Points are not clipped to [0, 1], so that the plane is flat. `y`: the true class. `hard`
    (G,G): cross-entropy with y. `soft` (G,G): T²·KL(q ‖ softmax(logits/T)), where q = `label` (K,)
    is the witness's softmax output at T for the clean image; `soft` and `label` are empty without a
    witness. `pred` (G,G): the predicted classes. `eps`: the run's ε, or its data's default ε if it
    was trained in l2.

    With the option `refine`, some points are interpolated. Then `meta["refined"]` says which points
    were computed (`where`, to be read with `evaluation.unpack`), and how large the interpolation
    errors of `hard` and `soft` are at most (`error`), measured at up to 64 points.
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
        """The field `soft` (G,G) if `target` is `soft`, else `hard`. Raises UserError for `soft` if
        the surface was measured without a witness.
        """
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
    """The loss on a plane through a test image, for the true class and for a soft label as target.

    The plane holds x + a·d + b·r for a and b from −`span` to `span`. d is computed on the
    `reference` network, so that several networks can be compared on the same plane: the sign of the
    gradient of its cross-entropy at x (sign(0) = 0), or with `direction=pgd` the perturbation of 20
    PGD steps that start at x, divided by the reference's ε. r is ±1 at random, the same for every
    network. The soft label is that of the `witness`.
    """

    index: int = option(0, "Index of the test image, counted from 0.", low=0, kind="image")
    grid: int = option(21, "Number of grid points along each direction (odd).", low=3, high=101)
    span: float | None = option(
        None,
        "Extent of the plane on each side of the image, for pixels in [0, 1]; empty: twice the"
        " run's ε (the data's after l2 training).",
        low=0,
        high=1,
        kind="radius",
    )
    temperature: float | None = option(
        None,
        "Temperature T of the soft label; empty: that of the run's alignment, or 4 if it is"
        " not aligned.",
        low=0.1,
        high=100,
    )
    direction: Literal["sign", "pgd"] = option(
        "sign",
        "The adversarial direction: the sign of the gradient, or the perturbation that PGD finds.",
    )
    seed: int = option(0, "Seed of the random direction.", low=0)
    reference: str = option(
        "",
        "Run on whose network the adversarial direction is computed; empty: the source of an"
        " aligned run, otherwise the run itself.",
        kind="run",
    )
    witness: str = option(
        "",
        "Run whose soft label is the target; empty: the witness of an aligned run, otherwise none.",
        kind="run",
    )
    refine: bool = option(False, REFINE_HELP)

    result = Surface
    cacheable = False


@dataclass(frozen=True)
class WorstDirection(Result):
    """The predictions of a network on a plane through one image. Row i and column j stand for the
    image x + aᵢ·d + bⱼ·r, clipped to [0, 1], so that each is a valid image. Here x has pixels in
    [0, 1], d is the perturbation that PGD found, divided by ε, and r is ±1 at random.

    `x` (C,H,W) uint8: 255·x. `d` (C,H,W) int8: 127·d, rounded. r is not stored. `a`, `b` (G,) in
    pixel units: `a` from −ε to 2ε, `b` from −1.5ε to 1.5ε. `odds` (G,G): log((1 − p)/p), where p is
    the probability of the true class `y`; the loss is log(1 + exp(odds)). `margin` (G,G):
    log-softmax of y minus the largest log-softmax of another class, positive where the prediction
    is right. `line` (L,K): log-softmax of the image moved by 0, 1, 2 … grey levels (1/255) along d
    and clipped, up to 2ε. `label` and `logp` are for the loss with soft labels and empty without a
    witness, the network that gives these labels: `label` (K,) is the witness's log-softmax for the
    clean image, `logp` (G,G,K) this network's log-softmax on the plane.
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
        """The image moved by `level` grey levels along d and clipped, (C,H,W) in [0, 1]."""
        return np.clip(self.x / 255 + level / 255 * (self.d / 127), 0, 1)

    @property
    def answers(self) -> Ints:
        """The predicted class (L,) of each image in `line`, after 0, 1, 2 … grey levels along d."""
        return np.asarray(self.line.argmax(axis=1))

    @property
    def change(self) -> int | None:
        """The smallest number of grey levels along d at which the prediction is wrong (0: already
        for the image itself); None if it is right for every image in `line`.
        """
        wrong = np.flatnonzero(self.answers != self.y)
        return int(wrong[0]) if len(wrong) else None

    def soft(self, temperature: float) -> Floats:
        """T²·KL(q ‖ softmax(logits/T)) on the plane, (G,G), where q is the witness's soft label at
        T. Raises UserError without a witness.
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
    """Predictions on a plane through a test image, along the network's worst direction.

    The plane holds x + a·d + b·r, clipped to [0, 1], for a from −ε to 2ε and b from −1.5ε to 1.5ε.
    d is the perturbation of 20 PGD steps from a zero start, divided by ε, on the run's own network
    or on `reference`. r is ±1 at random, the same for every network.
    """

    index: int = option(0, "Index of the test image, counted from 0.", low=0, kind="image")
    eps: float | None = option(
        None,
        "Radius ε, for pixels in [0, 1]; empty: the run's ε (the data's after l2 training).",
        low=0,
        high=1,
        kind="radius",
    )
    grid: int = option(
        25, "Number of grid points along each direction: a multiple of 6, plus 1.", low=7
    )
    seed: int = option(0, "Seed of the random direction.", low=0)
    reference: str = option(
        "",
        "Run on whose network the adversarial direction is computed; empty: the run itself.",
        kind="run",
    )
    witness: str = option("", "Run whose soft label is a target; empty: none.", kind="run")

    result = WorstDirection


def first_screen(index: int, eps: float) -> tuple[ProbeSpec[WorstDirection], ...]:
    """The specs that the Loss page's first screen measures on networks A and B, for one image and
    the radius `eps`: a tuple of one.
    """
    return (WorstDirectionSpec(index=index, eps=eps),)


@dataclass(frozen=True)
class WeightSurface(Result):
    """The mean cross-entropy of `n` images around the weights w of a network. Row i and column j
    stand for the weights w + aᵢ·u + bⱼ·v.

    `a`, `b` (G,): the steps along u and v; the middle one is exactly 0. At step 1 each filter moves
    by its own norm; biases and batch norm do not move. `loss` (G,G): the mean cross-entropy. With
    the option `refine`, `meta["refined"]` is as in `Surface`, and its `error` is in log₁₀ of the
    loss.
    """

    a: Floats
    b: Floats
    loss: Floats
    n: int


@register("probe/weight_surface")
@dataclass(frozen=True)
class WeightSurfaceSpec(ProbeSpec[WeightSurface]):
    """The mean cross-entropy of the first `n` test images as the weights move.

    The weights are w + a·u + b·v, where u and v are two filter-normalised directions. Batch norm
    keeps its running statistics. u and v are drawn one after the other from one generator, so
    networks of the same architecture get the same random numbers, each scaled to its own weights.
    """

    n: int = option(128, "How many test images.", low=1)
    grid: int = option(21, "Number of grid points along each direction (odd).", low=3, high=101)
    span: float = option(
        1.0, "Extent of the surface; at 1 each filter moves by its own norm.", low=0.001, high=10
    )
    seed: int = option(0, "Seed of the two directions.", low=0)
    refine: bool = option(False, REFINE_HELP)

    result = WeightSurface


@dataclass(frozen=True)
class Gradients(Result):
    """The gradient of the cross-entropy with respect to the pixels, for each image of `index` (n,).

    `norm` (n,): its ℓ2 norm. `share` (n,): the fraction of Σ|gradient| that lies on the true
    object. `area` (n,): the fraction of the image that the object covers, which is the share of an
    evenly spread gradient. `share` and `area` are empty where the data has no masks. `cosine`
    (T,n): cosine with the gradients of the runs `targets` (T).
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
    """Input gradients of the first `n` test images: norm, share on the object, cosines.

    These are gradients of the cross-entropy with respect to the pixels. Their share on the true
    object needs data with masks; their cosines are with the gradients of other networks.
    """

    n: int = option(200, "How many test images.", low=2)
    targets: str = option(
        "",
        "Comma-separated runs whose gradients are compared; empty: the witness of an aligned"
        " run, and the shipped ordinary networks that were not used to train this run.",
        kind="runs",
    )

    result = Gradients


@dataclass(frozen=True)
class Curvature(Result):
    """The eigenvalue of largest absolute value of the loss's Hessian with respect to the pixels,
    for each image of `index` (n,).

    `eigenvalue` (n,): λ, with its sign. `residual` (n,): ‖Hv − λv‖/|λ| at the end; some exact
    eigenvalue lies within residual·|λ| of λ. λ is measured on a copy of the network in which
    softplus replaces each ReLU (`curvature.smoothed`); `same` (n,): whether the copy predicts the
    same class as the network.
    """

    index: Ints
    eigenvalue: Floats
    residual: Floats
    same: Bools


def smoothing(result: Curvature) -> str:
    """A sentence that says whether λ was measured on a copy with softplus for each ReLU or on the
    network itself.
    """
    beta, relus = result.meta["beta"], result.meta.get("relus")
    if relus == 0:
        return "The network has no ReLU, so it was measured unchanged."
    each = "each ReLU" if relus is None else f"each of its {relus} ReLUs"
    return f"For this measurement, softplus with β = {beta:g} replaces {each}."


@register("probe/curvature")
@dataclass(frozen=True)
class CurvatureSpec(ProbeSpec[Curvature]):
    """The top Hessian eigenvalue of the loss, with its sign, for the first `n` test images.

    It is the eigenvalue of largest absolute value of the Hessian of the cross-entropy with respect
    to the pixels, measured in float64 on a copy in which softplus with β = `beta` replaces each
    ReLU, if there is any. Curvature grows with β, so compare only values of the same β.
    """

    n: int = option(50, "How many test images.", low=2)
    iterations: int = option(
        20,
        "Steps of the Lanczos iteration, each a product of the Hessian and a vector.",
        low=1,
        high=1000,
    )
    beta: float = option(
        10.0, "β of the softplus that replaces each ReLU of the network.", low=10, high=1000
    )
    seed: int = option(0, "Seed of the random start vector of the Lanczos iteration.", low=0)

    result = Curvature
