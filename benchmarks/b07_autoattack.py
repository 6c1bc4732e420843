"""B7: how long a training takes on one GPU until AutoAttack leaves 43% and 50% of CIFAR-10.

`make bench ONLY=B7` takes half an hour or more. `python -m benchmarks.b07_autoattack trades 1000`
runs only the TRADES training, tests 1,000 test images and prints the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

import torch

from benchmarks import harness, setting
from benchmarks.harness import OURS, Gate, Outcome, Time
from robustviz import data
from robustviz.attacks import Attack, AutoAttack
from robustviz.methods import FGSMRS, PGDAT, TRADES
from robustviz.methods.base import Method
from robustviz.runs.folder import find_run
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.training.loop import Training
from robustviz.types import UserError

# A training whose accuracy on 1,000 images is this many percentage points (two standard errors)
# below its mark is not evaluated on all 10,000.
CLEAR = 3.0
ANCHORS = (
    "Published, on other GPUs and so no ratio: Wong et al. 2020 43.21% under AutoAttack after 12"
    " minutes; FastAT Benchmark (arXiv 2604.22853), ResNet-18, 100 epochs: NU-AT 50.10% after 2937"
    " s, PGD-10 with averaged weights 50.49% after 7027 s."
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training whose settings are close to published ones and were not tuned.

    `mark` is the accuracy under AutoAttack that it should reach, in %.
    """

    words: str
    mark: float
    method: Method
    epochs: int
    ema: float = 0.0

    def config(self, device: str) -> TrainConfig:
        return TrainConfig(
            data=data.CIFAR10(),
            n_train=0,
            method=self.method,
            net="resnet18",
            epochs=self.epochs,
            batch_size=512,
            lr=0.4,
            schedule="cyclic",
            augment="crop_flip",
            ema=self.ema,
            precision="bf16",
            select="last",
            device=device,
        )  # type: ignore[arg-type]


RECIPES = {
    "fgsm_rs": Recipe(
        "FGSM-RS, attacked in training mode as by its authors, 15 epochs",
        43.0,
        FGSMRS(attack_mode="train"),
        15,
    ),
    "pgd_at": Recipe("PGD-AT, averaged weights, 30 epochs", 50.0, PGDAT(), 30, 0.999),
    "trades": Recipe("TRADES, averaged weights, 30 epochs", 50.0, TRADES(), 30, 0.999),
}


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Each training once, with AutoAttack on the first 1,000 test images.

    If its mark is within reach, AutoAttack then runs on all 10,000.
    """
    if device == "cpu":
        return
    for recipe in RECIPES.values():
        yield from judged(recipe.config(device), recipe.words, recipe.mark, (1000, 10_000))


def judged(
    config: TrainConfig,
    words: str,
    mark: float,
    counts: Sequence[int],
    attack: Attack | None = None,
) -> Iterator[Outcome]:
    """Train, measure the time, and evaluate the last weights under `attack`.

    The default attack is AutoAttack. For each number in `counts`, so many of the first test images
    are used; the evaluation ends early if the accuracy is clearly below `mark`.
    """
    config = config.on_this_machine(find_run)
    split, device = data.load(config.data, "test"), str(config.device)
    # loaded now, so that reading files is not part of the time
    data.load(config.data, "train", config.n_train or None)
    warm = _seconds(dataclasses.replace(config, epochs=1, n_train=4 * int(config.batch_size or 1)))[
        0
    ]
    seconds, training = _seconds(config)
    attack = (attack or AutoAttack()).bound(float(config.eps or 0))
    where = (
        f"{words}, {config.net}, batch {config.batch_size}, {config.precision}, {config.schedule},"
        f" seed {config.seed}"
    )
    note = (
        "All of `robustviz train` but reading the images, validation after each epoch included."
        f" {ANCHORS}"
    )
    for count in counts:
        x, y = split.x[:count].to(training.device), split.y[:count].to(training.device)
        started = time.perf_counter()
        clean, left = (
            100 * float(count_right(training.judged, x, y, one).float().mean())
            for one in (None, attack)
        )
        spent = time.perf_counter() - started
        says = (
            f"{attack.label} leaves {left:.2f}% of the first {len(x):,} test images, wanted"
            f" {mark:g}%; clean {clean:.2f}% ({spent:.0f} s)"
        )
        yield Outcome(
            "B7",
            f"training until {attack.label} leaves {mark:g}%",
            where,
            (Time(OURS, (seconds,), warm),),
            {},
            (Gate(says, left >= mark),),
            (
                "Convolutions in TF32 while attacked, as torch has them on. "
                if device == "cuda"
                else ""
            )
            + note,
        )
        if left < mark - CLEAR:
            return


def _seconds(config: TrainConfig) -> tuple[float, Training]:
    """The seconds that the whole training takes, and the training."""
    started = time.perf_counter()
    training = Training(config)
    for _ in training.epochs():
        pass
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, training


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.b07_autoattack", description="One of B7's trainings, printed."
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("images", type=int, help="how many test images AutoAttack is let loose on")
    given = parser.parse_args(arguments)
    setting.find_shared_data()
    asked = RECIPES[given.recipe]
    try:
        for one in judged(asked.config("cuda"), asked.words, asked.mark, (given.images,)):
            print(harness.told(one))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
