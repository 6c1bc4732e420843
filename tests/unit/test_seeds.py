"""Tests `report --seeds`: networks that differ only in their seed form one row with its own
interval, and any other difference makes another row.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustviz import cli, registry
from robustviz.attacks import CW, PGD
from robustviz.cli import seeds
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.training.config import TrainConfig
from robustviz.training.evaluation import Evaluation, pack
from robustviz.types import UserError

ATTACKS = {"PGD-20": PGD(steps=20), "CW-100": CW(steps=100)}
N = 100


@pytest.fixture(autouse=True)
def _alone(runs_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides everything shipped."""
    monkeypatch.setattr(folder, "zoo", lambda: tmp_path / "zoo")
    monkeypatch.setattr(seeds, "FOLDER", tmp_path / "seeds")


@pytest.fixture
def table(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns a function that returns the rows of the table as JSON."""

    def ask(*words: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert cli.main(["report", "--seeds", "--json", *words]) == 0
        out: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return out

    return ask


def measured(
    config: TrainConfig,
    attack: str = "PGD-20",
    robust: range = range(50),
    *,
    clean: int = 90,
    images: str = "test-100",
    n: int = N,
    **changes: Any,
) -> Evaluation:
    """Returns an evaluation in which the images `robust` are right under attack and the first
    `clean` images are right without one.
    """
    right = np.isin(np.arange(n), robust)
    bound = ATTACKS[attack].bound(float(config.eps or 0))
    return Evaluation(
        attack=registry.encode(bound) | changes.pop("settings", {}),
        **{"eps": float(config.eps or 0), "seed": 0, "split": "test"} | changes,  # type: ignore[arg-type]
        n=n,
        clean_k=clean,
        robust_k=len(robust),
        seconds=1.0,
        device="cpu",
        clean_right=pack(np.arange(n) < clean),
        robust_right=pack(right),
        images=images,
    )


def run_with(config: TrainConfig, *evaluations: Evaluation, name: str | None = None) -> Run:
    run = folder.create(config, name=name)
    for each in evaluations:
        run.add_evaluation(each)
    return run


def test_mean_deviation_and_interval_over_three_seeds(
    tiny: TrainConfig, table: Any, capsys: Any
) -> None:
    """For 0.80, 0.82 and 0.84 the standard deviation is 0.02, and t(2) = 4.302653 gives ±
    0.049683.
    """
    made = []
    for seed, robust in enumerate((80, 82, 84)):
        config = dataclasses.replace(tiny, seed=seed)
        made.append(run_with(config, measured(config, robust=range(robust), clean=90 + seed)))
    (row,) = table()
    assert (row["data"], row["method"], row["net"], row["eps"]) == (
        "digits",
        "fgsm_rs",
        "blink",
        0.15,
    )
    assert row["seeds"] == [0, 1, 2] and row["n"] == N
    assert row["PGD-20"] == pytest.approx(
        {"seeds": 3, "mean": 0.82, "sd": 0.02, "low": 0.770317, "high": 0.869683}, abs=1e-6
    )
    assert row["clean"]["mean"] == pytest.approx(0.91) and "CW-100" not in row
    assert row["runs"] == [{"id": run.id, "path": str(run.path)} for run in made]
    assert cli.main(["report", "--seeds"]) == 0
    printed = capsys.readouterr().out
    assert "0.820 ± 0.020 [0.770, 0.870]" in printed and "n_train=64" in printed
    assert "says nothing about its method" not in printed


def test_no_interval_of_an_accuracy_leaves_what_an_accuracy_can_be(
    tiny: TrainConfig, table: Any, capsys: Any
) -> None:
    """For 0.50 and 0.60 the standard error is 0.05, and t(1) = 12.706 gives ± 0.635."""
    for seed, robust in enumerate((50, 60)):
        config = dataclasses.replace(tiny, seed=seed)
        run_with(config, measured(config, robust=range(robust)))
    (row,) = table()
    assert (row["PGD-20"]["low"], row["PGD-20"]["high"]) == (0, 1)
    assert cli.main(["report", "--seeds"]) == 0
    assert "0.550 ± 0.071 [0.000, 1.000]" in capsys.readouterr().out


def test_of_one_seed_there_is_no_interval_and_that_is_said(
    tiny: TrainConfig, table: Any, capsys: Any
) -> None:
    run_with(tiny, measured(tiny))
    (row,) = table()
    assert row["PGD-20"] == {"seeds": 1, "mean": 0.5, "sd": None, "low": None, "high": None}
    cli.main(["report", "--seeds"])
    assert "| 0.500 |" in (out := capsys.readouterr().out) and seeds.ONE in out


def test_both_counts_what_withstood_each_attack(tiny: TrainConfig, table: Any) -> None:
    for seed, (pgd, cw) in enumerate([(range(50), range(10, 60)), (range(60), range(20, 60))]):
        config = dataclasses.replace(tiny, seed=seed)
        run_with(config, measured(config, robust=pgd), measured(config, "CW-100", cw))
    (row,) = table()
    assert row["PGD-20"]["mean"] == pytest.approx(0.55)
    assert row["CW-100"]["mean"] == pytest.approx(0.45)
    assert row["both"]["mean"] == pytest.approx(0.40) and row["both"]["seeds"] == 2


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"eps": 0.1}, "eps"),
        ({"net": "small_cnn"}, "net"),
        ({"method": "standard"}, "method"),
        ({"epochs": 5}, "settings_text"),
        ({"lr": 0.05}, "settings_text"),
        ({"ema": 0.9}, "settings_text"),
    ],
)
def test_settings_are_never_mixed(
    change: dict[str, Any], column: str, tiny: TrainConfig, table: Any
) -> None:
    other = dataclasses.replace(tiny, seed=1, **change)
    for config in (tiny, other):
        run_with(config, measured(config))
    rows = table()
    assert [row["seeds"] for row in rows] in ([[0], [1]], [[1], [0]])
    assert rows[0][column] != rows[1][column]


def test_what_no_weight_depends_on_makes_no_other_row(tiny: TrainConfig, table: Any) -> None:
    other = dataclasses.replace(tiny, seed=1, snapshots=2, threads=3)
    for config in (tiny, other):
        run_with(config, measured(config))
    (row,) = table()
    assert row["seeds"] == [0, 1] and "snapshots" not in row["settings_text"]


def test_a_network_that_is_known_twice_counts_once(tiny: TrainConfig, table: Any) -> None:
    run_with(tiny, measured(tiny))
    run_with(tiny, measured(tiny), name="once-more")
    (row,) = table()
    assert row["seeds"] == [0] and len(row["runs"]) == 2


def test_the_seeds_of_a_row_met_the_same_images(tiny: TrainConfig, table: Any) -> None:
    """The images with most seeds are used, and among equals those with the larger n."""
    for seed in (0, 1, 2):
        config = dataclasses.replace(tiny, seed=seed)
        every = [measured(config, robust=range(40), n=50, images="test-50", clean=45)]
        every += [measured(config, robust=range(60))] * (seed < 2)
        run_with(config, *every)
    (row,) = table()
    assert row["seeds"] == [0, 1, 2] and row["n"] == 50
    assert row["PGD-20"]["mean"] == pytest.approx(0.8)
    folder.remove(folder.open_run(config.run_id))
    (row,) = table()
    assert row["seeds"] == [0, 1] and row["n"] == 100
    assert row["PGD-20"]["mean"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 0.2},
        {"seed": 1},
        {"split": "val"},
        {"settings": {"steps": 10}},
        {"settings": {"restarts": 5}},
    ],
)
def test_other_evaluations_do_not_count(
    change: dict[str, Any], tiny: TrainConfig, table: Any
) -> None:
    run_with(tiny, measured(tiny, **change))
    assert table() == []


def test_evaluations_without_weights_are_read_beside_the_runs(
    tiny: TrainConfig, table: Any, capsys: Any
) -> None:
    both = [measured(tiny), measured(tiny, "CW-100")]
    run = run_with(tiny, *both)
    run.set_status(state="done", seconds=12.5)
    seeds.write(run)
    folder.remove(run)
    other = dataclasses.replace(tiny, seed=1)
    run_with(other, measured(other))
    file = seeds.file_of(tiny.run_id)
    kept = json.loads(file.read_bytes())
    assert set(kept) == {"config", "evaluations", "seconds", "versions"} and kept["seconds"] == 12.5
    assert file.stat().st_size < 8_000 and kept["versions"]["torch"]
    seen = seeds.read(file)
    assert seen.config == tiny and [each.printed for each in seen.evaluations] == list(ATTACKS)
    (row,) = table()
    assert row["seeds"] == [0, 1] and row["runs"][0] == {"id": tiny.run_id, "path": str(file)}
    assert row["PGD-20"]["seeds"] == 2 and row["CW-100"]["seeds"] == 1
    capsys.readouterr()
    cli.main(["report", "--seeds"])
    assert "(1 of 2 seeds)" in capsys.readouterr().out
    assert table(other.run_id)[0]["seeds"] == [1]  # Only the named runs are included.


def test_a_run_that_was_not_measured_so_is_not_written(tiny: TrainConfig) -> None:
    run = run_with(tiny, measured(tiny))
    with pytest.raises(UserError, match="was not measured under PGD-20 and CW-100"):
        seeds.write(run)
    assert not seeds.file_of(run.id).exists()


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"config": 3, "evaluations": []}', '{"evaluations": 3}']
)
def test_a_damaged_file_is_said_and_the_rest_is_shown(
    content: str, tiny: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(tiny, measured(tiny))
    seeds.FOLDER.mkdir()
    (seeds.FOLDER / "broken.json").write_text(content)
    assert cli.main(["report", "--seeds", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 1 and err.count("\n") == 1 and "broken.json is damaged" in err


def test_without_any_evaluation_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--seeds"]) == 0
    assert "No evaluations yet" in capsys.readouterr().out
    assert cli.main(["report", "--seeds", "--ladder"]) == 2
    assert "--seeds is a table of its own" in capsys.readouterr().err


def test_seeds_of_another_code_are_left_out_and_named(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run whose plug-in has changed since is no seed of the method that the plug-in is now."""
    old = run_with(tiny, measured(tiny))
    run_with(dataclasses.replace(tiny, seed=1), measured(tiny))
    monkeypatch.setattr(
        "robustviz.plugins.changed", lambda asked: "mine.py has changed." if asked else ""
    )
    known = json.loads((old.path / "config.json").read_text())
    known["plugins"] = [{"source": "mine.py", "sha256": "0" * 64}]
    (old.path / "config.json").write_text(json.dumps(known))
    assert cli.main(["report", "--seeds", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [row["seeds"] for row in json.loads(out)] == [[1]]
    assert f"{old.id} is left out: mine.py has changed." in err
