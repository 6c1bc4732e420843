"""Tests the cards of a class on the Compare page: they are dropped together, drawn, and kept only
in the session.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from robustviz.runs import card, folder
from robustviz.ui import guard
from robustviz.views.cards import panel
from tests.pages.conftest import sound, words

Files = list[tuple[str, bytes, str]]


@pytest.fixture(autouse=True)
def _nobody_invited(monkeypatch):
    monkeypatch.setattr(guard, "_invited", {})


@pytest.fixture
def forty() -> Files:
    """Returns the cards of forty students: two methods with twenty seeds each, made from the
    numbers of one run.
    """
    first = card.of_run(folder.open_run("digits-pgd-at-small-resnet-s0-0c56e5c2"))
    files = []
    for student in range(40):
        method, seed = ("pgd_at", "trades")[student % 2], student // 2
        numbers = tuple(
            {**one, "right": one["right"] - (seed % 5) - 9 * (student % 2)} for one in first.numbers
        )
        settings = {**first.settings, "seed": seed}
        settings["method"] = {**first.settings["method"], "key": method}
        made = dataclasses.replace(
            first,
            id="mine",  # Every student's run has the same name.
            numbers=numbers,  # type: ignore[arg-type]
            settings=settings,  # type: ignore[arg-type]
        )
        files.append((f"student-{student}.json", made.to_bytes(), "application/json"))
    return files


def sent(app: AppTest, files: Files) -> AppTest:
    app.file_uploader[0].set_value(files).run()
    return sound(app)


def drawn(app: AppTest) -> dict[str, object]:
    """Returns the data of the strip chart that the browser receives."""
    every = [json.loads(each.proto.json) for each in app.get("bidi_component")]
    return next(each for each in every if 'class="strips"' in each.get("picture", ""))


def shown(app: AppTest) -> AppTest:
    """Returns the page with the drawer of cards open."""
    app.session_state["more-cards"] = True
    return sound(app.run())


def test_forty_cards_at_once_are_one_picture_and_nothing_is_written(visit, forty):
    app = shown(visit("compare", data="digits"))
    assert "No cards yet" in words(app)
    before = sorted(folder.home().rglob("*"))
    app = sent(app, forty)
    data = drawn(app)
    assert (
        "PGD-AT is right on attacked images 2.5 percentage points more often than TRADES, over 20"
        " and 20 seeds."
    ) in data["answer"]
    assert data["control"]["label"] == "Measured" and len(data["answer"]) > 1
    table = app.dataframe[-1].value
    assert len(table) == 40 and set(table["method"]) == {"PGD-AT", "TRADES"}
    assert sorted(folder.home().rglob("*")) == before
    next(one for one in app.button if one.label == "Remove all cards").click().run()
    assert "No cards yet" in words(sound(app))


def test_a_changed_card_and_a_double_are_said_and_the_others_count(visit, forty):
    name, content, kind = forty[0]
    changed = content.replace(b'"seed": 0', b'"seed": 9', 1)
    evil = ("![x](http://evil.example/x.png).json", b"{}", kind)
    app = sent(shown(visit("compare", data="digits")), [(name, changed, kind), evil, *forty[1:9]])
    said = words(app)
    assert f"{name} was changed after it was written" in said and "is no run card" in said
    assert "](http" not in said and len(app.dataframe[-1].value) == 8
    app = sent(app, forty[1:3])
    assert "2 of the cards are of runs that were here already" in words(app)
    assert len(app.dataframe[-1].value) == 8


def test_who_only_looks_drops_nothing(visit, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    app = shown(visit("compare", data="digits"))
    assert not app.file_uploader and "Only the teacher may drop cards here" in words(app)


def test_a_run_of_the_user_s_gives_its_card_by_a_click(visit, monkeypatch):
    made: dict[str, bytes] = {}

    def button(label: str, data: Callable[[], bytes], name: str, *_: object, **__: object) -> None:
        made[name] = data()

    app = visit("compare", data="digits")
    run = folder.open_run("digits-pgd-at-small-resnet-s0-0c56e5c2")
    shutil.copytree(run.path, folder.home() / "mine")
    monkeypatch.setattr(panel.st, "download_button", button)
    app = shown(app)
    assert app.selectbox(key="cards-run").value == "mine"
    assert card.read(made["mine.card.json"]).id == "mine"
