"""B4: one TRADES step against the authors' loss function."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from benchmarks.trainers import LR, Ours
from robustviz.methods import TRADES
from robustviz.nets.attackable import has_bf16
from robustviz.training.config import TrainConfig
from robustviz.training.loop import EpochRecord, Training, train


def official(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    optimiser: torch.optim.Optimizer,
    step: float,
    eps: float,
    steps: int,
    beta: float,
) -> Tensor:
    """The TRADES loss by the same calls as the authors' `trades_loss`.

    Theirs is in the repository yaodongyu/TRADES, commit 6e8e11b. It repeats forward passes of the
    clean images: once in each step of the attack, and twice in the loss.
    """
    net.eval()
    adv = x.detach() + 0.001 * torch.randn(x.shape, device=x.device).detach()
    for _ in range(steps):
        adv.requires_grad_()
        with torch.enable_grad():
            apart = F.kl_div(
                F.log_softmax(net(adv), dim=1), F.softmax(net(x), dim=1), reduction="sum"
            )
        (gradient,) = torch.autograd.grad(apart, [adv])
        adv = adv.detach() + step * torch.sign(gradient.detach())
        adv = torch.min(torch.max(adv, x - eps), x + eps)
        adv = torch.clamp(adv, 0.0, 1.0)
    net.train()
    adv = torch.clamp(adv, 0.0, 1.0).detach()
    optimiser.zero_grad()
    logits = net(x)
    natural = F.cross_entropy(logits, y)
    robust = F.kl_div(
        F.log_softmax(net(adv), dim=1), F.softmax(net(x), dim=1), reduction="sum"
    ) / len(x)
    return natural + beta * robust


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Our training step against the authors', which is fp32.

    Ours runs with the attack in bf16, and with everything in bf16; on a processor without bf16 only
    in fp32.
    """
    for data, size in (("shapes", 64), ("shapes", 128)):
        formats = ("fp32", "bf16") if has_bf16(device) else ("fp32",)
        config = TrainConfig(data=data, method=TRADES(), batch_size=size, device=device, epochs=1)
        ours = [Ours(replace(config, precision=one)) for one in formats]
        training, batches = ours[0].training, ours[0].batches
        net = copy.deepcopy(training.net)
        optimiser = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
        eps, turn = float(config.eps or 0), itertools.cycle(batches)

        def peer() -> None:
            index = next(turn)  # noqa: B023
            x, y = training.images[index].float() / 255, training.y[index]  # noqa: B023
            loss = official(net, x, y, optimiser, eps / 4, eps, 10, 6.0)  # noqa: B023
            loss.backward()
            optimiser.step()  # noqa: B023

        racers = [Racer(OURS, functools.partial(one.turn, size)) for one in ours]
        *mine, theirs = race([*racers, Racer("official trades_loss", peer)], rounds or 9, device)
        setting = (
            f"{data}, small_resnet, batch {size}, 10"
            f" steps{', attack in bf16' if has_bf16(device) else ''}"
        )
        for precision, time in zip(formats, mine, strict=True):
            what = "TRADES step" if precision == "fp32" else "TRADES step, all in bf16"
            gates = (_gate(device, precision),) if size == 64 else ()
            yield Outcome("B4", what, setting, (time, theirs), {"official trades_loss": 4.0}, gates)


def _gate(device: str, precision: str) -> Gate:
    """Clean and PGD-10 accuracy on the validation split after the same six epochs, of our training
    and of one with the official loss.
    """
    for record in train(replace(_short(device), precision=precision)):  # type: ignore[arg-type]
        mine = record
    theirs = _official_epochs(device)
    says = (
        f"digits, 6 epochs, seed 0: clean {mine.clean_acc:.3f}, PGD-10 {mine.robust_acc:.3f};"
        f" official loss {theirs.clean_acc:.3f}, {theirs.robust_acc:.3f} (n = {mine.n_val})"
    )
    return Gate(says, abs(mine.robust_acc - theirs.robust_acc) <= 0.05)


def _short(device: str) -> TrainConfig:
    return TrainConfig(data="digits", method=TRADES(), epochs=6, device=device)


@functools.cache
def _official_epochs(device: str) -> EpochRecord:
    """The last epoch of our trainer with the official loss."""
    plain = Training(_short(device))
    stage = plain.plan[0][0]
    eps = float(plain.config.eps or 0)

    def loss(net: nn.Module, batch: object, aux: object) -> dict[str, Tensor]:
        assert plain.optimiser is not None
        return {"official": official(net, batch.x, batch.y, plain.optimiser, eps / 4, eps, 10, 6.0)}

    object.__setattr__(stage, "loss", loss)
    torch.manual_seed(0)
    *_, last = plain.epochs()
    return last
