"""Tests that notebooks are committed without outputs. `--nbmake` runs them, and their own
assertions check their numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def test_there_are_the_four():
    assert [path.stem for path in NOTEBOOKS] == ["attack", "features", "part_masks", "soft_labels"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_no_outputs_asserts_something_and_moves_without_a_kernel(path: Path):
    cells = [
        cell
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert "assert " in text and "figures.slides(" in text
