"""How a network spreads its answer over the classes: what a witness knows that the true class does
not say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustviz import registry
from robustviz.attacks import PGD
from robustviz.nets import frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.types import check_eps, eps_text
from robustviz.views.loss.result import SoftLabels, entropy
from robustviz.views.measure import Probe, image_of, linf_net, meta_of


@register("probe/soft_labels")
@dataclass(frozen=True)
class SoftLabelsSpec(Probe[SoftLabels]):
    """One test image's softmax outputs at temperature T, untouched and under the network's
    own PGD.
    """

    index: int = option(0, "Number of the test image.", low=0)
    temperature: float = option(
        4.0, "T: the logits are divided by it; 1 is the network's usual output.", low=0.1, high=100
    )
    eps: float | None = option(
        None, "Radius of the attack in pixel units; empty: the run's.", low=0
    )
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's random start.", low=0)

    result = SoftLabels

    @property
    def cacheable(self) -> bool:
        return False

    def measure(self, run: Run) -> SoftLabels:
        split, x, y = image_of(run, self.index)
        net = linf_net(run)
        attack = PGD(eps=check_eps(run.eps if self.eps is None else self.eps), steps=self.steps)
        x_adv = attack(net, x, y, rng=torch.Generator().manual_seed(self.seed))
        with frozen(net), torch.no_grad():
            logits = net(torch.cat([x, x_adv])).numpy()
        eps = float(attack.eps or 0)
        meta = meta_of(run, split, attack=registry.encode(attack), index=self.index, seed=self.seed)
        out = SoftLabels(logits[0], logits[1], int(y), self.temperature, eps, meta=meta)
        names = split.classes
        said = [
            f"{what} {names[probs.argmax()]} ({probs.max():.0%}), entropy {entropy(probs):.2f} nats"
            for what, probs in (
                ("untouched", out.probs),
                (f"under PGD-{self.steps} at ε = {eps_text(eps)}", out.probs_adv),
            )
        ]
        meta["summary"] = (
            f"image {self.index}, a {names[out.y]}, at T = {self.temperature:g}: {'; '.join(said)}"
        )
        return out
