"""Tests soft labels and loss surfaces: every point is a loss that can be computed directly, and the
sentences are true at extreme values.
"""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import plotly.io
import pytest
import torch
import torch.nn.functional as F

from robustviz import cli, figures, probes
from robustviz.attacks import PGD
from robustviz.nets import frozen, wrap
from robustviz.probes import SoftLabelsSpec, SurfacesSpec, WeightSurfaceSpec
from robustviz.runs import folder
from robustviz.training.evaluation import unpack
from robustviz.types import UserError
from robustviz.views.loss.refined import FIRST, SEEN, refined
from robustviz.views.loss.result import SoftLabels, Surface, WeightSurface, divergence, entropy
from robustviz.views.loss.surfaces import (
    adversarial_direction,
    filter_normalised,
    moved_weights,
    ticks,
)
from robustviz.views.measure import image_of, images_of, net_of, radius
from robustviz.views.screen import wordy
from tests.aligned import aligned, origin

ALIGNED = aligned().id
BEFORE, WITNESS = origin(aligned())
SPEC = SurfacesSpec(index=3, grid=7)


@pytest.fixture
def run(runs_home):
    return folder.open_run(ALIGNED)


def logits(run: folder.Run, x: torch.Tensor) -> torch.Tensor:
    net = net_of(run)
    with frozen(net), torch.no_grad():
        return net(x)


def test_every_point_of_the_surface_is_the_loss_there(run) -> None:
    found = probes.surfaces(run, SPEC)
    q = F.softmax(logits(folder.open_run(WITNESS), torch.from_numpy(found.x)[None])[0] / 4, dim=0)
    assert found.label == pytest.approx(q.numpy(), abs=1e-6)
    for i in range(7):
        for j in range(7):
            x = torch.from_numpy(
                found.x + np.float32(found.a[i]) * found.d + np.float32(found.b[j]) * found.r
            )[None]
            z = logits(run, x)[0]
            assert found.hard[i, j] == pytest.approx(
                float(torch.logsumexp(z, 0) - z[found.y]), abs=1e-5
            )
            p = F.softmax(z / 4, dim=0)
            assert found.soft[i, j] == pytest.approx(
                16 * float((q * (q / p).log()).sum()), abs=2e-4
            )
            assert found.pred[i, j] == int(z.argmax())


def test_the_centre_is_the_loss_at_the_image(run) -> None:
    for index in range(8):
        found = probes.surfaces(run, dataclasses.replace(SPEC, index=index))
        _, x, y = image_of(run, index)
        assert found.a[found.middle] == 0 and found.b[found.middle] == 0
        assert np.array_equal(found.x, x[0].numpy()) and found.y == int(y)
        assert found.hard[found.middle, found.middle] == pytest.approx(
            float(F.cross_entropy(logits(run, x), y)), abs=1e-6
        )
        witness = probes.surfaces(
            folder.open_run(WITNESS),
            dataclasses.replace(SPEC, index=index, reference=BEFORE, witness=WITNESS),
        )
        assert witness.soft[3, 3] == pytest.approx(0, abs=1e-5), (
            "a network's own soft label costs it nothing"
        )


def test_the_directions_are_the_references_and_the_same_for_all(run) -> None:
    found = probes.surfaces(run, SPEC)
    assert (
        found.meta["reference"] == BEFORE
        and found.meta["witness"] == WITNESS
        and found.meta["temperature"] == 4.0
    )
    net = net_of(folder.open_run(BEFORE))
    _, x, y = image_of(run, 3)
    with frozen(net):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(net(leaf), y), leaf)
    assert np.array_equal(found.d, slope[0].sign().numpy())
    assert set(np.unique(found.r)) == {-1.0, 1.0}
    others = [
        probes.surfaces(folder.open_run(name), dataclasses.replace(SPEC, reference=BEFORE))
        for name in (BEFORE, WITNESS)
    ]
    for other in others:
        assert all(
            np.array_equal(getattr(found, what), getattr(other, what))
            for what in ("x", "d", "r", "a", "b")
        )
    assert others[0].soft.size == 0, "an ordinary network has no witness unless one is named"
    assert not np.array_equal(probes.surfaces(run, dataclasses.replace(SPEC, seed=1)).r, found.r)
    assert found.a[-1] == pytest.approx(2 * run.eps)


def test_the_other_direction_ends_where_pgd_ends(run) -> None:
    found = probes.surfaces(run, dataclasses.replace(SPEC, direction="pgd", reference=run.id))
    _, x, y = image_of(run, 3)
    x_adv = PGD(eps=run.eps, start="zero", steps=20)(net_of(run), x, y)
    assert found.x + run.eps * found.d == pytest.approx(x_adv[0].numpy(), abs=1e-6)
    assert np.abs(found.d).max() <= 1 + 1e-5


def test_a_reference_trained_in_l2_is_attacked_at_the_datas_default_eps(run) -> None:
    spec = dataclasses.replace(SPEC, direction="pgd", reference=run.id)
    found = probes.surfaces(run, dataclasses.replace(spec, seed=7))
    l2 = folder.Run(run.path)
    l2.info = run.info | {"eps": 3.0, "method": {"attack": {"norm": "l2"}}}
    _, x, y = image_of(run, 3)
    assert radius(l2) == run.eps
    assert adversarial_direction(l2, x, y, spec).numpy() == pytest.approx(found.d, abs=1e-6)


@pytest.mark.parametrize("direction", ["sign", "pgd"])
def test_a_network_without_a_gradient_has_no_direction(run, direction, monkeypatch) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * x.sum((1, 2, 3))[:, None] + 5 * torch.eye(10)[3]

    net = wrap(Constant(), shape=(1, 8, 8))
    monkeypatch.setattr("robustviz.views.loss.surfaces.net_of", lambda reference: net)
    _, x, y = image_of(run, 3)
    with pytest.raises(UserError, match="no gradient at image 3"):
        adversarial_direction(run, x, y, dataclasses.replace(SPEC, index=3, direction=direction))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"grid": 20}, "no middle"),
        ({"grid": 2}, "out of range"),
        ({"index": 99999}, "no image 99999"),
        ({"temperature": 0.0}, "0.1 to 100"),
        ({"temperature": 1000.0}, "0.1 to 100"),
        ({"span": 0.0}, "span 0 is a single point"),
        ({"reference": "no-such-run"}, "no run called"),
        ({"witness": "shapes-standard-small-cnn-s0-67af4565"}, "other images or classes"),
        ({"reference": "shapes-standard-small-cnn-s0-67af4565"}, "other images or classes"),
        ({"direction": "up"}, "not one of"),
    ],
    ids=str,
)
def test_bad_settings_are_one_sentence(run, settings, says) -> None:
    with pytest.raises(UserError, match=says):
        probes.surfaces(run, SurfacesSpec(**settings))


def test_a_filter_direction_is_as_long_as_its_filter(conv_net) -> None:
    found = filter_normalised(conv_net, torch.Generator().manual_seed(0))
    for name, weight in conv_net.named_parameters():
        if weight.dim() <= 1:
            assert not found[name].any(), f"{name} has one dimension and may not move"
            continue
        for row, other in zip(weight, found[name], strict=True):
            assert float(row.detach().norm()) == pytest.approx(float(other.norm()), rel=1e-5)
    again = filter_normalised(conv_net, torch.Generator().manual_seed(0))
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_the_weight_surface_is_the_loss_of_moved_networks(run) -> None:
    found = probes.weight_surface(run, WeightSurfaceSpec(n=20, grid=3, span=0.5, seed=2))
    few, before = (
        images_of(run).take(torch.arange(20)),
        {name: value.clone() for name, value in net_of(run).state_dict().items()},
    )
    rng = torch.Generator().manual_seed(2)
    u, v = filter_normalised(run.net(), rng), filter_normalised(run.net(), rng)
    for i, a in enumerate((-0.5, 0, 0.5)):
        for j, b in enumerate((-0.5, 0, 0.5)):
            moved = run.net()
            with torch.no_grad():
                for name, weight in moved.named_parameters():
                    weight += a * u[name] + b * v[name]
                expected = float(F.cross_entropy(moved(few.x), few.y))
            assert found.loss[i, j] == pytest.approx(expected, rel=1e-4)
    assert all(
        torch.equal(value, before[name]) for name, value in net_of(run).state_dict().items()
    ), "the shared network was changed"


def test_weights_move_in_a_copy_and_the_middle_is_the_network_itself(
    conv_net, images, labels, monkeypatch
) -> None:
    u, v = (filter_normalised(conv_net, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    before = {name: value.clone() for name, value in conv_net.state_dict().items()}
    ask, seen = F.cross_entropy, []

    def watched(logits, y):
        seen.append(
            all(torch.equal(value, before[name]) for name, value in conv_net.state_dict().items())
        )
        return ask(logits, y)

    monkeypatch.setattr(F, "cross_entropy", watched)
    a = torch.tensor([0.0, 0.3, 0.0, -1.0, 0.0], dtype=torch.float64)
    found = moved_weights(conv_net, u, v, a, a.roll(1), images, labels)
    with frozen(conv_net), torch.no_grad():
        here = float(ask(conv_net(images), labels))
    assert seen == [True] * 5, "while its copy moves, others see the network as it is"
    assert float(found[0]) == here and len(set(found.tolist())) == 5
    with pytest.raises(IndexError):
        moved_weights(conv_net, u, v, a, a, images, labels + 99)
    assert all(torch.equal(value, before[name]) for name, value in conv_net.state_dict().items())


def grown(function, grid):
    """Returns `refined` for a function of row and column, and the function's true values."""
    true = np.array([[function(i, j) for j in range(grid)] for i in range(grid)], dtype=float)
    return refined(lambda i, j: true[i, j][:, None], lambda flat: flat, grid), true


@pytest.mark.parametrize("grid", [3, 5, 7, 21, 51])
def test_a_plane_needs_every_fourth_point_and_a_cubic_is_met_exactly(grid) -> None:
    found, true = grown(lambda i, j: 2 * i - 3 * j + 1, grid)
    assert found.values[..., 0] == pytest.approx(true, abs=1e-9)
    nodes = len({0, grid - 1, *(i for i in range(grid) if (i - grid // 2) % FIRST == 0)})
    assert (
        found.computed.sum() == nodes**2 + len(found.tried) and found.computed[grid // 2, grid // 2]
    )
    assert len(found.tried) == min(64, grid**2 - nodes**2)
    bowl, true = grown(lambda i, j: (i - 9) ** 3 - i * j**2, grid)
    if nodes >= 4:
        assert bowl.values[..., 0] == pytest.approx(true, abs=1e-9 * np.abs(true).max())


def test_where_it_bends_every_point_is_computed_and_the_error_is_what_was_tried() -> None:
    # The bend lies at node 20, so the cells on both sides contain it.
    found, true = grown(lambda i, j: max(0, i - 20) + 0.001 * np.sin(j), 41)
    assert found.computed[18:23].all() and not found.computed[30:39].all(1).any()
    assert found.computed.mean() < 0.5
    assert np.array_equal(found.values[found.computed][:, 0], true[found.computed]), (
        "what was computed is exact"
    )
    at = found.tried[:, 0], found.tried[:, 1]
    assert np.array_equal(found.found[:, 0], true[at]) and len(set(map(tuple, found.tried))) == 64
    off = np.abs(found.guess[:, 0] - true[at])
    assert 0 < off.max() < 0.01 * np.ptp(true)
    said = found.meta(("drawn",), found.guess - found.found)
    assert said["computed"] == found.computed.sum() and said["error"] == {"drawn": off.max()}
    assert np.array_equal(unpack(said["where"], 41 * 41).reshape(41, 41), found.computed)


def test_a_surface_that_is_not_finite_is_computed_everywhere() -> None:
    for bad in (np.inf, np.nan):
        found, true = grown(lambda i, j, bad=bad: bad if i > 18 else i * j, 21)
        assert (
            found.computed.all()
            and not len(found.tried)
            and np.array_equal(found.values[..., 0], true, equal_nan=True)
        )


def test_a_refined_surface_is_exact_where_it_was_computed_and_says_how_wrong_it_is_elsewhere(
    run,
) -> None:
    exact = probes.surfaces(run, dataclasses.replace(SPEC, grid=51))
    found = probes.surfaces(run, dataclasses.replace(SPEC, grid=51, refine=True))
    said = found.meta["refined"]
    where = unpack(said["where"], 51 * 51).reshape(51, 51)
    assert (
        "refined" not in exact.meta
        and where[25, 25]
        and said["points"] == 2601
        and said["computed"] == where.sum() < 0.5 * 2601
    )
    for loss, true, name in ((found.hard, exact.hard, "hard"), (found.soft, exact.soft, "soft")):
        assert loss[where] == pytest.approx(true[where], abs=1e-5)
        off = np.abs(loss - true)[~where].max()
        assert 0 < said["error"][name] < 3 * off
        drawn = np.abs(np.sqrt(loss.clip(0)) - np.sqrt(true.clip(0))).max() / np.sqrt(true).max()
        assert drawn < 2 * SEEN, "a fifth of a contour's step"
    assert np.array_equal(found.pred[where], exact.pred[where])
    assert (
        f"{where.sum()} of 2601 points computed" in found.meta["summary"]
        and "computed" not in exact.meta["summary"]
    )
    assert all(
        np.array_equal(getattr(found, what), getattr(exact, what))
        for what in ("x", "d", "r", "a", "b", "label")
    )


@pytest.mark.long
def test_a_refined_weight_surface_too(run) -> None:
    spec = WeightSurfaceSpec(n=20, grid=17, span=0.1)
    exact, found = (
        probes.weight_surface(run, dataclasses.replace(spec, refine=refine))
        for refine in (False, True)
    )
    where = unpack(found.meta["refined"]["where"], 17 * 17).reshape(17, 17)
    assert (
        where[8, 8] and where.mean() < 0.9 and np.array_equal(found.loss[where], exact.loss[where])
    )
    off = np.abs(np.log10(found.loss) - np.log10(exact.loss))
    assert (
        off.max() < 2 * SEEN * np.ptp(np.log10(exact.loss))
        and 0 < found.meta["refined"]["error"]["log10"] < 0.05
    )
    few = images_of(run).take(torch.arange(20))
    assert exact.loss[8, 8] == float(F.cross_entropy(logits(run, few.x), few.y)), (
        "the middle is the network itself"
    )


def test_soft_labels_are_the_softmax_at_a_temperature(run) -> None:
    found = probes.soft_labels(run, SoftLabelsSpec(index=5, temperature=3.0))
    _, x, y = image_of(run, 5)
    x_adv = PGD(eps=run.eps, steps=10)(net_of(run), x, y, rng=torch.Generator().manual_seed(0))
    both = F.softmax(logits(run, torch.cat([x, x_adv])).double() / 3, dim=1).numpy()
    assert found.probs == pytest.approx(both[0], abs=1e-6) and found.probs_adv == pytest.approx(
        both[1], abs=1e-5
    )
    assert entropy(np.full(10, 0.1)) == pytest.approx(np.log(10)) and entropy(np.eye(10)[0]) == 0
    assert divergence(both[0], both[1]) == pytest.approx(
        float(F.kl_div(torch.tensor(both[1]).log(), torch.tensor(both[0]), reduction="sum"))
    )
    assert f"entropy {entropy(found.probs):.2f}" in found.meta["summary"]


@pytest.mark.parametrize("name", ["soft_labels", "surfaces"])
def test_the_command_writes_a_file_that_reads_back(name, run, tmp_path, capsys) -> None:
    out = tmp_path / "F.npz"
    assert cli.main(["probe", run.id, name, "--out", str(out), "--set", "index=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["index"] == 2
    kind = {"soft_labels": SoftLabels, "surfaces": Surface}[name]
    assert kind.from_npz(out.read_bytes()).y == int(image_of(run, 2)[2])
    assert cli.main(["probe", run.id, name, "--set", "temperature=-1"]) == 2
    said = capsys.readouterr().err
    assert "0.1 to 100" in said and "Traceback" not in said


# Drawings and sentences.


def flat(height=1.0, slope=0.0, *, soft=True, eps=0.1, y=0, **change) -> Surface:
    a = ticks(5, 0.2).numpy()
    loss = height + slope * a[:, None] + 0 * a[None]
    base = Surface(
        x=np.zeros((1, 2, 2)),
        d=np.ones((1, 2, 2)),
        r=np.ones((1, 2, 2)),
        a=a,
        b=a,
        y=y,
        hard=loss,
        soft=3 * loss if soft else np.zeros((0, 0)),
        label=np.array([0.5, 0.5]),
        pred=np.zeros((5, 5), dtype=int),
        eps=eps,
        meta={"run": "r", "classes": ["cat", "dog"], "index": 0, "temperature": 4.0},
    )
    return dataclasses.replace(base, **change)


def contours(figure):
    return [trace for trace in figure.data if trace.type == "contour" and trace.coloraxis]


def test_all_panels_share_scale_and_lines() -> None:
    figure = figures.surfaces(
        {"before": flat(1, 5), "after": flat(2, 1), "witness": flat(0.5)},
        target="both",
        frozen="witness",
    )
    drawn = contours(figure)
    assert len(drawn) == 6 and {trace.coloraxis for trace in drawn} == {"coloraxis"}
    assert (
        len({(trace.contours.start, trace.contours.end, trace.contours.size) for trace in drawn})
        == 1
    )
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0.0, pytest.approx(6.6))
    assert np.asarray(drawn[0].z)[:, 0] == pytest.approx([0.0] * 5) and np.asarray(drawn[0].z)[
        0
    ] == pytest.approx([0, 0.5, 1, 1.5, 2])  # The first direction a runs along x.
    said, sure = figure.layout.meta["sentence"], figure.layout.meta["sure"]
    assert "before: 1.00 → 1.50. after: 2.00 → 2.10." in said and not wordy(said)
    assert "before reaches 1.00 along the random direction, and at most 1.50" in sure
    assert "That point is at (+26," in sure and not wordy(sure)
    assert "The witness is not trained" in said and "surface is the same before and after" in said
    assert (
        "on the whole plane: 1.80 (to the true class), 5.40 (to the witness's soft label)" in sure
    )
    relief = figures.surfaces({"before": flat(1, 5), "after": flat(2, 1)}, kind="3d")
    for each in (figure, relief):  # on a phone, a scale beside the panels left only strips of them
        assert each.layout.coloraxis.colorbar.orientation == "h" and each.layout.margin.b > 100
    scenes = [relief.layout.scene, relief.layout.scene2]
    assert scenes[0].camera == scenes[1].camera and scenes[0].zaxis.range == scenes[1].zaxis.range


def test_the_surface_sentence_at_the_edges() -> None:
    said = figures.surfaces(flat(0.0, soft=False)).layout.meta["sentence"]
    assert (
        "this network: 0.00 → 0.00." in said
        and "Largest difference" not in figures.surfaces(flat(0.0)).layout.meta["sure"]
        and "frozen" not in said
    )
    assert (
        "at 0.05 (13/255)"
        in figures.surfaces(
            flat(1, 1, a=ticks(5, 0.05).numpy(), b=ticks(5, 0.05).numpy())
        ).layout.meta["sentence"]
    ), "the plane ends before ε"
    edge = figures.surfaces(flat(-1e-9)).layout.meta
    assert not any(sign in edge["sentence"] + edge["sure"] for sign in ("-0.00", "−0.00"))
    with pytest.raises(UserError, match="no witness"):
        figures.surfaces({"one": flat(), "two": flat(soft=False)}, target="both")
    with pytest.raises(UserError, match="another plane"):
        figures.surfaces({"one": flat(), "two": flat(r=-np.ones((1, 2, 2)))})


def test_a_refined_surface_says_so() -> None:
    meta = flat().meta | {
        "refined": {
            "points": 25,
            "computed": 11,
            "tried": 7,
            "error": {"hard": 0.0123, "soft": 0.5},
            "where": "00",
        }
    }
    one, two = (
        flat(1, 5, meta=meta),
        flat(
            2, 1, meta=meta | {"refined": meta["refined"] | {"error": {"hard": 0.1, "soft": 0.2}}}
        ),
    )
    said = figures.surfaces({"one": one, "two": two}, target="both").layout.meta["sure"]
    assert "Of 50 points, 22 were computed and the others interpolated. At 14 of the" in said
    assert (
        "error is 0.1 in the loss to the true class and 0.5 in the loss to the soft label." in said
    )
    assert (
        "soft" not in figures.surfaces(one).layout.meta["sure"]
        and "interpolated" not in figures.surfaces(flat()).layout.meta["sure"]
    )
    whole = dataclasses.replace(
        one, meta=meta | {"refined": meta["refined"] | {"computed": 25, "tried": 0}}
    )
    assert "interpolated" not in figures.surfaces(whole).layout.meta["sure"]


def test_the_weight_surface_sentence() -> None:
    a = ticks(5, 1.0).numpy()
    bowl = WeightSurface(
        a,
        a,
        0.1 + a[:, None] ** 2 + a[None] ** 2,
        9,
        meta={"run": "r", "seed": 0, "architecture": "x"},
    )
    tilted = dataclasses.replace(
        bowl, loss=bowl.loss + 0.3 * a[:, None], meta=bowl.meta | {"architecture": "y"}
    )
    figure = figures.weight_surface({"one": bowl, "two": tilted})
    said, sure = figure.layout.meta["sentence"], figure.layout.meta["sure"]
    assert "one: 0.100 at the trained weights, the lowest point of the grid." in said
    assert "one: at most 0.6 in the inner half and 2.1 on the whole plane." in sure
    assert not wordy(said) and not wordy(sure)
    assert (
        "different architecture" in sure
        and "different architecture" not in figures.weight_surface(bowl).layout.meta["sure"]
    )
    fine = dataclasses.replace(
        bowl,
        meta=bowl.meta
        | {"refined": {"points": 25, "computed": 11, "tried": 7, "error": {"log10": 0.004}}},
    )
    assert (
        "The largest error is 0.004 in log₁₀ of the loss."
        in figures.weight_surface(fine).layout.meta["sure"]
    )
    overflow = figures.weight_surface(
        dataclasses.replace(bowl, loss=np.where(a[:, None] > 0.9, np.nan, bowl.loss))
    )
    assert np.isfinite(np.asarray(overflow.data[0].z)).all()


def bars(*rows, y=0) -> dict[str, SoftLabels]:
    meta = {
        "run": "r",
        "classes": [f"c{k}" for k in range(len(rows[0]))],
        "index": 4,
        "seed": 0,
        "attack": {"key": "pgd", "steps": 10},
    }
    names = ("witness", "before", "after")
    return {
        name: SoftLabels(np.array(row), -np.array(row), y, 2.0, 0.1, meta=meta)
        for name, row in zip(names, rows, strict=False)
    }


def test_the_bars_say_entropy_and_divergence() -> None:
    found = bars([2.0, 0.0], [0.0, 0.0], [2.0, 0.0])
    figure = figures.soft_labels(found, witness="witness")
    said, sure = figure.layout.meta["sentence"], figure.layout.meta["sure"]
    p = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    assert [trace.name for trace in figure.data] == ["one-hot", "witness", "before", "after"]
    assert "before: 50% for c0." in said and not wordy(said) and not wordy(sure)
    assert f"before has an entropy of {np.log(2):.2f} nats." in sure
    assert f"before: KL divergence of {(p * np.log(p / 0.5)).sum():.3f} nats from" in sure
    assert "after: KL divergence of 0.000 nats" in sure
    attacked = figures.soft_labels(found, attacked=True, witness="witness")
    assert "own attack" in attacked.layout.meta["sentence"] and list(
        attacked.data[1].x
    ) == pytest.approx(list(p[::-1]))
    many = figures.soft_labels(bars(np.arange(30.0), y=3)["witness"])
    assert len(many.data[1].x) == 12 and "✓ c3" in list(many.data[1].y)


def test_the_bars_of_one_network_are_in_its_colour_and_five_networks_are_drawn() -> None:
    (one,) = bars([2.0, 0.0]).values()
    alone = figures.soft_labels(one).data[1].marker.color
    assert alone == figures.soft_labels({"A": one}).data[1].marker.color
    many = figures.soft_labels({name: one for name in "ABCDE"})
    assert [trace.name for trace in many.data] == ["one-hot", *"ABCDE"]


def test_the_temperature_of_a_contrastive_loss_is_not_that_of_soft_labels(runs_home) -> None:
    runs = [run for run in folder.all_runs() if run.shipped and run.data_key == "digits"]
    afa, aligned = (
        next(run for run in runs if run.method_key == key) for key in ("afa", "model_alignment")
    )
    assert afa.config.method.temperature == 0.1
    witness = next(run for run in runs if run.ordinary).id
    spec = SurfacesSpec(index=0, grid=3, witness=witness)
    explicit = dataclasses.replace(spec, temperature=4.0)
    found, wanted = (probes.surfaces.answer(afa, each) for each in (spec, explicit))
    assert np.array_equal(found.soft, wanted.soft)
    explicit = dataclasses.replace(spec, temperature=aligned.config.method.temperature)
    found, wanted = (probes.surfaces.answer(aligned, each) for each in (spec, explicit))
    assert np.array_equal(found.soft, wanted.soft)


@pytest.mark.long
def test_figures_are_small_and_travel(run) -> None:
    made = figures.surfaces(
        {
            name: probes.surfaces(run, dataclasses.replace(SPEC, grid=41))
            for name in ("a", "b", "c")
        },
        target="both",
    )
    assert len(plotly.io.to_json(made)) < 400 * 1024
    assert len(io.StringIO(figures.csv(made).decode()).readlines()) > 6 * 41 * 41
    for template in ("robustviz_light", "robustviz_dark"):
        assert figures.surfaces(probes.surfaces(run, SPEC), template=template).layout.meta["alt"]
