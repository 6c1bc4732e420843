"""Tests many sessions on one server: no session breaks another one's page, from the first second
on.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sessions import FEW, Person, crowd

from benchmarks import b12_app
from robustviz import process
from robustviz.runs import folder, queue
from robustviz.training.config import TrainConfig


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., b12_app.Server]]:
    """Returns a function that starts an app that nobody has visited yet. The app ends with the
    test.
    """
    made: list[b12_app.Server] = []

    def start(**environment: str) -> b12_app.Server:
        (tmp_path / "runs").mkdir(exist_ok=True)
        made.append(b12_app.app(tmp_path / "runs", **environment))
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.mark.slow
def test_sessions_that_arrive_together_on_a_server_just_started_all_get_their_pages(started):
    found = crowd(started(), sessions=8, interactions=4, addresses=FEW)
    assert found.done == 32 and not found.failed, str(found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_sessions_do_five_hundred_things_beside_a_training_and_none_fails(
    started, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    app = started()
    run = queue.submit(TrainConfig(data="shapes", epochs=1000, device="cpu"))
    try:
        found = crowd(app, sessions=20, interactions=25)
        assert found.done == 500 and not found.failed, str(found)
        assert queue.alive(run.status()) and run.status()["state"] == "running"
    finally:
        queue.stop(run)
    assert run.records(), "the training got nowhere"


@pytest.mark.slow
def test_a_class_of_twelve_beside_a_training_all_get_their_answers(started, tmp_path, monkeypatch):
    """The short form of benchmark B17."""
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    app = started(ROBUSTVIZ_MODE="class")
    run = queue.submit(TrainConfig(data="shapes", epochs=1000, device="cpu"))
    try:
        found = crowd(app, sessions=12, interactions=9, addresses=FEW, looking=0.75, pause=0.2)
        assert found.done == 108 and not found.failed, str(found)
        assert len(found.kept) == 72
        assert app.memory < 1200
    finally:
        queue.stop(run)


SLOW_TORCH = """
import pathlib, time
pathlib.Path({folder!r}, "begun").touch()
for _ in range(600):
    if pathlib.Path({folder!r}, "go").exists(): break
    time.sleep(0.1)
pathlib.Path({folder!r}, "over").touch()
raise ImportError("no torch today")
"""


@pytest.mark.long
def test_the_first_page_does_not_wait_for_somebody_elses_torch(started, tmp_path):
    (tmp_path / "torch.py").write_text(SLOW_TORCH.format(folder=str(tmp_path)))
    app = started(PYTHONPATH=str(tmp_path))
    with ThreadPoolExecutor() as others:
        try:
            other = others.submit(Person, app, "attack")
            while not (tmp_path / "begun").exists():
                assert not other.done()
                time.sleep(0.02)
            first = Person(app)
            first.rerun(**{"guess-left": True})
            assert not (tmp_path / "over").exists(), "it waited until torch was there, or not"
            assert not first.faults
        finally:
            (tmp_path / "go").touch()
    other.result()  # This answer comes from the shipped pack, with or without torch.


# A package imported from two threads: one thread imports the package, which imports its inner
# module; the other imports the inner module and waits for the package. With plain imports they
# deadlock.
PACKAGE = """
import importlib._bootstrap, time
inside.set()
for _ in range(100):
    if "halves.inner" in importlib._bootstrap._module_locks: break
    time.sleep(0.01)
from halves import inner
whole = inner.whole
"""
TWO_DOORS = """
import builtins, importlib, sys, threading
from robustviz.imports import load
sys.path.insert(0, sys.argv[1])
builtins.inside, seen = threading.Event(), []
def enter(name):
    how = load if sys.argv[2] == "alone" else importlib.import_module
    try: seen.append((how(name), sys.modules["halves"].whole)[1])
    except BaseException as error: seen.append(type(error).__name__)
first = threading.Thread(target=enter, args=("halves",)); first.start()
assert inside.wait(60)
second = threading.Thread(target=enter, args=("halves.inner",)); second.start()
first.join(); second.join()
print(*sorted(map(str, seen)))
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [("alone", "1 1"), ("as Python does", "AttributeError|_DeadlockError|ImportError")],
)
def test_two_threads_that_enter_a_package_by_different_doors_both_get_the_whole_of_it(
    tmp_path, how, said
):
    (tmp_path / "halves").mkdir()
    (tmp_path / "halves" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "halves" / "inner.py").write_text("import halves\nwhole = 1\n")
    done = subprocess.run(
        [sys.executable, "-c", TWO_DOORS, str(tmp_path), how],
        capture_output=True,
        text=True,
        cwd=folder.REPOSITORY,
        check=True,
    )
    if how == "alone":
        assert done.stdout.strip() == said
    else:  # The plain import runs into the deadlock.
        assert any(kind in done.stdout for kind in said.split("|")), done.stdout


def test_two_sessions_that_time_a_training_leave_torch_its_threads():
    import torch

    before, inside, go = torch.get_num_threads(), threading.Event(), threading.Event()

    def first() -> int:
        with process.threads(3):
            inside.set()
            assert go.wait(60) and torch.get_num_threads() == 3
        return torch.get_num_threads()

    def second() -> int:
        with process.threads(2):
            go.set()
            one.result(60)
            assert torch.get_num_threads() == 2
        return torch.get_num_threads()

    with ThreadPoolExecutor() as both:
        one = both.submit(first)
        assert inside.wait(60)
        assert both.submit(second).result(60) == one.result(60) == before
        assert both.submit(torch.get_num_threads).result(60) == before
    assert torch.get_num_threads() == before


def test_a_job_that_two_sessions_want_at_once_is_started_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    started: list[folder.Run] = []

    class Process:
        pid = queue.os.getpid()

    monkeypatch.setattr(queue, "_spawn", lambda run: started.append(run) or Process())
    meet, config = threading.Barrier(6), TrainConfig(data="digits", epochs=1, device="cpu")

    def want(_: int) -> Any:
        meet.wait()
        return queue.submit(config).path

    with ThreadPoolExecutor(6) as sessions:
        assert len(set(sessions.map(want, range(6)))) == 1
    assert len(started) == 1


def test_a_child_that_two_sessions_see_end_is_forgotten_once(monkeypatch):
    class Child:
        def poll(self) -> int:
            queue._children.remove(self)  # As if the other session had removed it.
            return 0

    monkeypatch.setattr(queue, "_children", [Child()])
    assert not queue.alive({"pid": 0})
    assert queue._children == []
