"""What an attack does to one image and to a set: the numbers behind the Attack page."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from robustviz import registry
from robustviz.attacks import FGSM, PGD, Attack
from robustviz.data import Dataset
from robustviz.nets import Classifier, frozen
from robustviz.runs.folder import Run
from robustviz.training.evaluate import count_right
from robustviz.types import UserError, eps_text, grey_text
from robustviz.views.attack.result import (
    AccuracyCurve,
    AccuracyCurveSpec,
    Adversarial,
    AdversarialSpec,
    OneAttack,
    SmallestEps,
    SmallestEpsSpec,
    Trajectory,
    TrajectorySpec,
)
from robustviz.views.measure import image_of, images_of, linf_net, meta_of, probe

SPAN = 2.0  # curves reach from 0 to this many times the run's ε
REACH = 4.0  # and the search for the smallest ε to this many
ROUNDS = 8  # of bisection: brackets shrink to 1/256 of the span


def attack_of(run: Run, spec: OneAttack[Any]) -> Attack:
    """The attack with all its settings."""
    eps = run.eps if spec.eps is None else spec.eps
    return dataclasses.replace(
        FGSM(eps=eps) if spec.attack == "fgsm" else PGD(eps=eps, steps=spec.steps),
        targeted=spec.target >= 0,
    )


def goal(spec: OneAttack[Any], split: Dataset, y: torch.Tensor) -> torch.Tensor:
    """The classes that the attack is about, as `y`. Raises UserError for a target that there is
    not.
    """
    if spec.target >= len(split.classes):
        raise UserError(
            f"There is no class {spec.target}: this data has {len(split.classes)}, counted from 0.",
            code=2,
        )
    return torch.full_like(y, spec.target) if spec.target >= 0 else y


@probe(AdversarialSpec)
def adversarial(run: Run, spec: AdversarialSpec) -> Adversarial:
    """One test image attacked on one network."""
    split, x, y = image_of(run, spec.index)
    net, attack, aim = linf_net(run), attack_of(run, spec), goal(spec, split, y)
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
    """One image's way through an attack."""
    split, x, y = image_of(run, spec.index)
    net, attack, aim = linf_net(run), attack_of(run, spec), goal(spec, split, y)
    path = attack.trace(net, x, aim, torch.Generator().manual_seed(spec.seed))[:, 0]
    with frozen(net), torch.no_grad():
        logits = net(path)
    labels = y.expand(len(path))
    loss = F.cross_entropy(logits, labels, reduction="none")
    wrong = (logits.argmax(1) != labels).nonzero().flatten().tolist()
    fooled = f"fooled after step {wrong[0]}" if wrong and wrong[0] else "wrong untouched"
    when = fooled if wrong else f"not fooled in {len(path) - 1} steps"
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
    """Accuracy under PGD at several radii."""
    split = images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    net, attack, radii = linf_net(run), PGD(steps=spec.steps), np.linspace(0, SPAN * run.eps, 9)
    right = [
        int(count_right(net, few.x, few.y, attack.bound(float(eps)), spec.seed).sum())
        for eps in radii
    ]
    return AccuracyCurve(
        radii,
        np.array(right),
        len(few),
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            seed=spec.seed,
            summary=f"{right[0]} of {len(few)} right untouched,"
            f" {right[int(np.argmin(abs(radii - run.eps)))]} at ε ="
            f" {eps_text(run.eps)} under PGD-{spec.steps}",
        ),
    )


@probe(SmallestEpsSpec)
def smallest_eps(run: Run, spec: SmallestEpsSpec) -> SmallestEps:
    """The smallest radius that changes the answer, per image."""
    alone = spec.index >= 0
    split = image_of(run, spec.index)[0] if alone else images_of(run)
    index = torch.tensor([spec.index]) if alone else torch.arange(min(spec.n, len(split)))
    few, attack = split.take(index), PGD(steps=spec.steps, start="zero")
    limit = min(1.0, REACH * run.eps) or 0.5
    eps, width = smallest_radius(linf_net(run), few.x, few.y, attack, limit)
    flipped = eps[(eps > 0) & eps.isfinite()]
    typical = f"median {grey_text(float(flipped.median()))}" if len(flipped) else "none was flipped"
    return SmallestEps(
        eps.numpy(),
        index.numpy(),
        limit,
        width,
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            summary=f"{len(flipped)} of {len(eps)} answers flipped by an ε up to"
            f" {eps_text(limit)}, {typical}; {int((eps == 0).sum())} wrong untouched",
        ),
    )


def smallest_radius(
    net: Classifier, x: torch.Tensor, y: torch.Tensor, attack: PGD, limit: float
) -> tuple[torch.Tensor, float]:
    """Per image the smallest radius (N,) at which `attack` made `net` wrong, and the width of the
    last bracket.

    `attack` should start at the image, not at random, so that an image's answer does not depend on
    its company. Bisection, which takes for granted that a larger radius fools where a smaller one
    did; 0 where the clean image is wrong, infinity where `limit` fails.
    """

    def fooled(radius: torch.Tensor) -> torch.Tensor:
        # All images at once, each with its own radius and a step that follows it.
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
