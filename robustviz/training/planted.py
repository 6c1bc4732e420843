"""The active test of `training.doctor`: plants adversarial examples, which are then known to exist,
and counts how many of them an attack finds.
"""

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

MOST = 64  # images that get a planted example, at most
WAYS = 4  # random directions in output space that are compared for each image
FEWEST = 10  # with fewer planted examples the test says nothing
FURTHER = 0.05  # a planted example exceeds all inner points by this share of its gain over x
INNER = 20  # random points of each ball that the readout must call untouched
# The readout's threshold for "planted", from the highest inner point (0) to the planted example
# (1). On every shipped network PGD-20 finds 95% of the examples at this threshold.
CLOSE = 0.1
DEEP = 10  # how far below 0 the readout's other logits lie, in units of a planted example's gain


class Readout(nn.Module):
    """`net` with a linear classifier on top of its outputs. Given an image, it finds the nearest of
    the clean images `x`, and decides whether the image is untouched (class 0) or the adversarial
    example planted for that one (class 1). Each clean image has its own linear function.

    The nearest clean image is found by comparing pixels, so images may come in any order and
    number. The output has as many logits (N,K) as `net`, since some attacks need several; classes
    from 2 on are never predicted. The logits have the scale of `net`'s outputs, so that a saturated
    network stays saturated here.
    """

    x: Tensor
    way: Tensor
    bar: Tensor
    low: Tensor

    def __init__(
        self, net: nn.Module, x: Tensor, way: Tensor, bar: Tensor, low: Tensor, norm: str
    ) -> None:
        """For each clean image in `x` (n,C,H,W) a direction `way` (n,K) and a threshold `bar` (n,):
        an image is predicted to be planted if outputs·way exceeds the threshold of the nearest
        clean image. `low` (n,): the value of all other logits.
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
    """Clean images `x` (n,C,H,W), one planted adversarial example for each, `example` (n,C,H,W),
    within ε of its image, and the network `net` that assigns class 1 to the examples and class 0 to
    every clean image.
    """

    net: Readout
    x: Tensor
    example: Tensor

    def found(self, attack: Attack, seed: int = 0) -> int:
        """Returns for how many images `attack`, with the norm and ε of the planted examples, finds
        an adversarial example; 0 if it needs a gradient and the network has none.
        """
        none = torch.zeros(len(self.x), dtype=torch.int64, device=self.x.device)
        if attack.needs_gradient and not try_out(self.net, self.x).has_gradient:
            return 0
        rng = torch.Generator(device=self.x.device).manual_seed(seed)
        return int((answers(self.net, attack.search(self.net, self.x, none, rng)) != 0).sum())


def along(outputs: Tensor, way: Tensor) -> Tensor:
    """Returns the dot product (N,) of each row of `outputs` (N,K) with its own direction `way`
    (N,K).
    """
    return (outputs * way).sum(dim=1)


@torch.inference_mode(False)
def plant(
    net: nn.Module, x: Tensor, eps: float, norm: Literal["linf", "l2"] = "linf", seed: int = 0
) -> Planted | None:
    """Plant an adversarial example for each of the first 64 images of `x` (N,C,H,W) whose ε-balls
    do not overlap, but not for images where one step gets nearly as far as the longest search.
    Returns None if fewer than 10 examples are left.

    `net` is not changed; a linear readout is put on its outputs. The readout must assign class 0 to
    all *inner points*: the image, random points of its ball, and the end of a single gradient step.
    The planted example is the furthest point along the readout that a longer ascent or a
    gradient-free search finds: it exists whatever the network does to gradients.

    Source: Zimmermann et al. 2022 (arXiv 2206.13991) and the authors'
    `decision_boundary_binarization.py`. Differs: they train the readout on features to tell one
    random point of the sphere from 999 inner ones; ours reads the outputs, to see what masks them,
    its direction is random, and the example is one that a single step does not reach.
    """
    x = _apart(x, eps, norm)
    rng = torch.Generator(device=x.device).manual_seed(seed)
    at_once = try_out(net, x).at_once

    def climbed(attack: Attack, way: Tensor, start: Tensor) -> Tensor:
        return attack.maximise(LogitObjective(net, along, way, at_once), start, rng=rng)

    def height(z: Tensor, way: Tensor) -> Tensor:
        return along(all_logits(net, z, at_once), way)

    step = FGSM(eps=eps, norm=norm)
    long, zero = PGD(eps=eps, norm=norm), PGD(eps=eps, norm=norm, start="zero")
    width = eps if norm == "linf" else eps / x[0].numel() ** 0.5  # Square supports linf only
    search = Square(eps=width, queries=100, variant="paper")
    with torch.no_grad():
        # Take the direction in which one step falls furthest behind ten steps, from either start.
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
    """Returns the first images of `x` (N,C,H,W), at most `MOST`, whose balls of radius ε have no
    point in common.
    """
    flat, kept = x.flatten(1), list[int]()
    between = torch.cdist(flat, flat, float("inf") if norm == "linf" else 2.0)
    for number in range(len(x)):
        if len(kept) < MOST and bool((between[number, kept] > 2 * eps).all()):
            kept.append(number)
    return x[kept]
