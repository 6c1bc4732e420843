"""The probe for where in a network an attack begins to show: how similar the outputs for clean and
attacked images are after each stage.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.inputs import in_parts
from robustviz.nets import Classifier, frozen
from robustviz.nets.base import Normalise
from robustviz.nets.wrapped import Wrapped
from robustviz.runs.folder import Run
from robustviz.types import eps_text
from robustviz.views.features.probe import task_of
from robustviz.views.features.result import Images
from robustviz.views.measure import net_of, probe
from robustviz.views.misalignment.result import Stages, StagesSpec

# Normalisations, activations, pooling and the like are not stages: they belong to the one before.
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
    """Returns the last module of each stage of `net.maps`, in order, by the stage's name: its
    number and the class of its first module, such as "2 Block".

    A stage is a child of `maps` together with the children of the types in `TRIMMINGS` that follow
    it (batch norm, activation, pooling). `maps` without children is one stage. In a network from
    `robustviz.wrap`, the stages are formed in the same way from its layers up to the one that
    outputs the maps, and have these layers' names, such as "2 layer1".
    """
    out: dict[str, nn.Module] = {}
    if isinstance(net, Wrapped):
        for name, layer in net.stages().items():
            if not isinstance(layer, TRIMMINGS):
                out[f"{len(out) + 1} {name}"] = layer
            elif out:
                out[next(reversed(out))] = layer
        return out
    for child in net.maps.children():
        if not isinstance(child, TRIMMINGS):
            out[f"{len(out) + 1} {type(child).__name__.removesuffix('2d')}"] = child
        elif out:
            out[next(reversed(out))] = child
    return out or {f"1 {type(net.maps).__name__}": net.maps}


def seen_at(own: Classifier, x: Tensor) -> dict[str, Tensor]:
    """Returns what each stage of the network `own` outputs for images (N,C,H,W), flattened to
    (N,·), by stage name.

    First come the pixels, then the stages of `stages_of`, the features and the logits. No other
    thread may use `own` during the call, because forward hooks are on it until the end. A stage is
    left out if the forward pass does not run it exactly once, or if its output is not a tensor with
    an entry for each image.
    """
    kept: dict[str, list[object]] = {}

    def keep(name: str) -> Any:
        return lambda module, given, out: kept.setdefault(name, []).append(out)

    hooks = [module.register_forward_hook(keep(name)) for name, module in stages_of(own).items()]
    try:
        with frozen(own), torch.no_grad():
            _, features, logits = own.parts(x)
    finally:
        for hook in hooks:
            hook.remove()
    passed = {
        name: outs[0].flatten(1)
        for name, outs in kept.items()
        if len(outs) == 1 and isinstance(outs[0], Tensor) and len(outs[0]) == len(x)
    }
    return {START: x.flatten(1), **passed, "features": features, "logits": logits}


@probe(StagesSpec)
def stages(run: Run, spec: StagesSpec) -> Stages:
    """Measure the cosine of attacked and of noisy images with the clean ones, after each stage.
    Raises UserError for an invalid radius.
    """
    task, net = task_of(run, spec), net_of(run)
    names, cosine, control = _cosines(net, task.seen_by(net))
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


def _cosines(net: Classifier, images: Mapping[Images, Tensor]) -> tuple[list[str], Tensor, Tensor]:
    """Returns the names of the S stages, and two tensors (S,N): the cosine of each stage's output
    for the attacked image, and for the noisy one, with its output for the clean image.
    """
    # a copy, because hooks on the shared network would also run in other sessions
    own = copy.deepcopy(net)
    names: list[str] = []
    found: list[list[Tensor]] = []
    for clean, *others in zip(
        *(in_parts(images[kind], size=own.size) for kind in ("clean", *TWINS)), strict=True
    ):
        seen = seen_at(own, clean)
        names = list(seen)
        moved = [seen_at(own, part) for part in others]
        found.append([torch.stack([_alike(seen[n], each[n]) for n in names]) for each in moved])
    cosine, control = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return names, cosine, control


def greatest_fall(names: list[str], means: list[float]) -> str:
    """Returns the name of the stage at which the mean cosine falls most below that of the stage
    before; "no stage" if it never falls. `names` and `means`: of all stages, in order.

    The last stage, the logits, is left out, because its cosines cannot be compared with the others:
    logits are fewer numbers, and not centred in the same way.
    """
    falls = [before - after for before, after in itertools.pairwise(means[:-1])]
    most = max(range(len(falls)), key=falls.__getitem__)
    return names[most + 1] if falls[most] > 0 else "no stage"


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """Returns the cosine of each row of `a` (N,D) with the same row of `b` (N,D), (N,) float64: 1
    if the two rows are equal, even if both are zero; 0 if only one of them is zero.
    """
    a, b = a.double(), b.double()
    cosine = F.cosine_similarity(a, b, dim=1, eps=1e-30).clamp(-1, 1)
    return torch.where((a == b).all(dim=1), 1.0, cosine)
