"""Auto-PGD (APGD): gradient ascent that adapts its step size separately for each image."""

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

# images (N, C, H, W) -> the loss (N,), its gradient, and whether the attack has succeeded (N,)
Judge = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

# At a checkpoint an image's step size is halved if at most this share of the steps since the last
# one raised the loss; also if it was not halved there and the best loss has not risen since.
RISES = 0.75
INERTIA = 0.25  # weight of the previous step in each update (momentum)


@register("attack/apgd")
@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """PGD with momentum that starts with steps of 2ε and halves them when the loss stops rising.

    Each image has its own step size; when that is halved, the image's ascent continues from its
    best point so far. Images that are misclassified before the attack (if `targeted`: that are
    given the target class) are returned unchanged. For every other image the result is the first
    point that fooled the network or, if none did, the point with the highest loss.

    `targets` = 9 with `loss` dlr is APGD-T: one run towards each of the nine wrong classes with the
    highest logits on the clean image (towards all wrong classes if there are fewer), each on the
    images not fooled yet. An image counts as fooled whichever wrong class it is given.

    Source: Croce and Hein 2020 (arXiv 2003.01690), algorithm 1, DLR eq. 6, targeted DLR eq. 9; the
    checkpoints are those of the authors' `autopgd_base.py`. Differs: after the first step the
    authors' code compares the loss with 0, whereas the paper and this code compare it with the loss
    before that step; the authors' code returns the last misclassified point, or the clean image if
    there is none.
    """

    loss: Literal["ce", "dlr"] = option(
        "ce",
        "Cross-entropy (ce), or the difference-of-logits ratio (dlr), which does not change when"
        " the logits are rescaled.",
    )
    targets: int = option(
        0,
        "Number of targeted runs, one towards each of the most likely wrong classes; 0: one"
        " untargeted run.",
        low=0,
        high=1000,
    )
    steps: int = option(100, "How many steps.", low=1, high=2000)
    restarts: int = option(
        1,
        "How many runs from different random starts; for each image the most successful one"
        " counts.",
        low=1,
        high=100,
        advanced=True,
    )

    # Not a setting here, because APGD chooses its step size itself. Declaring a ClassVar removes
    # the inherited dataclass field.
    step_size: ClassVar[None] = None  # type: ignore[misc]

    fused = False
    label = "APGD"
    text = (
        "PGD that halves its step size when the loss stops rising, and continues from its best"
        " point."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets and (self.loss != "dlr" or self.targeted):
            raise UserError(
                f"targets={self.targets} uses the targeted DLR loss, so set loss=dlr as well"
                " (APGD-T: loss=dlr, targets=9)."
                if self.loss != "dlr"
                else "targeted=true attacks towards the given class, targets towards the most"
                " likely wrong classes: set only one of them.",
                code=2,
            )

    def check(self, classes: int) -> None:
        need = 4 if self.targets else 3 if self.loss == "dlr" else 1
        if classes < need:
            raise UserError(
                f"The {'targeted ' if self.targets else ''}DLR needs at least {need} classes, but"
                f" this network has {classes}; use APGD with loss=ce.",
                code=2,
            )

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        """The images after a random step of length ε, clipped to [0, 1]: x + ε·t/‖t‖.

        Length and ‖t‖ are in the norm of the ball; the direction t is Gaussian for l2 and uniform
        for linf.
        """
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
        """Returns x_adv (N, C, H, W) for `case`, as `Attack.run` does.

        `search` has no effect, since APGD stops working on fooled images in any case.
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
        """The attack's result after 0, 1, …, `steps` steps of the first run, (steps+1, N, C, H, W).

        These are not the points that the ascent visited but the best result so far: the first point
        that fooled the net or, until then, the point with the highest loss. The last entry is what
        `__call__` returns with one restart and at most one target.
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
        """Returns a function from images to their loss (N,): cross-entropy or DLR, negated if
        targeted. `targets` is ignored: the loss is never APGD-T's targeted DLR.
        """
        return lambda z: self._loss(logits_of(net, z), y, None)

    # The engine: how one run is carried out.

    def _before(self, case: Case) -> tuple[Tensor, list[Tensor] | list[None]]:
        """Returns on which images the attack has succeeded without a step, (N,) bool, and a list.

        The list has an entry for each of the `targets`: the target class of every image, (N,), the
        most likely wrong class first. Without targets it is [None]. `restarts` runs are made for
        each entry.
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
        """Returns what `_climb` returns for the images with indices `left`.

        `target` (N,): the class towards which each image of the case, not only of `left`, is to be
        moved; None: no target classes.
        """

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
        """Returns the points with the highest objective; used by `maximise`, where no image counts
        as fooled.
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
        """Returns the results of one run (N, C, H, W), the highest losses (N,) and which are fooled
        (N,). A result is the first point that fools, else the one with the highest loss; `path`
        collects the results after 0, 1, … steps. The run ends early once all images are fooled.
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
    """The numbers of steps after which step sizes may be halved, ascending and at most `steps`.

    With `steps` = 100 these are 22, 41, 57, 70, 80, 87, 93 and 99.
    """
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
    """Returns the loss at `z`, its gradient (as in `with_gradient`) and which images are fooled.

    A loss of NaN counts as −∞, so that such a point is never the best one.
    """
    loss, gradient, won = with_gradient(height, z)
    return loss.to(z.dtype).nan_to_num(-torch.inf, torch.inf, -torch.inf), gradient, won


def _where(which: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(which.view(-1, 1, 1, 1), a, b)
