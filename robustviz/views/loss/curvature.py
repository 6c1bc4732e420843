"""Derivatives of a network's loss with respect to the pixels: the input gradient (first order) and
the curvature (second order), with their probes. The module `surfaces` instead evaluates the loss
itself at many points.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustviz import memory, registry
from robustviz.data import Dataset
from robustviz.nets import Classifier, frozen
from robustviz.runs.folder import Run
from robustviz.stats import Floats, mean_interval
from robustviz.types import UserError
from robustviz.views.loss.result import (
    Curvature,
    CurvatureSpec,
    Gradients,
    GradientsSpec,
    median_interval,
    smoothing,
)
from robustviz.views.measure import images_of, meta_of, net_of, probe, radius
from robustviz.views.transfer.probe import label, named_runs, ordinary, relatives

Loss = Callable[[Tensor], Tensor]  # maps images (N, …) to their losses (N,)


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """The gradient of each sample's loss with respect to that sample, detached, with the shape of
    `x` (N, …). The loss of a sample must not depend on the other samples.
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def hessian_vector(loss: Loss, x: Tensor, v: Tensor) -> Tensor:
    """The product H·v for each sample, with the shape of `x` and `v` (N, …), where H is the Hessian
    of the sample's loss with respect to that sample. The loss is differentiated twice, not
    approximated by finite differences. Raises UserError if the network uses an operation without a
    second derivative in torch.
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(leaf).sum(), leaf, create_graph=True)
        if not first.requires_grad:  # the loss is linear, so its Hessian is 0
            return torch.zeros_like(x)
        try:
            return torch.autograd.grad((first * v).sum(), leaf, materialize_grads=True)[0]
        except RuntimeError as error:
            said = re.search(r"derivative for (\S+) is not implemented", str(error))
            if said is None:
                raise
            raise UserError(
                f"torch has no second derivative of {said[1]}, which this network uses, so its"
                " curvature cannot be measured: write that operation out with basic ones in its"
                " forward."
            ) from error


def top_eigenvalue(
    loss: Loss, x: Tensor, iterations: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The Lanczos estimate λ of the eigenvalue of largest absolute value of each sample's Hessian,
    with its sign, and the relative residual ‖Hv − λv‖/|λ|, both (N,).

    `loss` maps samples `x` (N, …) to losses (N,), each of which depends on its own sample only; it
    may be any loss of any network. `iterations` is the number of products H·v, starting from a
    Gaussian vector. Some exact eigenvalue lies within residual·|λ| of λ. Both values are 0 where
    the Hessian is 0. Raises UserError where `hessian_vector` does.

    Source: docs/methods.md, Loss surfaces and curvature; Lanczos 1950, which uses all products of
    the power iteration instead of only the last one. 20 steps of plain power iteration are up to
    100% off where eigenvalues of opposite sign are similar in size (4 of 50 images of one network).
    """
    tiny = torch.finfo(x.dtype).tiny
    basis = [F.normalize(torch.randn(x.shape, generator=rng, dtype=x.dtype).flatten(1))]
    small = torch.zeros(len(x), iterations + 1, iterations + 1, dtype=x.dtype)  # tridiagonal
    for at in range(iterations):
        moved = hessian_vector(loss, x, basis[-1].view(x.shape)).flatten(1)
        small[:, at, at] = (moved * basis[-1]).sum(dim=1)
        size = moved.norm(dim=1)
        for old in basis * 2:  # twice, because rounding lets old directions return
            moved = moved - (moved * old).sum(dim=1, keepdim=True) * old
        length = moved.norm(dim=1)
        # a remainder of rounding size counts as 0: there is no new direction left
        length = torch.where(
            length > 1e3 * torch.finfo(x.dtype).eps * size, length, torch.zeros_like(length)
        )
        small[:, at + 1, at] = length  # `eigh` reads only the lower triangle
        basis.append(
            torch.where(
                length[:, None] > 0,
                moved / length.clamp(min=tiny)[:, None],
                torch.zeros_like(moved),
            )
        )
    values, vectors = torch.linalg.eigh(small[:, :-1, :-1])
    top = values.abs().argmax(dim=1)
    value = values.gather(1, top[:, None])[:, 0]
    return value, (
        small[:, -1, -2]
        * vectors[torch.arange(len(x)), -1, top].abs()
        / value.abs().clamp(min=tiny)
    )


def _with_weights(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the `forward` of an attention layer so that it also returns the attention weights: torch
    then does not use its fused kernels.
    """
    return lambda *given, **named: attend(*given, **(named | {"need_weights": True}))


def _soften(x: Tensor, beta: float, inplace: bool) -> Tensor:
    """softplus(β·x)/β; with `inplace`, written into `x`, as the replaced ReLU would do."""
    if inplace:  # softplus saves its input for the gradient, so it must not be overwritten
        return x.copy_(F.softplus(x.clone(), beta))
    return F.softplus(x, beta)


class _Softplus(nn.Module):
    """The layer that replaces an `nn.ReLU`: softplus(β·x)/β, in place if the `nn.ReLU` was."""

    def __init__(self, beta: float, inplace: bool) -> None:
        super().__init__()
        self.beta, self.inplace = beta, inplace

    def forward(self, x: Tensor) -> Tensor:
        return _soften(x, self.beta, self.inplace)


class _Softened(TorchFunctionMode):
    """A context manager: inside it, calls in this thread of `F.relu`, `torch.relu`, `Tensor.relu_`
    and the like compute softplus(β·x)/β instead. `count`: the number of these calls so far,
    including those that an `nn.ReLU` makes.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta, self.count = beta, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "").partition(".")[0]  # of aten operators: relu.default
        if name not in ("relu", "relu_"):
            return func(*args, **given)
        self.count += 1
        x = args[0] if args else given["input" if "input" in given else "self"]
        inplace = name == "relu_" or given.get("inplace", len(args) > 1 and args[1])
        return _soften(x, self.beta, inplace)


def _within(beta: float, forward: Callable[..., Any]) -> Callable[..., Any]:
    def softened(*given: Any, **named: Any) -> Any:
        with _Softened(beta):
            return forward(*given, **named)

    return softened


def relus(net: nn.Module, x: Tensor) -> int:
    """How many times a network applies a ReLU in one forward pass of images `x` (N, C, H, W), as a
    layer or as a function call. A ReLU layer that is used twice counts twice.
    """
    seen = _Softened(1.0)
    with seen, torch.no_grad():
        net(x)
    return seen.count


def smoothed(net: nn.Module, beta: float) -> nn.Module:
    """A copy of a network in which softplus(β·x)/β replaces each ReLU, whether it is a layer or a
    call of a function such as `F.relu` in the network's forward. A ReLU network is piecewise
    linear, so without this replacement only the loss function would contribute curvature. Attention
    layers of torch and timm run in the copy without torch's fused kernels, which have no second
    derivative.
    """
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        if hasattr(module, "fused_attn"):  # an attention layer of timm
            vars(module)["fused_attn"] = False
        if isinstance(module, nn.MultiheadAttention):
            module.forward = _with_weights(module.forward)  # type: ignore[method-assign]
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, _Softplus(beta, child.inplace))
    net.forward = _within(beta, net.forward)
    return net


def cross_entropy(net: nn.Module, y: Tensor) -> Loss:
    """Returns a function from images (N,C,H,W) to their cross-entropies (N,) under `net`, for the
    labels `y` (N,).
    """
    return lambda x: F.cross_entropy(net(x), y, reduction="none")


def input_gradient(net: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The gradient ∂CE/∂x of the cross-entropy with labels `y` (N,) at images `x` (N,C,H,W), with
    the shape of `x`, computed in float64 and eval mode.

    In float32 the gradient of a saturated output (1 − p_y below 1e-7) would be wrong.
    """
    exact = copy.deepcopy(net).double()
    with frozen(exact):
        return torch.cat(
            [
                gradient(cross_entropy(exact, labels), part)
                for part, labels in zip(
                    torch.split(x.double(), 64), torch.split(y, 64), strict=True
                )
            ]
        )


@memory.remembered(memory.WORKING)  # many runs are compared with the same networks
def _kept_gradients(path: str, weights: str, split: Dataset, n: int) -> Tensor:
    return _gradients(Run(Path(path)), split, n)


def _gradients(run: Run, split: Dataset, n: int) -> Tensor:
    few = split.take(torch.arange(n))
    return input_gradient(net_of(run), few.x, few.y)


def others_of(run: Run, spec: GradientsSpec) -> list[Run]:
    """The runs whose gradients are compared with those of `run`: the runs in `spec.targets`. If
    that is empty: the witness of an aligned `run`, and the shipped networks trained without a
    defence on the same data, except `run`, its source and its witness. There may be none. Raises
    UserError for a named run that does not exist or was trained on other images or classes, and, if
    none is named, where the source or the witness of an aligned `run` is missing.
    """
    if named := named_runs(run, spec.targets, "target"):
        return named
    before, witness = relatives(run)
    return [*([witness] if witness else []), *ordinary(run, filter(None, (run, before, witness)))]


def _name(run: Run, spec: GradientsSpec) -> str:
    """Returns the cache key, which includes the weight hashes of the runs compared with."""
    return registry.key(
        replace(
            spec, targets=",".join(f"{each.id}@{each.weights}" for each in others_of(run, spec))
        )
    )


@probe(GradientsSpec, name=_name)
def gradients(run: Run, spec: GradientsSpec) -> Gradients:
    """Measure the gradient of the cross-entropy with respect to the pixels of the first `spec.n`
    test images: its norm, its share on the true object, and its cosine with the gradients of the
    runs from `others_of`. Raises UserError where `others_of` does, and if a norm is not finite.
    """
    split, others = images_of(run), others_of(run, spec)
    index = torch.arange(min(spec.n, len(split)))
    few = split.take(index)
    own, *theirs = (
        _kept_gradients(str(each.path), each.weights, split, len(few))
        if each.path.exists()
        else _gradients(each, split, len(few))  # a run that has no folder
        for each in (run, *others)
    )
    cosine = np.reshape(
        [
            F.cosine_similarity(own.flatten(1), other.flatten(1), dim=1, eps=1e-300).numpy()
            for other in theirs
        ],
        (len(theirs), len(few)),
    )
    share = area = np.zeros(0)
    norm = own.flatten(1).norm(dim=1).numpy()
    if few.masks is not None:
        size = own.abs().sum(dim=1, keepdim=True)
        share = (
            (size * few.masks).flatten(1).sum(dim=1)
            / size.flatten(1).sum(dim=1).clamp(min=torch.finfo(size.dtype).tiny)
        ).numpy()
        area = few.masks.double().flatten(1).mean(dim=1).numpy()
    said = [
        f"‖∂CE/∂x‖₂ {_mean(norm)}",
        *(
            [
                f"share of the gradient on the true object {_mean(share)} (the object covers"
                f" {_mean(area)} of the image)"
            ]
            if share.size
            else []
        ),
        *(f"cosine with {each.id} {_mean(row)}" for each, row in zip(others, cosine, strict=True)),
    ]
    return Gradients(
        index.numpy(),
        norm,
        share,
        area,
        [each.id for each in others],
        cosine,
        meta=meta_of(
            run,
            split,
            n=len(few),
            labels=[label(each) for each in others],
            eps=radius(run),
            summary=f"Over {len(few)} images, mean and 95% interval: {'; '.join(said)}.",
        ),
    )


# Before "-functions" was added to the name, ReLUs that are no layers were neither smoothed nor
# counted, and results kept under the plain name may still say so.
@probe(CurvatureSpec, name=lambda run, spec: f"{registry.key(spec)}-functions")
def curvature(run: Run, spec: CurvatureSpec) -> Curvature:
    """Measure, for each of the first `spec.n` test images, the eigenvalue of largest absolute value
    of the loss's Hessian with respect to the pixels, on the copy from `smoothed`. Raises UserError
    if an eigenvalue is not finite, or where `hessian_vector` does.
    """
    split, net = images_of(run), net_of(run)
    index = torch.arange(min(spec.n, len(split)))
    few, copied = split.take(index), smoothed(net, spec.beta)
    rng = torch.Generator().manual_seed(spec.seed)
    with frozen(net), frozen(copied), torch.no_grad():
        same = (net(few.x).argmax(dim=1) == copied(few.x).argmax(dim=1)).numpy()
        count = relus(net, few.x[:1])
    with frozen(copied.double()):  # float64 from here on
        parts = [
            top_eigenvalue(cross_entropy(copied, y), x, spec.iterations, rng)
            for x, y in zip(torch.split(few.x.double(), 64), torch.split(few.y, 64), strict=True)
        ]
    value, residual = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
    if not np.isfinite(value).all():
        raise UserError(
            f"The curvature of {run.id} is not finite, because its loss overflows: check its"
            " weights, or train it again."
        )
    result = Curvature(
        index.numpy(),
        value,
        residual,
        same,
        meta=meta_of(
            run,
            split,
            n=len(few),
            beta=spec.beta,
            relus=count,
            iterations=spec.iterations,
            seed=spec.seed,
        ),
    )
    median = "{:.3g} [{:.3g}, {:.3g}]".format(*median_interval(value))
    result.meta["summary"] = (
        "Top eigenvalue of the Hessian of the cross-entropy with respect to the pixels, over"
        f" {len(few)} images: median and its 95% interval {median}, mean {value.mean():.3g},"
        f" {int((value < 0).sum())} negative. {smoothing(result)} The measured copy predicts the"
        f" network's class on {int(same.sum())} of {len(few)} images; {spec.iterations} Lanczos"
        f" steps, residual below 1% on {int((residual < 0.01).sum())} of {len(few)}"
    )
    return result


def _mean(values: Floats) -> str:
    return "{:.3g} [{:.3g}, {:.3g}]".format(*mean_interval(values))
