"""Tests damaged runs: the lists name them with the reason and a button that removes them, and no
page breaks, whatever the files contain.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from robustviz.runs import folder as runs, queue
from robustviz.types import UserError
from robustviz.ui import rights
from tests.pages.conftest import sound, words
from tests.unit.test_damage import FILES, FIXTURE, ID, JUNK, ODD, change, places

HOSTILE = "![x](http://evil.example/x.png)"


@pytest.fixture(autouse=True)
def _queue(monkeypatch):
    monkeypatch.setattr(queue, "pump", lambda: [])


def fresh(tmp_path: Path, name: str = ID) -> Path:
    """Creates an undamaged run folder with every file."""
    place = tmp_path / "runs" / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(FIXTURE / ID, place)
    (place / "control.json").write_text('{"want": "pause"}', encoding="utf-8")
    return place


def spoil(file: Path, what: str | tuple[Any, ...], value: Any = None) -> None:
    """Damages a file, either with one of `JUNK` or by changing one entry."""
    if not isinstance(what, str):
        return change(file, what, value)
    file.unlink(missing_ok=True)
    if what == "a folder":
        file.mkdir()
    elif what in JUNK:
        file.write_bytes(JUNK[what])
    return None


def listed(app: Any) -> dict[str, str]:
    """Returns the state of each run in the list of the Train page."""
    table = app.dataframe[0].value
    return dict(zip(table["run"], table["state"], strict=True))


@pytest.mark.parametrize("name", ["config.json", "eval.json"])
def test_a_damaged_run_is_listed_with_its_reason_and_can_be_removed(visit, tmp_path, name):
    spoil(fresh(tmp_path) / name, "half")
    fresh(tmp_path, "whole")
    app = sound(visit("train"))
    assert listed(app) == {ID: "damaged", "whole": "done"} and "Damaged runs: 1." in words(app)
    app = sound(visit("train", job=ID))
    assert name in words(app) and "damaged" in words(app)
    app.button(key="remove").click().run()
    assert not (tmp_path / "runs" / ID).exists()
    assert listed(sound(app)) == {"whole": "done"} and "job" not in app.query_params


def test_a_finished_run_can_be_removed_and_one_at_work_cannot(visit, tmp_path, monkeypatch):
    fresh(tmp_path)
    app = sound(visit("train", job=ID))
    # As if the training had just started.
    monkeypatch.setattr(queue, "at_work", lambda run, status: True)
    app.button(key="remove").click().run()
    assert "stop it first" in words(sound(app)) and (tmp_path / "runs" / ID).exists()
    monkeypatch.undo()
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    app.button(key="remove").click().run()
    assert not (tmp_path / "runs" / ID).exists()
    sound(app)


def test_who_may_not_act_sees_the_reason_and_no_button(visit, tmp_path, monkeypatch):
    spoil(fresh(tmp_path) / "config.json", "half")
    app = visit("train", job=ID)
    monkeypatch.setattr(rights, "may_act", lambda: False)
    app.button(key="remove").click().run()  # A button press from a page drawn earlier.
    assert (tmp_path / "runs" / ID).exists()
    app = sound(visit("train", job=ID))
    assert "config.json" in words(app)
    assert "remove" not in [button.key for button in app.button]


def test_a_page_with_networks_says_that_a_folder_is_damaged_and_where_to_look(visit, tmp_path):
    spoil(fresh(tmp_path) / "config.json", "deep")
    app = sound(visit("attack"))
    assert f"{ID} is damaged. The list on the Train page says why" in words(app)


def test_evaluations_that_are_damaged_hide_no_page(visit, tmp_path):
    spoil(fresh(tmp_path) / "eval.json", "half")
    app = sound(visit("attack", a=ID, data="digits"))
    # The message stands in the doctor's drawer.
    assert not app.error and "eval.json cannot be read" in words(app)


def test_what_a_damaged_run_quotes_makes_no_picture(visit, tmp_path):
    change(fresh(tmp_path) / "config.json", ("seed",), HOSTILE)
    said = words(sound(visit("train", job=ID)))
    assert "evil.example" in said and HOSTILE not in said


# Each of these cases once gave a page with "Something unexpected happened" or a red box.
SEEN: tuple[tuple[str, str | tuple[Any, ...], Any], ...] = (
    ("config.json", ("seed",), "x"),
    ("config.json", ("method", "attack"), "x"),
    ("config.json", ("eps",), None),
    ("config.json", "deep", None),
    ("eval.json", ("evaluations", 0, "attack"), None),
    ("eval.json", ("evaluations", 0, "robust_k"), 10**6),
    ("eval.json", ("evaluations", 0, "seed"), None),
    ("eval.json", ("evaluations", 0, "eps"), None),
    ("eval.json", ("evaluations",), {"a": 1}),
    ("status.json", ("pid",), [1]),
    ("status.json", "deep", None),
    ("status.json", "nothing", None),
    ("live.npz", "zip", None),
)


@pytest.mark.parametrize(("name", "what", "value"), SEEN)
@pytest.mark.parametrize("page", ["train", pytest.param("attack", marks=pytest.mark.slow)])
def test_no_damage_is_unexpected(visit, tmp_path, page, name, what, value):
    spoil(fresh(tmp_path) / name, what, value)
    if what == "nothing":
        (tmp_path / "runs" / ID / name).write_text("{}", encoding="utf-8")
    sound(visit(page, **({"job": ID} if page == "train" else {"a": ID, "data": "digits"})))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_no_damage_of_any_file_or_entry_is_unexpected(visit, tmp_path, name):
    cases: list[tuple[Any, Any]] = [(kind, None) for kind in (*JUNK, "missing", "a folder")]
    if name in ("config.json", "status.json", "eval.json"):
        odd = (..., *ODD)
        for at, path in enumerate(places(json.loads((FIXTURE / ID / name).read_bytes()))):
            if "names" not in path[:-1] and "doctor" not in path[:-2]:
                cases += [(path, odd[at % len(odd)]), (path, odd[(7 * at + 3) % len(odd)])]
    for what, value in cases:
        spoil(fresh(tmp_path) / name, what, value)
        for page in ("train", "attack", "attention", "compare"):
            sound(visit(page, **({"job": ID} if page == "train" else {"a": ID, "data": "digits"})))


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be there")
@pytest.mark.parametrize("page", ["train", "attack"])
def test_names_that_are_not_utf8_break_nothing(visit, tmp_path, page):
    home = os.fsencode(fresh(tmp_path).parent)
    os.mkdir(os.path.join(home, b"run-\xff"))
    with open(os.path.join(home, os.fsencode(ID), b"snapshots-\xff.txt"), "wb") as file:
        file.write(b"\xff")
    os.makedirs(os.path.join(home, os.fsencode(ID), b"snapshots", b"epoch-\xff.safetensors"))
    change(tmp_path / "runs" / ID / "config.json", ("images", "names"), ["\udcff"] * 10)
    app = sound(visit(page, **({"job": ID} if page == "train" else {"a": ID, "data": "digits"})))
    words(app).encode()


def test_a_dead_run_in_a_folder_that_may_not_be_written_stops_nobody(visit, tmp_path, monkeypatch):
    place = fresh(tmp_path)
    change(place / "status.json", ("state",), "running")
    change(place / "status.json", ("pid",), 2**22 + 1)
    write = runs.write_file

    def refused(path: Path, content: bytes) -> None:
        if place in path.parents:
            raise UserError(f"{path} could not be written (Read-only file system).")
        write(path, content)

    monkeypatch.setattr("robustviz.runs.inside.write_file", refused)
    app = sound(visit("train", job=ID))
    assert f"`{ID}` · **running**" in words(app) and not app.error
    sound(visit("attack", a=ID, data="digits"))
