"""Tests the Contributions page: what it shows is what the network computes, gradients are those of
autograd, and a sequence of attack steps equals separate attacks.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from robustviz import cli, figures, nets, probes
from robustviz.attacks import PGD, Square
from robustviz.methods import AALP
from robustviz.probes import AttackStepsSpec, CarriedSpec, ContributionsSpec, PairingSpec
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.stats import mcnemar, wilson
from robustviz.training.evaluate import attacked, count_right
from robustviz.types import UserError
from robustviz.views.contributions import screen_figures as first
from robustviz.views.contributions.result import AttackSteps, Carried, Contributions, Pairing, fewer
from robustviz.views.measure import images_of, net_of
from robustviz.views.screen import wordy

# `probes.contributions` is the function, not this module.
module = importlib.import_module("robustviz.views.contributions.probe")


def shipped(method: str, data: str = "digits") -> folder.Run:
    return next(
        run
        for run in folder.all_runs()
        if run.shipped
        and not unusual(run)
        and (run.data_key, run.method_key, run.architecture, run.info["seed"])
        == (data, method, "small_resnet", 0)
    )


@pytest.fixture
def run(runs_home) -> folder.Run:
    return shipped("aalp")


def said(figure: Any) -> str:
    """Returns the sentence beside a figure, after checking that all its sentences are short."""
    assert not wordy(figure.layout.meta["sentence"]) and not wordy(sure(figure))
    return str(figure.layout.meta["sentence"])


def sure(figure: Any) -> str:
    return str(figure.layout.meta["sure"])


# Tests of the probes.


def test_contributions_and_the_bias_are_the_logit(run) -> None:
    found = probes.contributions(run, ContributionsSpec(n=30))
    few, net = images_of(run).take(torch.arange(30)), net_of(run)
    with torch.no_grad():
        logits = net(few.x)
    assert np.allclose(found.logit, logits.gather(1, few.y[:, None])[:, 0], atol=1e-4)
    assert (found.pred == logits.argmax(1).numpy()).all() and (found.index == np.arange(30)).all()
    one = probes.contributions(run, ContributionsSpec(index=7))
    assert np.allclose(one.parts[0], found.parts[7], atol=1e-5) and one.index.tolist() == [7]


def test_golden_shares_of_the_largest_contributions() -> None:
    # The first row is golden case L3 of docs/methods.md, Golden numbers.
    parts = np.array([[0.5, 0, -2, 1], [-1, -1, 0, 0], [1, 1, 1, 1]], np.float32)
    found = Contributions(
        parts, np.zeros(3), np.ones_like(parts), np.zeros(3, int), np.zeros(3, int), np.arange(3)
    )
    assert found.shares[0] == pytest.approx([0, 2 / 3, 1, 1, 1]) and found.shares[
        2
    ] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert np.isnan(found.shares[1]).all()
    assert np.array_equal(found.half, [1, np.nan, 2], equal_nan=True)
    assert (
        found.effective[0] == pytest.approx(1.5**2 / 1.25)
        and np.isnan(found.effective[1])
        and found.effective[2] == 4
    )
    assert found.logit.tolist() == [-0.5, -2, 4]


def test_the_strip_is_one_draw_of_the_methods_own_mask(run) -> None:
    found = probes.contributions(run, ContributionsSpec(n=40, seed=5))
    kept = math.ceil(0.5 * found.parts.shape[1])
    for parts, mask in zip(found.parts, found.mask, strict=True):
        order = np.argsort(-parts, kind="stable")
        assert (mask[order[:kept]] == 1).all() and set(mask[order[kept:]]) <= {0, 2}
    assert (
        0.4 < (found.mask == 0).mean() * 2 < 0.6 and found.meta["own"] and found.meta["rate"] == 0.5
    )
    other = probes.contributions(run, ContributionsSpec(n=40, seed=6))
    assert (other.mask != found.mask).any() and not probes.contributions(
        shipped("standard"), ContributionsSpec(n=2)
    ).meta["own"]


def test_the_cosine_is_that_of_two_backward_passes_and_the_shared_network_rests(
    run, monkeypatch
) -> None:
    net, few = net_of(run), images_of(run).take(torch.arange(6))
    before, own = (
        {name: value.clone() for name, value in net.state_dict().items()},
        dict(net.named_parameters()),
    )
    swapped: list[nn.Module] = []
    monkeypatch.setattr(
        module,
        "functional_call",
        lambda net, *rest: swapped.append(net) or functional_call(net, *rest),
    )
    found = probes.pairing(run, PairingSpec(n=6, steps=3))
    assert len(swapped) == 6 and net not in swapped, (
        "other sessions would meet the weights that were put in"
    )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(
        parameter is own[name] and parameter.grad is None
        for name, parameter in net.named_parameters()
    )
    x_adv = attacked(net, few.x, few.y, PGD(eps=run.eps, steps=3))
    for at in range(6):
        gradients = []
        for which in ("pairing", "ce"):
            other = copy.deepcopy(net).eval().requires_grad_(True)
            clean, adv = other(few.x[at : at + 1]), other(x_adv[at : at + 1])
            y = few.y[at : at + 1]
            loss = (
                ((clean - adv) ** 2).mean()
                if which == "pairing"
                else (F.cross_entropy(clean, y) + F.cross_entropy(adv, y)) / 2
            )
            loss.backward()
            gradients.append(
                torch.cat([parameter.grad.flatten() for parameter in other.parameters()]).double()
            )
            value = {"pairing": found.pairing[at], "ce": (found.ce[at] + found.ce_adv[at]) / 2}[
                which
            ]
            assert loss.item() == pytest.approx(float(value), rel=1e-3, abs=1e-6)
        one, two = gradients
        assert found.cosine[at] == pytest.approx(
            float(one @ two / one.norm() / two.norm()), abs=1e-3
        )
    assert (found.right_adv == (net(x_adv).argmax(1) == few.y).numpy()).all()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["adversarial", "clean", "loss"])
def test_weights_are_the_methods_and_shares_those_of_a_loop(run, kind) -> None:
    found = probes.pairing(run, PairingSpec(n=40, steps=3))
    net, few = net_of(run), images_of(run).take(torch.arange(40))
    with torch.no_grad():
        logits, logits_adv = net(few.x), net(attacked(net, few.x, few.y, PGD(eps=run.eps, steps=3)))
    expected = AALP(pair_weight=kind)._weights(logits, logits_adv, few.y)
    assert np.allclose(found.weight(kind), expected, atol=1e-4)
    weight = found.weight(kind)
    there = [at for at in range(40) if math.isfinite(found.cosine[at])]
    total = sum(weight[at] for at in there)
    share = sum(weight[at] for at in there if found.cosine[at] < 0) / total
    against = sum(found.cosine[at] < 0 for at in there)
    assert found.opposed(kind)[0] == pytest.approx(share) and 0 < against < len(there)
    assert found.opposed() == pytest.approx((against / len(there), *wilson(against, len(there))))
    moved, low, high = found.relief(kind)
    assert moved == pytest.approx(share - against / len(there), abs=1e-6) and low <= moved <= high
    assert found.relief("ones") == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.long
def test_a_walk_passes_where_separate_attacks_end(run) -> None:
    spec = AttackStepsSpec(n=60, steps=12, queries=30)
    found = probes.attack_steps(run, spec)
    few, net = images_of(run).take(torch.arange(60)), net_of(run)
    assert found.steps.tolist() == [1, 2, 5, 10, 12]
    held = np.ones(60, bool)
    for row, steps in enumerate(found.steps):
        held &= count_right(
            net, few.x, few.y, PGD(eps=run.eps, steps=int(steps), step_size=run.eps / 4)
        ).numpy()
        assert (found.right[row] == held).all()
    assert 0 < held.sum() < 60
    assert (
        found.square == count_right(net, few.x, few.y, Square(eps=run.eps, queries=30)).numpy()
    ).all()
    assert found.accuracy[-1] == held.mean() and found.interval[-1].tolist() == list(
        wilson(int(held.sum()), 60)
    )


def test_no_change_has_no_pairing_gradient(run) -> None:
    found = probes.pairing(run, PairingSpec(n=3, eps=0.0, steps=1))
    assert (
        np.isnan(found.cosine).all()
        and not found.pairing.any()
        and np.isnan(found.opposed()[0])
        and "no image among 3" in found.meta["summary"]
    )
    assert "no image among 3 on which both losses have a nonzero gradient" in said(
        figures.opposition(found)
    )
    assert "0 of 3 images lie" in said(figures.pairing(found))


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("contributions", ["index=99999"], "no image 99999"),
        ("pairing", ["eps=8"], "8/255"),
        ("attack_steps", ["n=251"], "1 to 250"),
        ("pairing", ["steps=0"], "1 to 1000"),
    ],
)
def test_bad_settings_are_one_clear_sentence(run, name, settings, says, capsys) -> None:
    assert (
        cli.main(["probe", run.id, name, *(part for one in settings for part in ("--set", one))])
        != 0
    )
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_a_head_that_is_not_linear_gives_the_slope_times_the_feature_and_says_so(
    run, monkeypatch
) -> None:
    linear = probes.contributions.answer(run, ContributionsSpec(n=60))
    net = copy.deepcopy(net_of(run))
    # The same function, but the head is not a linear layer.
    net.head = torch.nn.Sequential(net.head)
    monkeypatch.setattr(module, "net_of", lambda run: net)
    found = probes.contributions.answer(run, ContributionsSpec(n=60))
    assert np.allclose(found.parts, linear.parts, atol=1e-5)
    assert np.allclose(found.bias, linear.bias, atol=1e-4)
    assert "slope" not in linear.meta and found.meta["slope"]
    assert "derivative of the logit" in sure(figures.contributions(found))
    assert "slope" not in sure(figures.contributions(linear))
    many = {"a": probes.carried.answer(run, CarriedSpec(n=60))}
    assert any("A's last layer is not linear" in line for line in first.sure(many))


def test_logits_that_no_feature_leads_to_are_one_clear_sentence(run, monkeypatch) -> None:
    class Beside(nets.Classifier):
        def parts(self, x):
            maps, features, _ = super().parts(x)
            return nets.Parts(maps, features.detach(), self.head(self.pool(maps)))

    net = Beside(net_of(run).maps, torch.nn.Sequential(net_of(run).head))
    monkeypatch.setattr(module, "net_of", lambda run: net)
    with pytest.raises(UserError, match="do not depend on its features alone"):
        probes.contributions.answer(run, ContributionsSpec(n=4))


# Tests of the figures.


def carried(halves: list[int], method: str, run: str = "r", width: int = 10) -> Contributions:
    """Returns images whose logit is carried in equal parts by twice as many features as `halves`
    says.
    """
    parts = np.stack([np.where(np.arange(width) < 2 * half, 1.0, -0.5) for half in halves])
    n = len(halves)
    mask = np.tile(
        np.where(np.arange(width) < 5, 1.0, np.where(np.arange(width) < 7, 2.0, 0.0)), (n, 1)
    )
    meta = {
        "run": run,
        "method": method,
        "group": "defence" if method != "standard" else "no adversarial training",
        "classes": ["cat", "dog"],
        "keep": 0.5,
        "rate": 0.5,
        "dropped": "low",
        "own": False,
        "seed": 0,
    }
    return Contributions(
        parts, np.full(n, 0.25), mask, np.ones(n, int), np.ones(n, int), np.arange(n), meta=meta
    )


@pytest.mark.parametrize(
    ("halves", "says"),
    [
        ([1, 2] * 10, "Yes. B AT reaches half earlier: −20.0 ["),
        ([5, 4] * 10, "No. B AT reaches half later: +10.0 ["),
        ([3, 4] * 10, "No. B AT: no difference shown."),
    ],
)
def test_whether_robust_curves_rise_earlier_is_said_either_way(halves, says) -> None:
    figure = figures.contributions(
        {"A": carried([3, 4] * 10, "standard"), "B AT": carried(halves, "pgd_at")}
    )
    assert says in said(figure) and f"B AT: {np.mean(halves):.1f} of 10 features." in said(figure)
    assert "Each curve is one network; other seeds of a method may differ." in sure(figure)
    assert len(figure.data) == 6 and [
        trace.line.dash for trace in figure.data if trace.mode == "lines"
    ] == ["solid", "dash"]


def test_curves_of_one_image_of_few_and_of_nothing() -> None:
    one = figures.contributions({"A": carried([3], "standard"), "B": carried([2], "trades")})
    assert (
        said(one) == "Number of features with half of the positive contributions to dog on image 0."
        " A: 3 of 10 features. B: 2 of 10 features."
    )
    assert "Effective number of features in A: 6.0." in sure(one) and "in B: 4.0." in sure(one)
    assert "Fewer than 10 images" in said(
        figures.contributions({"A": carried([3, 3], "standard"), "B": carried([2, 2], "trades")})
    )
    assert "an ordinary and a defended network are needed" in said(
        figures.contributions(carried([3, 3], "standard"))
    )
    blank = dataclasses.replace(carried([3, 3], "standard"), parts=-np.ones((2, 10)))
    assert (
        "A: no feature contributes positively to the class." in said(figures.contributions(blank))
        and not figures.contributions(blank).data
    )
    several = figures.contributions(
        {
            name: carried([3, 3], "standard")
            for name in ("A x", "B y", "ALP", "AALP", "PGD-AT", "TRADES")
        }
    )
    styles = {
        (trace.line.color, trace.line.dash) for trace in several.data if trace.mode == "lines"
    }
    assert len(styles) == 6 and len(several.to_json()) < 400 * 1024


def test_the_strip_shows_every_feature_once_and_the_sum(run) -> None:
    result = carried([3], "standard")
    figure = figures.dropped(result, side="b")
    assert sorted(feature for trace in figure.data for feature in trace.customdata) == list(
        range(10)
    )
    assert [len(trace.x) for trace in figure.data] == [5, 2, 3]
    logit, thinned = 6 - 2 + 0.25, 5 + 2 * (1 - 0.5) + 0.25
    assert f"The logit of dog is {logit:.2f}" in said(figure) and f"becomes {thinned:.2f}" in said(
        figure
    )
    assert "drops 3 features and scales 2 up" in said(figure)
    one = probes.contributions(run, ContributionsSpec(index=3))
    assert "with its own training: the top 32 of 64 are always kept. Its rate is 0.5" in sure(
        figures.dropped(one)
    )


def pairs(cosine: list[float], ce_adv: list[float], pairing: list[float]) -> Pairing:
    n = len(cosine)
    meta = {
        "run": "r",
        "method": "aalp",
        "classes": ["cat", "dog"],
        "attack": {"key": "pgd", "steps": 4},
        "eps": 8 / 255,
        "seed": 0,
        "pair_weight": "adversarial",
    }
    return Pairing(
        np.full(n, 0.1),
        np.array(ce_adv),
        np.array(pairing),
        np.array(cosine),
        np.array(ce_adv) < 0.7,
        np.zeros(n, int),
        10 + np.arange(n),
        meta=meta,
    )


def test_the_over_paired_corner_is_counted_by_its_rule() -> None:
    result = pairs([1, -1, 1, -1], [0.0, 2.0, 3.0, 0.5], [1.0, 4.0, 1.0, 2.0])
    figure = figures.pairing(result)
    assert "1 of 4 images lie" in said(figure) and "median, 1.5" in sure(figure)
    weight = np.exp(-result.ce_adv)
    expected = 100 * (weight * result.pairing)[1] / (weight * result.pairing).sum()
    assert f"hold 50% of the pairing loss, {expected:.0f}% once" in said(figure)
    numbers = {
        int(point[0]): trace.marker.symbol for trace in figure.data for point in trace.customdata
    }
    assert numbers == {10: "circle", 11: "x", 12: "x", 13: "circle"} and all(
        min(trace.x) > 0 for trace in figure.data
    )
    assert sum(bool(trace.marker.showscale) for trace in figure.data) == 1
    assert json.loads(figure.to_json()) == json.loads(figures.pairing(result).to_json())


def test_opposition_says_less_or_more_only_where_the_interval_excludes_0() -> None:
    cosine = [-1.0] * 20 + [1.0] * 20
    less = figures.opposition({"A": pairs(cosine, [3.0, 4.0] * 10 + [0.1, 0.2] * 10, [1.0] * 40)})
    assert "oppose each other on 50% of 40 images" in said(less)
    assert "of the weight: less." in said(less)
    assert (
        "50% [35, 65] of the images oppose" in sure(less)
        and "The change is −" in sure(less)
        and "w = p(y|x')" in sure(less)
    )
    more = figures.opposition({"A": pairs(cosine, [0.1, 0.2] * 10 + [3.0, 4.0] * 10, [1.0] * 40)})
    assert "of the weight: more." in said(more) and "The change is +" in sure(more)
    assert "of the weight: no difference shown." in said(
        figures.opposition(pairs(cosine, [1.0] * 40, [1.0] * 40))
    )
    assert "Fewer than 10 images" in said(
        figures.opposition(pairs([-1, 1], [1.0, 2.0], [1.0, 1.0]))
    )
    assert "hold" not in said(
        figures.opposition(pairs(cosine, [1.0] * 40, [1.0] * 40), weight="ones")
    )
    never = pairs([1.0] * 40, [1.0, 2.0] * 20, [1.0] * 40)
    assert (
        "0% [0, 9] of the images oppose" in sure(figures.opposition(never))
        and never.opposed("adversarial")[2] > 0.05
    )


def walked(right: list[int], square: int, n: int = 40, only: int = 0) -> AttackSteps:
    """Returns a result with `right` images left after 1, 20 and 1000 steps. Square leaves `square`
    images, and fools `only` of those that PGD leaves.
    """
    rows, steps = np.arange(n), np.array([1, 20, 1000])
    held = rows < right[-1] - only
    fresh = (rows >= right[-1]) & (rows < right[-1] + square - held.sum())
    meta = {
        "run": "r",
        "method": "alp",
        "attack": {"key": "pgd"},
        "eps": 8 / 255,
        "seed": 2,
        "classes": ["a"],
    }
    return AttackSteps(
        steps, np.stack([rows < k for k in right]), np.ones(n, bool), held | fresh, 500, meta=meta
    )


def test_masking_is_said_only_where_the_attack_without_gradients_is_decidedly_ahead() -> None:
    clear = walked([30, 20, 18], 25)
    figure = figures.attack_steps({"A": clear})
    assert (
        "A: right on 40 of 40 untouched images. 20 steps of PGD leave 20 right."
        " 1000 steps leave 18, so 2 more are fooled."
        in said(figure)
        and "at ε = 8/255, seed 2" in sure(figure)
    )
    assert "Square-500 leaves 25 and fools 0" in said(
        figure
    ) and "Nothing here says that the gradient is masked; that is no proof" in said(figure)
    assert len(figure.data) == 3 and figure.data[2].y[0] == 25 / 40
    some = walked([30, 20, 18], 25, only=2)
    assert (
        "fools 2 that PGD does not. This is no significant advantage over PGD; 16 images withstand"
        " both attacks." in said(figures.attack_steps(some))
    )
    masked = walked([40, 40, 40], 10, only=30)
    assert "PGD's gradient is masked" in said(figures.attack_steps(masked))
    early = dataclasses.replace(clear, steps=np.array([1, 2, 5]))
    assert "right on 40 of 40 untouched images. 5 steps of PGD leave 18 right. Square-500" in said(
        figures.attack_steps(early)
    )


def test_a_logarithmic_axis_always_has_marks() -> None:
    ticks = importlib.import_module("robustviz.views.contributions.figures")._ticks
    assert ticks(-3.2, 1.4)["ticktext"] == ["0.001", "0.01", "0.1", "1", "10"]
    assert ticks(0.35, 0.92)["ticktext"] == ["5"] and ticks(0.9, 1.4)["ticktext"] == ["10", "20"]


# Tests of the first screen.


def many(halves: list[int], width: int = 10) -> Carried:
    """Returns images whose logit is carried in equal parts by twice as many features as `halves`
    says. −1 means that no feature supports the class and the image is misclassified.
    """
    half = np.array(halves)
    k = np.arange(width + 1)
    shares = np.array([np.minimum(k / (2 * each), 1) for each in half if each > 0])
    quartiles = np.quantile(shares, (0.25, 0.5, 0.75), axis=0, method="higher")
    return Carried(half, half > 0, quartiles, meta={"of": len(half), "classes": ["cat", "dog"]})


def test_the_many_images_are_those_of_the_contributions_one_by_one(run) -> None:
    found = probes.carried(run, CarriedSpec(n=40))
    each = probes.contributions(run, ContributionsSpec(n=40))
    right = each.pred == each.y
    assert found.right.tolist() == right.tolist() and found.half.tolist() == each.half.tolist()
    assert found.shares[1] == pytest.approx(
        np.quantile(each.shares[right], 0.5, axis=0, method="higher"), abs=1e-6
    )
    # The median curve reaches one half at the number of features with which half of the images have
    # half of their logit.
    assert found.shares[1, found.median] >= 0.5 > found.shares[1, found.median - 1]
    low, high = found.interval
    assert low <= found.median <= high
    whole = probes.carried(run)
    assert len(whole.right) == len(images_of(run)) == whole.meta["of"]
    assert len(whole.to_npz()) < 5000


@pytest.mark.parametrize(
    ("b", "width", "says"),
    [
        ([4] * 60, 10, "About 2 of 10 features make up half of A's answer; B spreads it over 4."),
        ([1] * 60, 10, "About 2 of 10 features make up half of A's answer; B needs only 1."),
        (
            [2] * 60,
            10,
            "About 2 of 10 features make up half of A's answer, and of B's: no difference shown.",
        ),
        (
            [1] * 28 + [3] * 32,
            10,
            "About 2 of 10 features make up half of A's answer, 3 of B's: no difference shown.",
        ),
        ([2] * 60, 20, "About 2 of 10 features make up half of A's answer; B needs only 2 of 20."),
    ],
)
def test_whose_answer_fewer_features_carry_is_said_only_where_pairs_show_it(b, width, says) -> None:
    found = {"a": many([2] * 58 + [-1, 2]), "b": many(b, width)}
    screen = first.screen(found, {})
    assert screen.answer == [says]
    less, more, n = fewer(*found.values())
    same = len({each.median / each.width for each in found.values()}) == 1
    assert n == 59 and ("no difference" in says) == (mcnemar(less, more) >= 0.05 or same)
    assert not [line for text in (*screen.answer, *screen.sure, screen.alt) for line in wordy(text)]


def test_a_network_without_an_answer_does_not_silence_the_other() -> None:
    good = many([2] * 9)
    lost = dataclasses.replace(good, right=np.zeros(9, dtype=bool))
    mute = dataclasses.replace(good, half=np.full(9, np.nan))
    for a, b, says in (
        (good, lost, "About 2 of 10 features make up half of A's answer; B is right on none of"),
        (lost, good, "A is right on none of these images; about 2 of 10 features make up half of"),
        (mute, good, "No feature of A contributes to the right class; about 2 of 10 features"),
    ):
        said = first.answer({"a": a, "b": b})
        assert said.startswith(says) and not wordy(said)
    assert first.answer({"a": lost}) == "A is right on none of these images."


def test_the_control_moves_a_marker_along_both_curves_and_the_bars_of_one_image() -> None:
    one = {"a": carried([3], "standard"), "b": carried([2], "trades")}
    screen = first.screen({"a": many([3] * 40), "b": many([2] * 40)}, one)
    kept = [int(each) for each in screen.control.values]
    assert (
        kept[0] == 0 and kept == sorted(kept) and screen.control.values[screen.control.start] == "3"
    )
    assert screen.moves["a-share"][1][kept.index(3)] == "A keeps 50%"
    assert screen.moves["b-share"][1][kept.index(3)] == "B keeps 75%"
    assert screen.moves["b-one"][1][kept.index(4)] == ": 100% of the positive contributions to dog"
    for what in ("half: 3<", "half: 2<", "a-share", "b-share", "a-one", "b-one"):
        assert re.search(f'class="told"[^<]*{what}', screen.picture)  # hidden before *Reveal*
    assert {len(values) for _, values in screen.moves.values()} == {len(kept)}
    for name in screen.moves:
        assert name in screen.picture
    for size in ("680 400", "360 300"):  # the second for phones, where the first would be tiny
        assert f'><svg viewBox="0 0 {size}"' in screen.picture
    mute = dataclasses.replace(one["a"], parts=-np.ones((1, 10)))
    silent = first.screen({"a": many([3] * 40)}, {"a": mute})
    assert set(silent.moves["a-one"][1]) == {": no positive contribution to dog"}
    assert silent.answer == ["About 3 of 10 features make up half of A's answer."]


def test_no_shipped_network_makes_a_long_sentence(runs_home) -> None:
    runs = [run for run in folder.all_runs() if run.shipped and run.data_key == "digits"]
    found = [probes.carried(run, CarriedSpec(n=50)) for run in runs]
    for a, b in itertools.pairwise(found):
        texts = (first.answer({"a": a, "b": b}), *first.sure({"a": a, "b": b}))
        assert not [line for text in texts for line in wordy(text)]
