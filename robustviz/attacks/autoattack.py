"""AutoAttack, run by its authors' package, which this module calls without reimplementing anything.
Only a result of that package may be reported under the name AutoAttack.
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

MOST_TARGETS = 9  # number of target classes in the standard version
_alone = threading.Lock()
BATCH = 250


@register("attack/autoattack")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack's standard version: APGD-CE, APGD-T, FAB-T and Square, run one after the other.

    Each of the four works only on the images that the previous ones did not fool. Images that are
    misclassified already, or that withstand all four, are returned unchanged. It has no settings
    except ε and the norm, and no targeted form. The network must return logits. At least four
    classes are needed, since the targeted loss is not defined for fewer.

    Source: Croce and Hein 2020 (arXiv 2003.01690), by the package pyautoattack 0.2. Differs: with 4
    to 9 classes the attack targets all wrong classes (number of classes − 1) instead of 9, because
    the package would fail.
    """

    # The standard version fixes these. Declaring a ClassVar removes the inherited dataclass field.
    step_size: ClassVar[None] = None  # type: ignore[misc]
    targeted: ClassVar[bool] = False  # type: ignore[misc]

    fused = False
    label = "AutoAttack"
    text = (
        "Four attacks one after the other, three with gradients and one without: the standard"
        " test of robust accuracy."
    )

    def check(self, classes: int) -> None:
        if classes < 4:
            raise UserError(
                f"AutoAttack needs at least 4 classes, but this network has {classes}; use pgd,"
                " apgd with loss=ce, or square.",
                code=2,
            )

    def run(self, case: Case, search: bool = False) -> Tensor:
        """Returns x_adv (N, C, H, W) for `case`, as `Attack.run` does; `search` has no effect.

        The package's seed is drawn from the case's generator, and torch's global random state is
        restored afterwards. With ε = 0 the images are returned unchanged. Raises UserError if
        pyautoattack is not installed.
        """
        eps, x, out = float(self._radius(None)), case.x, case.x.clone()
        try:
            package = load("pyautoattack").AutoAttack
        except ImportError as error:
            raise UserError(
                "AutoAttack needs the package pyautoattack, which is not installed: pip install"
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
        """The images before and after the attack, (2, N, C, H, W); steps between are not known."""
        return torch.stack([check_images(x), self(net, x, y, rng)])

    def maximise(
        self,
        objective: Objective,
        x: Tensor,
        *,
        eps: float | Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Raises UserError: AutoAttack attacks classifiers only, no other objective."""
        raise UserError(
            "AutoAttack attacks only a classifier and its labels: use pgd or apgd to maximise"
            " another objective."
        )


class _Single(nn.Module):
    """Makes a network that takes images of any `dtype` take and return float32, as the package
    needs.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.net, x.to(self.dtype)).float()


@contextmanager
def _contained(device: torch.device) -> Iterator[None]:
    """A context in which to run the package: it turns the package's log off and at the end restores
    what the package changes, torch's random state and the trace function (`sys.settrace`).

    Only one thread at a time is in it, since most of these belong to the whole process.
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
