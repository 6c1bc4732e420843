"""Tests losses against golden numbers in float64 and against slow reference implementations written
independently.
"""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import losses
from robustviz.types import UserError

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


@pytest.mark.parametrize(
    ("temperature", "golden", "swapped"), [(1.0, 0.255643, 0.260046), (4.0, 0.284019, 0.291004)]
)
def test_kl_of_witness_to_source_has_its_golden_value_and_the_swapped_one_another(
    temperature: float, golden: float, swapped: float
) -> None:
    assert close(losses.kl(Z_ADV, Z, temperature), golden)
    assert close(losses.kl(Z, Z_ADV, temperature), swapped)


def test_trades_has_its_golden_value() -> None:
    assert close(losses.trades(Z, Z_ADV, Y, beta=6), 1.985334)


@pytest.mark.parametrize(("beta", "golden"), [(0, 1.696694), (5, 2.193499), (6, 2.292860)])
def test_mart_has_its_golden_values(beta: float, golden: float) -> None:
    assert close(losses.mart(Z, Z_ADV, Y, beta), golden)


def test_the_parts_of_mart_have_their_golden_values_and_no_others() -> None:
    assert close(losses.boosted_ce(Z_ADV, Y), 1.696694)
    assert close(losses.misclassification_kl(Z, Z_ADV, Y), 0.0993611)
    # The uncertainty weight comes from the clean image and the target is the clean distribution:
    # exchanging either one gives another number.
    assert not close(losses.misclassification_kl(Z_ADV, Z, Y), 0.0993611)


def test_logit_pairing_is_a_mean_over_classes_and_not_a_squared_length() -> None:
    assert close(losses.logit_pairing(Z, Z_ADV), 0.625)
    # The other reduction would change λ by a factor of K, the number of classes.
    assert close((Z - Z_ADV).pow(2).sum(dim=1).mean(), 1.875)
    assert (Z - Z_ADV).pow(2).mean(dim=1).tolist() == pytest.approx([0.416667, 0.833333], abs=1e-6)


@pytest.mark.parametrize(
    ("weight", "ce", "golden"),
    [
        ("1", "both", 1.129267),  # ALP
        ("1", "sum", 1.946034),
        ("1", "adv", 1.520976),
        ("p(y|x')", "both", 0.908936),  # AALP
        ("p(y|x)", "both", 1.010179),
        ("p(y|x')", "adv", 1.300645),
    ],
)
def test_L1_logit_pairing_has_its_golden_values_beside_each_cross_entropy(
    weight: str, ce: str, golden: float
) -> None:
    w = {"1": None, "p(y|x')": Z_ADV.softmax(1)[[0, 1], Y], "p(y|x)": Z.softmax(1)[[0, 1], Y]}[
        weight
    ]
    if weight == "p(y|x')":
        assert w is not None and w.tolist() == pytest.approx([0.574097, 0.155362], abs=1e-6)
    clean, adv = F.cross_entropy(Z, Y), F.cross_entropy(Z_ADV, Y)
    both = F.cross_entropy(torch.cat([Z, Z_ADV]), Y.repeat(2))
    assert close(both, float(clean + adv) / 2)
    assert close(
        {"both": both, "sum": clean + adv, "adv": adv}[ce]
        + 0.5 * losses.logit_pairing(Z, Z_ADV, w),
        golden,
    )


# Golden geometry: unit vectors at these angles, in degrees.


def at(*degrees: float) -> Tensor:
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


G4, G4_Y = at(0, 60, 90, 180), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("temperature", "base", "golden"),
    [
        (0.5, None, 0.989836),
        (0.1, None, 3.089933),
        (0.07, None, 4.401915),
        (0.1, 0.07, 4.414190),
        (0.5, 0.07, 7.070254),
    ],
)
def test_S1_supcon_has_its_golden_values(
    temperature: float, base: float | None, golden: float
) -> None:
    assert close(losses.supcon(G4, G4_Y, temperature, base), golden)


def test_S1_each_anchor_of_supcon_has_its_golden_value() -> None:
    itself = torch.eye(4, dtype=torch.bool)
    each = losses.contrastive_per_anchor(G4, G4_Y, G4, G4_Y, 0.5, itself)
    assert each.tolist() == pytest.approx([0.349012, 1.167727, 2.034998, 0.407606], abs=1e-6)
    assert close(each.mean(), 0.989836)


def test_S2_an_anchor_without_positives_adds_nothing_and_counts_in_the_mean() -> None:
    lone = torch.tensor([0, 0, 0, 1])
    assert close(losses.supcon(G4, lone, 0.5), 0.704921)
    assert close(losses.supcon(G4, lone, 0.5) * 4 / 3, 0.939895)


def test_S2_one_class_tells_the_mean_outside_the_logarithm_from_the_one_inside() -> None:
    z = G4.clone().requires_grad_(True)
    loss = losses.supcon(z, torch.zeros(4, dtype=torch.long), 0.5)
    assert close(loss.detach(), 1.534494) and not close(loss.detach(), math.log(3))
    (gradient,) = torch.autograd.grad(loss, z)
    # If the distance were inside the margin, the gradient would be zero.
    assert gradient.abs().max() > 0.1


@pytest.mark.parametrize(
    ("margin", "reduction", "golden"),
    [
        (1.0, "balanced", 0.779084),
        (0.5, "balanced", 0.75),
        (2.0, "balanced", 1.076542),
        (1.0, "flat", 0.538779),
    ],
)
def test_S3_the_margin_loss_has_its_golden_values(
    margin: float, reduction: Literal["balanced", "flat"], golden: float
) -> None:
    assert close(losses.margin_contrastive(G4, G4_Y, margin, reduction), golden)


@pytest.mark.parametrize("reduction", ["balanced", "flat"])
def test_S3_negatives_beyond_the_margin_have_exactly_no_gradient(
    reduction: Literal["balanced", "flat"],
) -> None:
    # The vectors are not of unit length: the loss normalises them.
    lengths = torch.tensor([[2.0], [0.5], [3.0]], dtype=torch.float64)
    # Three classes, with all distances above 1.
    far = (lengths * at(0, 100, 200)).requires_grad_(True)
    loss = losses.margin_contrastive(far, torch.arange(3), 1.0, reduction)
    assert float(loss.detach()) == 0
    (gradient,) = torch.autograd.grad(loss, far)
    assert torch.equal(gradient, torch.zeros_like(far))
    # The first two are 0.845 apart, the third is farther away than the margin.
    near = at(0, 50, 200).requires_grad_(True)
    (gradient,) = torch.autograd.grad(
        losses.margin_contrastive(near, torch.arange(3), 1.0, reduction), near
    )
    assert gradient[:2].norm(dim=1).min() > 0.01 and torch.equal(
        gradient[2], torch.zeros(2, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", ["supcon", "balanced", "flat"])
def test_S4_contrastive_losses_do_not_change_with_order_rotation_or_scale(name: str) -> None:
    rng = torch.Generator().manual_seed(4)
    z = torch.randn((9, 5), generator=rng, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3, 1])
    rotation = torch.linalg.qr(torch.randn((5, 5), generator=rng, dtype=torch.float64)).Q
    order = torch.randperm(9, generator=rng)
    scale = torch.rand((9, 1), generator=rng, dtype=torch.float64) + 0.1

    def loss(z: Tensor, y: Tensor) -> float:
        return float(
            losses.supcon(z, y, 0.2)
            if name == "supcon"
            else losses.margin_contrastive(z, y, 1.0, name)
        )  # type: ignore[arg-type]

    base = loss(z, y)
    assert loss(z[order], y[order]) == pytest.approx(base, abs=1e-12)
    assert loss(z @ rotation, y) == pytest.approx(base, abs=1e-12)
    assert loss(z * scale, y) == pytest.approx(base, abs=1e-12)
    # The order of the labels does matter.
    assert loss(z, y[order]) != pytest.approx(base, abs=1e-6)


A1 = at(20, 50, 100, 150)


@pytest.mark.parametrize(("temperature", "golden"), [(0.5, 1.093307), (0.1, 2.224034)])
def test_A1_the_adversarial_contrast_has_its_golden_means(
    temperature: float, golden: float
) -> None:
    assert close(losses.adversarial_contrastive(A1, G4_Y, G4, G4_Y, temperature), golden)


def test_A1_each_anchor_has_its_golden_value_and_an_unmoved_one_too() -> None:
    each = losses.contrastive_per_anchor(A1, G4_Y, G4, G4_Y, 0.5)
    assert each.tolist() == pytest.approx([0.882919, 1.125364, 1.474697, 0.890247], abs=1e-6)
    assert close(losses.adversarial_contrastive(G4, G4_Y, G4, G4_Y, 0.5), 1.274055)
    # The loss normalises the vectors itself.
    assert close(
        losses.adversarial_contrastive(
            3 * A1, G4_Y, G4 * torch.tensor([[1.0], [5.0], [0.2], [9.0]]), G4_Y, 0.5
        ),
        1.093307,
    )


def test_A5_without_a_change_it_is_supcon_with_the_own_twin_on_both_sides() -> None:
    # SupCon, written out, where P(i) and A(i) both contain i itself.
    each = []
    for i in range(4):
        share = [math.exp(float(G4[i] @ G4[a]) / 0.5) for a in range(4)]
        positives = [p for p in range(4) if G4_Y[p] == G4_Y[i]]
        assert i in positives
        each.append(-sum(math.log(share[p] / sum(share)) for p in positives) / len(positives))
    found = losses.contrastive_per_anchor(G4, G4_Y, G4, G4_Y, 0.5)
    assert found.tolist() == pytest.approx(each, abs=1e-12)
    # The SupCon loss itself leaves i out.
    assert not close(found.mean(), float(losses.supcon(G4, G4_Y, 0.5)))


@pytest.mark.parametrize(
    ("y", "target", "golden"), [(0, None, -0.8), (1, None, 0.8), (0, 1, -0.615385)]
)
def test_dlr_has_its_golden_values(y: int, target: int | None, golden: float) -> None:
    z = torch.tensor([[3.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
    found = losses.dlr(z, torch.tensor([y]), None if target is None else torch.tensor([target]))
    assert found.shape == (1,) and close(found, golden)
    scaled = losses.dlr(
        7 * z + 3, torch.tensor([y]), None if target is None else torch.tensor([target])
    )
    assert close(scaled, golden)  # DLR is meant to be invariant to shifting and scaling the logits.


@pytest.mark.parametrize(("classes", "target", "needed"), [(2, None, 3), (3, torch.tensor([1]), 4)])
def test_dlr_refuses_too_few_classes_with_a_sentence(
    classes: int, target: Tensor | None, needed: int
) -> None:
    with pytest.raises(
        UserError, match=f"needs at least {needed} classes, but this network has {classes}"
    ):
        losses.dlr(torch.zeros(1, classes), torch.tensor([0]), target)


def test_M1_the_direction_is_witness_to_source() -> None:
    source, witness = Z, Z_ADV
    assert close(losses.kl(witness, source, 1.0), 0.255643) and close(
        losses.kl(witness, source, 4.0), 0.284019
    )


# Slow reference implementations in plain Python, one sample and one class at a time.


def probabilities(row: list[float], temperature: float = 1.0) -> list[float]:
    total = sum(math.exp(z / temperature) for z in row)
    return [math.exp(z / temperature) / total for z in row]


def slow_kl(
    p_rows: list[list[float]], q_rows: list[list[float]], temperature: float = 1.0
) -> list[float]:
    out = []
    for p_row, q_row in zip(p_rows, q_rows, strict=True):
        p, q = probabilities(p_row, temperature), probabilities(q_row, temperature)
        out.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return out


def slow_trades(
    rows: list[list[float]], rows_adv: list[list[float]], y: list[int], beta: float
) -> float:
    ce = [-math.log(probabilities(row)[label]) for row, label in zip(rows, y, strict=True)]
    return sum(ce) / len(y) + beta * sum(slow_kl(rows, rows_adv)) / len(y)


def slow_margin(rows: list[list[float]], y: list[int]) -> list[float]:
    return [
        max(z for k, z in enumerate(row) if k != label) - row[label]
        for row, label in zip(rows, y, strict=True)
    ]


def slow_mart(
    rows: list[list[float]], rows_adv: list[list[float]], y: list[int], beta: float
) -> float:
    total = 0.0
    for row, row_adv, label, kl in zip(rows, rows_adv, y, slow_kl(rows, rows_adv), strict=True):
        p, p_adv = probabilities(row), probabilities(row_adv)
        rival = max(p_adv[k] for k in range(len(p_adv)) if k != label)
        total += (
            -math.log(p_adv[label]) - math.log(1.0001 - rival + 1e-12) + beta * kl * (1 - p[label])
        )
    return total / len(y)


def slow_pairing(
    rows: list[list[float]], rows_adv: list[list[float]], weight: list[float]
) -> float:
    total = 0.0
    for row, row_adv, w in zip(rows, rows_adv, weight, strict=True):
        total += w * sum((a - b) ** 2 for a, b in zip(row, row_adv, strict=True)) / len(row)
    return total / len(rows)


def slow_dlr(rows: list[list[float]], y: list[int], target: list[int] | None) -> list[float]:
    out = []
    for i, (row, label) in enumerate(zip(rows, y, strict=True)):
        down = sorted(row, reverse=True)
        if target is None:
            rival = max(z for k, z in enumerate(row) if k != label)
            out.append(-(row[label] - rival) / (down[0] - down[2]))
        else:
            out.append(-(row[label] - row[target[i]]) / (down[0] - (down[2] + down[3]) / 2))
    return out


def unit_rows(rows: list[list[float]]) -> list[list[float]]:
    return [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in rows]


def dot(a: list[float], b: list[float]) -> float:
    return sum(u * v for u, v in zip(a, b, strict=True))


def slow_supcon(rows: list[list[float]], y: list[int], temperature: float, base: float) -> float:
    z, total = unit_rows(rows), 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        for p in positives:
            share = math.exp(dot(z[i], z[p]) / temperature) / sum(
                math.exp(dot(z[i], z[a]) / temperature) for a in others
            )
            total += -(temperature / base) * math.log(share) / len(positives)
    return total / len(z)


def slow_contrast(
    rows: list[list[float]],
    y: list[int],
    others: list[list[float]],
    others_y: list[int],
    temperature: float,
    out: list[list[bool]],
) -> list[float]:
    anchors, contrast, each = unit_rows(rows), unit_rows(others), []
    for i, anchor in enumerate(anchors):
        there = [a for a in range(len(contrast)) if not out[i][a]]
        positives = [p for p in there if others_y[p] == y[i]]
        whole = sum(math.exp(dot(anchor, contrast[a]) / temperature) for a in there)
        terms = [
            -math.log(math.exp(dot(anchor, contrast[p]) / temperature) / whole) for p in positives
        ]
        each.append(sum(terms) / len(terms) if terms else 0.0)
    return each


def slow_margin_contrast(
    rows: list[list[float]], y: list[int], margin: float, reduction: str
) -> float:
    z = unit_rows(rows)
    pull, push = [], []
    for i in range(len(z)):
        for j in range(i):
            d = math.sqrt(sum((a - b) ** 2 for a, b in zip(z[i], z[j], strict=True)))
            (pull if y[i] == y[j] else push).append(
                d**2 if y[i] == y[j] else max(0.0, margin - d) ** 2
            )
    if reduction == "flat":
        return sum(pull + push) / max(1, len(pull) + len(push))
    return 0.5 * sum(sum(kind) / len(kind) for kind in (pull, push) if kind)


@pytest.fixture(params=[(1, 2), (2, 2), (3, 12), (5, 3), (7, 11), (12, 4)], ids=str)
def logits(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    n, classes = request.param
    rng = torch.Generator().manual_seed(n)
    draw = [3 * torch.randn((n, classes), generator=rng, dtype=torch.float64) for _ in range(2)]
    return draw[0], draw[1], torch.randint(classes, (n,), generator=rng)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-4)],
    ids=["float64", "float32"],
)
def test_losses_equal_their_slow_twins(
    logits: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    z, z_adv, y = logits
    rows, rows_adv, labels = z.tolist(), z_adv.tolist(), y.tolist()
    z, z_adv = z.to(dtype), z_adv.to(dtype)
    for temperature in (1.0, 2.5):
        found = losses.kl_per_sample(z, z_adv, temperature)
        assert found.dtype == dtype and found.tolist() == pytest.approx(
            slow_kl(rows, rows_adv, temperature), abs=tolerance
        )
        assert float(losses.kl(z, z_adv, temperature)) == pytest.approx(
            sum(slow_kl(rows, rows_adv, temperature)) / len(y), abs=tolerance
        )
    assert float(losses.trades(z, z_adv, y, 2.5)) == pytest.approx(
        slow_trades(rows, rows_adv, labels, 2.5), abs=tolerance
    )
    assert losses.margin(z, y).tolist() == pytest.approx(slow_margin(rows, labels), abs=tolerance)
    for beta in (0.0, 5.0):
        found = losses.mart(z, z_adv, y, beta)
        assert found.dtype == dtype and found.shape == ()
        assert float(found) == pytest.approx(
            slow_mart(rows, rows_adv, labels, beta), abs=10 * tolerance
        )
    weight = torch.rand(len(y), generator=torch.Generator().manual_seed(1), dtype=dtype)
    for w in (None, weight):
        asked = [1.0] * len(y) if w is None else w.tolist()
        assert float(losses.logit_pairing(z, z_adv, w)) == pytest.approx(
            slow_pairing(rows, rows_adv, asked), abs=10 * tolerance
        )


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-9), (torch.float32, 1e-3)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
def test_dlr_equals_its_slow_twin(
    logits: tuple[Tensor, Tensor, Tensor], targeted: bool, dtype: torch.dtype, tolerance: float
) -> None:
    z, _, y = logits
    classes = z.shape[1]
    target = (y + 1 + torch.arange(len(y)) % (classes - 1)) % classes if targeted else None
    assert target is None or bool((target != y).all())
    if classes < (4 if targeted else 3):
        with pytest.raises(UserError, match="needs at least"):
            losses.dlr(z, y, target)
        return
    found = losses.dlr(z.to(dtype), y, target)
    wanted = slow_dlr(z.tolist(), y.tolist(), None if target is None else target.tolist())
    assert found.dtype == dtype and found.tolist() == pytest.approx(
        wanted, rel=tolerance, abs=tolerance
    )


# Batches of features: one sample, a pair of one class, a pair of two classes, classes with one
# sample, all samples of one class, all of different classes.
BATCHES = {
    "one": [0],
    "twins": [1, 1],
    "strangers": [0, 1],
    "lone ones": [0, 0, 0, 1, 2, 2],
    "one class": [3, 3, 3],
    "all different": [4, 2, 0, 1],
    "twelve classes": [k % 12 for k in range(30)],
    "usual": [0, 1, 0, 1, 1, 2, 0, 2],
}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def features(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    y = torch.tensor(request.param)
    z = torch.randn(
        (len(y), 6), generator=torch.Generator().manual_seed(len(y)), dtype=torch.float64
    )
    return z * torch.linspace(0.5, 2, len(y), dtype=torch.float64)[:, None], y


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 2e-4)],
    ids=["float64", "float32"],
)


@PRECISIONS
@pytest.mark.parametrize(("temperature", "base"), [(0.5, None), (0.1, 0.07), (1.0, None)])
def test_supcon_equals_its_slow_twin(
    features: tuple[Tensor, Tensor],
    temperature: float,
    base: float | None,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    z, y = features
    found = losses.supcon(z.to(dtype), y, temperature, base)
    wanted = slow_supcon(z.tolist(), y.tolist(), temperature, temperature if base is None else base)
    assert (
        found.dtype == dtype
        and found.shape == ()
        and float(found) == pytest.approx(wanted, abs=tolerance, rel=tolerance)
    )


@PRECISIONS
@pytest.mark.parametrize("reduction", ["balanced", "flat"])
@pytest.mark.parametrize("margin", [0.0, 0.7, 1.4, 2.0])
def test_the_margin_loss_equals_its_slow_twin(
    features: tuple[Tensor, Tensor],
    margin: float,
    reduction: Literal["balanced", "flat"],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    z, y = features
    found = losses.margin_contrastive(z.to(dtype), y, margin, reduction)
    wanted = slow_margin_contrast(z.tolist(), y.tolist(), margin, reduction)
    assert (
        found.dtype == dtype
        and found.shape == ()
        and float(found) == pytest.approx(wanted, abs=tolerance)
    )


@PRECISIONS
@pytest.mark.parametrize("leave_out", ["nothing", "itself", "at random"])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_adversarial_contrast_equals_its_slow_twin(
    features: tuple[Tensor, Tensor],
    leave_out: str,
    temperature: float,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    z, y = features
    rng = torch.Generator().manual_seed(9)
    contrast = torch.cat([z, torch.randn((5, 6), generator=rng, dtype=torch.float64)])
    contrast_y = torch.cat([y, torch.tensor([0, 0, 1, 2, 5])])
    out = {
        "nothing": torch.zeros(len(y), len(contrast), dtype=torch.bool),
        "itself": torch.eye(len(contrast), dtype=torch.bool)[: len(y)],
        "at random": torch.rand((len(y), len(contrast)), generator=rng) < 0.4,
    }[leave_out]
    anchors = z + 0.3 * torch.randn(z.shape, generator=rng, dtype=torch.float64)
    found = losses.contrastive_per_anchor(
        anchors.to(dtype),
        y,
        contrast.to(dtype),
        contrast_y,
        temperature,
        None if leave_out == "nothing" else out,
    )
    wanted = slow_contrast(
        anchors.tolist(),
        y.tolist(),
        contrast.tolist(),
        contrast_y.tolist(),
        temperature,
        out.tolist(),
    )
    assert (
        found.dtype == dtype
        and found.shape == (len(y),)
        and found.tolist() == pytest.approx(wanted, abs=tolerance, rel=tolerance)
    )
    if leave_out == "nothing":
        mean = losses.adversarial_contrastive(
            anchors.to(dtype), y, contrast.to(dtype), contrast_y, temperature
        )
        assert mean.shape == () and float(mean) == pytest.approx(
            sum(wanted) / len(wanted), abs=tolerance, rel=tolerance
        )


def test_gradients_of_contrastive_losses_equal_finite_differences(
    features: tuple[Tensor, Tensor],
) -> None:
    z, y = features
    if len(z) > 8:
        z, y = z[:8], y[:8] % 3
    z = z.clone().requires_grad_(True)
    moved = (z.detach() + 0.3 * torch.cos(7 * z.detach())).requires_grad_(True)
    itself = torch.eye(len(z), 2 * len(z), dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda a: losses.supcon(a, y, 0.5, 0.07), (z,))
    for reduction in ("balanced", "flat"):
        assert torch.autograd.gradcheck(
            lambda a, r=reduction: losses.margin_contrastive(a, y, 1.2, r), (z,)
        )
    # Gradients flow through the anchors and through the features they are compared with.
    assert torch.autograd.gradcheck(
        lambda a, b: losses.adversarial_contrastive(a, y, b, y, 0.5), (moved, z)
    )
    assert torch.autograd.gradcheck(
        lambda a, b: losses.contrastive_per_anchor(
            a, y, torch.cat([b, a]), y.repeat(2), 0.5, itself
        ),
        (moved, z),
    )


def test_equal_features_of_one_class_and_of_two_give_finite_gradients() -> None:
    z = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0, 0, 1, 1])
    for loss in (
        losses.supcon(z, y, 0.1),
        losses.margin_contrastive(z, y, 1.0),
        losses.margin_contrastive(z, y, 1.0, "flat"),
        losses.adversarial_contrastive(z, y, z, y, 0.1),
    ):
        (gradient,) = torch.autograd.grad(loss, z)
        assert loss.isfinite() and gradient.isfinite().all()


def test_gradients_equal_finite_differences_in_every_logit(
    logits: tuple[Tensor, Tensor, Tensor],
) -> None:
    z, z_adv, y = (t.clone().requires_grad_(t.is_floating_point()) for t in logits)
    assert torch.autograd.gradcheck(lambda a, b: losses.kl_per_sample(a, b, 2.0), (z, z_adv))
    # Finite differences also move the clean logits in the target, so this fails if the target is
    # detached.
    assert torch.autograd.gradcheck(lambda a, b: losses.trades(a, b, y, 6.0), (z, z_adv))
    assert torch.autograd.gradcheck(lambda a: losses.margin(a, y), (z,))
    # The uncertainty weight carries a gradient, too.
    assert torch.autograd.gradcheck(lambda a, b: losses.mart(a, b, y, 5.0), (z, z_adv))
    weight = torch.rand(
        len(y), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).requires_grad_(True)
    assert torch.autograd.gradcheck(losses.logit_pairing, (z, z_adv, weight))


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
