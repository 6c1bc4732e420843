"""Tests what every registered network must satisfy."""

from __future__ import annotations

import pytest
import torch

from robustviz import contracts, nets, registry
from robustviz.contracts.nets import check_gradients, check_parts

# With 46 million parameters this network is slow: the fast suite builds it only once, and all its
# contracts are checked in the slow suite.
LARGE = "wrn_34_10"


@pytest.fixture(
    params=[
        pytest.param(key, marks=[pytest.mark.slow] * (key == LARGE)) for key in registry.keys("net")
    ]
)
def key(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.long
@pytest.mark.parametrize("promise", contracts.promises("net"), ids=lambda each: each.says)
def test_promise(promise: contracts.Promise, key: str) -> None:
    promise.check(key)


@pytest.mark.long
def test_the_large_network_keeps_the_main_promises() -> None:
    torch.manual_seed(0)
    net = nets.build(LARGE, classes=5, channels=3, size=8).eval()
    with torch.no_grad():
        check_parts(LARGE, net, torch.rand(2, 3, 8, 8))
    check_gradients(net, torch.rand(2, 3, 8, 8))
