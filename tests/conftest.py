"""Fixtures that the whole suite shares: tiny networks, tiny images, tiny trainings, and a home of
their own for runs.

The images are 12 of 2×9×7, so that N, C, H and W all differ and no broadcast can hide a mistake.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from robustviz.process import leave_out_triton

leave_out_triton()  # before torch comes in

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import data, registry
from robustviz.nets.base import Classifier, Normalise
from robustviz.training.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"
if not os.environ.get("ROBUSTVIZ_DATA") and SHARED.is_dir():
    os.environ["ROBUSTVIZ_DATA"] = str(SHARED)

collect_ignore = ["gpu"]  # which has a configuration of its own: `make gpu-check`
N, C, H, W = 12, 2, 9, 7


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "slow: takes more than a few seconds; not part of the fast suite"
    )
    config.addinivalue_line(
        "markers",
        "machine: starts servers, or processes on other settings; not part of the fast suite",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Any process takes the next test, but one of them all that need the browser: one app and one
    Chromium are as much as two cores carry.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByNeed(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "browser" if nodeid.startswith("tests/browser/") else nodeid

    return ByNeed(config, log)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def runs_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for runs."""
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def port() -> int:
    """A port that nobody has: the usual one belongs to whoever is at this machine, or to a test in
    the other process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def images() -> Tensor:
    """(12, 2, 9, 7) float32 in [0, 1], some pixels exactly 0 or 1."""
    x = torch.rand((N, C, H, W), generator=torch.Generator().manual_seed(7))
    return ((x - 0.5) * 1.2 + 0.5).clamp(0, 1)


@pytest.fixture
def labels() -> Tensor:
    """(12,) of 4 classes."""
    return torch.arange(N) % 4


@pytest.fixture
def linear_net() -> Classifier:
    """Two classes, no hidden layer, written-in weights: attacks on it have a closed form."""
    head = nn.Linear(C * H * W, 2)
    with torch.no_grad():
        head.weight.copy_(torch.cos(torch.arange(head.weight.numel()) * 0.7).view_as(head.weight))
        head.bias.copy_(torch.tensor([0.1, -0.2]))
    return Classifier(nn.Identity(), head, nn.Flatten()).eval()


def conv(seed: int = 0) -> Classifier:
    """Two convolutions with batch norm whose running statistics are not the fresh ones; four
    classes; eval mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        maps = nn.Sequential(
            Normalise(C, [0.4, 0.6], [0.3, 0.2]),
            nn.Conv2d(C, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Conv2d(5, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        )  # fmt: skip
        net = Classifier(maps, nn.Linear(6, 4))
        net.train()
        with torch.no_grad():
            for _ in range(5):
                net(torch.rand(16, C, H, W))
    return net.eval()


@pytest.fixture
def conv_net() -> Classifier:
    return conv()


@dataclass(frozen=True)
class Toy:
    """A network that learned something: `net` gets nearly all of `x`, `y` right, with room for an
    attack.
    """

    net: Classifier
    x: Tensor
    y: Tensor


@pytest.fixture(scope="session")
def toy() -> Toy:
    """`conv` trained on 80 noisy copies of four patterns. Shared by tests: no one may change it."""
    rng = torch.Generator().manual_seed(1)
    y = torch.arange(80) % 4
    x = (
        0.3 * torch.rand((4, C, H, W), generator=rng)[y]
        + 0.35
        + 0.05 * torch.randn((80, C, H, W), generator=rng)
    ).clamp(0, 1)
    net = conv(seed=1).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return Toy(net.eval(), x, y)


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation and test splits of 40 images, so that a whole training takes a tenth of a
    second.
    """
    whole = data.load
    monkeypatch.setattr(
        data,
        "load",
        lambda source, split="train", n=None: whole(source, split, n).take(
            40 if split != "train" else 10**6
        ),
    )


class Blink(Classifier):
    """A network for which a whole training takes the blink of an eye; with batch norm, as the real
    ones.
    """

    key = "blink"

    def __init__(
        self,
        classes: int,
        channels: int,
        size: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        maps = nn.Sequential(
            Normalise(channels, mean, std),
            nn.Conv2d(channels, 4, 3, 2, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        )
        super().__init__(maps, nn.Linear(4, classes))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A training of three epochs of two batches."""
    registry.keys("net")
    monkeypatch.setitem(registry._table["net"], "blink", Blink)
    return TrainConfig(
        data="digits",
        method="fgsm_rs",
        net="blink",
        n_train=64,
        batch_size=32,
        epochs=3,
        threads=1,
        device="cpu",  # type: ignore[arg-type]
    )
