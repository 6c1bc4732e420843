"""The loss around an image and around a network's weights, on two-dimensional slices of very
high-dimensional spaces. Slices of different networks are comparable because they share directions
and scale. A slice shows nothing of the space outside it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import losses, registry
from robustviz.attacks import PGD
from robustviz.inputs import in_parts
from robustviz.methods import ModelAlignment
from robustviz.nets import Classifier, frozen
from robustviz.runs.folder import Run
from robustviz.stats import Floats, Ints
from robustviz.types import JSON, UserError, check_eps, eps_text
from robustviz.views.loss.curvature import cross_entropy, gradient
from robustviz.views.loss.refined import refined
from robustviz.views.loss.result import (
    Surface,
    SurfacesSpec,
    WeightSurface,
    WeightSurfaceSpec,
    WorstDirection,
    WorstDirectionSpec,
)
from robustviz.views.measure import image_of, images_of, meta_of, net_of, probe, radius
from robustviz.views.transfer.probe import logits_of, relatives, trained_alike


def ticks(grid: int, span: float) -> Tensor:
    """The coordinates (grid,) of grid points, float64, in equal steps from −span to span, the
    middle one exactly 0. Raises UserError for an even number of points.
    """
    if grid % 2 == 0:
        raise UserError(
            f"grid={grid} has no middle point for the untouched image or the trained weights:"
            f" use an odd number, such as {grid + 1}.",
            code=2,
        )
    half = grid // 2
    return torch.arange(-half, half + 1, dtype=torch.float64) / half * span


def plane(net: nn.Module, x: Tensor, d: Tensor, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Logits (A,B,K) of the images x + aᵢ·d + bⱼ·r, in eval mode. `x`, `d`, `r` are (C,H,W), `a` is
    (A,), `b` is (B,). Pixels are not clipped.
    """
    return moved_images(net, x, d, r, a.repeat_interleave(len(b)), b.repeat(len(a))).view(
        len(a), len(b), -1
    )


def moved_images(
    net: nn.Module,
    x: Tensor,
    d: Tensor,
    r: Tensor,
    a: Tensor,
    b: Tensor,
    low: float = -math.inf,
    high: float = math.inf,
) -> Tensor:
    """Logits (P,K) of the images x + aₚ·d + bₚ·r, in eval mode. `x`, `d`, `r` are (C,H,W), `a` and
    `b` are (P,). Pixels are clipped to `low` and `high`, by default not at all.
    """
    a, b = (side.to(x)[:, None, None, None] for side in (a, b))
    with frozen(net), torch.no_grad():
        # The images are made batch by batch: all of them at once are larger than the processor's
        # cache, and allocating that memory takes longer than filling it.
        size = len(in_parts(x.expand(len(a), *x.shape))[0]) if len(a) else 1
        return torch.cat(
            [
                net((x + along * d + across * r).clamp(low, high))
                for along, across in zip(torch.split(a, size), torch.split(b, size), strict=True)
            ]
        )


def moved_weights(
    net: nn.Module,
    u: dict[str, Tensor],
    v: dict[str, Tensor],
    a: Tensor,
    b: Tensor,
    x: Tensor,
    y: Tensor,
) -> Tensor:
    """The mean cross-entropy (P,) float64 of images `x` (N,C,H,W) with labels `y` (N,) at the
    weights w + aₚ·u + bₚ·v, in eval mode.

    `u` and `v` map the name of each parameter to its direction; `a`, `b` are (P,). The weights
    change in a copy, because other threads use the network at the same time.
    """
    own = copy.deepcopy(net)
    named = {
        name: weight.data
        for name, weight in own.named_parameters()
        if u[name].any() or v[name].any()
    }
    weights, start = list(named.values()), [weight.clone() for weight in named.values()]
    along, across = ([side[name] for name in named] for side in (u, v))
    loss = torch.zeros(len(a), dtype=torch.float64, device=x.device)
    with frozen(own), torch.no_grad():
        for at, (i, j) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
            # Each point starts from the original weights: steps that build on each other would
            # accumulate rounding errors, and the middle must be the network itself.
            torch._foreach_copy_(weights, start)
            torch._foreach_add_(weights, along, alpha=i)
            torch._foreach_add_(weights, across, alpha=j)
            loss[at] = F.cross_entropy(torch.cat([own(part) for part in in_parts(x)]), y)
    return loss


def rademacher(shape: tuple[int, ...], seed: int) -> Tensor:
    """A random float32 tensor of this shape whose entries are −1 or 1 with equal probability."""
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def losses_at(flat: Floats, y: Tensor, wanted: Tensor | None, temperature: float) -> Floats:
    """The losses of P images with logits `flat` (P,K): float32 (P,1) or (P,2), one row per image.
    The first column is the cross-entropy with the true class `y` (1,). If the witness's logits
    `wanted` (1,K) are given, there is a second column, T²·KL(softmax(wanted/T) ‖ softmax(flat/T))
    with T = `temperature`.
    """
    logits = torch.from_numpy(flat).float()
    columns = [
        F.cross_entropy(logits, y.expand(len(logits)), reduction="none"),
        *(
            [losses.kl_per_sample(wanted.expand(len(logits), -1), logits, temperature)]
            if wanted is not None
            else []
        ),
    ]
    return torch.stack(columns, dim=1).numpy()


def _shared(said: JSON) -> str:
    return (
        f"; {said['refined']['computed']} of {said['refined']['points']} points computed, the"
        " others interpolated"
        if said
        else ""
    )


def networks_of(run: Run, spec: SurfacesSpec) -> tuple[Run, Run | None]:
    """Returns (reference, witness): the runs named in the spec. If none is named, the reference is
    the source of an aligned `run`, else `run` itself, and the witness is that of an aligned `run`,
    else None. Raises UserError for a named run that does not exist or was trained on other images
    or classes, and where the source or the witness of an aligned `run` is missing and the spec does
    not name both.
    """
    # Not looked up if both are named, so that an aligned run whose source is gone can be shown.
    before, witness = relatives(run) if not (spec.reference and spec.witness) else (None, None)
    return (
        trained_alike(run, spec.reference, "reference") if spec.reference else before or run,
        trained_alike(run, spec.witness, "witness") if spec.witness else witness,
    )


@probe(SurfacesSpec)
def surfaces(run: Run, spec: SurfacesSpec) -> Surface:
    """Measure the run's loss on the plane through a test image along an adversarial and a random
    direction. Raises UserError for a span of 0 (also 2ε, the default, if ε is 0), an even grid, and
    where `image_of`, `networks_of` or `adversarial_direction` does.
    """
    split, x, y = image_of(run, spec.index)
    net, (reference, witness) = net_of(run), networks_of(run, spec)
    span = 2 * radius(run) if spec.span is None else spec.span
    if span == 0:
        raise UserError("A surface of span 0 is a single point: try 16/255.", code=2)
    temperature = spec.temperature or _temperature(run)
    d = adversarial_direction(reference, x, y, spec)
    r, a = rademacher(tuple(x.shape[1:]), spec.seed), ticks(spec.grid, span)
    wanted = None if witness is None else logits_of(net_of(witness), x)
    losses_of = partial(losses_at, y=y, wanted=wanted, temperature=temperature)
    said: JSON = {}
    if spec.refine:
        points = refined(
            lambda i, j: moved_images(net, x[0], d, r, a[i], a[j]).numpy(),
            lambda flat: np.sqrt(losses_of(flat).clip(0)),  # as the figure's colours are spaced
            spec.grid,
            spec.seed,
        )
        logits = points.values.astype(np.float32)
        said["refined"] = points.meta(
            ("hard", "soft"), losses_of(points.guess) - losses_of(points.found)
        )
    else:
        logits = plane(net, x[0], d, r, a, a).numpy()
    hard, *soft = (
        np.ascontiguousarray(each).reshape(spec.grid, -1)
        for each in losses_of(logits.reshape(spec.grid**2, -1)).T
    )
    return Surface(
        x=x[0].numpy(),
        d=d.numpy(),
        r=r.numpy(),
        a=a.numpy(),
        b=a.numpy(),
        y=int(y),
        hard=hard,
        soft=soft[0] if soft else np.zeros((0, 0), dtype=np.float32),
        label=(torch.zeros(0) if wanted is None else F.softmax(wanted[0] / temperature, 0)).numpy(),
        pred=logits.argmax(axis=2),
        eps=radius(run),
        meta=meta_of(
            run,
            split,
            span=span,
            temperature=temperature,
            reference=reference.id,
            witness=witness.id if witness else None,
            weights=run.weights,
            summary=f"{_heights(hard, a, radius(run), spec.index)}; adversarial direction"
            f" ({spec.direction}) from {reference.id}, random direction seed"
            f" {spec.seed}{_shared(said)}",
            **{name: getattr(spec, name) for name in ("index", "seed", "grid", "direction")},
            **said,
        ),
    )


def _temperature(run: Run) -> float:
    """The temperature of the soft labels with which a run was aligned; 4 for runs of other methods,
    even if they have a setting `temperature`, because that one belongs to a contrastive loss.
    """
    method = run.config.method
    return method.temperature if isinstance(method, ModelAlignment) else 4.0


def _heights(hard: Floats, a: Tensor, eps: float, index: int) -> str:
    """The cross-entropy at the image, its maximum over the points where both steps are at most ε,
    and its maximum over the whole plane, in words.
    """
    middle, inside = len(a) // 2, (a.abs() <= eps * (1 + 1e-6)).numpy()
    return (
        f"cross-entropy {float(hard[middle, middle]):.3f} at image {index}, up to"
        f" {float(hard[np.ix_(inside, inside)].max()):.3f} in the ε box (ε = {eps_text(eps)}) and"
        f" {float(hard.max()):.3f} within ±{eps_text(float(a[-1]))}"
    )


def adversarial_direction(reference: Run, x: Tensor, y: Tensor, spec: SurfacesSpec) -> Tensor:
    """The adversarial direction (C,H,W), with entries in [−1, 1], at an image `x` (1,C,H,W) of
    class `y` (1,), computed on the reference network as `spec.direction` says. With `pgd`, the
    radius is the reference's ε, or the data's default ε if it was trained in l2. Raises UserError
    if the loss has no gradient there, and for `pgd` if the radius is 0.
    """
    net = net_of(reference)
    if spec.direction == "pgd":
        if radius(reference) == 0:
            raise UserError(
                f"{reference.id} has ε = 0, so PGD cannot move the image: use direction=sign.",
                code=2,
            )
        along = pgd_direction(net, x, y, radius(reference))
    else:
        with frozen(net):
            along = gradient(cross_entropy(net, y), x)[0].sign()
    if not along.any():
        raise UserError(
            f"The loss of {reference.id} has no gradient at image {spec.index} (its output is"
            " saturated), so there is no adversarial direction: choose another image, or"
            " another reference."
        )
    return along


def pgd_direction(net: Classifier, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The perturbation of 20 linf PGD steps that start at the image `x` (1,C,H,W) of class `y`
    (1,), divided by `eps`: (C,H,W), entries in [−1, 1].
    """
    x_adv = PGD(eps=eps, start="zero", steps=20)(net, x, y, torch.Generator().manual_seed(0))
    return (x_adv - x)[0] / eps


def _slice_name(run: Run, spec: WorstDirectionSpec) -> str:
    """The cache key of a `WorstDirection`, which includes the hashes of the reference's and
    witness's weights.
    """

    def written(name: str, role: str) -> str:
        return f"{name}@{trained_alike(run, name, role).weights}" if name else ""

    return registry.key(
        replace(
            spec,
            reference=written(spec.reference, "reference"),
            witness=written(spec.witness, "witness"),
        )
    )


@probe(WorstDirectionSpec, name=_slice_name)
def worst_direction(run: Run, spec: WorstDirectionSpec) -> WorstDirection:
    """Compute the predictions on a plane through one image, along the network's worst direction.
    Raises UserError unless 0 < ε ≤ 1 and `spec.grid` − 1 is a multiple of 6, if PGD does not move
    the image, and where `image_of` or `trained_alike` does.
    """
    split, x, y = image_of(run, spec.index)
    eps = radius(run) if spec.eps is None else check_eps(spec.eps)
    if eps == 0 or spec.grid % 6 != 1:
        raise UserError(
            "The plane needs ε above 0 and a grid that is a multiple of 6, plus 1: for example"
            " ε = 8/255 and grid = 25.",
            code=2,
        )
    reference = trained_alike(run, spec.reference, "reference") if spec.reference else run
    witness = trained_alike(run, spec.witness, "witness") if spec.witness else None
    d = (pgd_direction(net_of(reference), x, y, eps) * 127).round()
    if not d.any():
        raise UserError(
            f"PGD does not move image {spec.index} on {reference.id} (its output is saturated),"
            " so there is no worst direction: choose another image."
        )
    a = torch.arange(-(spec.grid // 3), spec.grid - spec.grid // 3) / (spec.grid // 3) * eps
    result = WorstDirection(
        x=(x[0] * 255).round().byte().numpy(),
        d=d.to(torch.int8).numpy(),
        a=a.numpy(),
        b=(a - eps / 2).numpy(),
        y=int(y),
        eps=eps,
        **_around(net_of(run), x[0], int(y), d / 127, a, eps, spec.seed, witness is not None),
        label=np.zeros(0)
        if witness is None
        else logits_of(net_of(witness), x)[0].log_softmax(0).numpy(),
    )
    change, end = result.change, len(result.line) - 1
    said = f"stays right up to {end}" if change is None else f"changes at {change}"
    result.meta.update(
        meta_of(
            run,
            split,
            index=spec.index,
            seed=spec.seed,
            reference=reference.id,
            witness=witness.id if witness else None,
            weights=run.weights,
            summary=f"image {spec.index}, a {split.classes[int(y)]}: the prediction {said} grey"
            f" levels along the perturbation that 20 steps of PGD at ε = {eps_text(eps)}"
            f" find on {reference.id}",
        )
    )
    return result


def _around(
    net: Classifier, x: Tensor, y: int, d: Tensor, a: Tensor, eps: float, seed: int, whole: bool
) -> dict[str, Any]:
    """Computes the fields `odds`, `margin`, `logp` and `line` of a `WorstDirection` around the
    image `x` (C,H,W) of class `y`, along `d` (C,H,W) in [−1, 1] and the random direction of `seed`.
    `logp` is empty unless `whole`.
    """
    b, levels = a - eps / 2, torch.arange(math.floor(2 * eps * 255 + 1e-6) + 1) / 255
    along = torch.cat([a.repeat_interleave(len(b)), levels])
    across = torch.cat([b.repeat(len(a)), torch.zeros(len(levels))])
    logits = moved_images(net, x, d, rademacher(tuple(x.shape), seed), along, across, 0, 1)
    logp = logits.double().log_softmax(dim=1).clamp(min=-6e4).numpy()  # float16 ends at 65,504
    plane = logp[: -len(levels)].reshape(len(a), len(b), -1)
    rest = np.delete(plane, y, axis=2)
    return {
        "odds": (np.logaddexp.reduce(rest, axis=2) - plane[..., y]).astype(np.float16),
        "margin": (plane[..., y] - rest.max(axis=2)).astype(np.float16),
        "logp": plane.astype(np.float16) if whole else np.zeros((0, 0, 0)),
        "line": logp[-len(levels) :].astype(np.float32),
    }


def filter_normalised(net: nn.Module, rng: torch.Generator) -> dict[str, Tensor]:
    """Draw a random direction in weight space: a dict from parameter name to a tensor of the
    parameter's shape. In it, each filter or row has the norm of the network's own filter or row.

    Entries are Gaussian, and 0 for parameters of one dimension or none (biases, batch norm).
    Source: Li et al. 2018 (arXiv 1712.09913), section 4, and the authors' `net_plotter.py`.
    """
    out = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
    for name, weight in net.named_parameters():
        if weight.dim() > 1:
            drawn = torch.randn(weight.shape, generator=rng, dtype=weight.dtype)
            length = weight.detach().flatten(1).norm(dim=1) / (drawn.flatten(1).norm(dim=1) + 1e-10)
            out[name] = drawn * length.view(-1, *[1] * (weight.dim() - 1))
    return out


@probe(WeightSurfaceSpec)
def weight_surface(run: Run, spec: WeightSurfaceSpec) -> WeightSurface:
    """Measure the mean cross-entropy of the first `spec.n` test images as the network's weights
    move in two random directions. Raises UserError for an even grid.
    """
    a, split = ticks(spec.grid, spec.span), images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    net, rng = net_of(run), torch.Generator().manual_seed(spec.seed)
    u, v = filter_normalised(net, rng), filter_normalised(net, rng)
    loss, said = np.zeros((spec.grid, spec.grid)), JSON()

    def compute(i: Ints, j: Ints) -> Floats:
        loss[i, j] = moved_weights(net, u, v, a[i], a[j], few.x, few.y).numpy()
        return np.log10(np.maximum(loss[i, j], 1e-6))[:, None]  # log₁₀, as in the figure

    if spec.refine:
        points = refined(compute, lambda flat: flat, spec.grid, spec.seed)
        loss = np.where(points.computed, loss, 10 ** points.values[..., 0])
        said["refined"] = points.meta(("log10",), points.guess - points.found)
    else:
        compute(*np.divmod(np.arange(spec.grid**2), spec.grid))
    middle = spec.grid // 2
    return WeightSurface(
        a.numpy(),
        a.numpy(),
        loss,
        len(few),
        meta=meta_of(
            run,
            split,
            n=len(few),
            seed=spec.seed,
            span=spec.span,
            architecture=run.architecture,
            **said,
            summary=f"mean cross-entropy of {len(few)} images {float(loss[middle, middle]):.3f} at"
            f" the trained weights, {float(loss.min()):.3f} to {float(loss.max()):.3g} within"
            f" ±{spec.span:g} (two filter-normalised directions, seed {spec.seed}){_shared(said)}",
        ),
    )
