"""Tests curvature and input gradients against golden numbers, a dense Hessian, and gradients
computed one image at a time.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustviz import figures, probes
from robustviz.nets import frozen
from robustviz.probes import CurvatureSpec, GradientsSpec
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.views.loss.curvature import (
    cross_entropy,
    gradient,
    hessian_vector,
    others_of,
    relus,
    smoothed,
    top_eigenvalue,
)
from robustviz.views.loss.result import Curvature, Gradients, median_interval
from robustviz.views.measure import images_of, measure, net_of
from robustviz.views.screen import wordy
from tests.aligned import aligned, origin

ALIGNED = aligned().id
BEFORE, WITNESS = origin(aligned())


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_golden_softmax_linear_network() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
    x, y = torch.tensor([[0.3, -0.2]], dtype=torch.float64), torch.tensor([0])

    def loss(z):
        return F.cross_entropy(z @ weight.T, y.expand(len(z)), reduction="none")

    value, residual = top_eigenvalue(loss, x, 20, rng())
    assert float(loss(x)) == pytest.approx(0.743420, abs=1e-6)
    assert float(value) == pytest.approx(0.737783, abs=1e-6) and float(residual) < 1e-6
    p = F.softmax(x @ weight.T, dim=1)[0]
    dense = weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight
    assert torch.linalg.eigvalsh(dense).numpy() == pytest.approx([0.098744, 0.737783], abs=1e-6)
    columns = torch.stack(
        [hessian_vector(loss, x, unit[None])[0] for unit in torch.eye(2, dtype=torch.float64)]
    )
    assert torch.allclose(columns, dense, atol=1e-12)


@pytest.mark.long
def test_a_dense_hessian_of_a_tiny_network(conv_net, images, labels) -> None:
    net = smoothed(conv_net, 10.0).double()
    x, y = images[:3].double(), labels[:3]
    with frozen(net):
        found, residual = top_eigenvalue(cross_entropy(net, y), x, 200, rng())
        for i in range(3):
            dense = torch.autograd.functional.hessian(
                lambda flat, i=i: F.cross_entropy(net(flat.view(1, *x.shape[1:])), y[i : i + 1]),
                x[i].flatten(),
            )
            values = torch.linalg.eigvalsh(dense)
            top = values[values.abs().argmax()]
            assert float(residual[i]) < 1e-3
            assert float(found[i]) == pytest.approx(float(top), rel=1e-5)


def test_the_sign_is_kept_and_samples_do_not_meet() -> None:
    scale = torch.tensor([[1.0, -5.0, 2.0], [4.0, 1.0, -3.0]], dtype=torch.float64)

    def loss(x):
        return 0.5 * (scale * x * x).sum(dim=1)

    x = torch.zeros(2, 3, dtype=torch.float64)
    found, _ = top_eigenvalue(loss, x, 100, rng())
    assert found.numpy() == pytest.approx([-5.0, 4.0], rel=1e-6)
    assert torch.equal(gradient(loss, x + 1), scale)


def test_twenty_steps_tell_apart_what_competes_and_the_residual_is_that_of_a_vector() -> None:
    scale = torch.cat([torch.linspace(-1, 1, 199), torch.tensor([1.0, -1.05, 1.03])]).double()[None]

    def loss(x):
        return 0.5 * (scale * x * x).sum(dim=1)

    found, residual = top_eigenvalue(loss, torch.zeros(1, 202, dtype=torch.float64), 20, rng())
    near = (scale - found).abs().min() / found.abs()
    assert float(near) <= float(residual) < 0.2
    found, residual = top_eigenvalue(loss, torch.zeros(1, 202, dtype=torch.float64), 80, rng())
    assert float(found) == pytest.approx(-1.05, rel=1e-6) and float(residual) < 1e-3


@pytest.mark.parametrize("power", [1, 0])
def test_no_curvature_is_0(power) -> None:
    found, residual = top_eigenvalue(
        lambda x: x.sum(dim=1) if power else 0 * x.sum(dim=1), torch.rand(4, 3), 5, rng()
    )
    assert not found.any() and not residual.any()


def test_relu_hides_the_curvature_that_softplus_shows(conv_net, images) -> None:
    changed = smoothed(conv_net, 50.0)
    assert not any(isinstance(module, nn.ReLU) for module in changed.modules())
    assert sum(isinstance(module, nn.ReLU) for module in conv_net.modules()) == 2, (
        "the network itself was changed"
    )
    with torch.no_grad():
        assert torch.allclose(changed(images), conv_net(images), atol=0.1)


class Twin(nn.Module):
    """A network with the layers of `conv_net`, whose ReLUs are function calls."""

    def __init__(self, net: nn.Module, relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy([*net.maps]))
        self.head, self.relu = copy.deepcopy(net.head), relu

    def forward(self, x):
        for layer in self.layers:
            x = self.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        return self.head(x.mean((2, 3)))


def unreturned(x):
    F.relu(x, True)
    return x


@pytest.mark.parametrize(
    "relu",
    [
        F.relu,
        torch.relu,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        torch.ops.aten.relu.default,
        unreturned,
        nn.ReLU(inplace=True),
    ],
)
def test_relus_that_are_functions_are_smoothed_and_counted_as_layers_are(
    conv_net, images, labels, relu
) -> None:
    twin = Twin(conv_net, relu).eval()
    x, y = images[:3].double(), labels[:3]
    with torch.no_grad():
        assert torch.equal(twin(images), conv_net(images))
    assert relus(twin, images[:1]) == relus(conv_net, images[:1]) == 2
    found = []
    for net in (smoothed(conv_net, 10.0).double(), smoothed(twin, 10.0).double()):
        with frozen(net):
            found.append(top_eigenvalue(cross_entropy(net, y), x, 20, rng())[0])
    assert torch.equal(*found) and found[0].abs().min() > 0
    with torch.no_grad():
        assert torch.equal(twin(images), conv_net(images)), "the network itself was changed"


def test_only_the_smoothed_copys_own_forward_is_smoothed(conv_net, images) -> None:
    x = torch.tensor([-1.0, 2.0])
    smoothed(conv_net, 10.0)(images)
    assert F.relu(x).tolist() == [0.0, 2.0]
    net = smoothed(Twin(conv_net, lambda z: z), 10.0)
    assert relus(net, images[:1]) == 0


@pytest.fixture
def run(runs_home):
    return folder.open_run(ALIGNED)


def test_gradients_are_those_of_each_image_alone(run) -> None:
    found = probes.gradients(run, GradientsSpec(n=12, targets=WITNESS))
    few = images_of(run).take(torch.arange(12))

    def alone(one: folder.Run) -> torch.Tensor:
        net, out = one.net().double(), []
        with frozen(net):
            for i in range(12):
                x = few.x[i : i + 1].double().requires_grad_()
                out.append(
                    torch.autograd.grad(F.cross_entropy(net(x), few.y[i : i + 1]), x)[0].flatten()
                )
        return torch.stack(out)

    own, other = alone(run), alone(folder.open_run(WITNESS))
    assert found.norm == pytest.approx(own.norm(dim=1).numpy(), rel=1e-6)
    assert found.cosine[0] == pytest.approx(F.cosine_similarity(own, other).numpy(), abs=1e-6)
    assert not found.share.size, "digits have no masks"
    assert "no object masks" in figures.gradients(found).layout.meta["sentence"]


def test_an_aligned_run_is_compared_with_its_witness_and_with_networks_it_never_saw(run) -> None:
    others = [each.id for each in others_of(run, GradientsSpec())]
    unseen = 3 + (not folder.open_run(WITNESS).ordinary)
    assert others[0] == WITNESS and len(others) == unseen and not {BEFORE, run.id} & set(others)
    names = {probes.gradients.name(run, GradientsSpec(targets=each)) for each in ("", BEFORE)}
    assert len(names) == 2


def test_the_share_on_the_object_is_counted_pixel_by_pixel(runs_home) -> None:
    run = folder.open_run("shapes-standard-small-resnet-s0-66d1d3f3")
    found = probes.gradients(
        run, GradientsSpec(n=6, targets="shapes-standard-small-cnn-s0-67af4565")
    )
    few, net = images_of(run).take(torch.arange(6)), net_of(run)
    with frozen(net):
        x = few.x.requires_grad_()
        (slow,) = torch.autograd.grad(F.cross_entropy(net(x), few.y, reduction="sum"), x)
    for i in range(6):
        inside = sum(float(slow[i, c][few.masks[i, 0]].abs().sum()) for c in range(3))
        assert found.share[i] == pytest.approx(inside / float(slow[i].abs().sum()), abs=1e-3)
        assert found.area[i] == pytest.approx(float(few.masks[i].float().mean()), abs=1e-9)


@pytest.mark.long
def test_curvature_is_top_eigenvalue_of_the_smoothed_copy_and_is_kept(run) -> None:
    spec = CurvatureSpec(n=3, iterations=60, beta=20)
    found = probes.curvature(run, spec)
    net, few = smoothed(net_of(run), 20.0).double(), images_of(run).take(torch.arange(3))
    with frozen(net):
        for i in range(3):
            dense = torch.autograd.functional.hessian(
                lambda flat, i=i: F.cross_entropy(net(flat.view(1, 1, 8, 8)), few.y[i : i + 1]),
                few.x[i].double().flatten(),
            )
            values = torch.linalg.eigvalsh(dense)
            assert found.eigenvalue[i] == pytest.approx(
                float(values[values.abs().argmax()]), rel=1e-3
            )
    assert found.meta["relus"] == sum(isinstance(m, nn.ReLU) for m in net_of(run).modules())
    assert np.array_equal(probes.curvature.kept(run, spec).eigenvalue, found.eigenvalue)
    assert not any(parameter.grad is not None for parameter in net_of(run).parameters())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CurvatureSpec(beta=2.0), "10 to 1000"),
        (lambda: CurvatureSpec(n=1), "at least 2"),
        (lambda: GradientsSpec(targets="no-such-run"), "no run called"),
        (
            lambda: GradientsSpec(targets="shapes-standard-small-cnn-s0-67af4565"),
            "other images or classes",
        ),
    ],
)
def test_bad_settings_are_one_sentence(run, make, says) -> None:
    with pytest.raises(UserError, match=says):
        measure(run, make())


def bent(values, **more) -> Curvature:
    values = np.array(values, dtype=float)
    return Curvature(
        np.arange(len(values)),
        values,
        values * 0,
        values == values,
        meta={"beta": 10.0, "run": "r"} | more,
    )


def test_the_curvature_figure_says_what_is_decided_and_no_more() -> None:
    low, high = bent([1.0, 2, 3, 4, 5, 6, 7, 8]), bent([2.0, 3, 4, 5, 6, 7, 8, 9])
    said = figures.curvature({"before": low, "after": high}).layout.meta["sentence"]
    assert "lower on 0 of 8 images, higher on most" in said
    assert "before: 4.5." in said and not wordy(said)
    sure = figures.curvature({"before": low, "after": high}).layout.meta["sure"]
    assert (
        "before: median 4.5 [1, 8]." in sure
        and "Its mean is 4.5." in sure
        and "a lower value is 0 to 32%" in sure
        and not wordy(sure)
    )
    assert (
        "the same on every image"
        in figures.curvature({"before": low, "after": low}).layout.meta["sentence"]
    )
    mixed = figures.curvature(
        {"before": low, "after": bent([2.0, 1, 4, 3, 6, 5, 8, 7])}
    ).layout.meta["sentence"]
    assert "no significant difference" in mixed
    alone = figures.curvature(
        dataclasses.replace(bent([0.0, 0.0, 0.0]), same=np.array([True, False, True]))
    )
    assert (
        "From" not in alone.layout.meta["sentence"]
        and "another class than the network on 1 images" in alone.layout.meta["sure"]
    )
    negative = figures.curvature({"before": bent([-1.0, 2.0, 3.0])})
    assert (
        negative.data[0].marker.symbol[0] == "diamond-open"
        and "Negative: 1 (before)." in negative.layout.meta["sure"]
    )
    assert [int(row[0]) for row in negative.data[0].customdata] == [0, 1, 2]


def test_the_interval_of_a_median_stays_among_the_values_and_holds_the_truth() -> None:
    tail = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 9.0])
    middle, low, high = median_interval(tail)
    assert (middle, low, high) == (pytest.approx(0.055), 0.02, 0.09), "2nd and 9th of ten"
    assert median_interval(np.array([3.0, 1.0])) == (2.0, 1.0, 3.0)
    assert median_interval(np.array([5.0])) == (5.0, 5.0, 5.0)
    many = np.arange(5000.0)  # more values than a float can count subsets of
    assert median_interval(many) == (2499.5, 2430.0, 4999 - 2430.0), (
        "SciPy: binom.ppf(0.025, 5000, 0.5) is 2431"
    )
    drawn = np.random.default_rng(0).lognormal(0, 2, (2000, 50))
    held = [low <= 1 <= high for _, low, high in map(median_interval, drawn)]
    assert 0.95 <= np.mean(held) < 0.98, "the median of a lognormal is 1"


def test_a_network_without_relu_is_not_said_to_have_one() -> None:
    said = figures.curvature({"A": bent([1.0, 2.0], relus=0)}).layout.meta["sure"]
    assert (
        "The network has no ReLU, so it was measured unchanged." in said and "softplus" not in said
    )
    some = figures.curvature({"A": bent([1.0, 2.0], relus=7)}).layout.meta["sure"]
    assert "softplus with β = 10 replaces each of its 7 ReLUs." in some


def steep(share, area, cosine, run="r", targets=("t",)) -> Gradients:
    n = len(share or cosine[0])
    return Gradients(
        np.arange(n),
        np.linspace(1, 2, n),
        np.array(share),
        np.array(area),
        list(targets),
        np.array(cosine).reshape(len(targets), n),
        meta={"run": run, "labels": [f"net {target}" for target in targets]},
    )


def test_the_gradient_figure_compares_image_by_image() -> None:
    before = steep([0.3, 0.4, 0.5, 0.4], [0.2, 0.21, 0.19, 0.2], [[0.1, 0.2, 0.3, 0.2]])
    after = steep([0.4, 0.5, 0.61, 0.5], [0.2, 0.21, 0.19, 0.2], [[0.1, 0.3, 0.1, 0.3]])
    figure = figures.gradients({"before": before, "after": after})
    said, sure = figure.layout.meta["sentence"], figure.layout.meta["sure"]
    assert (
        "more on the object" in said
        and "+10.2 percentage points" in sure
        and "net t" in sure
        and "no significant difference" in sure
        and not wordy(said)
        and not wordy(sure)
    )
    assert (
        "(above the area)" in said
        and len(figure.data) == 2
        and figure.layout.meta["alt"].endswith(said)
    )
    assert (
        "less on the object"
        in figures.gradients({"before": after, "after": before}).layout.meta["sentence"]
    )
    same = figures.gradients({"before": before, "after": before}).layout.meta
    assert (
        "no significant difference" in same["sentence"]
        and "the same on every image" in same["sure"]
    )
    itself = figures.gradients(
        {"t": steep([], [], [[1.0, 1.0]], run="t"), "u": steep([], [], [[0.5, 0.4]])}
    )
    assert "Cosine" not in itself.layout.meta["sure"], (
        "a network's likeness to itself is no finding"
    )
    with pytest.raises(UserError, match="nothing to compare"):
        figures.gradients(steep([], [], [[1.0, 1.0]], run="t"))


def test_sentences_can_be_read_at_a_glance_whatever_networks_are_called() -> None:
    names = ("A Standard, seed 1, 2,000 training images", "B Model alignment, target=witness_hard")
    sides = [bent([1.0, 2, 3, 4, 5, 6, 7]), bent([-2.0, 1, 2, 3, 4, 5, 6])]
    steeps = [steep([0.3, 0.4], [0.2, 0.21], [[0.1, 0.2]]), steep([0.4, 0.6], [0.2, 0.2], [[0, 1]])]
    for draw, found in ((figures.curvature, sides), (figures.gradients, steeps)):
        meta = draw(dict(zip(names, found, strict=True))).layout.meta
        assert wordy(meta["sentence"]) == wordy(meta["sure"]) == []
        assert "From A to B" in meta["sentence"]
