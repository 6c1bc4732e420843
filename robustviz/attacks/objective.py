"""Objectives that an attack maximises (one number per image) and their gradient in the pixels."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.inputs import logits_of
from robustviz.types import UserError

T = TypeVar("T")
Objective = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> one number per sample (N,)


@dataclass(frozen=True, eq=False)
class LogitObjective:
    """An objective of the logits of `net`: images (N, C, H, W) -> of(logits, given), (N,).

    `of` must use nothing but its arguments, because recorded steps (`recorded`) are looked up by
    it. `given` has one entry per image, e.g. its label. `at_once`: how many images fit into memory
    for a forward and backward pass (None: all); `input_gradient` computes more images in parts, a
    call of the objective itself does not.
    """

    net: nn.Module
    of: Callable[[Tensor, Tensor], Tensor]
    given: Tensor
    at_once: int | None = None

    def __call__(self, z: Tensor) -> Tensor:
        return self.of(logits_of(self.net, z), self.given)


def parts(objective: Objective, n: int) -> Iterator[tuple[slice, Objective]]:
    """Splits `n` images into slices to compute together; yields each with the objective for its
    images. There is one slice, unless `objective` is a LogitObjective with `at_once` below `n`:
    then all have the same size, at most `at_once`, and the last may end beyond `n`. For `n` = 0
    there is none.
    """
    most = objective.at_once if isinstance(objective, LogitObjective) else None
    size = n if not most or n <= most else -(-n // -(-n // most))
    for start in range(0, n, max(size, 1)):
        place = slice(start, start + size)
        yield (
            place,
            replace(objective, given=objective.given[place], at_once=None)
            if isinstance(objective, LogitObjective)
            else objective,
        )


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of each image, (N,), from logits (N, K) and labels (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def closeness(logits: Tensor, target: Tensor) -> Tensor:
    """The objective of a targeted attack: minus the cross-entropy of the target class, (N,)."""
    return -F.cross_entropy(logits, target, reduction="none")


def input_gradient(objective: Objective, z: Tensor) -> Tensor:
    """The gradient of `objective` with respect to the images `z`, (N, C, H, W).

    It is the gradient of the sum over the batch, not of the mean, so an image's gradient does not
    depend on the batch size. Entries that are NaN or infinite become 0, so that they cause no step,
    and pixels on which the objective does not depend have gradient 0. Under float16 autocast it is
    computed without autocast. Raises UserError if the objective is not one number per image.
    """
    several = list(parts(objective, len(z)))
    if len(several) > 1:
        return torch.cat([input_gradient(part, z[place]) for place, part in several])
    kind = z.device.type
    # The gradient of a very confident network underflows in float16.
    half = (
        kind in ("cpu", "cuda")
        and torch.is_autocast_enabled(kind)
        and torch.get_autocast_dtype(kind) == torch.float16
    )
    with torch.autocast(kind, enabled=False) if half else nullcontext():
        return with_gradient(lambda z: (objective(z), None), z)[1]


def with_gradient(
    evaluate: Callable[[Tensor], tuple[Tensor, T]], z: Tensor
) -> tuple[Tensor, Tensor, T]:
    """Returns the objective (N,), its gradient (N, C, H, W) and the second value of `evaluate`.

    `evaluate(z)` returns the objective of the images `z` and any second value. As in
    `input_gradient`, NaN and infinity in the gradient become 0; autocast is left as it is. Raises
    UserError if the objective is not one number per image.
    """
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_(True)  # forward may modify its input in place
        heights, more = evaluate(z)
        if not isinstance(heights, Tensor) or heights.shape != z.shape[:1]:
            kind = (
                f"shape {tuple(heights.shape)}"
                if isinstance(heights, Tensor)
                else type(heights).__name__
            )
            raise UserError(
                f"An objective must return one number per image, shape ({len(z)},), but this one"
                f" returned {kind}: use reduction='none', or sum over the other dimensions."
            )
        gradient = (
            torch.autograd.grad(heights.sum(), z, allow_unused=True)[0]
            if heights.requires_grad
            else None
        )
    return (
        heights.detach(),
        torch.zeros_like(z) if gradient is None else gradient.nan_to_num(0, 0, 0),
        more,
    )
