"""Whether a network looks at the object: class activation maps and importance masks against the
true pixels of `shapes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import cam, registry
from robustviz.attacks import PGD
from robustviz.inputs import in_parts
from robustviz.nets import Classifier, frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.stats import Bools, Floats
from robustviz.training.evaluate import attacked
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.attention.probe import MAP_HELP, OF_HELP, Method, Of, class_maps, random_nets
from robustviz.views.attention.result import MAPS, OVERLAPS, Overlap
from robustviz.views.measure import Probe, images_of, linf_net, meta_of


@register("probe/overlap")
@dataclass(frozen=True)
class OverlapSpec(Probe[Overlap]):
    """How well maps and masks of the first `n` test images lie on the true object: untouched,
    attacked, with random weights.

    Source: the pointing game and the energy-based one are Zhang et al. 2018 (arXiv 1608.00507) and
    Wang et al. 2020 (arXiv 1910.01279). Differs: no tolerance of 15 pixels around the object,
    images of 32 pixels are too small for it; several hottest pixels share the point.
    """

    n: int = option(200, "How many test images.", low=1)
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    rule: str = option(
        "z>1", "Which pixels the mask marks: z>1, z>0, heat>0.5, top20%; any number."
    )
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random weights.", low=0)

    result = Overlap

    def measure(self, run: Run) -> Overlap:
        split = images_of(run)
        if split.masks is None:
            raise UserError(
                f"Where the object is, is not known for {split.key}: the overlap can be measured on"
                " the data shapes only."
            )
        if self.rule in ("oracle", "jet-compat"):
            raise UserError(
                f"The rule {self.rule} makes no single mask from the map: take z>1, z>0, heat>0.5"
                " or top20%.",
                code=2,
            )
        cam.check_rule(self.rule)
        net, eps = linf_net(run), check_eps(run.eps if self.eps is None else self.eps)
        index = torch.arange(min(self.n, len(split)))
        few = split.take(index)
        assert few.masks is not None
        x, objects, attack = few.x, few.masks[:, 0].numpy(), PGD(eps=eps, steps=self.steps)
        x_adv = attacked(net, x, few.y, attack, self.seed)
        found = [
            overlaps(_heat(one, shown, few.y, self), self.rule, objects)
            for one, shown in ((net, x), (net, x_adv), (next(random_nets(run, 1, self.seed)), x))
        ]
        area = objects.mean((1, 2))
        marked = found[0][4]
        meet = marked * area
        meta = meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=eps,
            steps=self.steps,
            seed=self.seed,
            n=len(few),
            cam=self.method,
            of=self.of,
            rule=self.rule,
        )
        out = Overlap(
            iou=np.stack([one[0] for one in found]),
            pointing=np.stack([one[1] for one in found]),
            energy=np.stack([one[2] for one in found]),
            area=area,
            chance=meet / (marked + area - meet),
            constant=np.array([one[3].sum() for one in found]),
            index=index.numpy(),
            y=few.y.numpy(),
            meta=meta,
        )
        meta["summary"] = _summary(out, eps)
        return out


def _heat(net: Classifier, x: Tensor, y: Tensor, spec: OverlapSpec) -> Tensor:
    out = []
    parts = in_parts(x)
    for images, labels in zip(parts, y.split([len(part) for part in parts]), strict=True):
        if spec.of == "predicted":
            with frozen(net), torch.no_grad():
                labels = net(images).argmax(1)
        out.append(class_maps(net, images, labels, spec.method))
    return torch.cat(out)


def overlaps(
    heat: Tensor, rule: str, objects: Bools
) -> tuple[Floats, Floats, Floats, Bools, Floats]:
    """Of raw maps (N,h,w) and objects (N,H,W): IoU of mask and object, pointing, energy, which maps
    say nothing, the mask's share of the image; (N,) each. A map that is constant where it is
    positive, or nowhere positive, counts as a blind guess.
    """
    size = (objects.shape[1], objects.shape[2])
    mask = cam.importance_mask(heat, rule, size)[:, 0].numpy()
    shared, either = (mask & objects).sum((1, 2)), (mask | objects).sum((1, 2))
    hot = heat.double().relu()
    low, high = hot.amin((1, 2)), hot.amax((1, 2))
    silent = (~(high - low > 1e-6 * high)).numpy()
    hot[torch.from_numpy(silent)] = 1.0
    whole = F.interpolate(hot[:, None], size, mode="bilinear", align_corners=False)[:, 0].numpy()
    top = whole >= whole.max((1, 2), keepdims=True) * (
        1 - 1e-9
    )  # enlarging repeats border pixels: several may be hottest
    pointing = (top & objects).sum((1, 2)) / top.sum((1, 2))
    energy = (whole * objects).sum((1, 2)) / whole.sum((1, 2))
    return shared / np.maximum(either, 1), pointing, energy, silent, mask.mean((1, 2))


def _summary(found: Overlap, eps: float) -> str:
    meta, said = found.meta, []
    for measure in OVERLAPS:
        parts = [
            f"{kind} {{:.2f}} [{{:.2f}}, {{:.2f}}]".format(*found.interval(measure, row))
            for row, kind in enumerate(MAPS)
        ]
        guess = found.chance if measure == "iou" else found.area
        said.append(
            f"{'IoU' if measure == 'iou' else measure} {', '.join(parts)}, by chance"
            f" {guess.mean():.2f}"
        )
    constant = (
        f"; {int(found.constant[0])} clean and {int(found.constant[1])} attacked maps say nothing"
        if found.constant[:2].any()
        else ""
    )
    return (
        f"{'; '.join(said)} ({meta['cam']}, {meta['rule']}, n = {meta['n']}, PGD-{meta['steps']} at"
        f" ε = {eps_text(eps)}, seed {meta['seed']}; 95 %){constant}"
    )
