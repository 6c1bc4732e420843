"""Losses against golden numbers in float64 and against slow twins that share no line with them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import losses

Z = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]], dtype=torch.float64)
Z_ADV = torch.tensor([[1.0, 0.5, -1.0], [0.5, -0.5, 0.5]], dtype=torch.float64)
Y = torch.tensor([0, 1])


def close(value: Tensor, golden: float) -> bool:
    return abs(float(value) - golden) < 1e-6


def test_cross_entropy_has_its_golden_values() -> None:
    assert close(F.cross_entropy(Z, Y), 0.425058)
    assert close(F.cross_entropy(Z_ADV, Y), 1.208476)


def test_kl_of_clean_to_attacked_has_its_golden_value() -> None:
    assert close(losses.kl(Z, Z_ADV), 0.260046)


@pytest.mark.parametrize(("temperature", "golden", "swapped"), [(1.0, 0.255643, 0.260046), (4.0, 0.284019, 0.291004)])
def test_kl_of_witness_to_source_has_its_golden_value_and_the_swapped_one_another(
    temperature: float, golden: float, swapped: float
) -> None:
    assert close(losses.kl(Z_ADV, Z, temperature), golden)
    assert close(losses.kl(Z, Z_ADV, temperature), swapped)


def test_trades_has_its_golden_value() -> None:
    assert close(losses.trades(Z, Z_ADV, Y, beta=6), 1.985334)


# Slow twins: plain Python numbers, one sample and one class at a time.


def probabilities(row: list[float], temperature: float = 1.0) -> list[float]:
    total = sum(math.exp(z / temperature) for z in row)
    return [math.exp(z / temperature) / total for z in row]


def slow_kl(p_rows: list[list[float]], q_rows: list[list[float]], temperature: float = 1.0) -> list[float]:
    out = []
    for p_row, q_row in zip(p_rows, q_rows, strict=True):
        p, q = probabilities(p_row, temperature), probabilities(q_row, temperature)
        out.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return out


def slow_trades(rows: list[list[float]], rows_adv: list[list[float]], y: list[int], beta: float) -> float:
    ce = [-math.log(probabilities(row)[label]) for row, label in zip(rows, y, strict=True)]
    return sum(ce) / len(y) + beta * sum(slow_kl(rows, rows_adv)) / len(y)


def slow_margin(rows: list[list[float]], y: list[int]) -> list[float]:
    return [max(z for k, z in enumerate(row) if k != label) - row[label] for row, label in zip(rows, y, strict=True)]


@pytest.fixture(params=[(1, 2), (5, 3), (7, 11)], ids=str)
def logits(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    n, classes = request.param
    rng = torch.Generator().manual_seed(n)
    draw = [3 * torch.randn((n, classes), generator=rng, dtype=torch.float64) for _ in range(2)]
    return draw[0], draw[1], torch.randint(classes, (n,), generator=rng)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_losses_equal_their_slow_twins(logits: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    z, z_adv, y = logits
    rows, rows_adv, labels = z.tolist(), z_adv.tolist(), y.tolist()
    z, z_adv = z.to(dtype), z_adv.to(dtype)
    for temperature in (1.0, 2.5):
        found = losses.kl_per_sample(z, z_adv, temperature)
        assert found.dtype == dtype and found.tolist() == pytest.approx(slow_kl(rows, rows_adv, temperature), abs=tolerance)
        assert float(losses.kl(z, z_adv, temperature)) == pytest.approx(sum(slow_kl(rows, rows_adv, temperature)) / len(y), abs=tolerance)
    assert float(losses.trades(z, z_adv, y, 2.5)) == pytest.approx(slow_trades(rows, rows_adv, labels, 2.5), abs=tolerance)
    assert losses.margin(z, y).tolist() == pytest.approx(slow_margin(rows, labels), abs=tolerance)


def test_gradients_equal_finite_differences_in_every_logit(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    z, z_adv, y = (t.clone().requires_grad_(t.is_floating_point()) for t in logits)
    assert torch.autograd.gradcheck(lambda a, b: losses.kl_per_sample(a, b, 2.0), (z, z_adv))
    # Finite differences move the clean logits in the target too, so this fails where the target is detached.
    assert torch.autograd.gradcheck(lambda a, b: losses.trades(a, b, y, 6.0), (z, z_adv))
    assert torch.autograd.gradcheck(lambda a: losses.margin(a, y), (z,))


def test_trades_lets_gradient_through_its_clean_target() -> None:
    z = Z.clone().requires_grad_(True)
    (through,) = torch.autograd.grad(losses.kl(z, Z_ADV), z)
    assert through.abs().min() > 0


def test_kl_is_zero_exactly_at_equal_logits_and_stays_finite_for_sure_networks() -> None:
    assert torch.equal(losses.kl_per_sample(Z, Z), torch.zeros(2, dtype=torch.float64))
    sure = torch.tensor([[1e4, 0.0, -1e4]])
    assert losses.kl_per_sample(sure, sure.flip(1)).isfinite().all()


def test_margin_is_above_zero_exactly_where_the_network_is_wrong() -> None:
    assert losses.margin(Z, Y).tolist() == pytest.approx([-2.0, -0.5])
    assert losses.margin(Z_ADV, Y).tolist() == pytest.approx([-0.5, 1.0])
