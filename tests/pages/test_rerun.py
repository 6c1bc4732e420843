"""Tests that a rerun computes and draws nothing twice, and never shows a figure of other
settings.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from typing import Any

import numpy as np
import pytest

from robustviz import figures, memory
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.ui import cache, server, widgets
from robustviz.views.attack import figures as attack_figures
from robustviz.views.attack.result import AccuracyCurve, AccuracyCurveSpec, AdversarialSpec
from tests.pages.conftest import ordinary, sound


def curve(k: int) -> AccuracyCurve:
    eps = np.linspace(0, 0.1, 5)
    return AccuracyCurve(
        eps,
        np.full(5, k),
        10,
        meta={
            "run": "one",
            "train_eps": 0.03,
            "seed": 0,
            "attack": {"steps": 20},
            "summary": "said",
        },
    )


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(widgets, "theme", lambda: "robustviz_light")
    return monkeypatch


def test_a_finished_figure_is_the_figure(light):
    found = {"A one": curve(7), "B two": curve(3)}
    for theme in ("robustviz_light", "robustviz_dark"):
        light.setattr(widgets, "theme", lambda theme=theme: theme)
        fresh = figures.accuracy_curve(found, template=theme, here=0.05)
        assert widgets.drawn(figures.accuracy_curve, found, here=0.05) == fresh


def test_a_figure_is_made_once_for_the_same_result_options_and_theme_only(light):
    first, other = curve(7), curve(7)
    drawn = widgets.drawn(figures.accuracy_curve, {"A": first}, here=0.05)
    assert widgets.drawn(figures.accuracy_curve, {"A": first}, here=0.05) is drawn
    assert widgets.drawn(figures.accuracy_curve, {"A": other}, here=0.05) is not drawn
    assert widgets.drawn(figures.accuracy_curve, {"B": first}, here=0.05) is not drawn
    assert widgets.drawn(figures.accuracy_curve, {"A": first}, here=0.04) is not drawn
    light.setattr(widgets, "theme", lambda: "robustviz_dark")
    assert widgets.drawn(figures.accuracy_curve, {"A": first}, here=0.05) is not drawn


@pytest.mark.slow
def test_hundreds_of_figures_leave_the_memory_below_its_limit(light):
    light.setattr(cache, "ANSWERS", kept := memory.Memory(2_000_000))
    for at in range(300):
        widgets.drawn(figures.accuracy_curve, {"A": curve(at % 10)}, here=at / 1000)
    assert kept.bytes <= kept.limit and 10 < len(kept) < 300


def test_a_run_that_got_other_weights_shows_nothing_of_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    mine = tmp_path / "mine"
    shutil.copytree(
        ordinary("digits", "standard").path,
        mine,
        ignore=shutil.ignore_patterns("snapshots", "probes"),
    )
    spec = AdversarialSpec(index=3, steps=2)
    before = cache.answer("mine", spec)
    assert cache.answer("mine", AdversarialSpec(index=3, steps=2)) is before
    assert cache.answer("mine", AdversarialSpec(index=4, steps=2)) is not before
    folder.write_file(
        mine / "net.safetensors",
        (ordinary("digits", "pgd_at").path / "net.safetensors").read_bytes(),
    )
    after = cache.answer("mine", spec)
    assert not np.allclose(after.probs, before.probs)


def test_a_slow_answer_is_kept_only_once_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    shutil.copytree(
        ordinary("digits", "standard").path,
        tmp_path / "mine",
        ignore=shutil.ignore_patterns("snapshots", "probes", "accuracy*"),
    )
    spec = AccuracyCurveSpec(n=5, steps=2)
    assert cache.kept("mine", spec) is None
    answer = cache.answer("mine", spec)
    assert cache.kept("mine", spec) is answer


@pytest.mark.parametrize("kind", [UserError, TimeoutError])
def test_what_is_measured_aside_is_measured_once_and_an_error_told_once(kind, monkeypatch):
    go, asked = threading.Event(), []

    def measure(run: Any, spec: Any) -> str:
        asked.append(run)
        assert go.wait(60)
        if len(asked) == 1:
            raise kind("no")
        return "answer"

    slot, spec = cache.ANSWERS["a test's", kind], AdversarialSpec()
    monkeypatch.setattr(cache, "_slot", lambda *given: (slot, "run"))
    monkeypatch.setattr(cache, "measure", measure)
    assert all(cache.result_or_none("run", spec, wait) is None for wait in (0.0, 0.01))
    assert cache.pending("run", spec) and asked == ["run"]
    go.set()
    with pytest.raises(kind, match="no"):
        cache.result_or_none("run", spec, 60.0)
    assert not cache.pending("run", spec)
    assert cache.result_or_none("run", spec, 60.0) == "answer"
    assert cache.result_or_none("run", spec, 0.0) == cache.answer("run", spec) == "answer"
    assert asked == ["run", "run"]


def test_a_run_is_read_again_when_its_folder_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    shutil.copytree(
        ordinary("digits", "standard").path,
        tmp_path / "mine",
        ignore=shutil.ignore_patterns("snapshots", "probes"),
    )
    first = folder.open_run("mine")
    assert folder.open_run("mine") is first and first in folder.all_runs()
    folder.write_file(tmp_path / "mine" / "config.json", folder.to_bytes(first.info | {"seed": 77}))
    assert folder.open_run("mine").info["seed"] == 77
    assert [run.info["seed"] for run in folder.all_runs() if run.id == "mine"] == [77]
    (tmp_path / "mine" / "config.json").write_text("{")
    assert "mine" not in [run.id for run in folder.all_runs()]
    assert "mine" in [run.id for run in folder.all_runs(damaged=True)]
    shutil.rmtree(tmp_path / "mine")
    assert "mine" not in [run.id for run in folder.all_runs(damaged=True)]


def _refused(name: str) -> Any:
    def figure(*given: Any, **options: Any) -> Any:
        pytest.fail("a figure was built again")

    figure.__name__ = name
    return figure


def test_a_second_run_of_a_page_builds_no_figure(visit, monkeypatch):
    app = sound(visit("attack"))
    for name in ("accuracy_curve", "adversarial", "smallest_eps"):
        monkeypatch.setattr(attack_figures, name, _refused(name))
    sound(app.run())


def test_messages_leave_at_once():
    listening = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listening.getsockname())
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    reached = []

    class Protocol:
        class transport:
            @staticmethod
            def get_extra_info(name: str) -> Any:
                return near if name == "socket" else None

        async def send(self, message: Any) -> None: ...

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def bare(message: Any) -> None: ...

    finished(server.Prompt(app)({"type": "http"}, None, Protocol().send))
    assert not near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    # Messages of another server's protocol are sent unchanged.
    finished(server.Prompt(app)({"type": "websocket"}, None, bare))
    finished(server.Prompt(app)({"type": "websocket"}, None, Protocol().send))
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert reached == ["http", "websocket", "websocket"]
    near.close()
    listening.close()


@pytest.mark.slow
def test_memory_stays_flat_and_pages_answer_over_a_thousand_clicks(tmp_path):
    from benchmarks import b12_app

    (tmp_path / "runs").mkdir()
    made = b12_app.app(tmp_path / "runs")
    try:
        b12_app.all_pages(made, None, 0)
        before, after = b12_app.memory(made, 1000)
    finally:
        made.end()
    assert after - before <= 12, f"{before:.0f} MB became {after:.0f} MB"


def finished(coroutine: Any) -> None:
    """Runs a coroutine that never waits, without an event loop, because another test may have
    one.
    """
    with contextlib.suppress(StopIteration):
        coroutine.send(None)
