"""Fixtures that the whole suite shares: tiny networks, images and trainings, and a separate folder
for runs.

The 12 images have shape (2, 9, 7), so that N, C, H and W all differ and wrong broadcasting raises
an error.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from robustviz.process import leave_out_triton

leave_out_triton()  # This must happen before torch is imported.

import torch
from torch import Tensor, nn

from robustviz import data, plugins, registry
from robustviz.contracts import toys
from robustviz.contracts.toys import C as C, H as H, N as N, Toy as Toy, W as W, conv as conv
from robustviz.nets.base import Classifier, Normalise
from robustviz.training.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"
if not os.environ.get("ROBUSTVIZ_DATA") and SHARED.is_dir():
    os.environ["ROBUSTVIZ_DATA"] = str(SHARED)

# Files whose tests share what takes long to make, such as a copy of the repository.
TOGETHER = (
    "test_adding",
    "test_cpus",
    "test_feature_map",
    "test_instant",
    "test_transfer",
    "test_wheel",
)
collect_ignore = ["gpu"]  # These tests have their own configuration: `make gpu-check`.


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Lets any process run the next test, except that some run in the same process: all browser
    tests, because two cores can carry only one app and one Chromium, and the tests of a file in
    `TOGETHER`.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByNeed(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith("tests/browser/"):
                return "browser"
            return file if Path(file).stem in TOGETHER else nodeid

    return ByNeed(config, log)


def eventually(fact: Callable[[], object], seconds: float = 120) -> bool:
    """Waits until `fact()` is true, and returns whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not (found := bool(fact())) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def runs_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the path of an empty folder for runs."""
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def unplugged() -> Iterator[None]:
    """Unregisters whatever a test loads."""
    for kind in registry.ROOMS:
        registry.keys(kind)
    held = {kind: dict(table) for kind, table in registry._table.items()}
    known = set(sys.modules)
    yield
    for kind, table in held.items():
        registry._table[kind].clear()
        registry._table[kind].update(table)
    for kept in (plugins._loaded, plugins._failed, plugins._pages, plugins._figures):
        kept.clear()
    for name in [name for name in sys.modules if "plugin" in name and name not in known]:
        del sys.modules[name]


@pytest.fixture
def port() -> int:
    """Returns a free port. The app's default port may be used by a running app or by a test in
    another process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def images() -> Tensor:
    """Returns (12, 2, 9, 7) float32 images in [0, 1], with some pixels exactly 0 or 1."""
    return toys.images()


@pytest.fixture
def labels() -> Tensor:
    """Returns (12,) labels of 4 classes."""
    return toys.labels()


@pytest.fixture
def linear_net() -> Classifier:
    """Returns a linear network with two classes and fixed weights, for which attacks have a closed
    form.
    """
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
    """Returns `conv` trained on 80 noisy copies of four patterns. Tests share it, so none may
    change it.
    """
    return toys.toy()


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits the validation and test splits to 40 images, so that a whole training takes a tenth of
    a second.
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
    """A tiny network that trains very fast, with batch norm as in the real networks."""

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
    """Returns the config of a training with three epochs of two batches."""
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
