"""Tests that every sentence a page computes for the default pairs is short, also under *How
sure?*.
"""

from __future__ import annotations

import json
import re

import pytest

from robustviz.views.screen import wordy
from tests.pages.conftest import sound, words

PAGES = (
    "attack",
    "attention",
    "features",
    "soft_labels",
    "transfer",
    "contributions",
    "budget",
    "tour",
    "claims",
    "compare",
)


@pytest.mark.parametrize("data", ["shapes", "digits"])
@pytest.mark.parametrize("name", PAGES)
def test_no_sentence_of_a_default_pair_is_long(visit, name, data):
    app = sound(visit(name, data=data))
    texts = [words(app)]
    for element in app.get("bidi_component"):
        screen = json.loads(element.proto.json or "{}")
        texts += [*screen.get("answer", ()), *screen.get("sure", ())]
    # Digits are names of classes here, as in "7 (99%)".
    named = [re.sub(r"\b\d \(", "it (", text) for text in texts]
    assert not [sentence for text in named for sentence in wordy(text)]
