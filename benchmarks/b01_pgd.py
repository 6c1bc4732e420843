"""B1: PGD-10 on the small networks, on a CPU, against the attack libraries."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks import b00_roofline as roofline
from benchmarks import setting
from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from robustviz import data
from robustviz.attacks import PGD
from robustviz.methods import PGDAT
from robustviz.nets.lean import has_bf16
from robustviz.types import Batch

BF16 = {"torchattacks": 3.5, "foolbox": 4.5, "ART": 4.5, "cleverhans": 4.5}
FP32 = {"torchattacks": 1.5, "foolbox": 2.0, "ART": 2.0, "cleverhans": 2.0}


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Training's attack (gradients in bf16 where the processor has it) and everybody's attack in fp32, at two batch sizes."""
    if device != "cpu":
        return
    gates = (gate(*setting.ten_thousand()),) if has_bf16("cpu") else ()
    for key in ("shapes", "digits"):
        run = setting.shipped(key, "pgd_at")
        net, split = run.net(), data.load(key, "test")
        flops = roofline.step_flops(net, split.x[:2])
        for size in (128, 500):
            x, y = split.x[:size], split.y[:size]
            step = run.eps / 4
            others = setting.peers(net, run.eps, step, 10, tuple(x.shape), len(split.classes))
            if size != 128:
                others = {"torchattacks": others["torchattacks"]}
            attack = PGD(eps=run.eps, steps=10, step_size=step)
            label = f"{key} {'×'.join(map(str, x.shape))}, small_resnet"
            peers = [Racer(name, lambda other=other, x=x, y=y: other(x, y)) for name, other in others.items()]  # type: ignore[misc]
            if has_bf16("cpu"):
                ours = Racer(OURS, lambda net=net, attack=attack, x=x, y=y: in_training(net, attack, x, y))  # type: ignore[misc]
                times = race([ours, *peers], rounds or 9)
                note = roofline.share(OURS, times[0].least, 10 * len(x) * flops, "cpu", torch.bfloat16)
                yield Outcome("B1", "PGD-10 as in training, bf16", label, times, {n: BF16[n] for n in others}, gates, note)
                gates = ()
            ours = Racer(OURS, lambda net=net, attack=attack, x=x, y=y: attack(net, x, y))  # type: ignore[misc]
            times = race([ours, *peers], rounds or 9)
            note = roofline.share(OURS, times[0].least, 10 * len(x) * flops, "cpu", torch.float32)
            yield Outcome("B1", "PGD-10, fp32", label, times, {n: FP32[n] for n in others}, note=note)


def in_training(net: nn.Module, attack: PGD, x: Tensor, y: Tensor) -> Tensor:
    """The images of one training step: what PGD-AT learns from."""
    batch = Batch(x, y, torch.arange(len(x)), 0, 0.0, torch.Generator(device=x.device).manual_seed(0))
    return PGDAT(attack=attack).attacked(net, batch)


def gate(net: nn.Module, x: Tensor, y: Tensor, eps: float, words: str, tolerance: float = 0.3) -> Gate:
    """Robust accuracy on these images, attacked in bf16 and by torchattacks, judged in fp32; `tolerance` in points."""
    other = setting.peers(net, eps, eps / 4, 10, tuple(x[:500].shape), 10, names=("torchattacks",))["torchattacks"]
    attack, right = PGD(eps=eps, steps=10, step_size=eps / 4), [0, 0]
    torch.manual_seed(0)
    for start in range(0, len(x), 500):
        some, labels = x[start : start + 500], y[start : start + 500]
        for at, found in enumerate((in_training(net, attack, some, labels), other(some, labels))):
            with torch.no_grad():
                right[at] += int((net(found).argmax(1) == labels).sum())
    mine, theirs = (100 * k / len(x) for k in right)
    return Gate(f"robust accuracy {mine:.2f} % against torchattacks' {theirs:.2f} % ({words})", abs(mine - theirs) <= tolerance)
