"""The Glossary page's content: the terms, then the methods with their sketches, and a search box
that filters both while the user types.
"""

from __future__ import annotations

import functools
from html import escape
from pathlib import Path

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from robustviz import plugins
from robustviz.runs import catalogue
from robustviz.terms import TERMS
from robustviz.ui.networks import GROUPS
from robustviz.views import sketches

HTML = """<div><label>Search <input type="search" autocomplete="off" placeholder="ε, logits, PART"
><output aria-live="polite"></output></label><div class="entries"></div></div>"""


@functools.cache
def _component() -> ComponentRenderer:
    css, js = (
        Path(__file__).with_name(f"words.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    return st.components.v2.component("robustviz.words", html=HTML, css=css, js=js)


def show() -> None:
    """Draw the search box and the entries of all terms (sorted by title) and methods, those of
    loaded plug-ins included.
    """
    own = (thing.partition("/") for each in plugins.loaded() for thing in each.things)
    keys = catalogue.keys("method", *(key for kind, _, key in own if kind == "method"))
    words = sorted(TERMS.items(), key=lambda entry: entry[1][0].lower())
    told = "".join(_entry(key, title, f"<dd>{escape(text)}</dd>") for key, (title, text) in words)
    methods = "".join(map(_method, keys))
    html = (
        f"<section><dl>{told}</dl></section><section><h2>Methods</h2><dl>{methods}</dl></section>"
    )
    said = f"{len(TERMS)} words, then {len(keys)} methods"
    _component()(key="words", data={"html": html, "said": said})


def _entry(key: str, title: str, said: str) -> str:
    return f'<div data-key="{escape(key)}"><dt>{escape(title)}</dt>{said}</div>'


def _method(key: str) -> str:
    """The HTML entry of a method: its sentence, its sketch, its description, and its paper."""
    facts = catalogue.facts("method", key)
    more = " ".join(filter(None, (facts["text"], f"{facts['paper']}.", facts["choices"])))
    return _entry(
        key,
        f"{facts['label']} ({GROUPS[facts['group']].name.lower()})",
        f"<dd>{escape(sketches.sketch(key).says)}</dd><dd>{sketches.svg(key)}</dd>"
        f'<dd class="more">{escape(more)}</dd>',
    )
