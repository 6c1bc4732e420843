"""The doctor finds each disease it knows, and lets a healthy network pass."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from robustviz import doctor
from robustviz.attacks import PGD, Attack
from robustviz.doctor import examine

if TYPE_CHECKING:
    from conftest import Toy

ATTACK = PGD(eps=0.05, steps=10)


def complaints(
    toy: Toy, net: nn.Module | None = None, *, x: Tensor | None = None, x_adv: Tensor | None = None, attack: Attack = ATTACK
) -> set[str]:
    net = net or toy.net
    x = toy.x if x is None else x
    x_adv = attack(net, x, toy.y) if x_adv is None else x_adv
    findings = examine(net, x, toy.y, x_adv, attack, classes=4)
    assert all("\n" not in finding.text and finding.text.endswith(".") for finding in findings)
    return {finding.name for finding in findings if not finding.ok}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_healthy_network_passes(norm: str, toy: Toy) -> None:
    assert complaints(toy, attack=PGD(norm=norm, eps=0.05)) == set()  # type: ignore[arg-type]


def test_the_network_is_left_as_it_was(toy: Toy) -> None:
    net = copy.deepcopy(toy.net).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    complaints(toy, net)
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_change_larger_than_eps_is_found(toy: Toy) -> None:
    inside = toy.x.clamp(0, 0.8)
    assert "budget" not in complaints(toy, x=inside, x_adv=inside + 0.05)
    assert "budget" in complaints(toy, x=inside, x_adv=inside + 0.051)
    one = inside.clone()
    one[79, 1, 8, 6] += 0.2
    assert "budget" in complaints(toy, x=inside, x_adv=one)  # a single pixel of a single image
    assert "budget" in complaints(toy, x=inside, x_adv=inside + 0.01, attack=PGD(norm="l2", eps=0.05))


@pytest.mark.parametrize("by", [-0.01, 0.01])
def test_pixels_outside_the_unit_range_are_found(by: float, toy: Toy) -> None:
    x = toy.x.clone()
    x[0, 0, 0, 0] = 0.0 if by < 0 else 1.0
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] += by
    assert "range" in complaints(toy, x=x, x_adv=x_adv) and "range" not in complaints(toy, x=x, x_adv=x)
    assert "range" in complaints(toy, x=x_adv, x_adv=x)  # in the clean images too


class Sick(nn.Module):
    """A healthy network with something wrong around it."""

    def __init__(self, net: nn.Module, disease: Any) -> None:
        super().__init__()
        self.net, self.disease = net, disease

    def forward(self, x: Tensor) -> Tensor:
        return self.disease(self.net, x)  # type: ignore[no-any-return]


def probabilities(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).softmax(1)


def saturated(net: nn.Module, x: Tensor) -> Tensor:
    return net(x) * 1e5  # the softmax is exactly one, its gradient exactly nothing


def staircase(net: nn.Module, x: Tensor) -> Tensor:
    return net((x * 20).round() / 20)


def cut_off(net: nn.Module, x: Tensor) -> Tensor:
    return net(x.detach()) + 0 * x.sum()


def turned_round(net: nn.Module, x: Tensor) -> Tensor:
    return net(2 * x.detach() - x)  # the right value, with a gradient that leads the attacker the wrong way


def noisy(net: nn.Module, x: Tensor) -> Tensor:
    return net(x) + 1e-3 * torch.randn(len(x), 4)


@pytest.mark.parametrize(
    ("disease", "found"),
    [
        (probabilities, {"logits"}), (saturated, {"gradients"}), (staircase, {"gradients"}), (cut_off, {"gradients"}),
        (turned_round, {"unbounded"}), (noisy, {"deterministic"}),
    ],
)  # fmt: skip
def test_a_disease_is_found(disease: Any, found: set[str], toy: Toy) -> None:
    torch.manual_seed(0)
    assert found <= complaints(toy, Sick(toy.net, disease))


def test_a_gradient_that_leads_astray_is_told_from_one_that_is_gone(toy: Toy) -> None:
    assert "gradients" not in complaints(toy, Sick(toy.net, turned_round))


def test_more_steps_that_help_the_defender_are_found(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tired(PGD):
        def __call__(self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
            return x if self.steps > 50 else super().__call__(net, x, y, rng)

    monkeypatch.setattr(doctor, "PGD", Tired)
    assert complaints(toy) == {"more steps"}
