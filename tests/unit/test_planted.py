"""Tests planted adversarial examples: they exist, one step misses them, and networks with masked
gradients are called unreliable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import data
from robustviz.attacks import APGD, CW, FGSM, PGD, Attack, AutoAttack
from robustviz.data import Dataset
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.training.evaluate import measure
from robustviz.training.evaluation import Evaluation
from robustviz.training.planted import Planted, plant

if TYPE_CHECKING:
    from conftest import Toy

EPS = 0.15


def shipped(begins: str) -> Run:
    return Run(
        next(path for path in sorted(folder.zoo().iterdir()) if path.name.startswith(begins))
    )


@functools.cache
def digits() -> Dataset:
    return data.load("digits", "test").take(40)


@functools.cache
def ordinary() -> nn.Module:
    return shipped("digits-standard-small-cnn").net()


@functools.cache
def planted(norm: Literal["linf", "l2"] = "linf", eps: float = EPS) -> Planted:
    found = plant(ordinary(), digits().x, eps, norm)
    assert found is not None
    return found


@pytest.mark.long
@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 1.0)])
def test_the_planted_examples_are_there_and_inner_points_are_none(
    norm: Literal["linf", "l2"], eps: float
) -> None:
    here = planted(norm, eps)
    delta = (here.example - here.x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert float(size.max()) <= eps + 1e-6 and 0 <= float(here.example.min()) <= 1
    assert 20 <= len(here.x) <= 40
    rng = torch.Generator().manual_seed(7)
    near = (here.x + 0.05 * eps * torch.randn(here.x.shape, generator=rng).sign()).clamp(0, 1)
    with torch.no_grad():
        said = [here.net(each).argmax(1) for each in (here.example, here.x, near)]
        assert [float(each.double().mean()) for each in said] == [1, 0, 0]
        # The network recognises an image by its pixels, so the order and the other images of a
        # batch change nothing.
        turned = torch.randperm(len(here.x), generator=rng)
        alone = torch.cat([here.net(each) for each in here.example[turned].split(1)])
        torch.testing.assert_close(alone, here.net(here.example)[turned], rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_strong_attacks_find_what_one_step_misses() -> None:
    here, n = planted(), len(planted().x)
    strong = PGD(eps=EPS, steps=20), CW(eps=EPS), APGD(eps=EPS), APGD(eps=EPS, loss="dlr")
    for attack in (*strong, AutoAttack(eps=EPS)):
        assert here.found(attack) >= 0.95 * n, attack
    for weak in (FGSM(eps=EPS), FGSM(eps=EPS, start="uniform"), PGD(eps=EPS, steps=1)):
        assert here.found(weak) < 0.6 * n, weak
    assert here.found(FGSM(eps=EPS)) == 0
    assert planted("l2", 1.0).found(FGSM(eps=1.0, norm="l2")) == 0


@pytest.mark.long
def test_the_readout_has_the_networks_own_scale() -> None:
    class Louder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * ordinary()(x)

    loud = plant(Louder().eval(), digits().x, EPS)
    assert loud is not None and len(loud.x) == len(planted().x)
    assert loud.found(PGD(eps=EPS, steps=20)) < 0.1 * len(loud.x)  # The softmax is saturated,
    assert loud.found(CW(eps=EPS)) >= 0.95 * len(loud.x)  # but the margin is not.


def test_images_whose_balls_meet_are_planted_once() -> None:
    twice = torch.cat([digits().x[:15], digits().x[:15] + 0])
    found = plant(ordinary(), twice, EPS)
    assert found is not None and len(found.x) <= 15


def test_where_nothing_can_be_planted_nothing_is(toy: Toy) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 4) + 0 * x.flatten(1)[:, :4]

    assert plant(Constant(), toy.x, 0.1) is None and plant(toy.net, toy.x, 0.0) is None
    assert plant(toy.net, toy.x[:9], 0.05) is None  # Too few images give no result.


# Networks with masked gradients.

Mask = Callable[[nn.Module, Tensor], Tensor]


class Masked(nn.Module):
    """An ordinary network behind or in front of a function that hides its gradient."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.net, self.mask = ordinary(), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(self.net, x)


def steep(k: float) -> Mask:
    """Returns a mask that rounds each pixel to ten levels with sigmoid edges of slope `k`/4 per
    level.
    """

    def mask(net: nn.Module, x: Tensor) -> Tensor:
        level = (10 * x).floor().detach()
        return net((level + torch.sigmoid(0.1 * k * (10 * x - level - 0.5))) / 10)

    return mask


def one_hot(net: nn.Module, x: Tensor) -> Tensor:
    return F.one_hot(net(x).argmax(1), 10).float()


MASKS: dict[str, Mask] = {
    "hard staircase": lambda net, x: net((10 * x).round() / 10),
    "soft staircase": steep(400),
    "steep staircase": steep(5000),
    "two levels": lambda net, x: net((x > 0.5).float()),
    "logits x 1e4": lambda net, x: 1e4 * net(x),
    "temperature 1/50": lambda net, x: 50 * net(x),
    "random layer": lambda net, x: net(x + 0.1 * torch.randn_like(x)),
    "dropout when tested": lambda net, x: net(F.dropout(x, 0.2, training=True)),
    "one-hot": one_hot,
    "one-hot, gradient 0": lambda net, x: one_hot(net, x) + 0 * net(x),
    "one-hot, nearly": lambda net, x: (100 * net(x)).softmax(1),
    "gradient of another network": lambda net, x: net((10 * x).round() / 10) + 1e-3 * net(1 - x),
    "gradient turned round": lambda net, x: net(2 * x.detach() - x),
    "no gradient": lambda net, x: net(x.detach()),
}


def judged(net: nn.Module, attack: Attack | None = None) -> Evaluation:
    torch.manual_seed(0)
    return measure(net, digits(), attack or PGD(eps=EPS, steps=20))


QUICK = ("hard staircase", "random layer", "one-hot")


@pytest.mark.long
@pytest.mark.parametrize(
    "mask", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MASKS]
)
def test_a_masked_network_is_called_unreliable(mask: str) -> None:
    found = judged(Masked(MASKS[mask]).eval())
    assert not found.ok and found.verdict.startswith("unreliable: ")


@pytest.mark.long
def test_the_network_behind_the_masks_is_not() -> None:
    found = judged(Masked(lambda net, x: net(x)).eval())
    assert found.ok and found.verdict == "no fault found"
    # A network that only looks masked is not called so: the rounding passes the gradient on
    # unchanged.
    honest = Masked(lambda net, x: net(x + ((100 * x).round() / 100 - x).detach())).eval()
    assert judged(honest).ok


@pytest.mark.long
def test_a_network_without_a_gradient_is_counted_by_its_untouched_images() -> None:
    found = judged(Masked(one_hot).eval())
    assert found.robust_k == found.clean_k and found.robust_right == found.clean_right
    assert "gradients" in found.verdict and "black-box" in found.verdict


@pytest.mark.long
def test_a_weak_attack_alone_is_unreliable_and_a_rung_beside_a_strong_one_is_not() -> None:
    from robustviz.training.doctor import consult

    few, fgsm = digits(), FGSM(eps=EPS)
    alone = judged(ordinary(), fgsm)
    assert alone.verdict.startswith("unreliable: active test")
    told = consult(ordinary(), few.x, few.y, fgsm)
    rung = measure(ordinary(), few, fgsm, consulted=told)
    assert rung.ok and any(f.text.startswith("PGD-20 finds ") for f in rung.doctor)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_shipped_network_is_called_unreliable() -> None:
    verdicts = {}
    for path in sorted(folder.zoo().iterdir()):
        run = Run(path)
        split = data.load(run.config.data, "test").take(100)
        verdicts[run.id] = measure(run.net(), split, PGD(eps=run.eps, steps=20))
    assert len(verdicts) >= 40
    assert [run for run, found in verdicts.items() if not found.ok] == []
