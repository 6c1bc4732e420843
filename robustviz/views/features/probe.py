"""The probes of the Features page: penultimate-layer features of clean, attacked and noisy images,
their measures and their maps, also epoch by epoch. Uniform noise of the same ε is the control: an
effect that the noise has, too, is not due to the attack. The noise has a smaller ℓ2 norm than the
attack: it is spread evenly over the ε box, while PGD ends mostly at the box's corners.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustviz import measures, registry
from robustviz.attacks import PGD
from robustviz.attacks.balls import Linf
from robustviz.data import Dataset
from robustviz.inputs import in_parts
from robustviz.nets import Classifier, frozen
from robustviz.runs.folder import Run
from robustviz.stats import Floats, Ints
from robustviz.training.evaluate import attacked
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views import pictures
from robustviz.views.features import embedding
from robustviz.views.features.result import (
    COLUMNS,
    KINDS,
    TENTHS,
    AttackedSpec,
    FeatureFilm,
    FeatureFilmSpec,
    FeatureMap,
    FeatureMapSpec,
    Features,
    FeaturesSpec,
    FeatureTiles,
    FeatureTilesSpec,
    Images,
    own_and_other,
)
from robustviz.views.measure import images_of, meta_of, net_of, probe, radius

VOTES = 10  # nearest neighbours that vote, if there are that many
FRAMES = 24  # epochs of a film at most; of more, evenly spaced ones are shown
EXACT = 64 * 1024  # a sheet of at most so many bytes is stored as PNG, a larger one as WebP
SHEETS: tuple[tuple[str, dict[str, Any]], ...] = (("png", {}), ("webp", {"quality": 85}))
TITLES = {"centres": "the plane of the class centres", "pca": "PCA", "umap": "UMAP"}


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be measured for a spec and a run: the test `images`, the `attack` on them, the
    `seed` of its random start, and `noisy` (N,C,H,W), the images with uniform noise of the same ε.
    `meta`: the result's metadata, which say what the run and the attack are.
    """

    images: Dataset
    attack: PGD
    noisy: Tensor
    seed: int
    meta: dict[str, object]

    def seen_by(self, net: Classifier) -> dict[Images, Tensor]:
        """The images (N,C,H,W) by kind: `clean`, `adversarial` (attacked on `net`), `noise`."""
        return {
            "clean": self.images.x,
            "adversarial": attacked(net, self.images.x, self.images.y, self.attack, self.seed),
            "noise": self.noisy,
        }

    def displacement(self, clean: Tensor, moved: Tensor, x_moved: Tensor) -> measures.Displacement:
        """How far each image's features moved, `clean` to `moved`, both (N,D), as the task's images
        became `x_moved` (N,C,H,W). Raises UserError if all images are of one class.
        """
        few = self.images
        return measures.displacement(
            clean, moved, few.x, x_moved, few.y, len(few.classes), self.attack.norm
        )


def task_of(run: Run, spec: AttackedSpec[Any]) -> Task:
    """The task of a spec for a run. The attack is in linf, even if the network was trained in l2.
    Raises UserError for an invalid radius.
    """
    split = images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    eps = check_eps(radius(run) if spec.eps is None else spec.eps)
    attack = PGD(eps=eps, steps=spec.steps)
    return Task(
        images=few,
        attack=attack,
        noisy=Linf(few.x, eps).random_start(torch.Generator().manual_seed(spec.seed)),
        seed=spec.seed,
        meta=meta_of(
            run, split, attack=registry.encode(attack), eps=eps, norm=attack.norm, seed=spec.seed
        ),
    )


def features_of(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N,D) and logits (N,K) of images (N,C,H,W), in eval mode, without gradients."""
    with frozen(net), torch.no_grad():
        parts = [net.parts(part) for part in in_parts(x, size=net.size)]
        return torch.cat([p.features for p in parts]), torch.cat([p.logits for p in parts])


def own_and_best(values: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of `values` (N,K), the entry of its class `y` (N,) and the largest of the other
    entries, (N,) each. Among the others NaN counts as −∞.
    """
    others = values.scatter(1, y[:, None], -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    return values.gather(1, y[:, None])[:, 0], others.amax(dim=1)


def describe(
    z: Tensor,
    clean: Tensor,
    y: Tensor,
    pred: Tensor,
    k: int,
    centres: Tensor,
    moved: measures.Displacement,
) -> dict[str, float]:
    """All measures of the points `z` (N,D) with classes `y` (N,), as a dict by name.

    `clean` (N,D): the same images' clean points; `pred` (N,): predictions; `k`: how many
    neighbours; `centres` (K,K): from `measures.centre_cosines`; `moved`: how far `z` is from
    `clean`. Measures not described here are functions in `measures`. `own_cosine`, `other_cosine`:
    the mean cosine of a point to the clean centre of its own class, and to the nearest of another
    class. `centre_own`, `centre_other`: the mean over the diagonal of `centres`, and over the other
    entries. `twin_alignment`, `cka`: between `z` and `clean`. `lipschitz`, `moved`: means over
    `moved`. In `knn_among_clean` and `hit_among_clean`, neighbours are other images' clean points.
    """
    own = torch.eye(len(centres), dtype=torch.bool)
    to_own, to_other = own_and_best(
        measures.cosines_to_centres(z, measures.class_centres(clean, y, len(centres))), y
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
        "own_cosine": float(to_own.mean()),
        "other_cosine": float(to_other.mean()),
        "centre_own": float(centres[own].nanmean()),
        "centre_other": float(centres[~own].nanmean()),
        "twin_alignment": measures.alignment_of_pairs(clean, z),
        "cka": measures.linear_cka(clean, z),
        "lipschitz": float(moved.lipschitz.mean()),
        "moved": float(moved.relative.mean()),
    }


@probe(FeaturesSpec)
def features(run: Run, spec: FeaturesSpec) -> Features:
    """Measure features of clean, attacked and noisy images, with the measures from `describe`.
    Raises UserError for an invalid radius, for features that are not finite, for a `k` that is not
    below the number of images, and unless there are two classes and two images of one class.
    """
    task, net = task_of(run, spec), net_of(run)
    y, classes, n = task.images.y, len(task.images.classes), len(task.images)
    k = spec.k or min(VOTES, max(1, n - 1))
    z, pred, centres, moved = {}, {}, {}, {}
    for kind, images in task.seen_by(net).items():
        z[kind], logits = features_of(net, images)
        pred[kind] = logits.argmax(dim=1)
        centres[kind] = measures.centre_cosines(z["clean"], z[kind], y, classes)
        moved[kind] = task.displacement(z["clean"], z[kind], images)
    values = {
        kind: describe(z[kind], z["clean"], y, pred[kind], k, centres[kind], moved[kind])
        for kind in z
    }
    return Features(
        clean=z["clean"].numpy(),
        adversarial=z["adversarial"].numpy(),
        noise=z["noise"].numpy(),
        y=y.numpy(),
        pred=pred["clean"].numpy(),
        pred_adv=pred["adversarial"].numpy(),
        pred_noise=pred["noise"].numpy(),
        index=np.arange(n),
        centres_clean=centres["clean"].numpy(),
        centres_adv=centres["adversarial"].numpy(),
        centres_noise=centres["noise"].numpy(),
        lipschitz_adv=moved["adversarial"].lipschitz.numpy(),
        lipschitz_noise=moved["noise"].lipschitz.numpy(),
        moved_adv=moved["adversarial"].relative.numpy(),
        moved_noise=moved["noise"].relative.numpy(),
        measures={str(kind): found for kind, found in values.items()},
        meta=task.meta | {"k": k, "summary": _summary(task.attack, values, k)},
    )


def _summary(attack: PGD, values: dict[Images, dict[str, float]], k: int) -> str:
    clean, adv, noise = (values[kind] for kind in KINDS)
    return (
        f"Under PGD-{attack.steps} at ε = {eps_text(float(attack.eps or 0))} the features of the"
        f" images have a cosine of {adv['own_cosine']:.2f} to their own class's clean centre and"
        f" {adv['other_cosine']:.2f} to the nearest other (clean: {clean['own_cosine']:.2f} and"
        f" {clean['other_cosine']:.2f}, noise of the same ε: {noise['own_cosine']:.2f} and"
        f" {noise['other_cosine']:.2f}). {k}-NN accuracy among clean images:"
        f" {clean['knn_among_clean']:.2f} clean, {adv['knn_among_clean']:.2f} attacked,"
        f" {noise['knn_among_clean']:.2f} with noise."
    )


@probe(FeatureTilesSpec)
def feature_tiles(run: Run, spec: FeatureTilesSpec) -> FeatureTiles:
    """Make small pictures of the images, find their nearest neighbours in feature space, and
    measure from how many tenths of its perturbation on each image stays misclassified. Raises
    UserError for an invalid radius, and for features that are not finite.
    """
    task, net = task_of(run, spec), net_of(run)
    y, seen = task.images.y, task.seen_by(net)
    x, x_adv = seen["clean"], seen["adversarial"]
    (z, clean), (z_adv, attacked) = features_of(net, x), features_of(net, x_adv)
    between = [torch.lerp(x, x_adv, tenth / TENTHS) for tenth in range(1, TENTHS)]
    read = [clean, *(features_of(net, each)[1] for each in between), attacked]
    held = torch.stack([logits.argmax(dim=1) == y for logits in read]).flip(0)
    # 11 minus how many steps, counted back from the full attack, are all misclassified
    lost = TENTHS + 1 - (~held).int().cumprod(dim=0).sum(dim=0)
    sheet, side = _sheet(torch.cat([x, x_adv]))
    return FeatureTiles(
        y=y.numpy(),
        pred=clean.argmax(dim=1).numpy(),
        pred_adv=attacked.argmax(dim=1).numpy(),
        index=np.arange(len(y)),
        sheet=sheet,
        side=side,
        lost=lost.numpy().astype(np.uint8),
        near=_neighbours(z, z, spec.k),
        near_adv=_neighbours(z_adv, z, spec.k),
        meta=task.meta
        | {
            "n": len(y),
            "summary": (
                f"Of {len(y)} images {int(held[-1].sum())} are classified correctly untouched,"
                f" {int(held[0].sum())} under PGD-{spec.steps} at ε ="
                f" {eps_text(float(task.attack.eps or 0))}; of those that the attack fools,"
                f" {int((held[-1] & (lost <= TENTHS // 2)).sum())} are already misclassified"
                " with half of the perturbation."
            ),
        },
    )


def _neighbours(z: Tensor, clean: Tensor, k: int) -> Ints:
    """For each image, with features `z` (n,D), the rows (n,k) of the `k` other images whose clean
    features `clean` (n,D) are nearest by cosine, nearest first; n − 1 columns if `k` is larger.
    """
    k = min(k, len(z) - 1)
    rows, _ = embedding.nearest(z, k + 1, among=clean)
    other = rows != torch.arange(len(z))[:, None]
    # a stable sort puts the image's own clean point last
    order = (~other).int().argsort(dim=1, stable=True)[:, :k]
    return rows.gather(1, order).numpy().astype(np.int16 if len(clean) < 2**15 else np.int32)


def _sheet(x: Tensor) -> tuple[Ints, int]:
    """Images (N,C,H,W) in [0, 1] as tiles of one picture: its file as an array of bytes (a lossless
    PNG if that has at most `EXACT` bytes, else a WebP), and the side of a tile in pixels.
    """
    tiles = np.stack([pictures.pixels(one) for one in x.numpy()])
    count, side = len(tiles), max(tiles.shape[1:3])
    rows = -(-count // COLUMNS)
    whole = np.zeros((rows * COLUMNS, side, side, 3), np.uint8)
    whole[:count, : tiles.shape[1], : tiles.shape[2]] = tiles
    whole = whole.reshape(rows, COLUMNS, side, side, 3).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(whole.reshape(rows * side, COLUMNS * side, 3))
    for kind, how in SHEETS:
        out = io.BytesIO()
        picture.save(out, kind, **how)
        if out.tell() <= EXACT:
            break
    return np.frombuffer(out.getvalue(), np.uint8), side


@probe(FeatureMapSpec)
def feature_map(run: Run, spec: FeatureMapSpec) -> FeatureMap:
    """Map the features of clean, attacked and noisy images to two dimensions: onto the plane of the
    class centres, by PCA or by UMAP. Raises UserError for fewer than 15 images with UMAP, and where
    `features` does, or one of `centre_plane`, `plane`, `umap` and `trustworthiness` (`embedding`).
    """
    split = images_of(run)
    n = min(spec.n, len(split))
    _check_count(spec.projection, n)
    asked = spec.alike(FeaturesSpec)
    seen = features(run, asked)
    second = None if spec.place_eps is None else features(run, replace(asked, eps=spec.place_eps))
    both = torch.from_numpy(np.concatenate([seen.clean, seen.adversarial])).double()
    guests = [
        torch.from_numpy(z).double()
        for z in (seen.noise, seen.noise[:0] if second is None else second.adversarial)
    ]
    at, (noise, placed), axes, origin, share = _drawn(
        spec, both, guests, seen.y, len(split.classes)
    )
    own, other = (np.stack(rows) for rows in zip(*map(seen.cosines, KINDS), strict=True))
    result = FeatureMap(
        clean=_float32(at[:n]),
        adversarial=_float32(at[n:]),
        noise=_float32(noise),
        placed=_float32(placed),
        y=seen.y,
        pred=seen.pred,
        pred_adv=seen.pred_adv,
        pred_noise=seen.pred_noise,
        pred_placed=seen.pred[:0] if second is None else second.pred_adv,
        index=seen.index,
        own=own,
        other=other,
        moved=seen.moved_adv,
        axes=axes.numpy(),
        origin=origin.numpy(),
        share=share,
        trust=embedding.trustworthiness(both, at),
        meta=meta_of(
            run,
            split,
            **{name: seen.meta[name] for name in ("attack", "eps", "norm", "seed")},
            n=n,
            place_eps=spec.place_eps,
            projection=spec.projection,
            **(
                {"metric": "cosine", "n_neighbors": spec.n_neighbors, "min_dist": spec.min_dist}
                if spec.projection == "umap"
                else {}
            ),
        ),
    )
    result.meta["summary"] = _map_summary(spec, result)
    return result


def _drawn(
    spec: FeatureMapSpec, both: Tensor, guests: list[Tensor], y: Ints, classes: int
) -> tuple[Tensor, list[Tensor], Tensor, Tensor, float]:
    """Returns the positions of the clean and attacked points `both` (2n,D); a list of the positions
    of each of the `guests`, which are placed in the finished map; and the plane's axes, origin and
    share of the variance: for UMAP empty, empty and NaN.
    """
    if spec.projection == "umap":
        at = embedding.umap(
            both, seed=spec.seed, n_neighbors=spec.n_neighbors, min_dist=spec.min_dist
        )
        return (
            at,
            [embedding.place(z, both, at) for z in guests],
            both.new_zeros(0, 2),
            both.new_zeros(0),
            math.nan,
        )
    axes, origin, share = (
        embedding.centre_plane(both[: len(y)], torch.from_numpy(y), classes)
        if spec.projection == "centres"
        else embedding.plane(both)
    )
    at, *placed = ((z - origin) @ axes for z in (both, *guests))
    return at, placed, axes, origin, share


def _map_summary(spec: FeatureMapSpec, result: FeatureMap) -> str:
    """How the map was made, and how many points `FeatureMap.astray` counts, in words."""
    made = {
        "centres": f"contains {result.share:.0%} of the variance between the class centres",
        "pca": f"contains {result.share:.0%} of the variance",
        "umap": (
            f"metric cosine, n_neighbors {spec.n_neighbors}, min_dist {spec.min_dist:g}, seed"
            f" {spec.seed}"
        ),
    }[spec.projection]
    trust = f", trustworthiness({embedding.TRUST}) {result.trust:.3f}"
    clean, adv, noise = result.astray
    return (
        f"{len(result.y)} images on {TITLES[spec.projection]}"
        f" ({made}{'' if math.isnan(result.trust) else trust}). Nearer to another"
        f" class's centre than to their own, by cosine in feature space: {clean} clean, {adv}"
        f" under PGD-{spec.steps} at ε = {eps_text(float(result.meta['eps']))} (seed"
        f" {spec.seed}), {noise} with noise of the same ε."
    )


def _float32(z: Tensor) -> Floats:
    return z.numpy().astype(np.float32)


def _check_count(projection: str, count: int) -> None:
    if projection == "umap" and count < embedding.FEWEST:
        raise UserError(
            f"UMAP needs at least {embedding.FEWEST} images, but there are {count}: use more"
            " images, or projection=centres."
        )


# The name of the cached film has the last stored epoch: a run that is trained further stores more
# epochs, but its best weights, by whose hash cached results are found, may stay the same.
@probe(
    FeatureFilmSpec, name=lambda run, spec: f"{registry.key(spec)}-{max(run.snapshots, default=0)}"
)
def feature_film(run: Run, spec: FeatureFilmSpec) -> FeatureFilm:
    """Measure features of clean and attacked images at up to 24 epochs whose weights the run
    stored. Raises UserError for fewer than two such epochs, an invalid radius, images of one class,
    fewer than 15 images with UMAP, and where `embedding.centre_plane` or `umap` does.
    """
    epochs, task = _epochs(run), task_of(run, spec)
    y, n = task.images.y, len(task.images)
    _check_count(spec.projection, n)
    clean, adv, preds, own, other, moved = zip(
        *(_shot(run.net(epoch=epoch), task) for epoch in epochs), strict=True
    )
    if spec.projection == "umap":
        maps = _chained([torch.cat(both) for both in zip(clean, adv, strict=True)], spec.seed)
        frames = [[at[part] for at in maps] for part in (slice(n), slice(n, None))]
    else:
        axes, origin, _ = embedding.centre_plane(clean[-1], y, len(task.images.classes))
        frames = [[(z - origin) @ axes for z in part] for part in (clean, adv)]
    pred, pred_adv = np.stack(preds, axis=1)
    k = (pred_adv == y.numpy()).sum(axis=1)
    return FeatureFilm(
        epochs=np.array(epochs),
        clean=_float32(torch.stack(frames[0])),
        adversarial=_float32(torch.stack(frames[1])),
        y=y.numpy(),
        index=np.arange(n),
        pred=pred,
        pred_adv=pred_adv,
        own=np.array(own),
        other=np.array(other),
        moved=np.array(moved),
        meta=task.meta
        | {
            "projection": spec.projection,
            "n": n,
            "summary": (
                f"{len(epochs)} epochs from {epochs[0]} to {epochs[-1]}, {n} images,"
                f" PGD-{spec.steps} at ε = {eps_text(float(task.attack.eps or 0))}: cosine of"
                f" attacked images to their own class's centre {own[0][1]:.2f} →"
                f" {own[-1][1]:.2f}, to the nearest other {other[0][1]:.2f} →"
                f" {other[-1][1]:.2f}; classified correctly under attack {k[0]} → {k[-1]}."
            ),
        },
    )


def _epochs(run: Run) -> list[int]:
    """All stored epochs; of more than 24, 24 evenly spaced. Raises UserError for fewer than two."""
    every = run.snapshots
    if len(every) < 2:
        raise UserError(
            f"{run.id} kept the weights of {len(every)} epochs, but a film needs two: train a"
            " similar run with the setting snapshots = 2, which keeps every second epoch's (on"
            " the command line: --set snapshots=2)."
        )
    return [every[round(at)] for at in np.linspace(0, len(every) - 1, min(len(every), FRAMES))]


def _shot(
    net: Classifier, task: Task
) -> tuple[Tensor, Tensor, list[Ints], list[float], list[float], list[float]]:
    """Measure one epoch. Returns the features (n,D) of clean and of attacked images; the
    predictions (n,) for both; the mean cosines of each of `KINDS` to the own class's centre, then
    to the nearest other one; and the mean `Displacement.relative` by the attack and by the noise.
    """
    images = task.seen_by(net)
    z, logits = zip(*(features_of(net, x) for x in images.values()), strict=True)
    near = [own_and_other(each.numpy(), z[0].numpy(), task.images.y.numpy()) for each in z]
    own, other = ([part.mean() for part in parts] for parts in zip(*near, strict=True))
    return (
        z[0].double(),
        z[1].double(),
        [each.argmax(dim=1).numpy() for each in logits[:2]],
        own,
        other,
        [
            float(far.relative.mean())
            for far in map(task.displacement, z[:1] * 2, z[1:], [*images.values()][1:])
        ],
    )


def _chained(points: list[Tensor], seed: int) -> list[Tensor]:
    """The UMAP positions (N,2) of the same N points at each epoch, in order, from their features
    `points`, (N,D) for each epoch. The last epoch is mapped first; then, going backwards, each map
    starts from the map of the following epoch.
    """
    maps = [embedding.umap(points[-1], seed=seed)]
    for z in reversed(points[:-1]):
        maps.append(embedding.umap(z, seed=seed, init=maps[-1]))
    return maps[::-1]
