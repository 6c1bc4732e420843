"""Fixtures that the GPU tests share. Without a GPU they run on the CPU. They import no package that
a GPU server lacks.
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

# `make gpu-check` sets the device; otherwise the GPU is used if there is one.
DEVICE = os.environ.get("ROBUSTVIZ_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
# Without hardware support, bf16 is emulated with fp32, which takes minutes.
FORMATS = ("fp32", "bf16") if has_bf16(DEVICE) else ("fp32",)
EPS = 8 / 255


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Uses one thread: with several, such small computations are slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture
def net(device: str) -> Classifier:
    """Returns the shipped network that was adversarially trained on shapes, a new copy for each
    test.
    """
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
    """Limits the validation and test splits of shapes to 20 images."""
    for split in ("val", "test"):
        monkeypatch.setitem(shapes.COUNTS, split, 20)
    memory.WORKING.clear()
    yield
    memory.WORKING.clear()


@pytest.fixture(scope="session")
def split() -> Dataset:
    """Returns 200 test images of shapes, on the CPU."""
    return data.load("shapes", "test").take(200)


@pytest.fixture
def tiny(few: None, device: str) -> TrainConfig:
    """Returns the config of a training with two epochs of three batches."""
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
    """Records the steps of attacks: on a GPU as CUDA graphs, on a CPU by calling them again.
    Returns a list to which each replay adds its number of steps.
    """
    counts: list[int] = []
    plain = recorded.Recording.__call__

    def note(self: recorded.Recording, steps: int, *given: torch.Tensor) -> torch.Tensor:
        counts.append(steps)
        return plain(self, steps, *given)

    monkeypatch.setattr(recorded.Recording, "__call__", note)
    monkeypatch.setattr(recorded, "wanted", lambda z: True)
    return counts
