"""Tests the norm balls: a projected point lies inside, a point inside does not move, and a random
start fills the ball.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from robustviz.attacks.balls import BALLS

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds, norms = st.integers(0, 2**32 - 1), st.sampled_from(sorted(BALLS))


def draw(seed: int, spread: float) -> tuple[Tensor, Tensor, torch.Generator]:
    """Returns images in [0, 1] with some pixels exactly 0 or 1, points around them, and a
    generator.
    """
    rng = torch.Generator().manual_seed(seed)
    x = (torch.rand((5, 2, 3, 4), generator=rng, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    return x, x + spread * torch.randn(x.shape, generator=rng, dtype=torch.float64), rng


def size(delta: Tensor, norm: str) -> Tensor:
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)


@quick
@given(seeds, norms, st.floats(0, 1), st.floats(0, 10))
def test_a_projection_lies_inside_and_projecting_again_changes_nothing(
    seed: int, norm: str, eps: float, spread: float
) -> None:
    x, z, rng = draw(seed, spread)
    ball = BALLS[norm](x, eps)
    for point in (ball.project(z), ball.random_start(rng)):
        assert size(point - x, norm).max() <= eps + 1e-9
        assert point.min() >= 0 and point.max() <= 1
        assert (ball.project(point) - point).abs().max() < 1e-12


@quick
@given(seeds, norms, st.floats(0, 1))
def test_what_lies_inside_stays(seed: int, norm: str, eps: float) -> None:
    x, z, _ = draw(seed, 0.1)
    inside = (
        x
        + (z - x) * (eps / size(z - x, norm).clamp(min=1e-9)).clamp(max=1).view(-1, 1, 1, 1) * 0.99
    ).clamp(0, 1)
    assert (BALLS[norm](x, eps).project(inside) - inside).abs().max() < 1e-12


@quick
@given(seeds, st.floats(0, 1), st.floats(0, 2))
def test_the_linf_projection_is_the_nearest_point(seed: int, eps: float, spread: float) -> None:
    x, z, rng = draw(seed, spread)
    ball = BALLS["linf"](x, eps)
    nearest = (ball.project(z) - z).flatten(1).norm(dim=1)
    for _ in range(20):
        assert (nearest <= (ball.random_start(rng) - z).flatten(1).norm(dim=1) + 1e-12).all()


@quick
@given(seeds, norms, st.floats(0.01, 1))
def test_a_step_is_as_long_as_asked_and_uphill(seed: int, norm: str, length: float) -> None:
    x, gradient, _ = draw(seed, 1.0)
    moved = BALLS[norm](x, 1.0).step(x, gradient, length) - x
    assert torch.allclose(size(moved, norm), torch.full((5,), length, dtype=x.dtype))
    # The gain of a step is the step length times the dual norm of the gradient.
    best = gradient.flatten(1).abs().sum(1) if norm == "linf" else gradient.flatten(1).norm(dim=1)
    assert torch.allclose((moved * gradient).flatten(1).sum(1), length * best)


def test_no_gradient_is_no_step() -> None:
    x = torch.full((2, 1, 3, 3), 0.5)
    for ball in BALLS.values():
        assert torch.equal(ball(x, 0.1).step(x, torch.zeros_like(x), 0.1), x)


@pytest.mark.parametrize("norm", BALLS)
def test_a_random_start_fills_the_ball_evenly(norm: str) -> None:
    x = torch.full((4000, 1, 2, 2), 0.5)
    delta = BALLS[norm](x, 0.2).random_start(torch.Generator().manual_seed(0)) - x
    share = (
        size(delta, norm) / 0.2
        # In four dimensions the volume up to a radius grows with the fourth power of the radius.
    ) ** 4
    assert (
        share.mean() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 4000)) and share.max() > 0.99
    )
    assert delta.mean().abs() < 0.01
