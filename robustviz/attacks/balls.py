"""The sets of perturbed images that an attack may choose from, one class for each norm.
Radii are tensors that broadcast against the images, so that one radius for all images and a map
with a radius per pixel use the same operations and give bit-identical results where they agree.
"""

import math

import torch
from torch import Tensor

from robustviz.types import UserError, check_eps, plain

# Smallest norm to divide by, which avoids 0/0 for an unchanged image; far below any visible change.
TINY = 1e-12


def scaled(gradient: Tensor) -> Tensor:
    """`gradient` (N, C, H, W) with every image scaled so that its largest absolute entry is 1.

    A norm computed of the result can neither underflow nor overflow. A gradient of 0 stays 0.
    """
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    return gradient / torch.where(largest > 0, largest, 1)


def bounds(eps: float | Tensor, x: Tensor, norm: str = "linf") -> Tensor:
    """`eps` as a tensor that broadcasts against `x` (N, C, H, W), in its dtype and on its device.

    `eps`: a number, one radius per image (N,), or a tensor of four dimensions that broadcasts, such
    as (N,1,H,W). Raises UserError for a radius that is not valid in this norm, and for a shape that
    does not fit. The values of such a tensor on a GPU are not checked, because reading them would
    make training wait for the GPU in every step.
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
            f"The radii have dtype {str(eps.dtype).removeprefix('torch.')}, but must be real"
            " numbers, for pixels in [0, 1]."
        )
    eps = eps.to(x).view(-1, 1, 1, 1) if eps.ndim == 1 else eps.to(x)
    if eps.ndim != 4 or any(a not in (1, b) for a, b in zip(eps.shape, x.shape, strict=True)):
        raise UserError(
            f"Radii of shape {tuple(eps.shape)} do not fit images of shape {tuple(x.shape)}: use"
            " (N,), or (N,1,H,W) for a radius per pixel."
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
    """The L∞ ball: |δ| ≤ ε at every pixel, and x + δ in [0, 1]."""

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        self.x, self.eps = x, bounds(eps, x)
        self.low, self.high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)

    def project(self, z: Tensor) -> Tensor:
        """The point of the ball nearest to `z`: each pixel is clamped to its own limits."""
        return torch.clamp(z, self.low, self.high)

    def step(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`z` moved by `size` along the sign of the gradient, not yet projected."""
        sign = gradient.sign()
        return (
            torch.addcmul(z, sign, size)
            if isinstance(size, Tensor)
            else torch.add(z, sign, alpha=size)
        )

    def advance(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The same as `step` followed by `project`, bit for bit, but with a single new tensor.

        For large batches memory access, not arithmetic, takes the time.
        """
        return advanced(z, gradient, size, self.low, self.high)

    def random_start(self, rng: torch.Generator) -> Tensor:
        """A random point for each image, uniform in its L∞ ball, then clipped to [0, 1]."""
        noise = torch.rand(self.x.shape, generator=rng, dtype=self.x.dtype, device=self.x.device)
        return self.project(self.x + (2 * noise - 1) * self.eps)


def advanced(
    z: Tensor, gradient: Tensor, size: float | Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """`z` moved by `size` along the sign of the gradient, then clamped to `low` and `high`."""
    return gradient.sign().mul_(size).add_(z).clamp_(low, high)


class L2:
    """The L2 ball: ‖δ‖₂ ≤ ε for each image, and x + δ in [0, 1]."""

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        self.x, self.eps = x, bounds(eps, x, "l2")
        if self.eps.shape[1:] != (1, 1, 1):
            raise UserError(
                "A radius per pixel is defined for linf only: for l2 give one radius per image."
            )

    def project(self, z: Tensor) -> Tensor:
        """x + δ, with δ = z − x shortened to length ε if it is longer, then clipped to [0, 1].

        Clipping moves every pixel towards x, which lies in [0, 1], so the point stays inside the
        ball. Differs: this is not exactly the point of the ball within [0, 1] that is nearest to
        `z`, but the usual choice (torchattacks, foolbox).
        """
        delta = z - self.x
        return (self.x + delta * (self.eps / self._norm(delta).clamp(min=TINY)).clamp(max=1)).clamp(
            0, 1
        )

    def step(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`z` moved by `size` along the gradient scaled to L2 norm 1, not yet projected.

        An image whose gradient is 0 is not moved; very short gradients are scaled up as well.
        """
        gradient = scaled(gradient)
        # after `scaled` the norm is at least 1, except for a gradient of 0
        return z + size * gradient / self._norm(gradient).clamp(min=1)

    def advance(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """`z` after one `step`, projected back into the ball by `project`."""
        return self.project(self.step(z, gradient, size))

    def random_start(self, rng: torch.Generator) -> Tensor:
        """A random point for each image, uniform in its ball's volume, then clipped to [0, 1]."""
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
