"""Attack: the numbers on the page are the probes' own, and no address breaks it."""

from __future__ import annotations

import json
import shutil

import pytest

from robustviz import probes
from robustviz.probes import AdversarialSpec
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from tests.pages.conftest import ordinary, sound, words


def test_it_opens_with_the_ordinary_and_the_defended_network_on_shapes(visit):
    app = sound(visit("attack"))
    said = words(app)
    assert "Standard" in said and "PGD-AT" in said
    assert len(app.get("plotly_chart")) == 4
    badges = [
        block.proto.popover.label
        for block in app.get("popover")
        if block.proto.popover.label.startswith("Doctor")
    ]
    checks = [
        2 + len(ordinary("shapes", method).evaluation().doctor) for method in ("standard", "pgd_at")
    ]
    assert (
        badges == [f"Doctor: no fault found in {count} checks; not a proof" for count in checks]
        and min(checks) >= 10
    )


def test_the_sentence_is_the_probes(visit):
    app = sound(visit("attack", img=3, eps=8))
    found = probes.adversarial(
        ordinary("shapes", "standard"), AdversarialSpec(index=3, eps=8 / 255)
    )
    names = found.meta["classes"]
    assert (
        f"{names[found.probs.argmax()]} ({found.probs.max():.0%}) →"
        f" {names[found.probs_adv.argmax()]} ({found.probs_adv.max():.0%})" in words(app)
    )


def test_no_change_is_allowed_at_zero(visit):
    app = sound(visit("attack", eps=0))
    assert "No pixel changed by more than 0/255" in words(app)


def test_changing_the_data_set_keeps_the_methods(visit):
    app = visit("attack")
    app.selectbox(key="data").set_value("digits").run()
    sound(app)
    assert app.selectbox(key="a").value == ordinary("digits", "standard").id
    assert app.selectbox(key="b").value == ordinary("digits", "pgd_at").id
    assert "of digits" in words(app)


def test_the_attack_and_its_settings_change_the_answer(visit):
    app = visit("attack", img=1)
    before = words(app)
    app.slider(key="eps").set_value(2).run()
    assert words(sound(app)) != before
    app.button_group(key="attack").set_value("targeted").run()
    assert "target is" in words(sound(app))


@pytest.mark.parametrize(
    "address",
    [
        {"img": "-1"},
        {"img": "99999"},
        {"img": "abc"},
        {"img": "1e9"},
        {"eps": "8/255"},
        {"eps": "-3"},
        {"eps": "1e400"},
        {"eps": "NaN"},
        {"steps": "0"},
        {"steps": "100000"},
        {"seed": "-1"},
        {"a": "../../etc/passwd"},
        {"a": "no-such-run"},
        {"b": "<script>"},
        {"data": "no-such-data"},
        {"attack": "nuke"},
        {"target": "nobody"},
        {"a": ""},
        {"b": ""},
        {"a": "x" * 5000},
        {"img": ""},
        {"unknown": "1"},
        {"reset": "1"},
        {"img": "3", "eps": "12", "attack": "fgsm"},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, address):
    assert "How little does it take?" in words(sound(visit("attack", **address)))


def test_resetting_forgets_everything(visit):
    app = visit("attack", img=5)
    app.slider(key="eps").set_value(3).run()
    app.button(key="reset").click().run()
    assert app.number_input(key="img").value == 0
    assert app.slider(key="eps").value == 8


def test_a_damaged_run_is_a_sentence_and_the_page_works(visit, tmp_path):
    broken = tmp_path / "runs" / "broken-run"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{half", encoding="utf-8")
    (broken / "net.safetensors").write_bytes(b"junk")
    assert "Standard" in words(sound(visit("attack")))


def test_a_method_that_the_new_data_set_lacks_is_offered_for_training(visit, tmp_path, monkeypatch):
    every = folder.all_runs  # as if FGSM-RS were not shipped for shapes
    lacking = {"shapes", "fgsm_rs"}
    monkeypatch.setattr(
        folder,
        "all_runs",
        lambda **k: [run for run in every(**k) if {run.data_key, run.method_key} != lacking],
    )
    like = ordinary("digits", "pgd_at")
    own = folder.home() / "my-fgsm-rs"
    own.mkdir(parents=True)
    config = TrainConfig(data="digits", method="fgsm_rs").to_json() | {
        "images": like.info["images"]
    }
    (own / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(like.path / "net.safetensors", own)
    app = visit("attack", data="digits", b="my-fgsm-rs")
    assert "FGSM-RS" in words(sound(app))
    app.selectbox(key="data").set_value("shapes").run()
    assert "FGSM-RS has not been trained on this data yet" in words(sound(app))
    assert "PGD-AT" in words(app)
    app.button(key="offer").click().run()
    assert (
        app.selectbox(key="train-method").value == "fgsm_rs"
        and app.selectbox(key="train-data").value == "shapes"
    )
    assert "What if" in words(sound(app))


def test_an_address_that_names_a_alone_compares_it_with_another_and_the_same_twice_is_said(visit):
    first, second = ordinary("digits", "standard").id, ordinary("digits", "pgd_at").id
    app = sound(visit("attack", data="digits", a=second))
    assert (app.selectbox(key="a").value, app.selectbox(key="b").value) == (second, first)
    assert "A and B are the same network." not in words(app)
    assert "report --seeds" in words(app)
    assert "A and B are the same network." in words(
        sound(visit("attack", data="digits", a=second, b=second))
    )
