"""Tests damaged runs: whatever the files of a run contain, opening it gives the run or one sentence
that names the file, and every list of runs still works.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from robustviz import cli
from robustviz.runs import queue
from robustviz.runs.folder import Run, all_runs, open_run
from robustviz.types import UserError
from robustviz.ui import networks

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "runs"
ID = "digits-trades-small-cnn-s3-46ba9bd7"
FILES = ("config.json", "status.json", "control.json", "metrics.jsonl", "eval.json", "live.npz")
JUNK = {
    "empty": b"",
    "half": b'{"epoch": 1, "los',
    "list": b"[1, 2]",
    "null": b"null",
    "number": b"1e999",
    "text": b'"text"',
    "NaN": b"NaN",
    "binary": bytes(range(256)),
    "not UTF-8": b'{"a": "\xff"}',
    "half a character": b'{"state": "\\ud800", "net": "\\ud800", "want": "\\ud800"}',
    "deep": b"[" * 100_000,
    "long number": b'{"eps": ' + b"9" * 5000 + b"}",
    "zip": b"PK\x03\x04" + bytes(60),
}
# Values of a wrong type or out of range that replace an entry.
ODD = (
    None,
    True,
    -1,
    0.5,
    10**400,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    [{}],
    {},
    {"a": 1},
)


@pytest.fixture
def run(runs_home: Path) -> Run:
    """Creates a run with every file, beside an undamaged run."""
    for name in (ID, "whole"):
        shutil.copytree(FIXTURE / ID, runs_home / name)
    folder = runs_home / ID
    (folder / "control.json").write_text('{"want": "pause"}')
    x = np.zeros((3, 1, 8, 8), dtype=np.float32)
    y = np.arange(3)
    np.savez(folder / "live.npz", x=x, x_adv=x, y=y, pred=y, pred_adv=y, eps=0.15, epoch=8)
    opened = open_run(ID)
    assert opened.strip() is not None and opened.wanted() == "pause"
    assert len(opened.records()) == 8 and opened.status()["state"] == "done"
    return opened


def told(error: UserError) -> str:
    """Returns the message of an error, after checking that it is one printable sentence."""
    sentence = str(error)
    assert "\n" not in sentence and sentence.encode() and sentence.endswith(".")
    return sentence


def look(run_id: str) -> dict[str, object]:
    """Reads everything that can be read of a run, and returns the value or the error message for
    each part.
    """
    seen: dict[str, object] = {}
    reads: dict[str, Callable[[Run], Any]] = {
        "config": lambda run: run.config,
        "evaluation": lambda run: (run.evaluation(), [each.line for each in run.evaluations()]),
        "status": lambda run: run.status()["state"],
        "wanted": lambda run: run.wanted(),
        "records": lambda run: run.records(),
        "metrics": lambda run: run.metrics(),
        "strip": lambda run: run.strip(),
    }
    for name, read in reads.items():
        try:
            seen[name] = read(open_run(run_id))
        except UserError as error:
            seen[name] = told(error)
    return seen


def lists_go_on(capsys: pytest.CaptureFixture[str] | None = None, report: bool = True) -> str:
    """Checks that all lists contain the undamaged run, with `report` also the table of all runs,
    and returns what they say of the damaged one.
    """
    assert "whole" in [run.id for run in all_runs()]
    assert {"whole", ID} <= {run.id for run in all_runs(damaged=True)}
    assert "whole" in [run.id for run in queue.mine()]
    assert "whole" in networks.ordered(networks.trained().values())
    queue.sweep()
    queue.waiting()
    if capsys is None:
        return ""
    capsys.readouterr()
    assert cli.main(["list", "runs", "--json"]) == 0
    listed = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["whole"]["n"] == 360
    if report:
        assert cli.main(["report"]) == 0
        assert "whole" in capsys.readouterr().out
    return str(listed[ID].get("note", "")) if listed[ID]["state"] == "damaged" else ""


@pytest.mark.long
@pytest.mark.parametrize("kind", [*JUNK, "a folder", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_junk_in_a_file_is_one_sentence_that_names_it_and_lists_go_on(
    name: str, kind: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.path / name
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(JUNK[kind])
    seen, note = look(ID), lists_go_on(capsys, report=kind == "a folder")
    if name == "config.json":
        assert all(name in str(value) for value in seen.values()), seen
        assert name in note
    elif name == "eval.json" and kind != "missing":
        assert name in str(seen["evaluation"]) and name in note
    elif name == "status.json":
        assert seen["status"] == "failed" and name in run.status()["error"]
    elif name == "control.json":
        assert seen["wanted"] == ""
    elif name == "metrics.jsonl":
        assert seen["records"] == [] and seen["metrics"].empty  # type: ignore[attr-defined]
    elif name == "live.npz":
        assert seen["strip"] is None


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("method", "key"), "tomorrow", "no method called 'tomorrow'"),
        (("data", "key"), "unseen", "no data called 'unseen'"),
        (("net",), "resnet9000", "no net called 'resnet9000'"),
        (("method", "attack", "steps"), "many", "whole number"),
        (("momentum",), 10**400, "is not a number"),
        (("seed",), [3], "seed"),
        (("images", "classes"), 10**12, "out of range"),
    ],
)
def test_a_setting_that_is_not_known_here_is_named_with_its_file(
    path: tuple[str, ...], value: object, words: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run.path / "config.json", path, value)
    with pytest.raises(UserError, match=words) as caught:
        open_run(ID)
    assert "config.json" in told(caught.value)
    lists_go_on(capsys)


def change(file: Path, path: tuple[Any, ...], value: object) -> None:
    """Sets one entry of a JSON file, or removes it if `value` is `...`."""
    whole = inner = json.loads(file.read_text())
    for name in path[:-1]:
        inner = inner[name]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    file.write_text(json.dumps(whole))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the paths of all entries of a JSON value, nested ones included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    out = []
    for name, item in inner:
        out.append((*path, name))
        if isinstance(item, (dict, list)) and item:
            out += places(item, (*path, name))
    return out


@pytest.mark.long
@pytest.mark.parametrize("name", ["config.json", "status.json", "eval.json"])
def test_every_entry_of_another_kind_or_left_out_breaks_nothing_else(name: str, run: Run) -> None:
    """Some entries may be missing or changed without damage to the run: then the run opens."""
    file = run.path / name
    whole = file.read_bytes()
    odd = (..., *ODD)
    for number, path in enumerate(places(json.loads(whole))):
        if "names" in path[:-1] or "doctor" in path[:-2]:
            continue
        for value in (odd[number % len(odd)], odd[(7 * number + 3) % len(odd)], ...):
            file.write_bytes(whole)
            change(file, path, value)
            look(ID)
            lists_go_on()
    file.write_bytes(whole)
    assert look(ID)["status"] == "done"


WORDS = st.text(max_size=5) | st.sampled_from(["key", "pgd", "data", "state", "running", "epoch"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.long
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_is_written_into_a_run_the_lists_go_on(data: st.DataObject, run: Run) -> None:
    name = data.draw(st.sampled_from(FILES))
    file = run.path / name
    whole = file.read_bytes()
    try:
        if data.draw(st.booleans()) and name.endswith(".json"):
            path = data.draw(st.sampled_from(places(json.loads(whole))))
            change(file, path, data.draw(ANYTHING))
        elif data.draw(st.booleans()):
            file.write_text(json.dumps(data.draw(ANYTHING)))
        else:
            cut = data.draw(st.integers(0, len(whole)))
            file.write_bytes(whole[:cut] + data.draw(st.binary(max_size=8)))
        look(ID)
        lists_go_on()
    finally:
        file.write_bytes(whole)


def test_a_file_that_may_not_be_read_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """root may read every file, so the reading function itself raises the error here."""
    read = Path.read_text

    def refused(self: Path, *args: Any, **more: Any) -> str:
        if self == run.path / "config.json":
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", refused)
    os.utime(run.path / "config.json")  # Without a new time stamp the cached run would be used.
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        open_run(ID)
    assert "config.json" in lists_go_on(capsys)


def test_a_damaged_run_can_be_resumed_or_removed(run: Run) -> None:
    (run.path / "status.json").write_text('{"state": "done", "epoch": "many"}')
    assert run.status()["state"] == "failed"
    run.set_status(state="queued")
    assert run.status()["state"] == "queued" and run.status()["epoch"] == 0
    (run.path / "config.json").write_bytes(b"\xff")
    with contextlib.redirect_stdout(None):
        assert cli.main(["remove", ID]) == 0
    assert not run.path.exists()
