"""Probes of misaligned classes: each class's cause, distances of pairs of features, and alignment
and uniformity over the epochs. The rules that find a class's cause are in `diagnosis.py`. They use
the train–test gap, the positions of the class centres, where between two centres the head's
prediction changes, and which images are misclassified.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustviz import data, measures, registry
from robustviz.data import Dataset
from robustviz.nets import Classifier
from robustviz.runs.folder import Run
from robustviz.stats import Floats, Ints
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, eps_text
from robustviz.views.features.probe import features, features_of, own_and_best
from robustviz.views.features.result import Features, FeaturesSpec
from robustviz.views.measure import images_of, meta_of, net_of, probe
from robustviz.views.misalignment.diagnosis import diagnosis
from robustviz.views.misalignment.result import (
    Misalignment,
    MisalignmentSpec,
    Pairs,
    PairsSpec,
    Uniformity,
    UniformitySpec,
)
from robustviz.views.misalignment.stages import stages as stages

# an outlier lies more than this many interquartile ranges above the upper quartile of the distances
# to the centre (Tukey 1977)
FAR = 1.5
NEIGHBOURS = 10  # nearest neighbours that vote on an untouched image; fewer if a class is small


@probe(MisalignmentSpec)
def misalignment(run: Run, spec: MisalignmentSpec) -> Misalignment:
    """Measure why images of each class get misclassified; the result has a cause for each class.
    With `spec.class_` only the text in `meta["summary"]` differs: it explains that class instead of
    the three least robust ones. Raises UserError if `spec.class_` is no class of the run, and where
    `features` does.
    """
    if spec.class_:
        if spec.class_ not in (names := list(run.classes)):  # checked before measuring
            raise UserError(registry.unknown("class", spec.class_, names), code=2)
        table = misalignment(run, replace(spec, class_=""))
        return replace(table, meta=table.meta | {"summary": table.line(names.index(spec.class_))})
    split, net, seen = images_of(run), net_of(run), features(run, spec.alike(FeaturesSpec))
    # A smaller training set is the start of a larger one, so the run was trained on these images.
    count = min(run.config.n_train or spec.train_n, spec.train_n)
    train = data.load(run.config.data, "train", count).take(spec.train_n)
    meta = meta_of(
        run,
        split,
        **{name: seen.meta[name] for name in ("attack", "eps", "seed")},
        printed=f"{attack_name(seen.meta['attack'])} at ε = {eps_text(float(seen.meta['eps']))}",
    )
    table = replace(
        _table(seen, _head(net, split, seen), features_of(net, train.x)[1], train.y),
        files=[] if split.names is None else [split.names[int(i)] for i in seen.index],
        meta=meta,
    )
    votes = _votes(seen)
    kinds, sentences = (
        list(words)
        for words in zip(
            *(diagnosis(table, c, votes) for c in range(len(split.classes))), strict=True
        )
    )
    table = replace(table, kind=kinds, sentence=sentences)
    return replace(
        table, meta=meta | {"summary": "\n".join(table.line(c) for c in table.order[:3])}
    )


class _Boundary(NamedTuple):
    """Where on the line from each class's centre (0) to another class's centre (1) the head's
    prediction changes. `place` (K,): the smallest such position over the other classes, NaN if
    there is none; `other` (K,): the class for which it is smallest, −1 if there is none.
    """

    place: Tensor
    other: Tensor
    plain: Tensor  # (K,): the position on the line to `other` without the head's biases
    every: Tensor  # (K,K): for each pair, infinite where the prediction does not change


def _boundaries(at_centres: Tensor, offset: Tensor, there: Tensor) -> _Boundary:
    """Returns the boundaries, computed from the logits at points in feature space.

    `at_centres` (K,K): the logits at the clean centres, a row per centre; `offset` (K,): the logits
    at the zero vector, which are a linear head's biases; `there` (K,): which classes have images.
    With a linear head, the difference of two logits is linear along the line, and the prediction
    changes where the difference is 0.
    """
    # [c, o]: logit of c minus logit of o at the centre of c
    lead = at_centres.diagonal()[:, None] - at_centres
    swing = lead + lead.T
    pairs = there[:, None] & there & (swing > 0) & ~torch.eye(len(there), dtype=torch.bool)
    swing = torch.where(pairs, swing, 1)
    place = torch.where(pairs, lead / swing, torch.inf)
    nearest, other = place.min(dim=1)
    own = offset - offset.median()
    plain = place - torch.where(pairs, (own[:, None] - own) / swing, 0.0)
    known = nearest.isfinite()
    return _Boundary(
        torch.where(known, nearest, torch.nan),
        torch.where(known, other, -1),
        torch.where(known, plain.gather(1, other[:, None])[:, 0], torch.nan),
        place,
    )


class _Head(NamedTuple):
    """The head's logits at the untouched features (N,K), at the clean class centres (K,K) and at
    the zero vector (K,). For a network without a linear head the last two are 0, so that no
    boundary is known.
    """

    logits: Tensor
    at_centres: Tensor
    offset: Tensor


def _head(net: Classifier, split: Dataset, seen: Features) -> _Head:
    clean, y = torch.from_numpy(seen.clean), torch.from_numpy(seen.y)
    count = len(split.classes)
    if not isinstance(net.head, nn.Linear):
        logits = features_of(net, split.take(torch.from_numpy(seen.index)).x)[1]
        return _Head(logits, torch.zeros(count, count), torch.zeros(count))
    with torch.no_grad():
        return _Head(
            net.head(clean),
            net.head(measures.class_centres(clean, y, count).nan_to_num().float()),
            net.head(torch.zeros_like(clean[:1]))[0],
        )


def _table(seen: Features, head: _Head, train_logits: Tensor, train_y: Tensor) -> Misalignment:
    """Returns the result with empty `kind`, `sentence`, `files`, `meta`, for the caller to fill."""
    y, count = torch.from_numpy(seen.y), len(head.offset)
    pred, pred_adv = torch.from_numpy(seen.pred), torch.from_numpy(seen.pred_adv)
    clean = torch.from_numpy(seen.clean).double()
    centres = measures.class_centres(clean, y, count)
    there = ~centres.isnan().any(dim=1)
    scale = measures.centre_distance(clean, y, count)
    far = _distances(clean, centres)
    own = far.gather(1, y[:, None])[:, 0]
    distance, nearest = _distances(centres, centres).fill_diagonal_(torch.inf).min(dim=1)
    moved = [torch.from_numpy(z).double() for z in (seen.adversarial, seen.noise)]
    ends = [_distances(z, centres).scatter(1, y[:, None], torch.inf).argmin(dim=1) for z in moved]
    (along, across), (along_noise, _) = (
        _movement(z - clean, centres[end] - centres[y]) for z, end in zip(moved, ends, strict=True)
    )
    to_own, to_other = own_and_best(measures.cosines_to_centres(clean, centres), y)
    lead, rival = own_and_best(head.logits, y)
    boundary = _boundaries(head.at_centres, head.offset, there)
    met = boundary.every[y, ends[0]]
    fence = torch.stack([_fence(own[y == c]) for c in range(count)])[y]

    def counted(which: Tensor, labels: Tensor = y) -> Ints:
        return torch.bincount(labels[which], minlength=count).numpy()

    def mean(values: Tensor) -> Floats:
        return _means(values, y, count).numpy()

    return Misalignment(
        n=counted(y >= 0),
        clean_k=counted(pred == y),
        robust_k=counted(pred_adv == y),
        train_n=counted(train_y >= 0, train_y),
        train_k=counted(train_logits.argmax(1) == train_y, train_y),
        spread=mean(own) / scale,
        distance=torch.where(there, distance / scale, torch.nan).numpy(),
        nearest=torch.where(there, nearest, -1).numpy(),
        along=mean(along),
        across=mean(across),
        along_noise=mean(along_noise),
        margin=mean(lead - rival),
        boundary=boundary.place.numpy(),
        boundary_class=boundary.other.numpy(),
        boundary_0=boundary.plain.numpy(),
        boundary_met=_means(met[met.isfinite()], y[met.isfinite()], count).numpy(),
        confidence=_confidence(train_logits, train_y).numpy(),
        taken=counted((pred != y) & (pred >= 0), pred),
        landed=torch.bincount(y * count + pred_adv, minlength=count**2).view(count, -1).numpy(),
        kind=[],
        sentence=[],
        index=seen.index,
        y=seen.y,
        pred=seen.pred,
        pred_adv=seen.pred_adv,
        towards=ends[0].numpy(),
        own=(own / scale).numpy(),
        misaligned=(to_other - to_own).numpy(),
        outlier=((own > fence) | (far.argmin(dim=1) != y)).numpy(),
        files=[],
    )


def _distances(z: Tensor, centres: Tensor) -> Tensor:
    """Returns the Euclidean distance of each point (N,D) to each centre (K,D), as (N,K); infinite
    for a class without a centre.
    """
    return torch.cdist(z, centres, compute_mode="donot_use_mm_for_euclid_dist").nan_to_num(
        nan=torch.inf
    )


def _movement(step: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how far each image's movement `step` (N,D) goes along the vector `line` (N,D) from
    one centre to another, and how far off this line, both divided by the length of the line: (N,)
    each.
    """
    length = line.norm(dim=1)
    along = (step * line).sum(1) / length.square()
    return along, (step - along[:, None] * line).norm(dim=1) / length


def _confidence(logits: Tensor, y: Tensor) -> Tensor:
    """Returns (K,): each class's mean softmax output for the true class on its own images,
    divided by the median of the other classes' means. `logits` (N,K); `y` (N,): the true classes.
    """
    count = logits.shape[1]
    mean = _means(logits.softmax(dim=1).gather(1, y[:, None])[:, 0], y, count)
    return mean / torch.stack([mean[torch.arange(count) != c].nanmedian() for c in range(count)])


def _means(values: Tensor, y: Tensor, count: int) -> Tensor:
    """Returns the mean of `values` (N,) over the images of each class, (K,) float64 for K =
    `count`; NaN for a class without images. `y` (N,): the classes.
    """
    return torch.zeros(count, dtype=torch.float64).index_add_(
        0, y, values.double()
    ) / torch.bincount(y, minlength=count)


def _fence(distances: Tensor) -> Tensor:
    """Returns Tukey's upper fence, a tensor without dimensions: a distance above it is an outlier.
    It is infinite if there are no `distances` (n,).
    """
    if not len(distances):
        return torch.tensor(torch.inf, dtype=torch.float64)
    ends = torch.quantile(distances.double(), torch.tensor([0.25, 0.75]).double())
    return ends[1] + FAR * (ends[1] - ends[0])


def _votes(seen: Features) -> Ints:
    """Returns (N,): for each untouched image, the most frequent class among its nearest neighbours
    in feature space, which are other untouched images. There are at most 10 (`NEIGHBOURS`), and
    fewer than the smallest class has images, but at least one.
    """
    y = torch.from_numpy(seen.y)
    k = max(1, min(NEIGHBOURS, int(y.unique(return_counts=True)[1].min()) - 1))
    return measures.votes(torch.from_numpy(seen.clean), y, k).numpy()


@probe(PairsSpec)
def pairs(run: Run, spec: PairsSpec) -> Pairs:
    """Measure the distances between the features, scaled to length 1, of all pairs of images: a
    histogram for pairs of the same class, and one for pairs of two classes. Raises UserError where
    `features` does.
    """
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
    # A margin whose loss has weight 0 has no effect.
    margin = float(getattr(method, "margin", 0)) if getattr(method, "margin_weight", 0) else None
    meta = meta_of(
        run,
        images_of(run),
        images=spec.images,
        n=len(z),
        within=within,
        between=between,
        projected=getattr(method, "head", "") == "projected",
        **{name: seen.meta[name] for name in ("attack", "eps", "seed")},
        summary=(
            f"Mean distance of two {spec.images} images: {within:.2f} of one class, {between:.2f}"
            f" of two (n = {len(z)})."
        ),
    )
    return Pairs(edges, same, different, margin, meta=meta)


@probe(UniformitySpec)
def uniformity(run: Run, spec: UniformitySpec) -> Uniformity:
    """Measure alignment and uniformity of clean features at each epoch whose weights were stored,
    and for the best network. Raises UserError if no two of the images are of one class.
    """
    split = images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    epochs = [*run.snapshots, -1]
    clouds = (features_of(run.net(None if at < 0 else at), few.x)[0] for at in epochs)
    alignment, spread = np.array(
        [(measures.alignment(z, few.y), measures.uniformity(z)) for z in clouds]
    ).T
    summary = (
        f"Alignment {alignment[-1]:.2f} (0: each class one direction), uniformity"
        f" {spread[-1]:.2f} (lower: more evenly spread); "
        + (
            f"from epoch {epochs[0]}: {alignment[0]:.2f}, {spread[0]:.2f}."
            if len(epochs) > 1
            else "no epoch was kept."
        )
    )
    meta = meta_of(run, split, n=len(few), summary=summary)
    return Uniformity(np.array(epochs), alignment, spread, meta=meta)
