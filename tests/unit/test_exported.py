"""Tests a run's network in files for other programs. Each file is compared with the run before it
is kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustviz import nets
from robustviz.runs import exported, folder
from robustviz.runs.files import to_bytes, write_file
from robustviz.runs.folder import Run
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

X = torch.rand((7, 1, 8, 8), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def run(runs_home: Path) -> Run:
    made = folder.create(TrainConfig(data="digits", net="small_cnn", epochs=1))
    images = {"classes": 10, "channels": 1, "size": 8, "names": [*"0123456789"]}
    write_file(made.path / "config.json", to_bytes({**made.info, "images": images}))
    net = nets.build("small_cnn", 10, 1, 8, [0.3], [0.4])
    made.save_weights("net.safetensors", net.state_dict())
    return folder.open_run(made.path)


def close(found: Tensor, run: Run) -> bool:
    with torch.no_grad():
        return torch.allclose(found, run.net()(X), rtol=1e-4, atol=1e-5)


def test_weights_are_read_back_by_torch_and_safetensors(run: Run, tmp_path: Path) -> None:
    from safetensors import safe_open

    wanted = run.net().state_dict()
    path = run.export("state_dict", tmp_path / "net")
    assert path == tmp_path / "net.pt"
    held = torch.load(path, weights_only=True)
    assert held.keys() == wanted.keys()
    assert all(torch.equal(held[name], value) for name, value in wanted.items())
    path = run.export("state_dict", tmp_path / "net.safetensors")
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == wanted.keys()
        assert json.loads(file.metadata()["robustviz"])["run"] == run.id


@pytest.mark.long
def test_a_program_takes_any_number_of_images(run: Run, tmp_path: Path) -> None:
    path = run.export("torch.export", tmp_path / "net")
    assert path.suffix == ".pt2"
    with torch.no_grad():
        assert close(torch.export.load(path).module()(X), run)


@pytest.mark.long
def test_onnx_answers_as_the_run_does_and_says_what_it_is(run: Run, tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = run.export("onnx", tmp_path / "net")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert close(torch.from_numpy(session.run(["logits"], {"x": X.numpy()})[0]), run)
    said = {each.key: json.loads(each.value) for each in onnx.load(path).metadata_props}
    assert said["run"] == run.id and said["input"] == [1, 8, 8] and said["range"] == [0, 1]
    assert said["classes"] == [*"0123456789"]


def test_what_answers_otherwise_is_not_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (".pt", lambda *asked: (b"", lambda x: torch.zeros(len(x), 10)))
    monkeypatch.setitem(exported.WRITERS, "state_dict", wrong)
    with pytest.raises(UserError, match="gives other logits than the run"):
        run.export("state_dict", tmp_path / "net")
    assert not list(tmp_path.glob("net*"))


def test_what_cannot_be_exported_is_one_sentence(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no export format 'tf'"):
        run.export("tf", tmp_path / "net")  # type: ignore[arg-type]
    (run.path / "net.safetensors").unlink()
    with pytest.raises(UserError, match="has not finished an epoch yet"):
        run.export("state_dict", tmp_path / "net")


class Branching(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if bool(x.sum() > 0) else x.amax((2, 3))


@pytest.mark.long
def test_a_forward_that_cannot_be_traced_is_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "net", lambda self: Branching())
    with pytest.raises(UserError, match=r"cannot be written down as torch\.export"):
        run.export("torch.export", tmp_path / "net")
    assert not list(tmp_path.glob("net*"))
