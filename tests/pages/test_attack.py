"""Tests the Attack page: its numbers are those of the probes, and no address breaks it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from robustviz import probes
from robustviz.probes import AdversarialSpec
from robustviz.registry import keys
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from robustviz.ui import cache, gallery
from robustviz.ui.context import Context
from robustviz.views.attack import panel
from robustviz.views.attack.result import Adversarial, AnswersSpec
from robustviz.views.screen import wordy
from tests.pages.conftest import ordinary, picked, screen, sound, words


def test_it_opens_with_the_ordinary_and_the_defended_network_on_shapes(visit):
    app = sound(visit("attack"))
    said = words(app)
    assert "Standard" in said and "PGD-AT" in said
    assert len(app.get("plotly_chart")) == 3  # The class bars of A and B, and the smallest ε.
    badges = [
        block.proto.popover.label
        for block in app.get("popover")
        if block.proto.popover.label.startswith("Checks for")
    ]
    checks = [
        2 + len(ordinary("shapes", method).evaluation().doctor) for method in ("standard", "pgd_at")
    ]
    assert (
        badges
        == [
            f"Checks for {side}: none of {count} failed"
            for side, count in zip("AB", checks, strict=True)
        ]
        and min(checks) >= 10
        and "is not a proof" in said
    )
    given = screen(app)
    assert given["control"]["values"] == [str(level) for level in range(17)]
    assert given["control"]["start"] == 8
    assert any("B is more robust: it is right on " in line for line in given["answer"])
    assert not wordy("\n".join([*given["answer"], *given["sure"]]))


def test_the_pictures_and_the_sentence_are_the_probes(visit):
    app = sound(visit("attack", img=3, eps=8))
    found = probes.adversarial(
        ordinary("shapes", "standard"), AdversarialSpec(index=3, eps=8 / 255)
    )
    names = found.meta["classes"]
    before, after = (names[each.argmax()] for each in (found.probs, found.probs_adv))
    assert f"{before} → {after} ({found.probs_adv.max():.0%})" in words(app)
    kind, texts = screen(app)["moves"]["a-hit-below"]
    assert kind == "text" and len(texts) == 17
    assert texts[8].startswith(f"{after}: {found.probs_adv.max():.0%}")


@pytest.mark.parametrize("target", [-1, 3])
@pytest.mark.parametrize("y", range(4))
@pytest.mark.parametrize("eps", [0, 0.15])
def test_what_happened_is_said_in_short_sentences_also_of_digits(eps, y, target):
    probs = np.array([0.0, 0.91, 0.05, 0.04])
    names = [*"0123"]
    for after in (probs, probs[::-1]):
        x = np.zeros((1, 8, 8))
        found = Adversarial(x, x, y, probs, after, eps, eps, meta={"classes": names})
        assert wordy(panel.sentence(found, target)) == []


def test_no_change_is_allowed_at_zero(visit):
    app = sound(visit("attack", eps=0))
    assert "No pixel changed by more than 0/255" in words(app)


def test_changing_the_data_set_keeps_the_methods(visit):
    app = visit("attack")
    app.selectbox(key="data").set_value("digits").run()
    sound(app)
    assert picked(app, "a").value == ordinary("digits", "standard").id
    assert picked(app, "b").value == ordinary("digits", "pgd_at").id
    assert "of digits" in words(app)
    assert screen(app)["control"]["values"][screen(app)["control"]["start"]] == "38"


def test_the_attack_and_its_settings_change_the_answer(visit):
    app = visit("attack", img=1)
    before = words(app)
    assert words(sound(visit("attack", img=1, eps=2))) != before
    app.button_group(key="aim").set_value("targeted").run()
    assert "The target is" in words(sound(app))
    app.selectbox(key="attack").set_value("fgsm").run()
    assert "FGSM" in " ".join(screen(sound(app))["sure"])


def test_every_attack_of_the_registry_can_be_chosen_and_one_without_a_target_says_so(visit):
    app = visit("attack", data="digits")
    assert {*app.selectbox(key="attack").options} >= {panel.called(key) for key in keys("attack")}
    app = visit("attack", data="digits", attack="autoattack", aim="targeted")
    assert "AutoAttack cannot be targeted" in words(sound(app))


def test_more_has_the_curve_the_steps_and_the_classes(visit):
    app = visit("attack", data="digits")
    here = {side: picked(app, side).value for side in "ab"}
    for run_id in here.values():  # As the button does.
        cache.answer(run_id, AnswersSpec(0.15, 200))
    app.session_state["more-attack"] = True
    app.run()
    # Five more: the curve, the steps, the classes and two confusion matrices.
    assert len(app.get("plotly_chart")) == 8
    sound(app)
    lines = screen(app)["answer"]
    assert len(lines) == len(screen(app)["control"]["values"])
    assert "untouched" in lines[0] and "B is more robust" in lines[screen(app)["control"]["start"]]


def test_the_drawer_groups_images_by_what_their_evaluations_found(visit):
    first, second = ordinary("digits", "standard"), ordinary("digits", "pgd_at")
    groups, said = gallery.groups_of(Context("digits", first.id, second.id, 0))
    mine, theirs = (run.evaluation().right() for run in (first, second))
    assert list(groups) == ["A fooled, B right", "Both fooled", "Both right"]
    for index in groups["A fooled, B right"]:
        assert mine[0][index] and not mine[1][index] and theirs[0][index] and theirs[1][index]
    assert "PGD-20" in said and wordy(said) == []
    alone, _ = gallery.groups_of(Context("digits", second.id, "", 0))
    assert list(alone) == ["A fooled", "A right"]


def test_an_image_is_chosen_by_looking(visit):
    app = visit("attack", data="digits")
    app.button(key="gallery").click().run()
    sound(app)
    chosen = [each for each in app.button if str(each.key).startswith("gallery-")]
    assert 3 < len(chosen) <= gallery.PAGE
    wanted = int(chosen[2].label)
    app.button(key=chosen[2].key).click().run()
    assert picked(app, "img").value == wanted
    assert f"Test image {wanted}," in screen(sound(app))["alt"]


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
    app = visit("attack", img=5, eps=3)
    assert screen(app)["control"]["start"] == 3
    app.button(key="reset").click().run()
    assert picked(app, "img").value != 5
    assert screen(app)["control"]["start"] == 8


def test_a_damaged_run_is_a_sentence_and_the_page_works(visit, tmp_path):
    broken = tmp_path / "runs" / "broken-run"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{half", encoding="utf-8")
    (broken / "net.safetensors").write_bytes(b"junk")
    assert "Standard" in words(sound(visit("attack")))


def test_a_method_that_the_new_data_set_lacks_is_offered_for_training(visit, monkeypatch):
    every = folder.all_runs  # Pretend that FGSM-RS is not shipped for shapes.
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
    assert (picked(app, "a").value, picked(app, "b").value) == (second, first)
    assert screen(app)["answer"] != ["A and B are the same network."]
    assert any("report --seeds" in line for line in screen(app)["sure"])
    app = sound(visit("attack", data="digits", a=second, b=second))
    assert screen(app)["answer"] == ["A and B are the same network."]


def test_what_is_taken_home_draws_the_measured_curve(visit, runs_home, monkeypatch):
    """Where B is not measured, the lines of Python still measure A as the page does."""
    like = ordinary("digits", "pgd_at")
    shutil.copytree(like.path, runs_home / "mine", ignore=shutil.ignore_patterns("probes"))
    taken = []
    monkeypatch.setattr(panel.widgets, "take_home", lambda *given: taken.append(given))
    standard = ordinary("digits", "standard").id
    app = visit("attack", data="digits", a=standard, b="mine")
    curves, recipe = taken[-1][-1]
    assert list(curves) == list(recipe.runs) == ["A Standard"]
    assert recipe.spec == AnswersSpec(recipe.spec.eps)
    assert any("B is not measured yet" in line for line in screen(app)["answer"])
