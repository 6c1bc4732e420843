"""The gradients of a training step: at the weights as they are, or, for adversarial weight
perturbation (AWP), at weights near them that make the loss worse.

Source: Wu, Xia, Wang 2020 (arXiv 2004.05884), and the authors' code (csdongxian/AWP,
`train_trades_cifar.py` and `utils_awp.py`; the latter as others have copied it): one step up the
loss in the weights, of γ·‖w‖ in each tensor `weight` of more than one dimension, for images that
were attacked before. Differs: their optimiser steps at the perturbed weights and the perturbation
is taken off afterwards; here the weights are put back first, so that weight decay shrinks the
weights themselves. A method that draws numbers after its attack (a dropout mask) draws the same
ones in both passes. On several processes the step is that of the whole batch, as DDP averages it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from robustviz.methods.base import Terms
from robustviz.types import Batch

TINY = 1e-20  # a gradient of zero moves nothing


@dataclass
class _Once:
    """Makes a batch's attacked images in the first pass and gives the same in the second; knows
    the running statistics and the generator's state as they were right after that.
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
        """Undo what the first pass did beside attacking."""
        for buffer, before in zip(self.loss.buffers(), self.buffers, strict=True):
            buffer.copy_(before)
        self.rng.set_state(self.state)


def backward(
    loss: nn.Module, net: nn.Module, batch: Batch, share: float, gamma: float, *, bf16: bool
) -> Terms:
    """Leave in every parameter of `loss` its gradient of `share` times the sum of the terms that
    `loss` gives for the batch; returns these terms.

    With γ = `gamma` above 0 both are those at the worst weights near `net`'s; weights and running
    statistics are then what one pass without AWP leaves.
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
    """Move each weight tensor by γ of its norm along its gradient; returns them with the values
    that they had. Those without a gradient and those of one dimension (biases, batch norm) rest.
    """
    before = []
    for name, weight in net.named_parameters():
        if "weight" in name and weight.ndim > 1 and weight.grad is not None:
            before.append((weight, weight.clone()))
            weight.add_(weight.grad * (gamma * weight.norm() / (weight.grad.norm() + TINY)))
    return before
