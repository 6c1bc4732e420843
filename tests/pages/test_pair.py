"""Tests *Train and compare*: one button starts two trainings, whose curves share the same axes."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from robustviz import registry
from robustviz.runs import folder as runs, queue
from robustviz.training.config import TrainConfig
from robustviz.types import UserError
from robustviz.ui import rights
from robustviz.views.screen import wordy
from robustviz.views.train import form, pair
from tests.pages.conftest import ordinary, sound, words


@pytest.fixture(autouse=True)
def _still(monkeypatch):
    """Keeps jobs in the queue, and replaces the estimate of the training time."""
    monkeypatch.setattr(queue, "pump", lambda: [])
    monkeypatch.setattr(form, "estimate", lambda config: "A while.")


def charts(app):
    """Returns the Vega specs of the two charts."""
    return [json.loads(chart.proto.spec) for chart in app.get("vega_lite_chart")]


def asked(app, name: str) -> str:
    """Returns the value of an address parameter."""
    value = app.query_params.get(name, "")
    return value if isinstance(value, str) else value[0]


def trained(like: runs.Run, config: TrainConfig, epochs: int | None = None) -> runs.Run:
    """Creates a user's run with the curve of a shipped run, up to `epochs` epochs."""
    run = runs.create(config)
    lines = (like.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[:epochs]
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def test_one_button_queues_both_with_the_same_seed_and_shows_them(visit):
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("pgd_at").run()
    app.selectbox(key="train-beside-pgd_at").set_value("trades").run()
    app.button(key="train-compare").click().run()
    b, a = queue.mine()
    assert (a.method_key, b.method_key) == ("trades", "pgd_at") and a.seed == b.seed
    same = [{**run.info, "method": 0, "select": 0} for run in (a, b)]
    assert same[0] == same[1]
    assert (asked(app, "beside"), asked(app, "job")) == (a.id, b.id)
    said = words(sound(app.run()))
    assert ":blue[**A**] TRADES · **queued**" in said and ":orange[**B**] PGD-AT" in said
    assert "The curves get one point per epoch" in said and len(charts(app)) == 2
    app.button(key="train-compare").click().run()  # Once more: the two trainings already exist.
    assert len(queue.mine()) == 2
    app.button(key="pair-stop").click().run()
    assert {run.status()["state"] for run in (a, b)} == {"stopped"} and sound(app)


@pytest.mark.parametrize("method", ["standard", "pgd_at"])
def test_the_same_method_is_compared_with_its_next_seed(method):
    config = TrainConfig(data="digits", method=method, seed=7)
    other = form._like(config, method)
    assert other == dataclasses.replace(config, seed=8)


@pytest.mark.parametrize("key", registry.keys("method"))
def test_whatever_it_is_compared_with_has_its_images_network_seed_and_settings(key):
    config = TrainConfig(data="digits", method="fgsm_rs", seed=4, epochs=3, lr=0.03)
    config = config.on_this_machine(runs.find_run)
    other = form._like(config, key)
    if key != "fgsm_rs":
        one, two = config.to_json(), other.to_json()
        assert {name for name in one if one[name] != two[name]} <= {"method", "select"}
        assert (other.method.key, other.select) == (key, other.method.select)


def test_what_is_shipped_is_not_trained_again(monkeypatch):
    shipped = ordinary("digits", "standard")
    config = dataclasses.replace(shipped.config, method=registry.get("method", "pgd_at")(), seed=0)
    seen: list[str] = []
    shown: list[tuple[str, ...]] = []
    monkeypatch.setattr(queue, "submit", lambda one: seen.append(one.method.key) or shipped)
    monkeypatch.setattr(form, "show", lambda *ids: shown.append(ids))
    monkeypatch.setattr(rights, "check", lambda what: None)
    form._compare(dataclasses.replace(config, select="robust"), "standard")
    assert seen == ["pgd_at"] and shown[-1][1] == shipped.id


def test_where_the_other_cannot_begin_nothing_is_queued(visit, monkeypatch):
    def refuse(config: TrainConfig) -> None:
        raise UserError("It needs a batch of 4.")

    monkeypatch.setattr(form, "fits", refuse)
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("pgd_at").run()
    app.selectbox(key="train-beside-pgd_at").set_value("trades").run()
    app.button(key="train-compare").click().run()
    assert "It needs a batch of 4." in words(sound(app)) and not queue.mine()


def test_where_the_queue_takes_one_only_that_one_is_shown_and_it_is_said(visit, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_MOST_QUEUED", "1")
    monkeypatch.setattr(form, "fits", lambda config: None)
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("pgd_at").run()
    app.selectbox(key="train-beside-pgd_at").set_value("trades").run()
    app.button(key="train-compare").click().run()
    (run,) = queue.mine()
    assert "the training to compare it with could not start: The queue is full" in words(sound(app))
    assert (asked(app, "job"), asked(app, "beside")) == (run.id, "")


def test_the_curves_stand_on_the_axes_of_the_whole_training_and_lead_to_compare(visit):
    visit("train")  # Creates the folder of the user's runs.
    at, plain = ordinary("digits", "pgd_at"), ordinary("digits", "standard")
    b = trained(at, dataclasses.replace(at.config, seed=9))
    a = trained(plain, dataclasses.replace(plain.config, seed=9), epochs=2)
    a.set_status(state="running", epoch=2, epochs=20, batch=1, batches=4, phase="train")
    a.set_status(**queue.identity())
    b.set_status(state="queued")
    app = sound(visit("train", job=b.id, beside=a.id))
    first = a.records()[1], b.records()[1]
    kept = [round(one["robust_acc"] * one["n_val"]) for one in first]
    said = words(app)
    assert f"After epoch 2 A is right on {kept[0]} of {first[0]['n_val']} validation images" in said
    assert f"under PGD-10, B on {kept[1]}" in said
    sentence = next(each.value for each in app.markdown if "After epoch" in each.value)
    assert not wordy(sentence)
    for spec in charts(app):
        assert spec["encoding"]["x"]["scale"]["domain"] == [0, int(b.info["epochs"])]
        assert spec["encoding"]["color"]["scale"]["domain"] == ["A", "B"]
    assert "pair-compare" not in [button.key for button in app.button]
    for run, like in ((a, plain), (b, at)):
        shutil.copy(like.path / "net.safetensors", run.path)
        shutil.copy(like.path / "eval.json", run.path)
        whole = run.info | {"images": like.info["images"]}
        (run.path / "config.json").write_text(json.dumps(whole), encoding="utf-8")
        run.set_status(state="done")
    app = sound(visit("train", job=b.id, beside=a.id))
    app.button(key="pair-compare").click().run()
    assert sound(app).title[0].value == "Which network is robust, and at what cost?"
    assert [app.session_state[side] for side in ("a", "b")] == [a.id, b.id]


def test_b_can_be_looked_at_alone(visit):
    a, b = ordinary("digits", "standard"), ordinary("digits", "pgd_at")
    app = visit("train", job=b.id, beside=a.id)
    app.button(key="pair-alone").click().run()
    assert not asked(app, "beside") and "Attack it" in [each.label for each in app.button]


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("no-such-run", "no-such-run"),
        ("../../etc/passwd", "is no run id"),
        ("<b>", "is no run id"),
        ("shapes", "are trained on different images"),
        ("itself", "are the same run"),
    ],
)
def test_two_that_do_not_compare_are_a_sentence_and_b_is_shown(visit, beside, said):
    b = ordinary("digits", "pgd_at")
    ids = {"itself": b.id, "shapes": ordinary("shapes", "pgd_at").id}
    app = sound(visit("train", job=b.id, beside=ids.get(beside, beside)))
    assert said in " ".join(each.value for each in app.warning) and f"`{b.id}`" in words(app)


def test_other_budgets_do_not_compare(visit):
    visit("train")
    like = ordinary("digits", "pgd_at")
    other = runs.create(dataclasses.replace(like.config, eps=0.01))
    with pytest.raises(UserError, match="attacked with different ε"):
        pair._check(like, other)


def test_whoever_may_not_act_stops_nothing(visit, monkeypatch):
    visit("train")
    like = ordinary("digits", "pgd_at")
    waits = runs.create(dataclasses.replace(like.config, seed=5))
    before = visit("train", job=waits.id, beside=like.id)
    monkeypatch.setenv("ROBUSTVIZ_DEMO", "1")
    app = sound(visit("train", job=waits.id, beside=like.id))
    assert "Nobody may pause, stop and resume" in "".join(each.value for each in app.caption)
    assert "pair-stop" not in [button.key for button in app.button]
    before.button(key="pair-stop").click().run()  # On a page that was drawn earlier.
    assert waits.status()["state"] == "queued"
    with pytest.raises(UserError, match="Nobody may train here"):
        form._compare(waits.config, "trades")
