"""Tests the Contributions page: its sentences are those of the figures of the probes' results, and
no address breaks it.
"""

from __future__ import annotations

import pytest

from robustviz import figures, probes
from robustviz.probes import CarriedSpec, ContributionsSpec, PairingSpec
from robustviz.views.contributions import screen_figures as first
from robustviz.views.screen import wordy
from tests.pages.conftest import opened, ordinary, picked, screen, sound, words
from tests.pages.test_glossary import lacking


def sentence(figure):
    return figure.layout.meta["sentence"]


def test_the_first_screen_is_of_all_images_and_of_the_chosen_one(visit):
    app = sound(visit("contributions", data="digits", img=7))
    data = screen(app)
    sides = {"a": ordinary("digits", "standard"), "b": ordinary("digits", "pgd_at")}
    spec = ContributionsSpec(index=7)
    wanted = first.screen(
        {side: probes.carried(run, CarriedSpec()) for side, run in sides.items()},
        {side: probes.contributions(run, spec) for side, run in sides.items()},
    )
    assert (
        data["answer"]
        == wanted.answer
        == ["About 4 of 64 features make up half of A's answer; B spreads it over 5."]
    )
    assert data["moves"] == {
        name: [kind, list(values)] for name, (kind, values) in wanted.moves.items()
    }
    assert data["sure"] == wanted.sure and "Image 7: " in data["picture"]
    assert screen(sound(visit("contributions", data="digits", kept=9)))["control"]["start"] == 9
    assert not wordy(words(app))


def test_the_sentences_are_those_of_the_probes_results(visit):
    said = words(opened(visit("contributions", data="digits", img=7), "contributions"))
    names = {
        "A Standard": "standard",
        "B PGD-AT": "pgd_at",
        "ALP": "alp",
        "AALP (our reading)": "aalp",
    }
    found = {
        name: probes.contributions(ordinary("digits", method)) for name, method in names.items()
    }
    assert sentence(figures.contributions(found)) in said
    one = probes.contributions(ordinary("digits", "standard"), ContributionsSpec(index=7))
    assert sentence(figures.dropped(one)) in said
    pairs = {
        name: probes.pairing(ordinary("digits", names[name]), PairingSpec(n=100))
        for name in ("A Standard", "B PGD-AT")
    }
    assert not lacking(said)
    assert (
        sentence(figures.pairing(pairs["B PGD-AT"], side="b")) in said
        and sentence(figures.opposition(pairs)) in said
    )


def test_one_image_and_another_weight_can_be_chosen_and_stay_in_the_address(visit, few):
    app = opened(visit("contributions", data="digits", img=4), "contributions")
    app.button_group(key="of").set_value("one").run()
    assert "on image 4." in words(sound(app)) and "one" in app.query_params["of"]
    assert "The weight of a pair is w = p(y|x')." in words(app)
    app.selectbox(key="pair-weight").set_value("clean").run()
    assert "The weight of a pair is w = p(y|x)." in words(sound(app)) and "p(y|x')" not in words(
        app
    )
    assert not wordy(words(app))


def test_a_chosen_point_is_the_image_of_every_view(visit, few):
    app = visit("contributions", data="digits")
    app.session_state["pairing-a"] = {
        "selection": {"points": [{"customdata": [4]}, {"customdata": [9]}]}
    }
    app.run()
    assert "2 images chosen" in words(sound(app))
    app.button(key="pairs-9").click().run()
    assert picked(app, "img").value == 9 and "Image 9: " in screen(sound(app))["picture"]


def test_a_thousand_steps_wait_for_a_button(visit, few):
    app = opened(visit("contributions", data="digits"), "contributions")
    labels = [button.label for button in app.button]
    assert (
        sum(
            label.startswith("Measure 1000 steps of A Standard and B PGD-AT (about")
            for label in labels
        )
        == 1
    )
    assert "Square-1000" not in words(app)


@pytest.mark.parametrize(
    "address",
    [
        {"of": "x"},
        {"contributions-n": "7"},
        {"pair-weight": "<b>"},
        {"drop-seed": "-1"},
        {"img": "abc"},
        {"b": ""},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, few, address):
    assert "How many features does an answer rest on?" in words(
        sound(visit("contributions", **{"data": "digits"} | address))
    )
