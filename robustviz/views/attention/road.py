"""ROAD: whether painting over what a map calls important matters to the network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz.chance import drawn_from
from robustviz.imports import load
from robustviz.nets import Classifier, frozen
from robustviz.runs.folder import Run
from robustviz.stats import flat, mean_interval
from robustviz.types import UserError
from robustviz.views.attention.maps import class_maps, grad_cam_package, random_nets
from robustviz.views.attention.result import Road, RoadSpec
from robustviz.views.measure import images_of, meta_of, net_of, probe

REMOVED = (20, 40, 60, 80)  # percentiles at which ROAD cuts


@probe(RoadSpec)
def road(run: Run, spec: RoadSpec) -> Road:
    """Whether painting over what a map calls important matters to the network."""
    grad_cam_package()
    split, net = images_of(run), net_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    x, size = few.x, (few.images.shape[2], few.images.shape[3])
    with frozen(net), torch.no_grad():
        y = few.y if spec.of == "true" else net(x).argmax(1)
    heat = class_maps(net, x, y, spec.method)
    other = class_maps(next(random_nets(run, 1, spec.seed)), x, y, spec.method)
    rng = torch.Generator().manual_seed(spec.seed)
    kept = torch.tensor([not flat(each.numpy()) for each in heat])
    if not kept.any():
        raise UserError(
            "Every map of this network is constant, so there is no order in which pixels could be"
            " removed."
        )
    score = np.stack(
        [
            road_scores(net, x[kept], y[kept], maps[kept], size, rng, spec.seed)
            for maps in (heat, other, torch.rand(heat.shape, generator=rng))
        ]
    )
    (mean, low, high), gap = mean_interval(score[0]), mean_interval(score[0] - score[2])
    lost = int((~kept).sum())
    meta = meta_of(run, split, n=len(few), cam=spec.method, of=spec.of, seed=spec.seed)
    meta["summary"] = (
        f"ROAD {mean:.3f} [{low:.3f}, {high:.3f}] over {int(kept.sum())} images; random weights"
        f" {score[1].mean():.3f}, random maps {score[2].mean():.3f}; above random maps by"
        f" {gap[0]:.3f} [{gap[1]:.3f}, {gap[2]:.3f}]"
        + (f"; {lost} constant maps left out" if lost else "")
    )
    return Road(score=score, index=torch.arange(len(few))[kept].numpy(), constant=lost, meta=meta)


def road_scores(
    net: Classifier,
    x: Tensor,
    y: Tensor,
    heat: Tensor,
    size: tuple[int, int],
    rng: torch.Generator,
    seed: int,
) -> np.ndarray:
    """ROAD (N,), −1 to 1, of maps (N,h,w): the mean over `REMOVED` of (least − most relevant pixels
    painted over) / 2.
    """

    def output(label: int) -> Callable[[Tensor], Tensor]:
        return lambda logits: logits.softmax(-1)[label]

    whole = F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False).flatten(1)
    shuffle = torch.rand(whole.shape, generator=rng).argsort(1)
    # by value, ties by chance
    order = shuffle.gather(1, whole.gather(1, shuffle).argsort(dim=1, stable=True))
    rank = torch.empty_like(whole).scatter(
        1, order, torch.linspace(0, 1, whole.shape[1]).expand_as(whole).contiguous()
    )
    # the package's noise knows no generator
    with frozen(net), drawn_from(torch.Generator().manual_seed(seed)):
        score = load("pytorch_grad_cam.metrics.road").ROADCombined(percentiles=list(REMOVED))(
            x, rank.view(len(x), *size).numpy(), [output(int(label)) for label in y], net
        )
    return np.asarray(score, dtype=np.float64)
