"""B11: loss surfaces around an image and around the weights, against one evaluation per point,
tomgoldstein's loop and loss_landscapes.

loss_landscapes moves the parameters of a module; around an image it gets one whose parameter is the
image. In its grid even rows are one step ahead of odd ones: only points that both have are
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from loss_landscapes import planar_interpolation
from loss_landscapes.metrics.metric import Metric
from loss_landscapes.metrics.sl_metrics import Loss
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from robustviz.nets.base import frozen
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.stats import Floats, Ints
from robustviz.views.loss.refined import refined
from robustviz.views.loss.surfaces import (
    filter_normalised,
    moved_images,
    moved_weights,
    plane,
    rademacher,
    ticks,
)
from robustviz.views.measure import images_of

DIGITS, DIGITS_CNN = (
    "digits-standard-small-resnet-s0-bc7976b4",
    "digits-standard-small-cnn-s0-59e86c72",
)
SHAPES = "shapes-standard-small-resnet-s0-66d1d3f3"
NOTE = (
    "Convolutions take 81 to 86% of ours (torch.profiler, one thread), and everybody has the same"
    " ones. A copy with folded batch norm would take 1.1 to 1.2 times less and be off by up to"
    " 1e-5: a surface is exact instead, and larger grids are refined."
)
POINTS, PACKAGE, LOOP, WHOLE = (
    "point by point",
    "loss_landscapes",
    "tomgoldstein's loop",
    "ours, every point",
)
GRID = 51
IMAGES, BEST = 512, 128
WEIGHT_GRID = (
    5  # points along each axis, of 25: all points take the same time, and 25 × 25 take ten minutes
)


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    for name, least in ((DIGITS, 5.0), (DIGITS_CNN, 5.0), (SHAPES, 1.3)):
        yield around_image(folder.open_run(name), least, device, rounds or 3)
    for name in (DIGITS, SHAPES):
        yield around_weights(folder.open_run(name), device, rounds or 3)
    yield refined_image(folder.open_run(SHAPES), device, rounds or 4)
    yield refined_weights(folder.open_run(DIGITS), device, rounds or 1)


class Moved(nn.Module):
    """A network as a function of its parameter, one image, for a package that moves parameters."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.__dict__["net"] = net  # not registered: only the image moves
        self.x = nn.Parameter(x.clone())

    def forward(self, _: Tensor) -> Tensor:
        return self.__dict__["net"](self.x[None])


class InBatches(Metric):
    """The package's metric `Loss`, computed in batches."""

    def __init__(self, x: Tensor, y: Tensor, batch: int) -> None:
        super().__init__()
        self.x, self.y, self.batch = x, y, batch

    def __call__(self, model_wrapper) -> float:  # type: ignore[no-untyped-def]
        return F.cross_entropy(
            torch.cat([model_wrapper.forward(part) for part in self.x.split(self.batch)]), self.y
        ).item()


class Kept:
    """Makes competitors that store their last result here, for use by the gates."""

    def __init__(self) -> None:
        self.found: dict[str, Floats] = {}

    def racer(self, name: str, run: Callable[[], Floats]) -> Racer:
        return Racer(name, lambda: self.found.__setitem__(name, run()))

    def gate(self, name: str, within: float, against: str = OURS) -> Gate:
        mine, theirs = self.found[OURS], self.found[name]
        if name.startswith(PACKAGE):
            grid = len(mine)
            even = np.arange(grid) % 2 == 0
            mine, theirs = (
                np.where(even[:, None], np.roll(mine, -1, 1), mine)[:, :-1],
                theirs[:, :-1],
            )
        # far from the trained weights the loss is above 10, so errors above 1 are relative
        off = float((np.abs(mine - theirs) / np.maximum(np.abs(theirs), 1)).max())
        return Gate(f"values equal those of {name} within {off:.0e}", off <= within)


def around_image(run: Run, least: float, device: str, rounds: int) -> Outcome:
    net, x, y, d, r, a = _plane_of(run, device)

    def ours() -> Floats:
        logits = plane(net, x, d, r, a, a).flatten(0, 1)
        return (
            F.cross_entropy(logits, y.expand(len(logits)), reduction="none")
            .view(GRID, GRID)
            .cpu()
            .numpy()
        )

    def one_by_one() -> Floats:
        out = np.zeros((GRID, GRID))
        with frozen(net), torch.no_grad():
            for i, along in enumerate(a.tolist()):
                for j, across in enumerate(a.tolist()):
                    out[i, j] = F.cross_entropy(net((x + along * d + across * r)[None]), y).item()
        return out

    corner, length = x + float(a[0]) * (d + r), GRID * float(a[1] - a[0])
    start, one, two = (
        Moved(net, corner),
        Moved(net, corner + length * d),
        Moved(net, corner + length * r),
    )

    def package() -> Floats:
        with frozen(net), torch.no_grad():
            return planar_interpolation(
                start, one, two, Loss(F.cross_entropy, x, y), GRID, deepcopy_model=True
            )

    kept = Kept()
    times = race(
        [kept.racer(OURS, ours), kept.racer(POINTS, one_by_one), kept.racer(PACKAGE, package)],
        rounds,
        device,
    )
    # The package adds up small steps, so rounding errors move its points away from the grid.
    gates = (kept.gate(POINTS, 1e-5), kept.gate(PACKAGE, 1e-3))
    return Outcome(
        "B11",
        f"surface around an image, {GRID} × {GRID}",
        f"{run.architecture}, {run.data_key}",
        times,
        {POINTS: least},
        gates,
    )


def around_weights(run: Run, device: str, rounds: int) -> Outcome:
    net, x, y = _set_of(run, IMAGES, device)
    rng = torch.Generator().manual_seed(0)
    u, v = (
        {name: side.to(device) for name, side in filter_normalised(run.net(), rng).items()}
        for _ in range(2)
    )
    a = ticks(25, 1.0)[:WEIGHT_GRID]
    first, second = a.repeat_interleave(len(a)), a.repeat(len(a))
    grid = (len(a), len(a))

    # 128 is the default there; no worker processes, which would be started for every point
    loader = DataLoader(TensorDataset(x, y), batch_size=BEST)
    moving, start = (
        run.net().to(device).eval(),
        [weight.detach().clone() for weight in net.parameters()],
    )
    directions = [[side[name] for name, _ in net.named_parameters()] for side in (u, v)]

    def loop() -> Floats:
        """As `set_weights` and `eval_loss` in tomgoldstein's code."""
        out = np.zeros(grid)
        for i, j in np.ndindex(*grid):
            changes = [
                one * float(a[i]) + two * float(a[j]) for one, two in zip(*directions, strict=True)
            ]
            for weight, here, change in zip(moving.parameters(), start, changes, strict=True):
                weight.data = here + change
            total, right, n = 0.0, 0, 0
            with torch.no_grad():
                for images, labels in loader:
                    logits = moving(images)
                    total, n = (
                        total + F.cross_entropy(logits, labels).item() * len(labels),
                        n + len(labels),
                    )
                    right += logits.argmax(1).eq(labels).sum().item()
            out[i, j] = total / n
        return out

    corner = {
        name: weight.detach() + float(a[0]) * (u[name] + v[name])
        for name, weight in net.named_parameters()
    }
    length = len(a) * float(a[1] - a[0])
    ends = [
        _with(run, {name: weight + length * side[name] for name, weight in corner.items()}, device)
        for side in (u, v)
    ]
    begin = _with(run, corner, device)

    def package(metric: Metric) -> Floats:
        with torch.no_grad():
            return planar_interpolation(begin, *ends, metric, len(a), deepcopy_model=True)

    kept = Kept()
    racers = [
        kept.racer(
            OURS, lambda: moved_weights(net, u, v, first, second, x, y).view(grid).cpu().numpy()
        ),
        kept.racer(LOOP, loop),
        kept.racer(PACKAGE, lambda: package(Loss(F.cross_entropy, x, y))),
    ]
    if device == "cpu":
        racers.append(kept.racer(f"{PACKAGE} (best batch)", lambda: package(InBatches(x, y, BEST))))
    times = race(racers, rounds, device)
    gates = (kept.gate(LOOP, 1e-5), kept.gate(PACKAGE, 1e-3))
    what = f"surface around the weights, {grid[0]} × {grid[1]} of 25 × 25 points, {len(x)} images"
    return Outcome("B11", what, f"{run.architecture}, {run.data_key}", times, {}, gates, NOTE)


def refined_image(run: Run, device: str, rounds: int) -> Outcome:
    net, x, y, d, r, a = _plane_of(run, device)

    def roots(logits: Tensor) -> Floats:
        return (
            F.cross_entropy(logits, y.expand(len(logits)), reduction="none")
            .clamp_min(0)
            .sqrt()
            .cpu()
            .numpy()
        )

    def compute(i: Ints, j: Ints) -> Floats:
        return moved_images(net, x, d, r, a[i], a[j]).cpu().numpy()

    def fewer() -> Floats:
        found = refined(compute, lambda flat: roots(torch.from_numpy(flat).to(x))[:, None], GRID)
        return roots(torch.from_numpy(found.values).to(x).flatten(0, 1)).reshape(GRID, GRID)

    kept = Kept()
    times = race(
        [
            kept.racer(OURS, fewer),
            kept.racer(
                WHOLE, lambda: roots(plane(net, x, d, r, a, a).flatten(0, 1)).reshape(GRID, GRID)
            ),
        ],
        rounds,
        device,
    )
    what = f"surface around an image, {GRID} × {GRID}, refined where it bends"
    return Outcome(
        "B11", what, f"{run.architecture}, {run.data_key}", times, {}, (_seen(kept, "√loss"),)
    )


def refined_weights(run: Run, device: str, rounds: int) -> Outcome:
    net, x, y = _set_of(run, 128, device)
    rng = torch.Generator().manual_seed(0)
    u, v = (
        {name: side.to(device) for name, side in filter_normalised(run.net(), rng).items()}
        for _ in range(2)
    )
    grid = 41
    a = ticks(grid, 1.0)

    def compute(i: Ints, j: Ints) -> Floats:
        return moved_weights(net, u, v, a[i], a[j], x, y).log10().cpu().numpy()[:, None]

    kept = Kept()
    racers = [
        kept.racer(OURS, lambda: refined(compute, lambda flat: flat, grid).values[..., 0]),
        kept.racer(
            WHOLE, lambda: compute(*np.divmod(np.arange(grid**2), grid)).reshape(grid, grid)
        ),
    ]
    times = race(racers, rounds, device)
    what = f"surface around the weights, {grid} × {grid}, {len(x)} images, refined where it bends"
    return Outcome(
        "B11", what, f"{run.architecture}, {run.data_key}", times, {}, (_seen(kept, "log₁₀ loss"),)
    )


def _plane_of(run: Run, device: str) -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The network, an image, its class, two directions of ±1, and the coordinates of the grid."""
    split = images_of(run)
    d, r = (rademacher(tuple(split.x.shape[1:]), seed).to(device) for seed in (0, 1))
    return (
        run.net().to(device).eval(),
        split.x[0].to(device),
        split.y[:1].to(device),
        d,
        r,
        ticks(GRID, 2 * run.eps),
    )


def _set_of(run: Run, n: int, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The network and `n` images with their classes; images repeat if there are fewer than `n`."""
    split = images_of(run)
    index = torch.arange(n) % len(split)
    return run.net().to(device).eval(), split.x[index].to(device), split.y[index].to(device)


def _with(run: Run, weights: dict[str, Tensor], device: str) -> nn.Module:
    net = run.net().to(device).eval()
    for name, weight in net.named_parameters():
        weight.data = weights[name]
    return net


def _seen(kept: Kept, what: str) -> Gate:
    """A gate: the interpolated surface differs from the full one by at most 1% of its range."""
    off = float(np.abs(kept.found[OURS] - kept.found[WHOLE]).max() / np.ptp(kept.found[WHOLE]))
    return Gate(
        f"{what} off by at most {100 * off:.2f}% of what the figure's scale spans", off <= 0.01
    )
