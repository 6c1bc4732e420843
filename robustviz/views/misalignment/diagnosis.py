"""The cause of one class's misalignment, in words: the first rule of `RULES` that fits.

The thresholds lie between the values of forty shipped networks and the values of networks that were
spoilt on purpose: with a bias shifted, with half of one class's labels wrong, or with two classes
pulled together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robustviz.stats import Floats, Ints, wilson
from robustviz.views.misalignment.result import Misalignment

# A class with fewer images than this gets no diagnosis.
FEW = 5
# Two centres count as coinciding if their distance is below this share of the mean centre distance:
# shipped networks ≥ 0.46, classes pulled together ≤ 0.26.
COINCIDE = 1 / 3
# A boundary is too close below this share of the way to the other centre: shipped networks ≥ 0.28,
# half wrong labels ≤ 0.19.
CLOSE = 0.25
# A boundary nearer than this share of the way has been shifted by the head's biases …
LEANING = 0.4
# … if they move it by this share or more: shipped networks ≤ 0.03, a bias shifted by a sixth of
# the margin 0.08.
SHIFT = 0.06
# The biases favour a class if they move its boundary outwards by this share or more, and twice as
# far as any other class's: shipped networks ≤ 0.06, or 1.4 times as far.
FAVOURED = 0.1
# If the nearest boundary of most other classes is towards the same class and below this share of
# the way, training images of other classes carry that class's label.
PRESSED = 0.3
# `confidence` counts as low below this: half wrong labels ≤ 0.76.
UNSURE = 0.85
# Labels were memorised if the train–test gap exceeds the other classes' by this or more: shipped
# networks ≤ 0.2, half wrong labels memorised ≥ 0.3.
BY_HEART = 0.3
# Labels of other classes were memorised if the gap minus the other classes' is this or lower:
# shipped networks ≥ −0.06, other labels memorised ≤ −0.21.
UNLEARNED = -0.15
HOLDS = 0.1  # a class holds if at most this share of its images is wrong
ODD = 0.25  # misclassified images count as few up to this share of the class

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


@dataclass(frozen=True)
class Evidence:
    """What the rules test for one class: numbers, most of them from `Misalignment`, and texts.

    `total` is the number of images of all classes. Of this class's `n` test images `clean` are
    right untouched. Of those misclassified untouched, `lost` are the ones whose nearest neighbours
    are most often of another class (see `votes` in `diagnosis`), and `among` the rest. `wrong` are
    misclassified untouched or attacked, `odd` of these are outliers. `place`: where the prediction
    changes on the line from the own centre (0) to that of `towards` (1), the class with the nearest
    boundary; `plain`: where it would change without the head's biases; `elsewhere`: the largest
    shift by which the biases move another class's boundary away from its centre, 0 if none.
    `learned`: the share of its training images that are right; `gap`: accuracy on training images
    minus that on test images; `excess`: `gap` minus the median gap of the other classes. `pressed`:
    how many other classes have their nearest boundary towards this class and close to their own
    centre; 0 if these are not most of the other classes. `offset`: whether the head's biases are
    the reason why these boundaries are close.
    """

    name: str
    n: int
    total: int
    clean: int
    counts: str
    other: str
    distance: float
    spread: float
    moved: str
    moved_more: str
    landing: str
    towards: str
    place: float
    plain: float
    elsewhere: float
    pressed: int
    offset: bool
    nearby: str
    taken: str
    confidence: float
    learned: float
    gap: float
    excess: float
    lost: int
    seen_as: str
    among: int
    wrong: int
    odd: int
    odd_ones: str

    @property
    def apart(self) -> bool:
        """Whether no other centre is nearer than `COINCIDE` (in mean centre distances)."""
        return self.distance >= COINCIDE

    @property
    def way(self) -> str:
        """Where on the line to `towards` the prediction changes (`place`), in words."""
        return _way(self.place)


class Rule(NamedTuple):
    """One possible cause: the rule's name, the kind of cause that is printed (one of `KINDS`), a
    function that tests whether the rule fits, and one that returns the explanation.
    """

    name: str
    kind: str
    fits: Callable[[Evidence], bool]
    says: Callable[[Evidence], str]


# The questions, in order: Are there images of the class? Have the head's biases shifted a boundary?
# Were labels memorised? Do centres coincide? Is a boundary too close? Which images are wrong?
RULES = (
    Rule(
        "hardly there",
        MISSING,
        lambda e: e.n < FEW,
        lambda e: (
            f"{e.n or 'no'} image{'' if e.n == 1 else 's'} of {e.name} among the {e.total}: use"
            " more images."
        ),
    ),
    Rule(
        "an offset against it",
        HEAD,
        lambda e: e.apart and e.place < LEANING and e.plain - e.place >= SHIFT,
        lambda e: (
            f"on the line to {e.towards} the prediction changes {e.way}. Without the head's"
            f" biases it would change {_way(e.plain)}. {e.counts}"
        ),
    ),
    Rule(
        "an offset for it, seen at other classes",
        HEAD,
        lambda e: e.offset,
        lambda e: (
            f"the head's bias favours {e.name}. The prediction changes close to {e.nearby}."
            f" {e.taken} {e.counts}"
        ),
    ),
    Rule(
        "an offset for it, seen at its own boundary",
        HEAD,
        lambda e: e.apart and e.place - e.plain >= max(FAVOURED, 2 * e.elsewhere),
        lambda e: (
            f"the head's bias favours {e.name}. On the line to {e.towards} the prediction"
            f" changes {e.way}. Without the bias at {e.plain:.2f}. {e.taken} {e.counts}"
        ),
    ),
    Rule(
        "its labels memorised",
        LABELS,
        lambda e: e.excess >= BY_HEART and e.learned > wilson(e.clean, e.n)[1],
        lambda e: (
            f"training images are right {100 * e.gap:.0f} points more often than test images,"
            f" those of other classes {100 * (e.gap - e.excess):.0f}. The network memorised"
            f" labels that its features do not support. {e.counts} Check its labels."
        ),
    ),
    Rule(
        "other labels memorised",
        LABELS,
        lambda e: e.excess <= UNLEARNED and e.learned < wilson(e.clean, e.n)[0],
        lambda e: (
            f"only {100 * e.learned:.0f}% of its training images are classified as {e.name}, of"
            f" its test images {100 * e.clean / e.n:.0f}%. The network memorised other labels"
            f" for the rest. {e.counts} Check its labels."
        ),
    ),
    Rule(
        "centres coincide",
        OVERLAP,
        lambda e: not e.apart,
        lambda e: (
            f"the centres of {e.name} and {e.other} are only {e.distance:.2f} mean centre distances"
            f" apart. Its images lie {e.spread:.2f} from their own. {e.counts}"
        ),
    ),
    Rule(
        "a boundary too close, and unsure",
        LABELS,
        lambda e: e.place < CLOSE and (e.confidence < UNSURE or e.excess >= BY_HEART / 2),
        lambda e: (
            f"its features keep {e.distance:.2f} from {e.other}, yet the prediction changes"
            f" {e.way} to {e.towards}. On training images the output for {e.name} is"
            f" {e.confidence:.2f} times that of other classes. This is typical of wrong labels."
            f" {e.counts} Check its labels."
        ),
    ),
    Rule(
        "a boundary too close",
        HEAD,
        lambda e: e.place < CLOSE,
        lambda e: (
            f"on the line to {e.towards} the prediction changes {e.way}, halfway is 0.5. {e.counts}"
        ),
    ),
    Rule(
        "boundaries of other classes too close",
        LABELS,
        lambda e: e.pressed > 0,
        lambda e: (
            f"the prediction changes close to {e.pressed} other classes ({e.nearby} …) and far"
            f" from {e.name}. This is typical when images of many classes carry this label."
            f" {e.taken} {e.counts} Check its labels."
        ),
    ),
    Rule(
        "among other classes untouched",
        OVERLAP,
        lambda e: 2 * e.lost >= e.wrong and e.lost > HOLDS * e.n,
        lambda e: (
            f"{e.lost} of {e.n} lie among other classes' images and are misclassified, mostly as"
            f" {e.seen_as}. {e.counts}"
        ),
    ),
    Rule(
        "a few odd images",
        OUTLIERS,
        lambda e: 0 < e.wrong <= ODD * e.n and 2 * e.odd >= e.wrong,
        lambda e: f"of {e.wrong} misclassified, {e.odd_ones}. {e.counts}",
    ),
    Rule(
        "nearly all right",
        HOLD,
        lambda e: e.wrong <= HOLDS * e.n,
        lambda e: f"{e.counts} The attack moves {e.moved}.",
    ),
    Rule(
        "misclassified untouched among its own",
        HEAD,
        lambda e: 2 * e.among >= e.wrong,
        lambda e: (
            f"{e.among} of {e.n} {'is' if e.among == 1 else 'are'} misclassified untouched,"
            f" among images of the own class. {e.counts}"
        ),
    ),
    Rule(
        "moved by the attack",
        PUSHED,
        lambda e: True,
        lambda e: f"it moves {e.moved}. {e.moved_more} {e.counts}{e.landing}",
    ),
)


def diagnosis(found: Misalignment, c: int, votes: Ints) -> tuple[str, str]:
    """Returns the kind of cause of class `c` (one of `KINDS`) and its explanation, both from the
    first rule that fits. `votes` (N,): for each untouched image, the most frequent class among its
    nearest neighbours in feature space.
    """
    evidence = evidence_of(found, c, votes)
    rule = next(rule for rule in RULES if rule.fits(evidence))
    return rule.kind, rule.says(evidence)


def evidence_of(found: Misalignment, c: int, votes: Ints) -> Evidence:
    """Returns the values of class `c` that `RULES` test; `votes` (N,) as in `diagnosis`."""
    names, n = list(found.meta["classes"]), int(found.n[c])
    here = found.y == c
    unclear = here & ~found.right
    lost = unclear & (votes != c)
    wrong = here & ((found.pred_adv != c) | unclear)
    odd = wrong & found.outlier
    pressed, offset = _pressed(found, c)
    landing = (
        f" Most often it is then classified as {names[k]} ({count})."
        for k, count in found.lands(c)
        if k != c
    )
    clean, other, gap = int(found.clean_k[c]), names[found.nearest[c]], float(found.gap[c])
    gaps = _defined(np.delete(found.gap, c))
    return Evidence(
        name=names[c],
        n=n,
        total=len(found.y),
        clean=clean,
        counts=(f"{clean} of {n} are right untouched, {int(found.robust_k[c])} under attack."),
        other=other,
        distance=float(found.distance[c]),
        spread=float(found.spread[c]),
        moved=(
            f"images {_two(found.along[c])} of the way to their nearest wrong centre, noise"
            f" {_two(found.along_noise[c])}"
        ),
        moved_more=f"It moves them {_two(found.across[c])} of that way off the line.",
        landing=next(landing, ""),
        towards=names[found.boundary_class[c]],
        place=float(found.boundary[c]),
        plain=float(found.boundary_0[c]),
        elsewhere=float(_defined(np.delete(found.boundary - found.boundary_0, c)).max(initial=0)),
        pressed=len(pressed),
        offset=offset,
        nearby=", ".join(names[o] for o in pressed[:3]),
        taken=f"{int(found.taken[c])} untouched images of other classes are classified as"
        f" {names[c]}.",
        confidence=float(found.confidence[c]),
        learned=found.train_k[c] / max(int(found.train_n[c]), 1),
        gap=gap,
        excess=gap - (float(np.median(gaps)) if len(gaps) else 0.0),
        lost=int(lost.sum()),
        seen_as=names[np.bincount(found.pred[lost]).argmax()] if lost.any() else "",
        among=int((unclear & ~lost).sum()),
        wrong=int(wrong.sum()),
        odd=int(odd.sum()),
        odd_ones=_odd_ones(found, odd.nonzero()[0]),
    )


def _odd_ones(found: Misalignment, odd: Ints) -> str:
    """Returns a text that says how many outliers there are and names the first as an example; ""
    if there are none. `odd`: the outliers' positions in `found.y`.
    """
    if not len(odd):
        return ""
    one = found.files[odd[0]] if found.files else f"image {found.index[odd[0]]}"
    return (
        f"{len(odd)} {'lies far from its' if len(odd) == 1 else 'lie far from their'} class or"
        f" nearer to another, such as {one}"
    )


def _pressed(found: Misalignment, c: int) -> tuple[list[int], bool]:
    """Returns the other classes whose nearest boundary is the one to `c` and close to their own
    centre, if these are more than half of the other classes, else []; and whether the head's biases
    are the reason. If they are, only classes whose boundary the biases have shifted are returned.
    """
    near = (found.boundary_class == c) & (found.boundary < LEANING)
    shifted = near & (found.boundary_0 - found.boundary >= SHIFT)
    most = (int((found.n > 0).sum()) - 1) / 2
    if shifted.sum() > most:
        return [int(o) for o in shifted.nonzero()[0]], True
    close = near & (found.boundary < PRESSED)
    return [int(o) for o in close.nonzero()[0]] if close.sum() > max(most, 1) else [], False


def _defined(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _two(value: float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # + 0.0 turns −0.0 into 0.0


def _way(place: float) -> str:
    return f"at {place:.2f} of the way" if place > 0 else "before its own centre"
