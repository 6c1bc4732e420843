"""The active test: examples that exist for sure, and how many of them an attack finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustviz.attacks import FGSM, PGD, Attack, Square
from robustviz.attacks.balls import BALLS
from robustviz.attacks.base import answers
from robustviz.attacks.objective import LogitObjective
from robustviz.inputs import all_logits, logits_of, try_out

MOST = 64  # images
WAYS = 4  # directions in the space of the outputs that are looked at for each image
FEWEST = 10  # fewer examples say nothing
FURTHER = 0.05  # a planted example lies further than any inner point by this share of its height
INNER = 20  # random points of each ball that must be called untouched
# Where the readout begins to say "planted", between the highest inner point (0) and the planted
# one (1). PGD-20 finds 95 % of what lies so near an inner point on every shipped network.
CLOSE = 0.1
DEEP = 10  # how far below the others the readout's remaining outputs lie, in heights of a plant


class Readout(nn.Module):
    """`net` with another last word: whether an image is untouched (class 0) or the planted example
    of its clean image (class 1), by a linear function of the outputs of `net` that each clean image
    has for itself.

    Which clean image one belongs to is seen from its pixels, so images may come in any order and
    number. There are as many outputs (N,K) as `net` has, since some attacks need several; the
    others are never largest. The scale is that of `net`: what saturates there does so here.
    """

    x: Tensor
    way: Tensor
    bar: Tensor
    low: Tensor

    def __init__(
        self, net: nn.Module, x: Tensor, way: Tensor, bar: Tensor, low: Tensor, norm: str
    ) -> None:
        """`x` (n,C,H,W), `way` (n,K), `bar` (n,): planted is where outputs·way exceeds the bar;
        `low` (n,): the other outputs.
        """
        super().__init__()
        self.net, self.power = net, float("inf") if norm == "linf" else 2.0
        for name, value in (("x", x), ("way", way), ("bar", bar), ("low", low)):
            self.register_buffer(name, value)

    def forward(self, z: Tensor) -> Tensor:
        far = torch.cdist(z.detach().flatten(1).to(self.x), self.x.flatten(1), self.power)
        own = far.argmin(dim=1)
        planted = (logits_of(self.net, z) * self.way[own]).sum(dim=1) - self.bar[own]
        others = self.low[own, None].expand(-1, self.way.shape[1] - 2)
        return torch.cat([torch.zeros_like(planted)[:, None], planted[:, None], others], dim=1)


@dataclass(frozen=True, eq=False)
class Planted:
    """Images `x` (n,C,H,W) with one planted example each, `example` (n,C,H,W), in the ball around
    it, and the network that takes the examples, and no untouched image, for class 1.
    """

    net: Readout
    x: Tensor
    example: Tensor

    def found(self, attack: Attack, seed: int = 0) -> int:
        """For how many images `attack`, of the planted norm and ε, finds an example."""
        none = torch.zeros(len(self.x), dtype=torch.int64, device=self.x.device)
        if attack.needs_gradient and not try_out(self.net, self.x).has_gradient:
            return 0
        rng = torch.Generator(device=self.x.device).manual_seed(seed)
        return int((answers(self.net, attack.search(self.net, self.x, none, rng)) != 0).sum())


def along(outputs: Tensor, way: Tensor) -> Tensor:
    """How far outputs (N,K) lie along a direction for each, (N,K): (N,)."""
    return (outputs * way).sum(dim=1)


@torch.inference_mode(False)
def plant(
    net: nn.Module, x: Tensor, eps: float, norm: Literal["linf", "l2"] = "linf", seed: int = 0
) -> Planted | None:
    """Plant an example for each of the first 64 images `x` (N,C,H,W) whose balls do not touch; None
    where there are fewer than 10: no output changes, or no attack gets further than one step.

    `net` stays as it is; a linear readout of its outputs is put on it. *Inner points*, the image,
    random points of its ball and where one gradient step leads, must be called untouched; the
    planted example is the furthest point along the readout that a longer ascent or a search without
    gradients finds. So it exists whatever the network does to gradients, and one step misses it.

    Source: Zimmermann et al. 2022 (arXiv 2206.13991) and the authors'
    `decision_boundary_binarization.py`. Differs: they train the readout on features to tell one
    random point of the sphere from 999 inner ones; ours reads the outputs, whose masking it must
    see, its direction is drawn, and the example is one that a single step does not reach.
    """
    x = _apart(x, eps, norm)
    rng = torch.Generator(device=x.device).manual_seed(seed)
    at_once = try_out(net, x).at_once

    def climbed(attack: Attack, way: Tensor, start: Tensor) -> Tensor:
        objective = LogitObjective(net, along, way, at_once)
        return attack.maximise(objective, start, rng=rng)

    def height(z: Tensor, way: Tensor) -> Tensor:
        return along(all_logits(net, z, at_once), way)

    step = FGSM(eps=eps, norm=norm)
    long, zero = PGD(eps=eps, norm=norm), PGD(eps=eps, norm=norm, start="zero")
    width = eps if norm == "linf" else eps / x[0].numel() ** 0.5  # Square knows linf only
    search = Square(eps=width, queries=100, variant="paper")
    with torch.no_grad():
        # The direction in which one step falls furthest behind ten, from either start.
        several = x.repeat_interleave(WAYS, dim=0)
        outputs = all_logits(net, several, at_once)
        way = torch.randn(outputs.shape, generator=rng, device=x.device).to(outputs)
        way = way - way.mean(dim=1, keepdim=True)
        way = way / way.norm(dim=1, keepdim=True)
        flat, one = along(outputs, way), height(climbed(step, way, several), way)
        ten = torch.minimum(*(height(climbed(a, way, several), way) for a in (long, zero)))
        best = ((ten - one) / (ten - flat).clamp(min=1e-12)).view(-1, WAYS).argmax(dim=1)
        way = way.view(len(x), WAYS, -1)[torch.arange(len(x), device=x.device), best]

        ball = BALLS[norm](x, eps)
        points = (x, climbed(step, way, x), *(ball.random_start(rng) for _ in range(INNER)))
        inner = torch.stack([height(z, way) for z in points]).amax(dim=0)
        example, top = x, inner
        for attack in (long, zero, PGD(eps=eps, steps=20, norm=norm), search):
            other = climbed(attack, way, x)
            reached = height(other, way)
            example = torch.where((reached > top).view(-1, 1, 1, 1), other, example)
            top = torch.maximum(top, reached)
        bar, tall = inner + CLOSE * (top - inner), top - height(x, way)
        there = (top - inner > FURTHER * tall).nonzero().flatten()
        if len(there) < FEWEST:
            return None
        low = -DEEP * tall
        x, way, bar, low, example = (each[there] for each in (x, way, bar, low, example))
        return Planted(Readout(net, x, way, bar, low, norm).eval(), x, example)


def _apart(x: Tensor, eps: float, norm: str) -> Tensor:
    """The first `MOST` of the images `x` (N,C,H,W) no two of which have a point of their balls in
    common.
    """
    flat, kept = x.flatten(1), list[int]()
    between = torch.cdist(flat, flat, float("inf") if norm == "linf" else 2.0)
    for number in range(len(x)):
        if len(kept) < MOST and bool((between[number, kept] > 2 * eps).all()):
            kept.append(number)
    return x[kept]
