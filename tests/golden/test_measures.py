"""Tests measures of features against golden numbers, independently written double loops, and
scikit-learn.
"""

from __future__ import annotations

import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

from robustviz import measures
from robustviz.types import UserError

HALF = math.sqrt(3) / 2
# Unit vectors at 0°, 60°, 90° and 180°.
G4 = torch.tensor([[1.0, 0.0], [0.5, HALF], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
Y4 = torch.tensor([0, 0, 1, 1])


def cloud(n: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Returns overlapping classes, so that no measure is at an end of its range."""
    rng = torch.Generator().manual_seed(n)
    y = torch.randint(classes, (n,), generator=rng)
    y[:classes] = torch.arange(classes)
    return (
        torch.randn((n, width), generator=rng)
        + 1.2 * torch.randn((classes, width), generator=rng)[y]
        + 0.5,
        y,
    )


@pytest.fixture(params=[(12, 3, 2), (60, 7, 4), (143, 20, 5)], ids=str)
def points(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    return cloud(*request.param)


def test_the_four_points_have_their_golden_values() -> None:
    assert measures.alignment(G4, Y4) == pytest.approx(1.5, abs=1e-12)
    assert measures.uniformity(G4) == pytest.approx(-2.066296, abs=1e-6)
    assert measures.silhouette(G4, Y4) == pytest.approx(0.112585, abs=1e-6)
    assert measures.davies_bouldin(G4, Y4) == pytest.approx(0.964302, abs=1e-6)
    assert measures.knn_accuracy(G4, Y4, 1) == 0.5
    assert measures.neighbourhood_hit(G4, Y4, 2) == 0.375


def test_alignment_and_uniformity_look_at_directions_only() -> None:
    lengths = torch.tensor([[0.1], [3.0], [1.0], [50.0]])
    assert measures.alignment(lengths * G4, Y4) == pytest.approx(1.5, abs=1e-12)
    assert measures.uniformity(lengths * G4) == pytest.approx(-2.066296, abs=1e-6)


def test_cka_knows_no_rotation_scale_or_shift() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    assert measures.linear_cka(G4, 3 * G4 @ turn + 5) == pytest.approx(1.0, abs=1e-12)
    assert (
        measures.linear_cka(G4, G4 @ torch.tensor([[1.0, 0.0], [0.0, 5.0]], dtype=torch.float64))
        < 0.95
    )


# Slow reference implementations on lists of numbers, one pair at a time.


def slow_unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def slow_pairs(z: Tensor) -> list[tuple[int, int, float]]:
    rows = [slow_unit(row) for row in z.double().tolist()]
    return [
        (i, j, sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True)))
        for i in range(len(rows))
        for j in range(len(rows))
        if i != j
    ]


def test_alignment_and_uniformity_equal_their_double_loops(
    points: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z, y = points
    monkeypatch.setattr(measures, "BLOCK", 50)  # Several blocks, of which the last is shorter.
    pairs = slow_pairs(z)
    own = [squared for i, j, squared in pairs if y[i] == y[j]]
    assert measures.alignment(z, y) == pytest.approx(sum(own) / len(own), abs=1e-12)
    assert measures.uniformity(z) == pytest.approx(
        math.log(sum(math.exp(-2 * s) for *_, s in pairs) / len(pairs)), abs=1e-12
    )


def test_neighbours_equal_their_double_loop(
    points: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z, y = points
    monkeypatch.setattr(measures, "BLOCK", 50)
    twin = z + 0.7 * torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    for among in (None, twin):
        rows, bank, labels = (
            z.double().tolist(),
            (z if among is None else among).double().tolist(),
            y.tolist(),
        )
        near = [
            sorted(
                (j for j in range(len(bank)) if j != i),
                key=lambda j, row=row: math.dist(row, bank[j]),
            )[:3]
            for i, row in enumerate(rows)
        ]
        assert measures.neighbours(z, 3, among).tolist() == near
        hits = [labels[j] == labels[i] for i, found in enumerate(near) for j in found]
        assert measures.neighbourhood_hit(z, y, 3, among) == pytest.approx(
            sum(hits) / len(hits), abs=1e-12
        )
        votes = [Counter(labels[j] for j in found) for found in near]
        answers = [min(vote, key=lambda label, vote=vote: (-vote[label], label)) for vote in votes]
        right = [answer == label for answer, label in zip(answers, labels, strict=True)]
        assert measures.knn_accuracy(z, y, 3, among) == pytest.approx(
            sum(right) / len(right), abs=1e-12
        )


def test_cka_equals_its_definition_with_kernels(points: tuple[Tensor, Tensor]) -> None:
    """The reference is HSIC(K,L)/√(HSIC(K,K)·HSIC(L,L)) with N×N kernels and the centring matrix;
    the tested function never builds an N×N matrix.
    """
    x = points[0].double()
    y = torch.tanh(x[:, :2]) + 0.3
    centring = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    k, other = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    expected = torch.trace(k @ other) / (torch.trace(k @ k) * torch.trace(other @ other)).sqrt()
    assert measures.linear_cka(x, y) == pytest.approx(float(expected), abs=1e-12)
    assert 0 < float(expected) < 1


def test_centres_and_their_cosines_equal_a_loop_over_classes(points: tuple[Tensor, Tensor]) -> None:
    z, y = points
    adv, classes = z.flip(1) ** 2, int(y.max()) + 2  # One class has no sample.
    found = measures.centre_cosines(z, adv, y, classes)
    assert found.shape == (classes, classes) and bool(
        found[-1].isnan().all() and found[:, -1].isnan().all()
    )
    rows, rows_adv = z.double().tolist(), adv.double().tolist()
    for i in range(classes - 1):
        for j in range(classes - 1):
            mine = [row for row, label in zip(rows, y.tolist(), strict=True) if label == i]
            theirs = [row for row, label in zip(rows_adv, y.tolist(), strict=True) if label == j]
            a, b = (
                [sum(column) / len(part) for column in zip(*part, strict=True)]
                for part in (mine, theirs)
            )
            cosine = sum(p * q for p, q in zip(slow_unit(a), slow_unit(b), strict=True))
            assert float(found[i, j]) == pytest.approx(cosine, abs=1e-12)
            assert measures.class_centres(z, y, classes)[i].tolist() == pytest.approx(a, abs=1e-12)
    centres = measures.class_centres(z, y, classes)
    one = sum(
        p * q for p, q in zip(slow_unit(rows[3]), slow_unit(centres[1].tolist()), strict=True)
    )
    assert float(measures.cosines_to_centres(z, centres)[3, 1]) == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.3), ("l2", 0.5)])
def test_displacement_has_its_written_out_values(norm: str, length: float) -> None:
    """The class centres are (½,0) and (3½,4), so 5 apart; the first two images are perturbed most
    and the last one not at all.
    """
    clean = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [4.0, 4.0]])
    moved = clean + torch.tensor([[6.0, 8.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    x = torch.full((4, 1, 2, 2), 0.5, dtype=torch.float64)
    change = torch.tensor(
        [
            [0.3, -0.3, 0.2, math.sqrt(0.03)],
            [0.3, -0.3, 0.2, math.sqrt(0.03)],
            [0.1, 0, 0, 0],
            [0, 0, 0, 0],
        ]
    )
    x_moved = x + change.double().view(4, 1, 2, 2)
    found = measures.displacement(clean, moved, x, x_moved, torch.tensor([0, 0, 1, 1]), 2, norm)
    assert found.lipschitz.tolist() == pytest.approx([10 / length, 1 / length, 0, 0], rel=1e-6)
    assert found.relative.tolist() == pytest.approx([2.0, 0.2, 0, 0], abs=1e-12)


def test_centre_distance_is_the_mean_over_pairs_of_classes_that_are_there() -> None:
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0], [5.0, 0.0]])
    assert measures.centre_distance(z, torch.tensor([0, 0, 1, 3]), 5) == pytest.approx(
        (3 + 4 + 5) / 3
    )


# Comparison with scikit-learn where it has the same measure.


@pytest.mark.long
def test_cluster_measures_and_neighbours_equal_scikit_learn(points: tuple[Tensor, Tensor]) -> None:
    z, y = points
    array, labels = z.double().numpy(), y.numpy()
    assert measures.silhouette(z, y) == pytest.approx(silhouette_score(array, labels), abs=1e-9)
    assert measures.davies_bouldin(z, y) == pytest.approx(
        davies_bouldin_score(array, labels), abs=1e-9
    )
    assert measures.davies_bouldin(1e-9 * z.double(), y) == pytest.approx(
        davies_bouldin_score(array, labels), abs=1e-9
    )
    for k in (1, 4):
        votes = cross_val_score(KNeighborsClassifier(k), array, labels, cv=LeaveOneOut())
        assert measures.knn_accuracy(z, y, k) == pytest.approx(votes.mean(), abs=1e-12)
        near = NearestNeighbors(n_neighbors=k).fit(array).kneighbors(return_distance=False)
        assert measures.neighbours(z, k).numpy().tolist() == near.tolist()


# Extreme values of the measures.


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1e6 / 3])
def test_a_network_that_sees_one_point_has_written_down_values(value: float) -> None:
    # The classes have 14, 13 and 13 samples.
    z, y = (torch.full((40, 3), value, dtype=torch.float64), torch.arange(40) % 3)
    assert 0 <= measures.alignment(z, y) < 1e-12
    assert measures.uniformity(z) == pytest.approx(0, abs=1e-12)
    assert measures.silhouette(z, y) == 0 and measures.davies_bouldin(z, y) == math.inf
    assert measures.neighbours(z, 2)[:4].tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    assert (
        measures.linear_cka(z, torch.rand((40, 2), generator=torch.Generator().manual_seed(0)))
        == measures.linear_cka(z, z)
        == 0
    )
    x = torch.zeros((40, 1, 1, 1))
    found = measures.displacement(z, torch.cat([z[:3] + 1, z[3:]]), x, x + 1, y, 3)
    assert found.relative.tolist() == [math.inf] * 3 + [0.0] * 37


def test_a_cloud_far_from_the_origin_is_the_same_cloud(points: tuple[Tensor, Tensor]) -> None:
    z, y = points[0].double(), points[1]
    assert measures.neighbours(z + 1e8, 3).equal(measures.neighbours(z, 3))
    for measure in (measures.silhouette, measures.davies_bouldin):
        assert measure(z + 1e8, y) == pytest.approx(measure(z, y), abs=1e-6)
    assert measures.linear_cka(z + 1e8, z) == pytest.approx(1, abs=1e-6)


def test_vectors_of_length_zero_stay_zero() -> None:
    z = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert measures.unit(z).tolist() == [[0, 0], [0, 0], [1, 0], [0, 1]]
    assert measures.alignment(z, Y4) == pytest.approx((0 + 2) / 2)
    assert measures.alignment_of_pairs(z, z.flip(0)) == pytest.approx(1.0)
    assert measures.centre_cosines(z, z, Y4, 2)[0].tolist() == [0, 0]


def test_two_classes_on_one_centre_are_not_the_best_clustering() -> None:
    """Two class centres coincide. scikit-learn ignores that pair and so returns a better score
    here.
    """
    z = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [9.0, 9.0], [9.0, 10.0]])
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    assert davies_bouldin_score(z.numpy(), y.numpy()) < 1
    assert measures.davies_bouldin(z, y) == math.inf


ONE = torch.zeros(4, dtype=torch.long)
X4 = torch.zeros(4, 1, 2, 2)
LABELLED = {
    "alignment": measures.alignment,
    "class_centres": lambda z, y: measures.class_centres(z, y, 2),
    "centre_cosines": lambda z, y: measures.centre_cosines(z, z, y, 2),
    "centre_distance": lambda z, y: measures.centre_distance(z, y, 2),
    "silhouette": measures.silhouette,
    "davies_bouldin": measures.davies_bouldin,
    "knn_accuracy": lambda z, y: measures.knn_accuracy(z, y, 1),
    "neighbourhood_hit": lambda z, y: measures.neighbourhood_hit(z, y, 1),
    "displacement": lambda z, y: measures.displacement(z, z + 1, X4, X4 + 0.5, y, 2).relative,
}


@pytest.mark.parametrize("measure", LABELLED.values(), ids=LABELLED)
@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint64],
    ids=str,
)
def test_labels_may_be_of_any_integer_dtype(measure, dtype: torch.dtype) -> None:
    wanted, found = (torch.as_tensor(measure(G4, y)) for y in (Y4, Y4.to(dtype)))
    assert torch.equal(wanted, found)


@pytest.mark.parametrize("measure", LABELLED.values(), ids=LABELLED)
@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (Y4.float(), "must be a tensor of integers.*, but these are float32"),
        (Y4.bool(), "these are bool"),
        (Y4.tolist(), "these are a list"),
        (
            Y4[:, None],
            (
                r"4 points need one label each, shape \(4,\), but the labels have shape \(4, 1\)"
                r".*squeeze"
            ),
        ),
        (torch.eye(2, dtype=torch.long)[Y4], r"shape \(4, 2\).*argmax"),
        (torch.tensor(1), r"labels have shape \(\)"),
        (torch.tensor([0, 0, 1, -100]), "label -100 is below 0"),
    ],
    ids=["float", "bool", "list", "column", "one-hot", "one for many", "ignored"],
)
def test_labels_that_are_none_are_one_clear_sentence(measure, labels, says: str) -> None:
    with pytest.raises(UserError, match=says):
        measure(G4, labels)


def test_a_large_label_takes_no_memory() -> None:
    far = Y4 * 10**12
    for measure in (measures.knn_accuracy, measures.neighbourhood_hit):
        assert measure(G4, far, 1) == measure(G4, Y4, 1)
    assert measures.davies_bouldin(G4, far) == measures.davies_bouldin(G4, Y4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: measures.silhouette(G4, ONE), "two classes"),
        (lambda: measures.davies_bouldin(G4, torch.arange(4)), "more points than classes"),
        (lambda: measures.centre_distance(G4, ONE, 3), "two classes"),
        (lambda: measures.alignment(G4, torch.arange(4)), "no class has two"),
        (lambda: measures.uniformity(G4[:1]), "two images"),
        (lambda: measures.knn_accuracy(G4, Y4, 4), "at least 5 points, but there are 4"),
        (lambda: measures.neighbourhood_hit(G4, Y4, 0), "0 neighbours"),
        (lambda: measures.alignment(G4, Y4[:3]), "one label each"),
        (lambda: measures.alignment_of_pairs(G4, G4[:3]), "do not match"),
        (lambda: measures.linear_cka(G4, G4[:3]), "there are 4 and 3"),
        (lambda: measures.class_centres(G4, Y4, 1), "label 1 is outside 0 to 0"),
        (
            lambda: measures.uniformity(G4 * math.nan),
            "8 of 8 numbers in these features are NaN or infinite.*diverged",
        ),
        (
            lambda: measures.centre_cosines(G4, G4 / torch.tensor([0.0, 1.0]), Y4, 2),
            "4 of 8 numbers",
        ),
        (
            lambda: measures.uniformity((255 * G4).to(torch.uint8)),
            "must be floats, but these are uint8",
        ),
        (lambda: measures.linear_cka(G4, Y4[:, None]), "must be floats, but these are int64"),
        (lambda: measures.uniformity(G4.numpy()), "must be a tensor of floats .*ndarray"),
        (lambda: measures.uniformity(G4[:, None]), r"shape \(N, D\).* have shape \(4, 1, 2\)"),
        (lambda: measures.uniformity(G4[:, :0]), r"shape \(4, 0\)"),
        (lambda: measures.uniformity(G4[:0]), r"shape \(0, 2\)"),
        (
            lambda: measures.cosines_to_centres(G4, torch.ones(3, 5)),
            r"points have 2 features, but they have shape \(3, 5\)",
        ),
        (lambda: measures.uniformity(G4[0]), "must have shape"),
        (
            lambda: measures.displacement(
                G4, G4, torch.zeros(4, 1, 2, 2), torch.zeros(3, 1, 2, 2), Y4, 2
            ),
            "do not belong",
        ),
        (
            lambda: measures.displacement(G4, G4, X4.byte(), X4, Y4, 2),
            r"floats in \[0, 1\], but these are uint8 and float32",
        ),
        (lambda: measures.displacement(G4, G4, X4, X4 * math.nan, Y4, 2), "pixels are NaN"),
        (
            lambda: measures.displacement(G4, G4, X4.numpy(), X4, Y4, 2),
            "these are a ndarray and a Tensor",
        ),
        (
            lambda: measures.displacement(G4, G4, X4[:, :, :0], X4[:, :, :0], Y4, 2),
            r"shape \(4, 1, 0, 2\) have no pixels",
        ),
        (
            lambda: measures.displacement(G4, G4, X4[:, 0, 0, 0], X4[:, 0, 0, 0], Y4, 2),
            r"shape \(4,\) have no pixels",
        ),
        (
            lambda: measures.displacement(G4, G4, X4, X4 + 0.1, Y4, 2, "l1"),
            "norm 'l1' is not known",
        ),  # type: ignore[arg-type]
        (lambda: measures.cosines_to_centres(G4, G4.numpy()), "these are a ndarray"),
        (lambda: measures.cosines_to_centres(G4, G4.long()), "these are int64"),
        (lambda: measures.cosines_to_centres(G4, G4 / 0), "infinite"),
        (lambda: measures.knn_accuracy(G4, Y4, "3"), "k='3' is not a whole number"),
        (lambda: measures.neighbours(G4, 2.5), r"k=2\.5 is not"),  # type: ignore[arg-type]
        (lambda: measures.neighbourhood_hit(G4, Y4, True), "k=True is not"),
        (lambda: measures.neighbourhood_hit(G4, Y4, math.inf), "k=inf is not"),
        (lambda: measures.class_centres(G4, Y4, "5"), "classes='5' is not"),
        (lambda: measures.centre_distance(G4, Y4, None), "classes=None is not"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_sentence(call, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


def test_whole_numbers_of_any_kind_count() -> None:
    for k in (2.0, np.int64(2), torch.tensor(2), np.float32(2)):
        assert torch.equal(measures.neighbours(G4, k), measures.neighbours(G4, 2))
        assert torch.equal(
            measures.centre_cosines(G4, G4, Y4, k), measures.centre_cosines(G4, G4, Y4, 2)
        )  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", LABELLED.values(), ids=LABELLED)
@pytest.mark.parametrize(("scale", "says"), [(1e200, "too large"), (1e-200, "too small")])
def test_features_whose_squares_have_no_room_are_one_clear_sentence(
    measure, scale: float, says: str
) -> None:
    for call in (
        lambda: measure(scale * G4, Y4),
        lambda: measures.uniformity(scale * G4),
        lambda: measures.cosines_to_centres(G4, scale * G4),
    ):
        with pytest.raises(UserError, match=says):
            call()
    for fair in (1e90, 1e-90):
        assert measures.linear_cka(fair * G4, G4) == pytest.approx(1, abs=1e-12)
        for scaled in (measures.alignment, measures.silhouette, measures.davies_bouldin):
            assert scaled(fair * G4, Y4) == pytest.approx(scaled(G4, Y4), rel=1e-9)


def test_without_scikit_learn_there_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        measures.silhouette(G4, Y4)
    # The other measures still work without scikit-learn.
    assert measures.knn_accuracy(G4, Y4, 1) == 0.5
