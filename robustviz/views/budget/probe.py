"""Adversarial training on points in the plane, where data, perturbations and boundary can be drawn.

The points form two blobs. Along one axis they are spread widely and the classes overlap; along the
other they are narrow, with a gap between the classes. An ordinary network uses the gap, which an
attack can cross. A network that must be right on squares wider than the gap has to use the wide
axis, which is more robust but less accurate: the argument of Tsipras et al. 2019 (arXiv 1805.12152)
with two features instead of many.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.views.budget.result import Balls

RADII = np.arange(9) / 10
CENTRE, SPREAD, CUT = (1.0, 0.4), (0.75, 0.11), 2.2  # of class 1; class 0 is its mirror image
POINTS, FRESH, SEEDS = 30, 1000, 5  # training points per class; test points in total; seeds
WIDTH, STEPS, LR = 32, 300, 5e-3
WINDOW, GRID = (-3.6, 3.6, -1.5, 1.5), (61, 145)


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples points of alternating classes: (count, 2), and their classes, 0 or 1, (count,)."""
    y = torch.arange(count) % 2
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).clamp(-CUT, CUT)
    return noise * torch.tensor(SPREAD) + (2 * y[:, None] - 1) * torch.tensor(CENTRE), y


def attacked(net: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, seed: int) -> Tensor:
    """Returns the points `x` (N, 2), moved by a PGD attack on `net` within squares of radius `eps`.
    `y` (N,): their classes. The squares are ℓ∞ balls around the points; the attack has a random
    start. For `eps` = 0 it returns `x` itself.
    """
    if not eps:
        return x
    rng = torch.Generator().manual_seed(seed)
    delta = (2 * torch.rand(x.shape, generator=rng) - 1) * eps
    for _ in range(steps):
        delta.requires_grad_(True)
        (up,) = torch.autograd.grad(_loss(net, x + delta, y) * len(x), delta)
        delta = (delta.detach() + 2.5 * eps / steps * up.sign()).clamp(-eps, eps)
    return x + delta


def trained(x: Tensor, y: Tensor, eps: float, seed: int) -> nn.Module:
    """Returns a small network trained by PGD-AT within squares of radius `eps` (0: without an
    attack) around the points `x` (N, 2) of the classes `y` (N,), 0 or 1. The network returns one
    logit per point, (N, 1), above 0 for class 1. Its weights do not require gradients. `seed`: of
    the initial weights and the attacks' noise.
    """
    rng = torch.Generator().manual_seed(seed)
    first, second, last = (
        nn.utils.skip_init(nn.Linear, wide, out)
        for wide, out in ((2, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
    )
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    with torch.no_grad():  # its own generator, so that torch's global seed is not used
        for weight in net.parameters():
            bound = (weight.shape[1] if weight.ndim > 1 else WIDTH) ** -0.5
            weight.uniform_(-bound, bound, generator=rng)
    optimiser = torch.optim.Adam(net.parameters(), LR)
    for step in range(STEPS):
        x_adv = attacked(net, x, y, eps, 5, seed * STEPS + step)
        optimiser.zero_grad()
        _loss(net, x_adv, y).backward()
        optimiser.step()
    return net.requires_grad_(False)


def _loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(net(x)[:, 0], y.float())


def right(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the network's single logit has the right sign for each point of `x` (N, 2): above 0
    for class 1 of `y` (N,), else not. (N,) bool.
    """
    return torch.eq(net(x)[:, 0] > 0, y > 0)


def balls() -> Balls:
    """Sample the blobs and train `SEEDS` networks at each radius. Returns the training points, how
    many test points each network gets right, clean and attacked, and the first one's logits on a
    grid.
    """
    (x, y), (fresh, truth) = draw(2 * POINTS, 0), draw(FRESH, 1)
    clean, held = np.zeros((2, len(RADII), SEEDS), int)
    rows, columns = GRID
    across, up = np.linspace(*WINDOW[:2], columns), np.linspace(*WINDOW[2:], rows)
    grid = torch.tensor(np.stack(np.meshgrid(across, up), -1), dtype=torch.float32)
    logit = np.zeros((len(RADII), rows, columns), np.int8)
    for at, eps in enumerate(map(float, RADII)):
        for seed in range(SEEDS):
            net = trained(x, y, eps, seed)
            good = right(net, fresh, truth)
            both = good & right(net, attacked(net, fresh, truth, eps, 20, 0), truth)
            clean[at, seed], held[at, seed] = int(good.sum()), int(both.sum())
            if not seed:
                logit[at] = (32 * net(grid)[..., 0]).round().clamp(-127, 127).to(torch.int8).numpy()
    meta = {"n": FRESH, "seeds": SEEDS, "window": list(WINDOW), "attack": "PGD-20", "steps": STEPS}
    return Balls(x.numpy(), y.numpy(), RADII, clean, held, logit, meta=meta)
