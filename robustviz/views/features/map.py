"""Where clean and attacked images lie in feature space, drawn in a plane; and how that came about,
epoch by epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustviz import measures, registry
from robustviz.attacks import PGD
from robustviz.attacks.balls import BALLS
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.stats import Floats
from robustviz.training.evaluate import attacked, norm_of
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.features import embedding
from robustviz.views.features.probe import FeaturesSpec, features_of, voters
from robustviz.views.features.result import FeatureFilm, FeatureMap, Features, own_and_other
from robustviz.views.measure import Probe, images_of, meta_of

FRAMES = 24  # of a film at most; of more epochs some are left out evenly
TITLES = {"centres": "the plane of the class centres", "pca": "PCA", "umap": "UMAP"}


@register("probe/feature_map")
@dataclass(frozen=True)
class FeatureMapSpec(Probe[FeatureMap]):
    """Penultimate features of the first `n` test images, clean and under PGD, as points of a plane.

    `projection`: `centres`, the plane of largest variance of the clean class centres; `pca`, that
    of all points; `umap`, with the cosine metric. The latter two are fitted to clean and attacked
    points together, so that neither is a guest in the other's map. Noise, and the attack at
    `place_eps`, are put into the finished map and change nothing in it.
    """

    projection: Literal["centres", "pca", "umap"] = option(
        "centres", "How the points come into a plane."
    )
    n: int = option(200, "How many test images.", low=1)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of UMAP.", low=0, high=2**32 - 1)
    n_neighbors: int = option(15, "Neighbours of each point in UMAP.", low=2, high=200)
    min_dist: float = option(0.1, "How tightly UMAP packs points.", low=0, high=0.99)
    place_eps: float | None = option(
        None, "Radius of a second attack, put into the finished map; empty: none.", low=0
    )

    result = FeatureMap

    @property
    def cacheable(self) -> bool:
        return self.projection == "umap"

    def features(self, eps: float | None, run: Run) -> FeaturesSpec:
        """What is drawn, and measured beside it: one measurement, made once. `run`: its test images
        may be fewer than `n`.
        """
        return FeaturesSpec(
            n=self.n, eps=eps, steps=self.steps, k=voters(self.n, run), seed=self.seed
        )

    def measure(self, run: Run) -> FeatureMap:
        split = images_of(run)
        count = min(self.n, len(split))
        _check_count(self.projection, count)
        found = self.features(self.eps, run)(run)
        second = None if self.place_eps is None else self.features(self.place_eps, run)(run)
        clean, adv, noise = (
            torch.from_numpy(z).double() for z in (found.clean, found.adversarial, found.noise)
        )
        new = noise[:0] if second is None else torch.from_numpy(second.adversarial).double()
        both = torch.cat([clean, adv])
        axes, origin, share = clean.new_zeros(0, 2), clean.new_zeros(0), math.nan
        if self.projection == "umap":
            at = embedding.umap(
                both, seed=self.seed, n_neighbors=self.n_neighbors, min_dist=self.min_dist
            )
            at_noise, at_new = (embedding.place(z, both, at) for z in (noise, new))
        else:
            centres = self.projection == "centres"
            plane = (
                embedding.centre_plane(clean, torch.from_numpy(found.y), len(split.classes))
                if centres
                else embedding.plane(both)
            )
            axes, origin, share = plane
            at, at_noise, at_new = ((z - origin) @ axes for z in (both, noise, new))
        own, other = (
            np.stack(rows)
            for rows in zip(
                *(found.cosines(name) for name in ("clean", "adversarial", "noise")), strict=True
            )
        )
        trust = embedding.trustworthiness(both, at)
        out = FeatureMap(
            clean=_float32(at[:count]),
            adversarial=_float32(at[count:]),
            noise=_float32(at_noise),
            placed=_float32(at_new),
            y=found.y,
            pred=found.pred,
            pred_adv=found.pred_adv,
            pred_noise=found.pred_noise,
            pred_placed=found.pred[:0] if second is None else second.pred_adv,
            index=found.index,
            own=own,
            other=other,
            moved=found.moved_adv,
            axes=axes.numpy(),
            origin=origin.numpy(),
            share=share,
            trust=trust,
            meta=self.described(run, found),
        )
        out.meta["summary"] = self.summed_up(out)
        return out

    def described(self, run: Run, found: Features) -> dict[str, object]:
        """The protocol: what was attacked how, and what made the map."""
        made = (
            {"metric": "cosine", "n_neighbors": self.n_neighbors, "min_dist": self.min_dist}
            if self.projection == "umap"
            else {}
        )
        kept = {name: found.meta[name] for name in ("attack", "eps", "norm", "seed")}
        return meta_of(
            run,
            images_of(run),
            **kept,
            n=len(found.y),
            place_eps=self.place_eps,
            projection=self.projection,
            **made,
        )

    def summed_up(self, found: FeatureMap) -> str:
        """One sentence: the map, and how many points lie nearer to another class, in
        feature space.
        """
        made = {
            "centres": f"holds {found.share:.0%} of the variance between the class centres",
            "pca": f"holds {found.share:.0%} of the variance",
            "umap": (
                f"metric cosine, n_neighbors {self.n_neighbors}, min_dist {self.min_dist:g}, seed"
                f" {self.seed}"
            ),
        }[self.projection]
        trust = (
            ""
            if math.isnan(found.trust)
            else f", trustworthiness({embedding.TRUST}) {found.trust:.3f}"
        )
        clean, adv, noise = found.astray
        return (
            f"{len(found.y)} images on {TITLES[self.projection]} ({made}{trust}). Nearer to another"
            f" class's centre than to their own, by cosine in feature space: {clean} clean, {adv}"
            f" under PGD-{self.steps} at ε = {eps_text(float(found.meta['eps']))} (seed"
            f" {self.seed}), {noise} with noise of the same ε."
        )


def _float32(z: Tensor) -> Floats:
    return z.numpy().astype(np.float32)


def _check_count(projection: str, count: int) -> None:
    if projection == "umap" and count < embedding.FEWEST:
        raise UserError(
            f"UMAP needs at least {embedding.FEWEST} images, and there are {count}; take more, or"
            " the view of class centres."
        )


@register("probe/feature_film")
@dataclass(frozen=True)
class FeatureFilmSpec(Probe[FeatureFilm]):
    """The features of the first `n` test images at every epoch whose weights were kept. At each
    epoch that epoch's own network is attacked.

    `projection`: `centres`, all on the plane of the last epoch's class centres; `umap`, the last
    epoch's map, and each earlier one starting from the one after it. Either way frames do not jump,
    and do not depend on what was seen before.
    """

    projection: Literal["centres", "umap"] = option("centres", "How the points come into a plane.")
    n: int = option(100, "How many test images.", low=1)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(
        0, "Seed of the attack's noise, of the random control and of UMAP.", low=0, high=2**32 - 1
    )

    result = FeatureFilm

    def name(self, run: Run) -> str:
        # A run that goes on keeps its best weights and gets new snapshots.
        return f"{registry.key(self)}-{max(run.snapshots, default=0)}"

    def measure(self, run: Run) -> FeatureFilm:
        every = run.snapshots
        if len(every) < 2:
            raise UserError(
                f"{run.id} kept the weights of {len(every)} epochs, and a film needs two; train one"
                " like it with the setting snapshots = 2, which keeps every second epoch's (on the"
                " command line: --set snapshots=2)."
            )
        epochs = [
            every[round(at)] for at in np.linspace(0, len(every) - 1, min(len(every), FRAMES))
        ]
        split, norm = images_of(run), norm_of(run.config)
        few = split.take(torch.arange(min(self.n, len(split))))
        x, y, classes = few.x, few.y, len(split.classes)
        _check_count(self.projection, len(y))
        eps = check_eps(run.eps if self.eps is None else self.eps, norm, tuple(x.shape[1:]))
        attack = PGD(norm=norm, eps=eps, steps=self.steps)
        x_noise = BALLS[norm](x, eps).random_start(torch.Generator().manual_seed(self.seed))
        clean, adv, preds, own, other, moved = [], [], [], [], [], []
        for epoch in epochs:
            net = run.net(epoch=epoch)
            shown = (x, attacked(net, x, y, attack, self.seed), x_noise)
            z, logits = zip(*(features_of(net, images) for images in shown), strict=True)
            clean.append(z[0].double())
            adv.append(z[1].double())
            preds.append([answers.argmax(dim=1).numpy() for answers in logits[:2]])
            cosines = [
                [part.mean() for part in own_and_other(one.numpy(), z[0].numpy(), y.numpy())]
                for one in z
            ]
            own.append([mine for mine, _ in cosines])
            other.append([theirs for _, theirs in cosines])
            apart = (
                measures.displacement(z[0], one, x, images, y, classes, norm)
                for one, images in zip(z[1:], shown[1:], strict=True)
            )
            moved.append([float(far.relative.mean()) for far in apart])
        if self.projection == "umap":
            maps = self.chained([torch.cat(both) for both in zip(clean, adv, strict=True)])
            frames = [
                np.stack([_float32(at[part]) for at in maps])
                for part in (slice(len(y)), slice(len(y), None))
            ]
        else:
            axes, origin, _ = embedding.centre_plane(clean[-1], y, classes)
            frames = [
                np.stack([_float32((z - origin) @ axes) for z in these]) for these in (clean, adv)
            ]
        pred, pred_adv = (np.stack([both[at] for both in preds]) for at in (0, 1))
        k = (pred_adv == y.numpy()).sum(axis=1)
        summary = (
            f"{len(epochs)} epochs from {epochs[0]} to {epochs[-1]}, {len(y)} images,"
            f" PGD-{self.steps} at ε = {eps_text(eps)}: cosine of attacked images to their own"
            f" class's centre {own[0][1]:.2f} → {own[-1][1]:.2f}, to the nearest other"
            f" {other[0][1]:.2f} → {other[-1][1]:.2f}; right under attack {k[0]} → {k[-1]}."
        )
        made = {
            "projection": self.projection,
            "attack": registry.encode(attack),
            "eps": eps,
            "norm": norm,
            "seed": self.seed,
        }
        meta = meta_of(run, split, **made, n=len(y), summary=summary)
        return FeatureFilm(
            epochs=np.array(epochs),
            clean=frames[0],
            adversarial=frames[1],
            y=y.numpy(),
            index=np.arange(len(y)),
            pred=pred,
            pred_adv=pred_adv,
            own=np.array(own),
            other=np.array(other),
            moved=np.array(moved),
            meta=meta,
        )

    def chained(self, points: list[Tensor]) -> list[Tensor]:
        """A map (N,2) of the same N points at each epoch: UMAP of the last, and back from there
        each from the one after it.
        """
        maps = [embedding.umap(points[-1], seed=self.seed)]
        for z in reversed(points[:-1]):
            maps.append(embedding.umap(z, seed=self.seed, init=maps[-1]))
        return maps[::-1]
