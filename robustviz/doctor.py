"""Before a robust number is believed: what could have gone wrong, measured.

Most reported robustness that did not hold was an attack that did not work: inputs outside [0, 1], probabilities instead
of logits, vanished gradients, a random network. Each check states what it measured; passing all of them is no proof.
Source: Carlini et al. 2019 (arXiv 1902.06705) and AutoAttack's `checks.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from robustviz.attacks import PGD, Attack
from robustviz.nets.base import frozen
from robustviz.results import Finding

SLACK = 1e-6  # x + (x_adv − x) is off by an ulp in float32


def examine(net: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, attack: Attack, classes: int, seed: int = 0) -> tuple[Finding, ...]:
    """The findings on one evaluation: `x` (N,C,H,W) clean and `x_adv` attacked images with labels `y`.

    `attack` must have its ε. Takes about three attacks on N images; 100 images tell enough.
    """
    delta = (x_adv - x).flatten(1)
    size = float((delta.abs().amax() if attack.norm == "linf" else delta.norm(dim=1).amax()).item()) if len(x) else 0.0
    eps = float(attack.eps or 0)
    low, high = float(torch.minimum(x.min(), x_adv.min())), float(torch.maximum(x.max(), x_adv.max()))
    with frozen(net):
        with torch.no_grad():
            logits = net(x)
            again = net(x)
        free = attack.objective(net, y)
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(free(z).sum(), z)
    gone = float((gradient.flatten(1).abs().amax(dim=1) == 0).double().mean())
    sums = logits.sum(dim=1)
    probabilities = bool((logits >= 0).all() and (sums - 1).abs().max() < 1e-3)
    drift = float((logits - again).abs().max())

    def right(images: Tensor) -> float:
        with frozen(net), torch.no_grad():
            return float((net(images).argmax(dim=1) == y).double().mean())

    def under(radius: float, steps: int, start: Literal["uniform", "zero"] = "uniform") -> float:
        rng = torch.Generator(device=x.device).manual_seed(seed)
        return right(PGD(eps=radius, steps=steps, norm=attack.norm, start=start)(net, x, y, rng=rng))

    chance = max(float((y == label).double().mean()) for label in range(classes))
    widest = under(
        1.0 if attack.norm == "linf" else float(x[0].numel()) ** 0.5, 20, "zero"
    )  # noise of that size would fool any net by itself
    short, long = under(eps, 20), under(eps, 60)
    few = 2 / len(x)
    return (
        Finding("budget", size <= eps + SLACK, size, f"Largest change measured {size:.4f}, allowed {eps:.4f}."),
        Finding("range", low >= 0 and high <= 1, high, f"Pixels from {low:.3f} to {high:.3f}, allowed 0 to 1."),
        Finding("logits", not probabilities, float(sums.mean()), "Outputs are probabilities, not logits: gradients vanish."
                if probabilities else "Outputs are logits, not probabilities."),
        Finding("gradients", gone <= 0.05, gone, f"{gone:.0%} of the images have a zero gradient (more than 5 % hides weakness)."),
        Finding("deterministic", drift == 0, drift, f"The same images twice: outputs differ by {drift:.1e}."),
        Finding("unbounded", widest <= chance + few, widest,
                f"With no limit on the change {widest:.0%} stay right; a working attack leaves at most chance ({chance:.0%})."),
        Finding("more steps", long <= short + few, long - short,
                f"PGD-60 leaves {long:.0%}, PGD-20 {short:.0%}: more steps must not help the defender."),
    )  # fmt: skip
