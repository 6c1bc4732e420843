"""B3: an epoch of PGD-10 adversarial training of ResNet-18 on a GPU, against the usual training
loop of scripts.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks import setting, trainers
from benchmarks.harness import Outcome
from robustviz.methods import PGDAT
from robustviz.training.config import TrainConfig

WANTED = 5.0


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Our training in bf16 and in fp32 against the usual loop in TF32.

    The usual loop runs with a `DataLoader`, in batches of 128 and of 512, and with the images in
    GPU memory.
    """
    if device == "cpu":
        return
    source, n, words = setting.cifar10()
    config = TrainConfig(
        data=source,
        n_train=n,
        method=PGDAT(),
        net="resnet18",
        epochs=3,
        batch_size=512,
        lr=0.2,
        augment="crop_flip",
        precision="bf16",
        device="cuda",
    )
    yield from trainers.race_epochs(
        "B3",
        config,
        words,
        written_out(config),
        "usual loop",
        sizes=(128, 512),
        turn=10_240,
        epoch=50_000,
        wanted=(WANTED, WANTED),
        rounds=rounds or 5,
    )


def written_out(config: TrainConfig) -> trainers.Attacking:
    """The PGD that training scripts contain, with the ε and the number of steps of `config`.

    Returns a function that makes the attack on a network.
    """
    eps, steps = float(config.eps or 0), trainers.steps_of(config)

    def on(net: nn.Module) -> setting.Attacker:
        return lambda x, y: trainers.written_out(net, x, y, eps, eps / 4, steps)

    return on
