"""Before a robust number is believed: what could have gone wrong, measured.

Most reported robustness that did not hold was an attack that did not work: inputs outside [0, 1],
probabilities instead of logits, vanished gradients, a random network. Each check states what it
measured; passing all of them is no proof. Source: Carlini et al. 2019 (arXiv 1902.06705) and
AutoAttack's `checks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustviz.attacks import PGD, Attack, Square
from robustviz.attacks.base import answers
from robustviz.inputs import (
    SIXTEEN,
    check_images,
    check_labels,
    check_shape,
    logits_of,
    plain_tensor,
    try_out,
)
from robustviz.measures import whole
from robustviz.nets.attackable import attackable
from robustviz.registry import encode
from robustviz.training.evaluation import Finding, attack_name
from robustviz.types import UserError

SLACK = 1e-6  # x + (x_adv − x) is off by an ulp in float32
FEW = 2  # images by which a count may differ by chance
AT_ONCE = 25  # images computed together: the doctor is in no hurry, and they may be large
# a net that only hides its gradient falls to them; one that does not loses fewer images than to PGD
QUERIES = 200
# weak by construction, without gradients, or made to transfer: PGD-20 speaks for them
NOT_WHITE = ("fgsm", "square", "mim", "dim", "tim")


@dataclass(frozen=True)
class Consult:
    """What the doctor's own attacks leave right of the N images it looks at: it does not depend on
    the attack judged.
    """

    unbounded: int
    pgd20: int
    pgd60: int
    square: int | None  # Square knows linf only


@torch.inference_mode(False)
def consult(net: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int = 0) -> Consult:
    """The doctor's own attacks on `x` (N,C,H,W) with labels `y`, in the norm and at the ε of
    `attack`: PGD without a limit, PGD-20, PGD-60 and Square. 100 images tell enough. Raises
    UserError as attacks do, and for no images.
    """
    eps, x = _radius(attack, x), check_images(x)
    with attackable(net, fused=False) as own:
        y = check_labels(y, len(x), try_out(own, x).classes, x)

    def left(attacker: Attack) -> int:
        rng = torch.Generator(device=x.device).manual_seed(seed)
        return _right(net, attacker(net, x, y, rng=rng), y)

    # Noise of that size would fool any net by itself, so this one starts at the image.
    widest = 1.0 if attack.norm == "linf" else float(x[0].numel()) ** 0.5
    return Consult(
        unbounded=left(PGD(eps=widest, steps=20, norm=attack.norm, start="zero")),
        pgd20=left(PGD(eps=eps, steps=20, norm=attack.norm)),
        pgd60=left(PGD(eps=eps, steps=60, norm=attack.norm)),
        square=(
            left(Square(eps=eps, queries=QUERIES, variant="paper"))
            if attack.norm == "linf"
            else None
        ),
    )


def _radius(attack: Attack, x: Tensor) -> float:
    """The ε of `attack`. Raises UserError where there is none, and where `x` is no batch of images
    or an empty one.
    """
    check_shape(x)
    if not x.numel():
        raise UserError(
            f"The doctor was given no images, shape {tuple(x.shape)}: take one or more, 100 tell"
            " enough."
        )
    if attack.eps is None:
        raise UserError(f"The attack {attack.key} has no eps; give one, e.g. attack.bound(8/255).")
    return attack.eps


def _pictures(x: Tensor) -> Tensor:
    """Images (N,C,H,W) in float32 or wider, which need not lie in [0, 1]: whether they do is a
    finding.
    """
    check_shape(x)
    x = plain_tensor(x)
    return x.float() if x.dtype in SIXTEEN else x


def _right(net: nn.Module, images: Tensor, y: Tensor) -> int:
    with attackable(net, fused=False) as own:
        return int((answers(own, images, AT_ONCE) == y).sum())


def _first_gradient(attack: Attack, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient that the attack starts with, as it is: with NaN, and 0 where the outputs do not
    depend on the pixels.
    """
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_(True)
        height = attack.objective(net, y)(z)
        return (
            torch.autograd.grad(height.sum(), z, materialize_grads=True)[0]
            if height.requires_grad
            else torch.zeros_like(z)
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the checks look at: images before (N,C,H,W) and after the `attack`, their labels, the
    net's `logits` (N,K) and what it says to the same images `again`, the gradients (N,D) that the
    attack starts with, how many images the doctor's own attacks leave right, and how many the
    strongest attack by gradients does (`white`, by `name`).
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    attack: Attack
    logits: Tensor
    again: Tensor
    gradients: Tensor
    consult: Consult
    white: int
    name: str


def _budget(seen: Evidence) -> Finding:
    eps, delta = float(seen.attack.eps or 0), (seen.x_adv - seen.x).flatten(1)
    size = float((delta.abs() if seen.attack.norm == "linf" else delta.norm(dim=1)).amax())
    return Finding(
        "budget",
        size <= eps + SLACK,
        size,
        f"Largest change measured {size:.4f}, allowed {eps:.4f}.",
    )


def _range(seen: Evidence) -> Finding:
    low = float(torch.minimum(seen.x.min(), seen.x_adv.min()))
    high = float(torch.maximum(seen.x.max(), seen.x_adv.max()))
    return Finding(
        "range",
        low >= 0 and high <= 1,
        high,
        f"Pixels from {low:.3f} to {high:.3f}, allowed 0 to 1.",
    )


def _logits(seen: Evidence) -> Finding:
    sums = seen.logits.sum(dim=1)
    shares = bool((seen.logits >= 0).all() and (sums - 1).abs().max() < 1e-3)
    return Finding(
        "logits",
        not shares,
        float(sums.mean()),
        "Outputs are probabilities, not logits: gradients vanish."
        if shares
        else "Outputs are logits, not probabilities.",
    )


def _gradients(seen: Evidence) -> Finding:
    broken = float((~seen.gradients.isfinite()).any(dim=1).double().mean())
    gone = float((seen.gradients.nan_to_num(0, 0, 0) == 0).all(dim=1).double().mean())
    return Finding(
        "gradients",
        gone <= 0.05 and not broken,
        max(gone, broken),
        f"{gone:.0%} of the images have a zero gradient (more than 5 % hides weakness)"
        + (
            f", and {broken:.0%} one with entries that are not numbers, where the attack cannot"
            " step."
            if broken
            else "."
        ),
    )


def _deterministic(seen: Evidence) -> Finding:
    drift = float((seen.logits - seen.again).abs().max())
    return Finding(
        "deterministic", drift == 0, drift, f"The same images twice: outputs differ by {drift:.1e}."
    )


def _unbounded(seen: Evidence) -> Finding:
    chance = int(seen.y.bincount().max()) / len(seen.y)
    right = seen.consult.unbounded / len(seen.y)
    return Finding(
        "unbounded",
        right <= chance + FEW / len(seen.y),
        right,
        f"With no limit on the change {right:.0%} stay right; a working attack leaves at most"
        f" chance ({chance:.0%}).",
    )


def _more_steps(seen: Evidence) -> Finding:
    short, long = seen.consult.pgd20 / len(seen.y), seen.consult.pgd60 / len(seen.y)
    return Finding(
        "more steps",
        long <= short + FEW / len(seen.y),
        long - short,
        f"PGD-60 leaves {long:.0%}, PGD-20 {short:.0%}: more steps must not help the defender.",
    )


def _black_box(seen: Evidence) -> Finding:
    square = seen.consult.square
    if square is None:
        return Finding(
            "black-box",
            True,
            0.0,
            "Not measured: Square, the attack without gradients, knows linf only.",
        )
    return Finding(
        "black-box",
        square >= seen.white - FEW,
        (square - seen.white) / len(seen.y),
        f"Square with {QUERIES} queries and no gradient leaves {square} of {len(seen.y)},"
        f" {seen.name} {seen.white}: it must not find more.",
    )


# In the order in which findings are told.
CHECKS: tuple[Callable[[Evidence], Finding], ...] = (
    _budget,
    _range,
    _logits,
    _gradients,
    _deterministic,
    _unbounded,
    _more_steps,
    _black_box,
)


@torch.inference_mode(False)
def examine(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    attack: Attack,
    classes: int,
    seed: int = 0,
    consulted: Consult | None = None,
) -> tuple[Finding, ...]:
    """The findings on one evaluation: `x` (N,C,H,W) clean and `x_adv` attacked images with labels
    `y`.

    `attack` must have its ε. `consulted`: what `consult` found on the same net, images, norm and ε,
    where that is known. Raises UserError for no images, for images or labels of another kind, and
    for a network that gives no logits.
    """
    _, classes = _radius(attack, x), whole(classes, "classes")
    x, x_adv = _pictures(x), _pictures(x_adv)
    if x.shape != x_adv.shape or x.device != x_adv.device:
        raise UserError(
            f"Attacked images of shape {tuple(x_adv.shape)} on {x_adv.device} do not belong to"
            f" images of shape {tuple(x.shape)} on {x.device}: hand in the same images before and"
            " after."
        )
    parts = x.split(AT_ONCE)
    with attackable(net, fused=False) as own:
        with torch.no_grad():
            logits, again = (torch.cat([logits_of(own, part) for part in parts]) for _ in range(2))
        y = check_labels(y, len(x), min(classes, logits.shape[1]), x)
        gradients = torch.cat(
            [
                _first_gradient(attack, own, *pair)
                for pair in zip(parts, y.split(AT_ONCE), strict=True)
            ]
        ).flatten(1)
    consulted = consulted or consult(net, x, y, attack, seed)
    white, name = (
        (consulted.pgd20, "PGD-20")
        if attack.key in NOT_WHITE
        else (_right(net, x_adv, y), attack_name(encode(attack), classes))
    )
    seen = Evidence(x, x_adv, y, attack, logits, again, gradients, consulted, white, name)
    return tuple(check(seen) for check in CHECKS)
