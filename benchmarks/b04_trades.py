"""B4: one TRADES step against the authors' loss function."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from robustviz.config import TrainConfig
from robustviz.methods import TRADES
from robustviz.nets.lean import has_bf16
from robustviz.training import Training, train


def official(
    net: nn.Module, x: Tensor, y: Tensor, optimiser: torch.optim.Optimizer, step: float, eps: float, steps: int, beta: float
) -> Tensor:
    """The work of the authors' `trades_loss` (repository yaodongyu/TRADES, commit 6e8e11b), call by call: in each step of the
    attack the clean images are forwarded again, and in the loss a second time.
    """
    net.eval()
    adv = x.detach() + 0.001 * torch.randn(x.shape, device=x.device).detach()
    for _ in range(steps):
        adv.requires_grad_()
        with torch.enable_grad():
            apart = F.kl_div(F.log_softmax(net(adv), dim=1), F.softmax(net(x), dim=1), reduction="sum")
        (gradient,) = torch.autograd.grad(apart, [adv])
        adv = adv.detach() + step * torch.sign(gradient.detach())
        adv = torch.min(torch.max(adv, x - eps), x + eps)
        adv = torch.clamp(adv, 0.0, 1.0)
    net.train()
    adv = torch.clamp(adv, 0.0, 1.0).detach()
    optimiser.zero_grad()
    logits = net(x)
    natural = F.cross_entropy(logits, y)
    robust = F.kl_div(F.log_softmax(net(adv), dim=1), F.softmax(net(x), dim=1), reduction="sum") / len(x)
    return natural + beta * robust


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    for data, size in (("shapes", 64), ("shapes", 128)):
        config = TrainConfig(data=data, method=TRADES(), batch_size=size, device=device, epochs=1)  # type: ignore[arg-type]
        ours = Training(config)
        stage = ours.plan[0][0]
        ours._enter(stage, fresh=True)
        batches = [part for part in ours._batches() if len(part) == size]
        theirs = copy.deepcopy(ours.net)
        optimiser = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        eps = float(config.eps or 0)

        def step(training: Training = ours, batches: list[Tensor] = batches) -> None:
            training.batch = (training.batch + 1) % len(batches)
            training._step(stage, batches[training.batch], 0.01, 0.5)  # noqa: B023

        def peer(net: nn.Module = theirs, batches: list[Tensor] = batches, eps: float = eps, count: list[int] = [0]) -> None:  # noqa: B006
            index = batches[count[0] % len(batches)]
            count[0] += 1
            loss = official(net, ours.images[index].float() / 255, ours.y[index], optimiser, eps / 4, eps, 10, 6.0)  # noqa: B023
            loss.backward()
            optimiser.step()  # noqa: B023

        gates = (_gate(device),) if size == 64 else ()
        setting = f"{data}, small_resnet, batch {size}, 10 steps{', attack in bf16' if has_bf16(device) else ''}"
        yield Outcome(
            "B4",
            "TRADES step",
            setting,
            race([Racer(OURS, step), Racer("official trades_loss", peer)], rounds or 9, device),
            {"official trades_loss": 4.0},
            gates,
        )


@functools.cache
def _gate(device: str) -> Gate:
    """Clean and PGD-10 accuracy on validation after the same two epochs, ours and with the official loss."""
    config = TrainConfig(data="digits", method=TRADES(), epochs=6, device=device)  # type: ignore[arg-type]
    for record in train(config):
        mine = record
    plain = Training(config)
    stage = plain.plan[0][0]
    eps = float(config.eps or 0)

    def loss(net: nn.Module, batch: object, aux: object) -> dict[str, Tensor]:
        assert plain.optimiser is not None
        return {"official": official(net, batch.x, batch.y, plain.optimiser, eps / 4, eps, 10, 6.0)}  # type: ignore[attr-defined]

    object.__setattr__(stage, "loss", loss)
    torch.manual_seed(0)
    for record in plain.epochs():
        theirs = record
    says = f"digits, 6 epochs, seed 0: clean {mine.clean_acc:.3f}, PGD-10 {mine.robust_acc:.3f}; official loss {theirs.clean_acc:.3f}, {theirs.robust_acc:.3f} (n = {mine.n_val})"
    return Gate(says, abs(mine.robust_acc - theirs.robust_acc) <= 0.05)
