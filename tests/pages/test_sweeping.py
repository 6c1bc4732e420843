"""Tests sweeps on the Train page: the state of each run, and the button that stops a sweep."""

from __future__ import annotations

import shutil

import pytest

from robustviz.runs import folder as runs, plans, queue
from robustviz.runs.sweeps import Now
from robustviz.training.config import TrainConfig
from robustviz.views.train import form
from tests.pages.conftest import ordinary, sound, words


@pytest.fixture
def swept(visit, monkeypatch):
    """Creates a sweep of three runs: one finished, one in the queue and one not yet created.
    Nothing is trained, and the time estimate is replaced.
    """
    monkeypatch.setattr(queue, "pump", lambda: [])
    monkeypatch.setattr(form, "estimate", lambda config: "A while.")
    like = ordinary("digits", "standard")
    shutil.copytree(like.path, runs.home() / "first")
    waiting = runs.create(TrainConfig(data="digits", method="standard", seed=5))
    plans.keep_plan("mine", ["first", waiting.id, "third"])
    return waiting


def states(app):
    table = next(
        each.value for each in app.dataframe if "state" in each.value and "ε" not in each.value
    )
    return dict(zip(table["run"], table["state"], strict=True))


def test_a_sweep_of_the_command_line_shows_how_far_each_of_its_runs_is(visit, swept):
    app = sound(visit("train"))
    assert "Sweeps" in [each.value for each in app.header]
    assert states(app) == {swept.id: "queued", "third": "waits", "first": "done"}
    assert "no command continues it" in words(app)
    with plans.fed("mine", lambda now: None) as tell:
        tell(Now(1, 3, swept, 240.0))
        assert "running: the next training starts" in words(sound(app.run()))


def test_the_button_stops_the_sweep_and_what_waits(visit, swept):
    app = visit("train")
    app.button(key="sweep-stop").click().run()
    assert swept.status()["state"] == "stopped" and states(sound(app))[swept.id] == "stopped"
    assert "it is paused: run the command" in words(app)
    assert "sweep-stop" not in [button.key for button in app.button]


def test_who_may_not_act_sees_the_sweep_and_stops_nothing(visit, swept, monkeypatch):
    before = visit("train")
    monkeypatch.setenv("ROBUSTVIZ_DEMO", "1")
    app = sound(visit("train"))
    assert states(app)[swept.id] == "queued"
    assert "sweep-stop" not in [button.key for button in app.button]
    before.button(key="sweep-stop").click().run()  # On a page that was drawn earlier.
    assert swept.status()["state"] == "queued"


def test_a_damaged_list_is_a_sentence_beside_the_others(visit, swept):
    (runs.home() / ".sweeps" / "bad.json").write_text("{", encoding="utf-8")
    app = sound(visit("train"))
    assert "The list of the sweep bad is damaged" in words(app)
    assert states(app)["first"] == "done"


def test_without_a_sweep_there_is_no_word_of_one(visit, monkeypatch):
    monkeypatch.setattr(form, "estimate", lambda config: "A while.")
    assert "Sweeps" not in [each.value for each in sound(visit("train")).header]
