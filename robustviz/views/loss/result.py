"""What the question *loss* gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import Bools, Floats, Ints
from robustviz.types import UserError
from robustviz.views.result import Result


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
            raise UserError(
                "There is no witness, so there is no soft label to measure the loss to: choose the"
                " true class, or name a witness."
            )
        return self.soft if target == "soft" else self.hard

    @property
    def middle(self) -> int:
        """The index of the image itself in `a` and in `b`."""
        return len(self.a) // 2


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
