"""Tests `tidy`, which lists and removes only what can be computed again, and `prepare`, which
computes what pages need first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from robustviz import cli, probes
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from robustviz.ui import cache
from robustviz.views import pack
from robustviz.views.attack.result import AccuracyCurveSpec, AttackLevelsSpec
from tests.pages.conftest import ordinary

DEAD = 2**22 + 7  # No process has this id.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Creates a user's folder of runs: a run with answers for its own and for other weights, cached
    answers and evaluations of a shipped network, temporary files of killed writes, a damaged
    folder, and links.
    """
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    shipped, mine = ordinary("digits", "standard"), tmp_path / "runs" / "mine"
    shutil.copytree(shipped.path, mine, ignore=shutil.ignore_patterns("probes"))
    probes.accuracy_curve(folder.open_run("mine"), AccuracyCurveSpec(n=5, steps=1))
    old = probes.accuracy_curve(folder.open_run("mine"), AccuracyCurveSpec(n=6, steps=1))
    old.meta["weights"] = "others"
    (mine / "probes" / "old.npz").write_bytes(old.to_npz())
    (mine / "probes" / "damaged.npz").write_bytes(b"PK")
    kept = tmp_path / "runs" / ".zoo-cache" / shipped.id
    probes.accuracy_curve(shipped, AccuracyCurveSpec(n=7, steps=1))
    (kept / "eval.json").write_text('{"evaluations": []}')
    for place in (mine, mine / "state", kept):
        place.mkdir(exist_ok=True)
        for pid in (DEAD, os.getpid()):
            (place / f".status.json.{pid}-5.tmp").write_text("half")
            os.utime(place / f".status.json.{pid}-5.tmp", (time.time() - 3600,) * 2)
        (place / f".new.json.{DEAD}-5.tmp").write_text("a moment ago")
    outside = tmp_path / "outside" / "probes"
    outside.mkdir(parents=True)
    (outside / "precious.npz").write_bytes(b"precious")
    (tmp_path / "runs" / ".zoo-cache" / "linked").symlink_to(outside.parent)
    (mine / "state" / "link").symlink_to(outside)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"seed": "x"}')
    return tmp_path


def files(home: Path) -> dict[str, str]:
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }


def told(capsys: pytest.CaptureFixture[str], *given: str) -> dict:  # type: ignore[type-arg]
    assert cli.main(["tidy", *given, "--json"]) == 0
    found: dict = json.loads(capsys.readouterr().out)  # type: ignore[type-arg]
    return found


@pytest.mark.long
def test_it_lists_first_and_then_removes_what_can_be_computed_again_and_nothing_else(home, capsys):
    before = files(home)
    found = told(capsys)
    assert files(home) == before and not found["removed"]
    gone = {str(Path(each["path"]).relative_to(home)) for each in found["files"]}
    assert found == told(capsys, "--yes") | {"removed": False}
    shipped = f"runs/.zoo-cache/{ordinary('digits', 'standard').id}"
    assert (
        gone
        == set(before) - set(files(home))
        == {
            "runs/mine/probes/old.npz",
            "runs/mine/probes/damaged.npz",
            f"runs/mine/.status.json.{DEAD}-5.tmp",
            f"runs/mine/state/.status.json.{DEAD}-5.tmp",
            f"{shipped}/.status.json.{DEAD}-5.tmp",
            *(name for name in before if name.startswith(f"{shipped}/probes/")),
        }
    )
    assert {name: before[name] for name in files(home)} == files(home)
    assert cache.kept("mine", AccuracyCurveSpec(n=5, steps=1)) is not None
    assert told(capsys)["files"] == [] and told(capsys)["bytes"] == 0


@pytest.mark.long
def test_a_damaged_run_is_listed_with_the_reason_and_what_removes_it(home, capsys):
    (one,) = told(capsys, "--yes")["damaged"]
    assert (home / "runs" / "broken").exists()
    assert one["id"] == "broken" and one["command"].endswith("remove broken") and one["reason"]
    assert cli.main(one["command"].split()[3:]) == 0
    capsys.readouterr()
    assert told(capsys)["damaged"] == []


@pytest.mark.long
def test_only_what_is_old_or_too_much(home, capsys):
    ages = {each["path"]: index for index, each in enumerate(told(capsys)["files"])}
    for path, index in ages.items():
        os.utime(path, (time.time() - 86_400 * (10 - index) - 60,) * 2)
    assert len(told(capsys, "--older", "8")["files"]) == 3
    every = told(capsys)
    most = (every["bytes"] - every["files"][0]["bytes"]) / 1e9
    assert [each["path"] for each in told(capsys, "--most", str(most))["files"]] == [
        every["files"][0]["path"]
    ]
    assert told(capsys, "--most", "1")["files"] == []
    assert len(told(capsys, "--most", "0")["files"]) == len(ages)
    assert cli.main(["tidy", "--older", "-1"]) == 2


@pytest.mark.long
def test_in_words(home, capsys):
    assert cli.main(["tidy"]) == 0
    said = capsys.readouterr().out
    assert "1 × a cached result for a shipped network" in said and "add --yes" in said
    assert "python -m robustviz remove broken" in said
    assert cli.main(["tidy", "--yes"]) == 0 and "Removed: " in capsys.readouterr().out


def test_an_empty_home_needs_no_tidying(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "nothing"))
    assert told(capsys) == {
        "removed": False,
        "bytes": 0,
        "files": [],
        "not_removed": [],
        "damaged": [],
    }
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_lesson_is_measured_once_and_kept_for_everybody(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pack, "FOLDER", tmp_path / "no-pack")
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    links = ["http://localhost:1/x/attack?img=3&data=digits&eps=8", "soft-labels?img=3&data=digits"]
    assert cli.main(["prepare", *links, "glossary", "http://10.0.0.1:2/", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["measured"] * 6
    assert {row["probe"] for row in rows} == {"attack_levels", "answers", "worst_direction"}
    assert {row["settings"].get("index", 3) for row in rows} == {3}
    cache.ANSWERS.clear()  # As if another process asked.
    assert cli.main(["prepare", *links, "--json"]) == 0
    assert {row["state"] for row in json.loads(capsys.readouterr().out)} == {"kept"}


def test_what_an_address_names_is_taken_up_and_what_is_not_measured_is_said(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    run = ordinary("digits", "standard").id
    assert cli.main(["prepare", f"soft-labels?a={run}&b=&img=1&steps=3", "--json"]) == 0
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert (row["run"], row["settings"]["index"]) == (run, 1)
    assert "ignored: steps" in said.err
    for wrong in ("atack", "attack?a=nobody", "attack?data=nothing", "attack?img=99999"):
        assert cli.main(["prepare", wrong]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "unexpected" not in said


def test_preparing_a_page_of_an_absent_network_says_what_trains_it(capsys):
    absent = TrainConfig.make(None, {"data": "digits", "method": "trades", "seed": 41}).run_id
    assert cli.main(["prepare", f"attack?a={absent}"]) == 2
    train = "`python -m robustviz train --data digits --method trades --seed 41` trains it"
    assert f"{absent} is not here yet: {train}" in capsys.readouterr().err


@pytest.mark.long
def test_a_prepared_answer_is_the_one_that_a_page_asks_for(tmp_path, monkeypatch, capsys):
    """The page finds it, also for an answer that is usually not saved on disk."""
    monkeypatch.setattr(pack, "FOLDER", tmp_path / "no-pack")
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    run = ordinary("digits", "standard").id
    cache.ANSWERS.clear()
    assert not AttackLevelsSpec().cacheable
    assert cli.main(["prepare", f"attack?a={run}&b=&img=7", "--json"]) == 0
    names = sorted(path.name.rpartition("-")[0] for path in tmp_path.rglob("probes/*.npz"))
    assert names == ["answers", "attack-levels"], capsys.readouterr()
