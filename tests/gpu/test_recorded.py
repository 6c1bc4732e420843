"""Tests that recorded attack steps, on a GPU as CUDA graphs, give the same result as steps run one
by one, also after the weights have changed.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import FORMATS

from robustviz.attacks import PGD, recorded
from robustviz.methods import PGDAT, TRADES
from robustviz.methods.base import Method
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training


def attacked(config: TrainConfig, steps: int) -> list[torch.Tensor]:
    """Returns the network's parameters after each of `steps` training steps."""
    training = Training(config)
    stage = training.plan[0][0]
    training._enter(stage, fresh=True)
    batches, found = training._batches(), []
    for number in range(steps):
        training.batch = number % len(batches)
        training._step(stage, batches[training.batch], 0.02, 0.5)
        found.append(
            torch.cat([p.detach().flatten().cpu() for p in training.net.parameters()]).clone()
        )
    return found


@pytest.mark.parametrize(
    "method",
    [PGDAT(attack=PGD(steps=3)), TRADES(attack=PGD(steps=3, start="gauss"))],
    ids=["pgd_at", "trades"],
)
@pytest.mark.parametrize("precision", FORMATS)
def test_a_training_with_recorded_steps_is_the_training_without(
    method: Method,
    precision: str,
    tiny: TrainConfig,
    played: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(tiny, method=method, precision=precision)  # type: ignore[arg-type]
    found = attacked(config, 5)
    assert played and set(played) == {3}, "nothing was recorded"
    with monkeypatch.context() as patch:
        patch.setattr(recorded, "wanted", lambda z: False)
        wanted, again = attacked(config, 5), attacked(config, 5)
    noise = max(float((a - b).norm()) for a, b in zip(wanted, again, strict=True))
    moved = float((wanted[-1] - wanted[0]).norm())
    apart = max(float((a - b).norm()) for a, b in zip(found, wanted, strict=True))
    assert moved > 0 and apart <= max(10 * noise, 1e-2 * moved)
