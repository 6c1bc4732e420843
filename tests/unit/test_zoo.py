"""What is shipped: whole, small, what the settings of today would make, and what the README says of it."""

from __future__ import annotations

import pytest

from robustviz import runs, zoo
from robustviz.evaluate import evaluate
from robustviz.runs import REPOSITORY, Run
from robustviz.story import FOLDER

SHIPPED = [runs.zoo() / config.run_id for config in zoo.wanted()]


def test_the_zoo_holds_what_todays_settings_name_and_nothing_else() -> None:
    assert sorted(path.name for path in runs.zoo().iterdir()) == sorted(path.name for path in SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_run_has_config_metrics_evaluation_and_weights(path) -> None:
    run = Run(path)
    assert run.shipped and run.config.run_id == run.id
    assert len(run.records()) == run.config.epochs
    found = run.evaluation()
    assert found is not None and found.ok and found.n in (360, 1000)
    assert sum(parameter.numel() for parameter in run.net().parameters()) < 300_000


def test_what_is_shipped_stays_small() -> None:
    size = sum(path.stat().st_size for folder in (runs.zoo(), FOLDER) for path in folder.rglob("*") if path.is_file())
    assert size < 25_000_000


def test_the_defended_networks_hold_and_the_ordinary_ones_do_not() -> None:
    for data, gap in (("digits", 0.52), ("shapes", 0.30)):
        robust = {run.method_key: run.evaluation().robust_acc for run in map(Run, SHIPPED) if run.data_key == data}
        assert robust["standard"] <= 0.30
        assert min(robust["pgd_at"], robust["trades"]) >= robust["standard"] + gap


def test_the_readmes_table_is_the_report(capsys) -> None:
    from robustviz.cli import main

    assert main(["report", *sorted(path.name for path in SHIPPED)]) == 0
    assert capsys.readouterr().out.strip() in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_evaluation_is_found_again(path, runs_home) -> None:
    """Within three images: another processor rounds differently."""
    run = Run(path)
    told, found = run.evaluation(), evaluate(run, device="cpu")
    assert abs(told.clean_k - found.clean_k) <= 3 and abs(told.robust_k - found.robust_k) <= 3
