"""What the tests of a GPU share. They run on the CPU where there is no GPU, and import nothing that
a GPU server has not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from robustviz import data, memory
from robustviz.attacks import recorded
from robustviz.data import Dataset, Shapes, shapes
from robustviz.nets.attackable import has_bf16
from robustviz.nets.base import Classifier
from robustviz.runs import folder
from robustviz.training.config import TrainConfig

# The GPU where there is one; `make gpu-check` says which it means.
DEVICE = os.environ.get("ROBUSTVIZ_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
# elsewhere bf16 is made of fp32, and takes minutes
FORMATS = ("fp32", "bf16") if has_bf16(DEVICE) else ("fp32",)
EPS = 8 / 255


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """What is this small is slower with several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture
def net(device: str) -> Classifier:
    """The shipped network that was adversarially trained on shapes; its own for each test."""
    return (
        next(
            run
            for run in folder.all_runs()
            if run.shipped and run.id.startswith("shapes-pgd-at-small-resnet-s0")
        )
        .net()
        .to(device)
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Validation and test splits of drawn images have 20 images."""
    for split in ("val", "test"):
        monkeypatch.setitem(shapes.COUNTS, split, 20)
    memory.WORKING.clear()
    yield
    memory.WORKING.clear()


@pytest.fixture(scope="session")
def split() -> Dataset:
    """200 of the drawn test images, on the CPU."""
    return data.load("shapes", "test").take(200)


@pytest.fixture
def tiny(few: None, device: str) -> TrainConfig:
    """A training of two epochs of three batches."""
    return TrainConfig(
        data=Shapes(size=20),
        net="small_resnet",
        n_train=24,
        batch_size=8,
        epochs=2,
        lr=0.05,
        device=device,
    )  # type: ignore[arg-type]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of attacks are recorded, on a GPU as CUDA graphs, on a CPU by calling them again; how
    many each walk played.
    """
    counts: list[int] = []
    plain = recorded.Recording.__call__

    def note(self: recorded.Recording, steps: int, *given: torch.Tensor) -> torch.Tensor:
        counts.append(steps)
        return plain(self, steps, *given)

    monkeypatch.setattr(recorded.Recording, "__call__", note)
    monkeypatch.setattr(recorded, "wanted", lambda z: True)
    return counts
