"""Tests sweeps: a grid becomes trainings, the cheapest first; finished runs are kept, killed runs
resume and reach the same weights, and errors are one sentence.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from robustviz import cli
from robustviz.cli import sweep
from robustviz.runs import cluster, folder, queue, sweeps, worker
from robustviz.runs.files import to_bytes, write_file
from robustviz.runs.folder import Run
from robustviz.runs.sweeps import Grid
from robustviz.training.config import TrainConfig
from robustviz.types import UserError
from tests.pages.conftest import ordinary

SMALL = {"net": "blink", "n_train": 64, "epochs": 1, "threads": 1, "device": "cpu"}


def ids(**given: Any) -> list[str]:
    return [config.run_id for config in Grid.make(given).configs()]


@pytest.fixture
def submitted(
    runs_home: Path, tiny: TrainConfig, small_splits: None, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Replaces the queue by one that trains in this process at once. Returns the ids of the
    submitted runs.
    """
    out: list[str] = []

    def submit(config: TrainConfig) -> Run:
        run = folder.create(config)
        out.append(run.id)
        worker.execute(run)
        return run

    monkeypatch.setattr(queue, "submit", submit)
    return out


def words(*more: str) -> list[str]:
    """Returns the command line of a sweep over two methods and two seeds."""
    small = [f"--set={name}={value}" for name, value in SMALL.items()]
    return ["sweep", "--data=digits", "--methods=standard,fgsm_rs", "--seeds=0,1", *small, *more]


# The grid.


def test_a_grid_names_every_combination_of_its_values(tiny: TrainConfig) -> None:
    found = ids(
        data=["digits", "shapes"], methods="trades", seeds=[0, 2], set={"eps": ["2/255", 0.1]}
    )
    by_hand = [
        TrainConfig.make(
            None, {"data": data, "method": "trades", "seed": seed}, [("eps", eps)]
        ).run_id
        for data in ("digits", "shapes")
        for seed in (0, 2)
        for eps in (2 / 255, 0.1)
    ]
    assert found == by_hand and len(set(found)) == 8


def test_what_is_left_out_is_the_preset_s_or_the_data_set_s(tiny: TrainConfig) -> None:
    assert ids() == [TrainConfig.make().run_id]
    assert ids(preset="shapes-part") == [TrainConfig.make("shapes-part").run_id]


@pytest.mark.parametrize(
    "table", ["method.beta = [1, 6]", '"method.beta" = [1, 6]', "[set.method]\nbeta = [1, 6]"]
)
def test_a_file_says_what_the_command_line_says(table: str, tmp_path: Path) -> None:
    file = tmp_path / "My-Sweep.toml"
    file.write_text(f'methods = "trades"\nseeds = [0, 1]\n[set]\neps = "2/255"\n{table}\n')
    args = cli.parser().parse_args(
        ["sweep", "--methods=trades", "--seeds=0,1", "--set=method.beta=1,6", "--set=eps=2/255"]
    )
    read, typed = Grid.read(file), Grid.make(sweep._typed(args))
    assert read.name == "my-sweep" and read.count == typed.count == 4
    assert [each.run_id for each in read.configs()] == [each.run_id for each in typed.configs()]


def test_the_documented_file_is_a_grid(tmp_path: Path) -> None:
    text = (folder.REPOSITORY / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (tmp_path / "x.toml").write_text(text.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    grid = Grid.read(tmp_path / "x.toml")
    assert grid.name == "budgets" and grid.count == len(grid.configs()) == 72
    assert grid.set["method.attack.steps"] == (7, 10)


def test_a_comma_within_brackets_parts_nothing() -> None:
    assert sweep._values("[0,1], 3,4/255") == ["[0,1]", "3", "4/255"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"dat": "digits"}, "no setting of a sweep called 'dat'. Did you mean data?"),
        ({"seeds": [0, 0]}, "Two points of this sweep give the same training, digits-pgd-at"),
        ({"set": {"eps": ["1/10", 0.1]}}, r"give the same training, .* \(eps=0.1\)"),
        ({"set": {"device": ["cpu", "auto"]}}, "give the same training"),
        ({"seeds": [0.5]}, "seeds=0.5 should be a whole number"),
        ({"seeds": []}, "seeds is an empty list, so this sweep has no points"),
        ({"nets": [True]}, "nets=True should be text"),
        ({"methods": ["pgd"]}, "Did you mean pgd_at?"),
        ({"data": ["nix"]}, "There is no data set called 'nix'"),
        ({"preset": "nix"}, "There is no preset called 'nix'"),
        ({"set": 3}, "set should be a table"),
        ({"set": {"nix": 1}}, "no setting of TrainConfig called 'nix'"),
        ({"set": {"method": {"beta": 1}}}, "no setting called 'method.beta'"),
        ({"set": {"eps": [8]}}, "so write 8/255"),
        ({"set": {"epochs": ["x"]}}, "epochs='x' should be a whole number"),
        ({"seeds": list(range(10_001))}, "10,001 points; at most 10,000 are allowed"),
    ],
)
def test_what_is_no_grid_is_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        Grid.make(given).configs()
    assert caught.value.code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--seeds=0,x"], "whole numbers are meant"),
        (["nowhere.toml"], "nowhere.toml cannot be read"),
        (["--name=No Name"], "'No Name' is no name"),
        (["--methods=standard,standard"], "give the same training"),
    ],
)
def test_wrong_usage_starts_nothing(
    more: list[str], sentence: str, submitted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(*more)) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"robustviz: [^\n]+\n", err) and sentence in err
    assert not submitted


def test_a_file_and_points_beside_it_are_refused(
    tmp_path: Path, submitted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text("seeds = 0")
    assert cli.main(["sweep", str(tmp_path / "a.toml"), "--seeds=1"]) == 2
    assert "leave out --seeds" in capsys.readouterr().err
    (tmp_path / "a.toml").write_text("seeds = [")
    assert cli.main(["sweep", str(tmp_path / "a.toml")]) == 2
    assert "no TOML" in capsys.readouterr().err and not submitted


# The name of a sweep.


@pytest.mark.long
def test_another_grid_under_the_same_name_is_refused(
    submitted: list[str], runs_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("--name=mine")) == 0
    plan = runs_home / ".sweeps" / "mine.json"
    assert json.loads(plan.read_bytes())["runs"] == sorted(submitted)
    before = plan.read_bytes()
    capsys.readouterr()
    assert cli.main(words("--name=mine", "--set=lr=0.3")) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "with other points: choose another --name" in err
    assert plan.read_bytes() == before and len(submitted) == 4
    plan.write_text("{")
    assert cli.main(words("--name=mine")) == 1
    assert "is damaged: remove it" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_s_id_names_the_same_points_whatever_their_order(
    submitted: list[str], runs_home: Path
) -> None:
    assert cli.main(words()) == cli.main(words("--seeds=1,0")) == 0
    assert len(list((runs_home / ".sweeps").iterdir())) == 1 and len(submitted) == 4


# Large grids.


def many(*more: str) -> list[str]:
    return ["sweep", "--seeds", ",".join(map(str, range(10_000))), *more]


def test_ten_thousand_points_are_asked_about(
    submitted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(many()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "10,000 points" in err and "--yes" in err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "n\n", raising=False)
    assert cli.main(many()) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Train them all? [y/N]" in err and "Nothing was started" in err
    assert not submitted


@pytest.mark.long
def test_many_points_are_trained_where_that_is_meant(
    submitted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "ASK", 3)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert cli.main(words()) == 2 and not submitted
    assert cli.main(words("--yes")) == 0 and len(submitted) == 4
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "y\n", raising=False)
    assert cli.main(words()) == 0


# The order of the trainings.


@pytest.mark.long
def test_the_cheapest_comes_first(submitted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "all_runs", list)  # No times have been measured yet.
    grid = {"methods": ["pgd_at", "fgsm_rs", "standard"], "set": SMALL | {"epochs": [2, 1]}}
    configs = Grid.make(grid).configs()
    assert sweeps.follow(configs) == {}
    cost = {
        config.run_id: config.epochs
        * {"standard": 1, "fgsm_rs": 2, "pgd_at": 11}[config.method.key]
        for config in configs
    }
    assert [cost[each] for each in submitted] == [1, 2, 2, 4, 11, 22]


def test_what_was_measured_counts_more_than_what_was_guessed(
    runs_home: Path, tiny: TrainConfig
) -> None:
    cheap, dear = Grid.make({"methods": ["standard", "trades"], "set": SMALL}).configs()
    for config, seconds in ((cheap, 100.0), (dear, 1.0)):
        run = folder.create(config, name=config.method.key.replace("_", "-"))
        run.set_status(state="done", seconds=seconds)
    found = sweeps.estimate([cheap, dear])
    assert found[cheap.run_id] == pytest.approx(100) and found[dear.run_id] == pytest.approx(1)
    (longer,) = Grid.make({"methods": "standard", "set": SMALL | {"epochs": 4}}).configs()
    assert sweeps.estimate([longer])[longer.run_id] == pytest.approx(400)
    folder.create(longer).set_status(state="interrupted", epoch=3)
    assert sweeps.estimate([longer])[longer.run_id] == pytest.approx(100)


def test_more_weights_images_and_steps_are_more_work(tiny: TrainConfig) -> None:
    def work(**sets: object) -> float:
        (config,) = Grid.make({"methods": "pgd_at", "set": SMALL | sets}).configs()
        return sweeps.work(config)

    base = work()
    assert work(n_train=128) == 2 * base and work(epochs=3) == 3 * base
    assert work(**{"attack.steps": 21}) == 2 * base
    assert work(net="wrn_34_10") > 3 * work(net="resnet18") > 100 * work(net="small_cnn") > base


@pytest.mark.long
def test_what_starts_from_another_point_comes_after_it(
    submitted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SMALL | {"net": "small_resnet"}
    (source,) = Grid.make({"methods": "standard", "set": small | {"epochs": 9}}).configs()
    aligned = TrainConfig.make(
        None, {"method": "model_alignment"}, [*small.items(), ("method.source", source.run_id)]
    )
    assert sweeps.work(aligned) < sweeps.work(source)  # It is cheaper, but must still come last.
    monkeypatch.setattr(
        sweeps, "estimate", lambda configs: {c.run_id: sweeps.work(c) for c in configs}
    )
    assert sweeps.follow([aligned, source]) == {} and submitted == [source.run_id, aligned.run_id]
    assert Run(folder.home() / aligned.run_id).status()["state"] == "done"


def test_a_cluster_gets_the_run_with_whose_weights_a_training_begins() -> None:
    start = ordinary("digits", "standard").id
    config = TrainConfig.make(None, {"data": "digits", "method": "pgd_at", "init": start}, [])
    for init in (start, f"{start}#abc"):
        assert cluster._sources(dataclasses.replace(config, init=init)) == [start]
    here = dataclasses.replace(config, init=f"{__file__}#abc")
    assert cluster._sources(here) == []


# Resuming.


@pytest.mark.long
def test_what_is_done_is_kept_and_the_rest_goes_on(
    submitted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("--seeds=1", "--json")) == 0
    done = {each: (folder.home() / each / "net.safetensors").read_bytes() for each in submitted}
    assert len(done) == 2
    capsys.readouterr()
    for state, run_id in zip(("paused", "interrupted"), ids_of(seeds=[0]), strict=True):
        folder.create(config_of(run_id)).set_status(state=state)
    assert cli.main(words("--json")) == 0
    out = capsys.readouterr().out
    rows = json.loads(out)
    assert out.count("\n") == 1 and {row["state"] for row in rows} == {"done"}
    assert [row["id"] for row in rows] == ids_of(seeds=[0, 1]) and len(set(submitted)) == 4
    for row in rows:
        assert row["path"] == str(folder.home() / row["id"])
        assert 0 <= row["robust_acc"] <= 1 and 0 <= row["clean_acc"] <= 1
    for each, weights in done.items():
        assert submitted.count(each) == 1
        assert (folder.home() / each / "net.safetensors").read_bytes() == weights


def configs_of(seeds: list[int]) -> list[TrainConfig]:
    given = {"data": "digits", "methods": ["standard", "fgsm_rs"], "seeds": seeds, "set": SMALL}
    return Grid.make(given).configs()


def ids_of(seeds: list[int]) -> list[str]:
    return [config.run_id for config in configs_of(seeds)]


def config_of(run_id: str) -> TrainConfig:
    return next(each for each in configs_of([0, 1]) if each.run_id == run_id)


@pytest.mark.long
def test_a_failed_point_is_told_at_the_end_and_stops_no_other(
    submitted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, refused = ids_of(seeds=[0])
    train = queue.submit

    def submit(config: TrainConfig) -> Run:
        if config.run_id == refused:
            raise UserError("The disk is full.")
        if config.run_id == bad:
            run = folder.create(config)
            run.set_status(state="failed", error="The loss is no number.")
            return run
        return train(config)

    monkeypatch.setattr(queue, "submit", submit)
    assert cli.main(words("--json")) == 1
    out, err = capsys.readouterr()
    rows = {row["id"]: row for row in json.loads(out)}
    assert sorted(submitted) == sorted(ids_of(seeds=[1]))
    assert {rows[each]["state"] for each in submitted} == {"done"}
    assert (rows[bad]["state"], rows[bad]["note"]) == ("failed", "The loss is no number.")
    assert rows[refused]["note"] == "The disk is full." and rows[refused]["robust_acc"] is None
    assert rows[refused]["state"] == "not begun"
    last = err.splitlines()[-1]
    assert last.startswith("robustviz: 2 of 4 are not done") and bad in last and refused in last


def test_ctrl_c_says_how_to_go_on_and_how_to_stop(
    runs_home: Path, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(queue, "submit", folder.create)  # The runs stay queued for ever.
    monkeypatch.setattr(sweeps.time, "sleep", interrupted)
    assert cli.main(words()) == 1
    out, err = capsys.readouterr()
    (queued,) = queue.waiting()
    assert out == "" and "sweep sweep-" in err and "0 of 4 over, about" in err
    assert f"the training {queued.id} continues" in err and f"robustviz stop {queued.id}" in err
    assert "The same command continues" in err


def test_the_bar_says_where_the_sweep_is(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = sweep.Bar("x")
    bar(sweeps.Now(1, 4, Run(Path("/nowhere/one")), 240.0))
    bar.end()
    err = capsys.readouterr().err
    assert "sweep x [#####---------------] 1 of 4 over, about 4 min left; one" in err


def test_an_old_run_is_known_again_though_a_setting_came_later(
    runs_home: Path, tiny: TrainConfig
) -> None:
    run = folder.create(tiny)
    settings = json.loads((run.path / "config.json").read_bytes())
    later = [name for name, value in settings["method"].items() if name not in ("key", "attack")]
    kept = {name: settings["method"][name] for name in settings["method"] if name not in later[-1:]}
    write_file(run.path / "config.json", to_bytes(settings | {"method": kept}))
    assert Run(run.path).config == tiny and folder.create(tiny).path == run.path


# A sweep of real processes, killed.

KILLED = [
    *("sweep", "--data=digits", "--methods=standard,fgsm_rs", "--seeds=0,1,2", "--name=six"),
    *("--set=net=small_cnn", "--set=n_train=64", "--set=epochs=1"),
    *("--set=threads=1", "--set=device=cpu", "--json"),
]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_sweep_ends_with_the_weights_of_one_that_was_not(
    runs_home: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "robustviz", *KILLED]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    worked = None
    end = time.monotonic() + 600
    while worked is None and time.monotonic() < end:
        time.sleep(0.05)
        over = [run for run in queue.mine() if run.status()["state"] == "done"]
        worked = next((run for run in queue.running() if over), None)
    assert worked is not None
    first.kill()  # The sweep is killed first, so that it does not start another run.
    first.communicate()
    process = psutil.Process(worked.status()["pid"])
    process.kill()
    psutil.wait_procs([process], timeout=60)
    assert not queue.alive(worked.status())
    again = subprocess.run(command, capture_output=True, check=True)
    rows = json.loads(again.stdout)
    assert len(rows) == 6 and {row["state"] for row in rows} == {"done"}
    for row in rows:
        run = folder.open_run(row["id"])
        whole = folder.create(run.config, folder=tmp_path / "whole")
        worker.execute(whole)
        assert (run.path / "net.safetensors").read_bytes() == (
            whole.path / "net.safetensors"
        ).read_bytes()
