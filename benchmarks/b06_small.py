"""B6: an epoch of PGD-10 adversarial training of the small network on a GPU, against torchattacks
in the usual loop.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks import setting, trainers
from benchmarks.harness import Outcome
from robustviz.methods import PGDAT
from robustviz.training.config import TrainConfig

WANTED = 40.0, 15.0


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """60,000 images of 28×28 in batches of 512 and of 128.

    torchattacks runs in a loop with a `DataLoader` and in one with the images in GPU memory.
    """
    if device == "cpu":
        return
    source, n, words = setting.fashion_mnist()
    for size in (512, 128):
        config = TrainConfig(
            data=source,
            n_train=n,
            method=PGDAT(),
            eps=0.1,
            net="small_resnet",
            epochs=3,
            batch_size=size,
            lr=0.1,
            precision="bf16",
            device="cuda",
        )
        yield from trainers.race_epochs(
            "B6",
            config,
            words,
            leanest(config),
            setting.leanest(nn.Identity(), 0, 0, 0)[0],
            sizes=(size,),
            turn=20_480,
            epoch=60_000,
            wanted=WANTED,
            rounds=rounds or 3,
        )


def leanest(config: TrainConfig) -> trainers.Attacking:
    """PGD of the peer with the least overhead, with the ε and the number of steps of `config`.

    Returns a function that makes the attack on a network.
    """
    eps, steps = float(config.eps or 0), trainers.steps_of(config)
    return lambda net: setting.leanest(net, eps, eps / 4, steps)[1]
