"""Tests that on a GPU attacks stay inside their ball, fool as many images as on the CPU, and do not
change the network.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import EPS

from robustviz import registry
from robustviz.attacks import FGSM, PGD, Attack
from robustviz.data import Dataset
from robustviz.nets.base import Classifier
from robustviz.training.doctor import examine
from robustviz.training.evaluate import count_right

# How far the counts on GPU and CPU may differ, of 200 images: TF32 keeps only 10 bits of the
# mantissa, so sums on a GPU are less exact.
CLOSE = 3


def quick(key: str) -> Attack:
    """Returns an attack of a few steps with radius EPS."""
    attack: Attack = registry.get("attack", key)(eps=EPS)
    few = {"steps": 5, "queries": 30, "restarts": 1}
    return replace(attack, **{name: value for name, value in few.items() if hasattr(attack, name)})


# AutoAttack's package is not one of the core dependencies.
KEYS = [key for key in registry.keys("attack") if key != "autoattack"]


@pytest.mark.parametrize("key", KEYS)
def test_an_attack_stays_in_its_ball_and_touches_nothing(
    key: str, net: Classifier, split: Dataset, device: str
) -> None:
    x, y = split.x[:50].to(device), split.y[:50].to(device)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = (
        torch.random.get_rng_state(),
        torch.cuda.get_rng_state() if device == "cuda" else torch.zeros(0),
    )
    found = quick(key)(net, x, y)
    assert found.device == x.device and found.dtype == x.dtype and not found.requires_grad
    assert (
        (found - x).abs().max() <= EPS + 1e-6
        and found.min() >= 0
        and found.max() <= 1
        and (found != x).any()
    )
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters()) and not net.training
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert torch.equal(state[1], torch.cuda.get_rng_state() if device == "cuda" else torch.zeros(0))


@pytest.mark.parametrize("key", KEYS)
def test_an_attack_fools_some_and_the_same_twice(
    key: str, net: Classifier, split: Dataset, device: str
) -> None:
    x, y = split.x.to(device), split.y.to(device)
    clean = int(count_right(net, x, y).sum())
    first, second = (int(count_right(net, x, y, quick(key), seed=0).sum()) for _ in range(2))
    assert clean > 180 and first < clean - 2 and abs(first - second) <= CLOSE


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=EPS),
        PGD(eps=EPS, start="zero"),
        PGD(eps=0.5, norm="l2", start="zero"),
        PGD(eps=EPS, targeted=True, start="zero"),
    ],
    ids=["fgsm", "pgd", "l2", "targeted"],
)
def test_gpu_and_processor_count_the_same(
    attack: Attack, net: Classifier, split: Dataset, device: str
) -> None:
    """Compares attacks without a random start, because a GPU's generator gives other numbers."""
    y = (split.y + 1) % 10 if attack.targeted else split.y
    there = attack(net, split.x.to(device), y.to(device))
    here = attack(net.cpu(), split.x, y)
    with torch.no_grad():
        counts = [int((net(images.cpu()).argmax(1) == y).sum()) for images in (there, here)]
    assert abs(counts[0] - counts[1]) <= CLOSE
    assert ((there.cpu() - here).abs().flatten(1).mean(1) < 0.25 * EPS).float().mean() > 0.9


def test_a_radius_for_every_pixel(net: Classifier, split: Dataset, device: str) -> None:
    x, y = split.x[:20].to(device), split.y[:20].to(device)
    budget = torch.where(
        torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.5, EPS, 0.0
    ).to(device)
    attack = PGD(eps=EPS, steps=5)
    net.requires_grad_(False)
    found = attack.maximise(attack.objective(net, y), x, eps=budget)
    assert ((found - x).abs() <= budget + 1e-6).all() and (found != x).any()


def test_bf16_finds_what_fp32_finds(net: Classifier, split: Dataset, device: str) -> None:
    x, y = split.x.to(device), split.y.to(device)
    plain, fast = (
        int(count_right(net, x, y, PGD(eps=EPS), bf16=bf16).sum()) for bf16 in (False, True)
    )
    assert abs(plain - fast) <= CLOSE


def test_restarts_and_steps_help_the_attacker(net: Classifier, split: Dataset, device: str) -> None:
    x, y = split.x.to(device), split.y.to(device)
    one, many = (
        int(count_right(net, x, y, attack).sum())
        for attack in (PGD(eps=EPS, steps=1), PGD(eps=EPS, steps=8, restarts=2))
    )
    assert many < one


def test_the_doctor_finds_no_fault(net: Classifier, split: Dataset, device: str) -> None:
    x, y = split.x[:20].to(device), split.y[:20].to(device)
    attack = PGD(eps=EPS, steps=5)
    findings = examine(net, x, y, attack(net, x, y), attack, 10, 0, None)
    assert findings and not [one for one in findings if not one.ok]
