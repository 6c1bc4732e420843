"""The loss around an image and around a network's weights: two-dimensional slices through very
high-dimensional spaces.

Slices of different networks can be compared because they share their directions and their scale;
distances and valleys that a slice does not cut are not seen.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks import PGD
from robustviz.inputs import in_parts
from robustviz.nets import frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.stats import Floats, Ints
from robustviz.types import JSON, UserError, eps_text
from robustviz.views.loss.refined import refined
from robustviz.views.loss.result import Surface, WeightSurface
from robustviz.views.measure import Probe, image_of, images_of, linf_net, meta_of, net_of
from robustviz.views.transfer.probe import relatives

REFINE_HELP = (
    "Compute every fourth point, and finer ones only where the surface bends; the rest is"
    " interpolated and its error measured."
)


def ticks(grid: int, span: float) -> Tensor:
    """(grid,) float64 from −span to span in equal steps, the middle one exactly 0. Raises UserError
    for an even number.
    """
    if grid % 2 == 0:
        raise UserError(
            f"grid={grid} has no middle, where the untouched image or network stands: take an odd"
            f" number, {grid + 1} say.",
            code=2,
        )
    half = grid // 2
    return torch.arange(-half, half + 1, dtype=torch.float64) / half * span


def plane(net: nn.Module, x: Tensor, d: Tensor, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Logits (A,B,K) of the images x + aᵢ·d + bⱼ·r, in eval mode; `x`, `d`, `r` (C,H,W), `a` (A,),
    `b` (B,). Not clipped.
    """
    return moved_images(net, x, d, r, a.repeat_interleave(len(b)), b.repeat(len(a))).unflatten(
        0, (len(a), len(b))
    )


def moved_images(net: nn.Module, x: Tensor, d: Tensor, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Logits (P,K) of the images x + aₚ·d + bₚ·r, in eval mode; `x`, `d`, `r` (C,H,W), `a`, `b`
    (P,). Not clipped.
    """
    a, b = (side.to(x)[:, None, None, None] for side in (a, b))
    with frozen(net), torch.no_grad():
        # Made batch by batch: a plane of images is larger than the processor's cache, and
        # allocating it takes longer than filling it.
        size = len(in_parts(x.expand(len(a), *x.shape))[0]) if len(a) else 1
        return torch.cat(
            [
                net(x + along * d + across * r)
                for along, across in zip(a.split(size), b.split(size), strict=True)
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
    """The mean cross-entropy (P,) of images `x` (N,C,H,W), labels `y` (N,), at the weights w + aₚ·u
    + bₚ·v, in eval mode.

    `u`, `v`: directions by parameters' names; `a`, `b` (P,). Weights move in a copy: others use the
    network at the same time.
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
            torch._foreach_copy_(
                weights, start
            )  # never added up: rounding would, and the middle is to be the network itself
            torch._foreach_add_(weights, along, alpha=i)
            torch._foreach_add_(weights, across, alpha=j)
            loss[at] = F.cross_entropy(torch.cat([own(part) for part in in_parts(x)]), y)
    return loss


def rademacher(shape: tuple[int, ...], seed: int) -> Tensor:
    """±1 with equal chance, float32, the same for the same shape and seed."""
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def _largest(off: Tensor) -> float:
    return float(off.abs().max()) if len(off) else 0.0


def _shared(said: JSON) -> str:
    return (
        f"; {said['refined']['computed']} of {said['refined']['points']} points computed, the"
        " others interpolated"
        if said
        else ""
    )


def trained_alike(run: Run, name: str, role: str) -> Run:
    """The run that a setting names. Raises UserError where it was trained on other images or
    classes than `run`.
    """
    found = run.config.trained(name)
    if (found.data_key, found.shape, found.classes) != (run.data_key, run.shape, run.classes):
        raise UserError(
            f"The {role} {found.id} was trained on other images or classes than {run.id}: choose a"
            f" {role} trained on {run.data_key}."
        )
    return found


@register("probe/surfaces")
@dataclass(frozen=True)
class SurfacesSpec(Probe[Surface]):
    """The loss at x + a·d + b·r for a, b from −`span` to `span`, to the true class and to a
    witness's soft label.

    d is made on the `reference` network, so that several networks can be shown the same plane: the
    sign of the gradient of its cross-entropy at x (sign(0) = 0), or with `direction=pgd` its
    20-step PGD change over ε from a zero start. r is ±1 at random, the same for every network.
    """

    index: int = option(0, "Number of the test image.", low=0)
    grid: int = option(21, "Points along each direction, an odd number.", low=3, high=101)
    span: float | None = option(
        None, "How far the plane reaches, in pixel units; empty: twice the run's ε.", low=0, high=1
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
    )
    witness: str = option(
        "", "Run whose soft label is the target; empty: of an aligned run its witness, else none."
    )
    refine: bool = option(False, REFINE_HELP)

    result = Surface

    @property
    def cacheable(self) -> bool:
        return False

    def others(self, run: Run) -> tuple[Run, Run | None]:
        """(the reference, the witness or None). Raises UserError for one that was trained on other
        images.
        """
        # Asked only where it matters: an aligned run whose source is gone can still be shown with a
        # reference that is named.
        before, witness = relatives(run) if not (self.reference and self.witness) else (None, None)
        return (
            trained_alike(run, self.reference, "reference") if self.reference else before or run,
            trained_alike(run, self.witness, "witness") if self.witness else witness,
        )

    def measure(self, run: Run) -> Surface:
        split, x, y = image_of(run, self.index)
        net = linf_net(run)
        reference, witness = self.others(run)
        span = 2 * run.eps if self.span is None else self.span
        if span == 0:
            raise UserError(
                "A surface of span 0 is a point: choose a larger span, 16/255 say.", code=2
            )
        temperature = self.temperature or float(
            getattr(run.config.method, "temperature", 4.0) or 4.0
        )
        d, r, a = (
            self._adversarial(reference, x, y),
            rademacher(tuple(x.shape[1:]), self.seed),
            ticks(self.grid, span),
        )
        wanted = None
        if witness is not None:
            with frozen(net_of(witness)), torch.no_grad():
                wanted = net_of(witness)(x)

        def losses_of(logits: Tensor) -> list[Tensor]:
            """Of logits (P,K) the losses (P,): to the true class and, where there is a witness, to
            its soft label.
            """
            hard = F.cross_entropy(logits, y.expand(len(logits)), reduction="none")
            return (
                [hard]
                if wanted is None
                else [
                    hard,
                    losses.kl_per_sample(wanted.expand(len(logits), -1), logits, temperature),
                ]
            )

        said: JSON = {}
        if self.refine:
            grid = refined(
                lambda i, j: moved_images(net, x[0], d, r, a[i], a[j]).numpy(),
                # roots, because the figure's colours are spread like these
                lambda flat: (
                    torch.stack(losses_of(torch.from_numpy(flat).float()), 1)
                    .clamp_min(0)
                    .sqrt()
                    .numpy()
                ),
                self.grid,
                self.seed,
            )
            logits = torch.from_numpy(grid.values).float()
            off = [
                one - two
                for one, two in zip(
                    *(
                        losses_of(torch.from_numpy(part).float())
                        for part in (grid.guess, grid.found)
                    ),
                    strict=True,
                )
            ]
            said["refined"] = grid.meta(
                {name: _largest(each) for name, each in zip(("hard", "soft"), off, strict=False)}
            )
        else:
            logits = plane(net, x[0], d, r, a, a)
        hard, *rest = (loss.view(self.grid, self.grid) for loss in losses_of(logits.flatten(0, 1)))
        soft, label = (
            (torch.zeros(0, 0), torch.zeros(0))
            if wanted is None
            else (rest[0], F.softmax(wanted[0] / temperature, dim=0))
        )
        middle = self.grid // 2
        inside = hard[(a.abs() <= run.eps * (1 + 1e-6))][:, (a.abs() <= run.eps * (1 + 1e-6))]
        meta = meta_of(
            run,
            split,
            index=self.index,
            seed=self.seed,
            reference=reference.id,
            witness=witness.id if witness else None,
            temperature=temperature,
            direction=self.direction,
            span=span,
            grid=self.grid,
            weights=run.weights,
            **said,
            summary=(
                f"cross-entropy {float(hard[middle, middle]):.3f} at image {self.index}, up to"
                f" {float(inside.max()):.3f} within ε = {eps_text(run.eps)} and"
                f" {float(hard.max()):.3f} within ±{eps_text(span)}; adversarial direction"
                f" ({self.direction}) from {reference.id}, random direction seed"
                f" {self.seed}{_shared(said)}"
            ),
        )
        return Surface(
            x=x[0].numpy(),
            d=d.numpy(),
            r=r.numpy(),
            a=a.numpy(),
            b=a.numpy(),
            y=int(y),
            hard=hard.numpy(),
            soft=soft.numpy(),
            label=label.numpy(),
            pred=logits.argmax(dim=2).numpy(),
            eps=run.eps,
            meta=meta,
        )

    def _adversarial(self, reference: Run, x: Tensor, y: Tensor) -> Tensor:
        """The adversarial direction (C,H,W), made on the reference network."""
        net = linf_net(reference)
        if self.direction == "pgd":
            if reference.eps == 0:
                raise UserError(
                    f"{reference.id} has ε = 0, so PGD goes nowhere: take direction=sign.", code=2
                )
            attack = PGD(eps=reference.eps, start="zero", steps=20)
            return (attack(net, x, y, rng=torch.Generator().manual_seed(self.seed)) - x)[
                0
            ] / reference.eps
        with frozen(net):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), y), leaf)
        if not gradient.any():
            raise UserError(
                f"The loss of {reference.id} has no gradient at image {self.index} (its output is"
                " saturated), so there is no adversarial direction: take another image, or another"
                " reference."
            )
        return gradient[0].sign()


def filter_normalised(net: nn.Module, rng: torch.Generator) -> dict[str, Tensor]:
    """A random direction in the space of a network's parameters, by their names, each filter or row
    as long as its weights.

    Gaussian; what has one dimension or none (biases, batch norm) is 0. Source: Li et al. 2018
    (arXiv 1712.09913), section 4, and the authors' `net_plotter.py`.
    """
    out = {}
    for name, weight in net.named_parameters():
        if weight.dim() <= 1:
            out[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=rng, dtype=weight.dtype)
        length = weight.detach().flatten(1).norm(dim=1) / (drawn.flatten(1).norm(dim=1) + 1e-10)
        out[name] = drawn * length.view(-1, *[1] * (weight.dim() - 1))
    return out


@register("probe/weight_surface")
@dataclass(frozen=True)
class WeightSurfaceSpec(Probe[WeightSurface]):
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

    def measure(self, run: Run) -> WeightSurface:
        a = ticks(self.grid, self.span)
        split = images_of(run)
        few = split.take(torch.arange(min(self.n, len(split))))
        net, rng = net_of(run), torch.Generator().manual_seed(self.seed)
        u, v = filter_normalised(net, rng), filter_normalised(net, rng)
        loss, said = np.zeros((self.grid, self.grid)), JSON()

        def compute(i: Ints, j: Ints) -> Floats:
            loss[i, j] = moved_weights(net, u, v, a[i], a[j], few.x, few.y).numpy()
            return np.log10(np.maximum(loss[i, j], 1e-6))[:, None]  # as it is drawn

        if self.refine:
            grid = refined(compute, lambda flat: flat, self.grid, self.seed)
            loss = np.where(grid.computed, loss, 10 ** grid.values[..., 0])
            said["refined"] = grid.meta(
                {"log10": _largest(torch.from_numpy(grid.guess - grid.found))}
            )
        else:
            compute(*np.divmod(np.arange(self.grid**2), self.grid))
        middle = self.grid // 2
        meta = meta_of(
            run,
            split,
            n=len(few),
            seed=self.seed,
            span=self.span,
            architecture=run.architecture,
            **said,
            summary=(
                f"mean cross-entropy of {len(few)} images {float(loss[middle, middle]):.3f} at the"
                f" trained weights, {float(loss.min()):.3f} to {float(loss.max()):.3g} within"
                f" ±{self.span:g} (two filter-normalised directions, seed"
                f" {self.seed}){_shared(said)}"
            ),
        )
        return WeightSurface(a.numpy(), a.numpy(), loss, len(few), meta=meta)
