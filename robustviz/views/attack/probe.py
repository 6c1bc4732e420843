"""Probes of the Attack page: they run attacks on one test image or on many and return numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from robustviz import progress, registry
from robustviz.attacks import PGD, Attack, Square
from robustviz.attacks.balls import BALLS
from robustviz.attacks.base import answers as predicted
from robustviz.data import Dataset
from robustviz.nets import Classifier, frozen
from robustviz.runs.folder import Run
from robustviz.stats import Ints
from robustviz.training.evaluate import count_right
from robustviz.types import UserError, check_eps, eps_text, grey_text
from robustviz.views.attack.result import (
    AccuracyCurve,
    AccuracyCurveSpec,
    Adversarial,
    AdversarialSpec,
    Answers,
    AnswersSpec,
    AttackLevels,
    AttackLevelsSpec,
    OneAttack,
    SmallestEps,
    SmallestEpsSpec,
    Trajectory,
    TrajectorySpec,
)
from robustviz.views.attention.result import levels_of
from robustviz.views.measure import image_of, images_of, meta_of, net_of, probe, radius, row_of

SPAN = 2.0  # accuracy curves go from 0 to this many times the run's ε
REACH = 4.0  # the search for the smallest ε goes up to this many times the run's ε
NOISE = 1_000_003  # the attack's seed times this seeds the noise, as in an evaluation
ROUNDS = 8  # bisection steps: the bracket shrinks to 1/256 of the range


QUERIES = 1000  # of the Square attack per image and radius


def attack_of(run: Run, spec: OneAttack[Any]) -> Attack:
    """Returns the attack that `spec` names, with the spec's ε and steps; it is targeted if the spec
    has a target class.

    If `spec.eps` is None, ε is that of the run, or the data's default ε if the run was trained in
    l2. Attacks without steps ignore the number of steps; Square makes 1000 queries (`QUERIES`).
    Raises UserError for an unknown attack, for an ε above 1, and for a target class if the attack
    has no targeted form.
    """
    kind = registry.get("attack", spec.attack)
    known = registry.options(kind)
    if spec.target >= 0 and "targeted" not in known:
        raise UserError(
            f"The attack {kind.label} cannot be targeted: choose another attack, or any wrong"
            " class.",
            code=2,
        )
    more: dict[str, Any] = {"steps": spec.steps} if "steps" in known else {}
    if issubclass(kind, Square):
        more["queries"] = QUERIES
    attack: Attack = kind(eps=radius(run) if spec.eps is None else spec.eps, **more)
    return dataclasses.replace(attack, targeted=True) if spec.target >= 0 else attack


def goal(spec: OneAttack[Any], split: Dataset, y: torch.Tensor) -> torch.Tensor:
    """Returns the labels (N,) that the attack needs: the spec's target class for each image if it
    has one, else the true classes `y` (N,). Raises UserError for a target class that the data does
    not have.
    """
    if spec.target >= len(split.classes):
        raise UserError(
            f"There is no class {spec.target}: this data has {len(split.classes)}, counted from 0.",
            code=2,
        )
    return torch.full_like(y, spec.target) if spec.target >= 0 else y


@probe(AdversarialSpec)
def adversarial(run: Run, spec: AdversarialSpec) -> Adversarial:
    """Attack one test image at one radius; return the image and the softmax outputs before and
    after the attack. Raises UserError for an unknown image or target class, and where `attack_of`
    does.
    """
    split, x, y = image_of(run, spec.index)
    net, attack, aim = net_of(run), attack_of(run, spec), goal(spec, split, y)
    x_adv = attack(net, x, aim, rng=torch.Generator().manual_seed(spec.seed))
    with frozen(net), torch.no_grad():
        probs = F.softmax(net(torch.cat([x, x_adv])), dim=1).numpy()
    before, after = (split.classes[int(answer)] for answer in probs.argmax(1))
    distance = float((x_adv - x).abs().max())
    return Adversarial(
        x[0].numpy(),
        x_adv[0].numpy(),
        int(y),
        probs[0],
        probs[1],
        float(attack.eps or 0),
        distance,
        meta=_meta(
            run,
            split,
            attack,
            spec,
            f"{before} ({probs[0].max():.0%}) → {after} ({probs[1].max():.0%}), no pixel changed"
            f" by more than {eps_text(distance)}",
        ),
    )


@probe(AttackLevelsSpec)
def attack_levels(run: Run, spec: AttackLevelsSpec) -> AttackLevels:
    """Attack one test image at every radius of the spec, each time with the same random numbers.
    Raises UserError for an unknown image or target class, and where `attack_of` does.
    """
    split, x, y = image_of(run, spec.index)
    spec = dataclasses.replace(spec, eps=check_eps(radius(run) if spec.eps is None else spec.eps))
    net, attack, aim = net_of(run), attack_of(run, spec), goal(spec, split, y)
    levels = np.array(spec.levels)
    every = torch.cat([x, with_each(net, attack, x, aim, levels[1:], spec.seed)])
    with frozen(net), torch.no_grad():
        probs = F.softmax(net(every), dim=1).numpy()
    whole = (255 * every).round()
    small = torch.int8 if levels[-1] < 128 else torch.int16  # small integers compress well
    flat = every.flatten(1)
    return AttackLevels(
        levels,
        whole[0].to(torch.uint8).numpy(),
        (whole - whole[0]).to(small).numpy(),
        int(y),
        probs,
        (flat - flat[:1]).abs().amax(1).numpy(),
        torch.stack([flat.amin(1), flat.amax(1)], 1).numpy(),
        meta=_meta(run, split, attack, spec, f"{len(levels)} radii up to {levels[-1]}/255"),
    )


def with_each(
    net: Classifier, attack: Attack, x: torch.Tensor, y: torch.Tensor, levels: Ints, seed: int
) -> torch.Tensor:
    """Returns the image `x` attacked at each radius, (L,C,H,W), each time with random numbers of
    the same `seed`.

    `x` (1,C,H,W) in [0, 1]; `y` (1,): the true or the target class; `levels` (L,): the radii in
    grey levels (1/255). All radii are computed as one batch, but an attack with its own `run` or
    `__call__` is called once for each radius. Progress is reported to `robustviz.progress`.
    """
    attacks = [dataclasses.replace(attack, eps=int(level) / 255) for level in levels]
    rngs = [torch.Generator().manual_seed(seed) for _ in levels]
    progress.expect(len(levels))
    if type(attack).run is not Attack.run or type(attack).__call__ is not Attack.__call__:
        one_by_one = []
        for each, rng in zip(attacks, rngs, strict=True):
            one_by_one.append(each(net, x, y, rng=rng))
            progress.count(1)
        return torch.cat(one_by_one)
    starts = torch.cat(
        [
            each.starting_points(BALLS[each.norm](x, each.eps or 0), rng)
            for each, rng in zip(attacks, rngs, strict=True)
        ]
    )
    eps = torch.tensor([each.eps for each in attacks], dtype=x.dtype)
    many, labels = x.expand(len(levels), -1, -1, -1).contiguous(), y.expand(len(levels))
    with frozen(net):  # with eps=None the step size follows each image's own radius
        attack = dataclasses.replace(attack, eps=None)
        found = attack._walk(attack.objective(net, labels), many, starts, eps, rngs[0])
    progress.count(len(levels))
    return found


def _meta(
    run: Run, split: Dataset, attack: Attack, spec: OneAttack[Any], summary: str
) -> dict[str, Any]:
    return meta_of(
        run,
        split,
        attack=registry.encode(attack),
        index=spec.index,
        seed=spec.seed,
        summary=summary,
    )


@probe(TrajectorySpec)
def trajectory(run: Run, spec: TrajectorySpec) -> Trajectory:
    """Attack one test image; return the softmax outputs and the loss for each of the images that
    `Attack.trace` returns. Raises UserError for an unknown image or target class, and where
    `attack_of` does.
    """
    split, x, y = image_of(run, spec.index)
    net, attack, aim = net_of(run), attack_of(run, spec), goal(spec, split, y)
    path = attack.trace(net, x, aim, torch.Generator().manual_seed(spec.seed))[:, 0]
    with frozen(net), torch.no_grad():
        logits, clean = net(path), net(x)
    labels = y.expand(len(path))
    loss = F.cross_entropy(logits, labels, reduction="none")
    wrong = (logits.argmax(1) != labels).nonzero().flatten().tolist()
    when = (
        "misclassified untouched"
        if int(clean.argmax(1)) != int(y)
        else f"not fooled in {len(path) - 1} steps"
        if not wrong
        else f"fooled after step {wrong[0]}"
        if wrong[0]
        else "fooled already by the random start"
    )
    return Trajectory(
        F.softmax(logits, 1).numpy(),
        loss.numpy(),
        int(y),
        float(attack.eps or 0),
        meta=_meta(
            run, split, attack, spec, f"{when}; loss {float(loss[0]):.2f} → {float(loss[-1]):.2f}"
        ),
    )


@probe(AccuracyCurveSpec)
def accuracy_curve(run: Run, spec: AccuracyCurveSpec) -> AccuracyCurve:
    """Measure the accuracy under PGD on the first `spec.n` test images, at nine equally spaced
    radii from 0 to twice the run's ε, or to 1 if that is less. If the run was trained in l2, the
    data's default ε takes the place of the run's ε.
    """
    split = images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    net, attack, radii = (
        net_of(run),
        PGD(steps=spec.steps),
        np.linspace(0, min(1, SPAN * radius(run)), 9),
    )
    right = [
        int(count_right(net, few.x, few.y, attack.bound(float(eps)), spec.seed).sum())
        for eps in radii
    ]
    usual = int(np.argmin(abs(radii - radius(run))))
    return AccuracyCurve(
        radii,
        np.array(right),
        len(few),
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            seed=spec.seed,
            summary=f"{right[0]} of {len(few)} right untouched, {right[usual]} at ε ="
            f" {eps_text(float(radii[usual]))} under PGD-{spec.steps}",
        ),
    )


@probe(AnswersSpec)
def answers(run: Run, spec: AnswersSpec) -> Answers:
    """Returns the network's predictions for the first `spec.n` test images under PGD at each radius
    of `levels_of`, from 0 to about twice `spec.eps`. If `spec.eps` is None, the run's ε takes its
    place, or the data's default ε if the run was trained in l2. Raises UserError for an invalid
    radius.
    """
    split, net = images_of(run), net_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    usual = check_eps(radius(run) if spec.eps is None else spec.eps)
    levels, attack, said = np.array(levels_of(usual)), PGD(steps=spec.steps), []
    progress.expect(len(levels) * len(few))
    for level in levels:
        rng = torch.Generator().manual_seed(spec.seed * NOISE % 2**63)
        bound = attack.bound(int(level) / 255)
        shown = bound.search(net, few.x, few.y, rng) if level else few.x
        with frozen(net):
            said.append(predicted(net, shown).numpy())
        progress.count(len(few))
    right = (np.array(said) == few.y.numpy()).sum(1)
    at = int(np.abs(levels / 255 - usual).argmin())
    return Answers(
        levels / 255,
        right,
        len(few),
        np.array(said, dtype=np.int16),
        few.y.numpy(),
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            seed=spec.seed,
            summary=f"{right[0]} of {len(few)} right untouched, {right[at]} at ε ="
            f" {eps_text(levels[at] / 255)}",
        ),
    )


@probe(SmallestEpsSpec)
def smallest_eps(run: Run, spec: SmallestEpsSpec) -> SmallestEps:
    """Find by bisection, for each image, the smallest radius at which PGD fools the network.

    The largest radius tried is four times (`REACH`) the run's ε (the data's default ε if the run
    was trained in l2), but at most 1, or 0.5 if that ε is 0. Raises UserError for an unknown image.
    """
    alone = spec.index >= 0
    split = image_of(run, spec.index)[0] if alone else images_of(run)
    index = torch.tensor([spec.index]) if alone else torch.arange(min(spec.n, len(split)))
    rows = torch.tensor([row_of(spec.index)]) if alone else index
    few, attack = split.take(rows), PGD(steps=spec.steps, start="zero")
    limit = min(1.0, REACH * radius(run)) or 0.5
    eps, width = smallest_radius(net_of(run), few.x, few.y, attack, limit)
    flipped = eps[(eps > 0) & eps.isfinite()]
    typical = f"median {grey_text(float(flipped.median()))}" if len(flipped) else "none was fooled"
    return SmallestEps(
        eps.numpy(),
        index.numpy(),
        limit,
        width,
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            summary=f"{len(flipped)} of {len(eps)} images fooled at ε ≤ {eps_text(limit)},"
            f" {typical}; {int((eps == 0).sum())} misclassified untouched",
        ),
    )


def smallest_radius(
    net: Classifier, x: torch.Tensor, y: torch.Tensor, attack: PGD, limit: float
) -> tuple[torch.Tensor, float]:
    """Returns, for each image, the smallest radius (N,) at which `attack` fools `net`, and a float:
    the width of the last bisection bracket.

    `x` (N,C,H,W) in [0, 1]; `y` (N,): the true classes. Radii and `limit` are in pixel units. The
    radii are found by bisection between 0 and `limit`, which assumes that a larger radius fools the
    network wherever a smaller one does. A radius is 0 where the clean image is already
    misclassified, and infinite where the network is right even at `limit`. `attack` should start at
    the image, not at random, so that the result for an image does not depend on the other images of
    the batch. It should have no `eps` of its own, so that its step size follows each radius.
    """

    def fooled(radius: torch.Tensor) -> torch.Tensor:
        # All images in one batch, each with its own radius and a step size proportional to it.
        with frozen(net):
            x_adv = attack.maximise(attack.objective(net, y), x, eps=radius)
            with torch.no_grad():
                return torch.ne(net(x_adv).argmax(1), y)

    with frozen(net), torch.no_grad():
        wrong = net(x).argmax(1) != y
    low, high = torch.zeros(len(x), dtype=x.dtype), torch.full((len(x),), limit, dtype=x.dtype)
    reached = fooled(high)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        hit = fooled(middle)
        high, low = torch.where(hit, middle, high), torch.where(hit, low, middle)
    radius = high.masked_fill(~reached, torch.inf).masked_fill(wrong, 0)
    return radius, limit / 2**ROUNDS
