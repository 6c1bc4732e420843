"""Tests a training in several processes: together they compute what one process computes, and if
one fails all end with a single message.

torchrun starts two real processes, which run tests/together.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import together
import torch
from safetensors.torch import load_file

from robustviz import data
from robustviz.cli import main
from robustviz.methods import AFA, AFATRADES, TRADES, SupConMargin
from robustviz.runs import folder
from robustviz.training import evaluate, world
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training
from robustviz.training.world import World
from robustviz.types import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, runs_home: Path) -> None:
    """The same test networks and splits as in the other processes."""
    monkeypatch.setattr(data, "load", data.load)
    monkeypatch.setattr(evaluate, "examine", evaluate.examine)
    monkeypatch.setattr(
        "robustviz.registry._table",
        {kind: dict(table) for kind, table in together.registry._table.items()},
    )
    together.small()


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        *arguments,
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def act(plan: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return torchrun(str(REPOSITORY / "tests" / "together.py"), json.dumps(plan))


def argv(command: str = "train", **settings: Any) -> list[str]:
    words = {
        "data": "--data",
        "epochs": "--epochs",
        "device": "--device",
        "method": "--method",
        "net": "--net",
    }
    given = together.BASE | {"method": "standard", "net": "plain"} | settings
    return [
        command,
        *(
            word
            for name, value in given.items()
            for word in (
                (words[name], str(value)) if name in words else ("--set", f"{name}={value}")
            )
        ),
    ]


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Returns the messages of our own processes, without torchrun's report."""
    return [line for line in done.stderr.splitlines() if line.startswith("robustviz: ")]


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 1e-5) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], atol=atol, rtol=1e-4) for name in one
    )


# Together they compute what one process computes.

SAME = {
    "standard": {"method": "standard", "augment": "crop_flip", "ema": 0.5, "net": "plain"},
    "pgd_at": {"method": "pgd_at", "method.attack.start": "zero", "net": "plain"},
    "awp": {"method": "pgd_at", "method.attack.start": "zero", "method.awp": 0.1, "net": "plain"},
    "supcon_off": {
        "method": "supcon_margin",
        "method.supcon_weight": 0.0,
        "method.margin_weight": 0.0,
        "net": "plain",
    },
}
OTHER = {
    "batch_norm": {"method": "standard", "net": "blink", "n_train": 33, "epochs": 1, "lr": 0.0},
    "supcon": {"method": "supcon_margin", "net": "plain"},
    "slf": {"method": "afa", "method.head": "SLF", "net": "blink"},
    "part": {"method": "part", "net": "blink", "method.warmup": 0.0, "epochs": 1},
}


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_two_processes_train_what_one_trains_and_write_one_run(tmp_path: Path) -> None:
    """One launch for everything, because starting two processes takes longer than the trainings."""
    done = act(
        {
            "out": str(tmp_path),
            "trainings": SAME | OTHER,
            "argv": [*argv(augment="crop_flip"), "--json", "--name", "two"],
        }
    )
    assert done.returncode == 0, done.stderr
    for name in SAME | OTHER:
        # Both processes have the same weights, momentum and metrics. The running statistics are
        # those of the first process.
        one, other = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        moved = [key for key in one if not torch.equal(one[key], other[key])]
        assert all("running_" in key or key.startswith("sum/") for key in moved), (name, moved)
    for name, settings in SAME.items():
        alone = together.finished(settings)
        tensors, plain = alone.state()
        assert close(load_file(tmp_path / f"{name}-0.safetensors"), tensors), name
        for mine, theirs in zip(
            json.loads((tmp_path / f"{name}-1.json").read_text())["records"],
            plain["records"],
            strict=True,
        ):
            assert mine.pop("processes") == 2 and mine["losses"] == pytest.approx(
                theirs["losses"], rel=1e-4
            )
            assert {**mine, "losses": 0, "seconds": 0} == {**theirs, "losses": 0, "seconds": 0}

    # Batch norm sees only the part of its own process, and the statistics of the first process are
    # saved.
    alone = Training(TrainConfig.make(None, together.BASE | OTHER["batch_norm"]))
    first = alone._batches()[0][World(0, 2).part(33)]
    alone.net.train()(alone.images[first].float() / 255)
    kept = load_file(tmp_path / "batch_norm-0.safetensors")
    assert torch.allclose(
        kept["net/maps.2.running_mean"], alone.net.get_buffer("maps.2.running_mean"), atol=1e-6
    )

    # The run started by the command line.
    assert main([*argv(augment="crop_flip"), "--name", "one"]) == 0
    one, two = folder.open_run("one"), folder.open_run("two")
    assert {path.relative_to(one.path) for path in one.path.rglob("*")} == {
        path.relative_to(two.path) for path in two.path.rglob("*")
    }
    assert close(one.net().state_dict(), two.net().state_dict())  # type: ignore[arg-type]
    assert (
        two.config == one.config and one.info["versions"] | {"processes": 2} == two.info["versions"]
    )
    assert [record["processes"] for record in two.records()] == [
        2,
        2,
    ] and "processes" not in one.records()[0]
    assert two.status()["state"] == "done" and two.evaluation().n == 12  # type: ignore[union-attr]
    assert json.loads(done.stdout)["id"] == "two"  # The answer is printed once, and nothing else.
    lines = done.stderr.splitlines()
    assert sum(line.startswith("epoch") for line in lines) == 2 and not any(
        "Warning" in line for line in lines
    )
    assert any(line.startswith("2 processes share every batch") for line in lines)


# If one process fails, all end.


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_where_one_process_fails_all_end_with_its_sentence(tmp_path: Path) -> None:
    done = act(
        {"out": str(tmp_path), "fails": 1, "how": "error", "argv": [*argv(), "--name", "two"]}
    )
    assert done.returncode == 1 and len(said(done)) == 1 and "memory is full" in said(done)[0], (
        done.stderr
    )
    status = folder.open_run("two").status()
    assert status["state"] == "failed" and "memory is full" in status["error"]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("fails", "how", "words"),
    [
        (1, "kill", "ended unexpectedly"),
        (0, "error", "memory is full"),
        (1, "nan", "NaN"),
        (None, "", "folder"),
    ],
    ids=["killed", "the first", "diverged", "data"],
)
def test_however_a_process_fails_there_is_one_sentence(
    fails: int | None, how: str, words: str, tmp_path: Path
) -> None:
    asked = argv(data="folder:/nowhere") if fails is None else argv()
    done = act(
        {"out": str(tmp_path), "fails": fails, "how": how, "argv": [*asked, "--name", "two"]}
    )
    assert done.returncode == 1 and len(said(done)) <= 1, done.stderr
    if how == "kill":  # torchrun may end the first process before it can print anything.
        assert "SIGKILL" in done.stderr and folder.open_run("two").status()["state"] in (
            "failed",
            "running",
        )
        return
    assert words in said(done)[0]
    assert (folder.home() / "two").exists() == (fails is not None)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_pause_reaches_all_and_one_process_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = act({"out": str(tmp_path), "wish": "pause", "argv": [*argv(), "--name", "two"]})
    assert done.returncode == 0 and "two is paused" in done.stdout, done.stderr
    assert (folder.open_run("two").status()["state"], folder.open_run("two").status()["batch"]) == (
        "paused",
        1,
    )
    assert main(["resume", "two"]) == 0
    assert "may differ slightly" in capsys.readouterr().err
    assert main([*argv(), "--name", "one"]) == 0
    one, two = folder.open_run("one"), folder.open_run("two")
    assert close(one.net().state_dict(), two.net().state_dict())  # type: ignore[arg-type]
    for mine, theirs in zip(two.records(), one.records(), strict=True):
        # Both parts of the batch before the pause are included.
        assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-4)


@pytest.mark.slow
def test_the_commands_of_the_readme(runs_home: Path) -> None:
    settings = (
        "--data",
        "digits",
        "--method",
        "fgsm_rs",
        "--net",
        "small_cnn",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--set",
        "n_train=64",
    )
    done = torchrun("-m", "robustviz", "train", *settings, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert folder.open_run("two").status()["state"] == "done"
    done = torchrun("-m", "robustviz", "list", "methods")
    assert len(said(done)) == 1 and "train and resume" in said(done)[0] and not done.stdout


# Tests without a second process.


@pytest.mark.parametrize("together_", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [2, 16, 34, 66, 128])
def test_parts_are_the_whole_and_differ_by_one_group(n: int, size: int, together_: int) -> None:
    parts = [World(rank, size).part(n, together_) for rank in range(size)]
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    counts = [len(range(n)[part]) for part in parts]
    assert max(counts) - min(counts) <= together_ and all(
        count % together_ == 0 for count in counts
    )


@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("method", ["pgd_at", "supcon_margin", "part"])
def test_the_parts_of_a_batch_are_the_batch_that_one_process_sees(
    method: str, tiny: TrainConfig
) -> None:
    settings = {"rule": "oracle"} if method == "part" else {}
    config = TrainConfig.make(
        None,
        {
            "data": "shapes" if settings else "digits",
            "method": method,
            "net": "blink",
            "n_train": 66,
            "batch_size": 33,
            "augment": "crop_flip",
        },
        [(f"method.{name}", value) for name, value in settings.items()],
    )
    alone, parts = Training(config), [Training(config, World(rank, 2)) for rank in (0, 1)]
    index = alone._batches()[1]
    whole, (one, other) = alone._batch(index, 0.5), (part._batch(index, 0.5) for part in parts)
    for name in ("x", "y", "index"):
        assert torch.equal(
            torch.cat([getattr(one, name), getattr(other, name)]), getattr(whole, name)
        )
    if whole.views is not None:
        assert torch.equal(torch.cat([one.views, other.views], dim=1), whole.views)
        # Pairs of one class.
        assert all(
            (part.y.view(-1, 2)[:, 0] == part.y.view(-1, 2)[:, 1]).all() for part in (one, other)
        )
    if whole.objects is not None:
        assert torch.equal(torch.cat([one.objects, other.objects]), whole.objects)
    assert (whole.views is None, whole.objects is None) == (
        method != "supcon_margin",
        method != "part",
    )
    # Each process draws its own noise for the attack.
    assert len({batch.rng.initial_seed() for batch in (whole, one, other)}) == 3


def test_alone_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert world.join() == World(0, 1) and world.reports_errors() and not world.launched()
    values = {"a": torch.tensor(1.0)}
    assert World().broadcast(3, 4) == [3, 4] and World().mean(values) is values
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun with one process.
    assert world.join() == World(0, 1)


def test_of_several_that_fail_the_first_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def spoke(rank: int) -> bool:
        monkeypatch.setenv("RANK", str(rank))
        assert main(["train", "--epochs", "many"]) == 2
        return bool(capsys.readouterr().err)

    # If no store is known, rank 0 prints the message.
    assert [spoke(1), spoke(0), spoke(1)] == [False, True, False]
    monkeypatch.setattr(world, "_store", (torch.distributed.HashStore(), 0, 2))
    assert [spoke(1), spoke(0), spoke(1)] == [True, False, True]
    monkeypatch.setattr(world, "_store", None)
    monkeypatch.setenv("RANK", "0")
    assert main(["report"]) == 2 and "run report without it" in capsys.readouterr().err


def test_several_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world, "_store", None)
    # A function with the same name hides the module.
    module = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(
        module, "rendezvous", lambda url: iter([(torch.distributed.HashStore(), 0, 4)])
    )
    with pytest.raises(UserError, match="one machine"):
        world.join()


def test_more_processes_than_gpus_are_refused(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes need as many GPUs, and this machine has 1"):
        Training(dataclasses.replace(tiny, device="cuda"), World(1, 2))


@pytest.mark.usefixtures("small_splits")
def test_a_batch_too_small_to_share_is_refused_and_a_rest_too_small_left_out(
    tiny: TrainConfig,
) -> None:
    assert [
        len(part)
        for part in Training(dataclasses.replace(tiny, n_train=67), World(1, 2))._batches()
    ] == [32, 32]
    assert [
        len(part)
        for part in Training(dataclasses.replace(tiny, n_train=68), World(1, 2))._batches()
    ] == [32, 32, 4]
    with pytest.raises(UserError, match=r"8 processes need at least 16 images .* in batches of 12"):
        Training(dataclasses.replace(tiny, batch_size=12), World(0, 8))
    with pytest.raises(UserError, match="at least 8 images"):  # Each part needs two classes.
        Training(dataclasses.replace(tiny, method="supcon_margin", batch_size=6), World(0, 2))


def test_methods_say_whether_they_compare_images() -> None:
    assert AFA().compares and SupConMargin().compares and AFATRADES().compares
    assert (
        not AFATRADES(align_weight=0).compares
        and not SupConMargin(supcon_weight=0, margin_weight=0).compares
        and not TRADES().compares
    )
