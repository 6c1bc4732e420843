"""The sets an attacker may choose from: per norm, how to step uphill, how to project back, where to start.

Everything works on per-sample bounds, a tensor that broadcasts against the images, so that one radius for all and a
map with a radius per pixel go through the same operations and give the same bits where they agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustviz.types import UserError, check_eps

TINY = 1e-12  # keeps 0/0 out of the l2 normalisation; a zero gradient then makes a zero step


def bounds(eps: float | Tensor, x: Tensor) -> Tensor:
    """`eps` as a tensor that broadcasts against `x` (N,C,H,W): from a number, (N,), (N,1,1,1), (N,1,H,W) or (N,C,H,W).

    Raises UserError for a negative radius and for a shape that does not fit.
    """
    if not isinstance(eps, Tensor):
        return torch.full((len(x), 1, 1, 1), float(eps), dtype=x.dtype, device=x.device)
    eps = eps.to(x)
    eps = eps.view(-1, 1, 1, 1) if eps.ndim == 1 else eps
    fits = eps.ndim == 4 and all(a in (1, b) for a, b in zip(eps.shape, x.shape, strict=True))
    if not fits:
        raise UserError(f"A budget of shape {tuple(eps.shape)} does not fit images of shape {tuple(x.shape)}; use (N,1,H,W).")
    if eps.device.type == "cpu" and bool((eps < 0).any()):  # a GPU would be waited for in every step of a training
        raise UserError("A budget map has a negative entry; every pixel's radius must be 0 or more.")
    return eps


class Linf:
    """|δ| ≤ ε at every pixel, and x + δ in [0, 1]."""

    name = "linf"

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        if not isinstance(eps, Tensor):
            check_eps(eps)
        self.x, self.eps = x, bounds(eps, x)
        self.low, self.high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)

    def project(self, z: Tensor) -> Tensor:
        """The nearest point of the ball to `z`. Closed form, since ball and [0, 1] are both boxes."""
        return torch.clamp(z, self.low, self.high)

    def step(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`z` moved by `size` in the direction that raises a linear function most, not yet projected."""
        sign = gradient.sign()
        return torch.addcmul(z, sign, size) if isinstance(size, Tensor) else torch.add(z, sign, alpha=size)

    def advance(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`step`, then `project`, to the bit, in one new tensor: large batches wait for memory, not for arithmetic."""
        return advanced(z, gradient, size, self.low, self.high)

    def random_start(self, rng: torch.Generator) -> Tensor:
        """A point drawn uniformly from the box, cut to [0, 1]."""
        noise = torch.rand(self.x.shape, generator=rng, dtype=self.x.dtype, device=self.x.device)
        return self.project(self.x + (2 * noise - 1) * self.eps)


def advanced(z: Tensor, gradient: Tensor, size: float | Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`Linf.advance` in the box from `low` to `high`, for who has no ball but its bounds."""
    return gradient.sign().mul_(size).add_(z).clamp_(low, high)


class L2:
    """‖δ‖₂ ≤ ε for each image, and x + δ in [0, 1]."""

    name = "l2"

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        if not isinstance(eps, Tensor):
            check_eps(eps, "l2", tuple(x.shape[1:]))
        self.x, self.eps = x, bounds(eps, x)
        if self.eps.shape[1:] != (1, 1, 1):
            raise UserError("A budget per pixel is defined for linf only; give one radius per image for l2.")

    def project(self, z: Tensor) -> Tensor:
        """`z` pulled back to the sphere where it is outside, then cut to [0, 1].

        Cutting moves each pixel towards x, which lies in [0, 1], so it never leaves the ball again. Differs: not
        the exact nearest point of the intersection; the usual choice (torchattacks, foolbox).
        """
        delta = z - self.x
        scale = (self.eps / self._norm(delta).clamp(min=TINY)).clamp(max=1)
        return (self.x + delta * scale).clamp(0, 1)

    def step(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`z` moved by `size` along the unit gradient, not yet projected."""
        return z + size * gradient / self._norm(gradient).clamp(min=TINY)

    def advance(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`step`, then `project`."""
        return self.project(self.step(z, gradient, size))

    def random_start(self, rng: torch.Generator) -> Tensor:
        """A point drawn uniformly from the ball's volume, cut to [0, 1]."""
        direction = torch.randn(self.x.shape, generator=rng, dtype=self.x.dtype, device=self.x.device)
        share = torch.rand((len(self.x), 1, 1, 1), generator=rng, dtype=self.x.dtype, device=self.x.device)
        radius = self.eps * share ** (1 / self.x[0].numel())
        return self.project(self.x + direction / self._norm(direction).clamp(min=TINY) * radius)

    @staticmethod
    def _norm(z: Tensor) -> Tensor:
        return z.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


BALLS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}
