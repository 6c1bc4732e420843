"""Tests the Attention page: its numbers are those of the probes, and it says in a sentence where
there is no map or no object.
"""

from __future__ import annotations

import importlib

import pytest
import torch

from robustviz import figures, probes
from robustviz.probes import AttentionSpec, OverlapSpec
from robustviz.views.attention import overlay
from robustviz.views.attention.result import AttentionLevelsSpec
from robustviz.views.measure import measure
from tests.pages.conftest import opened, ordinary, screen, sound, words
from tests.pages.test_glossary import lacking


def test_the_first_screen_is_the_probes_maps_over_the_image(visit):
    app = sound(visit("attention", data="shapes", img=3))
    said, data = words(app), screen(app)
    found = {
        name: measure(run := ordinary("shapes", key), AttentionLevelsSpec(3, eps=run.eps))
        for name, key in (("A Standard", "standard"), ("B PGD-AT", "pgd_at"))
    }
    assert data["answer"] == [overlay.answer(found, at) for at in range(17)]
    assert data["control"]["values"] == [str(level) for level in range(17)]
    assert data["control"]["start"] == 8 and app.session_state["eps"] == "8"
    for name, result in found.items():
        assert data["moves"][f"{name[0].lower()}-said"][1][16] == overlay.said(result, 16)
    assert "Paint the attack's budget" in said and not lacking(said)


def test_below_it_stands_what_part_makes_of_the_image_and_under_more_all_the_rest(visit):
    app = sound(visit("attention", data="shapes", img=3))
    said, charts = words(app), len(app.get("plotly_chart"))
    found = [
        probes.attention(
            ordinary("shapes", method),
            AttentionSpec(index=3, eps=8 / 255, eps_low=7 / 255, steps=10),
        )
        for method in ("standard", "pgd_at")
    ]
    for one in found:
        assert figures.budget(one).layout.meta["sentence"] in said
        assert figures.attention(one).layout.meta["sentence"] not in said
    assert charts == 2
    more = opened(app, "attention")
    for one in found:
        assert figures.attention(one).layout.meta["sentence"] in words(more)
    assert len(more.get("plotly_chart")) == 6 and not lacking(words(more))
    assert "Puzzle: in which quarter" in words(more)


def test_what_many_images_say_stands_behind_the_answer_once_it_is_measured(visit):
    spec = OverlapSpec()
    for method in ("standard", "pgd_at"):
        probes.overlap(ordinary("shapes", method), spec)
    sure = screen(sound(visit("attention", data="shapes", img=3)))["sure"]
    shares = probes.overlap(ordinary("shapes", "standard"), spec).pointing.mean(1)
    assert f"in {shares[0]:.0%} untouched and {shares[1]:.0%} attacked" in sure[0]
    alone = screen(sound(visit("attention", data="shapes", img=3, cam="layer_cam")))["sure"]
    assert "This is one image" in alone[0]


def test_the_controls_change_what_is_seen(visit):
    app = opened(visit("attention", data="digits", img=2, eps=38), "attention")
    assert "only for the data set shapes" in words(app)
    before = words(app)
    app.slider(key="eps-low").set_value(0).run()
    assert "may not change at all" in words(sound(app)) != before
    assert "inside the yellow line, 0/255 outside" in screen(app)["picture"]
    app.session_state["eps"] = "0"
    app.run()
    assert "at ε = 0 no pixel may change" in words(sound(app))
    app.session_state["eps"] = "18"
    app.button_group(key="cam-of").set_value("predicted").run()
    app.button_group(key="cam-control").set_value("random").run()
    app.selectbox(key="cam").set_value("eigen_cam").run()
    assert "EigenCAM" in words(sound(app)) and "EigenCAM" in screen(app)["picture"]
    app.selectbox(key="cam-under").set_value("alone").run()
    assert (
        "under" not in screen(sound(app))["moves"] and 'class="under"' not in screen(app)["picture"]
    )
    app.selectbox(key="cam-rule").set_value("oracle").run()
    assert "needs true object masks" in words(sound(app))


@pytest.mark.parametrize(
    "address",
    [
        {"cam": "x"},
        {"cam-of": "<b>"},
        {"cam-rule": "z>99"},
        {"eps-low": "300"},
        {"eps-low": "-1"},
        {"eps": "4", "eps-low": "5"},
        {"cam-control": "1"},
        {"steps": "0"},
        {"b": ""},
        {"img": "99999"},
        {"eps": "3.5"},
        {"cam": "layer_cam", "cam-under": "cells", "cam-rule": "top20%"},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, address):
    app = sound(visit("attention", **({"data": "digits"} | address)))
    assert "Which pixels matter" in words(app) and app.get("plotly_chart")


def test_a_constant_map_is_a_sentence_and_the_rest_is_there(visit, monkeypatch):
    for name in ("probe", "levels"):
        module = importlib.import_module(f"robustviz.views.attention.{name}")
        monkeypatch.setattr(
            module, "class_maps", lambda net, x, y, method: torch.ones(len(x), 4, 4)
        )
    app = opened(visit("attention", data="digits", img=311), "attention")
    assert (
        words(app).count("is constant, so it marks no pixel") == 2
        and len(app.get("plotly_chart")) == 3
    )
    assert screen(app)["answer"][8] == "On this image, both hottest spots are nowhere under attack."


def test_a_network_without_places_is_a_sentence_and_the_other_is_there(visit, monkeypatch):
    standard = ordinary("digits", "standard").id
    for name in ("probe", "levels"):
        module = importlib.import_module(f"robustviz.views.attention.{name}")
        whole = module.net_of

        def single(run, whole=whole):
            net = whole(run)
            if run.id != standard:
                return net
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

        monkeypatch.setattr(module, "net_of", single)
    app = opened(visit("attention", data="digits", img=312), "attention")
    assert "that returns its feature maps" in words(app) and len(app.get("plotly_chart")) == 3
    assert "A's hottest" not in " ".join(screen(app)["answer"])


def test_many_maps_are_measured_behind_a_button_and_say_what_the_probes_say(visit):
    app = opened(visit("attention", data="shapes", b="", **{"cam-rule": "top20%"}), "attention")
    app.button(key="measure-overlap").click().run()
    found = probes.overlap(ordinary("shapes", "standard"), OverlapSpec(rule="top20%"))
    assert figures.overlap({"A Standard": found}).layout.meta["sentence"] in words(sound(app))
    app.selectbox(key="cam-rule").set_value("shuffled").run()
    assert "does not compute one mask from the map" in words(sound(app))


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
def test_road_is_measured_behind_a_button(visit):
    app = opened(visit("attention", data="digits", b=""), "attention")
    app.button(key="measure-road").click().run()
    found = probes.road(ordinary("digits", "standard"))
    assert figures.road({"A Standard": found}).layout.meta["sentence"] in words(sound(app))
