"""How pairs of features lie on the unit sphere: distances within classes and between them, and both
over the epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from robustviz import measures
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.views.features.probe import FeaturesSpec, features_of, voters
from robustviz.views.measure import Probe, images_of, meta_of
from robustviz.views.misalignment.result import Pairs, Uniformity


@register("probe/pairs")
@dataclass(frozen=True)
class PairsSpec(Probe[Pairs]):
    """A histogram of the distances of all pairs of features at length 1, from `features` with the
    same settings.
    """

    n: int = option(500, "How many test images.", low=2)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    images: Literal["clean", "adversarial", "noise"] = option("clean", "Features of which images.")
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random control.", low=0)
    bins: int = option(40, "How many bars from 0 to 2.", low=2, high=200)

    result = Pairs

    def measure(self, run: Run) -> Pairs:
        seen = FeaturesSpec(
            n=self.n, eps=self.eps, steps=self.steps, k=voters(self.n, run), seed=self.seed
        )(run)
        z = measures.unit(torch.from_numpy(getattr(seen, self.images)))
        y, pairs = torch.from_numpy(seen.y), torch.triu_indices(len(z), len(z), 1)
        far = (
            torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")[pairs[0], pairs[1]]
            .clamp(max=2)
            .numpy()
        )
        alike = (y[pairs[0]] == y[pairs[1]]).numpy()
        edges = np.linspace(0, 2, self.bins + 1)
        same, different = (np.histogram(far[which], edges)[0] for which in (alike, ~alike))
        method = run.config.method
        # As long as nothing is weighed by it, a margin pushes nothing.
        margin = float(method.margin) if getattr(method, "margin_weight", 0) else None  # type: ignore[attr-defined]
        within, between = (
            float(far[which].mean()) if which.any() else float("nan") for which in (alike, ~alike)
        )
        summary = (
            f"Mean distance of two {self.images} images: {within:.2f} of one class, {between:.2f}"
            f" of two (n = {len(z)})."
        )
        meta = meta_of(
            run,
            images_of(run),
            images=self.images,
            n=len(z),
            within=within,
            between=between,
            seed=self.seed,
            attack=seen.meta["attack"],
            eps=seen.meta["eps"],
            summary=summary,
        )
        return Pairs(edges, same, different, margin, meta=meta)


@register("probe/uniformity")
@dataclass(frozen=True)
class UniformitySpec(Probe[Uniformity]):
    """Alignment and uniformity of the untouched features of the first `n` test images, for each
    epoch that was kept and the best one.

    Source: Wang and Isola 2020 (arXiv 2005.10242).
    """

    n: int = option(500, "How many test images.", low=2)

    result = Uniformity

    def measure(self, run: Run) -> Uniformity:
        split = images_of(run)
        few = split.take(torch.arange(min(self.n, len(split))))
        epochs = [*run.snapshots, -1]
        points = []
        for epoch in epochs:
            z, _ = features_of(run.net(None if epoch < 0 else epoch), few.x)
            points.append((measures.alignment(z, few.y), measures.uniformity(z)))
        alignment, uniformity = np.array(points).T
        summary = (
            f"Alignment {alignment[-1]:.2f} (0: each class one direction), uniformity"
            f" {uniformity[-1]:.2f} (lower: more evenly spread)"
        )
        summary += (
            f"; from epoch {epochs[0]}: {alignment[0]:.2f}, {uniformity[0]:.2f}."
            if len(epochs) > 1
            else "; no epoch was kept."
        )
        return Uniformity(
            np.array(epochs),
            alignment,
            uniformity,
            meta=meta_of(run, split, n=len(few), summary=summary),
        )
