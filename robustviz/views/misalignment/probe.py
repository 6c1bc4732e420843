"""Why the images of a class do not stay with it under attack: its numbers, and one cause in words.

Five causes are told apart by four questions. Does the network know its training images of the class
far better? Where do the centres of the classes lie? Where on the line between two centres does the
head change its answer? And which images are wrong: a few odd ones, those that were wrong untouched,
or those that the attack moved? Every threshold below was chosen between what forty shipped networks
show and what networks show that were spoilt on purpose (a bias shifted, half of one class's labels
wrong, two classes pulled together).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustviz import data, measures, registry
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.stats import Floats, wilson
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, eps_text
from robustviz.views.features.probe import FeaturesSpec, features_of, voters
from robustviz.views.features.result import Features
from robustviz.views.measure import Probe, images_of, meta_of, net_of
from robustviz.views.misalignment.result import Misalignment

FEW = 5  # images of a class below this many bear no diagnosis
COINCIDE = 1 / 3
# centres nearer than this share of the mean distance: shipped networks ≥ 0.46, pulled together ≤
# 0.26
# of the way to another centre where the answer changes: shipped networks ≥ 0.28, half wrong labels
# ≤ 0.19
CLOSE = 0.25
LEANING = (
    0.4  # a boundary this close or closer counts as pushed where a constant offset of the head
)
# … moved it by this much or more: shipped networks ≤ 0.03, a bias shifted by a sixth of the margin
# 0.08
SHIFT = 0.06
# … moved it out by this much and twice as far as any other class's: shipped networks ≤ 0.06, or 1.4
# times
FAVOURED = 0.1
# … and the same of most other classes towards one: that one's training images are not all its own
PRESSED = 0.3
UNSURE = (
    0.85  # softmax output for the true class over that of other classes: half wrong labels ≤ 0.76
)
# more train–test gap than other classes: shipped networks ≤ 0.2, half wrong labels learned by heart
# ≥ 0.3
BY_HEART = 0.3
# less train–test gap than other classes: shipped networks ≥ −0.06, other labels learned by heart ≤
# −0.21
UNLEARNED = -0.15
HOLDS = 0.1  # a class with no more than this share of its images wrong holds
ODD = 0.25  # more than this share of a class are no few
# times the quartile distance above the upper quartile of distances to the centre: an outlier (Tukey
# 1977)
FAR = 1.5
NEIGHBOURS = 10  # vote on where an untouched image lies; fewer in a class with fewer

KINDS = (
    "Overlaps already when clean",
    "Labels disagree with the features",
    "Head boundary too close",
    "Pushed by the attack",
    "Few outliers",
    "Holds",
    "Too few images",
)
OVERLAP, LABELS, HEAD, PUSHED, OUTLIERS, HOLD, MISSING = KINDS


def class_number(name: str, classes: list[str]) -> int:
    """The position of a class. Raises UserError that names all where there is none of this name."""
    if name not in classes:
        raise UserError(registry.unknown("class", name, classes), code=2)
    return classes.index(name)


@register("probe/misalignment")
@dataclass(frozen=True)
class MisalignmentSpec(Probe[Misalignment]):
    """The table of causes on the first `n` test images under PGD, with `train_n` images of the
    training split beside them.

    `class_`, on the command line `class`: whose row and sentence are printed; empty: the worst
    three. Attack and noise are those of `FeaturesSpec` with the same settings.
    """

    n: int = option(500, "How many test images.", low=1)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random control.", low=0)
    train_n: int = option(1000, "How many training images, untouched.", low=1)
    class_: str = option("", "The class to be explained; empty: the worst ones.")

    result = Misalignment

    def name(self, run: Run) -> str:
        return registry.key(replace(self, class_=""))

    def __call__(self, run: Run) -> Misalignment:
        if self.class_:
            class_number(self.class_, list(run.classes))  # before anything is measured
        found = super().__call__(run)
        if not self.class_:
            return found
        said = found.line(class_number(self.class_, list(found.meta["classes"])))
        return replace(found, meta=found.meta | {"summary": said})

    def measure(self, run: Run) -> Misalignment:
        split = images_of(run)
        seen = FeaturesSpec(
            n=self.n, eps=self.eps, steps=self.steps, k=voters(self.n, run), seed=self.seed
        )(run)
        net, count = net_of(run), len(split.classes)
        trained = (
            run.config.n_train or self.train_n
        )  # beginnings are nested: these are among the images it learned from
        train = data.load(run.config.data, "train", min(trained, self.train_n)).take(self.train_n)
        _, train_logits = features_of(net, train.x)
        clean = torch.from_numpy(seen.clean)
        with torch.no_grad():
            centres = measures.class_centres(clean, torch.from_numpy(seen.y), count)
            at_centres = net.head(centres.nan_to_num().float())
            logits, offset = net.head(clean), net.head(torch.zeros_like(clean[:1]))[0]
        names = split.names
        files = [] if names is None else [names[int(i)] for i in seen.index]
        found = _measured(seen, centres, at_centres, offset, logits, train_logits, train.y, files)
        printed = f"{attack_name(seen.meta['attack'])} at ε = {eps_text(float(seen.meta['eps']))}"
        meta = meta_of(
            run,
            split,
            attack=seen.meta["attack"],
            eps=seen.meta["eps"],
            seed=self.seed,
            printed=printed,
        )
        found = replace(found, meta=meta)
        said = [_diagnosis(found, c, _votes(seen, count)) for c in range(count)]
        found = replace(found, kind=[one for one, _ in said], sentence=[one for _, one in said])
        worst = "\n".join(found.line(c) for c in found.order[:3])
        return replace(found, meta=meta | {"summary": worst})


class _Boundary(NamedTuple):
    """Where on the line from each class's centre the head changes its answer, and towards whom; all
    (K,).
    """

    place: Tensor
    other: Tensor
    plain: Tensor  # towards the same class, without the offsets
    every: Tensor  # (K,K), infinite where the head tells the two centres apart nowhere


def _boundaries(at_centres: Tensor, offset: Tensor, there: Tensor) -> _Boundary:
    """From the logits at the clean centres (K,K) and at the zero vector (K,); `there` (K,): which
    classes have images.

    A linear head changes its answer where the difference of two logits, which is linear along the
    line, is 0.
    """
    lead = (
        at_centres.diagonal()[:, None] - at_centres
    )  # [c, o]: by how much c leads o at c's centre
    swing = lead + lead.T
    pairs = there[:, None] & there & (swing > 0) & ~torch.eye(len(there), dtype=torch.bool)
    place = torch.where(
        pairs,
        lead / torch.where(pairs, swing, torch.ones_like(swing)),
        torch.full_like(lead, torch.inf),
    )
    nearest, other = place.min(dim=1)
    own = offset - offset.median()
    plain = place - torch.where(
        pairs, (own[:, None] - own) / torch.where(pairs, swing, torch.ones_like(swing)), 0.0
    )
    plain = plain.gather(1, other[:, None])[:, 0]
    known = nearest.isfinite()
    nan = torch.full_like(nearest, torch.nan)
    return _Boundary(
        torch.where(known, nearest, nan),
        torch.where(known, other, -1),
        torch.where(known, plain, nan),
        place,
    )


def _measured(
    seen: Features,
    centres: Tensor,
    at_centres: Tensor,
    offset: Tensor,
    logits: Tensor,
    train_logits: Tensor,
    train_y: Tensor,
    files: list[str],
) -> Misalignment:
    """Everything but the diagnosis."""
    y, count = torch.from_numpy(seen.y), len(centres)
    pred, pred_adv = torch.from_numpy(seen.pred), torch.from_numpy(seen.pred_adv)
    clean, adv, noise = (
        torch.from_numpy(z).double() for z in (seen.clean, seen.adversarial, seen.noise)
    )
    there = ~centres.isnan().any(dim=1)
    scale = measures.centre_distance(clean, y, count)
    far = torch.cdist(
        clean, centres.nan_to_num(nan=torch.inf), compute_mode="donot_use_mm_for_euclid_dist"
    ).nan_to_num(nan=torch.inf)
    own = far.gather(1, y[:, None])[:, 0]
    apart = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").nan_to_num(
        nan=torch.inf
    )
    apart.fill_diagonal_(torch.inf)
    distance, nearest = apart.min(dim=1)
    line = centres[nearest[y]] - centres[y]
    length = line.norm(dim=1)
    moved = {}
    for name, z in (("adversarial", adv), ("noise", noise)):
        step = z - clean
        along = (step * line).sum(1) / length.square()  # 1: as far as from centre to centre
        moved[name] = along, (step - along[:, None] * line).norm(dim=1) / length
    to = measures.cosines_to_centres(clean, centres)
    others = (
        to.scatter(1, y[:, None], -torch.inf)
        .nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        .amax(dim=1)
    )
    lead = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(
        dim=1
    )
    sure = train_logits.softmax(dim=1).gather(1, train_y[:, None])[:, 0]
    mean_sure = _means(sure, train_y, count)
    boundary = _boundaries(at_centres, offset, there)

    at_nearest = boundary.every.gather(1, nearest[:, None])[:, 0]

    def counted(which: Tensor, labels: Tensor = y) -> Tensor:
        return torch.bincount(labels[which], minlength=count)

    outlier = own > torch.stack([_fence(own[y == c]) for c in range(count)])[y]
    outlier |= far.argmin(dim=1) != y
    usual = torch.stack([mean_sure[torch.arange(count) != c].nanmedian() for c in range(count)])
    return Misalignment(
        n=counted(y >= 0).numpy(),
        clean_k=counted(pred == y).numpy(),
        robust_k=counted(pred_adv == y).numpy(),
        train_n=counted(train_y >= 0, train_y).numpy(),
        train_k=counted(train_logits.argmax(1) == train_y, train_y).numpy(),
        spread=(_means(own, y, count) / scale).numpy(),
        distance=torch.where(there, distance / scale, torch.nan).numpy(),
        nearest=torch.where(there, nearest, -1).numpy(),
        along=_means(moved["adversarial"][0], y, count).numpy(),
        across=_means(moved["adversarial"][1], y, count).numpy(),
        along_noise=_means(moved["noise"][0], y, count).numpy(),
        margin=_means(lead, y, count).numpy(),
        boundary=boundary.place.numpy(),
        boundary_class=boundary.other.numpy(),
        boundary_0=boundary.plain.numpy(),
        boundary_nearest=at_nearest.where(there & at_nearest.isfinite(), torch.nan).numpy(),
        confidence=(mean_sure / usual).numpy(),
        taken=counted((pred != y) & (pred >= 0), pred).numpy(),
        landed=torch.zeros(count, count, dtype=torch.long)
        .index_put_((y, pred_adv), torch.ones_like(y), accumulate=True)
        .numpy(),
        kind=[],
        sentence=[],
        index=seen.index,
        y=seen.y,
        pred=seen.pred,
        pred_adv=seen.pred_adv,
        own=(own / scale).numpy(),
        misaligned=(others - to.gather(1, y[:, None])[:, 0]).numpy(),
        outlier=outlier.numpy(),
        files=files,
    )


def _means(values: Tensor, y: Tensor, count: int) -> Tensor:
    """The mean of each class, (K,) float64; NaN for none."""
    return torch.zeros(count, dtype=torch.float64).index_add_(
        0, y, values.double()
    ) / torch.bincount(y, minlength=count)


def _fence(distances: Tensor) -> Tensor:
    """Tukey's upper fence: above it lies an outlier."""
    if not len(distances):
        return torch.tensor(torch.inf, dtype=torch.float64)
    low, high = torch.quantile(distances.double(), torch.tensor([0.25, 0.75], dtype=torch.float64))
    return high + FAR * (high - low)


def _votes(seen: Features, count: int) -> Tensor:
    """(N,) the class that most of an untouched image's nearest neighbours have, among the other
    untouched images.
    """
    y = torch.from_numpy(seen.y)
    smallest = int(y.unique(return_counts=True)[1].min())
    k = max(1, min(NEIGHBOURS, smallest - 1))
    near = y[measures.neighbours(torch.from_numpy(seen.clean), k)]
    return torch.zeros(len(y), count).scatter_add_(1, near, torch.ones(near.shape)).argmax(dim=1)


def _diagnosis(found: Misalignment, c: int, votes: Tensor) -> tuple[str, str]:
    """The kind of one class and what is seen, in the order of the questions: is it there at all?
    has an offset shifted its boundary? was it learned by heart? do the centres coincide? is the
    boundary too close? which of its images are wrong?
    """
    names, printed = list(found.meta["classes"]), str(found.meta["printed"])
    n, name = int(found.n[c]), names[c]
    if n < FEW:
        return (
            MISSING,
            (
                f"{n or 'no'} image{'' if n == 1 else 's'} of {name} among the {len(found.y)}; take"
                " more images."
            ),
        )
    clean, robust = int(found.clean_k[c]), int(found.robust_k[c])
    here = found.y == c
    unclear = here & (found.pred != c)  # wrong untouched
    lost = unclear & (votes.numpy() != c)  # … and among images of other classes
    wrong = here & ((found.pred_adv != c) | unclear)
    odd = wrong & found.outlier
    other = names[found.nearest[c]]
    counts = f"{clean} of {n} are right untouched, {robust} under {printed}."
    place, plain, towards = (
        float(found.boundary[c]),
        float(found.boundary_0[c]),
        names[found.boundary_class[c]],
    )
    apart = found.distance[c] >= COINCIDE
    if apart and place < LEANING and plain - place >= SHIFT:
        return (
            HEAD,
            (
                f"on the line to {towards} the answer changes {_way(place)}; without the head's"
                f" constant offsets it would {_way(plain)}. {counts}"
            ),
        )
    pressed, offset = _pressed(found, c)
    nearby = ", ".join(names[o] for o in pressed[:3])
    taken = f"{int(found.taken[c])} untouched images of other classes are called {name}"
    if offset:
        return (
            HEAD,
            (
                f"the head's constant offset favours {name}: the answer changes close to {nearby};"
                f" {taken}. {counts}"
            ),
        )
    if (
        apart
        and place - plain >= FAVOURED
        and place - plain >= 2 * _most(np.delete(found.boundary - found.boundary_0, c))
    ):
        return (
            HEAD,
            (
                f"the head's constant offset favours {name}: on the line to {towards} the answer"
                f" changes {_way(place)}; without it at {plain:.2f}; {taken}. {counts}"
            ),
        )
    excess = float(found.gap[c]) - _median(np.delete(found.gap, c))
    learned = found.train_k[c] / max(int(found.train_n[c]), 1)
    if excess >= BY_HEART and learned > wilson(clean, n)[1]:
        return (
            LABELS,
            (
                f"training images are right {100 * found.gap[c]:.0f} points more often than test"
                f" images, the other classes' {100 * (found.gap[c] - excess):.0f}: the network"
                f" learned labels by heart that its features do not show. {counts} Check its"
                " labels."
            ),
        )
    if excess <= UNLEARNED and learned < wilson(clean, n)[0]:
        return (
            LABELS,
            (
                f"only {100 * learned:.0f} % of its training images are called {name}, of its test"
                f" images {100 * clean / n:.0f} %: the network learned other labels for the rest by"
                f" heart. {counts} Check its labels."
            ),
        )
    if not apart:
        return (
            OVERLAP,
            (
                f"the centres of {name} and {other} are {found.distance[c]:.2f} mean centre"
                f" distances apart, and its images lie {found.spread[c]:.2f} from their own."
                f" {counts}"
            ),
        )
    if place < CLOSE:
        if found.confidence[c] < UNSURE or excess >= BY_HEART / 2:
            return (
                LABELS,
                (
                    f"its features keep {found.distance[c]:.2f} from {other}, yet the answer"
                    f" changes {_way(place)} to {towards}. On training images the output for {name}"
                    f" is {found.confidence[c]:.2f} times that of other classes, as where labels"
                    f" are wrong. {counts} Check its labels."
                ),
            )
        return (
            HEAD,
            f"on the line to {towards} the answer changes {_way(place)}, halfway is 0.5. {counts}",
        )
    if pressed:
        return (
            LABELS,
            (
                f"the answer changes close to {len(pressed)} other classes ({nearby} …) and far"
                f" from {name}, as where images of many classes carry its label; {taken}. {counts}"
                " Check its labels."
            ),
        )
    if lost.sum() * 2 >= wrong.sum() and lost.sum() > HOLDS * n:
        seen_as = names[_commonest(found.pred[lost])]
        return (
            OVERLAP,
            (
                f"{int(lost.sum())} of {n} lie among other classes' images and are misread, mostly"
                f" as {seen_as}. {counts}"
            ),
        )
    if wrong.any() and wrong.sum() <= ODD * n and odd.sum() * 2 >= wrong.sum():
        which = [
            found.files[i] if found.files else f"image {found.index[i]}" for i in odd.nonzero()[0]
        ]
        shown = ", ".join(which[:8]) + (f" and {len(which) - 8} more" if len(which) > 8 else "")
        how = (
            "lies far from its class or nearer to another"
            if len(which) == 1
            else "lie far from their class or nearer to another"
        )
        return OUTLIERS, f"of {int(wrong.sum())} misread, {len(which)} {how}: {shown}. {counts}"
    if wrong.sum() <= HOLDS * n:
        return (
            HOLD,
            f"{counts} The attack moves features {_two(found.along[c])} of the way to {other}.",
        )
    among = int((unclear & ~lost).sum())
    if among * 2 >= wrong.sum():
        return (
            HEAD,
            (
                f"{among} of {n} {'is' if among == 1 else 'are'} misread untouched, among images of"
                f" the own class. {counts}"
            ),
        )
    fooled_as = [(names[k], count) for k, count in found.lands(c) if k != c][:1]
    landing = "".join(
        f" Most often it is then called {called} ({count})." for called, count in fooled_as
    )
    return (
        PUSHED,
        (
            f"{counts} The attack moves features {_two(found.along[c])} of the way to {other} and"
            f" {found.across[c]:.2f} across it; noise of the same ε moves them"
            f" {_two(found.along_noise[c])} along.{landing}"
        ),
    )


def _pressed(found: Misalignment, c: int) -> tuple[list[int], bool]:
    """The classes whose nearest boundary is the one to `c`, if most others' is and it is close;
    whether an offset did it.
    """
    near = (found.boundary_class == c) & (found.boundary < LEANING)
    shifted = near & (found.boundary_0 - found.boundary >= SHIFT)
    most = (int((found.n > 0).sum()) - 1) / 2
    if shifted.sum() > most:
        return [int(o) for o in shifted.nonzero()[0]], True
    close = near & (found.boundary < PRESSED)
    return [int(o) for o in close.nonzero()[0]] if close.sum() > max(most, 1) else [], False


def _most(values: Floats) -> float:
    """The largest of what is defined; 0 for nothing."""
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else 0.0


def _median(values: Floats) -> float:
    """The median of what is defined; 0 for nothing."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0


def _two(value: float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # no minus before a zero


def _way(place: float) -> str:
    return f"at {place:.2f} of the way" if place > 0 else "before its own centre"


def _commonest(answers: object) -> int:
    return int(torch.bincount(torch.as_tensor(answers)).argmax())
