"""How a network's loss changes with its picture, at first and at second order: gradients, where
they lie, and curvature.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import registry
from robustviz.data import Dataset
from robustviz.nets import Classifier, frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run, all_runs
from robustviz.stats import mean_interval
from robustviz.types import UserError
from robustviz.views.loss.result import Curvature, Gradients
from robustviz.views.loss.surfaces import trained_alike
from robustviz.views.measure import Probe, images_of, meta_of, net_of
from robustviz.views.transfer.probe import label, relatives

Loss = Callable[[Tensor], Tensor]  # images (N, …) to the loss of each, (N,)


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """The gradient of each sample's loss by the sample, as `x` (N, …), detached; samples must not
    affect each other.
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return found


def hessian_vector(loss: Loss, x: Tensor, v: Tensor) -> Tensor:
    """H·v of each sample, as `x` (N, …), H the Hessian of its loss by the sample; exact, by
    differentiating twice.
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(leaf).sum(), leaf, create_graph=True)
        if not first.requires_grad:  # a linear loss
            return torch.zeros_like(x)
        (found,) = torch.autograd.grad((first * v).sum(), leaf, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def top_eigenvalue(
    loss: Loss, x: Tensor, iterations: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(the eigenvalue of largest size of each sample's Hessian, signed, and ‖Hv − λv‖/|λ|), (N,)
    each.

    `loss`: samples `x` (N, …) to (N,), each on its own sample only; any network and any loss.
    `iterations` products H·v from a Gaussian start. Some eigenvalue lies within the second value
    times |λ| of λ. Both are 0 where the Hessian is 0. Source: methods.md §4 (iii). Differs: Lanczos
    1950, which keeps all products of the power iteration, in place of its last one; 20 plain steps
    are up to 100 % off where eigenvalues of opposite sign compete (4 of 50 images of one network).
    """
    tiny = torch.finfo(x.dtype).tiny
    v = torch.randn(x.shape, generator=rng, dtype=x.dtype).flatten(1)
    basis = [v / v.norm(dim=1, keepdim=True)]
    inner: list[Tensor] = []  # the diagonal of the tridiagonal matrix, and below the one beside it
    beside: list[Tensor] = []
    for _ in range(iterations):
        moved = hessian_vector(loss, x, basis[-1].view(x.shape)).flatten(1)
        inner.append((moved * basis[-1]).sum(dim=1))
        size = moved.norm(dim=1)
        for old in basis * 2:  # twice: rounding would bring old directions back
            moved = moved - (moved * old).sum(dim=1, keepdim=True) * old
        length = moved.norm(dim=1)
        length = torch.where(
            length > 1e3 * torch.finfo(x.dtype).eps * size, length, torch.zeros_like(length)
        )  # nothing new is left
        beside.append(length)
        basis.append(
            torch.where(
                length[:, None] > 0,
                moved / length.clamp(min=tiny)[:, None],
                torch.zeros_like(moved),
            )
        )
    between = torch.stack(beside, dim=1)
    small = torch.diag_embed(torch.stack(inner, dim=1))
    if iterations > 1:
        small = small + torch.diag_embed(between[:, :-1], 1) + torch.diag_embed(between[:, :-1], -1)
    values, vectors = torch.linalg.eigh(small)
    top = values.abs().argmax(dim=1)
    value = values.gather(1, top[:, None])[:, 0]
    last = vectors[torch.arange(len(x)), -1, top]
    return value, between[:, -1] * last.abs() / value.abs().clamp(min=tiny)


def smoothed(net: nn.Module, beta: float) -> nn.Module:
    """A copy of a network whose ReLUs are softplus(β·)/β: between its kinks a ReLU network has no
    curvature but its loss's.
    """
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus(beta=beta))
    return net


def cross_entropy(net: nn.Module, y: Tensor) -> Loss:
    """The loss of each image under a network, for the functions of this file."""
    return lambda x: F.cross_entropy(net(x), y, reduction="none")


def input_gradient(net: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """∂CE/∂x of images (N,C,H,W), in float64 and eval mode.

    float64 because a saturated output (1 − p_y below 1e-7) has no correct gradient in float32.
    """
    exact = copy.deepcopy(net).double()
    with frozen(exact):
        return torch.cat(
            [
                gradient(cross_entropy(exact, labels), part)
                for part, labels in zip(x.double().split(64), y.split(64), strict=True)
            ]
        )


@functools.lru_cache(maxsize=6)  # several networks are compared with the same others
def _gradients(path: str, weights: str, split: Dataset, n: int) -> Tensor:
    few = split.take(torch.arange(n))
    return input_gradient(net_of(Run(Path(path))), few.x, few.y)


@register("probe/gradients")
@dataclass(frozen=True)
class GradientsSpec(Probe[Gradients]):
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
    )

    result = Gradients

    def name(self, run: Run) -> str:
        """Weights of the other networks count too. Raises UserError for one that was trained on
        other images.
        """
        return registry.key(
            replace(self, targets=",".join(f"{one.id}@{one.weights}" for one in self.others(run)))
        )

    def others(self, run: Run) -> list[Run]:
        """The networks to compare with; none where none is shipped."""
        names = [name.strip() for name in self.targets.split(",") if name.strip()]
        if names:
            return list(
                {
                    one.path: one for one in (trained_alike(run, name, "target") for name in names)
                }.values()
            )
        before, witness = relatives(run)
        seen = {one.path.resolve() for one in (run, before, witness) if one is not None}
        shipped = [
            one
            for one in all_runs()
            if one.shipped
            and one.method_key == "standard"
            and one.info.get("data") == run.info.get("data")
            and one.path.resolve() not in seen
        ]
        return [*([witness] if witness else []), *shipped]

    def measure(self, run: Run) -> Gradients:
        split, others = images_of(run), self.others(run)
        index = torch.arange(min(self.n, len(split)))
        few = split.take(index)
        own, *theirs = (
            _gradients(str(one.path), one.weights, split, len(few)) for one in (run, *others)
        )
        cosine = (
            torch.stack(
                [
                    F.cosine_similarity(own.flatten(1), one.flatten(1), dim=1, eps=1e-300)
                    for one in theirs
                ]
            )
            if theirs
            else None
        )
        share = area = np.zeros(0)
        norm = own.flatten(1).norm(dim=1)
        said = [f"‖∂CE/∂x‖₂ {_mean(norm.numpy())}"]
        if few.masks is not None:
            size = own.abs().sum(dim=1, keepdim=True)
            total = size.flatten(1).sum(dim=1)
            share = (
                (size * few.masks).flatten(1).sum(dim=1)
                / total.clamp(min=torch.finfo(total.dtype).tiny)
            ).numpy()
            area = few.masks.double().flatten(1).mean(dim=1).numpy()
            said.append(
                f"on the true object {_mean(share)} of the gradient, which covers {_mean(area)} of"
                " the picture"
            )
        if cosine is not None:
            said += [
                f"cosine with {one.id} {_mean(row)}"
                for one, row in zip(others, cosine.numpy(), strict=True)
            ]
        meta = meta_of(
            run,
            split,
            n=len(few),
            labels=[label(one) for one in others],
            eps=run.eps,
            summary=f"Over {len(few)} images, mean and 95 % interval: {'; '.join(said)}.",
        )
        return Gradients(
            index=index.numpy(),
            norm=norm.numpy(),
            share=share,
            area=area,
            targets=[one.id for one in others],
            cosine=np.zeros((0, len(few))) if cosine is None else cosine.numpy(),
            meta=meta,
        )


@register("probe/curvature")
@dataclass(frozen=True)
class CurvatureSpec(Probe[Curvature]):
    """Of the first `n` test images the eigenvalue of largest size of the Hessian of the
    cross-entropy by the pixels, signed.

    Measured on a copy whose ReLUs are softplus with slope `beta`, in float64. Curvature grows with
    β, so only values of the same β can be compared.
    """

    n: int = option(50, "How many test images.", low=2)
    iterations: int = option(
        20,
        "Steps of the Lanczos iteration, each a product of the Hessian and a vector.",
        low=1,
        high=1000,
    )
    beta: float = option(10.0, "β of the softplus that stands in for each ReLU.", low=10, high=1000)
    seed: int = option(0, "Seed of its random start.", low=0)

    result = Curvature

    def measure(self, run: Run) -> Curvature:
        split, net = images_of(run), net_of(run)
        index = torch.arange(min(self.n, len(split)))
        few = split.take(index)
        copied = smoothed(net, self.beta)
        rng = torch.Generator().manual_seed(self.seed)
        with frozen(net), frozen(copied), torch.no_grad():
            same = net(few.x).argmax(dim=1) == copied(few.x).argmax(dim=1)
        exact = copied.double()
        with frozen(exact):
            parts = zip(few.x.double().split(64), few.y.split(64), strict=True)
            found = [
                top_eigenvalue(cross_entropy(exact, y), x, self.iterations, rng) for x, y in parts
            ]
        value, residual = (torch.cat([part[at] for part in found]).numpy() for at in (0, 1))
        if not np.isfinite(value).all():
            raise UserError(
                f"The curvature of {run.id} is not finite: its loss overflows. Check its weights,"
                " or train it again."
            )
        meta = meta_of(
            run,
            split,
            n=len(few),
            beta=self.beta,
            iterations=self.iterations,
            seed=self.seed,
            summary=(
                f"Top Hessian eigenvalue of the cross-entropy by the pixels over {len(few)} images:"
                f" {_mean(value)}, median {np.median(value):.3g}, {int((value < 0).sum())}"
                f" negative; softplus with β = {self.beta:g} for each ReLU ({int(same.sum())} of"
                f" {len(few)} answers unchanged); {self.iterations} Lanczos steps, to within 1 % on"
                f" {int((residual < 0.01).sum())} of {len(few)}"
            ),
        )
        return Curvature(
            index=index.numpy(), eigenvalue=value, residual=residual, same=same.numpy(), meta=meta
        )


def _mean(values: np.ndarray) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"
