"""Tests a run whose plug-in is missing: lists say so, opening the run gives one sentence, the
plug-in is not loaded just because a run folder names it, and every other page works.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustviz import plugins
from robustviz.runs import queue
from tests.pages.conftest import sound, words
from tests.pages.test_damaged import fresh, listed
from tests.unit.test_damage import ID


@pytest.fixture(autouse=True)
def _queue(monkeypatch):
    monkeypatch.setattr(queue, "pump", lambda: [])


@pytest.fixture
def needy(tmp_path: Path) -> Path:
    """Creates a run whose method comes from a plug-in file that would leave a trace if loaded, a
    run whose plug-in has a malicious name, and an ordinary run. Returns the plug-in file.
    """
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    for name, source in ((ID, str(file)), ("other", "![x](http://evil.example/x.png)")):
        path = fresh(tmp_path, name) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["method"]["key"] = "mine"
        config["plugins"] = [{"source": source, "sha256": "0" * 64}]
        path.write_text(json.dumps(config), encoding="utf-8")
    fresh(tmp_path, "whole")
    return file


def test_the_list_and_the_run_say_what_is_missing(visit, tmp_path, needy):
    app = sound(visit("train"))
    assert listed(app) == {ID: "plug-in missing", "other": "plug-in missing", "whole": "done"}
    assert "Some runs need a plug-in that is not here" in words(app)
    app = sound(visit("train", job=ID))
    assert f"The run {ID} needs the plug-in {needy}, which is not loaded here" in words(app)
    app = sound(visit("train", job="other"))
    assert "needs the plug-in" in words(app) and "](http" not in words(app)
    assert not (tmp_path / "ran").exists() and not plugins.loaded()


def test_other_pages_go_on_and_say_where_to_look(visit, tmp_path, needy):
    app = sound(visit("attack", a=ID))
    assert "2 runs need a plug-in that is not here" in words(app)
    assert app.query_params.get("a", [""])[0] != ID
    assert not (tmp_path / "ran").exists()


def test_one_that_was_named_here_and_has_changed_says_so(visit, tmp_path, needy):
    plugins.trust(needy)
    needy.write_text("# other code", encoding="utf-8")
    app = sound(visit("train", job=ID))
    assert "has changed since it was named" in words(app)
    assert not (tmp_path / "ran").exists()
