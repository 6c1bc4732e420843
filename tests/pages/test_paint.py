"""The painted budget and the quadrant puzzle on the Attention page: what stands there is the probe's and the study's."""

from __future__ import annotations

import json

import pytest

from robustviz import probes, quadrant_study, runs
from robustviz.probes import PaintedSpec
from robustviz.probes.painted import cells_of, to_text
from tests.pages.conftest import ordinary, sound, words

EDGE = {"data": "digits", "paint": "edge"}


def opened(visit, **address):
    """The Attention page on digits with both parts open."""
    app = visit("attention", **{"data": "digits"} | address)
    app.session_state["paint-open"] = app.session_state["quadrant-open"] = True
    return sound(app.run())


def test_closed_it_computes_nothing(visit):
    app = sound(visit("attention", data="digits"))
    assert "paint-attack" not in [button.key for button in app.button]


def test_attacking_says_what_the_probe_says(visit):
    app = opened(visit)
    print(words(app))
