"""Tests the shipped pack of precomputed answers: it answers only for the exact weights and settings
it was measured with; and tests that no thread sees a half-imported module.
"""

from __future__ import annotations

import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import eventually

from robustviz import imports, memory, registry
from robustviz.runs import folder
from robustviz.views import pack
from robustviz.views.attack.result import AccuracyCurve, AccuracyCurveSpec
from robustviz.views.start import pack as maker
from tests.pages.conftest import ordinary

SPEC = AccuracyCurveSpec(n=7)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> folder.Run:
    """Returns a shipped run for which the pack contains one answer."""
    one = ordinary("digits", "standard")
    monkeypatch.setattr(pack, "FOLDER", tmp_path)
    write(one, one.weights)
    return one


def write(run: folder.Run, weights: str) -> None:
    result = AccuracyCurve(np.linspace(0, 1, 3), np.arange(3), 7, meta={"weights": weights})
    name = f"{registry.key(SPEC)}.npz"
    content = maker._zipped({name: result.to_npz()})
    (pack.FOLDER / f"{run.id}.zip").write_bytes(content)
    memory.ANSWERS.clear()


def test_it_answers_what_was_measured_and_nothing_else(run):
    found = pack.kept(run, SPEC)
    assert found is not None and (found.n, found.meta["weights"]) == (7, run.weights)
    # It must be the same object, because figures are cached on the object.
    assert pack.kept(run, SPEC) is found
    assert pack.kept(run, AccuracyCurveSpec(n=8)) is None
    assert pack.kept(ordinary("digits", "pgd_at"), SPEC) is None


def test_it_answers_for_these_weights_only_and_never_for_a_user_s_run(run, tmp_path):
    mine = folder.Run(tmp_path / "mine" / run.id)
    mine.path.mkdir(parents=True)
    (mine.path / "net.safetensors").write_bytes((run.path / "net.safetensors").read_bytes())
    assert mine.weights == run.weights and pack.kept(mine, SPEC) is None
    write(run, "others")
    assert pack.kept(run, SPEC) is None


@pytest.mark.parametrize("damage", [b"", b"PK", b"no zip"])
def test_a_damaged_pack_is_none(run, damage):
    (pack.FOLDER / f"{run.id}.zip").write_bytes(damage)
    memory.ANSWERS.clear()
    assert pack.kept(run, SPEC) is None
    with zipfile.ZipFile(pack.FOLDER / f"{run.id}.zip", "w") as file:
        file.writestr(f"{registry.key(SPEC)}.npz", damage)
    memory.ANSWERS.clear()
    assert pack.kept(run, SPEC) is None
    memory.ANSWERS.clear()
    assert len(pack.images("digits").index) == 0


def test_the_same_answers_are_the_same_bytes():
    one, other = ({"a": b"1", "b": b"22"}, {"b": b"22", "a": b"1"})
    assert maker._zipped(one) == maker._zipped(other) and maker._unzipped(maker._zipped(one)) == one


def test_who_needs_a_module_waits_for_it_and_who_does_not_does_not(tmp_path, monkeypatch):
    (tmp_path / "slow_one").mkdir()
    (tmp_path / "slow_one" / "__init__.py").write_text(
        "from slow_one import part\nimport threading\nGO.wait(60)\nwhole = True\n".replace(
            "GO", "threading.go"
        )
    )
    (tmp_path / "slow_one" / "part.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(threading, "go", go := threading.Event(), raising=False)
    got: list[object] = []
    first = threading.Thread(target=imports.load, args=("slow_one",))
    first.start()
    assert eventually(lambda: "slow_one.part" in sys.modules)
    others = [
        threading.Thread(target=lambda name=name: got.append(imports.load(name)))
        for name in ("slow_one", "slow_one.part")
    ]
    for one in others:
        one.start()
    assert imports.load("json") is sys.modules["json"]  # Other modules do not have to wait.
    assert not got
    go.set()
    for one in (first, *others):
        one.join(60)
    assert sys.modules["slow_one"].whole and len(got) == 2
    for name in ("slow_one", "slow_one.part"):
        del sys.modules[name]
