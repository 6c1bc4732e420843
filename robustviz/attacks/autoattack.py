"""AutoAttack, by its authors' code: a number with that name comes from the package and from nothing
else.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustviz.attacks.balls import BALLS
from robustviz.attacks.base import Attack, Case
from robustviz.attacks.objective import Objective
from robustviz.imports import load
from robustviz.inputs import check_images, logits_of
from robustviz.registry import register
from robustviz.types import UserError

MOST_TARGETS = 9  # of the standard version
_alone = threading.Lock()
BATCH = 250


@register("attack/autoattack")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The standard version: APGD-CE, APGD-T, FAB-T and Square in turn, each on the images that the
    ones before left.

    An image that is wrong already, or that withstands all four, is given back unchanged. It has no
    settings, and no targeted form. Expects logits; below four classes its targeted loss does not
    exist.

    Source: Croce and Hein 2020 (arXiv 2003.01690), by the package pyautoattack 0.2. Differs: with 4
    to 9 classes every wrong class is a target, classes − 1 instead of 9, where the package would
    fail.
    """

    # The standard version leaves nothing to choose. A ClassVar takes the inherited field out.
    step_size: ClassVar[None] = None  # type: ignore[misc]
    targeted: ClassVar[bool] = False  # type: ignore[misc]

    fused = False
    label = "AutoAttack"
    text = (
        "Four attacks in turn, three with gradients and one without: the field's standard for an"
        " honest number."
    )

    def check(self, classes: int) -> None:
        if classes < 4:
            raise UserError(
                f"AutoAttack needs at least 4 classes and this network has {classes}; use pgd, apgd"
                " with loss=ce, or square.",
                code=2,
            )

    def run(self, case: Case, search: bool = False) -> Tensor:
        """x_adv (N,C,H,W) as in `Attack`; `search` changes nothing. The package's seed is drawn
        from the case's generator; torch's global one stays as it was. Raises UserError where
        pyautoattack is not installed.
        """
        eps, x, out = float(self._radius(None)), case.x, case.x.clone()
        try:
            package = load("pyautoattack").AutoAttack
        except ImportError as error:
            raise UserError(
                "AutoAttack needs the package pyautoattack, which is not here: pip install"
                " 'pyautoattack>=0.2,<0.3'."
            ) from error
        if eps == 0 or not len(x):
            return out
        with _contained(x.device):
            work = package(
                _Single(case.net, x.dtype),
                norm={"linf": "Linf", "l2": "L2"}[self.norm],
                eps=eps,
                seed=int(torch.randint(2**31, (1,), generator=case.rng, device=case.rng.device)),
                device=x.device,
            )
            work.verbose = False
            work.apgd_targeted.n_target_classes = work.fab.n_target_classes = min(
                MOST_TARGETS, case.trial.classes - 1
            )
            found, _ = work.run_standard_evaluation(
                x.float(), case.y, batch_size=min(BATCH, case.trial.at_once)
            )
        changed = (found != x.float()).flatten(1).any(dim=1)
        out[changed] = BALLS[self.norm](x, eps).project(found.to(x.dtype))[changed].to(out.dtype)
        return out

    def trace(
        self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """(2, N, C, H, W): before and after, since the package tells of no steps."""
        return torch.stack([check_images(x), self(net, x, y, rng)])

    def maximise(
        self,
        objective: Objective,
        x: Tensor,
        *,
        eps: float | Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Raises UserError: AutoAttack fools classifiers and climbs no other objective."""
        raise UserError(
            "AutoAttack works on a classifier and its labels only; use pgd or apgd to raise another"
            " objective."
        )


class _Single(nn.Module):
    """The net for the package, which computes in float32 whatever it is given."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.net, x.to(self.dtype)).float()


@contextmanager
def _contained(device: torch.device) -> Iterator[None]:
    """Inside, the package may seed torch, switch tracing off and write to its log; afterwards none
    of it shows. One thread at a time, since seed and log are the process's.
    """
    with _alone:
        tracer, log = sys.gettrace(), logging.getLogger("auto-attack")
        silent, log.disabled = log.disabled, True
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                yield
        finally:
            sys.settrace(tracer)
            log.disabled = silent
