"""`python -m benchmarks.gpu_check`, or `make gpu-check`: all checks that need a GPU, in eight
minutes. They are the tests in `tests/gpu`, the comparison of GPU and CPU (B15), and B0, B2, B3, B5
and B6 at a small size; the results go to the JSON file of docs/speed.md. Without a GPU, all of it
runs at toy size on the CPU, which only shows that it runs; these results go to a file outside the
repository.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# keeps torch's profiler from printing a line whenever it starts
os.environ.setdefault("KINETO_LOG_LEVEL", "5")

import torch

from benchmarks import (
    b00_roofline as roofline,
    b02_resnet,
    b03_epoch,
    b05_part,
    b06_small,
    b15_devices,
    harness,
    report,
    setting,
    trainers,
)
from benchmarks.harness import Outcome
from robustviz.attacks import PGD
from robustviz.data import Shapes, shapes
from robustviz.methods import PGDAT
from robustviz.runs.folder import write_file
from robustviz.training.config import TrainConfig, default_threads

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests" / "gpu"
TOY_OUT = setting.KEPT / "gpu-check-toy.json"
LIMIT = 8 * 60.0  # seconds for everything on a GPU, which may be available for minutes only
TESTS_LIMIT = 4 * 60.0
PATIENCE = 6  # factor for the time limits on a CPU, which may be busy


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of everything that is run.

    `learn`: training images; `epochs`: of the gates' trainings; `turn`: images in each turn of a
    race; `unseen`: images to attack; `compared`: images for the comparison of devices (B15);
    `part`: batch size and steps in each turn of B5; `workers`: processes of a `DataLoader`.
    """

    device: str
    net: str
    steps: int
    learn: int
    epochs: int
    batch: int
    turn: int
    unseen: int
    compared: int
    part: tuple[int, int]  # (batch, steps a turn)
    rounds: int
    workers: int


GPU = Size("cuda", "resnet18", 10, 12_288, 2, 512, 6144, 10_000, b15_devices.MOST, (128, 4), 3, 4)
TOY = Size("cpu", "small_resnet", 2, 48, 1, 16, 32, 32, 1000, (16, 1), 2, 0)


def races(size: Size, note: str) -> Iterator[tuple[str, Callable[[], Iterator[Outcome]]]]:
    """(item, function that runs its races), the most important first.

    The images are drawn, so no data set is needed. Peers that are not installed are reported in the
    notes, and torchattacks is replaced by a copy of its code. `note` is added to the first item.
    """
    words = f"{size.learn:,} drawn shapes"
    images = Shapes(size=32 if size.device == "cuda" else 20)
    config = TrainConfig(
        data=images,
        n_train=size.learn,
        method=PGDAT(attack=PGD(steps=size.steps)),
        net=size.net,
        epochs=size.epochs,
        batch_size=size.batch,
        lr=0.1,
        augment="crop_flip",
        precision="bf16",
        device=size.device,  # type: ignore[arg-type]
    )
    small = dataclasses.replace(
        config,
        net="small_resnet",
        data=dataclasses.replace(images, size=28) if size.device == "cuda" else images,
        eps=0.1,
    )
    plain = contextlib.nullcontext
    # Without a GPU, two implementations of convolution on the CPU are compared.
    here, there = (
        (("GPU", "cuda", plain), ("its CPU", "cpu", plain))
        if size.device == "cuda"
        else (("with oneDNN", "cpu", plain), ("without", "cpu", _without_onednn))
    )

    def attack() -> Iterator[Outcome]:
        x, y = (part.to(size.device) for part in setting.unseen(images, size.learn, size.unseen))
        batches = (size.batch, size.batch // 4)
        yield from b02_resnet.against(
            setting.trained(config), x, y, float(config.eps or 0), words, size.rounds, batches
        )

    def epochs(
        key: str, config: TrainConfig, attacking: trainers.Attacking, name: str, epoch: int
    ) -> Iterator[Outcome]:
        wanted = (b03_epoch.WANTED, b03_epoch.WANTED) if key == "B3" else b06_small.WANTED
        return trainers.race_epochs(
            key,
            config,
            words,
            attacking,
            name,
            sizes=(size.batch,),
            turn=size.turn,
            epoch=epoch,
            wanted=wanted,
            rounds=size.rounds,
            workers=size.workers,
        )

    yield "B15", lambda: iter([b15_devices.against(here, there, size.compared, size.rounds, note)])
    yield "B0", lambda: roofline.outcomes(size.device, size.rounds)
    yield "B2", attack
    yield (
        "B5",
        lambda: b05_part.steps(
            images, size.net, *size.part, size.device, size.rounds, "drawn shapes"
        ),
    )
    yield (
        "B6",
        lambda: epochs(
            "B6",
            small,
            b06_small.leanest(small),
            setting.leanest(torch.nn.Identity(), 0, 0, 0)[0],
            60_000,
        ),
    )
    yield "B3", lambda: epochs("B3", config, b03_epoch.written_out(config), "usual loop", 50_000)


def test(device: str, limit: float) -> tuple[bool, str]:
    """Run the tests in `tests/gpu` on a device, within `limit` seconds.

    Returns whether all passed, and pytest's last line.
    """
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ROBUSTVIZ_TEST_DEVICE": device}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(TESTS / "pytest.ini"),
        "-p",
        "no:cacheprovider",
        str(TESTS),
    ]
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **plugins},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as late:
        print(late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or "")
        return False, f"the tests were not done after {limit:.0f} s"
    last = (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1].strip("= ")
    if done.returncode:
        print(done.stdout)
    return done.returncode == 0, last


def main() -> int:
    """Run everything and print what failed: tests, races, and on a GPU gates that do not hold.
    Returns 0 if nothing failed, else 1.
    """
    started = time.monotonic()
    on_gpu = torch.cuda.is_available()
    size, out = (GPU, report.HERE / "results" / "cuda.json") if on_gpu else (TOY, TOY_OUT)
    patience = 1 if on_gpu else PATIENCE
    clock = threading.Timer(patience * LIMIT, _too_late, (patience * LIMIT,))
    clock.daemon = True
    clock.start()
    torch.set_num_threads(default_threads())
    if not on_gpu:
        print(
            "This machine has no GPU that torch can use: everything at toy size on its processor,"
            " which only shows that it runs.\n"
        )
        _shrink()
    passed, line = test(size.device, patience * TESTS_LIMIT)
    print(f"Tests of attacks, networks, training, resume and recorded steps: {line}\n", flush=True)
    failed = [] if passed else ["the tests"]
    found: dict[str, Any] = (
        json.loads(out.read_text(encoding="utf-8")) if on_gpu and out.exists() else {"items": {}}
    )
    for key, run in races(size, f"In tests/gpu: {line}."):
        begun, outcomes = time.monotonic(), list[Outcome]()
        try:
            for one in run():
                outcomes.append(one)
                print(harness.told(one), end="\n\n", flush=True)
                found["items"][key] = {
                    "machine": harness.machine(),
                    "outcomes": [one.to_json() for one in outcomes],
                }
                out.parent.mkdir(exist_ok=True)
                # saved after each outcome, because the GPU may be available for minutes only
                write_file(out, json.dumps(found, indent=1).encode())
        except Exception as error:  # the other items are still run
            failed.append(f"{key}, which ended in {type(error).__name__}: {error}")
        judged = on_gpu or key == "B15"  # at toy size the gates of other items depend on chance
        failed += [
            f"{key}, where this did not hold: {gate.says}"
            for one in outcomes
            for gate in one.gates
            if judged and not gate.held
        ]
        print(f"({key}: {time.monotonic() - begun:.0f} s)\n", flush=True)
    clock.cancel()
    if on_gpu:
        report.write(report.measured())
    where = (
        f"{out.relative_to(REPOSITORY)} and docs/speed.md have the figures"
        if on_gpu
        else "Nothing was run on a GPU"
    )
    print(
        f"{time.monotonic() - started:.0f} s. {where}."
        f" {'Failed: ' + '; '.join(failed) + '.' if failed else 'All passed.'}"
    )
    return 1 if failed else 0


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """A context in which torch computes convolutions without oneDNN, as on processors that oneDNN
    does not support.
    """
    with warnings.catch_warnings():  # torch 2.11 warns that there is no Intel GPU
        warnings.simplefilter("ignore")
        torch.backends.mkldnn.set_flags(False)
        try:
            yield
        finally:
            torch.backends.mkldnn.set_flags(True)


def _shrink() -> None:
    """Set toy sizes in this process for what takes no size as an argument."""
    roofline.SIZES["cpu"] = (128, 256)
    roofline.COPIED["cpu"] = 2**24
    shapes.COUNTS.update(val=20, test=20)


def _too_late(limit: float) -> None:
    print(
        f"\nNot done after {limit / 60:.0f} minutes, which is all there are; what was measured is"
        " written down.",
        flush=True,
    )
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
