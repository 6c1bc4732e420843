"""`Attack`, the base class of all attacks, with the ascent loop that most of them use.

An attack is a frozen dataclass of settings that is used in two ways: `attack(net, x, y, rng)`
attacks a classifier, and `attack.maximise(objective, x, …)` maximises any objective with one value
per sample, such as the KL divergence of TRADES.
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
LOOK = 5  # a search checks after every 5 steps which images are fooled
# With CUDA graphs, a search pads its batch to a multiple of this, so that few batch sizes occur.
BUCKET = 64


@dataclass(eq=False)
class Case:
    """The checked input of one attack: images `x` (N, C, H, W) and labels `y` (N,), int64.

    `net`, used for gradients, gives the logits of the caller's network up to rounding (to that of
    bf16 if `prepared` was called with `bf16`). `exact()` returns a network that gives them bit for
    bit. `trial`: what `try_out` returned.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    trial: Trial
    rng: torch.Generator
    exact: Callable[[], nn.Module]

    @functools.cached_property
    def judge(self) -> nn.Module:
        """A network with exactly the caller's logits, used to decide whether an image is fooled."""
        return self.exact()

    def misread(self, z: Tensor, y: Tensor) -> Tensor:
        """For each image in `z`, whether `judge` gives NaN or another class than `y`; (N,) bool."""
        return answers(self.judge, z, self.trial.at_once) != y


def answers(net: nn.Module, x: Tensor, at_once: int | None = None) -> Tensor:
    """The class that `net` predicts for each image, (N,) int64; −1 where a logit is NaN.

    At most `at_once` images (None: all) are computed together.
    """
    logits = all_logits(net, x, at_once)
    return torch.where(logits.isnan().any(dim=1), -1, logits.argmax(dim=1))


@dataclass(frozen=True, kw_only=True)
class Attack(Spec):
    """Base class of all attacks: from images in [0, 1] it computes adversarial ones.

    The network must return logits. `eps` None stands for the ε of the training run, which
    `bound(eps)` fills in. A subclass defines its starting points and may define a default step size
    of its own; one that does not ascend step by step defines its own `run`, `trace` and `maximise`.
    If a subclass overrides `__call__`, `search` calls it, so evaluations count what it returns.
    """

    norm: Literal["linf", "l2"] = option(
        "linf", "The norm in which the size of the perturbation is measured.", advanced=True
    )
    eps: float | None = option(
        None,
        "The largest perturbation allowed, for pixels in [0, 1]; empty: the training run's ε.",
        low=0,
        kind="radius",
    )
    step_size: float | None = option(
        None,
        "Step size, for pixels in [0, 1]; empty: ε/4 for up to 20 steps, else ε/8.",
        low=0,
        kind="radius",
        advanced=True,
    )
    targeted: bool = option(
        False,
        "If set, the given label is the target class that the attack tries to reach.",
        advanced=True,
    )

    kind = "attack"
    # whether gradients may come from fused layers (equal up to rounding); predictions never do
    fused: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True
    label: ClassVar[str]
    text: ClassVar[str]  # one plain sentence, shown where people choose an attack

    def __new__(cls, *positional: object, **settings: object) -> Self:
        """Raises UserError for positional arguments and for unknown or misnamed settings."""
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

    # What a subclass may override.

    @property
    def count(self) -> int:
        """The number of steps in a run: the setting `steps`, or 1 if there is no such setting."""
        return int(getattr(self, "steps", 1))

    @property
    def restart_count(self) -> int:
        """The number of runs from different starts: the setting `restarts`, or 1 without it."""
        return int(getattr(self, "restarts", 1))

    def default_step(self, eps: N) -> N:
        """The step size used where none is set: ε/4 for up to 20 steps, else ε/8.

        It grows with ε: with a fixed step of 2/255 at ε = 0.15, the measured robust accuracy is 5
        to 15 percentage points too high.
        """
        return eps / 4 if self.count <= 20 else eps / 8

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        """The images (N, C, H, W) inside `ball` from which one run starts."""
        raise NotImplementedError

    def transform_input(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """The images on which the objective is evaluated in place of `z`, of the same shape.

        Here `z` itself; a subclass may transform it at random.
        """
        return z

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        """The direction of a step, here the gradient; a subclass may smooth it or add momentum.

        `before` is the direction of the previous step, None in the first.
        """
        return gradient

    def check(self, classes: int) -> None:
        """Raises UserError if the attack cannot be used with a network of `classes` classes."""

    # What callers use.

    def bound(self, eps: float) -> Self:
        """This attack with its `eps` set to the given one, unless it already has an `eps`."""
        return self if self.eps is not None else replace(self, eps=eps)

    def __call__(
        self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """Returns adversarial images (N, C, H, W), detached, in [0, 1] and in the ball around `x`.

        `x`: floats in [0, 1]; 16-bit images are converted to float32 and returned so. `y` (N,), of
        any integer dtype: the true labels or, if `targeted`, the classes to reach. `rng` None: a
        generator on x's device with seed 0. With restarts, each image's result is that of the first
        run that succeeded, else the one with the highest `objective`. A gradient of NaN or infinity
        counts as 0 at that pixel. Afterwards the network is as before. Raises UserError if `eps` is
        missing, if images, labels or network are not valid, if an image's logits depend on the rest
        of the batch, and if the attack needs a gradient and the network has none.
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
        """Returns images as `__call__` does, but faster; for callers that only count fooled images.

        An image found fooled takes no further steps, so `__call__` may return another point for it;
        the check is made after every 5 steps, and not for attacks with momentum or a random
        transformation. `bf16`: gradients may be computed in bf16 (linf only).
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
        """A context that yields the checked input as a `Case`; attacking it does not change `net`.

        `bf16` as in `search`. Raises UserError as `__call__` does.
        """
        self._radius(None)
        if rng is not None and not isinstance(rng, torch.Generator):
            raise UserError(
                f"rng={rng!r} is not a torch.Generator: use torch.Generator().manual_seed(0), or"
                " leave it out."
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
                    "The logits of this network have no gradient with respect to the image"
                    " (no_grad, detach or argmax in its forward), so a gradient attack cannot"
                    " move and every image would seem robust: use square, which needs no"
                    " gradient."
                )
            yield Case(ready, x, y, trial, rng or generator(x), exact)

    def run(self, case: Case, search: bool = False) -> Tensor:
        """Returns x_adv for `case`, as `__call__` does or, if `search` is set, as `search` does."""
        # Images may be dropped early only if a step depends on nothing but its starting point.
        leaving, y = search and self._follows_gradient, case.y

        def climb(left: Tensor | slice) -> Tensor:
            # Draw noise for all images: an image's start must not depend on which are left.
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
        """The images after 0, 1, …, `count` steps of the first run, (count+1, N, C, H, W)."""
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
        """Returns images (N, C, H, W) in the ball around `x`, detached, with a high `objective`.

        `x`, `rng`: as in `__call__`, but on a GPU `x` keeps its dtype and its values are not
        checked. `objective` maps images to one value each, (N,); with restarts, each image's result
        is the one of highest value. `eps` overrides the attack's own: a number, one radius per
        image (N,) or, for linf, a map (N,1,H,W) or (N,C,H,W). Without `step_size`, the step size
        follows from the attack's own `eps` or, if it has none, from this `eps`, which then must not
        be a map. The caller sets the network's mode (see `frozen`). Raises UserError for bad input.
        """
        check_shape(x)
        with torch.inference_mode(False):
            # Values on a GPU are not checked, since training would wait for the GPU in every step.
            x = check_images(x) if x.device.type == "cpu" else plain_tensor(x)
            rng = rng or generator(x)
            best = self._ascend(objective, x, eps, rng)
            if self.restart_count > 1:
                with torch.no_grad():
                    height = objective(best)
                    for _ in range(self.restart_count - 1):
                        other = self._ascend(objective, x, eps, rng)
                        better = ((reached := objective(other)) > height) | height.isnan()
                        best = torch.where(better.view(-1, 1, 1, 1), other, best)
                        height = torch.fmax(height, reached)
        return best

    def objective(self, net: nn.Module, y: Tensor) -> Objective:
        """The objective of `__call__`: the cross-entropy of `y`, or if targeted its negative."""
        return LogitObjective(net, closeness if self.targeted else cross_entropy, y)

    # The ascent loop.

    def _objective(self, case: Case, y: Tensor) -> Objective:
        """The objective for labels `y`; a LogitObjective also gets the case's `at_once`."""
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
        """Returns the last points of one run from `start`, in which fooled images stop early."""
        reached = z = start
        left, own = torch.arange(len(x), device=x.device), len(x)
        for done in range(0, self.count if own else 0, LOOK):
            steps = min(LOOK, self.count - done)
            z = self._walk(self._objective(case, y[left]), x[left], z, None, case.rng, steps=steps)
            reached = reached.index_copy(0, left, z)
            if done + steps == self.count:
                break
            out = (answers(case.net, z, case.trial.at_once) == y[left]) == self.targeted
            if bool(out.any()):  # confirmed by the exact network
                out[out.clone()] = case.misread(z[out], y[left][out]) != self.targeted
            stay = (~out[:own]).nonzero().flatten()
            own = len(stay)
            if not own:
                break
            if recorded.wanted(z):  # pad with copies of the last image
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
        """Returns `z` after `steps` steps (None: `count`); `path` collects `z` and all points."""
        known = objective if isinstance(objective, LogitObjective) and path is None else None
        copy = None if known is None else copy_of(known.net)
        if copy is not None and copy.plain:  # channels-last is faster here
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
        """The gradient of the objective at `z`, through `transform_input` if that is overridden."""
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
        """Returns what `_walk` returns, with the steps recorded as CUDA graphs in `kept`."""
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
        """The given ε, else the attack's own. Raises UserError if there is neither."""
        radius = self.eps if eps is None else plain(eps)
        if radius is None:
            raise UserError(
                f"The attack {self.key} has no eps; give one, e.g."
                f" {type(self).__name__}(eps=8/255)."
            )
        return parse_number(radius) if isinstance(radius, str) else radius

    def _ball(self, x: Tensor, eps: float | Tensor | None) -> Linf | L2:
        """The ball around `x` with the given ε, or with the attack's own."""
        return BALLS[self.norm](x.detach(), self._radius(eps))

    def _size(self, radius: float | Tensor) -> float | Tensor:
        """The step size: the one set, else derived from the attack's own ε, else from `radius`."""
        if self.step_size is not None:
            return self.step_size
        own = radius if self.eps is None else self.eps
        if isinstance(own, Tensor) and own.ndim != 1:
            raise UserError(
                "A radius per pixel gives no single ε to derive the step size from: give the"
                " attack an eps or a step_size."
            )
        return (
            self.default_step(own).view(-1, 1, 1, 1)
            if isinstance(own, Tensor)
            else self.default_step(own)
        )

    @torch.no_grad()
    def _judged(self, case: Case, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """For each image, whether the attack succeeded and the objective's value, both (N,)."""
        pairs = parts(self._objective(case, y), len(y))
        heights = torch.cat([part(x_adv[place]) for place, part in pairs])
        return case.misread(x_adv, y) != self.targeted, heights


def generator(x: Tensor) -> torch.Generator:
    """The generator used where `rng` is None: on x's device, with seed 0."""
    return torch.Generator(device=x.device).manual_seed(0)
