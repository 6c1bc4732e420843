"""Glossary: what the pages abbreviate is explained."""

from __future__ import annotations

import ast
import dataclasses
import re

import pytest

from robustviz import registry
from robustviz.runs.folder import REPOSITORY
from robustviz.terms import TERMS, term
from robustviz.training.presets import PRESETS
from robustviz.ui.context import GROUPS
from tests.pages.conftest import sound, words

# letters that stand for themselves
KNOWN = {"A", "B", "I", "PNG", "RGB", "JSON", "OK", "CI", "ID", "MIT"}
VENUES = {"ACM", "CCS", "ECCV", "ICLR", "ICML", "TOMM"}  # in the titles of papers


def test_the_page_has_every_method_and_word(visit):
    said = words(sound(visit("glossary")))
    assert all(title in said and text in said for title, text in TERMS.values())
    assert all(registry.get("method", key).label in said for key in registry.keys("method"))


def test_every_tooltip_asks_for_a_word_that_exists():
    for path in [
        *(REPOSITORY / "robustviz" / "ui").glob("*.py"),
        *(REPOSITORY / "pages").glob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "term":
                assert term(node.args[0].value)


def lacking(text):
    """The acronyms in a text that nothing explains."""
    explained = set(
        re.findall(r"\b[A-Z]{2,}\b", " ".join(f"{title} {text}" for title, text in TERMS.values()))
    )
    return set(re.findall(r"\b[A-Z]{2,}\b", text)) - explained - KNOWN - VENUES


@pytest.mark.parametrize("name", ["", "attack", "train", "glossary"])
def test_each_acronym_on_a_page_has_an_entry(visit, name):
    assert not lacking(words(visit(name)))


def test_each_acronym_of_a_form_has_an_entry():
    for key in registry.keys("method"):
        cls = registry.get("method", key)
        helps = " ".join(str(field.metadata.get("help")) for field in dataclasses.fields(cls))
        assert not lacking(f"{cls.label} {cls.text} {cls.paper} {cls.choices} {helps}"), key
    assert not lacking(" ".join(preset.text for preset in PRESETS.values()))
    assert not lacking(" ".join(f"{own.name} {own.caution}" for own in GROUPS.values()))
