"""The ascent engine: one loop that climbs any per-sample objective inside a ball, for training,
evaluation and pages.

An attack is a frozen dataclass of settings with two verbs. `attack(net, x, y, rng)` fools a
classifier; `attack.maximise(objective, x, …)` climbs whatever is handed to it, which is how TRADES'
KL is attacked.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from robustviz.attacks import recorded
from robustviz.attacks.balls import BALLS, L2, Linf, advanced
from robustviz.attacks.objective import (
    LogitObjective,
    Objective,
    closeness,
    cross_entropy,
    input_gradient,
    parts,
)
from robustviz.inputs import (
    Trial,
    all_logits,
    check_images,
    check_labels,
    check_shape,
    plain_tensor,
    try_out,
)
from robustviz.nets.attackable import addresses, attackable, copy_of
from robustviz.registry import Spec, hints, of_kind, option, unknown
from robustviz.types import UserError, WrongCall, check_eps, parse_number, plain

N = TypeVar("N", float, Tensor)
LOOK = 5  # steps between two looks of a search
BUCKET = 64  # where steps are recorded, a search goes on with a multiple of so many: few graphs


@dataclass(eq=False)
class Case:
    """One attack's task, checked: images `x` (N,C,H,W) and labels `y` (N,), int64.

    `net` computes what the caller's network does, for gradients; `trial`: what is known of it.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    trial: Trial
    rng: torch.Generator
    exact: Callable[[], nn.Module]

    @functools.cached_property
    def judge(self) -> nn.Module:
        """What computes as the caller's network does to the bit, for verdicts."""
        return self.exact()

    def misread(self, z: Tensor, y: Tensor) -> Tensor:
        """Which of the images `z` the network does not call `y`, (N,)."""
        return answers(self.judge, z, self.trial.at_once) != y


def answers(net: nn.Module, x: Tensor, at_once: int | None = None) -> Tensor:
    """The class that `net` calls each image, (N,) int64; −1 where its logits are not numbers.
    `at_once` as in `Trial`.
    """
    logits = all_logits(net, x, at_once)
    return torch.where(logits.isnan().any(dim=1), -1, logits.argmax(dim=1))


@dataclass(frozen=True, kw_only=True)
class Attack(Spec):
    """Base of all attacks. Inputs are float images in [0, 1] and the net gives logits.

    `eps` None means "the run's": `bound(eps)` fills it in. A subclass says its default step size
    and its start; one that does not walk uphill step by step brings its own `run`, `trace` and
    `maximise`. One that overrides `__call__` is taken at its word: what it returns is what is
    counted.
    """

    norm: Literal["linf", "l2"] = option(
        "linf", "How the size of a change is measured.", advanced=True
    )
    eps: float | None = option(
        None,
        "Largest change allowed, in pixel units [0, 1]; empty: the run's.",
        low=0,
        kind="radius",
    )
    step_size: float | None = option(
        None,
        "Length of one step, in pixel units; empty: ε/4 up to 20 steps, else ε/8.",
        low=0,
        kind="radius",
        advanced=True,
    )
    targeted: bool = option(
        False, "If set, the label given is the class to be reached.", advanced=True
    )

    kind = "attack"
    # whether gradients may differ from the network's by a rounding; verdicts never do
    fused: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True
    label: ClassVar[str]
    text: ClassVar[str]  # one plain sentence for the person who chooses

    def __new__(cls, *positional: object, **settings: object) -> Self:
        """Raises UserError for settings without names, and for those of other libraries."""
        me = cls.__name__
        if positional:
            raise WrongCall(f"{me} takes its settings by name, such as {me}(eps=8/255).", code=2)
        if strange := [each for each in settings if each not in hints(cls)]:
            raise WrongCall(unknown(f"setting of {me}", strange[0], hints(cls)), code=2)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in of_kind(type(self), "radius"):
            if isinstance(radius := getattr(self, name), str):  # 8/255
                object.__setattr__(self, name, parse_number(radius))
        super().__post_init__()
        if self.eps is not None:
            check_eps(self.eps, self.norm)

    # What a subclass decides.

    @property
    def count(self) -> int:
        """How many steps one run takes: the setting `steps`, or one where there is none."""
        return int(getattr(self, "steps", 1))

    @property
    def restart_count(self) -> int:
        """How many runs from different starts: the setting `restarts`, or one where there is
        none.
        """
        return int(getattr(self, "restarts", 1))

    def default_step(self, eps: N) -> N:
        """The step size where none is set. A fixed 2/255 under ε = .15 overstates robust accuracy
        by 5 to 15 points.
        """
        return eps / 4 if self.count <= 20 else eps / 8

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        """The images (N,C,H,W) inside `ball` from which one run starts."""
        raise NotImplementedError

    def transform_input(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """What the objective is shown in place of `z`, of the same shape; a subclass may vary it at
        random.
        """
        return z

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        """What a step follows: the gradient, which a subclass may smooth or add to the direction
        `before` (None at first).
        """
        return gradient

    def check(self, classes: int) -> None:
        """Raises UserError where this attack is not defined for so few classes; such an attack asks
        before any work.
        """

    # What people call.

    def bound(self, eps: float) -> Self:
        """This attack with `eps` filled in where it has none of its own."""
        return self if self.eps is not None else replace(self, eps=eps)

    def __call__(
        self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """x_adv (N,C,H,W), detached, inside the ball and [0, 1]: images near `x` that `net` should
        get wrong.

        `x`: floats in [0, 1]; 16-bit ones are attacked, and given back, in float32. `y` (N,), of
        any integer dtype, are the true labels, or with `targeted` the classes to reach. `rng` None:
        a generator seeded 0 on x's device. Of several restarts each sample keeps the first that
        succeeded, else the one with the highest loss. Pixels whose gradient is NaN or infinite stay
        where they are. The net's mode, parameters and their gradients are untouched. Raises
        UserError without an `eps`, for images, labels or a network of another kind, where an
        image's answer depends on the batch, and where an attack by gradients meets a network
        without any.
        """
        with self.prepared(net, x, y, rng) as case:
            return self.run(case)

    def search(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator | None = None,
        bf16: bool = False,
    ) -> Tensor:
        """As `__call__`, for those who only count which images are fooled: an image that `net` is
        found to misread at a look, every 5 steps, is left as it is and costs nothing more. `bf16`:
        gradients may be computed in bf16.
        """
        if type(self).__call__ is not Attack.__call__:
            return self(net, x, y, rng)
        with self.prepared(net, x, y, rng, bf16=bf16) as case:
            return self.run(case, search=True)

    @contextmanager
    def prepared(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator | None = None,
        *,
        bf16: bool = False,
    ) -> Iterator[Case]:
        """The checked task. Inside, `net` is not touched by what is done with it. Raises UserError
        as `__call__` does.
        """
        self._radius(None)
        if rng is not None and not isinstance(rng, torch.Generator):
            raise UserError(
                f"rng={rng!r} is no generator: use torch.Generator().manual_seed(0), or leave it"
                " out."
            )
        bf16 = bf16 and self.norm == "linf"
        with torch.inference_mode(False), ExitStack() as stack:

            def exact() -> nn.Module:
                return stack.enter_context(attackable(net, fused=False))

            x = check_images(x)
            ready = stack.enter_context(
                attackable(net, fused=self.fused, bf16=bf16, wide=self.needs_gradient)
            )
            trial = try_out(exact() if bf16 else ready, x)
            self.check(trial.classes)
            y = check_labels(y, len(x), trial.classes, x)
            if self.needs_gradient and not trial.has_gradient:
                raise UserError(
                    "The answers of this network do not depend on the image by a gradient (no_grad,"
                    " detach or argmax in its forward), so no step could be made and every image"
                    " would seem to withstand: use square, which needs none."
                )
            yield Case(ready, x, y, trial, rng or generator(x), exact)

    def run(self, case: Case, search: bool = False) -> Tensor:
        """x_adv as `__call__` returns it; `search` as there."""
        # Where a step depends on more than the point it starts from, no image may leave early.
        leaving, y = search and self._follows_gradient, case.y

        def climb(left: Tensor | slice) -> Tensor:
            # Noise for all, so that an image's start does not depend on which others are left.
            start = self.starting_points(self._ball(case.x, None), case.rng)[left]
            return (
                self._walk_until_misread(case, case.x[left], start, y[left])
                if leaving
                else self._walk(self._objective(case, y[left]), case.x[left], start, None, case.rng)
            )

        best = climb(slice(None))
        if self.restart_count > 1 and len(y):
            won, height = self._judged(case, best, y)
            for _ in range(self.restart_count - 1):
                left = (~won).nonzero().flatten()
                if not len(left):
                    break
                other = climb(left)
                other_won, other_height = self._judged(case, other, y[left])
                better = other_won | (other_height > height[left]) | height[left].isnan()
                best = best.index_copy(
                    0, left, torch.where(better.view(-1, 1, 1, 1), other, best[left])
                )
                height = height.index_copy(0, left, torch.where(better, other_height, height[left]))
                won = won.index_copy(0, left, other_won)
        return best

    def trace(
        self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """Every step of the first run, (steps+1, N, C, H, W): the starting point first, what
        `__call__` returns last.
        """
        path = list[Tensor]()
        with self.prepared(net, x, y, rng) as case:
            self._ascend(self._objective(case, case.y), case.x, None, case.rng, path)
        return torch.stack(path)

    def maximise(
        self,
        objective: Objective,
        x: Tensor,
        *,
        eps: float | Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Images near `x`, detached, at which `objective` (images -> (N,)) is high; of several
        restarts the highest.

        `eps` overrides the attack's own: a number, one radius a sample (N,), or a map (N,1,H,W) for
        linf. The step size stays the one of the attack's `eps`, and follows this one where the
        attack has none. The caller sees to the net's mode (`frozen`).
        """
        check_shape(x)
        with torch.inference_mode(False):
            # On a GPU the values are not looked at: a training would wait for it in every step.
            x = check_images(x) if x.device.type == "cpu" else plain_tensor(x)
            rng = rng or generator(x)
            best = self._ascend(objective, x, eps, rng)
            if self.restart_count > 1:
                with torch.no_grad():
                    height = objective(best)
                    for _ in range(self.restart_count - 1):
                        other = self._ascend(objective, x, eps, rng)
                        other_height = objective(other)
                        best = torch.where((other_height > height).view(-1, 1, 1, 1), other, best)
                        height = torch.maximum(height, other_height)
        return best

    def objective(self, net: nn.Module, y: Tensor) -> Objective:
        """What `__call__` climbs: cross-entropy of the true class, or minus that of the target
        class.
        """
        return LogitObjective(net, closeness if self.targeted else cross_entropy, y)

    # The engine.

    def _objective(self, case: Case, y: Tensor) -> Objective:
        """What is climbed in this case, in parts where memory asks for it."""
        objective = self.objective(case.net, y)
        return (
            replace(objective, at_once=case.trial.at_once)
            if isinstance(objective, LogitObjective)
            else objective
        )

    def _ascend(
        self,
        objective: Objective,
        x: Tensor,
        eps: float | Tensor | None,
        rng: torch.Generator,
        path: list[Tensor] | None = None,
    ) -> Tensor:
        return self._walk(
            objective, x, self.starting_points(self._ball(x, eps), rng), eps, rng, path
        )

    def _walk_until_misread(self, case: Case, x: Tensor, start: Tensor, y: Tensor) -> Tensor:
        """One run from `start` on, in which an image that the network misreads at a look goes no
        further.
        """
        reached = z = start
        left, own = torch.arange(len(x), device=x.device), len(x)
        for done in range(0, self.count if own else 0, LOOK):
            steps = min(LOOK, self.count - done)
            z = self._walk(self._objective(case, y[left]), x[left], z, None, case.rng, steps=steps)
            reached = reached.index_copy(0, left, z)
            if done + steps == self.count:
                break
            out = (answers(case.net, z, case.trial.at_once) == y[left]) == self.targeted
            if bool(out.any()):  # what fast arithmetic says is asked again of the network itself
                out[out.clone()] = case.misread(z[out], y[left][out]) != self.targeted
            stay = (~out[:own]).nonzero().flatten()
            own = len(stay)
            if not own:
                break
            if recorded.wanted(z):  # padded with copies of the last image, so that few graphs occur
                stay = torch.cat([stay, stay[-1:].expand(-len(stay) % BUCKET)])[
                    : max(len(left), len(stay))
                ]
            left, z = left[stay], z[stay]
        return reached

    def _walk(
        self,
        objective: Objective,
        x: Tensor,
        z: Tensor,
        eps: float | Tensor | None,
        rng: torch.Generator,
        path: list[Tensor] | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """One run from `z` on, or only so many `steps` of it."""
        known = objective if isinstance(objective, LogitObjective) and path is None else None
        copy = None if known is None else copy_of(known.net)
        if copy is not None and copy.plain:  # convolutions are faster so
            x, z = (each.contiguous(memory_format=torch.channels_last) for each in (x, z))
        size, ball = self._size(self._radius(eps)), self._ball(x, eps)
        count = self.count if steps is None else steps
        if (
            known is not None
            and copy is not None
            and copy.recordings is not None
            and recorded.wanted(z)
            and self._follows_gradient
            and isinstance(ball, Linf)
            and not isinstance(size, Tensor)
        ):
            return self._replayed(known, copy.recordings, ball, z, size, count)
        if path is not None:
            path.append(z)
        heading: Tensor | None = None
        for _ in range(count):
            with torch.no_grad():
                heading = self.direction(self._gradient(objective, z, rng), heading).to(z.dtype)
                z = ball.advance(z.detach(), heading, size)
            if path is not None:
                path.append(z)
        return z.detach().contiguous()

    def _gradient(self, objective: Objective, z: Tensor, rng: torch.Generator) -> Tensor:
        """The gradient at `z` of the objective as this attack looks at it."""
        if type(self).transform_input is Attack.transform_input:
            return input_gradient(objective, z)
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            shown = self.transform_input(z, rng)
            return torch.autograd.grad(shown, z, input_gradient(objective, shown))[0]

    @torch.no_grad()
    def _replayed(
        self,
        objective: LogitObjective,
        kept: dict[str, recorded.Recordings],
        ball: Linf,
        z: Tensor,
        size: float,
        steps: int,
    ) -> Tensor:
        """The same run by recordings of its step."""
        net, of = objective.net, objective.of

        def step(z: Tensor, low: Tensor, high: Tensor, given: Tensor) -> Tensor:
            return advanced(z, input_gradient(LogitObjective(net, of, given), z), size, low, high)

        given = z.detach(), ball.low, ball.high, objective.given
        recordings = kept.setdefault("recordings", recorded.Recordings())
        return recordings.walk((of, size, addresses(net)), step, steps, *given).contiguous()

    @property
    def _follows_gradient(self) -> bool:
        """Whether a step depends on nothing but the point it starts from."""
        return (
            type(self).transform_input is Attack.transform_input
            and type(self).direction is Attack.direction
        )

    def _radius(self, eps: float | Tensor | None) -> float | Tensor:
        """The given ε, else the attack's own. Raises UserError where there is neither."""
        radius = self.eps if eps is None else plain(eps)
        if radius is None:
            raise UserError(
                f"The attack {self.key} has no eps; give one, e.g."
                f" {type(self).__name__}(eps=8/255)."
            )
        return parse_number(radius) if isinstance(radius, str) else radius

    def _ball(self, x: Tensor, eps: float | Tensor | None) -> Linf | L2:
        """The images around `x` within the given ε, or the attack's own."""
        return BALLS[self.norm](x.detach(), self._radius(eps))

    def _size(self, radius: float | Tensor) -> float | Tensor:
        """The length of a step: what was set, else what follows from the attack's own ε, else from
        the given one.
        """
        if self.step_size is not None:
            return self.step_size
        own = radius if self.eps is None else self.eps
        if isinstance(own, Tensor) and own.ndim != 1:
            raise UserError(
                "A budget map says no single ε to take the step size from; give the attack an eps"
                " or a step_size."
            )
        return (
            self.default_step(own).view(-1, 1, 1, 1)
            if isinstance(own, Tensor)
            else self.default_step(own)
        )

    @torch.no_grad()
    def _judged(self, case: Case, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of each image, whether the attack has succeeded, and the height of the objective."""
        pairs = parts(self._objective(case, y), len(y))
        heights = torch.cat([part(x_adv[place]) for place, part in pairs])
        return case.misread(x_adv, y) != self.targeted, heights


def generator(x: Tensor) -> torch.Generator:
    """What `rng` None means: a generator on x's device, seeded 0."""
    return torch.Generator(device=x.device).manual_seed(0)
