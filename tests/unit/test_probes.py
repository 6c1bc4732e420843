"""Tests probes: an image's result does not depend on the other images, and brute force finds no
much smaller perturbation.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from robustviz import figures, probes, registry
from robustviz.attacks import PGD
from robustviz.probes import AccuracyCurveSpec, AdversarialSpec, SmallestEpsSpec, TrajectorySpec
from robustviz.runs import catalogue, folder
from robustviz.runs.naming import unusual
from robustviz.training.evaluate import count_right, evaluate
from robustviz.types import UserError
from robustviz.ui import networks
from robustviz.views.compare.scores import score
from robustviz.views.measure import Probe, images_of, measure, net_of


@pytest.fixture
def run(runs_home):
    return next(
        run
        for run in folder.all_runs()
        if run.shipped
        and not unusual(run)
        and run.data_key == "digits"
        and run.method_key == "pgd_at"
    )


def test_every_probe_is_found_by_its_key_as_the_lines_of_python_do() -> None:
    lost = [
        key for key in registry.keys("probe") if not isinstance(getattr(probes, key, None), Probe)
    ]
    assert lost == []


@pytest.mark.long
def test_the_smallest_eps_of_an_image_is_the_same_alone_and_among_others(run) -> None:
    together = probes.smallest_eps(run, SmallestEpsSpec(n=3))
    alone = [float(probes.smallest_eps(run, SmallestEpsSpec(index=i)).eps[0]) for i in range(3)]
    assert np.allclose(together.eps, alone, atol=together.tolerance + 1e-6)


@pytest.mark.long
def test_the_attack_succeeds_at_the_smallest_eps_and_its_bracket_is_that_narrow(run) -> None:
    found, split, net = probes.smallest_eps(run, SmallestEpsSpec(n=12)), images_of(run), net_of(run)
    few = split.take(torch.arange(12))
    for i, eps in enumerate(found.eps):
        if 0 < eps < np.inf:
            attack = PGD(eps=float(eps), steps=20, start="zero")
            assert not count_right(net, few.x[i : i + 1], few.y[i : i + 1], attack)[0]
    assert found.tolerance == pytest.approx(found.limit / 256)


@pytest.mark.long
def test_the_curve_counts_what_an_evaluation_counts(run) -> None:
    curve, split = probes.accuracy_curve(run, AccuracyCurveSpec(n=40)), images_of(run)
    few = split.take(torch.arange(40))
    right = count_right(net_of(run), few.x, few.y, PGD(eps=run.eps, steps=20))
    assert curve.k[4] == int(right.sum()) and curve.eps[4] == pytest.approx(run.eps)
    assert curve.k[0] == int(count_right(net_of(run), few.x, few.y).sum())


def test_the_trajectory_ends_where_the_attack_does(run) -> None:
    one, way = (
        probes.adversarial(run, AdversarialSpec(index=5)),
        probes.trajectory(run, TrajectorySpec(index=5)),
    )
    assert np.allclose(way.probs[-1], one.probs_adv, atol=1e-6) and len(way.loss) == 11
    sure = figures.trajectory(way).layout.meta["sure"]
    assert "number 5. PGD-10, ε = 0.15 (38/255), seed 0." in sure


def test_an_image_that_is_wrong_untouched_was_not_fooled_by_a_step(run) -> None:
    net, split = net_of(run), images_of(run)
    wrong = (~count_right(net, split.x, split.y)).nonzero().flatten()
    assert (
        probes.trajectory(run, TrajectorySpec(index=int(wrong[0])))
        .meta["summary"]
        .startswith("misclassified untouched; loss")
    )


@pytest.mark.long
def test_a_network_trained_in_l2_is_attacked_in_linf_at_its_data_s_radius(run, runs_home) -> None:
    path = runs_home / "long-way"
    shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("eval*", "probes"))
    info = json.loads((path / "config.json").read_text())
    info["eps"] = 1.5
    info["method"]["attack"]["norm"] = "l2"
    (path / "config.json").write_text(json.dumps(info))
    l2 = folder.open_run("long-way")
    found, same = (probes.adversarial(each, AdversarialSpec(index=5)) for each in (l2, run))
    assert catalogue.is_l2(l2) and not catalogue.is_l2(run)
    assert found.eps == same.eps == l2.config.data.default_eps != l2.eps
    assert np.array_equal(found.x_adv, same.x_adv)
    assert "long-way" in networks.trained()
    evaluate(l2, PGD(eps=1.5, norm="l2", steps=2), n=10)
    assert l2.evaluations() and score(l2) is None, "a radius in l2 is no number of grey levels"


@pytest.mark.parametrize(
    "spec",
    [
        AdversarialSpec(index=99_999),
        SmallestEpsSpec(index=99_999),
        AdversarialSpec(target=50),
        TrajectorySpec(target=50),
        AdversarialSpec(attack="nuke"),
    ],
)
def test_what_does_not_exist_is_one_clear_sentence(run, spec) -> None:
    with pytest.raises(UserError, match="There is no"):
        measure(run, spec)
