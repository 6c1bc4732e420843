"""What is shipped: whole, small, what the settings of today would make, and what the README says of
it.
"""

from __future__ import annotations

import functools
import re

import pytest

from robustviz import registry, zoo
from robustviz.runs import folder as runs
from robustviz.runs.folder import REPOSITORY, Run
from robustviz.training.evaluate import LADDER, evaluate
from robustviz.training.ladder import Ladder, ladders
from robustviz.views.start.pack import FOLDER

SHIPPED = [runs.zoo() / config.run_id for config in zoo.wanted()]
# may have next to no robustness, and say so
WEAK = ("standard", "fgsm_at", "supcon_margin", "model_alignment")
runs_of = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)


@functools.cache
def ladder_of(run: Run) -> Ladder:
    found = [
        one
        for one in ladders(run.evaluations())
        if one.eps == run.eps and one.n == zoo.LADDER[run.data_key]
    ]
    assert len(found) == 1, f"{run.id} has no ladder on {zoo.LADDER[run.data_key]} images"
    return found[0]


def test_the_zoo_holds_what_todays_settings_name_and_nothing_else() -> None:
    assert sorted(path.name for path in runs.zoo().iterdir()) == sorted(
        path.name for path in SHIPPED
    )


def test_every_method_is_shipped_on_digits_and_on_shapes() -> None:
    for data in zoo.DATA:
        assert {run.method_key for run in map(Run, SHIPPED) if run.data_key == data} == set(
            registry.keys("method")
        )


@runs_of
def test_a_shipped_run_has_config_metrics_evaluation_and_weights(path) -> None:
    run = Run(path)
    assert run.shipped and run.config.run_id == run.id
    assert len(run.records()) == run.config.epochs
    found = run.evaluation()
    assert found is not None and found.n in (360, 1000)
    assert sum(parameter.numel() for parameter in run.net().parameters()) < 300_000
    for epoch in (
        range(run.config.snapshots, int(run.config.epochs or 0) + 1, run.config.snapshots)
        if run.config.snapshots
        else ()
    ):
        run.net(epoch)


@runs_of
def test_a_shipped_ladder_is_whole_and_ordered(path) -> None:
    found = ladder_of(Run(path))
    assert [rung.attack["key"] for rung in found.rungs] == [attack.key for attack in LADDER]
    assert found.rungs[-1].printed == "AutoAttack" and found.n == zoo.LADDER[Run(path).data_key]
    assert found.ordered and [rung.rung for rung in found.rungs] == [1, 2, 3, 4]
    assert [rung.cumulative_k for rung in found.rungs] == sorted(
        (rung.cumulative_k for rung in found.rungs), reverse=True
    )


def test_what_is_shipped_stays_small() -> None:
    size = sum(
        path.stat().st_size
        for folder in (runs.zoo(), FOLDER)
        for path in folder.rglob("*")
        if path.is_file()
    )
    assert size < 25_000_000


def test_the_defended_networks_hold_and_the_ordinary_ones_do_not() -> None:
    for data, gap in (("digits", 0.52), ("shapes", 0.30)):
        kept = [run for run in map(Run, SHIPPED) if run.data_key == data]
        ordinary = max(run.evaluation().robust_acc for run in kept if run.method_key == "standard")
        assert ordinary <= 0.30
        for run in kept:
            if run.method_key not in WEAK:
                assert run.evaluation().robust_acc >= ordinary + gap, run.id


@pytest.mark.parametrize("method", [key for key in registry.keys("method") if key not in WEAK])
def test_a_defence_keeps_78_percent_of_the_digits(method) -> None:
    run = next(
        run for run in map(Run, SHIPPED) if run.data_key == "digits" and run.method_key == method
    )
    assert run.evaluation().robust_acc >= 0.78 and run.evaluation().clean_acc >= 0.95


def test_the_readmes_table_is_the_report(capsys) -> None:
    from robustviz.cli import main

    assert main(["report", "--ladder", *(path.name for path in SHIPPED)]) == 0
    assert capsys.readouterr().out.strip() in (REPOSITORY / "README.md").read_text(encoding="utf-8")


BY_AUTOATTACK = (
    "digits-standard-small-resnet-s0",
    "digits-pgd-at-small-resnet-s0",
    "shapes-standard-small-cnn-s0",
    "shapes-pgd-at-small-resnet-s0",
)


@pytest.mark.slow
@runs_of
def test_every_shipped_evaluation_is_found_again(path, runs_home) -> None:
    """Within three images: another processor rounds differently. AutoAttack takes minutes, so four
    networks stand for all.
    """
    run = Run(path)
    for told in run.evaluations():
        if told.attack["key"] == "autoattack" and not run.id.startswith(BY_AUTOATTACK):
            continue
        attack = registry.decode("attack", told.attack)
        found = evaluate(run, attack, eps=told.eps, n=told.n, seed=told.seed, device="cpu")
        apart = (abs(told.clean_k - found.clean_k), abs(told.robust_k - found.robust_k))
        assert max(apart) <= 3, (
            f"{told.printed}: {told.robust_k} then, {found.robust_k} now, of {told.n}"
        )


def numbers(cells: list[str]) -> list[float]:
    return [float(number) for cell in cells for number in re.findall(r"[0-9.]+", cell)]


@pytest.mark.slow
def test_the_readme_says_how_far_the_maps_lie_on_the_objects(capsys, runs_home):
    """To half a point: another processor rounds differently."""
    from robustviz.cli import main

    block = (
        (REPOSITORY / "README.md")
        .read_text(encoding="utf-8")
        .split("<!-- overlap -->")[1]
        .split("<!-- /overlap -->")[0]
    )
    said = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in block.strip().splitlines()[2:]
    ]
    assert main(["report", "--overlap", *(row[0] for row in said)]) == 0
    printed = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in capsys.readouterr().out.splitlines()[2 : 2 + len(said)]
    ]
    for row, told in zip(printed, said, strict=True):
        assert row[0] == told[0] and numbers([row[at] for at in (1, 2, 4, 5)]) == pytest.approx(
            numbers(told[1:]), abs=0.005
        )
