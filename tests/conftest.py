"""Fixtures that the whole suite shares: tiny networks, tiny images, tiny trainings, and a home of
their own for runs.

The images are 12 of 2×9×7, so that N, C, H and W all differ and no broadcast can hide a mistake.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from robustviz.process import leave_out_triton

leave_out_triton()  # before torch comes in

import torch
from torch import Tensor, nn

from robustviz import data, registry
from robustviz.contracts import toys
from robustviz.contracts.toys import C as C, H as H, N as N, Toy as Toy, W as W, conv as conv
from robustviz.nets.base import Classifier, Normalise
from robustviz.training.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"
if not os.environ.get("ROBUSTVIZ_DATA") and SHARED.is_dir():
    os.environ["ROBUSTVIZ_DATA"] = str(SHARED)

collect_ignore = ["gpu"]  # which has a configuration of its own: `make gpu-check`


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
    return toys.images()


@pytest.fixture
def labels() -> Tensor:
    """(12,) of 4 classes."""
    return toys.labels()


@pytest.fixture
def linear_net() -> Classifier:
    """Two classes, no hidden layer, written-in weights: attacks on it have a closed form."""
    head = nn.Linear(C * H * W, 2)
    with torch.no_grad():
        head.weight.copy_(torch.cos(torch.arange(head.weight.numel()) * 0.7).view_as(head.weight))
        head.bias.copy_(torch.tensor([0.1, -0.2]))
    return Classifier(nn.Identity(), head, nn.Flatten()).eval()


@pytest.fixture
def conv_net() -> Classifier:
    return conv()


@pytest.fixture(scope="session")
def toy() -> Toy:
    """`conv` trained on 80 noisy copies of four patterns. Shared by tests: no one may change it."""
    return toys.toy()


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
