"""Computes the gradients of one training step: at the current weights or, for adversarial weight
perturbation (AWP), at nearby weights that make the loss worse.

Source: Wu, Xia, Wang 2020 (arXiv 2004.05884), and the authors' code (csdongxian/AWP,
`train_trades_cifar.py` and `utils_awp.py`; the second was read in other people's copies): one
gradient ascent step on the weights, of length γ·‖w‖ for each tensor `weight` of more than one
dimension, on images that were attacked before that step. Differs: their optimiser steps at the
perturbed weights, and the perturbation is subtracted afterwards; here the weights are restored
first, so that weight decay applies to the weights themselves. A method that draws random numbers
after its attack (a dropout mask) draws the same ones in both passes. With several processes the
ascent step is that of the whole batch, because DDP averages the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from robustviz.methods.base import Terms
from robustviz.types import Batch

TINY = 1e-20  # so that a gradient of zero moves nothing


@dataclass
class _Once:
    """Makes a batch's attacked images in the first of AWP's two passes and returns the same images
    in the second. Also stores copies of the buffers of `loss` (running statistics) and of the
    generator's state, taken just after the attack, or at the start if there is no attack.
    """

    loss: nn.Module
    rng: torch.Generator
    made: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.remember()

    def __call__(self, make: Callable[[], Tensor]) -> Tensor:
        if not self.made:
            self.made.append(make())
            self.remember()
        return self.made[0]

    def remember(self) -> None:
        self.buffers = [buffer.clone() for buffer in self.loss.buffers()]
        self.state = self.rng.get_state()

    @torch.no_grad()
    def rewind(self) -> None:
        """Undo every change that the first pass made to the buffers and the generator after the
        attack.
        """
        for buffer, before in zip(self.loss.buffers(), self.buffers, strict=True):
            buffer.copy_(before)
        self.rng.set_state(self.state)


def backward(
    loss: nn.Module, net: nn.Module, batch: Batch, share: float, gamma: float, *, bf16: bool
) -> Terms:
    """Compute the gradient of `share` times the sum of the loss terms of this batch, leave it in
    the `.grad` of every parameter of `loss`, and return the terms.

    With γ = `gamma` above 0, gradient and terms are computed at the perturbed weights of `net` that
    `worst` sets. Afterwards the weights are the same as before the call. Running statistics are
    updated by one pass, that at the perturbed weights (and by the attack, if it runs in train
    mode). `bf16`: the forward pass runs under autocast to bfloat16.
    """

    def terms_of(batch: Batch) -> Terms:
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=bf16):
            terms = loss(batch)
        loss.zero_grad(set_to_none=True)
        (share * sum(terms.values())).backward()
        return cast(Terms, terms)

    if not gamma:
        return terms_of(batch)
    once = _Once(loss, batch.rng)
    batch = replace(batch, once=once)
    terms_of(batch)
    once.rewind()
    before = worst(net, gamma)
    terms = terms_of(batch)
    with torch.no_grad():
        for weight, value in before:
            weight.copy_(value)
    return terms


@torch.no_grad()
def worst(net: nn.Module, gamma: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Move each weight tensor of `net` in place along its gradient, by γ times the tensor's norm;
    returns the moved parameters with their old values. Only parameters with `weight` in their name,
    more than one dimension and a gradient are moved, so biases and batch norm are not.
    """
    before = []
    for name, weight in net.named_parameters():
        if "weight" in name and weight.ndim > 1 and weight.grad is not None:
            before.append((weight, weight.clone()))
            weight.add_(weight.grad * (gamma * weight.norm() / (weight.grad.norm() + TINY)))
    return before
