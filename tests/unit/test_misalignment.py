"""Tests the explanation of misaligned classes: the numbers of the table equal an independent
computation's, and a network with a fault added on purpose gets the sentence for that fault.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn

from robustviz import cli, data, figures, probes, registry
from robustviz.attacks import PGD
from robustviz.nets import Classifier, frozen
from robustviz.probes import MisalignmentSpec, PairsSpec, StagesSpec, UniformitySpec
from robustviz.runs import folder as runs
from robustviz.runs.naming import unusual
from robustviz.stats import auc
from robustviz.training.evaluate import attacked
from robustviz.types import UserError
from robustviz.views.measure import images_of, net_of
from robustviz.views.misalignment.diagnosis import (
    HEAD,
    HOLD,
    KINDS,
    LABELS,
    MISSING,
    OUTLIERS,
    OVERLAP,
    PUSHED,
    RULES,
    diagnosis,
)
from robustviz.views.misalignment.probe import _votes
from robustviz.views.misalignment.result import Misalignment
from robustviz.views.misalignment.stages import greatest_fall, stages_of
from robustviz.views.paper import caption
from robustviz.views.screen import wordy

SPEC = MisalignmentSpec(n=200, steps=5, train_n=300)


def shipped(method: str, dataset: str = "digits", net: str = "small_resnet") -> runs.Run:
    found = (
        run
        for run in runs.all_runs()
        if run.shipped and not unusual(run) and run.data_key == dataset and run.method_key == method
    )
    return next(run for run in found if run.architecture == net and run.info["seed"] == 0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(shared: Path, monkeypatch: pytest.MonkeyPatch) -> runs.Run:
    """Returns the ordinary network. Tests share the folder of runs, so each result is measured
    once.
    """
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(shared))
    return shipped("standard")


@pytest.fixture
def spoil(runs_home: Path) -> Callable[[str, Classifier], runs.Run]:
    """Returns a function that makes a copy of a shipped run with another network."""

    def make(method: str, net: nn.Module) -> runs.Run:
        like = shipped(method)
        folder = runs_home / f"spoilt-{method.replace('_', '-')}"
        shutil.copytree(like.path, folder, ignore=shutil.ignore_patterns("snapshots", "probes"))
        save_file(
            {name: value.contiguous() for name, value in net.state_dict().items()},
            folder / "net.safetensors",
        )
        return runs.open_run(folder.name)

    return make


def tuned(
    net: Classifier, y: Tensor, epochs: int, pull: tuple[int, int] | None = None
) -> Classifier:
    """Returns a copy of the network, trained further on digits with labels `y`. `pull`: two classes
    whose mean features are drawn together.
    """
    net = copy.deepcopy(net).requires_grad_(True)
    x, order = data.load("digits", "train").x, torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=order)[:1216].split(64):
            net.train()
            z = net.pool(net.maps(x[part]))
            loss = F.cross_entropy(net.head(z), y[part])
            if pull:
                one, two = (z[y[part] == c] for c in pull)
                if len(one) and len(two):
                    loss = (
                        loss
                        + 5
                        * (one.mean(0) - two.mean(0)).square().sum()
                        / z.detach().square().sum(1).mean()
                    )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


# Faults added on purpose: each gets its own sentence.


@pytest.mark.parametrize(
    ("method", "shift"), [("standard", -8.0), ("pgd_at", -4.0), ("pgd_at", -20.0)]
)
def test_a_head_bias_shifted_down_is_a_boundary_too_close(spoil, method, shift) -> None:
    net = copy.deepcopy(shipped(method).net())
    net.head.bias.data[3] += shift
    found = probes.misalignment(spoil(method, net), SPEC)
    assert found.kind[3] == HEAD and "Without the head's biases" in found.sentence[3]
    assert (
        HEAD not in found.kind[:3] + found.kind[4:]
        and found.boundary[3] < 0.3 < found.boundary_0[3]
    )


def test_a_head_bias_shifted_up_takes_images_from_all_others(spoil) -> None:
    net = copy.deepcopy(shipped("pgd_at").net())
    net.head.bias.data[3] += 20.0
    found = probes.misalignment(spoil("pgd_at", net), SPEC)
    assert set(found.kind) == {HEAD}
    assert (
        "favours 3" in found.sentence[3]
        and found.taken[3] == (found.pred[found.y != 3] == 3).sum() > 100
    )


def test_a_smaller_shift_up_is_told_by_the_class_s_own_boundary(spoil) -> None:
    """The class takes no images of other classes yet, so only the favoured class shows the shift:
    its boundary lies farther out.
    """
    net = copy.deepcopy(shipped("pgd_at").net())
    net.head.bias.data[1] += 3.0
    found = probes.misalignment(spoil("pgd_at", net), SPEC)
    assert (
        found.kind[1] == HEAD
        and "favours 1" in found.sentence[1]
        and found.boundary[1] - found.boundary_0[1] >= 0.1
    )


@pytest.mark.long
@pytest.mark.parametrize("method", ["standard", pytest.param("pgd_at", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wrong", [8, None], ids=["all one other", "any other"])
def test_half_of_one_class_s_labels_wrong(spoil, method, wrong) -> None:
    y = data.load("digits", "train").y.clone()
    own = (y == 3).nonzero().flatten()
    half = own[
        torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[: len(own) // 2]
    ]
    others = (
        3 + torch.randint(1, 10, (len(half),), generator=torch.Generator().manual_seed(1))
    ) % 10
    y[half] = others if wrong is None else wrong
    found = probes.misalignment(spoil(method, tuned(shipped(method).net(), y, epochs=4)), SPEC)
    assert found.kind[3] == LABELS and "Check its labels" in found.sentence[3]
    assert not {LABELS, OVERLAP} & {*found.kind[:3], *found.kind[4:]}


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        # A network trained from scratch for ten epochs with half of one class's labels changed to
        # one other class: its output stays fairly confident.
        ({"boundary": 0.17, "boundary_0": 0.145, "confidence": 0.757}, "typical of wrong labels"),
        # A network trained for twenty-five epochs with half of the labels changed to any other
        # class: it memorises the images with wrong labels one by one.
        (
            {
                "boundary": 0.31,
                "boundary_0": 0.294,
                "confidence": 0.529,
                "train_k": 15,
                "train_n": 30,
                "clean_k": 17,
                "n": 20,
            },
            "only 50% of its",
        ),
    ],
)
def test_wrong_labels_that_a_long_training_took_in(run, spoilt, says) -> None:
    """The numbers are those of networks trained with such labels; training them would take too long
    for a test.
    """
    found = probes.misalignment(run, SPEC)
    changed = {name: getattr(found, name).copy() for name in spoilt}
    for name, value in spoilt.items():
        changed[name][3] = value
    seen = probes.features(run, probes.FeaturesSpec(n=SPEC.n, steps=SPEC.steps))
    kind, sentence = diagnosis(dataclasses.replace(found, **changed), 3, _votes(seen))
    assert kind == LABELS and says in sentence and "Check its labels" in sentence


@pytest.mark.long
@pytest.mark.parametrize("method", ["standard", pytest.param("pgd_at", marks=pytest.mark.slow)])
def test_two_classes_pulled_together_overlap(spoil, method) -> None:
    y = data.load("digits", "train").y
    found = probes.misalignment(
        spoil(method, tuned(shipped(method).net(), y, epochs=3, pull=(3, 8))), SPEC
    )
    assert [c for c in range(10) if found.kind[c] == OVERLAP] == [3, 8]
    assert found.nearest[3] == 8 and "centres of 3 and 8" in found.sentence[3]


@pytest.mark.parametrize(
    "method",
    [
        "standard",
        "pgd_at",
        pytest.param("trades", marks=pytest.mark.slow),
        pytest.param("afa", marks=pytest.mark.slow),
    ],
)
def test_networks_that_nobody_spoilt_get_no_wrong_cause(run, method) -> None:
    found = probes.misalignment(shipped(method), SPEC)
    assert set(found.kind) <= {PUSHED, OUTLIERS, HOLD}
    for c in range(10):
        assert not wordy(f"{found.kind[c]}: {found.sentence[c]}") and not wordy(found.cause(c))
        telling = found.telling(c)
        assert len(telling) == 3 and set(found.y[telling]) == {c}
        wrong = ((found.y == c) & ((found.pred != c) | (found.pred_adv != c))).sum()
        assert sum(found.pred_adv[i] != c or found.pred[i] != c for i in telling) == min(wrong, 3)
    lowest = found.order[0]
    assert (
        found.kind[lowest] == PUSHED
        and f"{found.robust_k[lowest]} under attack" in found.sentence[lowest]
    )
    assert f"{found.along[lowest]:.2f} of the way" in found.sentence[lowest]


def test_a_network_that_is_never_fooled_holds(run) -> None:
    found = probes.misalignment(run, dataclasses.replace(SPEC, eps=0.0))
    assert set(found.kind) <= {HOLD, OUTLIERS} and HOLD in found.kind
    assert math.isnan(found.auc[0]) and not found.along.any()
    assert (
        "no image that is right untouched was fooled"
        in figures.misalignment_auc(found).layout.meta["sentence"]
    )
    assert figures.misalignment(found).layout.meta["sentence"]


def test_every_rule_has_a_name_and_a_known_kind_and_the_last_is_the_attack() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES) and {rule.kind for rule in RULES} == {
        *KINDS
    }
    assert RULES[-1].kind == PUSHED and RULES[0].kind == MISSING


# The numbers.


def test_every_number_of_the_table_is_an_independent_computation_s(run) -> None:
    found, seen = (
        probes.misalignment(run, SPEC),
        probes.features(run, probes.FeaturesSpec(n=200, steps=5)),
    )
    net, y = net_of(run), seen.y
    z, adv, noise = (seen.points(of).astype(float) for of in ("clean", "adversarial", "noise"))
    centres = np.stack([z[y == c].mean(0) for c in range(10)])
    apart = np.linalg.norm(centres[:, None] - centres, axis=2)
    scale = apart[~np.eye(10, dtype=bool)].mean()
    np.fill_diagonal(apart, np.inf)
    weight, bias = (
        net.head.weight.detach().numpy().astype(float),
        net.head.bias.detach().numpy().astype(float),
    )
    train = data.load(run.config.data, "train").take(300)
    with frozen(net), torch.no_grad():
        train_right = (net(train.x).argmax(1) == train.y).numpy()
    for c in range(10):
        own, o = y == c, int(apart[c].argmin())
        assert found.n[c] == own.sum() and found.nearest[c] == o
        assert (
            found.clean_k[c] == (seen.pred[own] == c).sum()
            and found.robust_k[c] == (seen.pred_adv[own] == c).sum()
        )
        assert found.spread[c] == pytest.approx(
            np.linalg.norm(z[own] - centres[c], axis=1).mean() / scale
        )
        assert found.distance[c] == pytest.approx(apart[c, o] / scale)
        for kind, name in ((adv, "along"), (noise, "along_noise")):
            # Each image moves towards the wrong class centre that is nearest to where it ends.
            far = np.linalg.norm(kind[own][:, None] - centres, axis=2)
            far[:, c] = np.inf
            end = far.argmin(1)
            length = apart[c, end]
            unit, step = (centres[end] - centres[c]) / length[:, None], kind[own] - z[own]
            along = (step * unit).sum(1)
            assert getattr(found, name)[c] == pytest.approx((along / length).mean())
            if kind is adv:
                across = np.sqrt(np.maximum((step**2).sum(1) - along**2, 0))
                assert found.across[c] == pytest.approx((across / length).mean(), rel=1e-6)
                assert np.array_equal(found.towards[own], end) and dict(found.ends(c)) == {
                    k: count for k, count in found.ends(c, 10)[:3]
                }
                ends = end
        logits = z[own] @ weight.T + bias
        assert found.margin[c] == pytest.approx(
            (logits[:, c] - np.delete(logits, c, axis=1).max(1)).mean(), rel=1e-4
        )
        assert found.lands(c)[0][1] == np.bincount(seen.pred_adv[own]).max()
        right = train_right[train.y.numpy() == c]
        assert found.train_n[c] == len(right) and found.gap[c] == pytest.approx(
            right.mean() - (seen.pred[own] == c).mean()
        )
        # The boundary, found in a thousand steps along the line.
        places = []
        for other in range(10):
            line = centres[c] + np.linspace(0, 1, 1001)[:, None] * (centres[other] - centres[c])
            ahead = (line @ weight.T + bias)[:, c] > (line @ weight.T + bias)[:, other]
            places.append(1.0 if other == c else float(ahead.argmin()) / 1000)
        assert found.boundary_met[c] == pytest.approx(np.mean([places[k] for k in ends]), abs=2e-3)
        assert found.boundary[c] == pytest.approx(min(places), abs=2e-3) and found.boundary_class[
            c
        ] == int(np.argmin(places))


def test_the_auc_is_scikit_learn_s_and_its_interval_hanley_and_mcneil_s(run) -> None:
    found, seen = (
        probes.misalignment(run, SPEC),
        probes.features(run, probes.FeaturesSpec(n=200, steps=5)),
    )
    centres = np.stack([seen.clean[seen.y == c].mean(0) for c in range(10)])
    to = cosine_similarity(seen.clean.astype(float), centres.astype(float))
    own = to[np.arange(200), seen.y]
    to[np.arange(200), seen.y] = -2
    right = seen.pred == seen.y
    area, low, high, fooled, held = found.auc
    assert area == pytest.approx(
        roc_auc_score((seen.pred_adv != seen.y)[right], (to.max(1) - own)[right]), abs=1e-6
    )
    assert fooled + held == right.sum() and low < area < high
    # Computed by hand: 3 of 4 pairs are in order and one is a tie.
    area, low, high, m, n = auc(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    assert (area, m, n) == (0.875, 2, 2)
    q1, q2 = 0.875 / 1.125, 2 * 0.875**2 / 1.875
    error = math.sqrt((0.875 * 0.125 + (q1 - 0.875**2) + (q2 - 0.875**2)) / 4)
    assert low == pytest.approx(0.875 - 1.959964 * error) and high == 1.0
    assert math.isnan(auc(np.zeros(0), np.ones(3))[0])


def test_the_roc_curve_has_the_auc_below_it(run) -> None:
    found = probes.misalignment(run, SPEC)
    figure = figures.misalignment_auc(found)
    x, y = figure.data[1].x, figure.data[1].y
    assert float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)) == pytest.approx(found.auc[0])
    assert f"AUC {found.auc[0]:.2f}, better than chance" in figure.layout.meta["sentence"]
    assert (
        f"AUC {found.auc[0]:.2f} [{found.auc[1]:.2f}, {found.auc[2]:.2f}]"
        in figure.layout.meta["sure"]
    )


@pytest.mark.long
@pytest.mark.parametrize("net", ["small_resnet", "tiny_vit"])
def test_stages_are_what_the_network_computes_on_the_way(runs_home, net) -> None:
    run = shipped("standard", net=net)
    found, own = probes.stages(run, StagesSpec(n=20, steps=3)), net_of(run)
    few = images_of(run).take(torch.arange(20))
    x_adv = attacked(own, few.x, few.y, PGD(eps=run.eps, steps=3))
    assert [*found.names[1:-2]] == list(stages_of(own)) and (found.names[0], *found.names[-2:]) == (
        "pixels",
        "features",
        "logits",
    )
    ends = list(stages_of(own).values())
    with frozen(own), torch.no_grad():
        here, there, at = few.x, x_adv, 1
        for child in own.maps.children():
            here, there = child(here), child(there)
            if child is ends[at - 1]:
                expected = F.cosine_similarity(here.flatten(1).double(), there.flatten(1).double())
                assert np.allclose(found.adversarial[at], expected, atol=1e-5), found.names[at]
                at = min(at + 1, len(ends))
        logits = F.cosine_similarity(own(few.x), own(x_adv))
    assert np.allclose(found.adversarial[-1], logits, atol=1e-5)
    assert not any(module._forward_hooks for module in own.modules()), (
        "a hook was left on the shared network"
    )
    assert (
        found.noise[-2].mean() > found.adversarial[-2].mean()
    ) and "At which stage does the attack show" in figures.stages(found).layout.title.text


def test_the_greatest_fall_leaves_the_logits_out() -> None:
    assert greatest_fall(["pixels", "1", "features", "logits"], [1.0, 0.9, 0.7, 0.0]) == "features"
    assert greatest_fall(["pixels", "1", "features", "logits"], [1.0, 1.0, 1.0, 0.0]) == "no stage"


@pytest.mark.long
def test_pairs_are_counted_one_by_one_and_the_margin_is_the_run_s_own(runs_home) -> None:
    run = shipped("supcon_margin")
    found, seen = (
        probes.pairs(run, PairsSpec(n=40, steps=2)),
        probes.features(run, probes.FeaturesSpec(n=40, steps=2)),
    )
    z = seen.clean / np.linalg.norm(seen.clean, axis=1, keepdims=True)
    same, different = [], []
    for i in range(40):
        for j in range(i):
            (same if seen.y[i] == seen.y[j] else different).append(np.linalg.norm(z[i] - z[j]))
    assert found.same.sum() == len(same) and found.different.sum() == len(different)
    # Rounding in float32 may move a distance across the edge of a bin.
    assert np.abs(found.different - np.histogram(different, found.edges)[0]).sum() <= 2
    assert found.margin == run.config.method.margin
    figure = figures.pairs(found)
    assert (
        "margin m = 1" in figure.layout.annotations[0].text
        and f"{np.mean(same):.2f} apart" in figure.layout.meta["sentence"]
    )
    assert "It was trained on a projection" in figure.layout.meta["sentence"]
    stays = dataclasses.replace(found, meta=found.meta | {"projected": True})
    assert "It was trained on these features." in figures.pairs(stays).layout.meta["sentence"]
    plain = probes.pairs(shipped("standard"), PairsSpec(n=40, steps=2))
    assert plain.margin is None and not figures.pairs(plain).layout.annotations
    assert "No margin" in figures.pairs(plain).layout.meta["sentence"]
    assert "PGD" not in caption(figures.pairs(plain))
    attacked = probes.pairs(shipped("standard"), PairsSpec(n=40, steps=2, images="adversarial"))
    assert "PGD-2" in caption(figures.pairs(attacked))


@pytest.mark.long
def test_alignment_and_uniformity_of_every_epoch_that_was_kept(runs_home) -> None:
    run = shipped("pgd_at")
    found = probes.uniformity(run, UniformitySpec(n=60))
    assert list(found.epoch) == [*run.snapshots, -1] and len(run.snapshots) > 2
    few = images_of(run).take(torch.arange(60))
    for epoch in (run.snapshots[0], None):
        net = run.net(epoch)
        with frozen(net), torch.no_grad():
            z = F.normalize(net.pool(net.maps(few.x)).double(), dim=1)
        squared, same = (z[:, None] - z).square().sum(2), few.y[:, None] == few.y
        off = ~torch.eye(60, dtype=torch.bool)
        at = -1 if epoch is None else 0
        assert found.alignment[at] == pytest.approx(float(squared[same & off].mean()), abs=1e-6)
        assert found.uniformity[at] == pytest.approx(
            math.log(float(torch.exp(-2 * squared[off]).mean())), abs=1e-6
        )
    single = figures.uniformity(probes.uniformity(shipped("trades"), UniformitySpec(n=60)))
    assert (
        "kept no weights of earlier epochs" in single.layout.meta["sentence"]
        and len(single.data[1].x) == 1
    )


# Sentences and figures.


def test_the_figures_say_what_they_show_and_stay_small(run) -> None:
    both = {
        "A Standard": probes.misalignment(run, SPEC),
        "B PGD-AT": probes.misalignment(shipped("pgd_at"), SPEC),
    }
    figure = figures.misalignment(both)
    assert len(figure.data) == 6 and len({trace.marker.symbol for trace in figure.data}) == 6, (
        "told apart by colour alone"
    )
    assert list(figure.data[0].y) == [
        both["A Standard"].meta["classes"][c] for c in both["A Standard"].order
    ]
    assert figure.layout.meta["sentence"].startswith(
        "A Standard: Pushed by the attack: "
    ) and figure.layout.meta["alt"].endswith(figure.layout.meta["sentence"])
    focused = figures.misalignment(both, focus="8")
    assert both["B PGD-AT"].sentence[8] in focused.layout.meta["sentence"]
    assert len({*focused.data[0].marker.color}) == 2, "the other classes are not grey"
    heat = figures.centre_cosines(
        probes.features(run, probes.FeaturesSpec(n=200, steps=5)), change=True
    )
    assert heat.data[0].zmid == 0 and heat.data[0].zmin == -heat.data[0].zmax
    assert np.allclose(
        np.diag(
            figures.centre_cosines(
                probes.features(run, probes.FeaturesSpec(n=200, steps=5)), images="clean"
            )
            .data[0]
            .z
        ),
        1,
    )
    for drawn in (figure, focused, heat, figures.misalignment_auc(both)):
        assert not wordy(drawn.layout.meta["sentence"])
        assert len(drawn.to_json()) < 400 * 1024 and drawn.layout.meta["sentence"]


def test_centres_that_left_their_class_are_counted(run) -> None:
    seen = probes.features(run, probes.FeaturesSpec(n=200, steps=5))
    straying = sum(int(seen.centres_adv[:, c].argmax() != c) for c in range(10))
    assert (
        figures.centre_cosines(seen)
        .layout.meta["sentence"]
        .startswith(f"{straying or 'None'} of 10 attacked centres")
    )
    assert (
        figures.centre_cosines(seen, images="clean")
        .layout.meta["sentence"]
        .startswith("None of 10 clean centres")
    )


def test_with_many_classes_the_one_in_question_and_its_confusers_are_drawn(run) -> None:
    found = probes.misalignment(run, SPEC)
    many = dataclasses.replace(
        found,
        meta=found.meta | {"classes": [f"class {c}" for c in range(30)]},
        **{
            name: np.tile(getattr(found, name), 3)
            for name in (
                "n",
                "clean_k",
                "robust_k",
                "spread",
                "distance",
                "nearest",
                "along",
                "across",
                "along_noise",
                "margin",
                "boundary",
                "boundary_class",
                "boundary_0",
                "boundary_met",
                "confidence",
                "taken",
                "train_n",
                "train_k",
            )
        },
        landed=np.tile(found.landed, (3, 3)),
        kind=found.kind * 3,
        sentence=found.sentence * 3,
    )
    assert len(figures.misalignment(many).data[0].y) == 10
    shown = list(figures.misalignment(many, focus="class 13").data[0].y)
    assert shown[0] == "class 13" and 2 <= len(shown) <= 6 and f"class {found.nearest[3]}" in shown


@pytest.mark.long
def test_a_class_without_an_image_is_said_so(runs_home, monkeypatch) -> None:
    run = shipped("standard")
    split = images_of(run)
    without = split.take((split.y != 4).nonzero().flatten())
    for room in ("misalignment.probe", "features.probe"):
        monkeypatch.setattr(
            sys.modules[f"robustviz.views.{room}"], "images_of", lambda run: without
        )
    found = probes.misalignment(run, SPEC)
    assert found.kind[4] == MISSING and "no images of 4 among the 200" in found.sentence[4]
    assert found.order[-1] == 4 and 4 not in found.nearest and found.line(4) == found.sentence[4]
    assert figures.misalignment(found).layout.meta["sentence"] and found.rows()[-1]["clean"] is None


@pytest.mark.long
@pytest.mark.parametrize("probe", ["misalignment", "pairs", "feature_map"])
def test_fewer_images_than_usually_vote_are_enough(runs_home, monkeypatch, probe) -> None:
    """None of these probes has a setting for the number of neighbours in its measures."""
    few = images_of(shipped("standard")).take(torch.arange(4))
    # The silhouette score needs more images than classes.
    few = dataclasses.replace(few, y=few.y[[0, 0, 2, 3]])
    for room in ("misalignment.probe", "features.probe"):
        monkeypatch.setattr(sys.modules[f"robustviz.views.{room}"], "images_of", lambda run: few)
    assert getattr(probes, probe)(shipped("standard")).meta["summary"]


def test_one_class_only_is_one_clear_sentence(runs_home, monkeypatch) -> None:
    run = shipped("standard")
    split = images_of(run)
    single = split.take((split.y == 4).nonzero().flatten())
    for room in ("misalignment.probe", "features.probe"):
        monkeypatch.setattr(sys.modules[f"robustviz.views.{room}"], "images_of", lambda run: single)
    with pytest.raises(UserError, match="two classes"):
        probes.misalignment(run, MisalignmentSpec(n=20, steps=1))


# The command line.


@pytest.mark.long
def test_a_class_prints_its_row_and_its_cause(run, tmp_path, capsys) -> None:
    out = tmp_path / "F.csv"
    sets = ["--set", "n=100", "--set", "steps=2"]
    assert (
        cli.main(["probe", run.id, "misalignment", *sets, "--set", "class=3", "--out", str(out)])
        == 0
    )
    said = capsys.readouterr().out
    causes = probes.misalignment(run, MisalignmentSpec(n=100, steps=2))
    assert causes.line(3) in said and said.startswith("3: n = 10, clean")
    (row,) = (row for row in csv.DictReader(out.read_text().splitlines()) if row["class"] == "3")
    assert row["diagnosis"] in KINDS and float(row["along"]) == pytest.approx(causes.along[3])
    assert cli.main(["probe", run.id, "features", *sets, "--out", str(out)]) == 0
    assert len(list(csv.DictReader(out.read_text().splitlines()))) == 100


def test_misalignment_writes_the_whole_table(run, tmp_path, capsys) -> None:
    out = tmp_path / "M.csv"
    sets = ["--set", "n=100", "--set", "steps=2"]
    assert (
        cli.main(
            [
                "probe",
                run.id,
                "misalignment",
                *sets,
                "--set",
                "class=8",
                "--out",
                str(out),
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["summary"].startswith("8: n = 10")
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 10 and [float(row["robust"]) for row in rows] == sorted(
        float(row["robust"]) for row in rows
    )
    assert cli.main(["probe", run.id, "misalignment", *sets, "--out", str(tmp_path / "M.npz")]) == 0
    assert (
        Misalignment.from_npz((tmp_path / "M.npz").read_bytes()).kind
        == probes.misalignment(run, MisalignmentSpec(n=100, steps=2)).kind
    )


@pytest.mark.parametrize(
    ("probe", "asked", "code", "says"),
    [
        ("features", "class=3", 2, "There is no setting called 'class'."),
        ("misalignment", "class=cat", 2, "There is no class called 'cat'. Known: 0, 1, 2"),
        ("misalignment", "class=33", 2, "no class called '33'"),
        ("misalignment", "clas=3", 2, "Did you mean class?"),
        ("misalignment", "n=0", 2, "must be at least 1"),
        ("misalignment", "train_n=many", 2, "should be a whole number"),
        ("stages", "steps=0", 2, "1 to 1000"),
        ("pairs", "images=old", 2, "is not one of clean"),
        ("uniformity", "n=1", 2, "must be at least 2"),
    ],
)
def test_bad_settings_are_one_clear_sentence(
    run, tmp_path, capsys, probe, asked, code, says
) -> None:
    assert (
        cli.main(["probe", run.id, probe, "--set", asked, "--out", str(tmp_path / "x.npz")]) == code
    )
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


def test_the_class_that_is_asked_for_costs_no_new_measurement(run, monkeypatch) -> None:
    probes.misalignment(run, SPEC)
    monkeypatch.setattr(sys.modules["robustviz.views.misalignment.probe"], "_table", None)
    assert (
        probes.misalignment(run, dataclasses.replace(SPEC, class_="5"))
        .meta["summary"]
        .startswith("5: n = 20")
    )


def test_a_class_that_there_is_not_is_refused_before_anything_is_measured(run, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["robustviz.views.misalignment.probe"], "features", None)
    with pytest.raises(UserError, match="no class called 'cat'"):
        probes.misalignment(run, MisalignmentSpec(n=77, class_="cat"))


def test_a_setting_named_like_a_word_of_python_is_set_by_that_word() -> None:
    assert registry.with_value(MisalignmentSpec(), "class", "3").class_ == "3"
    assert registry.build(MisalignmentSpec, {"class": "3"}) == registry.build(
        MisalignmentSpec, {"class_": "3"}
    )
    assert registry.decode(
        "probe", registry.encode(MisalignmentSpec(class_="3"))
    ) == MisalignmentSpec(class_="3")
    assert registry.is_text(MisalignmentSpec(), "class") and not registry.is_text(
        MisalignmentSpec(), "n"
    )
    with pytest.raises(UserError, match=r"Known: .*train_n, class\."):
        registry.build(MisalignmentSpec, {"klass_": "3"})
    with pytest.raises(UserError, match="There is no setting"):
        registry.with_value(MisalignmentSpec(), "import", "3")
