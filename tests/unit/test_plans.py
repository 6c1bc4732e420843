"""Tests the stored plan of a sweep: other processes can follow the sweep and stop it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustviz import cli
from robustviz.runs import folder, plans, queue, sweeps
from robustviz.runs.sweeps import Now
from robustviz.training.config import TrainConfig
from robustviz.types import UserError


def now(seconds: float = 90.0) -> Now:
    return Now(0, 2, folder.Run(Path("/nowhere/one")), seconds)


def test_a_sweep_is_seen_while_it_is_fed_and_rests_after(runs_home: Path) -> None:
    plans.keep_plan("mine", ["b", "a"])
    (plan,) = plans.every()
    assert (plan.name, plan.runs, plan.going, plan.seconds) == ("mine", ("a", "b"), False, None)
    heard: list[Now] = []
    with plans.fed("mine", heard.append) as tell:
        tell(now())
        (plan,) = plans.every()
        assert plan.going and plan.seconds == 90 and len(heard) == 1
    (plan,) = plans.every()
    assert not plan.going and plan.seconds is None


def test_a_sweep_that_was_killed_counts_as_resting(runs_home: Path) -> None:
    plans.keep_plan("mine", ["a"])
    (runs_home / ".sweeps" / "mine.now").write_text(
        '{"pid": 999999999, "started": 1, "seconds": 5}'
    )
    assert not plans.every()[0].going
    (runs_home / ".sweeps" / "mine.now").write_text("{")  # The file was only half written.
    assert not plans.every()[0].going


def test_a_sweep_that_is_fed_comes_first(runs_home: Path) -> None:
    for name in ("a", "b", "c"):
        plans.keep_plan(name, [name])
    with plans.fed("a", lambda now: None) as tell:
        tell(now())
        assert plans.every()[0].name == "a"
    assert len(plans.every()) == 3


def test_who_asks_ends_the_sweep_and_its_runs_stop_but_no_others(
    runs_home: Path, tiny: TrainConfig
) -> None:
    run = folder.create(tiny)
    other = folder.create(tiny, name="other")
    plans.keep_plan("mine", [run.id, "not-there-yet"])

    def feed() -> None:
        with plans.fed("mine", lambda now: None) as tell:
            tell(now())
            plans.stop(plans.every()[0])
            assert run.status()["state"] == "stopped"
            run.set_status(state="queued")  # Another run has started meanwhile.
            tell(now())

    with pytest.raises(plans.Stopped):
        feed()
    assert run.status()["state"] == "stopped" and other.status()["state"] == "queued"
    with plans.fed("mine", lambda now: None) as tell:  # The same command again.
        tell(now())
    assert run.status()["state"] == "stopped"


def test_the_command_says_who_ended_it_and_how_to_go_on(
    runs_home: Path, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(queue, "submit", folder.create)  # The runs stay queued for ever.
    monkeypatch.setattr(queue, "pump", lambda: [])
    monkeypatch.setattr(sweeps.time, "sleep", lambda seconds: plans.stop(plans.every()[0]))
    # The request to stop comes between two checks, while the run is still queued.
    monkeypatch.setattr(plans, "_ask", lambda plan: None)
    assert cli.main(["sweep", "--data=digits", "--methods=standard", "--name=mine"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "The sweep mine was stopped from the Train page. The same command" in err
    assert "Traceback" not in err and not plans.every()[0].going


def test_a_wish_of_yesterday_ends_nothing_today(runs_home: Path) -> None:
    plans.keep_plan("mine", ["a"])
    wish, told = runs_home / ".sweeps" / "mine.stop", []
    wish.write_bytes(b"")
    with plans.fed("mine", told.append) as tell:
        assert not wish.exists()
        tell(now())
    assert len(told) == 1


@pytest.mark.parametrize("text", ["{", '{"runs": 3}', '{"runs": ["../../etc"]}', '{"runs": [1]}'])
def test_a_damaged_list_is_one_sentence_and_hides_no_other(runs_home: Path, text: str) -> None:
    plans.keep_plan("good", ["a"])
    (runs_home / ".sweeps" / "bad.json").write_text(text)
    found = {plan.name: plan for plan in plans.every()}
    assert "damaged: remove" in found["bad"].wrong and not found["bad"].runs
    assert found["good"].runs == ("a",) and not found["good"].wrong
    if text == "{":
        with pytest.raises(UserError, match="is damaged: remove it"):
            plans.keep_plan("bad", ["a"])
