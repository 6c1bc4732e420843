"""Tests the sketches of methods: one short sentence and three drawings each, with readable text."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from xml.etree import ElementTree

import pytest

from robustviz import registry
from robustviz.methods import PGDAT
from robustviz.views import sketches
from robustviz.views.screen import wordy


@pytest.mark.parametrize("key", registry.keys("method"))
def test_each_method_has_its_sentence_and_its_drawings(key: str) -> None:
    assert key in sketches.METHODS, (
        f"give {key} a line in METHODS of robustviz/views/sketches.py: a sentence of at most 20"
        " words and three steps; until then the app shows the plain drawings of its group"
    )
    told = sketches.sketch(key)
    assert told.says.endswith(".") and not wordy(told.says)
    for step in told.steps:
        assert 1 <= len(step.blocks) <= 2 and len(textwrap.wrap(step.says, sketches.LETTERS)) <= 3
        assert all(len(line) <= 17 for line in textwrap.wrap(step.says, sketches.LETTERS))
    assert not [step.says for step in told.steps if step.says not in sketches.alt(key)]


def test_no_two_methods_are_told_or_drawn_alike() -> None:
    told = sketches.METHODS.values()
    assert len({one.says for one in told}) == len({one.steps for one in told}) == len(told)


@pytest.mark.parametrize("key", sketches.METHODS)
def test_a_sketch_is_sound_svg_in_the_text_s_own_colour(key: str) -> None:
    drawn = sketches.svg(key)
    root = ElementTree.fromstring(drawn)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == sketches.alt(key)
    assert float(root.attrib["font-size"]) >= 14 and root.attrib["viewBox"].startswith("0 0 360 ")
    # A's blue and B's orange stand for networks, so sketches use neither; text and lines have the
    # colours of the page, light or dark.
    colours = set(re.findall(r"#[0-9A-F]{6}", drawn))
    assert colours <= {sketches.NOISE, sketches.GOOD}
    lowest = max(float(one.attrib["y"]) for one in root.iter("{http://www.w3.org/2000/svg}text"))
    assert lowest < float(root.attrib["viewBox"].split()[3])


def test_every_building_block_is_used() -> None:
    every = [*(one.steps for one in sketches.METHODS.values()), *sketches.PLAIN.values()]
    used = {block for steps in every for step in steps for block in step.blocks}
    assert used == set(sketches.BLOCKS)


def test_a_method_without_a_line_gets_the_drawings_of_its_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.keys("method")
    table = {kind: dict(held) for kind, held in registry._table.items()}
    monkeypatch.setattr(registry, "_table", table)

    @registry.register("method/newcomer")
    @dataclasses.dataclass(frozen=True)
    class Newcomer(PGDAT):
        label, text, paper = "Newcomer", "Learns <both> kinds. And so on.", "Nobody: Nothing."

    told = sketches.sketch("newcomer")
    assert told.says == "Learns <both> kinds." and told.steps == sketches.PLAIN["defence"]
    ElementTree.fromstring(sketches.svg("newcomer"))
