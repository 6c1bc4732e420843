"""Sweeps on a Ray cluster: two nodes on this computer, one of which is killed half-way."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from robustviz.runs import cluster, folder, queue
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
from robustviz.runs import cluster, sweeps
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
        if now.over >= 4 and not killed:
            killed.append(now)
            machines.remove_node(second, allow_graceful=False)

    assert not cluster.follow(configs, "ray", tell)
    assert killed
    machines.shutdown()
"""


def swept(home: Path, where: str) -> dict[str, tuple[str, str]]:
    """Of each run of the sweep how it ended, and the hash of its weights."""
    environment = {
        **os.environ,
        "ROBUSTVIZ_RUNS": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(cluster.__file__).parents[2]),
    }
    command = [sys.executable, "-c", SCRIPT, where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
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


def a_run(seed: int = 0) -> Run:
    """A run that waits, with a file of each kind."""
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
    """The file that says that the weights count is written after them, and the status last."""
    written = []
    monkeypatch.setattr(cluster, "write_file", lambda path, content: written.append(path.name))
    run = a_run()
    cluster.unpack(cluster.pack(run), run, running=True)
    assert written[-2:] == ["state.safetensors", "status.json"]


def test_a_head_that_is_not_there_is_one_sentence():
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="No Ray cluster answers"):
        cluster.follow([], f"ray://127.0.0.1:{port}")


def test_another_word_than_ray_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="write local, ray"):
        cluster.follow([], "slurm")
