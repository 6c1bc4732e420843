"""What a network makes of clean, attacked and randomly noised images just before its last layer,
and how tidy that is.

The noise is the control: what it does too is not the attack's doing. It has the attack's ε, yet is
shorter in ℓ2 (uniform noise fills the box, PGD goes to its corners), so it answers "does any change
of this size do that?", not "of this length".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustviz import measures, registry
from robustviz.attacks import PGD
from robustviz.attacks.balls import BALLS
from robustviz.inputs import in_parts
from robustviz.nets import Classifier, frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.training.evaluate import attacked, norm_of
from robustviz.types import check_eps, eps_text
from robustviz.views.features.result import Features
from robustviz.views.measure import Probe, images_of, meta_of, net_of

VOTES = 10  # neighbours that vote, where there are so many


def voters(n: int, run: Run) -> int:
    """How many neighbours vote among the first `n` test images of a run: all others where these are
    few.
    """
    return min(VOTES, max(1, min(n, len(images_of(run))) - 1))


def features_of(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """(features (N,D), logits (N,K)) of images (N,C,H,W): what `pool` gives to `head`, and what
    `head` makes of it.
    """
    out = []
    with frozen(net), torch.no_grad():
        for part in in_parts(x):
            z = net.pool(net.maps(part))
            out.append((z.flatten(1), net.head(z)))
    return torch.cat([z for z, _ in out]), torch.cat([logits for _, logits in out])


def describe(
    z: Tensor,
    clean: Tensor,
    y: Tensor,
    pred: Tensor,
    k: int,
    centres: Tensor,
    moved: measures.Displacement,
) -> dict[str, float]:
    """Every measure of the points `z` (N,D) by name, those that compare with their `clean` twins
    included.

    `own_cosine`, `other_cosine`: of an image and the clean centre of its class, and of the other
    class whose centre is nearest, mean over images. `centre_own`, `centre_other`: mean over the
    diagonal of `centres` (K,K) and over the rest. `among_clean`: the neighbours are sought among
    the clean points, without the image's own twin, because attacked images may well form new
    clusters of one class.
    """
    own = torch.eye(len(centres), dtype=torch.bool)
    to = measures.cosines_to_centres(z, measures.class_centres(clean, y, len(centres)))
    others = (
        to.scatter(1, y[:, None], -torch.inf)
        .nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        .amax(dim=1)
    )
    return {
        "accuracy": float((pred == y).double().mean()),
        "alignment": measures.alignment(z, y),
        "uniformity": measures.uniformity(z),
        "silhouette": measures.silhouette(z, y),
        "davies_bouldin": measures.davies_bouldin(z, y),
        "knn_accuracy": measures.knn_accuracy(z, y, k),
        "neighbourhood_hit": measures.neighbourhood_hit(z, y, k),
        "knn_among_clean": measures.knn_accuracy(z, y, k, among=clean),
        "hit_among_clean": measures.neighbourhood_hit(z, y, k, among=clean),
        "own_cosine": float(to.gather(1, y[:, None]).mean()),
        "other_cosine": float(others.mean()),
        "centre_own": float(centres[own].nanmean()),
        "centre_other": float(centres[~own].nanmean()),
        "twin_alignment": measures.alignment_of_pairs(clean, z),
        "cka": measures.linear_cka(clean, z),
        "lipschitz": float(moved.lipschitz.mean()),
        "moved": float(moved.relative.mean()),
    }


@register("probe/features")
@dataclass(frozen=True)
class FeaturesSpec(Probe[Features]):
    """Penultimate features of the first `n` test images: clean, under PGD, and with uniform noise
    of the same ε.

    The attack is the evaluation's (same norm, same noise), so the answers are those that it counts.
    """

    n: int = option(500, "How many test images.", low=1)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    k: int = option(VOTES, "How many nearest neighbours vote.", low=1)
    seed: int = option(0, "Seed of the attack's noise and of the random control.", low=0)
    class_: str = option(
        "",
        "A class whose row and cause of misalignment are printed; empty: all images in one"
        " sentence.",
    )

    result = Features

    def name(self, run: Run) -> str:
        return registry.key(replace(self, class_=""))

    def __call__(self, run: Run) -> Features:
        if not self.class_:
            return super().__call__(run)
        from robustviz.views.misalignment.probe import (
            MisalignmentSpec,
        )  # which asks for these features

        causes = MisalignmentSpec(
            n=self.n, eps=self.eps, steps=self.steps, seed=self.seed, class_=self.class_
        )(run)
        row = [row for row in causes.rows() if row["class"] == self.class_]
        found = replace(self, class_="")(run)
        return replace(found, meta=found.meta | {"summary": causes.meta["summary"], "table": row})

    def measure(self, run: Run) -> Features:
        split, norm = images_of(run), norm_of(run.config)
        index = torch.arange(min(self.n, len(split)))
        few = split.take(index)
        x, y, classes = few.x, few.y, len(split.classes)
        eps = check_eps(run.eps if self.eps is None else self.eps, norm, tuple(x.shape[1:]))
        net, attack = net_of(run), PGD(norm=norm, eps=eps, steps=self.steps)
        images = {
            "clean": x,
            "adversarial": attacked(net, x, y, attack, self.seed),
            "noise": BALLS[norm](x, eps).random_start(torch.Generator().manual_seed(self.seed)),
        }
        z, pred, centres, moved = {}, {}, {}, {}
        for name, these in images.items():
            z[name], logits = features_of(net, these)
            pred[name] = logits.argmax(dim=1)
            centres[name] = measures.centre_cosines(z["clean"], z[name], y, classes)
            moved[name] = measures.displacement(z["clean"], z[name], x, these, y, classes, norm)
        found = {
            name: describe(z[name], z["clean"], y, pred[name], self.k, centres[name], moved[name])
            for name in images
        }
        clean, adv, noise = found["clean"], found["adversarial"], found["noise"]
        summary = (
            f"Under PGD-{self.steps} at ε = {eps_text(eps)} images have a cosine of"
            f" {adv['own_cosine']:.2f} to their own class's clean centre and"
            f" {adv['other_cosine']:.2f} to the nearest other (clean: {clean['own_cosine']:.2f} and"
            f" {clean['other_cosine']:.2f}, noise of the same ε: {noise['own_cosine']:.2f} and"
            f" {noise['other_cosine']:.2f}). {self.k}-NN accuracy among clean images:"
            f" {clean['knn_among_clean']:.2f} clean, {adv['knn_among_clean']:.2f} attacked,"
            f" {noise['knn_among_clean']:.2f} with noise."
        )
        meta = meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=eps,
            norm=norm,
            seed=self.seed,
            k=self.k,
            summary=summary,
        )
        return Features(
            clean=z["clean"].numpy(),
            adversarial=z["adversarial"].numpy(),
            noise=z["noise"].numpy(),
            y=y.numpy(),
            pred=pred["clean"].numpy(),
            pred_adv=pred["adversarial"].numpy(),
            pred_noise=pred["noise"].numpy(),
            index=index.numpy(),
            centres_clean=centres["clean"].numpy(),
            centres_adv=centres["adversarial"].numpy(),
            centres_noise=centres["noise"].numpy(),
            lipschitz_adv=moved["adversarial"].lipschitz.numpy(),
            lipschitz_noise=moved["noise"].lipschitz.numpy(),
            moved_adv=moved["adversarial"].relative.numpy(),
            moved_noise=moved["noise"].relative.numpy(),
            measures=found,
            meta=meta,
        )
