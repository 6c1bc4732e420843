"""The probe of soft labels: a network's softmax outputs for one image, which show the classes that
it finds similar. Also imports the page's other probes, because `measure` looks for a spec's probe
in the module `probe` of the spec's package.
"""

from __future__ import annotations

import torch

from robustviz import registry
from robustviz.attacks import PGD
from robustviz.runs.folder import Run
from robustviz.types import check_eps, eps_text
from robustviz.views.loss.curvature import curvature as curvature, gradients as gradients
from robustviz.views.loss.result import SoftLabels, SoftLabelsSpec, entropy
from robustviz.views.loss.surfaces import (
    surfaces as surfaces,
    weight_surface as weight_surface,
    worst_direction as worst_direction,
)
from robustviz.views.measure import image_of, meta_of, net_of, probe, radius
from robustviz.views.transfer.probe import logits_of


@probe(SoftLabelsSpec)
def soft_labels(run: Run, spec: SoftLabelsSpec) -> SoftLabels:
    """Compute the logits of one image, clean and attacked on the run's own network by PGD, for soft
    labels at a temperature. Raises UserError for an image index that does not exist and for an
    invalid radius.
    """
    split, x, y = image_of(run, spec.index)
    net = net_of(run)
    attack = PGD(eps=check_eps(radius(run) if spec.eps is None else spec.eps), steps=spec.steps)
    logits = logits_of(
        net, torch.cat([x, attack(net, x, y, rng=torch.Generator().manual_seed(spec.seed))])
    ).numpy()
    eps, names = float(attack.eps or 0), split.classes
    meta = meta_of(run, split, attack=registry.encode(attack), index=spec.index, seed=spec.seed)
    result = SoftLabels(logits[0], logits[1], int(y), spec.temperature, eps, meta=meta)
    states = {
        "untouched": result.probs,
        f"under PGD-{spec.steps} at ε = {eps_text(eps)}": result.probs_adv,
    }
    meta["summary"] = (
        f"image {spec.index}, a {names[result.y]}, at T = {spec.temperature:g}: "
    ) + "; ".join(
        f"{state} {names[probs.argmax()]} ({probs.max():.0%}), entropy {entropy(probs):.2f} nats"
        for state, probs in states.items()
    )
    return result
