"""Tests the witness of model alignment: the shipped witnesses are sometimes wrong, and a network
trained on part of the images is never chosen as witness or target by default.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from robustviz import data, zoo
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.types import UserError
from robustviz.views.transfer.probe import ordinary


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces the shipped runs by an empty folder."""
    monkeypatch.setattr(folder, "zoo", lambda: tmp_path)
    return tmp_path


def ship(config: TrainConfig, at: Path) -> folder.Run:
    run = at / config.run_id
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config.to_json()), encoding="utf-8")
    return folder.Run(run)


@pytest.mark.parametrize("key", zoo.DATA)
def test_what_learned_from_part_of_the_images_is_not_ordinary(key: str, shipped: Path) -> None:
    usual = TrainConfig(data=key, method="standard", net="small_cnn")  # type: ignore[arg-type]
    part = dataclasses.replace(usual, n_train=zoo.WITNESS[key])
    weak = ship(part, shipped)
    with pytest.raises(UserError, match="no ordinary small_cnn"):
        folder.find_run(None, data=usual.data, net="small_cnn", role="witness")
    found = ship(usual, shipped)
    assert folder.find_run(None, data=usual.data, net="small_cnn").id == found.id
    other = ship(dataclasses.replace(usual, seed=1), shipped)
    assert {run.id for run in ordinary(weak, ())} == {found.id, other.id}
    # It can still be found by its name.
    assert folder.find_run(weak.id).id == weak.id


@pytest.mark.long
@pytest.mark.parametrize("key", zoo.DATA)
def test_the_shipped_aligned_networks_learned_from_a_witness_that_is_wrong_at_times(
    key: str,
) -> None:
    """Otherwise its hard predictions would equal the labels, and two of the three networks would be
    the same.
    """
    aligned = {
        config.method.target: config  # type: ignore[attr-defined]
        for config in zoo.wanted([key])
        if config.method.key == "model_alignment"
    }
    witnesses = {config.method.witness for config in aligned.values()}  # type: ignore[attr-defined]
    assert len(aligned) == 3 and len(witnesses) == 1
    run = folder.open_run(witnesses.pop())
    assert run.info["n_train"] == zoo.WITNESS[key] and not run.ordinary
    config = aligned["label"]
    split = data.load(config.data, "train", config.n_train or None)
    right = float(count_right(run.net(), split.x, split.y).float().mean())
    assert 0.85 <= right <= 0.97
    one, other = (folder.open_run(aligned[name].run_id).net() for name in ("label", "witness_hard"))
    weights = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert any(not torch.equal(a, b) for a, b in weights)
