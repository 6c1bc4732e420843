"""Train: the form follows the registry, bad input is a sentence, a job's every state is shown."""

from __future__ import annotations

import pytest

from robustviz import jobs, registry, runs
from robustviz.config import TrainConfig
from tests.pages.conftest import sound, words


@pytest.fixture
def no_process(monkeypatch):
    """Jobs stay in the queue: nothing is started."""
    monkeypatch.setattr(jobs, "pump", lambda: [])


def test_the_form_offers_every_method_and_data_set(visit):
    app = sound(visit("train"))
    assert len(app.selectbox(key="train-method").options) == len(registry.keys("method"))
    assert len(app.selectbox(key="train-data").options) == len(registry.keys("data"))
    assert "About" in words(app)


@pytest.mark.parametrize("method", ["standard", "fgsm_at", "fgsm_rs", "pgd_at", "trades"])
def test_each_method_shows_its_text_paper_and_choices(visit, method):
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value(method).run()
    cls = registry.get("method", method)
    assert cls.text in words(sound(app)) and cls.paper in words(app) and cls.choices in words(app)


def test_an_eps_of_8_is_a_sentence(visit):
    app = visit("train")
    field = next(one for one in app.text_input if one.label == "eps")
    field.set_value("8").run()
    assert "8/255" in " ".join(error.value for error in sound(app).error)
    assert not [button for button in app.button if button.label == "Train"]


def test_words_where_a_number_belongs_are_a_sentence(visit):
    app = visit("train")
    next(one for one in app.text_input if one.label == "lr").set_value("fast").run()
    assert "is not a number" in " ".join(error.value for error in sound(app).error)


def test_a_folder_that_is_not_there_is_a_sentence(visit, no_process):
    app = visit("train")
    app.selectbox(key="train-data").set_value("folder").run()
    app.text_input(key="train-folder").set_value("/no/such/folder").run()
    assert "/no/such/folder" in " ".join(error.value for error in sound(app).error)
    assert not [button for button in app.button if button.label == "Train"]


def test_training_puts_a_job_into_the_queue_once(visit, no_process):
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("fgsm_rs").run()
    app.button(key="train-go").click().run()
    app.button(key="train-go").click().run()
    mine = jobs.mine()
    assert [run.status()["state"] for run in mine] == ["queued"]
    assert mine[0].method_key == "fgsm_rs"
    assert mine[0].id in words(sound(app))


@pytest.mark.parametrize("state", ["queued", "paused", "stopped", "failed", "interrupted", "done"])
def test_each_state_of_a_job_is_shown_with_what_can_be_done(visit, no_process, tmp_path, monkeypatch, state):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    run = runs.create(TrainConfig(data="digits", method="standard", seed=77))
    run.set_status(state=state, error="What happened." if state == "failed" else "")
    app = visit("train", job=run.id)
    assert f"**{state}**" in words(sound(app))
    offered = {button.label for button in app.button}
    assert ("Resume" in offered) == (state in ("paused", "stopped", "failed", "interrupted"))
    assert ("Pause" in offered) == (state == "queued")


def test_a_shipped_recipe_is_not_trained_again(visit):
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("pgd_at").run()
    assert "shipped with robustviz already" in words(sound(app))
    assert app.button(key="train-go").disabled


def test_a_demo_server_does_not_train(visit, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_DEMO", "1")
    app = sound(visit("train"))
    assert "switched off" in words(app)
