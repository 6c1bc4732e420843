"""Tests `make gpu-check`: what it compares, which files it writes, and that it needs no package of
the dashboard.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from benchmarks import b15_devices, gpu_check, report
from benchmarks.harness import OURS, Gate, Outcome, Time

DASHBOARD = (
    "streamlit",
    "plotly",
    "sklearn",
    "scipy",
    "pandas",
    "pytorch_grad_cam",
    "umap",
    "pyautoattack",
    "matplotlib",
    "hypothesis",
    "playwright",
)
HERE, THERE = ("one", "cpu", contextlib.nullcontext), ("the other", "cpu", contextlib.nullcontext)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replaces the check's tests by a success and its benchmarks by fixed outcomes. Returns the
    path of the figures at toy size.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "REPOSITORY", tmp_path)
    monkeypatch.setattr(gpu_check, "TOY_OUT", tmp_path / "toy.json")
    monkeypatch.setattr(gpu_check, "_shrink", lambda: None)
    monkeypatch.setattr(gpu_check, "test", lambda device, limit: (True, "5 passed"))
    monkeypatch.setattr(
        gpu_check,
        "races",
        lambda size, note: iter(
            [("B15", lambda: iter([outcome(True)])), ("B2", lambda: iter([outcome(False)]))]
        ),
    )
    return tmp_path / "toy.json"


def outcome(held: bool) -> Outcome:
    return Outcome(
        "B2", "PGD", "here", (Time(OURS, (1.0,), 1.0),), {}, (Gate("as right as the peer", held),)
    )


# Comparing two devices.


@pytest.mark.parametrize(
    ("apart", "n", "known"),
    [
        (0, 2000, True),
        (6, 2000, False),
        (100, 2000, True),
        (0, 100, False),
        (1, 400, False),
        (6, 20_000, True),
    ],
)
def test_a_difference_is_known_once_it_is_clearly_within_or_beyond(
    apart: int, n: int, known: bool
) -> None:
    mine = torch.ones(n, dtype=torch.bool)
    theirs = mine.clone()
    theirs[:apart] = False
    assert b15_devices._is_known(mine, theirs) == b15_devices._is_known(theirs, mine) == known


@pytest.mark.long
def test_the_same_device_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(b15_devices, "ROUND", 20)
    monkeypatch.setattr(b15_devices, "TIMED", 4)
    one = b15_devices.against(HERE, THERE, 40, 1, "a note")
    (gate,) = one.gates
    assert (
        gate.held and "of 40 images, which 0 of them decide" in gate.says and one.note == "a note"
    )
    assert [time.name for time in one.times] == [OURS, "the other"]


@pytest.mark.long
def test_devices_that_count_otherwise_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second device sees every image brighter by 0.5."""
    monkeypatch.setattr(b15_devices, "ROUND", 20)
    monkeypatch.setattr(b15_devices, "TIMED", 4)
    whole, inside = b15_devices.count_right, False

    @contextlib.contextmanager
    def lighter():
        nonlocal inside
        inside = True
        yield
        inside = False

    monkeypatch.setattr(
        b15_devices,
        "count_right",
        lambda net, x, y, attack: whole(net, (x + 0.5 * inside).clamp(0, 1), y, attack),
    )
    (gate,) = b15_devices.against(HERE, ("the other", "cpu", lighter), 40, 1).gates
    assert not gate.held


# The command.


def test_figures_of_a_toy_size_are_kept_apart_and_say_so(
    quiet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "write", lambda found: pytest.fail("the README is not for toys"))
    assert gpu_check.main() == 0
    said = capsys.readouterr().out
    assert (
        "has no GPU" in said
        and "5 passed" in said
        and "Nothing was run on a GPU. All passed." in said
    )
    assert list(json.loads(quiet.read_text())["items"]) == ["B15", "B2"]
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert f"/{gpu_check.setting.KEPT.name}/" in ignored


def test_on_a_gpu_figures_join_those_that_are_there_and_every_gate_counts(
    quiet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cuda.json").write_text(
        json.dumps({"items": {"B13": {"machine": {}, "outcomes": []}}})
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(report, "HERE", tmp_path)
    monkeypatch.setattr(gpu_check.harness, "machine", lambda: {"device": "a GPU"})
    monkeypatch.setattr(report, "write", written.append)
    assert gpu_check.main() == 1
    assert set(json.loads((tmp_path / "results" / "cuda.json").read_text())["items"]) == {
        "B13",
        "B15",
        "B2",
    }
    assert len(written) == 1 and not quiet.exists()
    assert "Failed: B2, where this did not hold: as right as the peer." in capsys.readouterr().out


def test_a_race_that_breaks_and_tests_that_fail_are_said_and_the_rest_is_done(
    quiet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken():
        yield outcome(True)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_check, "test", lambda device, limit: (False, "1 failed"))
    monkeypatch.setattr(
        gpu_check,
        "races",
        lambda size, note: iter([("B0", broken), ("B15", lambda: iter([outcome(True)]))]),
    )
    assert gpu_check.main() == 1
    assert (
        "Failed: the tests; B0, which ended in RuntimeError: out of memory."
        in capsys.readouterr().out
    )
    assert list(json.loads(quiet.read_text())["items"]) == ["B0", "B15"]


@pytest.mark.long
def test_tests_that_take_too_long_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_one.py").write_text("def test_one():\n    while True: pass\n")
    monkeypatch.setattr(gpu_check, "TESTS", tmp_path)
    assert gpu_check.test("cpu", 3) == (False, "the tests were not done after 3 s")


@pytest.mark.long
def test_a_test_that_fails_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_one.py").write_text(
        "import os\ndef test_one():\n    assert os.environ['ROBUSTVIZ_TEST_DEVICE'] == 'nowhere'\n"
    )
    monkeypatch.setattr(gpu_check, "TESTS", tmp_path)
    passed, line = gpu_check.test("somewhere", 60)
    assert (
        not passed and "1 failed" in line and "'somewhere' == 'nowhere'" in capsys.readouterr().out
    )
    assert gpu_check.test("nowhere", 60)[0]


def test_the_clock_ends_it_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    gpu_check._too_late(480.0)
    assert ended == [1] and "Not done after 8 minutes" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_passes_at_toy_size_without_what_a_gpu_server_has_not(tmp_path: Path) -> None:
    """Runs the whole command and its tests in processes that cannot import the dashboard's
    packages.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Without:\n    def find_spec(self, name, path=None, target=None):\n     "
        f"   if name.split('.')[0] in {DASHBOARD!r}: raise ModuleNotFoundError(name,"
        " name=name)\nsys.meta_path.insert(0, Without())\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "All passed." in done.stdout
        and " failed" not in done.stdout
        and "passed, 2 skipped" in done.stdout
    )
