"""B8: accuracy under PGD-50, counted, against torchattacks' PGD-50."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import setting
from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from robustviz import data
from robustviz.attacks import PGD
from robustviz.attacks.base import Objective
from robustviz.evaluate import count_right
from robustviz.nets.lean import has_bf16


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """An ordinary, an adversarially trained and a TRADES network on the thousand shapes."""
    import torchattacks

    split = data.load("shapes", "test")
    for method in ("pgd_at", "trades", "standard"):
        run = setting.shipped("shapes", method)
        net, x, y = run.net().to(device), split.x.to(device), split.y.to(device)
        attack = PGD(eps=run.eps, steps=50, step_size=run.eps / 4)
        right: dict[str, int] = {}

        def ours(bf16: bool) -> None:
            right[OURS] = int(count_right(net, x, y, attack, bf16=bf16).sum())  # noqa: B023

        def theirs(size: int) -> None:
            other = torchattacks.PGD(net, eps=run.eps, alpha=run.eps / 4, steps=50, random_start=True)  # noqa: B023
            torch.manual_seed(0)
            count = 0
            for start in range(0, len(x), size):  # noqa: B023
                found = other(x[start : start + size], y[start : start + size])  # noqa: B023
                with torch.no_grad():
                    count += int((net(found).argmax(1) == y[start : start + size]).sum())  # noqa: B023
            right["torchattacks"] = count  # noqa: B023

        peers = [Racer("torchattacks, batch 250", lambda: theirs(250)), Racer("torchattacks, batch 64", lambda: theirs(64))]
        for bf16 in (False, True) if has_bf16(device) else (False,):
            times = race([Racer(OURS, lambda bf16=bf16: ours(bf16)), *peers], rounds or 2, device)  # type: ignore[misc]
            same = Gate(f"right: {right[OURS]} and {right['torchattacks']} of {len(x)}", abs(right[OURS] - right["torchattacks"]) <= 3)
            what = "accuracy under PGD-50, " + ("searched in bf16" if bf16 else "fp32")
            wanted = {peer.name: 4.0 for peer in peers}
            yield Outcome("B8", what, f"{method} on shapes, n = {len(x)}", times, wanted, (same,), _left(net, x, y, attack))


class Counted(PGD):
    """PGD that counts its steps: one for each image in each."""

    taken = 0

    def _walk(self, objective: Objective, x: Tensor, *rest: Any, steps: int | None = None, **more: Any) -> Tensor:
        type(self).taken += len(x) * (self.count if steps is None else steps)
        return super()._walk(objective, x, *rest, steps=steps, **more)


def _left(net: nn.Module, x: Tensor, y: Tensor, attack: PGD) -> str:
    """A sentence: how many of all steps a count takes. Those of images that withstand the attack cannot be saved."""
    Counted.taken = 0
    count_right(net, x, y, Counted(eps=attack.eps, steps=attack.steps, step_size=attack.step_size))
    return f"Ours takes {Counted.taken / (len(x) * attack.steps):.0%} of the steps: images leave at the first look, every 5 steps, that finds them misread."
