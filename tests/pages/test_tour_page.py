"""Tests the Tour: guess first, then see. Each step has its own address, and the score counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from robustviz.types import UserError
from robustviz.ui import networks, rights, votes
from robustviz.views.tour.steps import DATA, steps
from tests.pages.conftest import sound, words

Visit = Callable[..., AppTest]
STEPS = steps(*networks.defaults(networks.on(DATA)))


def screen(app: AppTest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(app.get("bidi_component")[-1].proto.json)
    return found


def guess(app: AppTest, option: int) -> AppTest:
    app.radio[0].set_value(app.radio[0].options[option])
    button = next(each for each in app.button if each.label == "That is my guess")
    return sound(button.click().run())


def test_a_step_hides_its_answer_until_somebody_guessed(visit: Visit) -> None:
    app = sound(visit("tour", step=3))
    step = STEPS[2]
    assert step.question in [each.label for each in app.radio]
    assert screen(app)["asking"] is True
    assert step.told not in words(app)
    app = guess(app, step.right)
    assert screen(app)["asking"] is False
    assert f"Yes. {step.told}" in words(app) and "1 of 1 guesses right" in words(app)


def test_a_wrong_guess_is_told_so_and_the_next_step_follows(visit: Visit) -> None:
    app = guess(sound(visit("tour")), (STEPS[0].right + 1) % len(STEPS[0].options))
    assert f"No. {STEPS[0].told}" in words(app) and "0 of 1 guesses right" in words(app)
    app = sound(next(each for each in app.button if each.label == "Next step").click().run())
    assert STEPS[1].intro in words(app)


def test_an_address_that_says_anything_opens_the_first_step(visit: Visit) -> None:
    for said in ("8", "x", "-1"):
        assert STEPS[0].intro in words(sound(visit("tour", step=said)))


def test_no_guess_is_no_answer(visit: Visit) -> None:
    app = sound(visit("tour"))
    button = next(each for each in app.button if each.label == "That is my guess")
    assert "Choose one first." in words(sound(button.click().run()))


def test_a_step_goes_on_where_its_picture_is_from(visit: Visit) -> None:
    app = guess(sound(visit("tour", step=3)), 0)
    button = next(each for each in app.button if each.label.startswith("Continue on the page"))
    app = sound(button.click().run())
    assert app.session_state["eps"] == "8" and app.session_state["img"] == 2


def test_the_picture_shows_the_answer_once_it_was_guessed(visit: Visit) -> None:
    step = STEPS[1]
    assert step.screen.control and step.reveals
    app = sound(visit("tour", step=2))
    assert screen(app)["control"] is None and screen(app)["picture"].count("<img") == 1
    app = guess(app, 0)
    assert screen(app)["picture"].count("<img") == 3
    level = step.screen.control.values[step.reveals]
    assert app.session_state["predict-at"] == level and f"ε = {level}/255" in words(app)


def test_the_last_step_goes_on_where_its_network_can_be_trained(visit: Visit) -> None:
    app = guess(sound(visit("tour", step=7)), 0)
    button = next(each for each in app.button if each.label == "Continue on the page Train")
    app = sound(button.click().run())
    assert app.selectbox(key="train-recipe").value == "shapes-cue-on"
    assert app.selectbox(key="train-data").value == "shapes"
    assert app.selectbox(key="train-method").value == "standard"


def test_a_class_sees_its_votes_and_each_person_has_one(visit: Visit, monkeypatch: Any) -> None:
    monkeypatch.setattr(votes, "_votes", {})
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    step = STEPS[2]
    people = [sound(visit("tour", step=3)) for _ in range(3)]
    for app, option in zip(people, (0, 0, 1), strict=True):
        app = guess(app, option)
    said = words(people[-1])
    assert f"2 of 3 say {step.options[0]} · 1 says {step.options[1]}." in said.replace("*", "")


def test_a_phone_that_slept_finds_what_it_guessed_and_adds_no_vote(
    visit: Visit, monkeypatch: Any
) -> None:
    monkeypatch.setattr(votes, "_votes", {})
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    # The person whose phone sends the request, because a session in a test has no cookie.
    holding = ["anna"]
    monkeypatch.setattr(votes, "_voter", lambda: holding[0])
    step = STEPS[2]
    other = sound(visit("tour", step=3))  # Another tab, opened before she guessed.
    guess(sound(visit("tour", step=3)), 0)
    woken = sound(visit("tour", step=3))
    assert f"You said {step.options[0]}." in words(woken).replace("*", "")
    assert not woken.radio and "1 of 1 say" in words(woken)
    assert "1 of 1 say" in words(guess(other, 1))
    holding[0] = "ben"
    assert sound(visit("tour", step=3)).radio
    votes.cast(step.key, 1)
    votes.cast(step.key, 2)  # Only the last vote of a person counts.
    assert votes._votes == {step.key: {"anna": 0, "ben": 2}}


def test_a_class_guesses_again_once_the_teacher_cleared_the_votes(
    visit: Visit, monkeypatch: Any
) -> None:
    monkeypatch.setattr(votes, "_votes", {})
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    students = [guess(sound(visit("tour", step=3)), option) for option in (0, 1)]
    with monkeypatch.context() as teaching:
        teaching.setattr(rights, "may_act", lambda: True)
        asked = sound(visit("tour", step=3))
        assert "2 have voted." in words(asked)
        teacher = guess(asked, 2)
        assert len(votes._votes[STEPS[2].key]) == 2, "a teacher's guess is no vote"
        assert "The class: 1 of 2 say" in words(teacher)
        button = next(each for each in teacher.button if each.label.startswith("Clear"))
        assert sound(button.click().run()).radio
    for app in students:
        assert sound(app.run()).radio
    assert "1 of 1 say" in words(guess(students[1], 0))


def test_a_teacher_lets_the_phones_wait_for_the_answer(visit: Visit, monkeypatch: Any) -> None:
    monkeypatch.setattr(votes, "_votes", {})
    monkeypatch.setattr(votes, "_answered", None)
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    step = STEPS[2]
    with pytest.raises(UserError, match="Only the teacher may hold the answers back"):
        votes.hold(True)
    teacher = visit("tour", step=3)
    teacher.session_state[rights.TEACHER] = True
    teacher = guess(sound(teacher.run()), 0)  # A rehearsal: what was answered then waits again.
    teacher.session_state["step"] = 4
    sound(teacher.run()).toggle(key="hold-answers").set_value(True).run()
    # Neither a guess nor *Reveal* shows a student the answer before the teacher's page does.
    projector = sound(visit("tour", step=3, present=1))
    assert not [each for each in projector.button if each.label == "Reveal"]
    student = guess(sound(visit("tour", step=3)), step.right)
    assert "The teacher's page will show the answer" in words(student) and not student.radio
    assert step.told not in words(student)
    assert "guesses right" not in words(student) and screen(student)["asking"] is True
    teacher.session_state["step"] = 3
    assert "The class: 1 of 1 say" in words(sound(teacher.run()))
    student = sound(student.run())
    assert f"Yes. {step.told}" in words(student) and screen(student)["asking"] is False
    # The next class waits again, until the teacher has answered or lets it go on alone.
    votes_button = next(each for each in teacher.button if each.label.startswith("Clear"))
    sound(votes_button.click().run())
    student = guess(sound(student.run()), 0)
    assert "The teacher's page will show the answer" in words(student)
    teacher.toggle(key="hold-answers").set_value(False).run()
    assert step.told in words(sound(student.run()))


def test_outside_a_class_nothing_is_pooled(visit: Visit, monkeypatch: Any) -> None:
    monkeypatch.setattr(votes, "_votes", {})
    assert "The class" not in words(guess(sound(visit("tour")), 0))
    assert votes._votes == {}


def test_only_the_teacher_clears_the_votes(visit: Visit, monkeypatch: Any) -> None:
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    app = guess(sound(visit("tour")), 0)
    assert not [each for each in app.button if each.label.startswith("Clear")]
    with pytest.raises(UserError, match="Only the teacher may clear the votes"):
        votes.clear()


def test_a_lecturer_reveals_an_answer_and_a_cleared_class_is_asked_again(
    visit: Visit, monkeypatch: Any
) -> None:
    monkeypatch.setattr(votes, "_votes", {})
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    app = visit("tour", step=7, present=1)
    app.session_state[rights.TEACHER] = True
    app = sound(app.run())
    sound(next(each for each in app.button if each.label == "Reveal").click().run())
    assert f"**{STEPS[6].told}**" in words(app) and "guesses right" not in words(app)
    assert screen(app)["asking"] is False and screen(app)["control"]["start"] == 1
    sound(
        next(each for each in app.button if each.label == "Clear the class's votes").click().run()
    )
    assert screen(app)["asking"] is True and screen(app)["control"]["start"] == 0
