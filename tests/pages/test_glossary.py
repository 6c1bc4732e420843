"""Glossary: what the pages abbreviate is explained."""

from __future__ import annotations

import ast
import re

from robustviz import registry
from robustviz.runs import REPOSITORY
from robustviz.terms import TERMS, term
from tests.pages.conftest import sound, words

KNOWN = {"A", "B", "I", "PNG", "RGB", "JSON", "OK", "CI", "ID", "ICLR", "ICML", "MIT"}  # letters that stand for themselves


def test_the_page_has_every_method_and_word(visit):
    said = words(sound(visit("glossary")))
    assert all(title in said and text in said for title, text in TERMS.values())
    assert all(registry.get("method", key).label in said for key in registry.keys("method"))


def test_every_tooltip_asks_for_a_word_that_exists():
    for path in [*(REPOSITORY / "robustviz" / "ui").glob("*.py"), *(REPOSITORY / "pages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "term":
                assert term(node.args[0].value)


def test_each_acronym_on_a_page_has_an_entry(visit):
    explained = " ".join(f"{title} {text}" for title, text in TERMS.values())
    for page in ("", "attack", "train"):
        for acronym in set(re.findall(r"\b[A-Z]{2,}\b", words(visit(page)))):
            assert acronym in KNOWN or acronym in explained, f"{acronym} on {page or 'start'} is not in robustviz/terms.py"
