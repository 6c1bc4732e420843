"""B2: PGD-10 on ResNet-18 on a GPU, against torchattacks and ART."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks import b00_roofline as roofline, b01_pgd, setting
from benchmarks.harness import OURS, Outcome, Racer, race
from robustviz.attacks import PGD
from robustviz.methods import PGDAT
from robustviz.nets.attackable import has_bf16
from robustviz.nets.base import Classifier
from robustviz.training.config import TrainConfig

WANTED = {"torchattacks": 5.0, "ART": 20.0}


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Our attack as in training, on 512 images, and all attacks in fp32.

    The libraries use TF32 convolutions, torch's default. The network was adversarially trained for
    five epochs, and the gate compares the robust accuracy on 10,000 images.
    """
    if device == "cpu":
        return
    source, n, words = setting.cifar10()
    config = TrainConfig(
        data=source,
        n_train=n,
        method=PGDAT(),
        net="resnet18",
        epochs=5,
        batch_size=512,
        lr=0.2,
        augment="crop_flip",
        precision="bf16",
        device="cuda",
    )
    net, (x, y) = setting.kept(config), setting.unseen(source, n, 10_000)
    yield from against(net, x.to(device), y.to(device), float(config.eps or 0), words, rounds or 9)


def against(
    net: Classifier,
    x: Tensor,
    y: Tensor,
    eps: float,
    words: str,
    rounds: int,
    sizes: Sequence[int] = (512, 128),
) -> Iterator[Outcome]:
    """The race on the first `sizes[0]` of these images, and the gate on all images.

    The peers also run on the same images in the smaller batches `sizes[1:]`. A peer that is not
    installed is left out, and the notes say so; for torchattacks a copy of its code is used.
    """
    device, whole = x.device.type, sizes[0]
    few, labels = x[:whole], y[:whole]
    attack = PGD(eps=eps, steps=10, step_size=eps / 4)
    ours = [
        Racer(OURS, lambda: b01_pgd.in_training(net, attack, few, labels)),
        Racer(OURS, lambda: attack(net, few, labels)),
    ]
    peers, wanted = list[Racer](), dict[str, float]()
    for size in sizes:
        others, missing = setting.some_peers(
            tuple(WANTED)[1:], net, eps, eps / 4, 10, (size, *x.shape[1:]), 10
        )
        first, leanest = setting.leanest(net, eps, eps / 4, 10)
        for name, other in {first: leanest, **others}.items():

            def run(other: setting.Attacker = other, size: int = size) -> None:
                for some, its in zip(few.split(size), labels.split(size), strict=True):
                    other(some, its)

            peers.append(Racer(f"{name}, batch {size}", run))
            wanted[peers[-1].name] = WANTED.get(name, WANTED["torchattacks"])
    trained, plain, *theirs = race([*ours, *peers], rounds, device)
    fast = torch.bfloat16 if has_bf16(device) else torch.float32
    flops = 10 * whole * roofline.step_flops(net, x)
    gate = b01_pgd.gate(
        net,
        x,
        y,
        eps,
        f"{words} to learn from, {len(x):,} to attack",
        0.3 if len(x) >= 10_000 else 1.0,
    )
    label = f"{'×'.join(map(str, few.shape))}, {type(net).__name__}"
    shares = " ".join(
        roofline.share(time.name, time.least, flops, device, fast)
        for time in (trained, *theirs[:1])
    )
    what = f"PGD-10 as in training, {roofline.NAMES[fast]}"
    yield Outcome(
        "B2", what, label, (trained, *theirs), wanted, (gate,), f"{shares} {missing}".strip()
    )
    shares = roofline.share(OURS, plain.least, flops, device, fast)
    yield Outcome(
        "B2", "PGD-10, fp32", label, (plain, *theirs), {}, (), f"{shares} {missing}".strip()
    )
