"""The sets an attacker may choose from: per norm, how to step uphill, how to project back, where to
start.

Everything works on per-sample bounds, a tensor that broadcasts against the images, so that one
radius for all and a map with a radius per pixel go through the same operations and give the same
bits where they agree.
"""

import math

import torch
from torch import Tensor

from robustviz.types import UserError, check_eps, plain

TINY = 1e-12  # keeps 0/0 out of the length of a change of an image; far below what a pixel can show


def scaled(gradient: Tensor) -> Tensor:
    """`gradient` (N,C,H,W) with each image's largest entry at ±1, so that its norm neither vanishes
    nor overflows; 0 stays 0.
    """
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    return gradient / torch.where(largest > 0, largest, 1)


def bounds(eps: float | Tensor, x: Tensor, norm: str = "linf") -> Tensor:
    """`eps` as a tensor that broadcasts against `x` (N,C,H,W): from a number, (N,), (N,1,1,1),
    (N,1,H,W) or (N,C,H,W).

    Raises UserError for a radius that is none in this norm, and for a shape that does not fit. Of a
    tensor on a GPU the values are not looked at: the training would wait for it in every step.
    """
    if not isinstance(eps, Tensor) or eps.ndim == 0:
        return torch.full(
            (len(x), 1, 1, 1),
            check_eps(plain(eps), norm, tuple(x.shape[1:])),
            dtype=x.dtype,
            device=x.device,
        )
    if eps.dtype == torch.bool or eps.is_complex():
        raise UserError(
            f"Radii of {str(eps.dtype).removeprefix('torch.')} came, and numbers in pixel units are"
            " wanted."
        )
    eps = eps.to(x).view(-1, 1, 1, 1) if eps.ndim == 1 else eps.to(x)
    if eps.ndim != 4 or any(a not in (1, b) for a, b in zip(eps.shape, x.shape, strict=True)):
        raise UserError(
            f"A budget of shape {tuple(eps.shape)} does not fit images of shape {tuple(x.shape)};"
            " use (N,1,H,W)."
        )
    if eps.device.type == "cpu" and eps.numel():
        low, high = (float(value) for value in torch.aminmax(eps.nan_to_num(nan=torch.inf)))
        if low < 0:
            raise UserError(
                f"A radius of {low:g} among the given ones is negative; every one must be 0 or"
                " more."
            )
        check_eps(high, norm, tuple(x.shape[1:]))
    return eps


class Linf:
    """|δ| ≤ ε at every pixel, and x + δ in [0, 1]."""

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        self.x, self.eps = x, bounds(eps, x)
        self.low, self.high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)

    def project(self, z: Tensor) -> Tensor:
        """The nearest point of the ball to `z`. Closed form, since ball and [0, 1] are both
        boxes.
        """
        return torch.clamp(z, self.low, self.high)

    def step(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`z` moved by `size` in the direction that raises a linear function most, not yet
        projected.
        """
        sign = gradient.sign()
        return (
            torch.addcmul(z, sign, size)
            if isinstance(size, Tensor)
            else torch.add(z, sign, alpha=size)
        )

    def advance(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`step`, then `project`, to the bit, in one new tensor: large batches wait for memory, not
        for arithmetic.
        """
        return advanced(z, gradient, size, self.low, self.high)

    def random_start(self, rng: torch.Generator) -> Tensor:
        """A point drawn uniformly from the box, cut to [0, 1]."""
        noise = torch.rand(self.x.shape, generator=rng, dtype=self.x.dtype, device=self.x.device)
        return self.project(self.x + (2 * noise - 1) * self.eps)


def advanced(
    z: Tensor, gradient: Tensor, size: float | Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """`Linf.advance` in the box from `low` to `high`, for callers that have only the box."""
    return gradient.sign().mul_(size).add_(z).clamp_(low, high)


class L2:
    """‖δ‖₂ ≤ ε for each image, and x + δ in [0, 1]."""

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        self.x, self.eps = x, bounds(eps, x, "l2")
        if self.eps.shape[1:] != (1, 1, 1):
            raise UserError(
                "A budget per pixel is defined for linf only; give one radius per image for l2."
            )

    def project(self, z: Tensor) -> Tensor:
        """`z` pulled back to the sphere where it is outside, then cut to [0, 1].

        Cutting moves each pixel towards x, which lies in [0, 1], so it never leaves the ball again.
        Differs: not the exact nearest point of the intersection; the usual choice (torchattacks,
        foolbox).
        """
        delta = z - self.x
        return (self.x + delta * (self.eps / self._norm(delta).clamp(min=TINY)).clamp(max=1)).clamp(
            0, 1
        )

    def step(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`z` moved by `size` along the unit gradient, however short that is, not yet projected;
        not moved where it is 0.
        """
        gradient = scaled(gradient)
        # 1 at least, but for a gradient of 0
        return z + size * gradient / self._norm(gradient).clamp(min=1)

    def advance(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`step`, then `project`."""
        return self.project(self.step(z, gradient, size))

    def random_start(self, rng: torch.Generator) -> Tensor:
        """A point drawn uniformly from the ball's volume, cut to [0, 1]."""
        direction = torch.randn(
            self.x.shape, generator=rng, dtype=self.x.dtype, device=self.x.device
        )
        share = torch.rand(
            (len(self.x), 1, 1, 1), generator=rng, dtype=self.x.dtype, device=self.x.device
        )
        unit = direction / self._norm(direction).clamp(min=TINY)
        return self.project(self.x + unit * (self.eps * share ** (1 / math.prod(self.x.shape[1:]))))

    @staticmethod
    def _norm(z: Tensor) -> Tensor:
        lengths: Tensor = z.flatten(1).norm(dim=1)
        return lengths.view(-1, 1, 1, 1)


BALLS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}
