"""Tests the Contributions page: its sentences are those of the figures of the probes' results, and
no address breaks it.
"""

from __future__ import annotations

import json

import pytest

from robustviz import figures, probes
from robustviz.probes import CarriedSpec, ContributionsSpec, PairingSpec
from robustviz.views.contributions import screen_figures as first
from robustviz.views.screen import wordy
from tests.pages.conftest import ordinary, picked, sound, words
from tests.pages.test_glossary import lacking


def stage(app):
    """Returns the data of the first screen."""
    every = [json.loads(each.proto.json) for each in app.get("bidi_component")]
    return next(each for each in every if "picture" in each)


def sentence(figure):
    return figure.layout.meta["sentence"]


def more(app):
    """Opens *More* on the page and reruns it."""
    app.session_state["more-contributions"] = True
    return sound(app.run())


def test_the_first_screen_is_of_all_images_and_of_the_chosen_one(visit):
    app = sound(visit("contributions", data="digits", img=7))
    data = stage(app)
    sides = {"a": ordinary("digits", "standard"), "b": ordinary("digits", "pgd_at")}
    spec = ContributionsSpec(index=7)
    screen = first.screen(
        {side: probes.carried(run, CarriedSpec()) for side, run in sides.items()},
        {side: probes.contributions(run, spec) for side, run in sides.items()},
    )
    assert (
        data["answer"]
        == screen.answer
        == ["About 4 of 64 features carry half of A's answer; B spreads it over 5."]
    )
    assert data["moves"] == {
        name: [kind, list(values)] for name, (kind, values) in screen.moves.items()
    }
    assert data["sure"] == screen.sure and "Image 7: " in data["picture"]
    assert stage(sound(visit("contributions", data="digits", kept=9)))["control"]["start"] == 9
    assert not wordy(words(app))


def test_the_sentences_are_those_of_the_probes_results(visit):
    said = words(more(visit("contributions", data="digits", img=7)))
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
    app = more(visit("contributions", data="digits", img=4))
    app.button_group(key="of").set_value("one").run()
    assert "on image 4." in words(sound(app)) and "one" in app.query_params["of"]
    assert "A pair counts with w = p(y|x')." in words(app)
    app.selectbox(key="pair-weight").set_value("clean").run()
    assert "A pair counts with w = p(y|x)." in words(sound(app)) and "p(y|x')" not in words(app)
    assert not wordy(words(app))


def test_a_chosen_point_is_the_image_of_every_view(visit, few):
    app = visit("contributions", data="digits")
    app.session_state["pairing-a"] = {
        "selection": {"points": [{"customdata": [4]}, {"customdata": [9]}]}
    }
    app.run()
    assert "2 images chosen" in words(sound(app))
    app.button(key="pairs-9").click().run()
    assert picked(app, "img").value == 9 and "Image 9: " in stage(sound(app))["picture"]


def test_a_thousand_steps_wait_for_a_button(visit, few):
    app = more(visit("contributions", data="digits"))
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
    assert "How many features carry the answer?" in words(
        sound(visit("contributions", **{"data": "digits"} | address))
    )
