"""B13: standard training to 94% accuracy on CIFAR-10 on a GPU, against airbench94."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from benchmarks.trainers import Ours
from robustviz import data
from robustviz.methods import Standard
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right

MARK = 94.0
WANTED = 1 / 1.2
PEER = "airbench94"
NOTE = (
    "Ours is ResNet-18 on 45,000 images (a tenth is kept for validation, which is not timed), a"
    " recipe tuned by nobody, judged on plain images. airbench94, of the package airbench 0.1.8, is"
    " its authors' network and recipe on 50,000, judged with its six views of an image;"
    " airbench94_muon, the faster one (2.59 s on an A100 by its authors), is a script on GitHub and"
    " in no package index."
)


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Whole trainings, each with its own seed, and accuracy on the 10,000 test images.

    The images are in memory before timing starts.
    """
    if device == "cpu":
        return
    config = TrainConfig(
        data=data.CIFAR10(),
        n_train=0,
        method=Standard(),
        net="resnet18",
        epochs=16,
        batch_size=512,
        lr=0.4,
        schedule="cyclic",
        augment="crop_flip",
        precision="bf16",
        device="cuda",
    )
    with contextlib.ExitStack() as ending:
        data.load(config.data, "train")  # raises UserError if the images are not available
        try:
            peer, missing = ending.enter_context(airbench()), ""
            peer()
        except Exception as error:  # a package of 2024 may fail in many ways with today's torch
            peer, missing = None, f" {PEER} did not run here ({error})."
        yield against(config, peer, rounds or 3, NOTE + missing)


def against(
    config: TrainConfig, peer: Callable[[], float] | None, rounds: int, note: str
) -> Outcome:
    """The race of whole trainings; the first training of each competitor is only a warm-up.

    `peer` trains once and returns its accuracy in %; None: there is no peer.
    """
    split = data.load(config.data, "test")
    reached: dict[str, list[float]] = {OURS: [], PEER: []}

    def ours() -> None:
        one = Ours(dataclasses.replace(config, seed=len(reached[OURS])))
        net = one.finish()
        x, y = split.x.to(one.training.device), split.y.to(one.training.device)
        reached[OURS].append(100 * float(count_right(net, x, y).float().mean()))

    def theirs() -> None:
        assert peer is not None
        reached[PEER].append(peer())

    racers = [Racer(OURS, ours), *([Racer(PEER, theirs)] if peer else [])]
    times = race(racers, rounds, str(config.device))
    gates = tuple(
        Gate(
            f"{name}: {statistics.mean(accuracies[1:]):.2f}% on average of {len(accuracies) - 1}"
            f" trainings ({min(accuracies[1:]):.2f} to {max(accuracies[1:]):.2f}), wanted"
            f" {MARK:g}%",
            statistics.mean(accuracies[1:]) >= MARK,
        )
        for name, accuracies in reached.items()
        if name == OURS or peer
    )
    setting = (
        f"{config.epochs} epochs, {config.net}, batch {config.batch_size}, {config.precision},"
        f" {config.schedule}"
    )
    return Outcome(
        "B13", "standard training", setting, times, {PEER: WANTED} if peer else {}, gates, note
    )


@contextlib.contextmanager
def airbench() -> Iterator[Callable[[], float]]:
    """A context that gives a function: it trains with airbench and returns the accuracy in %.

    The package reads our copy of the images from a temporary folder. Raises ImportError if it is
    not installed.
    """
    quick = torch.backends.cudnn.benchmark
    import airbench as package  # it switches cudnn.benchmark on for the whole process

    torch.backends.cudnn.benchmark = quick
    with tempfile.TemporaryDirectory() as folder:
        images(Path(folder) / "cifar10")
        with contextlib.chdir(folder):
            loader = package.CifarLoader(
                "cifar10",
                train=True,
                batch_size=1024,
                aug={"flip": True, "translate": 2},
                altflip=True,
            )
            judge = package.CifarLoader("cifar10", train=False, batch_size=2000)

        def train() -> float:
            torch.backends.cudnn.benchmark = True
            try:
                with contextlib.chdir(folder):
                    return 100 * float(
                        package.evaluate(package.train94(loader, verbose=False), judge, tta_level=2)
                    )
            finally:
                torch.backends.cudnn.benchmark = quick

        yield train


def images(folder: Path, source: data.Source | None = None) -> None:
    """Write CIFAR-10 (or another source) to `folder` in the package's format.

    The training file has all official training images, so our train and val splits.
    """
    folder.mkdir()
    for name, splits in (("train", ("train", "val")), ("test", ("test",))):
        parts = [data.load(source or data.CIFAR10(), split) for split in splits]
        held = {
            "images": torch.cat([part.images for part in parts]).permute(0, 2, 3, 1).contiguous(),
            "labels": torch.cat([part.y for part in parts]),
            "classes": list(parts[0].classes),
        }
        torch.save(held, folder / f"{name}.pt")
