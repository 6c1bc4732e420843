"""Tests the Start page: nothing to choose, and three guesses, each answered at once from the story
pack alone.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import streamlit as st

from robustviz.runs import folder
from robustviz.runs.folder import REPOSITORY
from robustviz.views.screen import wordy
from robustviz.views.start import panel
from tests.pages.conftest import MAIN, sound, words

PACK = json.loads((REPOSITORY / "checkpoints" / "story" / "story.json").read_text(encoding="utf-8"))
WRONG = {"left": "right", "right": "left"}


def play(app, guesses=("left", "left", "left")):
    """Plays one round for each guess: guesses and continues."""
    for guess in guesses:
        app.button(key=f"guess-{guess}").click().run()
        app.button(key="next").click().run()
    return app


def test_the_first_question_has_two_pictures_and_two_answers(visit):
    app = sound(visit())
    labels = [button.label for button in app.button]
    assert labels[labels.index("Left") + 1] == "Right"
    assert "Round 1 of 3" in words(app)
    assert not app.selectbox and not app.slider and not app.number_input


def test_each_guess_is_answered_at_once_and_the_network_by_name(visit):
    app = visit()
    now = PACK["rounds"][0]
    app.button(key=f"guess-{now['tampered']}").click().run()
    said = words(sound(app))
    assert f"Yes: the {now['tampered']} one was tampered with." in said
    assert f"You see {now['article']} twice; the network says {now['standard']['adv']}." in said
    assert app.button(key="next").label == "Next round"
    app.button(key="next").click().run()
    assert "Round 2 of 3" in words(sound(app))


def test_three_guesses_are_counted_and_the_numbers_are_the_packs(visit):
    first, *others = (now["tampered"] for now in PACK["rounds"])
    app = play(visit(), (WRONG[first], *others))
    said = words(sound(app))
    assert "You found 2 of 3" in said
    net = PACK["standard"]
    assert f"fooled it on {net['fooled_k']} of those {net['clean_k']}" in said
    assert f"No pixel changed by more than **{PACK['eps_level']} of 255**" in said
    assert f"**{PACK['robust']['robust_k']} of" not in said, (
        "the second answer must wait for its question"
    )
    app.button(key="hold-Yes").click().run()
    assert f"**{PACK['robust']['robust_k']} of {PACK['robust']['n']}**" in words(sound(app))


def test_the_ordinary_network_is_fooled_on_most_images():
    assert PACK["standard"]["fooled_k"] > PACK["standard"]["clean_k"] / 2


def test_starting_again_asks_the_first_question(visit):
    app = play(visit())
    app.button(key="again").click().run()
    assert "Round 1 of 3" in words(sound(app))


def test_the_first_page_loads_no_torch():
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({str(MAIN)!r}, default_timeout=240).run()
assert not app.exception
assert "Round 1 of 3" in " ".join(m.value for m in app.markdown)
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr[-1500:]


def test_a_second_click_on_an_answered_question_does_not_count(visit):
    app = visit()
    app.button(key="guess-left").click().run()
    assert len(app.session_state["guesses"]) == 1
    st.session_state["guesses"] = ["left", "left"]
    panel._guess(1, "right")
    assert st.session_state["guesses"] == ["left", "left"]
    st.session_state["passed"] = 2
    panel._pass(1)
    assert st.session_state["passed"] == 2


def test_the_second_answer_says_what_withstood_every_attack_where_the_pack_knows_it():
    worst = {"n": 200, "worst_acc": 0.655, "worst_attacks": ["FGSM", "CW-100", "AutoAttack"]}
    pack = PACK | {"robust": PACK["robust"] | {"worst": worst}}
    assert "Of 200 images 66% withstood every attack run: FGSM, CW-100, AutoAttack." in panel.sure(
        pack
    )
    assert not any("every attack run" in each for each in panel.sure(_with(worst=None)))


def _with(**robust):
    return PACK | {"robust": PACK["robust"] | robust}


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([-0.004, 0.02], "no difference is shown"),
        ([0.01, 0.03], "no price"),
        (
            [-0.03, -0.01],
            "The price of robustness: on untouched images, 979 against 971 of 1000 are right.",
        ),
    ],
)
def test_the_price_follows_its_sign_and_interval(interval, said):
    pack = _with(n=1000, clean_k=979) | {"price": {"interval": interval}}
    pack["standard"] = PACK["standard"] | {"clean_k": 971}
    assert said in panel.price(pack)


def test_the_price_is_of_the_same_images():
    price, robust, ordinary = PACK["price"], PACK["robust"], PACK["standard"]
    assert price["gained"] - price["lost"] == robust["clean_k"] - ordinary["clean_k"]


def test_what_the_network_says_follows_what_it_says():
    now = {"class": "moon", "article": "a moon"}
    for clean, adv, fooled, said in (
        ("moon", "cup", True, "You see a moon twice; the network says cup."),
        ("moon", "moon", False, "You see a moon twice, and so does the network."),
        ("cup", "key", True, "You see a moon twice; the network says cup even untouched."),
    ):
        answer = {"clean": clean, "adv": adv, "fooled": fooled}
        assert panel.says(now | {"standard": answer}) == said


def test_the_pictures_are_attacked_as_on_the_attack_page():
    from robustviz.views.start.pack import attack_page

    now = PACK["rounds"][0]
    run = folder.open_model(PACK["standard"]["run"])
    x_adv, said = attack_page(run, now["index"], PACK["eps"])
    assert said["adv"] == now["standard"]["adv"]
    assert abs(said["adv_p"] - now["standard"]["adv_p"]) < 0.01
    assert x_adv.shape == (3, 32, 32)


def test_no_sentence_is_long(visit):
    app = visit()
    seen = [words(app)]
    for now in PACK["rounds"]:
        app.button(key=f"guess-{now['tampered']}").click().run()
        seen.append(words(app))
        app.button(key="next").click().run()
    app.button(key="hold-Yes").click().run()
    seen.append(words(sound(app)))
    for text in seen:
        assert wordy(text) == []


@pytest.mark.parametrize(("number", "page"), [(0, "attack"), (1, "features"), (2, "budget")])
def test_each_question_is_answered_within_two_clicks(visit, monkeypatch, number, page):
    went = []
    monkeypatch.setattr(panel.shell, "go", went.append)
    app = visit()
    app.button(key=f"ask-{number}").click().run()
    assert went == [page]
    if not number:
        assert app.session_state["a"] == PACK["robust"]["run"]
        assert app.session_state["b"] == PACK["part"]
    assert (REPOSITORY / "pages" / f"{page}.py").exists()
