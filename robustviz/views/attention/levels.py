"""The probe for the Attention page's first screen: the class activation maps of one image attacked
at several radii.
"""

from __future__ import annotations

import numpy as np
import torch

from robustviz import attacks, nets
from robustviz.runs.folder import Run
from robustviz.stats import spearman
from robustviz.types import check_eps, eps_text
from robustviz.views.attack.probe import with_each
from robustviz.views.attention.maps import (
    check_rule,
    class_maps,
    mask_of,
    object_of,
    without_one_colour,
)
from robustviz.views.attention.overlap import hottest
from robustviz.views.attention.result import AttentionLevels, AttentionLevelsSpec, levels_of
from robustviz.views.measure import image_of, meta_of, net_of, probe, radius


@probe(AttentionLevelsSpec)
def attention_levels(run: Run, spec: AttentionLevelsSpec) -> AttentionLevels:
    """Compute class activation maps and softmax outputs of one test image, untouched and under PGD
    at each radius of `levels_of`, and PART's mask of the untouched image. Raises UserError for an
    unknown image, for an invalid radius, for a rule that is unknown or does not fit the data, and
    wherever `class_maps` does.
    """
    split, x, y = image_of(run, spec.index)
    check_rule(split, spec.rule)
    net, eps = net_of(run), check_eps(radius(run) if spec.eps is None else spec.eps)
    levels = np.array(levels_of(eps))
    # the same attacks as on the Attack page, so that both pages show the same answers
    attack = attacks.PGD(steps=spec.steps)
    every = torch.cat([x, with_each(net, attack, x, y, levels[1:], spec.seed)])
    with nets.frozen(net), torch.no_grad():
        probs = net(every).softmax(dim=1)
    label = y.repeat(len(every)) if spec.of == "true" else probs.argmax(dim=1)
    heat = class_maps(net, every, label, spec.method)
    _, top, silent = hottest(heat, (x.shape[2], x.shape[3]))
    places = np.array([np.argwhere(each).mean(0) for each in top])
    places[silent] = np.nan
    known = object_of(split, spec.index)
    on = np.array([known[each].mean() if known.size else np.nan for each in top])
    on[silent] = np.nan
    maps, whole = heat.numpy(), (255 * every).round()
    at = int(np.abs(levels - 255 * eps).argmin())
    answers = [split.classes[int(probs[k].argmax())] for k in (0, at)]
    drift = np.array([spearman(maps[0], each) for each in maps])
    return AttentionLevels(
        x=whole[0].to(torch.uint8).numpy(),
        # small integers compress well
        change=(whole - whole[0]).to(torch.int8 if levels[-1] < 128 else torch.int16).numpy(),
        levels=levels,
        probs=probs.numpy(),
        heat=maps,
        label=label.numpy(),
        hottest=places,
        on=on,
        drift=drift,
        mask=without_one_colour(mask_of(split, net, spec, heat[:1])),
        object=known,
        y=int(y),
        eps=eps,
        meta=meta_of(
            run,
            split,
            index=spec.index,
            cam=spec.method,
            of=spec.of,
            rule=spec.rule,
            steps=spec.steps,
            seed=spec.seed,
            attack=f"PGD-{spec.steps}",
            summary=f"{answers[0]} → {answers[1]} at ε = {eps_text(levels[at] / 255)}; rank"
            f" correlation of the two maps {drift[at]:.2f}",
        ),
    )
