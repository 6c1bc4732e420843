"""The ascent engine: one loop that climbs any per-sample objective inside a ball, for training, evaluation and pages.

An attack is a frozen dataclass of settings with two verbs. `attack(net, x, y, rng)` fools a classifier;
`attack.maximise(objective, x, …)` climbs whatever is handed to it, which is how TRADES' KL is attacked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.attacks import recorded
from robustviz.attacks.balls import BALLS, L2, Linf, advanced
from robustviz.nets.lean import LeanNet, lean
from robustviz.registry import Spec, option
from robustviz.types import UserError, check_eps

A = TypeVar("A", bound="Attack")
N = TypeVar("N", float, Tensor)
LOOK = 5  # steps between two looks of a search
BUCKET = 64  # where steps are recorded, a search goes on with a multiple of so many images
Objective = Callable[[Tensor], Tensor]  # images (N,C,H,W) -> one number a sample (N,)


@dataclass(frozen=True, eq=False)
class Height:
    """An objective that reads the logits of `net`: images -> of(logits, given), (N,). `of` is a plain function, so that the
    engine knows all that a step depends on. `given`, e.g. labels, has an entry for each image.
    """

    net: nn.Module
    of: Callable[[Tensor, Tensor], Tensor]
    given: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return self.of(self.net(z), self.given)


def _wrong(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _reached(logits: Tensor, y: Tensor) -> Tensor:
    return -F.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True)
class Attack(Spec):
    """Base of all attacks. Inputs are float images in [0, 1] and the net gives logits.

    `eps` None means "the run's": `bound(eps)` fills it in. A subclass says its default step size and its start; one that
    does not walk uphill step by step brings its own `__call__`, `trace` and `maximise`.
    """

    norm: Literal["linf", "l2"] = option("linf", "How the size of a change is measured.", advanced=True)
    eps: float | None = option(None, "Largest change allowed, in pixel units [0, 1]; empty: the run's.", low=0)
    step_size: float | None = option(None, "Length of one step, in pixel units; empty: ε/4 up to 20 steps, else ε/8.", low=0, advanced=True)
    targeted: bool = option(False, "If set, the label given is the class to be reached.", advanced=True)

    kind = "attack"
    walks: ClassVar[bool] = True  # whether `__call__` is this class's, step by step
    label: ClassVar[str]
    text: ClassVar[str]  # one plain sentence for the person who chooses

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is not None:
            check_eps(self.eps, self.norm)

    # What a subclass decides.

    @property
    def count(self) -> int:
        """How many steps one run takes."""
        raise NotImplementedError

    @property
    def tries(self) -> int:
        """How many runs from different starts."""
        return 1

    def default_step(self, eps: N) -> N:
        """The step size where none is set. A fixed 2/255 under ε = .15 overstates robust accuracy by 5 to 15 points."""
        return eps / 4 if self.count <= 20 else eps / 8

    def first(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        """Where a run starts."""
        raise NotImplementedError

    def seen(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """What the objective is shown in place of `z`, of the same shape; a subclass may vary it at random."""
        return z

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        """What a step follows: the gradient, which a subclass may smooth or add to the direction `before` (None at first)."""
        return gradient

    def check(self, classes: int) -> None:
        """Raises UserError where this attack is not defined for so few classes; such an attack asks before any work."""

    # What people call.

    def bound(self: A, eps: float) -> A:
        """This attack with `eps` filled in where it has none of its own."""
        return self if self.eps is not None else replace(self, eps=eps)

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """x_adv (N,C,H,W), detached, inside the ball and [0, 1]: images near `x` that `net` should get wrong.

        `y` (N,) are the true labels, or with `targeted` the classes to reach. `rng` None: a generator seeded 0 on x's
        device. Of several restarts each sample keeps the first that succeeded, else the one with the highest loss.
        The net's mode, parameters and their gradients are untouched. Raises UserError without an `eps`.
        """
        return self._found(net, x, y, rng or generator(x))

    def search(self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None, bf16: bool = False) -> Tensor:
        """As `__call__`, for those who only count which images are fooled: an image that `net` is found to misread at a look,
        every 5 steps, is left as it is and costs nothing more. `bf16`: gradients may be computed in bf16.
        """
        return self._found(net, x, y, rng or generator(x), search=True, bf16=bf16) if self.walks else self(net, x, y, rng)

    def _found(self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator, search: bool = False, bf16: bool = False) -> Tensor:
        with lean(net, x, bf16=bf16 and self.norm == "linf") as fast:
            # Where a step depends on more than the point it starts from, none may leave.
            leaving = search and self._follows_gradient

            def run(x: Tensor, start: Tensor, y: Tensor) -> Tensor:
                if not leaving:
                    return self._walk(self.objective(fast, y), x, start, None, rng)
                return self._hunt(net, fast, x, start, y, rng)

            best = run(x.detach(), self.first(BALLS[self.norm](x.detach(), self._radius(None)), rng), y)
            if self.tries > 1:
                won, height = self._judge(net, self.objective(fast, y), best, y)
                for _ in range(self.tries - 1):
                    left = (~won).nonzero().flatten()
                    if not len(left):
                        break
                    # Noise for all, so that an image's start does not depend on which others are left.
                    start = self.first(BALLS[self.norm](x, self._radius(None)), rng)[left]
                    other = run(x[left], start, y[left])
                    other_won, other_height = self._judge(net, self.objective(fast, y[left]), other, y[left])
                    better = other_won | (other_height > height[left])
                    best = best.index_copy(0, left, torch.where(better.view(-1, 1, 1, 1), other, best[left]))
                    height = height.index_copy(0, left, torch.where(better, other_height, height[left]))
                    won = won.index_copy(0, left, other_won)
        return best

    def trace(self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Every step of the first run, (steps+1, N, C, H, W): the starting point first, what `__call__` returns last."""
        rng, path = rng or generator(x), list[Tensor]()
        with lean(net, x) as fast:
            self._ascend(self.objective(fast, y), x, None, rng, path)
        return torch.stack(path)

    def maximise(self, objective: Objective, x: Tensor, *, eps: float | Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Images near `x`, detached, at which `objective` (images -> (N,)) is high; of several restarts the highest.

        `eps` overrides the attack's own: a number, one radius a sample (N,), or a map (N,1,H,W) for linf. The step
        size stays the one of the attack's `eps`, and follows this one where the attack has none. The caller sees to the net's mode (`frozen`).
        """
        rng = rng or generator(x)
        best = self._ascend(objective, x, eps, rng)
        if self.tries > 1:
            with torch.no_grad():
                height = objective(best)
                for _ in range(self.tries - 1):
                    other = self._ascend(objective, x, eps, rng)
                    other_height = objective(other)
                    best = torch.where((other_height > height).view(-1, 1, 1, 1), other, best)
                    height = torch.maximum(height, other_height)
        return best

    def objective(self, net: nn.Module, y: Tensor) -> Objective:
        """What `__call__` climbs: cross-entropy of the true class, or minus that of the target class."""
        return Height(net, _reached if self.targeted else _wrong, y)

    # The engine.

    def _ascend(
        self, objective: Objective, x: Tensor, eps: float | Tensor | None, rng: torch.Generator, path: list[Tensor] | None = None
    ) -> Tensor:
        start = self.first(BALLS[self.norm](x.detach(), self._radius(eps)), rng)
        return self._walk(objective, x, start, eps, rng, path)

    def _hunt(self, net: nn.Module, fast: nn.Module, x: Tensor, start: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """One run from `start` on, in which an image that `net` misreads at a look goes no further."""
        found = z = start
        left, own = torch.arange(len(x), device=x.device), len(x)
        for done in range(0, self.count, LOOK):
            steps = min(LOOK, self.count - done)
            z = self._walk(self.objective(fast, y[left]), x[left], z, None, rng, steps=steps)
            found = found.index_copy(0, left, z)
            if done + steps == self.count:
                break
            with torch.no_grad():
                out = (fast(z).argmax(dim=1) == y[left]) == self.targeted
                if bool(out.any()):  # what fast arithmetic says is asked again of the network itself
                    out[out.clone()] = (net(z[out]).argmax(dim=1) == y[left][out]) == self.targeted
            stay = (~out[:own]).nonzero().flatten()
            own = len(stay)
            if not own:
                break
            if recorded.wanted(z):  # in few sizes: the last one is climbed by several
                stay = torch.cat([stay, stay[-1:].expand(-len(stay) % BUCKET)])[: max(len(left), len(stay))]
            left, z = left[stay], z[stay]
        return found

    def _walk(
        self, objective: Objective, x: Tensor, z: Tensor, eps: float | Tensor | None, rng: torch.Generator, path: list[Tensor] | None = None,
        steps: int | None = None,
    ) -> Tensor:  # fmt: skip
        """One run from `z` on, or only so many `steps` of it."""
        lean_height = objective if isinstance(objective, Height) and isinstance(objective.net, LeanNet) and path is None else None
        if lean_height is not None:  # it likes its pixels so
            x, z = x.contiguous(memory_format=torch.channels_last), z.contiguous(memory_format=torch.channels_last)
        radius = self._radius(eps)
        size = self._size(radius)
        ball = BALLS[self.norm](x.detach(), radius)
        count = self.count if steps is None else steps
        played = lean_height is not None and self._follows_gradient and isinstance(ball, Linf) and not isinstance(size, Tensor)
        if played and recorded.wanted(z):
            return self._replayed(lean_height, ball, z, size, count)  # type: ignore[arg-type]
        if path is not None:
            path.append(z)
        heading: Tensor | None = None
        for _ in range(count):
            gradient = _slope(lambda z: objective(self.seen(z, rng)), z)
            with torch.no_grad():
                heading = self.direction(gradient, heading)
                z = ball.advance(z.detach(), heading, size)
            if path is not None:
                path.append(z)
        return z.detach().contiguous()

    def _replayed(self, objective: Height, ball: Linf, z: Tensor, size: float, steps: int) -> Tensor:
        """The same run by recordings of its step."""
        net, of = objective.net, objective.of
        assert isinstance(net, LeanNet)

        def step(z: Tensor, low: Tensor, high: Tensor, given: Tensor) -> Tensor:
            gradient = _slope(Height(net, of, given), z)
            with torch.no_grad():
                return advanced(z, gradient, size, low, high)

        with torch.no_grad():
            return (
                net.kept.setdefault("recordings", recorded.Recordings())
                .walk((of, size, net.places()), step, steps, z.detach(), ball.low, ball.high, objective.given)
                .contiguous()
            )

    @property
    def _follows_gradient(self) -> bool:
        """Whether a step depends on nothing but the point it starts from."""
        return type(self).seen is Attack.seen and type(self).direction is Attack.direction

    def _radius(self, eps: float | Tensor | None) -> float | Tensor:
        """The given ε, else the attack's own. Raises UserError where there is neither."""
        radius = self.eps if eps is None else eps
        if radius is None:
            raise UserError(f"The attack {self.key} has no eps; give one, e.g. {type(self).__name__}(eps=8/255).")
        return radius

    def _size(self, radius: float | Tensor) -> float | Tensor:
        """The length of a step: what was set, else what follows from the attack's own ε, else from the given one."""
        if self.step_size is not None:
            return self.step_size
        if self.eps is not None:
            return self.default_step(self.eps)
        if isinstance(radius, Tensor):
            if radius.ndim != 1:
                raise UserError("A budget map says no single ε to take the step size from; give the attack an eps or a step_size.")
            return self.default_step(radius).view(-1, 1, 1, 1)
        return self.default_step(radius)

    def _judge(self, net: nn.Module, objective: Objective, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            hit = net(x_adv).argmax(dim=1) == y
            return hit if self.targeted else ~hit, objective(x_adv)


def _slope(objective: Objective, z: Tensor) -> Tensor:
    """The gradient of the images only; of the sum, so that no sample's step depends on the others."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        return torch.autograd.grad(objective(z).sum(), z)[0]


def generator(x: Tensor) -> torch.Generator:
    """What `rng` None means: a generator on x's device, seeded 0."""
    return torch.Generator(device=x.device).manual_seed(0)
