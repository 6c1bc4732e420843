"""B8: evaluation of the accuracy under PGD-50, against torchattacks' PGD-50."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import setting
from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from robustviz import data
from robustviz.attacks import PGD
from robustviz.attacks.objective import Objective
from robustviz.nets.attackable import has_bf16
from robustviz.training.evaluate import count_right


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """A standard, a PGD-AT and a TRADES network, on the 1,000 test images of shapes."""
    import torchattacks

    split = data.load("shapes", "test")
    for method in ("pgd_at", "trades", "standard"):
        run = setting.shipped("shapes", method)
        net, x, y = run.net().to(device), split.x.to(device), split.y.to(device)
        attack = PGD(eps=run.eps, steps=50, step_size=run.eps / 4)
        right: dict[str, int] = {}

        def ours(name: str, bf16: bool) -> None:
            right[name] = int(count_right(net, x, y, attack, bf16=bf16).sum())

        def theirs(name: str, size: int) -> None:
            other = torchattacks.PGD(
                net, eps=run.eps, alpha=run.eps / 4, steps=50, random_start=True
            )
            torch.manual_seed(0)
            count = 0
            for start in range(0, len(x), size):
                found = other(x[start : start + size], y[start : start + size])
                with torch.no_grad():
                    count += int((net(found).argmax(1) == y[start : start + size]).sum())
            right[name] = count

        fast = [(f"{OURS}, bf16", True)] if has_bf16(device) else []
        mine = [
            Racer(name, lambda name=name, bf16=bf16: ours(name, bf16))
            for name, bf16 in [(OURS, False), *fast]
        ]  # type: ignore[misc]
        peers = [
            Racer(f"torchattacks, batch {size}", lambda size=size: theirs("torchattacks", size))
            for size in (250, 64)
        ]  # type: ignore[misc]
        times = race([*mine, *peers], rounds or 3, device)
        left = _left(net, x, y, attack)
        for one, what in zip(
            times[: len(mine)],
            ("fp32, as everywhere", "searched in bf16, as validation in training"),
            strict=False,
        ):
            same = f"right: {right[one.name]} and torchattacks' {right['torchattacks']} of {len(x)}"
            gate = Gate(same, abs(right[one.name] - right["torchattacks"]) <= 3)
            rest = times[len(mine) :]
            yield Outcome(
                "B8",
                f"accuracy under PGD-50, {what}",
                f"{method} on shapes, n = {len(x)}",
                (one, *rest),
                {p.name: 4.0 for p in rest},
                (gate,),
                left,
            )


class Counted(PGD):
    """PGD that counts its steps: each step adds the number of images in the batch."""

    taken = 0

    def _walk(
        self, objective: Objective, x: Tensor, *rest: Any, steps: int | None = None, **more: Any
    ) -> Tensor:
        type(self).taken += len(x) * (self.count if steps is None else steps)
        return super()._walk(objective, x, *rest, steps=steps, **more)


def _left(net: nn.Module, x: Tensor, y: Tensor, attack: PGD) -> str:
    """A sentence about the share of all attack steps that an evaluation takes. Steps on images that
    withstand the attack cannot be saved.
    """
    Counted.taken = 0
    count_right(net, x, y, Counted(eps=attack.eps, steps=attack.steps, step_size=attack.step_size))
    return (
        f"Ours takes {Counted.taken / (len(x) * attack.steps):.0%} of the steps: images leave at"
        " the first look, every 5 steps, that finds them misread."
    )
