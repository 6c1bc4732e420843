"""Where in a network an attack begins to show: how alike clean and attacked images are after each
stage.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.inputs import in_parts
from robustviz.nets import Classifier, frozen
from robustviz.nets.base import Normalise
from robustviz.runs.folder import Run
from robustviz.types import eps_text
from robustviz.views.features.probe import task_of
from robustviz.views.features.result import Images
from robustviz.views.measure import net_of, probe
from robustviz.views.misalignment.result import Stages, StagesSpec

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
TWINS: tuple[Images, Images] = ("adversarial", "noise")


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
    # hooks on the net itself would be seen by every session that shares it
    own = copy.deepcopy(net)
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


@probe(StagesSpec)
def stages(run: Run, spec: StagesSpec) -> Stages:
    """Cosine of clean and attacked images, stage by stage of the network."""
    task, net = task_of(run, spec), net_of(run)
    seen = {kind: seen_at(net, images) for kind, images in task.seen_by(net).items()}
    names = list(seen["clean"])
    cosine, control = (
        torch.stack([_alike(seen["clean"][name], seen[kind][name]) for name in names])
        for kind in TWINS
    )
    means = dict(zip(names, cosine.mean(dim=1).tolist(), strict=True))
    return Stages(
        names,
        cosine.numpy(),
        control.numpy(),
        meta=task.meta
        | {
            "summary": (
                f"Cosine of clean and attacked, mean over {len(task.images)} images,"
                f" PGD-{spec.steps} at ε = {eps_text(float(task.attack.eps or 0))}: pixels"
                f" {means[START]:.2f}, features {means['features']:.2f}, logits"
                f" {means['logits']:.2f} (noise of the same ε: features"
                f" {float(control[names.index('features')].mean()):.2f}). The"
                f" greatest fall is at {greatest_fall(names, [*means.values()])}."
            )
        },
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
    cosine = F.cosine_similarity(a, b, dim=1, eps=1e-30).clamp(-1, 1)
    return torch.where((a == b).all(dim=1), 1.0, cosine)
