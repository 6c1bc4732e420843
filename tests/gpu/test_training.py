"""Tests that every method trains on a GPU and resumes after a pause, and that a training step never
waits for the GPU.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import FORMATS
from torch import Tensor

from robustviz import registry
from robustviz.runs import folder, worker
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training

METHODS = [key for key in registry.keys("method")]


def closeness(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Returns the distance between two networks' floating-point values, divided by the norm of the
    second.
    """
    pairs = [
        (value.double().flatten(), theirs[name].double().flatten())
        for name, value in ours.items()
        if value.is_floating_point()
    ]
    mine, other = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return float((mine - other).norm() / other.norm())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str, tiny: TrainConfig) -> None:
    config = (
        dataclasses.replace(tiny, method=method, data="shapes")
        if method == "model_alignment"
        else dataclasses.replace(tiny, method=method)
    )
    training = Training(config)
    before = {name: value.detach().clone() for name, value in training.net.state_dict().items()}
    records = list(training.epochs())
    assert len(records) == 2 and training.ended == "done"
    assert all(math.isfinite(value) for record in records for value in record.losses.values())
    assert closeness(dict(training.net.state_dict()), before) > 1e-4
    assert {value.device.type for value in training.net.state_dict().values()} == {config.device}


@pytest.mark.parametrize(
    "fields",
    [{"ema": 0.9, "precision": FORMATS[-1]}, {"method": "trades", "augment": "crop_flip"}],
    ids=["ema", "trades"],
)
def test_a_paused_training_goes_on_where_it_was(
    fields: dict[str, object], tiny: TrainConfig
) -> None:
    """The result is the same bit for bit on a CPU. On a GPU, where sums have no fixed order, it
    differs no more than a second run does.
    """
    config = dataclasses.replace(tiny, **fields)  # type: ignore[arg-type]
    whole, again = Training(config), Training(config)
    for one in (whole, again):
        list(one.epochs())
    paused = Training(config)
    answers = iter(["go"] * 4 + ["pause"])
    list(paused.epochs(lambda tick: next(answers) if tick.phase == "train" else "go"))
    assert paused.ended == "pause" and (paused.epoch, paused.batch) == (1, 1)
    resumed = Training(config)
    resumed.restore(*paused.state())
    list(resumed.epochs())
    wanted = whole.state()[0]
    noise = closeness(again.state()[0], wanted)
    assert [record["epoch"] for record in resumed.records] == [1, 2]
    found = closeness(resumed.state()[0], wanted)
    assert found == 0 if config.device == "cpu" else found <= max(10 * noise, 1e-3)


def test_a_run_is_trained_paused_resumed_and_evaluated(
    tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    run = folder.create(tiny)
    batches = 0
    step = Training._step

    def pausing(self: Training, *given: object) -> None:
        nonlocal batches
        batches += 1
        if batches == 2:
            run.ask("pause")
        step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "HEARTBEAT", 0.0)
    monkeypatch.setattr(Training, "_step", pausing)
    assert worker.execute(run) == "paused"
    assert worker.execute(run) == "done" and batches == 6
    found = run.evaluation()
    assert found is not None and found.n == 20 and found.robust_k <= found.clean_k + 2
    assert len(run.records()) == 2
    assert run.net().head.weight.device.type == "cpu"


def test_a_step_waits_for_nothing(tiny: TrainConfig, device: str) -> None:
    """torch raises an error where the code waits for the GPU. The result must equal that of a
    training that may wait.
    """
    if device != "cuda":
        pytest.skip("there is no GPU to wait for; tests/unit/test_waiting.py has a stand-in")
    free, watched = Training(tiny), Training(tiny)
    for training in (free, watched):
        stage = training.plan[0][0]
        training._enter(stage, fresh=True)
        for number, index in enumerate(training._batches()):
            training.batch = number
            if training is watched and number:  # The first step is a warm-up.
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            try:
                training._step(stage, index, 0.01, 0.5)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert closeness(dict(watched.net.state_dict()), dict(free.net.state_dict())) < 1e-2


def test_memory_does_not_grow(tiny: TrainConfig, device: str) -> None:
    if device != "cuda":
        pytest.skip("only a GPU's memory is counted so")
    training = Training(tiny)
    stage = training.plan[0][0]
    training._enter(stage, fresh=True)
    held = []
    for round_ in range(6):
        for number, index in enumerate(training._batches()):
            training.batch = number
            training._step(stage, index, 0.01, 0.5)
        torch.cuda.synchronize()
        held.append((round_, torch.cuda.memory_allocated()))
    assert held[-1][1] <= 1.05 * held[2][1], held
