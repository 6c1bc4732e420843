"""B1: PGD-10 on the small networks, on a CPU, against the attack libraries."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks import b00_roofline as roofline, setting
from benchmarks.harness import OURS, Gate, Outcome, Racer, Share, race
from robustviz import data
from robustviz.attacks import PGD
from robustviz.methods import PGDAT
from robustviz.nets.attackable import has_bf16
from robustviz.types import Batch

# the wanted share of the GEMM rate of the same processor; ratios to peers are only reported
WANTED = {torch.float32: 0.65, torch.bfloat16: 0.40}

NO_BF16 = " A race in bf16 is not applicable: this processor has none that torch can use."


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Races at two batch sizes: all attacks in fp32, and our attack as in training, in bf16.

    The bf16 race is left out on a processor without bf16. The first peer is torchattacks, which
    most people use; it runs at both batch sizes.
    """
    if device != "cpu":
        return
    fast = has_bf16("cpu")
    gates = (gate(*setting.ten_thousand()),)
    for words, net, images, labels, eps, classes in _settings():
        flops = roofline.step_flops(net, images[:2])
        for size in (128, 500):
            x, y = images[:size], labels[:size]
            others = setting.peers(net, eps, eps / 4, 10, tuple(x.shape), classes)
            if size != 128:  # only the peer with the least overhead, at its best batch size
                others = {"torchattacks": others["torchattacks"]}
            attack = PGD(eps=eps, steps=10, step_size=eps / 4)
            label = f"{words} {'×'.join(map(str, x.shape))}, small_resnet"
            peers = [
                Racer(name, lambda other=other, x=x, y=y: other(x, y))
                for name, other in others.items()
            ]  # type: ignore[misc]
            for bf16 in (True, False) if fast else (False,):
                run = in_training if bf16 else _attacked
                ours = Racer(
                    OURS, lambda run=run, net=net, attack=attack, x=x, y=y: run(net, attack, x, y)
                )  # type: ignore[misc]
                what = "PGD-10 as in training, bf16" if bf16 else "PGD-10, fp32"
                dtype = torch.bfloat16 if bf16 else torch.float32
                times = race([ours, *peers], rounds or 9)
                done = times[0].least, 10 * len(x) * flops, "cpu", dtype
                of_rate = Share(
                    roofline.reached(*done), WANTED[dtype], f"the {roofline.NAMES[dtype]} GEMM rate"
                )
                note = f"{roofline.share(OURS, *done)} {_profiled(ours)}{'' if fast else NO_BF16}"
                yield Outcome(
                    "B1", what, label, times, {}, gates if bf16 == fast else (), note, of_rate
                )
                gates = () if bf16 == fast else gates


def _settings() -> Iterator[tuple[str, nn.Module, Tensor, Tensor, float, int]]:
    """The settings of the races: (description, net, x, y, ε, number of classes). They are the
    gate's network and two shipped ones.
    """
    net, x, y, eps, words = setting.ten_thousand()
    if len(x) == 10_000:
        yield words.split(" on ")[1].split(",")[0], net, x, y, eps, 10
    for key in ("shapes", "digits"):
        run, split = setting.shipped(key, "pgd_at"), data.load(key, "test")
        yield key, run.net(), split.x, split.y, run.eps, len(split.classes)


def _attacked(net: nn.Module, attack: PGD, x: Tensor, y: Tensor) -> Tensor:
    return attack(net, x, y)


def _profiled(ours: Racer) -> str:
    """A sentence about the share of our time that the convolutions themselves take, which no code
    around them can save.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours.run()
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    within = sum(time for name, time in spent.items() if "convolution" in name)
    return (
        f"{within / sum(spent.values()):.0%} of it is spent inside oneDNN's convolutions"
        " (torch.profiler)."
    )


def in_training(net: nn.Module, attack: PGD, x: Tensor, y: Tensor) -> Tensor:
    """The attacked images of one PGD-AT training step."""
    batch = Batch(
        x, y, torch.arange(len(x)), 0, 0.0, torch.Generator(device=x.device).manual_seed(0)
    )
    return PGDAT(attack=attack).attacked(net, batch)


def gate(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, words: str, tolerance: float = 0.3
) -> Gate:
    """Whether our attack as in training leaves the same robust accuracy as the leanest peer.

    Accuracy on these images is computed in fp32; it may differ by `tolerance` percentage points.
    """
    name, other = setting.leanest(net, eps, eps / 4, 10)
    attack, right = PGD(eps=eps, steps=10, step_size=eps / 4), [0, 0]
    torch.manual_seed(0)
    for start in range(0, len(x), 500):
        some, labels = x[start : start + 500], y[start : start + 500]
        for at, found in enumerate((in_training(net, attack, some, labels), other(some, labels))):
            with torch.no_grad():
                right[at] += int((net(found).argmax(1) == labels).sum())
    mine, theirs = (100 * k / len(x) for k in right)
    return Gate(
        f"robust accuracy {mine:.2f}% against {theirs:.2f}% by {name} ({words})",
        abs(mine - theirs) <= tolerance,
    )
