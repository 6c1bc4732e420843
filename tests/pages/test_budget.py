"""Tests the Budget page: the networks on the left, the points on the right, from shipped files."""

from __future__ import annotations

import json

from robustviz.views.budget import result
from tests.pages.conftest import sound, words


def screen(app):
    return json.loads(app.get("bidi_component")[-1].proto.json)


def test_the_first_screen_has_an_answer_for_every_radius(visit):
    app = sound(visit("budget"))
    assert app.title[0].value == "Why can robustness cost accuracy?"
    data = screen(app)
    blobs = result.balls()
    assert len(data["answer"]) == len(data["control"]["values"]) == len(blobs.eps)
    assert "no network can be right on all of them" in data["answer"][data["control"]["start"]]
    assert f"{blobs.clean_k[-1, 0]} of 1,000" in data["answer"][-1]
    assert "PGD-AT on shapes" in data["picture"]


def test_the_address_chooses_the_radius_and_the_data(visit):
    app = sound(visit("budget", squares="0.1", family="digits"))
    data = screen(app)
    assert data["control"]["values"][data["control"]["start"]] == "0.1"
    assert "PGD-AT on digits" in data["picture"]
    assert "Tsipras" in words(app) and "Yang" in words(app)


def test_the_data_of_the_other_pages_is_where_it_starts(visit):
    assert "PGD-AT on digits" in screen(sound(visit("budget", data="digits")))["picture"]
    assert "PGD-AT on shapes" in screen(sound(visit("budget", data="mine-a1b2c3")))["picture"]


def test_nonsense_in_the_address_is_the_start(visit):
    data = screen(sound(visit("budget", squares="9", family="cats")))
    assert "PGD-AT on shapes" in data["picture"]


def test_a_missing_study_is_one_sentence(visit, monkeypatch, tmp_path):
    monkeypatch.setattr(result, "FILE", tmp_path / "none.json")
    assert "The budget study is missing" in words(sound(visit("budget")))
