"""The probe of one image's class activation maps, clean and attacked, and of PART's budget.

A map by itself proves nothing, so the same network with random weights is a control: a map made
with random weights should not resemble that of the trained network (Adebayo et al. 2018, arXiv
1810.03292). ROAD (`overlap.road`) is another check.
"""

from __future__ import annotations

import numpy as np
import torch

from robustviz import attacks, cam, nets
from robustviz.data import Dataset
from robustviz.runs.folder import Run
from robustviz.stats import flat, spearman
from robustviz.types import check_eps, eps_text
from robustviz.views.attention.levels import attention_levels as attention_levels
from robustviz.views.attention.maps import (
    check_rule,
    class_maps,
    mask_of,
    object_of,
    random_nets,
    without_one_colour,
)
from robustviz.views.attention.overlap import overlap as overlap, road as road
from robustviz.views.attention.result import Attention, AttentionSpec
from robustviz.views.measure import image_of, meta_of, net_of, probe, radius


@probe(AttentionSpec)
def attention(run: Run, spec: AttentionSpec) -> Attention:
    """Compute the class activation maps of one test image, clean, attacked and by networks with
    random weights; PART's mask and budget (the radius of each pixel); and an attack within this
    budget. Raises UserError for an unknown image, an invalid radius, an ε_low above ε, a rule that
    is unknown or does not fit the data, and wherever `class_maps` does.
    """
    split, x, y = image_of(run, spec.index)
    net, eps = net_of(run), check_eps(radius(run) if spec.eps is None else spec.eps)
    eps_low = 7 / 8 * eps if spec.eps_low is None else spec.eps_low
    check_rule(split, spec.rule)
    attack = attacks.PGD(eps=eps, steps=spec.steps)
    x_adv = attack(net, x, y, rng=torch.Generator().manual_seed(spec.seed))
    both = torch.cat([x, x_adv])
    with nets.frozen(net), torch.no_grad():
        probs = net(both).softmax(dim=1)
    labels = y.repeat(2) if spec.of == "true" else probs.argmax(dim=1)
    heat = class_maps(net, both, labels, spec.method)
    mask = mask_of(split, net, spec, heat[:1])
    budget = cam.budget_map(mask, eps, eps_low)
    with nets.frozen(net):
        rng = torch.Generator().manual_seed(spec.seed)
        x_part = attack.maximise(attack.objective(net, y), x, eps=budget, rng=rng)
        with torch.no_grad():
            probs_part = net(x_part).softmax(dim=1)
    random = np.stack(
        [
            class_maps(other, x, labels[:1], spec.method)[0].numpy()
            for other in random_nets(run, spec.controls, spec.seed)
        ]
    )
    result = Attention(
        x=x[0].numpy(),
        x_adv=x_adv[0].numpy(),
        x_part=x_part[0].numpy(),
        heat=heat[0].numpy(),
        heat_adv=heat[1].numpy(),
        heat_random=random,
        mask=without_one_colour(mask),
        budget=without_one_colour(budget),
        object=object_of(split, spec.index),
        y=int(y),
        label=int(labels[0]),
        label_adv=int(labels[1]),
        probs=probs[0].numpy(),
        probs_adv=probs[1].numpy(),
        probs_part=probs_part[0].numpy(),
        eps=eps,
        eps_low=eps_low,
        drift=spearman(heat[0].numpy(), heat[1].numpy()),
        control=np.array([spearman(heat[0].numpy(), each) for each in random]),
        meta=_meta(run, split, spec, eps, eps_low),
    )
    result.meta["summary"] = _summary(result)
    return result


def _meta(
    run: Run, split: Dataset, spec: AttentionSpec, eps: float, eps_low: float
) -> dict[str, object]:
    return meta_of(
        run,
        split,
        steps=spec.steps,
        seed=spec.seed,
        index=spec.index,
        cam=spec.method,
        of=spec.of,
        rule=spec.rule,
        eps=eps,
        eps_low=eps_low,
        attack=f"PGD-{spec.steps}",
    )


def _summary(result: Attention) -> str:
    names, grid = result.meta["classes"], "×".join(map(str, result.heat.shape))
    before, after = int(result.probs.argmax()), int(result.probs_adv.argmax())
    known = result.control[np.isfinite(result.control)]
    constant = "untouched" if result.constant else "attacked" if flat(result.heat_adv) else ""
    parts = [
        f"{names[before]} ({result.probs[before]:.0%}) → {names[after]}"
        f" ({result.probs_adv[after]:.0%}) under PGD-{result.meta['steps']}, ε ="
        f" {eps_text(result.eps)}",
        f"the {grid} map of the {constant} image is constant and says nothing"
        if constant
        else f"rank correlation of the clean and the attacked {grid} map {result.drift:.2f}, "
        + (
            f"with random weights {known.mean():.2f} on average"
            if len(known)
            else "the random networks' maps are constant"
        ),
        f"{result.mask.mean():.0%} of the pixels are important ({result.meta['rule']})",
    ]
    if result.object.size:
        mask = result.mask if result.mask.ndim == 2 else result.mask.mean(0)
        share = f"{(mask * result.object).sum() / mask.sum():.0%} of them" if mask.any() else "none"
        parts[-1] += (
            f", {share} on the true object (it fills {result.object.mean():.0%} of the image)"
        )
    return "; ".join(parts)
