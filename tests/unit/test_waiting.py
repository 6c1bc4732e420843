"""Tests that a training step on a GPU only queues work. Reading a value of a tensor, a shape that
depends on values, or a copy between CPU and GPU would wait for all queued work.

There may be no GPU here. torch's fake tensors, which have a shape and a device but no values, stand
in for one: they refuse to give a value and to combine with tensors of another device. Their device
is "meta", because "cuda" has no backward pass without a GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from robustviz import registry
from robustviz.methods import Standard
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training
from robustviz.types import Batch

WAITS = (DataDependentOutputException, DynamicOutputShapeException)


class Carried(AssertionError):
    """Raised when a tensor is copied between devices."""


class NoCopies(TorchDispatchMode):
    """Raises an error for copies between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::_to_copy", "aten::copy_", "aten::_copy_from"):
            tensors = [one for one in (*args, out) if isinstance(one, Tensor)]
            if len({one.device.type for one in tensors}) > 1:
                raise Carried(func._schema.name)
        return out


def steps(config: TrainConfig) -> Training:
    """Returns a training after two steps on a fake device. The first step is a warm-up and may
    copy, but may not read values either.
    """
    run = Training(config)
    order, stage = run._batches(), run.plan[0][0]
    run._enter(stage, fresh=True)
    run.watched = False  # As on a GPU.
    run._generator = lambda *purpose: torch.Generator()  # type: ignore[method-assign]
    with FakeTensorMode() as fake:

        def away(tensor: Tensor) -> Tensor:
            return fake.from_tensor(tensor).to("meta")

        for net in (run.net, run.ema, run.aux):
            for module in net.modules() if net is not None else ():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        module._parameters[name] = nn.Parameter(
                            away(parameter).detach(), requires_grad=parameter.requires_grad
                        )
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = away(buffer)
        run.images, run.y = away(run.images), away(run.y)
        first, second = (away(index) for index in order[:2])
        run._enter(stage, fresh=True)
        run._step(stage, first, 0.1, 0.5)
        run.batch = 1
        with NoCopies():
            run._step(stage, second, 0.1, 0.5)
    return run


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns autocast off, which does not know the fake device and does nothing in fp32, and lets
    copies of a fake network share its fake mode.
    """
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)


@pytest.mark.long
@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("method", registry.keys("method"))
def test_a_step_waits_for_nothing(method: str, tiny: TrainConfig) -> None:
    # Model alignment needs the architecture of its source.
    net = "small_resnet" if method == "model_alignment" else tiny.net
    run = steps(dataclasses.replace(tiny, method=method, net=net, augment="crop_flip", ema=0.5))
    assert run.sums and {value.device.type for value in run.sums.values()} == {"meta"}


@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda batch: float(batch.x.sum()), WAITS),
        (lambda batch: bool((batch.x > 2).any()), WAITS),
        (lambda batch: batch.x[batch.y > 3].sum(), WAITS),
        (lambda batch: batch.y.unique().sum(), WAITS),
        (lambda batch: torch.equal(batch.x, batch.x), WAITS),
        (lambda batch: batch.x.cpu(), Carried),
        (lambda batch: torch.ones(3).to(batch.x), Carried),
        (lambda batch: batch.x + torch.ones(8), RuntimeError),
    ],
    ids=[
        "number",
        "truth",
        "mask",
        "unique",
        "equal",
        "to the host",
        "from the host",
        "two devices",
    ],
)
def test_what_would_wait_is_noticed(
    act: Callable[[Batch], object], error: Any, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(
        self: Standard, net: nn.Module, batch: Batch, aux: nn.Module | None
    ) -> dict[str, Tensor]:
        act(batch)
        return {"ce": F.cross_entropy(net(batch.x), batch.y)}

    monkeypatch.setattr(Standard, "loss", loss)
    with pytest.raises(error):
        steps(dataclasses.replace(tiny, method="standard"))
