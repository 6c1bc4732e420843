"""What carries an answer, what logit pairing asks for beside cross-entropy, and whether more attack
finds more.

Three questions about adaptive adversarial logit pairing, answered for any network with a linear
last layer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from robustviz import registry
from robustviz.attacks import PGD, Square
from robustviz.attacks.balls import Linf
from robustviz.data import Dataset
from robustviz.methods import AALP
from robustviz.methods.aalp import contributions
from robustviz.nets import Classifier, frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.training.evaluate import attacked, count_right
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.contributions.result import AttackSteps, Contributions, Pairing
from robustviz.views.features.probe import features_of
from robustviz.views.measure import Probe, image_of, images_of, linf_net, meta_of, net_of
from robustviz.views.result import Result

LOOKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
# images whose attack is under way at once; as many as an evaluation's batch, so that they get its
# noise
OPEN = 250

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class OfImages(Probe[R]):
    """Which images: the first `n` of the test split, or the one with the number `index`."""

    n: int = option(100, "How many test images.", low=1)
    index: int = option(-1, "One image only; -1: the first n.", low=-1)

    def images(self, run: Run) -> tuple[Dataset, Tensor, Dataset]:
        """The run's test split, the numbers of the images, and the images."""
        if self.index >= 0:
            split, _, _ = image_of(run, self.index)
            chosen = torch.tensor([self.index])
        else:
            split = images_of(run)
            chosen = torch.arange(min(self.n, len(split)))
        return split, chosen, split.take(chosen)


@register("probe/contributions")
@dataclass(frozen=True)
class ContributionsSpec(OfImages[Contributions]):
    """What each feature adds to the true class's logit of untouched images, and one draw of guided
    dropout at full rate.

    The dropout is that of the run's own settings where it was trained with AALP, else AALP's usual
    one.
    """

    seed: int = option(0, "Seed of the draw.", low=0)

    result = Contributions

    @property
    def cacheable(self) -> bool:
        return False

    def measure(self, run: Run) -> Contributions:
        """Raises UserError for a network whose last layer is not linear."""
        net = net_of(run)
        head = linear(run, net)
        split, index, few = self.images(run)
        z, logits = features_of(net, few.x)
        parts = contributions(z, head, few.y)
        bias = head.bias.detach()[few.y] if head.bias is not None else torch.zeros(len(few))
        method = run.config.method if isinstance(run.config.method, AALP) else AALP()
        mask = method.guided_mask(parts, method.rate(1.0), torch.Generator().manual_seed(self.seed))
        meta = meta_of(
            run,
            split,
            group=run.config.method.group,
            keep=method.keep,
            rate=method.rate(1.0),
            dropped=method.dropped,
            own=isinstance(run.config.method, AALP),
            seed=self.seed,
        )
        out = Contributions(
            parts.numpy(),
            bias.numpy(),
            mask.numpy(),
            few.y.numpy(),
            logits.argmax(dim=1).numpy(),
            index.numpy(),
            meta=meta,
        )
        there = np.isfinite(out.half)
        meta["summary"] = (
            f"half of what speaks for the true class comes from {np.mean(out.half[there]):.1f} of"
            f" {parts.shape[1]} features (effective number {np.mean(out.effective[there]):.1f},"
            f" mean of {there.sum()} of {len(few)} images)"
            if there.any()
            else f"no feature speaks for the true class on any of {len(few)} images"
        )
        return out


@register("probe/pairing")
@dataclass(frozen=True)
class PairingSpec(OfImages[Pairing]):
    """Pairing loss and cross-entropy of each image and its attacked twin, and whether their
    gradients agree.

    The gradients are those of the two terms of ALP's loss, with respect to all weights, image by
    image in eval mode: the pairing loss mean_K (z − z')², and the mean of the cross-entropies of
    both twins.
    """

    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    result = Pairing

    def measure(self, run: Run) -> Pairing:
        """Raises UserError for a run trained in l2."""
        net = linf_net(run)
        split, index, few = self.images(run)
        eps = check_eps(run.eps if self.eps is None else self.eps)
        attack = PGD(eps=eps, steps=self.steps)
        x_adv = attacked(net, few.x, few.y, attack, self.seed)
        with frozen(net), torch.no_grad():
            logits, logits_adv = net(few.x), net(x_adv)
        own = copy.deepcopy(net)  # other weights are put into it for a moment; the net is shared
        with frozen(own):
            cosine = [
                gradient_cosine(own, x, twin, y)
                for x, twin, y in zip(few.x, x_adv, few.y, strict=True)
            ]
        meta = meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=eps,
            seed=self.seed,
            pair_weight=kind_of(run),
        )
        out = Pairing(
            ce=F.cross_entropy(logits, few.y, reduction="none").numpy(),
            ce_adv=F.cross_entropy(logits_adv, few.y, reduction="none").numpy(),
            pairing=(logits - logits_adv).pow(2).mean(dim=1).numpy(),
            cosine=np.array(cosine),
            right_adv=(logits_adv.argmax(dim=1) == few.y).numpy(),
            y=few.y.numpy(),
            index=index.numpy(),
            meta=meta,
        )
        there = int(np.isfinite(out.cosine).sum())
        plain, weighed = out.opposed(), out.opposed("adversarial")
        meta["summary"] = (
            f"PGD-{self.steps} at ε = {eps_text(eps)}: the gradients of pairing and cross-entropy"
            f" oppose each other on {100 * plain[0]:.0f} % [{100 * plain[1]:.0f},"
            f" {100 * plain[2]:.0f}] of {there} images; with the weights p(y|x') these hold"
            f" {100 * weighed[0]:.0f} % [{100 * weighed[1]:.0f}, {100 * weighed[2]:.0f}] of the"
            " weight"
            if there and np.isfinite(weighed[0])
            else (
                f"PGD-{self.steps} at ε = {eps_text(eps)}: on none of {len(few)} images have both"
                " losses a gradient"
            )
        )
        return out


@register("probe/attack_steps")
@dataclass(frozen=True)
class AttackStepsSpec(Probe[AttackSteps]):
    """Accuracy of the first `n` test images as PGD takes more steps, and under Square, which needs
    no gradient.

    The step stays ε/4 however many there are, and the start is the same, so that an attack of ten
    steps is the beginning of one of a thousand. An image counts as fooled from the first look at
    which it is misread.
    """

    n: int = option(50, "How many test images.", low=1, high=OPEN)
    steps: int = option(1000, "The most steps of PGD.", low=1, high=2000)
    queries: int = option(1000, "Queries of Square.", low=1, high=100_000)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    seed: int = option(0, "Seed of both attacks' noise.", low=0)

    result = AttackSteps

    def measure(self, run: Run) -> AttackSteps:
        """Raises UserError for a run trained in l2."""
        net, split = linf_net(run), images_of(run)
        few = split.take(torch.arange(min(self.n, len(split))))
        eps = check_eps(run.eps if self.eps is None else self.eps)
        attack, square = (
            PGD(eps=eps, steps=self.steps, step_size=eps / 4),
            Square(eps=eps, queries=self.queries),
        )
        looks = sorted({*(look for look in LOOKS if look < self.steps), self.steps})
        right = looked_at(net, few.x, few.y, attack, looks, self.seed)
        meta = meta_of(run, split, attack=registry.encode(attack), eps=eps, seed=self.seed)
        out = AttackSteps(
            steps=np.array(looks),
            right=right,
            clean=count_right(net, few.x, few.y).numpy(),
            square=count_right(net, few.x, few.y, square, self.seed).numpy(),
            queries=self.queries,
            meta=meta,
        )
        counts = ", ".join(
            f"{row.sum()} after {look}" for look, row in zip(looks, right, strict=True)
        )
        meta["summary"] = (
            f"right at ε = {eps_text(eps)}, of {out.n}: {out.clean.sum()} untouched; PGD with steps"
            f" of ε/4: {counts}; Square-{self.queries}: {out.square.sum()}"
        )
        return out


def looked_at(
    net: nn.Module, x: Tensor, y: Tensor, attack: PGD, looks: list[int], seed: int = 0
) -> np.ndarray:
    """Which of at most 250 images are right at each look and at all before, (S,N), as one walk
    passes these steps.

    What is misread already walks no further, which changes nothing for the others.
    """
    rng = torch.Generator().manual_seed(
        seed * 1_000_003
    )  # the evaluation's noise for its first batch
    z = attack.starting_points(Linf(x, float(attack.eps or 0)), rng)
    right, done = np.zeros((len(looks), len(x)), dtype=bool), 0
    left = torch.arange(len(x))
    with frozen(net):
        for row, look in enumerate(looks):
            if not len(left):
                break
            further = replace(attack, steps=look - done)
            z = further._walk(attack.objective(net, y[left]), x[left], z, None, rng)
            with torch.no_grad():
                held = net(z).argmax(dim=1) == y[left]
            z, left, done = z[held], left[held], look
            right[row, left.numpy()] = True
    return right


def gradient_cosine(net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> float:
    """The cosine of two gradients with respect to all weights, for one image (C,H,W), its twin and
    its class: that of the pairing loss, and that of the mean cross-entropy of both. NaN where one
    of them is zero. The net is the caller's own.
    """
    weights = {
        name: value.detach().clone().requires_grad_(True) for name, value in net.named_parameters()
    }
    logits = functional_call(net, weights, (torch.stack([x, x_adv]),))
    terms = (logits[0] - logits[1]).pow(2).mean(), F.cross_entropy(logits, y.repeat(2))
    first, second = (
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(term, list(weights.values()), retain_graph=True)
            ]
        ).double()
        for term in terms
    )
    below = float(first.norm() * second.norm())
    return float(first @ second) / below if below > 0 else float("nan")


def kind_of(run: Run) -> str:
    """How the run's own training weighs its pairs where that is AALP, else AALP's usual weight."""
    method = run.config.method if isinstance(run.config.method, AALP) else AALP()
    return method.pair_weight


def linear(run: Run, net: Classifier) -> nn.Linear:
    """The net's last layer. Raises UserError where it is not linear."""
    if not isinstance(net.head, nn.Linear):
        raise UserError(
            f"The last layer of {run.id} is not linear, so no feature has a contribution of its"
            " own: choose another model."
        )
    return net.head
