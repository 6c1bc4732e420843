"""Where in a network an attack begins to show: how alike clean and attacked images are after each
stage.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import registry
from robustviz.attacks import PGD
from robustviz.attacks.balls import BALLS
from robustviz.inputs import in_parts
from robustviz.nets import Classifier, frozen
from robustviz.nets.base import Normalise
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.training.evaluate import attacked, norm_of
from robustviz.types import check_eps, eps_text
from robustviz.views.measure import Probe, images_of, meta_of, net_of
from robustviz.views.misalignment.result import Stages

# What only rescales or bends what came before it belongs to the stage before it.
TRIMMINGS = (
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.ReLU,
    nn.GELU,
    nn.Identity,
    nn.Dropout,
    nn.ZeroPad2d,
    nn.MaxPool2d,
    Normalise,
)
START = "pixels"


def stages_of(net: Classifier) -> dict[str, nn.Module]:
    """The module at whose output each stage of `maps` ends, by a printed name such as "2 Block", in
    order.

    A stage is a child of `maps` with the batch norm, activation and pooling behind it; `maps` that
    has no children is one.
    """
    out: dict[str, nn.Module] = {}
    for child in net.maps.children():
        if not isinstance(child, TRIMMINGS):
            out[f"{len(out) + 1} {type(child).__name__.removesuffix('2d')}"] = child
        elif out:
            out[next(reversed(out))] = child
    return out or {f"1 {type(net.maps).__name__}": net.maps}


def seen_at(net: Classifier, x: Tensor) -> dict[str, Tensor]:
    """What images (N,C,H,W) are at each stage, flat (N,·): the pixels, the stages of `maps`, the
    features, the logits.
    """
    own = copy.deepcopy(
        net
    )  # hooks on the net itself would be seen by every session that shares it
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda module, given, out: kept.setdefault(name, []).append(out.flatten(1))

    places = {**stages_of(own), "features": own.pool, "logits": own.head}
    for name, module in places.items():
        module.register_forward_hook(keep(name))
    with frozen(own), torch.no_grad():
        for part in in_parts(x):
            own(part)
    return {START: x.flatten(1), **{name: torch.cat(kept[name]) for name in places}}


@register("probe/stages")
@dataclass(frozen=True)
class StagesSpec(Probe[Stages]):
    """Cosine of the first `n` test images and their attacked and noisy twins after each stage;
    attack and noise as in `features`.
    """

    n: int = option(100, "How many test images.", low=1)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random control.", low=0)

    result = Stages

    def measure(self, run: Run) -> Stages:
        split, norm = images_of(run), norm_of(run.config)
        few = split.take(torch.arange(min(self.n, len(split))))
        x, net = few.x, net_of(run)
        eps = check_eps(run.eps if self.eps is None else self.eps, norm, tuple(x.shape[1:]))
        attack = PGD(norm=norm, eps=eps, steps=self.steps)
        noisy = BALLS[norm](x, eps).random_start(torch.Generator().manual_seed(self.seed))
        clean, adv, noise = (
            seen_at(net, images)
            for images in (x, attacked(net, x, few.y, attack, self.seed), noisy)
        )
        names = list(clean)
        cosine = {name: _alike(clean[name], adv[name]) for name in names}
        control = {name: _alike(clean[name], noise[name]) for name in names}
        means = {name: float(cosine[name].mean()) for name in names}
        last, logits = means["features"], means["logits"]
        summary = (
            f"Cosine of clean and attacked, mean over {len(x)} images, PGD-{self.steps} at ε ="
            f" {eps_text(eps)}: pixels {means[START]:.2f}, features {last:.2f}, logits {logits:.2f}"
            f" (noise of the same ε: features {float(control['features'].mean()):.2f}). The"
            f" greatest fall is at {greatest_fall(names, [means[name] for name in names])}."
        )
        meta = meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=eps,
            norm=norm,
            seed=self.seed,
            summary=summary,
        )
        return Stages(
            names,
            torch.stack([*cosine.values()]).numpy(),
            torch.stack([*control.values()]).numpy(),
            meta=meta,
        )


def greatest_fall(names: list[str], means: list[float]) -> str:
    """The stage before the logits at which the mean cosine falls most from the one before; "no
    stage" where none falls.

    The logits are left out: fewer numbers around another zero, so their cosine is on another scale.
    """
    falls = [before - after for before, after in itertools.pairwise(means[:-1])]
    most = max(range(len(falls)), key=falls.__getitem__)
    return names[most + 1] if falls[most] > 0 else "no stage"


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of rows, (N,) float64; 1 for two equal rows, zero ones too, 0 where only one
    is zero.
    """
    a, b = a.double(), b.double()
    found = F.cosine_similarity(a, b, dim=1, eps=1e-30).clamp(-1, 1)
    return torch.where((a == b).all(dim=1), torch.ones_like(found), found)
