"""Runs the code of docs/python.md exactly as printed, with a small network and few images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustviz.training import evaluate, loop

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.long
def test_the_page_about_python_does_what_it_says(
    runs_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "DOCTOR_IMAGES", 12)
    monkeypatch.setattr(loop, "VALIDATE_ON", 10)
    monkeypatch.setattr("plotly.graph_objects.Figure.show", lambda self: None)
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(6, 5))
    x, y = torch.rand(20, 3, 12, 12), torch.arange(20) % 5
    pairs = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(pairs, batch_size=8, shuffle=True)
    mine = {"net": net, "x": x, "y": y, "loader": loader}
    known: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    small = ('net="small_cnn", n_train=60, test_n=20, epochs=2', "x[0], y[0]")
    for block in blocks:
        text = block.replace("epochs=10", small[0]).replace(
            "look(net, x, y,", f"look(net, {small[1]},"
        )
        known.update(mine)  # a block may use these names for other images
        exec(compile(text, str(PAGE), "exec"), known)
    said = capsys.readouterr().out
    assert "PGD-20" in said and "active test" in said
    assert (tmp_path / "net.onnx").exists()
    assert known["run"].path.parent == runs_home and known["run"].status()["state"] == "done"
