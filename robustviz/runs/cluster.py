"""Trains a sweep on a Ray cluster. Each training is a task on any machine with room, and after
every epoch its run folder comes back as an archive. A training whose machine is lost continues from
the last archive on another machine; on CPUs it ends with the same weights as without the loss. Ray
decides where and when each task runs (docs/cluster.md).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from robustviz.callbacks import AfterEpoch
from robustviz.imports import load
from robustviz.runs import folder, queue, travel
from robustviz.runs.files import write_file
from robustviz.runs.folder import Run
from robustviz.runs.inside import OVER
from robustviz.runs.sweeps import Now, estimate, sources
from robustviz.training.config import TrainConfig
from robustviz.types import JSON, UserError, harmless

LOST = 5  # how often in a row a training may be lost without finishing an epoch
LOOK = 1.0  # seconds between two checks for archives
REACH = 5  # seconds that a head has to answer
# written last: they say how far the run is, and refer to the other files
LAST = ("state/state.safetensors", "metrics.jsonl", "status.json")


def follow(
    configs: Iterable[TrainConfig], address: str, tell: Callable[[Now], object] = lambda now: None
) -> dict[str, str]:
    """Train all configs on the cluster and wait. Returns the reasons, by run id, for runs that
    could not be started, such as that no machine has what they need; how the others ended is in
    their folders. `address`: `ray://HEAD:10001`, or `ray` for the cluster that RAY_ADDRESS names,
    else the one on this computer, else one that is started here. `tell` is called with the progress
    about once a second.

    Trainings do not outlive this call. Raises UserError that says how to go on if Ray is not
    installed, if the head does not answer or is lost, and if the person interrupts.
    """
    ray = _connected(address)
    try:
        return _Sweep(ray, {config.run_id: config for config in configs}, tell).all()
    except ray.exceptions.RayError as error:
        raise UserError(
            f"The cluster was lost ({type(error).__name__}). The same command goes on with the"
            " sweep once it is back."
        ) from error
    except ConnectionError as error:
        raise UserError(
            "The connection to the cluster's head was lost. The same command goes on with the sweep"
            " once it is back."
        ) from error
    finally:
        ray.shutdown()


def _connected(asked: str) -> Any:
    try:
        ray, grpc = load("ray"), load("grpc")
    except ImportError:
        raise UserError(
            "A cluster needs Ray, which is not installed: pip install 'robustviz[cluster]'."
        ) from None
    if not re.fullmatch(r"ray|ray://[^/\s]+:\d{1,5}", asked):
        raise UserError(f"--on {asked}: write local, ray, or ray://HEAD:10001.", code=2)
    # `ray` is the cluster named by RAY_ADDRESS, else one that already runs here, else a new one
    address = (os.environ.get("RAY_ADDRESS") or "auto") if asked == "ray" else asked
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "robustviz"}
    try:
        if address not in ("auto", "local"):
            _reach(grpc, address)
        try:
            ray.init(address=address, **quiet)
        except ConnectionError:
            if address != "auto":
                raise
            ray.init(address="local", include_dashboard=False, **quiet)
    except (OSError, ValueError, grpc.FutureTimeoutError) as error:
        raise UserError(
            f"No Ray cluster answers at {address}: start its head with `ray start"
            " --head`, and check that this computer can reach it."
        ) from error
    except RuntimeError as error:  # mostly another version of Ray or Python
        why = harmless(" ".join(str(error).split()))
        raise UserError(f"The Ray cluster at {address} does not accept tasks: {why}") from error
    return ray


def _reach(grpc: Any, address: str) -> None:
    """Check within seconds that a Ray head answers; Ray itself would try for a minute or more.
    Raises OSError, ValueError or FutureTimeoutError if nothing answers there, or something other
    than a Ray head.
    """
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH):
        pass  # fails at once if nothing listens on the port
    with grpc.insecure_channel(place) as channel:
        grpc.channel_ready_future(channel).result(timeout=REACH)


class _Box:
    """A Ray actor that holds, for each run, the newest archive that the run's task sent, until the
    sweep takes it.
    """

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def put(self, run_id: str, archive: bytes) -> None:
        self.held[run_id] = archive

    def take(self) -> dict[str, bytes]:
        held, self.held = self.held, {}
        return held


class _Sweep:
    """The trainings of one sweep, and which of them are tasks on the cluster now."""

    def __init__(
        self, ray: Any, configs: dict[str, TrainConfig], tell: Callable[[Now], object]
    ) -> None:
        self.ray, self.configs, self.tell = ray, configs, tell
        # the box runs on the head, so it lasts as long as the cluster
        head = {"node:__internal_head__": 0.001}
        self.box = ray.remote(_Box).options(num_cpus=0, resources=head).remote()
        self.tasks: dict[Any, str] = {}
        self.lost = Counter[str]()
        self.refused: dict[str, str] = {}

    def all(self) -> dict[str, str]:
        left = estimate(self.configs.values())
        waiting = sorted(left, key=lambda name: (left[name], name))
        waiting = [name for name in waiting if _run(name).status()["state"] not in OVER]
        try:
            while waiting or self.tasks:
                busy = {*waiting, *self.tasks.values()}
                for name in [name for name in waiting if self._ready(name, busy)]:
                    waiting.remove(name)
                    self._start(name)
                self._look()
                if running := sorted(self.tasks.values()):
                    over = len(self.configs) - len(waiting) - len(running)
                    seconds = sum(left[name] for name in (*waiting, *running))
                    self.tell(Now(over, len(self.configs), _run(running[0]), seconds))
        except KeyboardInterrupt:
            raise UserError(
                "Stopped: no training is running. The same command continues the sweep, each"
                " training from its last epoch that came back."
            ) from None
        finally:
            for task, name in list(self.tasks.items()):
                self._cancel(task, name, "interrupted")
        return self.refused

    def _ready(self, name: str, busy: set[str]) -> bool:
        """Whether training `name` can start: none of the runs that it needs (`_sources`), such as a
        source model, is in `busy`, the names of the sweep's runs that wait or run.
        """
        return not any(each in busy for each in _sources(self.configs[name]))

    def _start(self, name: str) -> None:
        config = self.configs[name]
        try:
            needs = self._needs(config)
            run = queue.claim(config)
            others = {each: pack(_run(each)) for each in _sources(config) if not _shipped(each)}
        except UserError as error:
            self.refused[name] = str(error)
            if _run(name).status()["state"] == "running":  # no machine is left for it
                _run(name).set_status(state="interrupted", error=str(error), pid=None)
            return
        task = self.ray.remote(train).options(**needs, max_retries=0)
        self.tasks[task.remote(config.to_json(), pack(run), others, self.box)] = name

    def _needs(self, config: TrainConfig) -> dict[str, int]:
        """Returns what a machine must have for this training, as Ray's options `num_cpus` and
        `num_gpus`. Raises UserError if no machine of the cluster has it, or if the config asks for
        a numbered GPU.
        """
        if ":" in config.device:
            raise UserError(f"A cluster chooses the GPU: ask for device=cuda, not {config.device}.")
        cpus, gpus = int(config.threads or 1), int(config.device != "cpu")
        nodes = [each["Resources"] for each in self.ray.nodes() if each["Alive"]]
        if not any(each.get("CPU", 0) >= cpus and each.get("GPU", 0) >= gpus for each in nodes):
            cores, gpu = f"{cpus} CPU core{'s' * (cpus > 1)}", " and a GPU" if gpus else ""
            raise UserError(f"No machine of the cluster has {cores}{gpu}.")
        return {"num_cpus": cpus, "num_gpus": gpus}

    def _look(self) -> None:
        self._connected()
        done, _ = self.ray.wait(list(self.tasks), timeout=LOOK) if self.tasks else ([], [])
        for name, archive in self.ray.get(self.box.take.remote()).items():
            if name in self.tasks.values():
                unpack(archive, _run(name), running=True)
                self.lost[name] = 0
        for task in done:
            self._end(task, self.tasks.pop(task))
        for task, name in list(self.tasks.items()):
            if _run(name).wanted():
                self._cancel(task, name, "stopped" if _run(name).wanted() == "stop" else "paused")

    def _end(self, task: Any, name: str) -> None:
        try:
            unpack(self.ray.get(task), _run(name), running=False)
        except (
            self.ray.exceptions.WorkerCrashedError,
            self.ray.exceptions.NodeDiedError,
            self.ray.exceptions.ObjectLostError,
            self.ray.exceptions.OutOfMemoryError,
        ):
            self.lost[name] += 1
            if self.lost[name] < LOST:
                self._start(name)
                return
            said = f"Lost {LOST} times without finishing an epoch: is there enough memory?"
            _run(name).set_status(state="failed", error=said, pid=None)
        except self.ray.exceptions.RayTaskError as error:
            said = f"The training failed on its machine: {error.cause}"
            _run(name).set_status(state="failed", error=said, pid=None)

    def _cancel(self, task: Any, name: str, state: str) -> None:
        self.tasks.pop(task, None)
        with contextlib.suppress(Exception):  # the cluster may be gone
            self._connected()
            self.ray.cancel(task, force=True)
        _run(name).ask("")
        _run(name).set_status(state=state, pid=None, eta=None)

    def _connected(self) -> None:
        """Raises ConnectionError if the connection to the head is lost. Otherwise Ray would
        silently start a cluster of its own here.
        """
        if not self.ray.is_initialized():
            raise ConnectionError


def _run(name: str) -> Run:
    return Run(folder.home() / name)


def _sources(config: TrainConfig) -> list[str]:
    """Returns the ids or paths of the runs that a training needs: those that its method names, and
    the one whose weights it starts from (`init`), if that is not a file.
    """
    init = config.init or ""
    start = init.rpartition("#")[0] or init
    return [*sorted(sources(config)), *([start] if start and not Path(start).is_file() else [])]


def _shipped(name: str) -> bool:
    return (folder.zoo() / name).is_dir()


# What runs on the other machine.


def train(asked: JSON, archive: bytes, others: dict[str, bytes], box: Any) -> bytes:
    """Train one run on a machine of the cluster, in this process, from the state in its archive.
    Returns the archive of its folder at the end, also if the training failed. After every epoch the
    current archive is put into `box`, a `_Box` from which the sweep fetches it. `asked`: the config
    as JSON; `archive`: the run's folder (`pack`); `others`: archives, by id, of the runs that this
    run needs.
    """
    from robustviz.runs.worker import execute

    ray = load("ray")
    config = TrainConfig.from_json(asked)
    with tempfile.TemporaryDirectory(prefix="robustviz-") as place, folder.at_home_in(Path(place)):
        for name, each in others.items():
            unpack(each, Run(Path(place) / name), running=False)
        run = Run(Path(place) / config.run_id)
        unpack(archive, run, running=False)

        # A task that waits in its main thread releases its core, and Ray starts another task there.
        with ThreadPoolExecutor(1) as beside:
            send = AfterEpoch(
                lambda record: beside.submit(ray.get, box.put.remote(run.id, pack(run))).result()
            )
            with contextlib.suppress(UserError):  # the error is in the run's status
                execute(run, callbacks=(send,))
        return pack(run)


# A run folder as bytes.


def pack(run: Run) -> bytes:
    """Returns the run's files as the bytes of a zip file, named relative to the run's folder."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, path in travel.files(run):
            archive.write(path, name)
    return whole.getvalue()


def unpack(archive: bytes, run: Run, *, running: bool) -> None:
    """Write an archive's files into a run folder. Each file is replaced in one step, and those that
    say how far the run is (`LAST`) come last, so a kill in between leaves a valid older state.
    `running`: whether to mark the run as being trained by this process; if not, the process id is
    removed from the status if its state is `running`.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as held:
        last = {name: place for place, name in enumerate(LAST)}
        for name in sorted(held.namelist(), key=lambda name: last.get(name, -1)):
            if travel.most_bytes(name):  # only files that a run may have
                write_file(run.path / name, held.read(name))
    if running:
        run.set_status(state="running", heartbeat=time.time(), **queue.identity())
    elif run.status()["state"] == "running":
        run.set_status(pid=None)
