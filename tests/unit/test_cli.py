"""Tests the command line: what each command that is about a run answers, and the message for a
wrong command.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from robustviz import __version__, cli
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

ID = "digits-standard-small-cnn-s0-59e86c72"
FAST = ["--attack", "fgsm", "--n", "8"]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], runs_home: Path) -> Any:
    """Returns a function that runs a command with --json and returns its answer."""

    def ask(*words: str) -> Any:
        assert cli.main([*words, "--json"]) == 0
        out = capsys.readouterr().out
        # Standard output has one line only; progress goes to standard error.
        assert out.count("\n") == 1
        return json.loads(out)

    return ask


def whose(value: Any) -> tuple[str, str]:
    return value["id"], value["path"]


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"robustviz {__version__}\n" == "robustviz 0.1.0\n"


@pytest.mark.long
def test_every_answer_about_a_shipped_run_has_its_id_and_path(answer: Any, tmp_path: Path) -> None:
    run = folder.open_run(ID)
    mine, out = (run.id, str(run.path)), str(tmp_path / "x.npz")
    assert mine in map(whose, answer("list", "runs"))
    assert whose(answer("evaluate", ID, *FAST)) == mine
    assert whose(answer("probe", ID, "adversarial", "--out", out)) == mine
    for table in ((), ("--ladder",), ("--against", ID)):
        assert {whose(row) for row in answer("report", ID, *table)} == {mine}


def test_a_difference_names_the_other_run(answer: Any) -> None:
    base = folder.open_run("digits-pgd-at-small-resnet-s0-0c56e5c2")
    rows = answer("report", ID, "--against", base.id)
    against = [row["against"] for row in rows if row["against"]]
    assert against and {whose(each) for each in against} == {(base.id, str(base.path))}


@pytest.mark.long
@pytest.mark.usefixtures("small_splits")
def test_every_answer_about_a_run_of_the_user_s_has_its_id_and_path(
    answer: Any, runs_home: Path, tiny: TrainConfig
) -> None:
    sets = ["--data", "digits", "--method", "fgsm_rs", "--net", "blink", "--epochs", "1"]
    mine = ("one", str(runs_home / "one"))
    trained = answer("train", *sets, "--set", "n_train=64", "--name", "one", "--device", "cpu")
    assert whose(trained) == mine and trained["run"] == mine[1]
    assert whose(answer("resume", "one")) == mine
    run = folder.create(tiny, name="two")
    run.set_status(state="queued", queued=1.0)
    assert whose(answer("stop", "two")) == ("two", str(run.path))
    removed = answer("remove", "two")
    assert whose(removed) == ("two", str(run.path)) and removed["removed"] == "two"
    assert not run.path.exists()


def test_a_damaged_run_is_listed_by_id_and_path_and_can_be_removed(
    answer: Any, runs_home: Path
) -> None:
    (runs_home / "broken").mkdir(parents=True)
    (runs_home / "broken" / "config.json").write_text("{")
    row = next(row for row in answer("list", "runs") if row["id"] == "broken")
    assert whose(row) == ("broken", str(runs_home / "broken")) and row["state"] == "damaged"
    assert whose(answer("remove", "broken")) == ("broken", str(runs_home / "broken"))


@pytest.mark.parametrize("run_id", ["shapes-pgd-at-small-resnet-s0-c614e055"])
def test_several_attacks_on_fewer_images_stand_beside_one_attack_on_these(
    answer: Any, run_id: str
) -> None:
    """On 200 images this network is right more often under five attacks than on 1,000 under one."""
    row = next(row for row in answer("list", "runs") if row["id"] == run_id)
    assert row["note"] == (
        "clean 0.992, PGD-20 0.883 at eps 0.0157 (n=1000); on another set of 200 images:"
        " PGD-20 0.930, 0.930 under all 4 attacks together"
    )


def test_a_run_measured_only_at_another_radius_is_listed_with_that(
    answer: Any, runs_home: Path
) -> None:
    place = runs_home / "mine"
    shutil.copytree(folder.open_run(ID).path, place)
    path = place / "eval.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["evaluations"] = [one | {"eps": 0.1} for one in said["evaluations"][:1]]
    path.write_text(json.dumps(said), encoding="utf-8")
    row = next(row for row in answer("list", "runs") if row["id"] == "mine")
    assert " at eps 0.1000 (n=" in row["note"] and "clean_acc" not in row


def test_a_run_whose_method_was_removed_is_told_what_to_restore(runs_home: Path) -> None:
    place = runs_home / "mine"
    shutil.copytree(folder.open_run(ID).path, place)
    path = place / "config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["method"] = {"key": "gone"}
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(UserError, match=r"no method called 'gone'.* restore the file, or remove"):
        _ = folder.open_run(place).config


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["train", "--set", "beta"],
            "PATH=VALUE is meant, for example method.beta=6; 'beta' is not",
        ),
        (["train", "--eps", "much"], "Argument --eps: invalid number value: 'much'"),
        (["trian"], "Argument COMMAND: invalid choice: 'trian'"),
        (["list", "wishes"], "Argument what: invalid choice: 'wishes'"),
        (["evaluate", ID, "--set", "nix=1"], "The attack pgd has no setting called nix"),
        (["evaluate", ID, "--attack", "ladder", "--steps", "3"], "leave out --steps, --restarts"),
        (["report", "--overlap", "--ladder"], "--overlap is a table of its own"),
        (["report", "--against", ID, "--ladder"], "does not go with --ladder"),
        (["probe", ID, "answers", "--out", "x.csv"], "gives no table"),
        (["probe", ID, "nix"], "There is no probe called 'nix'"),
        (["list", "nets", "small_cnn"], "`list nets` takes no name"),
        (["list", "methods", "tradez"], "Did you mean trades?"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    words: list[str], sentence: str, runs_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"robustviz: [^\n]+\n", err) and sentence in err
