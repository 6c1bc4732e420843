"""Tests the painted budget and the quadrant puzzle on the Attention page: they show the results of
the probe and the study.
"""

from __future__ import annotations

import importlib
import json

import pytest

from robustviz import figures, probes
from robustviz.export import Recipe
from robustviz.probes import PaintedSpec
from robustviz.views.paint import panel as paint
from robustviz.views.quadrants import study as quadrant_study
from tests.pages.conftest import ordinary, sound, words

ROOM = importlib.import_module("robustviz.views.paint.probe")
STROKE = "_wA8PDw8AAA"  # A stroke over the first row and the middle of 8×8 pixels.


@pytest.fixture
def opened(visit, few):
    """Returns a function such as `opened(img=3)`, which opens the Attention page on digits with the
    puzzle open.
    """

    def go(**address):
        app = visit("attention", **{"data": "digits"} | address)
        app.session_state["more-attention"] = True
        return sound(app.run())

    return go


def spec(**settings) -> PaintedSpec:
    return PaintedSpec(**{"index": 3, "eps": 38 / 255, "steps": 10} | settings)


def test_nothing_is_attacked_before_somebody_asks(visit, few, monkeypatch):
    monkeypatch.setattr(ROOM, "painted", None)
    app = sound(visit("attention", data="digits"))
    assert "Attack to see whether that is enough" in words(app)
    assert "quadrant" not in [one.key for one in app.radio], "the puzzle is under More"


def test_attacking_says_what_the_probe_says_of_both_networks(opened):
    app = opened(img=3)
    assert "25% of the image may change by 38/255, the rest by 0/255. Attack to see" in words(app)
    app.button(key="paint-attack").click().run()
    found = {
        f"{side} {name}": probes.painted(ordinary("digits", key), spec())
        for side, name, key in (("A", "Standard", "standard"), ("B", "PGD-AT", "pgd_at"))
    }
    assert figures.painted(found).layout.meta["sentence"] in words(sound(app))
    app.slider(key="paint_low").set_value(5).run()
    assert "The budget has changed: attack again." in words(sound(app))


def test_an_address_with_a_mask_shows_its_finding_at_once(visit, few):
    app = sound(visit("attention", data="digits", img=3, paint=STROKE, paint_eps=30, paint_low=2))
    found = probes.painted(
        ordinary("digits", "standard"), spec(mask=STROKE, eps=30 / 255, eps_low=2 / 255)
    )
    assert "24 of 64 pixels (38%) may change by 30/255. The others may change by 2/255." in words(
        app
    ) and found.meta["outcome"] in words(app)
    made = Recipe(
        {"": ordinary("digits", "standard").id},
        PaintedSpec(index=3, mask=STROKE, eps_low=2 / 255),
        "painted",
    )
    assert f"mask={STROKE!r}" in made.code()


@pytest.mark.parametrize("name", ["edge", "strongest", "part"])
def test_a_button_paints_its_area_and_the_address_keeps_it(opened, name):
    app = opened(img=3)
    app.button(key=f"paint-{name}").click().run()
    cells = ROOM.cells_of(ordinary("digits", "standard"), 3, name)
    assert f"{cells.mean():.0%} of the image may change" in words(sound(app))
    assert app.query_params["paint"] == (name if name in paint.FIXED else paint.to_text(cells))
    shown = (json.loads(each.proto.json) for each in app.get("bidi_component"))
    data = next(each for each in shown if "mask" in each)
    assert (
        data["mask"] == paint.to_text(cells)
        and (data["rows"], data["columns"]) == (8, 8)
        and "Test image 3" in data["label"]
    )


def test_a_network_without_a_map_says_so_in_place_and_the_rest_works(opened, monkeypatch):
    app = opened(img=3)
    monkeypatch.setattr(ROOM, "cells_of", _refuse(ROOM.cells_of))
    app.button(key="paint-part").click().run()
    assert "no feature maps" in "".join(
        str(one.value) for one in sound(app).info
    ) and "25% of the image" in words(app)


def _refuse(real):
    def cells_of(run, index, mask):
        if mask == "part":
            raise paint.UserError(
                "This network has no feature maps, so PART's mask cannot be computed: choose other"
                " pixels."
            )
        return real(run, index, mask)

    return cells_of


@pytest.mark.parametrize(
    "address",
    [
        {"paint": "<script>", "paint_eps": "0"},
        {"paint": "x" * 5000, "paint_eps": "NaN", "quadrant": "middle"},
        {"paint": "strongest", "paint_low": "-1"},
        {"paint": "", "paint_eps": "2", "paint_low": "60", "b": ""},
    ],
    ids="-".join,
)
def test_no_address_breaks_it(opened, address):
    app = opened(**address)
    app.button(key="paint-attack").click().run()
    assert "pixels (" in words(sound(app))


# The quadrant puzzle.


def test_a_guess_is_revealed_with_the_numbers_of_the_study_and_of_the_paper(
    opened, monkeypatch, tmp_path
):
    monkeypatch.setattr(quadrant_study, "FOLDER", tmp_path)
    cells = [
        {
            "variant": name,
            "seed": seed,
            "n": 200,
            "clean_k": 160 + seed,
            "robust_k": 80 + 5 * at + seed * (at == 2),
        }
        for seed in (0, 1)
        for at, name in enumerate(quadrant_study.PLACES)
    ]
    protocol = {
        "data": "shapes",
        "label": "Shapes",
        "net": "small_resnet",
        "eps": 8 / 255,
        "eps_low": 4 / 255,
        "test_eps": 8 / 255,
        "attack": "PGD-20",
        "seeds": [0, 1],
    }
    quadrant_study.file_of("shapes").write_bytes(
        quadrant_study.compact({"command": "x", "protocol": protocol, "cells": cells})
    )
    app = opened()
    assert "Choose one, then see what training shows." in words(app) and "quadrant-reveal" not in [
        one.key for one in app.button
    ]
    app.radio(key="quadrant").set_value("lower-left").run()
    result = quadrant_study.result_of(quadrant_study.read())
    assert app.query_params["quadrant"] == "lower-left" and result.meta["summary"] not in words(
        sound(app)
    )
    app.button(key="quadrant-reveal").click().run()
    said = figures.quadrants(result, picked="lower-left").layout.meta["sentence"]
    assert (
        said.startswith("You picked lower left")
        and said in words(sound(app))
        and "upper left: 78.00% clean, 47.69% PGD-20" in words(app)
    )


def test_without_a_study_a_sentence_stands_in_its_place(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(quadrant_study, "FOLDER", tmp_path)
    app = opened(quadrant="upper-left")
    assert "There is no quadrant study on shapes yet" in words(app) and "paint-attack" in [
        button.key for button in app.button
    ]
