"""Tests that with many runs a page reads no file twice, and sees new content at once."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from robustviz.runs import folder, queue
from tests.pages.conftest import ordinary

FILES = ("config.json", "status.json", "metrics.jsonl", "eval.json")
opened: list[str] = []
sys.addaudithook(lambda event, given: event == "open" and opened.append(str(given[0])))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Creates three hundred runs that were written a minute ago."""
    shipped = ordinary("digits", "standard").path
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    for number in range(300):
        place = tmp_path / f"copy-{number:03d}"
        place.mkdir()
        for name in FILES:
            shutil.copy(shipped / name, place / name)
            os.utime(place / name, (time.time() - 60,) * 2)
    return tmp_path


def read(home: Path, look: Callable[[], object]) -> int:
    """Returns how many of the runs' files `look` opens."""
    opened.clear()
    look()
    return sum(each.startswith(str(home)) and each.endswith(FILES) for each in opened)


def look() -> list[object]:
    found = queue.states()
    return [(run.records(), run.evaluations(), status) for run, status in found]


@pytest.mark.long
def test_what_was_read_is_not_read_again(home: Path) -> None:
    assert read(home, look) == 4 * 300
    assert read(home, look) == 0
    assert read(home, lambda: [queue.sweep(), queue.running(), queue.waiting(), queue.pump()]) == 0


def test_what_is_written_is_seen_at_once_however_fast_it_is_written(home: Path) -> None:
    run = folder.open_run("copy-007")
    assert run.status()["epoch"] != 1000
    for epoch in range(1000, 1200):  # The files all have the same length.
        run.set_status(epoch=epoch)
        assert run.status()["epoch"] == epoch
    before = len(run.records())
    line = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[-1]
    for more in range(1, 20):
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(line)
        assert len(run.records()) == before + more


def test_who_changes_what_came_back_changes_nobody_elses(home: Path) -> None:
    run = folder.open_run("copy-007")
    run.status()["state"] = "failed"
    run.records().clear()
    assert run.status()["state"] == "done" and run.records()
