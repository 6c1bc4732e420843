"""Tests the Glossary: it explains every abbreviation on the pages."""

from __future__ import annotations

import ast
import dataclasses
import html
import json
import re

import pytest

from robustviz import registry
from robustviz.runs.folder import REPOSITORY
from robustviz.terms import TERMS
from robustviz.training.presets import PRESETS
from robustviz.ui.networks import GROUPS
from robustviz.views import sketches
from tests.pages.conftest import sound, words

# Abbreviations that need no explanation.
KNOWN = {"A", "B", "I", "PNG", "RGB", "JSON", "OK", "CI", "ID", "MIT"}
VENUES = {"ACM", "CCS", "ECCV", "ICLR", "ICML", "TOMM"}  # Abbreviations in the titles of papers.


def entries(app):
    """Returns the entries that the page sends to the browser, as text."""
    data = [json.loads(each.proto.json) for each in app.get("bidi_component")]
    return html.unescape(next(each["html"] for each in data if "html" in each))


def test_the_page_has_every_word_and_then_every_method_with_its_sketch(visit):
    said = entries(sound(visit("glossary")))
    places = [said.index(f"<dt>{title}</dt><dd>{text}</dd>") for title, text in TERMS.values()]
    methods = [registry.get("method", key) for key in registry.keys("method")]
    for method in methods:
        own = said.index(f"<dt>{method.label} (")
        assert own > max(places) and sketches.sketch(method.key).says in said[own:]
        assert all(each in said[own:] for each in (method.text, method.paper, method.choices))
    assert said.count("<svg") == len(methods)


def test_each_word_is_told_in_a_few_sentences():
    for key, (title, text) in TERMS.items():
        assert key == key.lower() and title and text.endswith(".") and text.count(". ") <= 4, key
        assert len(text.split()) <= 60, key


def test_every_tooltip_asks_for_a_word_that_exists():
    asked = {
        node.args[0].value
        for path in [*(REPOSITORY / "robustviz").rglob("*.py"), *REPOSITORY.glob("pages/*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "term"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(asked) > 20 and asked <= set(TERMS), asked - set(TERMS)


def lacking(text):
    """Returns the acronyms in a text that the glossary does not explain."""
    explained = set(
        re.findall(r"\b[A-Z]{2,}\b", " ".join(f"{title} {text}" for title, text in TERMS.values()))
    )
    return set(re.findall(r"\b[A-Z]{2,}\b", text)) - explained - KNOWN - VENUES


@pytest.mark.parametrize("name", ["", "attack", "train", "glossary"])
def test_each_acronym_on_a_page_has_an_entry(visit, name):
    app = visit(name)
    said = re.sub(r"<[^>]*>", " ", entries(app)) if name == "glossary" else ""
    assert not lacking(words(app) + said)


def test_each_acronym_of_a_form_has_an_entry():
    for key in registry.keys("method"):
        cls = registry.get("method", key)
        helps = " ".join(str(field.metadata.get("help")) for field in dataclasses.fields(cls))
        assert not lacking(f"{cls.label} {cls.text} {cls.paper} {cls.choices} {helps}"), key
    assert not lacking(" ".join(preset.text for preset in PRESETS.values()))
    assert not lacking(" ".join(f"{own.name} {own.caution}" for own in GROUPS.values()))
