"""Tests trainings from Python: with callbacks, from other weights, and with early stopping."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import conv
from safetensors.torch import save_file

from robustviz import TrainConfig, open_run, train_run
from robustviz.callbacks import AfterEpoch, Callback, TensorBoard
from robustviz.runs.folder import find_run
from robustviz.training.loop import EpochRecord, Training
from robustviz.types import UserError

TINY = TrainConfig(
    data="digits", net="small_cnn", epochs=2, n_train=60, batch_size=30, test_n=20, threads=1
)


@pytest.mark.long
def test_a_training_from_python_is_a_run_that_goes_on_where_it_was_left(runs_home: Path) -> None:
    heard: list[Any] = []

    class Listening(Callback):
        def on_begin(self, run: Any) -> None:
            heard.append("begin")

        def on_epoch(self, run: Any, record: EpochRecord) -> None:
            # The record is already saved when the callback is called.
            heard.append(len(run.records()))

        def on_end(self, run: Any, state: str) -> None:
            heard.append(state)

    go_on = AfterEpoch(lambda record: "go")  # does not outvote the one that pauses
    pause = AfterEpoch(lambda record: "pause")
    run = train_run(TINY, callbacks=[Listening(), pause, go_on], on_epoch=lambda record: "go")
    assert run.path.parent == runs_home and run.status()["state"] == "paused"
    run = train_run(TINY, callbacks=[Listening()])
    assert heard == ["begin", 1, "paused", "begin", 2, "done"]
    assert run.status()["state"] == "done"
    test = open_run(run.id).evaluation()
    assert test is not None and test.n == 20
    straight = list(Training(TINY).epochs())[-1].training.best
    assert all(torch.equal(value, straight[name]) for name, value in run.net().state_dict().items())
    assert train_run(TINY, callbacks=[Listening()]).path == run.path and len(heard) == 6


def test_how_long_a_run_is_examined_is_no_part_of_its_name() -> None:
    assert dataclasses.replace(TINY, test_n=0).run_id == TINY.run_id


@pytest.mark.long
def test_a_callback_that_fails_is_named_and_its_run_kept(runs_home: Path) -> None:
    def fail(record: EpochRecord) -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(UserError, match="AfterEpoch failed in on_epoch: ZeroDivisionError: oh"):
        train_run(TINY, on_epoch=fail)
    assert len(open_run(TINY.run_id).records()) == 1
    with pytest.raises(UserError, match="returned 'soon' from on_epoch"):
        train_run(TINY, on_epoch=lambda record: "soon")  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="is not a callback"):
        train_run(TINY, callbacks=[print])  # type: ignore[list-item]
    with pytest.raises(UserError, match="A TrainConfig is wanted"):
        train_run({"data": "digits"})  # type: ignore[arg-type]


@pytest.mark.long
def test_tensorboard_reads_what_was_written(runs_home: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train_run(TINY, callbacks=[TensorBoard()])
    found = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert found.Tags()["tensors"]
    wanted = [record["robust_acc"] for record in run.records()]
    from tensorboard.util.tensor_util import make_ndarray

    seen = [float(make_ndarray(e.tensor_proto)) for e in found.Tensors("validation/robust_acc")]
    assert seen == pytest.approx(wanted)


@pytest.mark.long
def test_patience_ends_a_training_that_gets_no_better() -> None:
    still = dataclasses.replace(TINY, epochs=9, lr=0.0, patience=2, method="standard")
    training = Training(still)
    for part in training.net.modules():  # Nothing may change, not even running statistics.
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.0
    assert len(list(training.epochs())) == 3 and training.ended == "done"
    again = Training(still)
    again.restore(*training.state())
    assert list(again.epochs()) == []
    with pytest.raises(UserError, match="patience needs a validation accuracy"):
        dataclasses.replace(still, select="last")


@pytest.mark.long
def test_a_training_begins_from_a_run_or_a_file(runs_home: Path, tmp_path: Path) -> None:
    run = train_run(TINY)
    kept = run.net().state_dict()
    file, other_file = tmp_path / "mine.safetensors", tmp_path / "theirs.pt"
    save_file(kept, file)
    for init in (run.id, str(file)):
        config = dataclasses.replace(TINY, init=init, seed=3).on_this_machine(find_run)
        assert config.init and config.init.startswith(f"{init}#")
        net = Training(config).net.state_dict()
        assert all(torch.equal(value, net[name]) for name, value in kept.items())
        assert config.run_id not in (TINY.run_id, dataclasses.replace(TINY, seed=3).run_id)
    # With another number of classes, all weights but the head's are used.
    fewer = {name: value[:4] if name.startswith("head.") else value for name, value in kept.items()}
    save_file(fewer, file)
    other = Training(dataclasses.replace(TINY, init=str(file), seed=3)).net.state_dict()
    fresh = Training(dataclasses.replace(TINY, seed=3)).net.state_dict()
    for name, value in other.items():
        assert torch.equal(value, (fresh if name.startswith("head.") else kept)[name])
    # Another repository may name the parts differently, and a file may list the names in any order.
    torch.save({"net": {f"module.{name}": fewer[name] for name in sorted(fewer)}}, other_file)
    config_of_file = dataclasses.replace(TINY, init=str(other_file), seed=3)
    again = Training(config_of_file).net.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in other.items())
    with pytest.raises(UserError, match="have changed since"):
        config.on_this_machine(find_run)
    with pytest.raises(UserError, match="do not fit small_resnet"):
        train_run(dataclasses.replace(TINY, init=run.id, net="small_resnet"))
    with pytest.raises(UserError, match="leave init out"):
        train_run(dataclasses.replace(TINY, init=run.id, method="model_alignment"))


def test_a_file_that_holds_no_weights_is_one_sentence(runs_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.safetensors"
    file.write_text("no weights at all, but long enough to have a header")
    wrong = ((str(file), "not a file of weights"), ("nowhere", "no run called 'nowh"))
    for init, sentence in wrong:
        with pytest.raises(UserError, match=sentence):
            train_run(dataclasses.replace(TINY, init=init))
    save_file(conv().state_dict(), file)
    with pytest.raises(UserError, match="do not fit small_cnn"):
        train_run(dataclasses.replace(TINY, init=str(file)))
    assert not any(runs_home.glob("*/config.json"))
