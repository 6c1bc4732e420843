"""The Tour: guess, then see. Each step has an address of its own, and the score counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from robustviz.types import UserError
from robustviz.ui import networks, votes
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
    assert f"Yes. {step.told}" in words(app) and "1 of 1 guessed rightly" in words(app)


def test_a_wrong_guess_is_told_so_and_the_next_step_follows(visit: Visit) -> None:
    app = guess(sound(visit("tour")), (STEPS[0].right + 1) % len(STEPS[0].options))
    assert f"No. {STEPS[0].told}" in words(app) and "0 of 1 guessed rightly" in words(app)
    app = sound(next(each for each in app.button if each.label == "Next step").click().run())
    assert STEPS[1].intro in words(app)


def test_an_address_that_says_anything_opens_the_first_step(visit: Visit) -> None:
    for said in ("7", "x", "-1"):
        assert STEPS[0].intro in words(sound(visit("tour", step=said)))


def test_no_guess_is_no_answer(visit: Visit) -> None:
    app = sound(visit("tour"))
    button = next(each for each in app.button if each.label == "That is my guess")
    assert "Choose one first." in words(sound(button.click().run()))


def test_a_step_goes_on_where_its_picture_is_from(visit: Visit) -> None:
    app = guess(sound(visit("tour", step=3)), 0)
    button = next(each for each in app.button if each.label.startswith("Go on with this"))
    app = sound(button.click().run())
    assert app.session_state["eps"] == "8" and app.session_state["img"] == 2


def test_a_class_sees_its_votes_and_each_person_has_one(visit: Visit, monkeypatch: Any) -> None:
    monkeypatch.setattr(votes, "_votes", {})
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    step = STEPS[2]
    people = [sound(visit("tour", step=3)) for _ in range(3)]
    for app, option in zip(people, (0, 0, 1), strict=True):
        app = guess(app, option)
    said = words(people[-1])
    assert f"2 of 3 say {step.options[0]}, 1 {step.options[1]}." in said.replace("*", "")
    del people[0].session_state["tour"][step.key]  # a phone that comes back and guesses again
    app = guess(sound(people[0].run()), 1)
    assert f"2 of 3 say {step.options[1]}, 1 {step.options[0]}." in words(app).replace("*", "")


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
