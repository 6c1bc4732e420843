"""Attention: the numbers on the page are the probes' own, and what has no map or no object is a
sentence.
"""

from __future__ import annotations

import importlib

import pytest
import torch

from robustviz import figures, probes
from robustviz.probes import AttentionSpec, OverlapSpec
from tests.pages.conftest import ordinary, sound, words
from tests.pages.test_glossary import lacking


def test_it_shows_both_networks_with_the_probes_sentences(visit):
    app = sound(visit("attention", data="shapes", img=3))
    said = words(app)
    for method in ("standard", "pgd_at"):
        run = ordinary("shapes", method)
        found = probes.attention(
            run, AttentionSpec(index=3, eps=8 / 255, eps_low=7 / 255, steps=10)
        )
        for figure in (figures.attention, figures.budget):
            assert figure(found).layout.meta["sentence"] in said
    assert len(app.get("plotly_chart")) == 5 and not lacking(said)
    assert any(
        "Measure the overlap of A Standard and B PGD-AT" in button.label for button in app.button
    )


def test_the_controls_change_what_is_seen(visit):
    app = sound(visit("attention", data="digits", img=2))
    assert "known for the data shapes only" in words(app)
    before = words(app)
    app.slider(key="eps-low").set_value(0).run()
    assert "may not change at all" in words(sound(app)) != before
    app.slider(key="eps").set_value(0).run()
    assert "nothing may change at ε = 0" in words(sound(app))
    app.slider(key="eps").set_value(20).run()
    app.button_group(key="cam-of").set_value("predicted").run()
    app.button_group(key="cam-control").set_value("random").run()
    app.selectbox(key="cam").set_value("eigen_cam").run()
    assert "EigenCAM" in words(sound(app))
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
        {"cam": "layer_cam", "cam-under": "yes", "cam-rule": "top20%"},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, address):
    app = sound(visit("attention", **({"data": "digits"} | address)))
    assert "Which pixels matter" in words(app) and app.get("plotly_chart")


def test_a_constant_map_is_a_sentence_and_the_rest_is_there(visit, monkeypatch):
    module = importlib.import_module("robustviz.views.attention.probe")
    monkeypatch.setattr(module, "class_maps", lambda net, x, y, method: torch.ones(len(x), 4, 4))
    app = sound(visit("attention", data="digits", img=311))
    assert (
        words(app).count("is constant, so it points at nothing") == 2
        and len(app.get("plotly_chart")) == 3
    )


def test_a_network_without_places_is_a_sentence_and_the_other_is_there(visit, monkeypatch):
    module = importlib.import_module("robustviz.views.attention.probe")
    whole, standard = module.linf_net, ordinary("digits", "standard").id

    def single(run):
        net = whole(run)
        if run.id != standard:
            return net
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    monkeypatch.setattr(module, "linf_net", single)
    app = sound(visit("attention", data="digits", img=312))
    assert "no feature maps" in words(app) and len(app.get("plotly_chart")) == 3


def test_many_maps_are_measured_behind_a_button_and_say_what_the_probes_say(visit):
    app = sound(visit("attention", data="shapes", b="", **{"cam-rule": "top20%"}))
    app.button(key="measure-overlap").click().run()
    found = probes.overlap(ordinary("shapes", "standard"), OverlapSpec(rule="top20%"))
    assert figures.overlap({"A Standard": found}).layout.meta["sentence"] in words(sound(app))
    app.selectbox(key="cam-rule").set_value("shuffled").run()
    assert "makes no mask from the map itself" in words(sound(app))


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
def test_road_is_measured_behind_a_button(visit):
    app = visit("attention", data="digits", b="")
    app.session_state["road-open"] = True
    app.run()
    app.button(key="measure-road").click().run()
    found = probes.road(ordinary("digits", "standard"))
    assert figures.road({"A Standard": found}).layout.meta["sentence"] in words(sound(app))
