"""Probes of the Contributions page. They answer, for any network, three questions about adaptive
adversarial logit pairing: which features make up a logit, whether the pairing loss pulls against
cross-entropy, and whether a longer or a gradient-free attack fools more images.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from robustviz import registry
from robustviz.attacks import PGD, Square
from robustviz.attacks.balls import Linf
from robustviz.data import Dataset
from robustviz.inputs import in_parts
from robustviz.methods import AALP
from robustviz.methods.aalp import contributions as parts_of
from robustviz.nets import Classifier, frozen
from robustviz.runs.folder import Run
from robustviz.stats import Bools
from robustviz.training.evaluate import attacked, count_right
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.contributions.result import (
    AttackSteps,
    AttackStepsSpec,
    Carried,
    CarriedSpec,
    Contributions,
    ContributionsSpec,
    OfImages,
    Pairing,
    PairingSpec,
)
from robustviz.views.features.probe import features_of
from robustviz.views.measure import image_of, images_of, meta_of, net_of, probe, radius, row_of

LOOKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def images_for(run: Run, spec: OfImages[Any]) -> tuple[Dataset, Tensor, Dataset]:
    """Returns the run's test split, the indices (n,) of the images that `spec` asks about, and a
    data set of only these images. Raises UserError if there is no image with index `spec.index`.
    """
    if spec.index >= 0:
        split, alone = image_of(run, spec.index)[0], torch.tensor([row_of(spec.index)])
        return split, torch.tensor([spec.index]), split.take(alone)
    split = images_of(run)
    chosen = torch.arange(min(spec.n, len(split)))
    return split, chosen, split.take(chosen)


def aalp_of(run: Run) -> AALP:
    """Returns the run's own method if it is AALP, else AALP with its default settings."""
    return run.config.method if isinstance(run.config.method, AALP) else AALP()


@probe(ContributionsSpec)
def contributions(run: Run, spec: ContributionsSpec) -> Contributions:
    """Compute what each feature adds to the true class's logit, and which features one random draw
    of guided dropout drops. Raises UserError for an unknown image, and for a network whose logits
    do not depend on its features.
    """
    net, method = net_of(run), aalp_of(run)
    split, index, few = images_for(run, spec)
    parts, bias, logits = added(run, net, few.x, few.y)
    columns = (
        parts,
        bias,
        method.guided_mask(parts, method.rate(1.0), torch.Generator().manual_seed(spec.seed)),
        few.y,
        logits.argmax(dim=1),
        index,
    )
    result = Contributions(
        *(column.numpy() for column in columns),
        meta=meta_of(
            run,
            split,
            group=run.config.method.group,
            keep=method.keep,
            rate=method.rate(1.0),
            dropped=method.dropped,
            contribution=method.contribution,
            own=isinstance(run.config.method, AALP),
            seed=spec.seed,
            **by_slope(net),
        ),
    )
    there = np.isfinite(result.half)
    result.meta["summary"] = (
        "half of the positive contributions to the true class comes from"
        f" {np.mean(result.half[there]):.1f} of {parts.shape[1]} features (effective number"
        f" {np.mean(result.effective[there]):.1f}, mean of {there.sum()} of {len(few)} images)"
        if there.any()
        else f"no feature contributes positively to the true class on any of {len(few)} images"
    )
    return result


@probe(CarriedSpec)
def carried(run: Run, spec: CarriedSpec) -> Carried:
    """Measure how many features make up half of the sum of all positive contributions to the true
    class's logit. Raises UserError for a network whose logits do not depend on its features.
    """
    net, split = net_of(run), images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    each, _, logits = added(run, net, few.x, few.y)
    pred, none = logits.argmax(dim=1).numpy(), np.zeros(0)
    parts = Contributions(each.numpy(), none, none, few.y.numpy(), pred, np.arange(len(few)))
    half, right = parts.half, pred == parts.y
    counted = right & np.isfinite(half)
    shares = parts.shares[counted]
    result = Carried(
        half=np.where(np.isfinite(half), half, -1).astype(np.int16),
        right=right,
        # `higher`, so that the median has reached 0.5 at `Carried.median` features
        shares=np.quantile(shares, (0.25, 0.5, 0.75), axis=0, method="higher").astype(np.float32)
        if counted.any()
        else np.zeros((3, shares.shape[1]), np.float32),
        meta=meta_of(run, split, of=len(split), **by_slope(net)),
    )
    result.meta["summary"] = (
        f"half of the positive contributions to the right class comes from {result.median} of"
        f" {result.width} features (median of {int(counted.sum())} of {len(few)} images)"
    )
    return result


@probe(PairingSpec)
def pairing(run: Run, spec: PairingSpec) -> Pairing:
    """Measure the pairing loss and the cross-entropies of images and their attacked copies, and the
    cosine of the two losses' gradients. Raises UserError for an unknown image and an invalid
    radius.
    """
    net = net_of(run)
    split, index, few = images_for(run, spec)
    eps = check_eps(radius(run) if spec.eps is None else spec.eps)
    attack = PGD(eps=eps, steps=spec.steps)
    x_adv = attacked(net, few.x, few.y, attack, spec.seed)
    with frozen(net), torch.no_grad():
        logits, logits_adv = net(few.x), net(x_adv)
    own = copy.deepcopy(net)  # a copy, because functional_call swaps weights and `net` is shared
    with frozen(own):
        cosine = np.array(
            [gradient_cosine(own, *pair) for pair in zip(few.x, x_adv, few.y, strict=True)]
        )
    result = Pairing(
        ce=F.cross_entropy(logits, few.y, reduction="none").numpy(),
        ce_adv=F.cross_entropy(logits_adv, few.y, reduction="none").numpy(),
        pairing=(logits - logits_adv).pow(2).mean(dim=1).numpy(),
        cosine=cosine,
        right_adv=(logits_adv.argmax(dim=1) == few.y).numpy(),
        y=few.y.numpy(),
        index=index.numpy(),
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=eps,
            seed=spec.seed,
            pair_weight=aalp_of(run).pair_weight,
        ),
    )
    result.meta["summary"] = f"PGD-{spec.steps} at ε = {eps_text(eps)}: {_opposing(result)}"
    return result


def _opposing(result: Pairing) -> str:
    there = int(np.isfinite(result.cosine).sum())
    share, low, high = (100 * value for value in result.opposed())
    weighed, least, most = (100 * value for value in result.opposed("adversarial"))
    return (
        f"the gradients of pairing and cross-entropy oppose each other on {share:.0f}%"
        f" [{low:.0f}, {high:.0f}] of {there} images; with the weights p(y|x') these hold"
        f" {weighed:.0f}% [{least:.0f}, {most:.0f}] of the weight"
        if there and np.isfinite(weighed)
        else f"there is no image among {len(result.y)} on which both losses have a nonzero gradient"
    )


@probe(AttackStepsSpec)
def attack_steps(run: Run, spec: AttackStepsSpec) -> AttackSteps:
    """Measure which images stay right as PGD takes more steps, and which under Square. Raises
    UserError for an invalid radius.
    """
    net, split = net_of(run), images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    eps = check_eps(radius(run) if spec.eps is None else spec.eps)
    attack = PGD(eps=eps, steps=spec.steps, step_size=eps / 4)
    looks = sorted({*(look for look in LOOKS if look < spec.steps), spec.steps})
    right = looked_at(net, few.x, few.y, attack, looks, spec.seed)
    result = AttackSteps(
        steps=np.array(looks),
        right=right,
        clean=count_right(net, few.x, few.y).numpy(),
        square=count_right(
            net, few.x, few.y, Square(eps=eps, queries=spec.queries), spec.seed
        ).numpy(),
        queries=spec.queries,
        meta=meta_of(run, split, attack=registry.encode(attack), eps=eps, seed=spec.seed),
    )
    counts = ", ".join(f"{row.sum()} after {look}" for look, row in zip(looks, right, strict=True))
    result.meta["summary"] = (
        f"right at ε = {eps_text(eps)}, of {result.n}: {result.clean.sum()} untouched; PGD with"
        f" steps of ε/4: {counts}; Square-{spec.queries}: {result.square.sum()}"
    )
    return result


def looked_at(
    net: nn.Module, x: Tensor, y: Tensor, attack: PGD, looks: list[int], seed: int = 0
) -> Bools:
    """Returns which images are right after each number of PGD steps in `looks` and at all earlier
    checks, (S,N) bool.

    `x` (N,C,H,W), at most 250 images; `y` (N,); `looks` in ascending order. PGD runs once, and the
    predictions are checked after these numbers of steps. An image once found misclassified stays
    False and is not attacked further, which changes nothing for the others. `attack` must be linf
    and have an ε and a step size; its own number of steps and restarts are ignored.
    """
    # the same noise as for the first batch of an evaluation
    rng = torch.Generator().manual_seed(seed * 1_000_003 % 2**63)
    z = attack.starting_points(Linf(x, float(attack.eps or 0)), rng)
    right, done = np.zeros((len(looks), len(x)), dtype=bool), 0
    left = torch.arange(len(x))
    with frozen(net):
        for row, look in enumerate(looks):
            if not len(left):
                break
            objective = attack.objective(net, y[left])
            z = replace(attack, steps=look - done)._walk(objective, x[left], z, None, rng)
            with torch.no_grad():
                held = net(z).argmax(dim=1) == y[left]
            z, left, done = z[held], left[held], look
            right[row, left.numpy()] = True
    return right


def gradient_cosine(net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> float:
    """Returns the cosine of the gradients of pairing loss and cross-entropy, over all weights.

    For one image `x` (C,H,W), its attacked copy `x_adv` and its class `y`; the cross-entropy is the
    mean over both images. NaN where one of the gradients is zero. `net` must not be shared with
    other threads.
    """
    weights = {
        name: value.detach().clone().requires_grad_(True) for name, value in net.named_parameters()
    }
    logits = functional_call(net, weights, (torch.stack([x, x_adv]),))
    first, second = (
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(term, list(weights.values()), retain_graph=True)
            ]
        ).double()
        for term in ((logits[0] - logits[1]).pow(2).mean(), F.cross_entropy(logits, y.repeat(2)))
    )
    below = float(first.norm() * second.norm())
    return float(first @ second) / below if below > 0 else float("nan")


def added(run: Run, net: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns how features add up to the logit of class `y`: three tensors for n images.

    These are the contribution of each feature (n,D), the rest of the logit (n,) and all logits
    (n,K). With a linear head, a feature's contribution is its value times its weight, and the rest
    is the bias. With another head, it is the value times the derivative of the logit with respect
    to the feature; that is exact only if the head is linear between 0 and these features. Raises
    UserError, which names `run`, where the logits do not depend on the features.
    """
    if isinstance(net.head, nn.Linear):
        z, logits = features_of(net, x)
        bias = net.head.bias
        own = torch.zeros(len(y)) if bias is None else bias.detach()[y]
        return parts_of(z, net.head, y), own, logits
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, labels in zip(
        in_parts(x, 50, net.size), torch.split(y, len(in_parts(x, 50, net.size)[0])), strict=True
    ):
        with frozen(net), torch.enable_grad():
            _, z, logits = net.parts(images.clone().requires_grad_())
            height = logits.gather(1, labels[:, None])[:, 0]
            slope = (
                torch.autograd.grad(height.sum(), z, allow_unused=True)[0]
                if z.requires_grad
                else None
            )
        if slope is None:
            raise UserError(
                f"The logits of {run.id} do not depend on its features alone, so no feature has a"
                " contribution of its own: import it with --features, a layer on the way to its"
                " last one."
            )
        each = (z * slope).detach()
        found.append((each, height.detach() - each.sum(1), logits.detach()))
    parts, rest, every = (torch.cat(columns) for columns in zip(*found, strict=True))
    return parts, rest, every


def by_slope(net: Classifier) -> dict[str, bool]:
    """Returns an entry for a result's `meta`: {"slope": True} if a contribution is the feature
    times a derivative, because the head is not linear; otherwise {}.
    """
    return {} if isinstance(net.head, nn.Linear) else {"slope": True}
