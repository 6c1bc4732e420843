"""The doctor: checks that a measured robust accuracy can be believed.

Most reported robustness that did not hold came from an attack that did not work: inputs outside [0,
1], probabilities instead of logits, vanishing gradients, a random network. Each check states what
it measured, and calls the number *unreliable*, gives a *warning*, or finds no fault, which is no
proof. Source: Carlini et al. 2019 (arXiv 1902.06705), AutoAttack's `checks.py` and, for the active
test, Zimmermann et al. 2022 (arXiv 2206.13991).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks import CW, PGD, Attack, Square
from robustviz.attacks.balls import BALLS
from robustviz.attacks.base import answers
from robustviz.attacks.objective import LogitObjective, input_gradient
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
from robustviz.nets.attackable import attackable, copied
from robustviz.registry import encode
from robustviz.stats import wilson
from robustviz.training.evaluation import Finding, attack_name
from robustviz.training.planted import Planted, plant
from robustviz.types import UserError

SLACK = 1e-6  # float32 rounding of x_adv − x
FEW = 2  # images by which a count may differ by chance
MANY = 50  # images from which an interval tells a network from one that guesses
SHARE = 0.05  # of the images, or of accuracy: larger differences are not chance
FOUND = 0.95  # share of the planted examples that an attack must find
AGREE = 0.5  # least median cosine of neighbouring gradients; shipped networks have .96 or more
WIDE = 16  # images that are attacked in float64 as well
AT_ONCE = 25  # images computed together: few, because images may be large
QUERIES = 200  # enough if a network only hides its gradient; else Square finds less than PGD
# Attacks that are weak by design, use no gradient, or are made to transfer. For them the doctor
# looks at PGD-20 instead.
NOT_WHITE = ("fgsm", "square", "mim", "dim", "tim")


@dataclass(frozen=True)
class Consult:
    """The result of `consult`: how many of the N images are still classified correctly under each
    of its attacks, which share only norm and ε with the attack that is judged. On a network without
    gradients, gradient attacks leave all images unchanged. `unbounded`: PGD-20 at an unlimited ε.

    `otherwise`: for how many of the first 16 images float64 and the network's own precision
    disagree on whether they are classified correctly, clean or under PGD-20 started at the image.
    `planted`: the examples of the active test; `found`: how many of them PGD-20 finds. None: not
    measured.
    """

    unbounded: int
    pgd20: int
    pgd60: int
    square: int | None  # Square supports linf only
    cw20: int | None = None
    otherwise: int | None = None
    found: int | None = None
    planted: Planted | None = field(default=None, compare=False, repr=False)


@torch.inference_mode(False)
def consult(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    seed: int = 0,
    tick: Callable[[], object] | None = None,
) -> Consult:
    """Run PGD-20 at an unlimited ε and, at the ε of `attack`, PGD-20, PGD-60, CW-20 and (for linf)
    Square, in the norm of `attack`, on `x` (N,C,H,W) in [0, 1] with labels `y`. Count the images
    that stay right, and measure the rest of a `Consult`. 100 images are enough. `tick` is called
    before each attack. Raises UserError as attacks do, and for no images or no ε.
    """
    eps, x, norm = _radius(attack, x), check_images(x), attack.norm
    with attackable(net, fused=False) as own:
        trial = try_out(own, x)
        y = check_labels(y, len(x), trial.classes, x)
        planted = plant(own, x, eps, norm, seed)
        otherwise = _otherwise(own, x[:WIDE], y[:WIDE], eps, attack) if trial.has_gradient else None

    def left(attacker: Attack) -> int:
        if tick:
            tick()
        rng = torch.Generator(device=x.device).manual_seed(seed)
        stuck = attacker.needs_gradient and not trial.has_gradient
        return _right(net, x if stuck else attacker(net, x, y, rng=rng), y)

    # Random noise of that size would fool any network, so this attack starts at the image.
    widest = 1.0 if norm == "linf" else float(x[0].numel()) ** 0.5
    pgd20 = PGD(eps=eps, steps=20, norm=norm)
    return Consult(
        unbounded=left(PGD(eps=widest, steps=20, norm=norm, start="zero")),
        pgd20=left(pgd20),
        pgd60=left(PGD(eps=eps, steps=60, norm=norm)),
        square=left(Square(eps=eps, queries=QUERIES, variant="paper")) if norm == "linf" else None,
        cw20=left(CW(eps=eps, steps=20, norm=norm)),
        otherwise=otherwise,
        found=planted.found(pgd20, seed) if planted else None,
        planted=planted,
    )


def _otherwise(net: nn.Module, x: Tensor, y: Tensor, eps: float, attack: Attack) -> int | None:
    """Returns for how many images float64 and the network's own precision disagree on correctness,
    clean or under PGD-20; None if the network cannot be copied or cannot compute in float64.
    """
    twin = copied(net)
    if twin is None:
        return None
    attacker = PGD(eps=eps, steps=20, norm=attack.norm, start="zero")
    verdicts = []
    try:
        for each, images in ((net, x), (twin.double(), x.double())):
            shown = torch.cat([images, attacker(each, images, y)])
            with attackable(each, fused=False) as own:
                verdicts.append((answers(own, shown, AT_ONCE) == y.repeat(2)).view(2, -1))
    except UserError:
        return None
    return int((verdicts[0] != verdicts[1]).any(dim=0).sum())


def _radius(attack: Attack, x: Tensor) -> float:
    """Returns the ε of `attack`. Raises UserError if it is None, or if `x` holds no images."""
    check_shape(x)
    if not x.numel():
        raise UserError(
            f"There are no images to check (shape {tuple(x.shape)}): pass at least one; 100 are"
            " enough."
        )
    if attack.eps is None:
        raise UserError(f"The attack {attack.key} has no eps; give one, e.g. attack.bound(8/255).")
    return attack.eps


def _pictures(x: Tensor) -> Tensor:
    """Returns images (N,C,H,W) detached, and in float32 if they had 16 bits. Their values are not
    checked: pixels outside [0, 1] are a finding of their own.
    """
    check_shape(x)
    x = plain_tensor(x)
    return x.float() if x.dtype in SIXTEEN else x


def _right(net: nn.Module, images: Tensor, y: Tensor) -> int:
    with attackable(net, fused=False) as own:
        return int((answers(own, images, AT_ONCE) == y).sum())


def _first_gradient(attack: Attack, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Returns the gradient (N,C,H,W) of the attack's objective at the clean images: it may contain
    NaN, and is 0 if the outputs do not depend on the pixels.
    """
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_(True)
        height = attack.objective(net, y)(z)
        return (
            torch.autograd.grad(height.sum(), z, materialize_grads=True)[0]
            if height.requires_grad
            else torch.zeros_like(z)
        )


@torch.no_grad()
def _agreement(attack: Attack, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Returns the cosine similarity (N,) of the margin loss's gradients at two random points, both
    within ε/4 of the image; 0 if there is no gradient.
    """
    rng = torch.Generator(device=x.device).manual_seed(0)
    objective = LogitObjective(net, losses.margin, y, AT_ONCE)
    ball = BALLS[attack.norm](x, float(attack.eps or 0) / 4)
    one, other = (input_gradient(objective, ball.random_start(rng)).flatten(1) for _ in range(2))
    return torch.cosine_similarity(one, other)


@torch.no_grad()
def _stopped(attack: Attack, net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> float:
    """Returns the share (0 to 1) of images that are still classified correctly under attack and
    either were not changed, or for which the attack's objective did not increase.
    """
    climbed = attack.objective(net, y)
    before, after = torch.cat([climbed(part) for part in (x, x_adv)]).split(len(x))
    still = (x_adv == x).flatten(1).all(dim=1) | ~(after > before)
    return float((still & (answers(net, x_adv, AT_ONCE) == y)).double().mean())


@dataclass(frozen=True, eq=False)
class Evidence:
    """The input of all checks: clean images `x` and attacked images `x_adv` (N,C,H,W), labels `y`,
    the `attack`, the network's `logits` (N,K) for `x` and those of a second pass (`again`), the
    `gradients` (N,D) of the attack's objective at `x`, the cosines `agree` (N,) of gradients at
    nearby points, the share `stopped` (see `_stopped`), the result of `consult`, how many images
    the attack called `name` leaves right (`white`; the judged attack, or PGD-20 if that is in
    `NOT_WHITE`), and how many planted examples the attack called `finder` has `found`.
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    attack: Attack
    logits: Tensor
    again: Tensor
    gradients: Tensor
    agree: Tensor
    stopped: float
    consult: Consult
    white: int
    name: str
    found: int | None
    finder: str


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
        gone <= SHARE,
        max(gone, broken),
        f"{gone:.0%} of the images have a zero gradient (above 5% the attack is unreliable)."
        + (
            f" {broken:.0%} have one with entries that are not numbers: the attack cannot step"
            " there."
            if broken
            else ""
        ),
        warning=broken > 0,
    )


def _shattered(seen: Evidence) -> Finding:
    agree = float(seen.agree.median())
    return Finding(
        "smoothness",
        agree >= AGREE,
        agree,
        f"Gradients at neighbouring points have a median cosine of {agree:.2f}; below {AGREE:g}"
        " an attack cannot follow them.",
    )


def _learned(seen: Evidence) -> Finding:
    n, most = len(seen.y), int(seen.y.bincount().max())
    right = int((seen.logits.argmax(dim=1) == seen.y).sum())
    nothing = right <= most + FEW or (n >= MANY and wilson(right, n)[0] <= most / n)
    return Finding(
        "learned",
        True,
        right / n,
        ("This network has learned nothing. " if nothing else "")
        + f"{right} of {n} images are right untouched."
        f" The largest class's share is {most / n:.0%}.",
        warning=nothing,
    )


def _deterministic(seen: Evidence) -> Finding:
    drift = float((seen.logits - seen.again).abs().max())
    return Finding(
        "deterministic",
        drift == 0,
        drift,
        f"The same images were shown twice: the outputs differ by at most {drift:.1e}.",
    )


def _unbounded(seen: Evidence) -> Finding:
    chance = int(seen.y.bincount().max()) / len(seen.y)
    right = seen.consult.unbounded / len(seen.y)
    return Finding(
        "unbounded",
        right <= chance + FEW / len(seen.y),
        right,
        f"With an unlimited perturbation {right:.0%} of the images stay right. A working attack"
        f" leaves at most {FEW} images more than the share of the largest class ({chance:.0%}).",
    )


def _more_steps(seen: Evidence) -> Finding:
    short, long = seen.consult.pgd20 / len(seen.y), seen.consult.pgd60 / len(seen.y)
    return Finding(
        "more steps",
        long <= short + FEW / len(seen.y),
        long - short,
        f"PGD-60 leaves {long:.0%} of the images right, PGD-20 {short:.0%}. With more steps at most"
        f" {FEW} images more may be right, which can be chance.",
    )


def _moved(seen: Evidence) -> Finding:
    # AutoAttack returns robust images as they were
    idle = seen.attack.key == "autoattack" or not seen.attack.eps
    return Finding(
        "moved",
        True,
        0.0 if idle else seen.stopped,
        "Not measured: AutoAttack returns images that it cannot fool unchanged, and at ε = 0"
        " nothing can change."
        if idle
        else f"{seen.stopped:.0%} of the images stay right, no nearer to an error than before."
        " More than 5% would mean that the attack stopped early.",
        warning=not idle and seen.stopped > SHARE,
    )


def _loss(seen: Evidence) -> Finding:
    cw = seen.consult.cw20
    if cw is None:
        return Finding("loss", True, 0.0, "Not measured: the attack on the margin was not run.")
    lost = (seen.white - cw) / len(seen.y)
    return Finding(
        "loss",
        True,
        lost,
        f"CW-20, which maximises the margin loss, leaves {cw} images right, {seen.name} leaves"
        f" {seen.white}. Five percentage points fewer are a warning.",
        warning=lost >= SHARE,
    )


def _precision(seen: Evidence) -> Finding:
    few, other = min(len(seen.y), WIDE), seen.consult.otherwise
    return Finding(
        "float64",
        True,
        float(other or 0),
        "Not measured: this network does not compute in float64."
        if other is None
        else f"{other} of {few} images get another result in float64, untouched or under PGD-20.",
        warning=(other or 0) > FEW,
    )


def _active(seen: Evidence) -> Finding:
    planted, found = seen.consult.planted, seen.found
    if planted is None or found is None:
        return Finding(
            "active test",
            True,
            0.0,
            "Not measured: within ε there are too few adversarial examples that one step misses.",
        )
    n = len(planted.x)
    low, high = wilson(found, n)
    return Finding(
        "active test",
        found >= FOUND * n,
        found / n,
        f"{seen.finder} finds {found} of {n} planted examples; {FOUND:.0%} must be found. Wilson's"
        f" 95% interval is {low:.0%} to {high:.0%}.",
    )


def _black_box(seen: Evidence) -> Finding:
    square = seen.consult.square
    if square is None:
        return Finding(
            "black-box",
            True,
            0.0,
            "Not measured: Square, the gradient-free attack, supports only linf.",
        )
    return Finding(
        "black-box",
        square >= seen.white - FEW,
        (square - seen.white) / len(seen.y),
        f"Square, a gradient-free attack with {QUERIES} queries, leaves {square} of {len(seen.y)}"
        f" right, {seen.name} {seen.white}. Up to {FEW} fewer can be chance.",
    )


# In the order in which findings are listed.
CHECKS: tuple[Callable[[Evidence], Finding], ...] = (
    _budget,
    _range,
    _logits,
    _gradients,
    _shattered,
    _deterministic,
    _learned,
    _moved,
    _loss,
    _precision,
    _unbounded,
    _more_steps,
    _active,
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
    tick: Callable[[], object] | None = None,
) -> tuple[Finding, ...]:
    """Returns the findings of `CHECKS`, in their order, on images `x` (N,C,H,W), attacked `x_adv`,
    labels `y` (N,) below `classes`. `attack` must have its ε. `consulted`: the result of `consult`
    for this network, images, norm and ε; None: run it with `seed` and `tick`. Raises UserError for
    unsuitable images, labels or outputs.
    """
    _, classes = _radius(attack, x), whole(classes, "classes")
    x, x_adv = _pictures(x), _pictures(x_adv)
    if x.shape != x_adv.shape or x.device != x_adv.device:
        raise UserError(
            f"Attacked images of shape {tuple(x_adv.shape)} on {x_adv.device} do not match"
            f" images of shape {tuple(x.shape)} on {x.device}: pass the same images before and"
            " after the attack."
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
        agree = _agreement(attack, own, x, y)
        stopped = _stopped(attack, own, x, x_adv, y)
    told, weak = consulted or consult(net, x, y, attack, seed, tick), attack.key in NOT_WHITE
    name = attack_name(encode(attack), classes)
    # Alone, a weak attack takes the active test itself; on a ladder (`consulted`) PGD-20 does.
    own_test = not (weak and consulted)
    found = told.planted.found(attack, seed) if told.planted and own_test else told.found
    seen = Evidence(
        x=x,
        x_adv=x_adv,
        y=y,
        attack=attack,
        logits=logits,
        again=again,
        gradients=gradients,
        agree=agree,
        stopped=stopped,
        consult=told,
        white=told.pgd20 if weak else _right(net, x_adv, y),
        name="PGD-20" if weak else name,
        found=found,
        finder=name if own_test else "PGD-20",
    )
    return tuple(check(seen) for check in CHECKS)
