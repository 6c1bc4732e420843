"""Two measurements on the maps of many images: whether maps and masks lie on the true object (data
set `shapes`), and whether the pixels they mark matter to the network (ROAD).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import attacks, cam, chance, imports, inputs, nets, registry
from robustviz.runs.folder import Run
from robustviz.stats import Bools, Floats, flat, mean_interval
from robustviz.training.evaluate import attacked
from robustviz.types import MAP_RULES, UserError, check_eps, eps_text
from robustviz.views.attention.maps import class_maps, grad_cam_package, random_nets
from robustviz.views.attention.result import MAPS, OVERLAPS, Overlap, OverlapSpec, Road, RoadSpec
from robustviz.views.measure import images_of, meta_of, net_of, probe, radius

REMOVED = (20, 40, 60, 80)  # percentiles of the map's values at which ROAD splits the pixels


@probe(OverlapSpec)
def overlap(run: Run, spec: OverlapSpec) -> Overlap:
    """Measure how well the maps of the first `spec.n` test images lie on the true object. Raises
    UserError for data without object masks, an unknown rule, the rules oracle and jet-compat, an
    invalid radius, and wherever `class_maps` does.
    """
    split = images_of(run)
    if split.masks is None:
        raise UserError(
            f"The data set {split.key} has no object masks: the overlap can be measured only on"
            " the data set shapes."
        )
    if spec.rule in ("oracle", "jet-compat"):
        raise UserError(
            f"The rule {spec.rule} does not compute one mask from the map: choose"
            f" {', '.join(MAP_RULES[:-1])} or {MAP_RULES[-1]}.",
            code=2,
        )
    cam.check_rule(spec.rule)
    net, eps = net_of(run), check_eps(radius(run) if spec.eps is None else spec.eps)
    index = torch.arange(min(spec.n, len(split)))
    few, attack = split.take(index), attacks.PGD(eps=eps, steps=spec.steps)
    objects = split.masks[index, 0].numpy()
    random = next(random_nets(run, 1, spec.seed))
    iou, pointing, energy, silent, marked = zip(
        *(
            overlaps(_heat(judge, x, few.y, spec), spec.rule, objects)
            for judge, x in (
                (net, few.x),
                (net, attacked(net, few.x, few.y, attack, spec.seed)),
                (random, few.x),
            )
        ),
        strict=True,
    )
    area = objects.mean((1, 2))
    meet = marked[0] * area
    result = Overlap(
        iou=np.stack(iou),
        pointing=np.stack(pointing),
        energy=np.stack(energy),
        area=area,
        chance=meet / (marked[0] + area - meet),
        constant=np.sum(silent, axis=1),
        index=index.numpy(),
        y=few.y.numpy(),
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=eps,
            steps=spec.steps,
            seed=spec.seed,
            n=len(few),
            cam=spec.method,
            of=spec.of,
            rule=spec.rule,
        ),
    )
    result.meta["summary"] = _summary(result)
    return result


def _heat(net: nets.Classifier, x: Tensor, y: Tensor, spec: OverlapSpec) -> Tensor:
    out, parts = [], inputs.in_parts(x)
    for images, labels in zip(parts, torch.split(y, len(parts[0])), strict=True):
        if spec.of == "predicted":
            with nets.frozen(net), torch.no_grad():
                labels = net(images).argmax(1)
        out.append(class_maps(net, images, labels, spec.method))
    return torch.cat(out)


def overlaps(
    heat: Tensor, rule: str, objects: Bools
) -> tuple[Floats, Floats, Floats, Bools, Floats]:
    """Returns five arrays (N,) on how raw maps `heat` (N,h,w) overlap with the masks `objects`
    (N,H,W).

    These are: the IoU of the mask by `rule` and the object; pointing, the share of the hottest
    pixels that lie on the object; energy, the share of the sum of the map's positive part that lies
    on the object; which maps carry no information, bool; and the mask's share of the image. A map
    whose positive part is constant, such as one without positive values, carries no information and
    is taken as 1 everywhere, like a blind guess.
    """
    size = (objects.shape[1], objects.shape[2])
    mask = cam.importance_mask(heat, rule, size)[:, 0].numpy()
    shared, either = (mask & objects).sum((1, 2)), (mask | objects).sum((1, 2))
    whole, top, silent = hottest(heat, size)
    return (
        shared / np.maximum(either, 1),
        (top & objects).sum((1, 2)) / top.sum((1, 2)),
        (whole * objects).sum((1, 2)) / whole.sum((1, 2)),
        silent,
        mask.mean((1, 2)),
    )


def hottest(heat: Tensor, size: tuple[int, int]) -> tuple[Floats, Bools, Bools]:
    """Returns three arrays for raw maps `heat` (N,h,w): the positive part of each map, float64,
    enlarged bilinearly to `size` (H,W), (N,H,W); which pixels have the maximum of the enlarged map,
    usually one, more if several are equal, (N,H,W) bool; and which maps carry no information, (N,)
    bool.

    A map carries no information if its positive part is constant; this part is then taken as 1
    everywhere.
    """
    hot = heat.double().relu()
    low, high = hot.amin((1, 2)), hot.amax((1, 2))
    silent = (~(high - low > 1e-6 * high)).numpy()
    hot[torch.from_numpy(silent)] = 1.0
    whole = F.interpolate(hot[:, None], size, mode="bilinear", align_corners=False)[:, 0].numpy()
    # enlarging repeats border pixels, so several may share the maximum
    return whole, whole >= whole.max((1, 2), keepdims=True) * (1 - 1e-9), silent


def _summary(result: Overlap) -> str:
    meta, (clean, adversarial, _) = result.meta, result.constant
    parts = [
        ("IoU " if measure == "iou" else f"{measure} ")
        + "".join(
            "{} {:.2f} [{:.2f}, {:.2f}], ".format(kind, *result.interval(measure, row))
            for row, kind in enumerate(MAPS)
        )
        + f"by chance {result.guess(measure):.2f}"
        for measure in OVERLAPS
    ]
    return (
        f"{'; '.join(parts)} ({meta['cam']}, {meta['rule']}, n = {meta['n']}, PGD-{meta['steps']}"
        f" at ε = {eps_text(meta['eps'])}, seed {meta['seed']}; 95%)"
    ) + (
        f"; {clean} clean and {adversarial} attacked maps are constant"
        if clean or adversarial
        else ""
    )


@probe(RoadSpec)
def road(run: Run, spec: RoadSpec) -> Road:
    """Measure with ROAD whether the pixels that a map marks matter to the network, on the first
    `spec.n` test images without those whose map is constant. Raises UserError if the package
    grad-cam is not installed, if all maps are constant, and wherever `class_maps` does.
    """
    grad_cam_package()
    split, net = images_of(run), net_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    x, size = few.x, (few.images.shape[2], few.images.shape[3])
    with nets.frozen(net), torch.no_grad():
        y = few.y if spec.of == "true" else net(x).argmax(1)
    heat = class_maps(net, x, y, spec.method)
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
            for maps in (
                heat,
                class_maps(next(random_nets(run, 1, spec.seed)), x, y, spec.method),
                torch.rand(heat.shape, generator=rng),
            )
        ]
    )
    own, gap = (
        "{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(row))
        for row in (score[0], score[0] - score[2])
    )
    lost = int((~kept).sum())
    summary = (
        f"ROAD {own} over {int(kept.sum())} images; random weights {score[1].mean():.3f}, random"
        f" maps {score[2].mean():.3f}; above random maps by {gap}"
        + (f"; {lost} constant maps left out" if lost else "")
    )
    return Road(
        score=score,
        index=torch.arange(len(few))[kept].numpy(),
        constant=lost,
        meta=meta_of(
            run, split, n=len(few), cam=spec.method, of=spec.of, seed=spec.seed, summary=summary
        ),
    )


def road_scores(
    net: nets.Classifier,
    x: Tensor,
    y: Tensor,
    heat: Tensor,
    size: tuple[int, int],
    rng: torch.Generator,
    seed: int,
) -> np.ndarray:
    """Returns the ROAD scores (N,), −0.5 to 0.5, of maps `heat` (N,h,w) of images `x` (N,C,H,W) for
    classes `y` (N,).

    A score is described at `Road`. `size`: (H, W) of the images; `rng`: puts pixels of equal value
    in a random order; `seed`: of the noise that ROAD adds to the pixels it paints over.
    """
    whole = F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False).flatten(1)
    shuffle = torch.rand(whole.shape, generator=rng).argsort(1)
    # pixels sorted by value, ties in random order
    order = shuffle.gather(1, whole.gather(1, shuffle).argsort(dim=1, stable=True))
    rank = torch.empty_like(whole).scatter(
        1, order, torch.linspace(0, 1, whole.shape[1]).expand_as(whole).contiguous()
    )
    output = imports.load("pytorch_grad_cam.utils.model_targets").ClassifierOutputSoftmaxTarget
    # the package takes no generator for its noise; `drawn_from` gives it one
    with nets.frozen(net), chance.drawn_from(torch.Generator().manual_seed(seed)):
        score = imports.load("pytorch_grad_cam.metrics.road").ROADCombined(
            percentiles=list(REMOVED)
        )(x, rank.view(len(x), *size).numpy(), [output(int(label)) for label in y], net)
    return np.asarray(score, dtype=np.float64)
