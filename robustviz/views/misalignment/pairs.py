"""How pairs of features lie on the unit sphere: distances within classes and between them, and both
over the epochs.
"""

from __future__ import annotations

import numpy as np
import torch

from robustviz import measures
from robustviz.runs.folder import Run
from robustviz.views.features.probe import features, features_of
from robustviz.views.features.result import FeaturesSpec
from robustviz.views.measure import images_of, meta_of, probe
from robustviz.views.misalignment.result import Pairs, PairsSpec, Uniformity, UniformitySpec


@probe(PairsSpec)
def pairs(run: Run, spec: PairsSpec) -> Pairs:
    """Distances of pairs of features of one class and of two."""
    seen = features(run, spec.alike(FeaturesSpec))
    z = measures.unit(torch.from_numpy(seen.points(spec.images)))
    apart = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").clamp(max=2).numpy()
    first, second = np.triu_indices(len(z), 1)
    far, alike = apart[first, second], seen.y[first] == seen.y[second]
    edges = np.linspace(0, 2, spec.bins + 1)
    same, different = (np.histogram(far[which], edges)[0] for which in (alike, ~alike))
    within, between = (
        float(far[which].mean()) if which.any() else float("nan") for which in (alike, ~alike)
    )
    method = run.config.method
    # As long as nothing is weighed by it, a margin pushes nothing.
    margin = float(method.margin) if getattr(method, "margin_weight", 0) else None  # type: ignore[attr-defined]
    summary = (
        f"Mean distance of two {spec.images} images: {within:.2f} of one class, {between:.2f} of"
        f" two (n = {len(z)})."
    )
    said = {"images": spec.images, "n": len(z), "within": within, "between": between}
    kept = {name: seen.meta[name] for name in ("attack", "eps", "seed")}
    meta = meta_of(run, images_of(run), **said, **kept, summary=summary)
    return Pairs(edges, same, different, margin, meta=meta)


@probe(UniformitySpec)
def uniformity(run: Run, spec: UniformitySpec) -> Uniformity:
    """Alignment and uniformity of the features over epochs."""
    split = images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    epochs = [*run.snapshots, -1]
    nets = (run.net(None if epoch < 0 else epoch) for epoch in epochs)
    clouds = (features_of(net, few.x)[0] for net in nets)
    points = [(measures.alignment(z, few.y), measures.uniformity(z)) for z in clouds]
    alignment, spread = np.array(points).T
    summary = (
        f"Alignment {alignment[-1]:.2f} (0: each class one direction), uniformity"
        f" {spread[-1]:.2f} (lower: more evenly spread)"
    )
    summary += (
        f"; from epoch {epochs[0]}: {alignment[0]:.2f}, {spread[0]:.2f}."
        if len(epochs) > 1
        else "; no epoch was kept."
    )
    meta = meta_of(run, split, n=len(few), summary=summary)
    return Uniformity(np.array(epochs), alignment, spread, meta=meta)
