"""Auto-PGD: gradient ascent that chooses its step size by itself, per image."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks.balls import L2, Linf
from robustviz.attacks.base import Attack, Case
from robustviz.attacks.objective import Objective, cross_entropy, with_gradient
from robustviz.inputs import all_logits, logits_of
from robustviz.registry import option, register
from robustviz.types import UserError

# images -> the loss (N,), its gradient, and whether the attack has succeeded (N,)
Judge = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

RISES = 0.75  # a step size is kept while more than this share of its steps raised the loss
INERTIA = 0.25  # share of the step before in each step


@register("attack/apgd")
@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Steps of 2ε with momentum, halved for each image that stops climbing, which then goes on from
    its best point.

    An image that is wrong already is given back unchanged; of the others each gets the first point
    that fooled the net, else the one with the highest loss. `targets` = 9 with `loss` dlr is
    APGD-T: one run towards each of the nine highest wrong classes of the clean image (all of them,
    where there are fewer), on images not fooled yet.

    Source: Croce and Hein 2020 (arXiv 2003.01690), algorithm 1, DLR eq. 6, targeted DLR eq. 9; the
    checkpoints are the authors' `autopgd_base.py`. Differs: their code compares the loss after the
    first step with 0, the paper and we with the loss before it; they return the last misclassified
    point, and the clean image where there is none.
    """

    loss: Literal["ce", "dlr"] = option(
        "ce",
        "Cross-entropy, or the difference of logits ratio, which no rescaling of the logits hides.",
    )
    targets: int = option(
        0,
        "Runs towards this many of the highest wrong classes; 0: one run away from the true class.",
        low=0,
        high=1000,
    )
    steps: int = option(100, "How many steps.", low=1, high=2000)
    restarts: int = option(
        1,
        "How many runs from different random starts; the worst counts, per image.",
        low=1,
        high=100,
        advanced=True,
    )

    # No setting here: choosing it is what this attack is about. A ClassVar takes the inherited
    # field out.
    step_size: ClassVar[None] = None  # type: ignore[misc]

    fused = False
    label = "APGD"
    text = (
        "PGD that halves its own step size where it stops climbing and goes on from its best point."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets and (self.loss != "dlr" or self.targeted):
            raise UserError(
                f"targets={self.targets} climbs the targeted DLR, so set loss=dlr as well (APGD-T:"
                " targets=9)."
                if self.loss != "dlr"
                else "targeted=true means one given class, targets the highest wrong ones: set one"
                " of the two.",
                code=2,
            )

    def check(self, classes: int) -> None:
        need = 4 if self.targets else 3 if self.loss == "dlr" else 1
        if classes < need:
            raise UserError(
                f"The {'targeted ' if self.targets else ''}DLR needs at least {need} classes and"
                f" this network has {classes}; use APGD with loss=ce.",
                code=2,
            )

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        """x + ε·t/‖t‖: a random direction stretched until it touches the ball, cut to [0, 1]."""
        if isinstance(ball, L2):
            t = torch.randn(ball.x.shape, generator=rng, dtype=ball.x.dtype, device=ball.x.device)
            return ball.project(ball.x + ball.eps * t / t.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        t = (
            2 * torch.rand(ball.x.shape, generator=rng, dtype=ball.x.dtype, device=ball.x.device)
            - 1
        )
        return ball.project(
            ball.x + ball.eps * t / t.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)
        )

    def run(self, case: Case, search: bool = False) -> Tensor:
        """x_adv (N,C,H,W) as in `Attack`; `search` changes nothing, since it leaves fooled images
        anyway.
        """
        won, ranked = self._before(case)
        best, height = case.x.clone(), case.x.new_full((len(case.x),), -torch.inf)
        for target in ranked:
            for _ in range(self.restarts):
                left = (~won).nonzero().squeeze(1)
                if not len(left):
                    return best
                reached, high, hit = self._run(case, left, target)
                better = hit | (high > height[left])
                best[left[better]] = reached[better]
                height[left], won[left] = torch.maximum(height[left], high), hit
        return best

    def trace(
        self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """(steps+1, N, C, H, W) of the first run: what the attack would have given back after 0, 1,
        … steps.

        So not where the walk went but the best so far: the first point that fooled the net, else
        the one with the highest loss; the last entry is what `__call__` gives with one restart and
        at most one target.
        """
        path = list[Tensor]()
        with self.prepared(net, x, y, rng) as case:
            won, ranked = self._before(case)
            left, target = (~won).nonzero().squeeze(1), ranked[0]
            if len(left):
                self._run(case, left, target, path)
            out = case.x.repeat(self.steps + 1, 1, 1, 1, 1)
        if path:
            out[:, left] = torch.stack(path + path[-1:] * (self.steps + 1 - len(path)))
        return out

    def objective(self, net: nn.Module, y: Tensor) -> Objective:
        """The loss of one run without targets: cross-entropy or DLR of the class, its negative
        where that is to be reached.
        """
        return lambda z: self._loss(logits_of(net, z), y, None)

    # The engine.

    def _before(self, case: Case) -> tuple[Tensor, list[Tensor] | list[None]]:
        """Which images need no attack (N,), and the runs to make: their target classes, or one
        None.
        """
        logits = all_logits(case.net, case.x, case.trial.at_once)
        wrong = logits.scatter(1, case.y[:, None], -torch.inf)
        return self._won(logits, case.y), (
            list(wrong.argsort(dim=1, descending=True)[:, :-1].T[: self.targets])
            if self.targets
            else [None]
        )

    def _won(self, logits: Tensor, y: Tensor) -> Tensor:
        return ((logits.argmax(dim=1) == y) & ~logits.isnan().any(dim=1)) == self.targeted

    def _loss(self, logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
        loss = losses.dlr(logits, y, target) if self.loss == "dlr" else cross_entropy(logits, y)
        return -loss if self.targeted else loss

    def _run(
        self, case: Case, left: Tensor, target: Tensor | None, path: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`_climb` of the images `left`, towards their `target` classes where there are some."""

        y, aims = case.y[left], None if target is None else target[left]

        def evaluate(place: slice, z: Tensor) -> tuple[Tensor, Tensor]:
            logits, aim = logits_of(case.net, z), None if aims is None else aims[place]
            return self._loss(logits, y[place], aim), self._won(logits, y[place])

        def judge(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            size = case.trial.at_once
            places = (slice(start, start + size) for start in range(0, len(z), size))
            parts = (_evaluate(functools.partial(evaluate, place), z[place]) for place in places)
            loss, gradient, won = (torch.cat(each) for each in zip(*parts, strict=True))
            return loss, gradient, won

        return self._climb(judge, case.x[left], None, case.rng, path)

    def _ascend(
        self,
        objective: Objective,
        x: Tensor,
        eps: float | Tensor | None,
        rng: torch.Generator,
        path: list[Tensor] | None = None,
    ) -> Tensor:
        """What `maximise` calls: nothing is ever fooled, so the point of the highest objective
        counts.
        """
        never = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return self._climb(
            lambda z: _evaluate(lambda z: (objective(z), never), z), x, eps, rng, path
        )[0]

    def _climb(
        self,
        judge: Judge,
        x: Tensor,
        eps: float | Tensor | None,
        rng: torch.Generator,
        path: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One run: the points (N,C,H,W), the highest losses met (N,), and which samples were won
        (N,).
        """
        ball = self._ball(x, eps)
        size, marks = 2 * ball.eps, set(checkpoints(self.steps))
        z = old = self.starting_points(ball, rng)
        loss, gradient, won = judge(z)
        answer, best, best_gradient, height = z, z, gradient, loss
        height_then, cut_then = height, torch.ones_like(won)
        rises, since, before = torch.zeros_like(loss), 0, loss
        if path is not None:
            path.append(answer)
        for step in range(1, self.steps + 1):
            if bool(won.all()):
                break
            with torch.no_grad():
                ahead = ball.project(ball.step(z, gradient, size))
                inertia = INERTIA if step > 1 else 0.0
                z, old = ball.project(z + (1 - inertia) * (ahead - z) + inertia * (z - old)), z
            loss, gradient, hit = judge(z)
            higher = loss > height
            best, best_gradient = _where(higher, z, best), _where(higher, gradient, best_gradient)
            height = torch.where(higher, loss, height)
            answer = _where(won, answer, _where(hit, z, best))
            won = won | hit
            rises, since, before = rises + (loss > before), since + 1, loss
            if step in marks:
                cut = (rises <= RISES * since) | (~cut_then & (height <= height_then))
                size = torch.where(cut.view(-1, 1, 1, 1), size / 2, size)
                z, gradient = _where(cut, best, z), _where(cut, best_gradient, gradient)
                height_then, cut_then, rises, since = height, cut, torch.zeros_like(rises), 0
            if path is not None:
                path.append(answer)
        return answer, height, won


def checkpoints(steps: int) -> tuple[int, ...]:
    """After which steps the step sizes are judged: 22, 41, 57, 70, 80, 87, 93 and 99 of 100."""
    gap = at = max(int(0.22 * steps), 1)
    out = []
    while at <= steps:
        out.append(at)
        gap = max(gap - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        at += gap
    return tuple(out)


def _evaluate(
    height: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss at `z`, lowest where it is not a number, its gradient as `input_gradient` gives it,
    and which images are won.
    """
    loss, gradient, won = with_gradient(height, z)
    return loss.to(z.dtype).nan_to_num(-torch.inf, torch.inf, -torch.inf), gradient, won


def _where(which: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(which.view(-1, 1, 1, 1), a, b)
