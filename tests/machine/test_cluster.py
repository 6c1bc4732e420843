"""Tests sweeps on a Ray cluster of two nodes on this computer, one of which is killed half-way."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import eventually

from robustviz.runs import cluster, folder, plans, queue, sweeps
from robustviz.runs.folder import Run
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

CONFIG = (
    "TrainConfig(data='digits', method=method, seed=seed, epochs=4, n_train=60, threads=1,"
    " device='cpu', test_n=20)"
)
SCRIPT = f"""
import sys
from ray.cluster_utils import Cluster
from robustviz.runs import cluster, folder, sweeps
from robustviz.runs.folder import Run
from robustviz.training.config import TrainConfig

configs = [{CONFIG} for method in ("fgsm_at", "standard") for seed in range(6)]
if sys.argv[1] == "local":
    assert not sweeps.follow(configs)
else:
    machines = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1}})
    second = machines.add_node(num_cpus=1)
    import os
    os.environ["RAY_ADDRESS"] = machines.address
    killed = []

    def tell(now):
        if not killed:  # one a core
            runs = [Run(folder.home() / config.run_id).status() for config in configs]
            assert sum(0 < run["epoch"] and run["state"] == "running" for run in runs) <= 2
        if now.over >= 4 and not killed:
            killed.append(now)
            machines.remove_node(second, allow_graceful=False)

    assert not cluster.follow(configs, "ray", tell)
    assert killed
    machines.shutdown()
"""


def environment(home: Path) -> dict[str, str]:
    """Returns the environment of a process that keeps its runs in the folder `home`."""
    return {
        **os.environ,
        "ROBUSTVIZ_RUNS": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(cluster.__file__).parents[2]),
    }


def swept(home: Path, where: str) -> dict[str, tuple[str, str]]:
    """Runs the sweep, and returns for each run its final state and the hash of its weights."""
    command = [sys.executable, "-c", SCRIPT, where]
    done = subprocess.run(
        command, env=environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        path.parent.name: (
            Run(path.parent).status()["state"],
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in home.glob("*/net.safetensors")
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_lost_node_changes_no_weight(tmp_path):
    pytest.importorskip("ray")
    here, there = swept(tmp_path / "here", "local"), swept(tmp_path / "there", "ray")
    assert len(there) == 12
    assert here == there
    assert {state for state, _ in there.values()} == {"done"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_on_a_cluster_ends_when_it_is_stopped_on_the_page(runs_home):
    """`plans.stop` is what the page's button calls, in another process than the sweep's."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "robustviz", "sweep", "--name", "long", "--on", "ray"]
    command += ["--data", "digits", "--seeds", "0,1,2", "--set", "epochs=500", "--yes"]
    sweep = subprocess.Popen(
        command, env=environment(runs_home), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    runs = lambda: [run for run, _ in folder.of_user()]  # noqa: E731
    try:
        assert eventually(lambda: any(run.status()["epoch"] for run in runs()))
        [plan] = plans.every()
        assert plan.going
        plans.stop(plan)
        _, said = sweep.communicate(timeout=300)
    finally:
        sweep.kill()
    assert sweep.returncode == 1
    assert b"The sweep long was stopped from the Train page." in said
    assert not plans.every()[0].going
    assert {run.status()["state"] for run in runs()} <= {"stopped", "interrupted"}


def a_run(seed: int = 0) -> Run:
    """Returns a waiting run with a file of each kind."""
    run = queue.claim(TrainConfig(data="digits", n_train=20, epochs=1, seed=seed))
    (run.path / "state").mkdir()
    (run.path / "state" / "state.safetensors").write_bytes(b"state")
    (run.path / "net.safetensors").write_bytes(b"weights")
    return run


def test_a_run_folder_travels_whole_and_keeps_what_was_asked_here(runs_home):
    run = a_run()
    archive = cluster.pack(run)
    other = Run(folder.home() / "other")
    cluster.unpack(archive, other, running=True)
    other.ask("stop")
    cluster.unpack(archive, other, running=True)
    assert (other.path / "net.safetensors").read_bytes() == b"weights"
    assert other.config == run.config
    assert other.wanted() == "stop"
    assert other.status()["pid"] == os.getpid()


def test_a_kill_while_an_archive_arrives_leaves_an_older_state(runs_home, monkeypatch):
    """The file that makes the new weights count is written after them, and the status is written
    last.
    """
    written = []
    monkeypatch.setattr(cluster, "write_file", lambda path, content: written.append(path.name))
    run = a_run()
    cluster.unpack(cluster.pack(run), run, running=True)
    assert written[-2:] == ["state.safetensors", "status.json"]


@pytest.fixture
def deaf() -> Iterator[str]:
    """Yields an address that accepts connections but never answers."""
    pytest.importorskip("ray")
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        yield f"127.0.0.1:{there.getsockname()[1]}"


def test_a_head_that_is_not_there_is_one_sentence():
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="No Ray cluster answers"):
        cluster.follow([], f"ray://127.0.0.1:{port}")


def test_a_head_that_says_nothing_is_given_up(deaf, monkeypatch):
    """Ray itself would try for forty seconds."""
    monkeypatch.setattr(cluster, "REACH", 0.2)
    with pytest.raises(UserError, match=f"No Ray cluster answers at ray://{deaf}: start its head"):
        cluster.follow([], f"ray://{deaf}")


def test_a_cluster_that_the_environment_names_is_not_replaced_by_one_of_our_own(deaf, monkeypatch):
    import ray

    monkeypatch.setattr(cluster, "REACH", 0.2)
    monkeypatch.setenv("RAY_ADDRESS", deaf)
    with pytest.raises(UserError, match=f"No Ray cluster answers at {deaf}"):
        cluster.follow([], "ray")
    assert not ray.is_initialized()


def test_a_cluster_of_another_version_is_one_sentence(monkeypatch):
    ray = pytest.importorskip("ray")

    def refuse(**given):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.60.0")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        UserError, match=r"does not accept tasks: Version mismatch: .* with: Ray: 2\.60"
    ):
        cluster.follow([], "ray")


def test_without_ray_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'robustviz\[cluster\]'"):
        cluster.follow([], "ray")


@pytest.mark.parametrize("word", ["slurm", "ray://", "ray://head", "ray://head:port"])
def test_another_word_than_ray_is_refused(word):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="write local, ray"):
        cluster.follow([], word)


def test_a_training_that_no_machine_can_take_is_told_and_begins_nothing(runs_home):
    """Uses a mock of Ray that reports the machines' resources."""
    machines = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    machines += [{"Alive": False, "Resources": {"CPU": 4.0, "GPU": 1.0}}]  # A node that was lost.
    ray = Mock(nodes=lambda: machines, get=lambda ref: {})
    asked = {"data": "digits", "n_train": 20, "epochs": 1}
    wants = [
        TrainConfig(**asked, device="cuda", threads=1),
        TrainConfig(**asked, device="cuda:1", seed=1, threads=1),
        TrainConfig(**asked, device="cpu", seed=2, threads=8),
    ]
    refused = cluster._Sweep(ray, {each.run_id: each for each in wants}, print).all()
    assert list(refused.values()) == [
        "No machine of the cluster has 1 CPU core and a GPU.",
        "A cluster chooses the GPU: ask for device=cuda, not cuda:1.",
        "No machine of the cluster has 8 CPU cores.",
    ]
    assert not [run for run in queue.mine() if run.status()["state"] == "running"]


def test_a_lost_head_is_a_sentence_and_no_other_cluster_is_begun(runs_home, monkeypatch):
    """Uses a mock of Ray whose connection is lost after the first training was submitted."""
    ray = Mock(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    ray.is_initialized.return_value = False
    ray.exceptions = pytest.importorskip("ray").exceptions
    monkeypatch.setattr(cluster, "_connected", lambda asked: ray)
    config = TrainConfig(data="digits", n_train=20, epochs=1, threads=1, device="cpu")
    with pytest.raises(UserError, match="connection to the cluster's head was lost"):
        cluster.follow([config], "ray")
    assert not ray.wait.called and not ray.cancel.called
    assert Run(folder.home() / config.run_id).status()["state"] == "interrupted"


def test_a_gpu_that_only_the_cluster_has_may_be_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    grid = sweeps.Grid.make({"data": "digits", "set": {"device": "cuda"}})
    with pytest.raises(UserError, match="no usable CUDA device"):
        grid.configs()
    (config,) = grid.configs(here=False)
    assert config.device == "cuda" and config.data.key == "digits"
