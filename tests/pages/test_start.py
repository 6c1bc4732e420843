"""Start: nothing to choose, three guesses, the reveal; told by the story pack alone."""

from __future__ import annotations

import json
import subprocess
import sys

from robustviz.runs.folder import REPOSITORY
from robustviz.views.start import panel
from tests.pages.conftest import MAIN, sound, words

PACK = json.loads((REPOSITORY / "checkpoints" / "story" / "story.json").read_text(encoding="utf-8"))


def test_the_first_question_has_two_pictures_and_two_answers(visit):
    app = sound(visit())
    assert [button.label for button in app.button][:2] == ["Left", "Right"]
    assert "Round 1 of 3" in words(app)
    assert not app.selectbox and not app.slider and not app.number_input


def test_three_guesses_are_counted_and_the_numbers_are_the_packs(visit):
    app = visit()
    for number, now in enumerate(PACK["rounds"]):
        guess = now["tampered"] if number else {"left": "right", "right": "left"}[now["tampered"]]
        app.button(key=f"guess-{guess}").click().run()
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
    app = visit()
    for _ in PACK["rounds"]:
        app.button(key="guess-left").click().run()
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
    from robustviz.views.start.panel import _guess

    app = visit()
    app.button(key="guess-left").click().run()
    assert len(app.session_state["guesses"]) == 1
    import streamlit as st

    st.session_state["guesses"] = ["left", "left"]
    _guess(1, "right")
    assert st.session_state["guesses"] == ["left", "left"]


def test_the_second_answer_says_what_withstood_every_attack_where_the_pack_knows_it(
    visit, monkeypatch
):
    worst = {"n": 200, "worst_acc": 0.655, "worst_attacks": ["FGSM", "CW-100", "AutoAttack"]}
    pack = PACK | {"robust": PACK["robust"] | {"worst": worst}}
    monkeypatch.setattr(panel, "load", lambda: pack)
    app = visit()
    for _ in pack["rounds"]:
        app.button(key="guess-left").click().run()
    app.button(key="hold-No").click().run()
    assert (
        "Of a set of 200 images **66%** are right under every attack run: FGSM, CW-100, AutoAttack."
        in words(sound(app))
    )
