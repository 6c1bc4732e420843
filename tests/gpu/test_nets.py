"""Tests that every architecture computes the same on GPU and CPU, trains in both number formats,
and is saved and loaded unchanged.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, FORMATS

from robustviz import cam, nets, registry
from robustviz.attacks import PGD
from robustviz.data import Dataset
from robustviz.nets.base import Classifier

SMALL = ("small_cnn", "small_resnet", "tiny_vit")
# The other networks take minutes on a CPU.
QUICK = [
    key for key in registry.keys("net") if key in SMALL or (DEVICE == "cuda" and key != "blink")
]


def made(key: str, device: str) -> Classifier:
    torch.manual_seed(0)
    net = nets.build(key, 10, 3, 32, [0.4] * 3, [0.3] * 3)
    with torch.no_grad():
        # Running statistics that differ from a new network's.
        net.train()(torch.rand(8, 3, 32, 32))
    return net.eval().to(device)


@pytest.mark.parametrize("key", QUICK)
def test_logits_and_gradients_are_the_processors(key: str, device: str) -> None:
    net, x = made(key, device), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = []
    for one, where in ((net, device), (copy.deepcopy(net).cpu(), "cpu")):
        z = x.to(where).requires_grad_()
        logits = one(z)
        (slope,) = torch.autograd.grad(
            F.cross_entropy(logits, torch.arange(4, device=where), reduction="sum"), z
        )
        found.append((logits.detach().cpu(), slope.cpu()))
    (there, there_slope), (here, here_slope) = found
    assert (there - here).norm() <= 0.02 * here.norm()  # TF32 keeps 10 bits of a factor's mantissa.
    assert (there_slope - here_slope).norm() <= 0.1 * here_slope.norm()


@pytest.mark.parametrize("key", QUICK)
def test_an_attack_climbs_what_the_network_computes(key: str, device: str) -> None:
    """The engine's own copy of the network must compute the same function: its loss equals the
    network's, and the attack raises it.
    """
    net, x, y = (
        made(key, device),
        torch.rand(8, 3, 32, 32).to(device),
        (torch.arange(8) % 10).to(device),
    )
    attack = PGD(eps=0.1, steps=5)
    found = attack(net, x, y)
    with torch.no_grad():
        before, after = (F.cross_entropy(net(images), y, reduction="none") for images in (x, found))
    assert (after > before).float().mean() > 0.8


@pytest.mark.parametrize("key", QUICK)
@pytest.mark.parametrize("precision", FORMATS)
def test_a_network_learns(key: str, precision: str, device: str) -> None:
    net, x, y = (
        made(key, device).train(),
        torch.rand(8, 3, 32, 32).to(device),
        (torch.arange(8) % 10).to(device),
    )
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(6):
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_weights_go_to_the_other_memory_and_back(
    net: Classifier, split: Dataset, device: str
) -> None:
    x = split.x[:8]
    with torch.no_grad():
        here = net.cpu()(x)
        there = net.to(device)(x.to(device)).cpu()
        back = net.cpu()(x)
    assert torch.equal(here, back) and (there - here).norm() <= 0.02 * here.norm()


def test_maps_are_the_processors(net: Classifier, split: Dataset, device: str) -> None:
    x, y = split.x[:16], split.y[:16]
    there = cam.grad_cam(net, x.to(device), y.to(device)).cpu()
    here = cam.grad_cam(net.cpu(), x, y)
    assert there.shape == here.shape and (there - here).norm() <= 0.02 * here.norm()
