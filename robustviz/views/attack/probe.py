"""What an attack does to one image and to a set: the numbers behind the Attack page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from robustviz import registry
from robustviz.attacks import FGSM, PGD, Attack
from robustviz.data import Dataset
from robustviz.nets import ImageNet, frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.training.evaluate import count_right
from robustviz.types import UserError, eps_text, grey_text
from robustviz.views.attack.result import AccuracyCurve, Adversarial, SmallestEps, Trajectory
from robustviz.views.measure import Probe, image_of, images_of, linf_net, meta_of
from robustviz.views.result import Result

SPAN = 2.0  # curves reach from 0 to this many times the run's ε
REACH = 4.0  # and the search for the smallest ε to this many
ROUNDS = 8  # of bisection: brackets shrink to 1/256 of the span


R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class OneAttack(Probe[R]):
    """Which image, which attack, how strong. `eps` None: the run's; `target` −1: untargeted."""

    index: int = option(0, "Number of the test image.", low=0)
    attack: Literal["pgd", "fgsm"] = option("pgd", "The attack.")
    eps: float | None = option(None, "Radius in pixel units.", low=0)
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the random start.", low=0)
    target: int = option(-1, "Class to be reached; -1: any wrong one.", low=-1)

    def made(self, run: Run) -> Attack:
        """The attack with all its settings."""
        eps = run.eps if self.eps is None else self.eps
        if self.attack == "fgsm":
            return FGSM(eps=eps, targeted=self.target >= 0)
        return PGD(eps=eps, steps=self.steps, targeted=self.target >= 0)

    def goal(self, split: Dataset, y: torch.Tensor) -> torch.Tensor:
        """The classes that the attack is about, as `y`. Raises UserError for a target that there is
        not.
        """
        if self.target >= len(split.classes):
            raise UserError(
                f"There is no class {self.target}: this data has {len(split.classes)}, counted"
                " from 0.",
                code=2,
            )
        return torch.full_like(y, self.target) if self.target >= 0 else y

    @property
    def lasting(self) -> bool:
        return False


@register("probe/adversarial")
@dataclass(frozen=True)
class AdversarialSpec(OneAttack[Adversarial]):
    """One test image attacked."""

    result = Adversarial

    def measure(self, run: Run) -> Adversarial:
        split, x, y = image_of(run, self.index)
        goal = self.goal(split, y)
        net, attack = linf_net(run), self.made(run)
        x_adv = attack(net, x, goal, rng=torch.Generator().manual_seed(self.seed))
        with frozen(net), torch.no_grad():
            probs = F.softmax(net(torch.cat([x, x_adv])), dim=1).numpy()
        before, after = int(probs[0].argmax()), int(probs[1].argmax())
        names = split.classes
        summary = (
            f"{names[before]} ({probs[0].max():.0%}) → {names[after]} ({probs[1].max():.0%}), "
            f"no pixel changed by more than {eps_text(float((x_adv - x).abs().max()))}"
        )
        meta = meta_of(
            run,
            split,
            attack=registry.encode(attack),
            index=self.index,
            seed=self.seed,
            summary=summary,
        )
        distance = float((x_adv - x).abs().max())
        return Adversarial(
            x[0].numpy(),
            x_adv[0].numpy(),
            int(y),
            probs[0],
            probs[1],
            float(attack.eps or 0),
            distance,
            meta=meta,
        )


@register("probe/trajectory")
@dataclass(frozen=True)
class TrajectorySpec(OneAttack[Trajectory]):
    """As `AdversarialSpec`: the same attack, looked at after every step."""

    result = Trajectory

    def measure(self, run: Run) -> Trajectory:
        split, x, y = image_of(run, self.index)
        goal = self.goal(split, y)
        net, attack = linf_net(run), self.made(run)
        path = attack.trace(net, x, goal, torch.Generator().manual_seed(self.seed))[:, 0]
        with frozen(net), torch.no_grad():
            logits = net(path)
        labels = y.expand(len(path))
        loss = F.cross_entropy(logits, labels, reduction="none")
        wrong = (logits.argmax(1) != labels).nonzero().flatten()
        first = int(wrong[0]) if len(wrong) else -1
        when = (
            f"not fooled in {len(path) - 1} steps"
            if first < 0
            else f"fooled after step {first}"
            if first
            else "wrong untouched"
        )
        meta = meta_of(
            run,
            split,
            attack=registry.encode(attack),
            index=self.index,
            seed=self.seed,
            summary=f"{when}; loss {float(loss[0]):.2f} → {float(loss[-1]):.2f}",
        )
        return Trajectory(
            F.softmax(logits, 1).numpy(), loss.numpy(), int(y), float(attack.eps or 0), meta=meta
        )


@register("probe/accuracy_curve")
@dataclass(frozen=True)
class AccuracyCurveSpec(Probe[AccuracyCurve]):
    """Accuracy under PGD at nine radii from 0 to twice the run's ε, on the first `n` test
    images.
    """

    n: int = option(200, "How many test images.", low=1)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = AccuracyCurve

    def measure(self, run: Run) -> AccuracyCurve:
        split = images_of(run)
        few = split.take(torch.arange(min(self.n, len(split))))
        net, radii = linf_net(run), np.linspace(0, SPAN * run.eps, 9)
        right = [
            count_right(net, few.x, few.y, PGD(eps=float(eps), steps=self.steps), self.seed).sum()
            for eps in radii
        ]
        meta = meta_of(run, split, attack=registry.encode(PGD(steps=self.steps)), seed=self.seed)
        out = AccuracyCurve(radii, np.array([int(k) for k in right]), len(few), meta=meta)
        middle = int(np.argmin(abs(radii - run.eps)))
        meta["summary"] = (
            f"{int(out.k[0])} of {len(few)} right untouched, {int(out.k[middle])} at ε ="
            f" {eps_text(run.eps)} under PGD-{self.steps}"
        )
        return out


@register("probe/smallest_eps")
@dataclass(frozen=True)
class SmallestEpsSpec(Probe[SmallestEps]):
    """The smallest radius at which PGD changes each of the first `n` answers, by bisection up to
    four times the run's ε.

    An attack that fails at a radius proves nothing, so this is an upper bound on the true distance.
    """

    n: int = option(100, "How many test images.", low=1)
    steps: int = option(20, "Steps of PGD at each radius.", low=1, high=1000)
    index: int = option(-1, "One image only; -1: the first n.", low=-1)

    result = SmallestEps

    @property
    def lasting(self) -> bool:
        return self.index < 0

    def measure(self, run: Run) -> SmallestEps:
        split = images_of(run)
        index = (
            torch.arange(min(self.n, len(split))) if self.index < 0 else torch.tensor([self.index])
        )
        if int(index.max()) >= len(split):
            raise UserError(
                f"There is no image {self.index}: the test split has {len(split)}, counted from 0.",
                code=2,
            )
        few, net = split.take(index), linf_net(run)
        attack = PGD(steps=self.steps, start="zero")
        limit = min(1.0, REACH * run.eps) or 0.5
        eps, width = smallest_radius(net, few.x, few.y, attack, limit)
        meta = meta_of(run, split, attack=registry.encode(attack))
        out = SmallestEps(eps.numpy(), index.numpy(), limit, width, meta=meta)
        flipped = eps[(eps > 0) & eps.isfinite()]
        typical = (
            f"median {grey_text(float(flipped.median()))}" if len(flipped) else "none was flipped"
        )
        meta["summary"] = (
            f"{len(flipped)} of {len(eps)} answers flipped by an ε up to {eps_text(limit)},"
            f" {typical}; {int((eps == 0).sum())} wrong untouched"
        )
        return out


def smallest_radius(
    net: ImageNet, x: torch.Tensor, y: torch.Tensor, attack: PGD, limit: float
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
                return net(x_adv).argmax(1) != y

    with frozen(net), torch.no_grad():
        wrong = net(x).argmax(1) != y
    low = torch.zeros(len(x), dtype=x.dtype)
    high = torch.full_like(low, limit)
    reached = fooled(high)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        hit = fooled(middle)
        high, low = torch.where(hit, middle, high), torch.where(hit, low, middle)
    out = torch.where(reached, high, torch.full_like(high, torch.inf))
    return torch.where(wrong, torch.zeros_like(out), out), limit / 2**ROUNDS
