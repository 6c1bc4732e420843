"""Tests the Attack page: attacking at all levels of ε together gives what each level alone gives,
the first screen states the measured numbers in short sentences, and figures take any number of
networks.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from robustviz import figures, probes
from robustviz.attacks import PGD
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.training.evaluate import count_right
from robustviz.training.evaluation import NAMES, attack_name
from robustviz.types import UserError
from robustviz.views.attack import (
    panel,
    probe as attack_probe,
    result as asked,
    screen_figures as first,
)
from robustviz.views.attack.result import (
    AccuracyCurve,
    Answers,
    AnswersSpec,
    AttackLevels,
    AttackLevelsSpec,
    SmallestEps,
    Trajectory,
)
from robustviz.views.measure import images_of, measure, net_of
from robustviz.views.printing import drawing
from robustviz.views.screen import Control, wordy

EPS = 0.15
THREE = ("A Standard", "B PGD-AT", "TRADES")


def digits(method: str) -> folder.Run:
    return next(
        run
        for run in folder.all_runs()
        if run.shipped and not unusual(run) and (run.data_key, run.method_key) == ("digits", method)
    )


@pytest.fixture
def run(runs_home) -> folder.Run:
    return digits("pgd_at")


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "mim", "tim", "cw", "apgd"])
@pytest.mark.parametrize("target", [-1, 4])
def test_all_levels_at_once_are_each_level_alone(run, attack, target) -> None:
    spec = AttackLevelsSpec(5, attack, EPS, 4, 7, target)
    found = measure(run, spec)
    assert list(found.levels) == spec.levels and found.levels[0] == 0 and 38 in found.levels
    for at in (0, 1, len(found.levels) - 1):
        alone = probes.adversarial(
            run, probes.AdversarialSpec(5, attack, int(found.levels[at]) / 255, 4, 7, target)
        )
        mine = found.at(at)
        assert np.allclose(mine.probs_adv, alone.probs_adv, atol=1e-3)
        assert np.allclose(mine.x_adv, alone.x_adv, atol=0.51 / 255)
        assert found.distance[at] <= found.levels[at] / 255 + 1e-6
    again = AttackLevels.from_npz(found.to_npz())
    assert np.array_equal(again.change, found.change) and len(found.to_npz()) < 8_000


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[pytest.mark.slow] * (key == "autoattack")) for key in NAMES]
)
def test_every_attack_runs_on_one_image_or_says_why_not(run, key) -> None:
    spec = AttackLevelsSpec(5, key, 0.004, 2)  # Only two levels, because some attacks are slow.
    found = measure(run, spec)
    assert list(found.levels) == [0, 1, 2] and np.isfinite(found.probs).all()
    assert key in panel.attacks() and attack_name(found.meta["attack"]).startswith(
        panel.called(key)
    )


def test_an_attack_without_a_targeted_form_says_so(run) -> None:
    with pytest.raises(UserError, match="cannot be targeted"):
        measure(run, AttackLevelsSpec(5, "autoattack", EPS, target=1))


def test_what_the_noise_fooled_was_not_wrong_untouched(runs_home) -> None:
    spec = probes.TrajectorySpec(0, eps=68 / 255)
    found = probes.trajectory(digits("standard"), spec)
    assert int(found.probs[0].argmax()) != found.y  # The random start alone changes the prediction.
    assert found.meta["summary"].startswith("fooled already by the random start")


def test_a_costly_attack_has_five_levels_with_the_usual_one() -> None:
    for eps in (2 / 255, 8 / 255, 10 / 255, 0.15, 1.0):
        every = AttackLevelsSpec(eps=eps).levels
        few = AttackLevelsSpec(eps=eps, attack="autoattack").levels
        assert set(few) <= set(every) and round(255 * eps) in few and len(few) <= 5
        assert len(every) <= 17


@pytest.mark.long
def test_the_answers_are_counted_as_an_evaluation_counts(run) -> None:
    found, split = measure(run, AnswersSpec(EPS, n=30, steps=5)), images_of(run)
    few, at = split.take(torch.arange(30)), found.nearest(EPS)
    attack = PGD(eps=float(found.eps[at]), steps=5)
    right = count_right(net_of(run), few.x, few.y, attack).numpy()
    assert np.array_equal(found.right[at], right) and found.k[at] == right.sum()
    table = found.confusion(EPS)
    assert table.sum() == 30 and np.diag(table).sum() == found.k[at]
    assert Answers.from_npz(found.to_npz()).said.tolist() == found.said.tolist()


def answers(rise: int, n: int = 200) -> Answers:
    eps = np.array(asked.levels_of(8 / 255)) / 255
    k = np.clip(190 - rise * np.arange(len(eps)), 0, n)
    y = np.arange(n) % 10
    said = np.where(np.arange(n) < k[:, None], y, (y + 1) % 10).astype(np.int16)
    meta = {
        "run": "r",
        "classes": [f"c{i}" for i in range(10)],
        "train_eps": 8 / 255,
        "attack": {"key": "pgd", "steps": 20},
        "seed": 0,
        "index": 3,
        "summary": "a summary",
    }
    return Answers(eps, k, n, said, y, meta=meta)


def levels(fooled_from: int) -> AttackLevels:
    given = np.array(asked.levels_of(8 / 255))
    probs = np.where(given[:, None] >= fooled_from, [[0.1, 0.9]], [[0.8, 0.2]])
    probs = np.hstack([probs, np.zeros((len(given), 8))])
    change = np.zeros((len(given), 3, 8, 8), np.int8) + given[:, None, None, None].astype(np.int8)
    x = np.full((3, 8, 8), 100, np.uint8)
    span = np.tile([0.0, 1.0], (len(given), 1))
    meta = answers(1).meta
    return AttackLevels(given, x, change, 0, probs, given / 255, span, meta=meta)


def control() -> Control:
    values = [str(level) for level in asked.levels_of(8 / 255)]
    return Control("ε", values, 8, "eps")


def test_the_line_follows_the_slider_and_every_sentence_is_short() -> None:
    found = {"A Standard": levels(3), "B PGD-AT": levels(99)}
    curves = {"A Standard": answers(20), "B PGD-AT": answers(8)}
    screen = first.screen(found, curves, None, control(), 8)
    assert len(screen.answer) == 17
    assert screen.answer[0].startswith("No difference shown: A is right on 190 of 200 untouched")
    assert screen.answer[8] == (
        "B is more robust: it is right on 126 of 200 attacked images, A on 30."
    )
    assert screen.moves["a-hit-below"][1][2:4] == ["c0: 80% ✓", "c1: 90% ✗"]
    for name, (_, values) in screen.moves.items():
        assert len(values) == 17, name
        assert f"{name}" in screen.picture
    said = [*screen.answer, *screen.sure, *screen.moves["a-add-below"][1]]
    assert [each for line in said for each in wordy(line)] == []
    assert "one training seed each" in screen.sure[0]
    assert any("upper bound" in line for line in screen.sure)


def test_the_chart_is_drawn_for_phones_too_and_taken_home_once() -> None:
    found = {"A Standard": levels(3), "B PGD-AT": levels(99)}
    curves = {"A Standard": answers(20), "B PGD-AT": answers(8)}
    screen = first.screen(found, curves, None, control(), 8)
    charts = {
        int(ElementTree.fromstring(one).get("width", "0")): one
        for one in re.findall(r"<svg.*?</svg>", screen.picture, re.DOTALL)
    }
    assert list(charts) == [1196, 360]  # No phone is much wider than 400 pixels.
    for text in (">8<", ">16<", ">ε in grey levels of 255<", ">A Standard<", ">B PGD-AT<"):
        assert all(text in chart for chart in charts.values())
    moved = [set(re.findall(r'data-move="([^"]+)"', chart)) for chart in charts.values()]
    assert len(moved[0]) == len(moved[1]) == 3 and not moved[0] & moved[1]
    assert len({screen.moves[name][1][8] for name in ("here-x", "small-here-x")}) == 2
    home = ElementTree.fromstring(drawing(screen, 8))
    assert [each.get("width") for each in home.iter() if each.tag.endswith("}svg")] == ["1196"] * 2


def test_less_eps_looks_like_less_since_the_gain_is_one_for_the_page() -> None:
    found = {"A Standard": levels(3)}
    screen = first.screen(found, {"A Standard": answers(20)}, None, control(), 8)
    shown = screen.moves["a-add-src"][1]
    assert len(set(shown)) == 17  # No two levels may have the same picture.
    assert any(
        "multiplied by 8 around grey, with the same factor at every ε" in line
        for line in screen.sure
    )
    assert screen.answer[8] == "A is right on 30 of 200 attacked images."


def test_where_the_nearest_eps_differs_it_is_said_and_where_none_is_known_it_is_asked_for() -> None:
    given = {"A Standard": levels(3), "B PGD-AT": levels(99)}
    few = {
        name: dataclasses.replace(each, eps=each.eps[::4], k=each.k[::4], said=each.said[::4])
        for name, each in (("A Standard", answers(20)), ("B PGD-AT", answers(8)))
    }
    screen = first.screen(given, few, None, control(), 9)
    assert screen.answer[9].startswith("At the nearest ε measured, 8/255: B is more robust")
    assert wordy(screen.answer[9]) == []
    assert "Above, measure on how many" in first.screen(given, {}, None, control(), 8).answer[0]


def test_a_network_without_answers_is_named_whatever_is_known_of_the_other(runs_home) -> None:
    given = {"A Standard": levels(3), "B PGD-AT": levels(99)}
    curves = {"A Standard": answers(20)}
    alone = first.screen(given, curves, None, control(), 8).answer
    assert alone[8] == "A is right on 30 of 200 attacked images. B is not measured yet: see above."
    said = first.measured(*(digits(method).evaluations() for method in ("standard", "pgd_at")))
    assert said is not None
    (both,) = first.screen(given, curves, said, control(), 8).answer
    assert both == f"{said.line} At other ε, B is not measured yet: see above."
    (both,) = first.screen(given, {}, said, control(), 8).answer
    assert both == f"{said.line} At other ε, A and B are not measured yet: see above."
    for line in (*alone, both):
        assert wordy(line) == []


def test_two_shipped_networks_have_a_verdict_before_anything_is_measured(runs_home) -> None:
    mine, theirs = (digits(method).evaluations() for method in ("standard", "pgd_at"))
    found = first.measured(mine, theirs)
    assert found is not None and found.winner == "B"
    assert wordy(found.line) == [] and found.line.startswith("At ε = ")
    assert first.measured(mine, ()) is None
    alone = first.measured(mine)
    assert alone is not None and "A is right on" in alone.line and not alone.winner


def several() -> dict[str, dict[str, object]]:
    meta = answers(1).meta | {"summary": "fooled after step 3; loss 0.01 → 5.33"}
    eps = np.linspace(0.001, 0.1, 20)
    return {
        "accuracy_curve": {name: answers(5 + at) for at, name in enumerate(THREE)},
        "classes_held": {name: answers(5 + at) for at, name in enumerate(THREE)},
        "smallest_eps": {
            name: SmallestEps(eps / (1 + at), np.arange(20), 0.125, 0.001, meta=meta)
            for at, name in enumerate(THREE)
        },
        "trajectory": {
            name: Trajectory(np.full((4, 10), 0.1), np.ones(4), 0, 8 / 255, meta=meta)
            for name in THREE
        },
    }


@pytest.mark.parametrize("name", several())
def test_figures_take_three_networks_and_say_little(name) -> None:
    results = several()[name]
    more = {"eps": 8 / 255} if name == "classes_held" else {}
    if name == "smallest_eps":
        more = {"here": [0.01, None, 0.02]}
    figure = getattr(figures, name)(results, **more)
    drawn = [trace for trace in figure.data if trace.name in THREE]
    assert [trace.name for trace in drawn] == list(THREE)
    colours = {
        (trace.line.color if trace.type == "scatter" else trace.marker.color) for trace in drawn
    }
    assert len(colours) == 3
    assert wordy(figure.layout.meta["sentence"]) == [], figure.layout.meta["sentence"]


def test_a_confusion_matrix_names_the_commonest_mistake() -> None:
    figure = figures.confusion(answers(8), eps=8 / 255)
    assert int(np.sum(figure.data[0].z)) == 200
    assert "Most frequent mistake:" in figure.layout.meta["sentence"]
    assert wordy(figure.layout.meta["sentence"]) == []


def test_a_confusion_matrix_does_not_hide_images_without_an_answer() -> None:
    right = answers(0, n=100)
    right.said[:, :30] = -1
    said = figures.confusion(right, eps=8 / 255).layout.meta["sentence"]
    assert said.startswith("On 30 of 100 images the logits are not numbers.")


def test_the_axis_of_smallest_eps_reaches_to_the_larger_limit_of_two_networks() -> None:
    meta = several()["smallest_eps"][THREE[0]].meta
    narrow, wide = (
        SmallestEps(np.array([limit]), np.arange(1), limit, 0.001, meta=meta)
        for limit in (0.1, 0.2)
    )
    figure = figures.smallest_eps({"A": narrow, "B": wide})
    assert [sum(trace.y) for trace in figure.data] == [1, 1]
    assert figure.layout.xaxis.range[1] == pytest.approx(0.2 * 255)


def test_radii_of_a_curve_end_at_one(run, monkeypatch) -> None:
    monkeypatch.setattr("robustviz.views.attack.probe.radius", lambda run: 0.6)
    found = probes.accuracy_curve.answer(run, asked.AccuracyCurveSpec(n=4, steps=1))
    assert found.eps[-1] == 1 and found.meta["summary"].endswith(
        "at ε = 0.625 (159/255) under PGD-1"
    )


def test_an_attack_with_its_own_call_is_called_at_every_level(run) -> None:
    """A plug-in may change the result of `__call__`, which is what evaluations count."""

    class Shifted(PGD):
        def __call__(self, net, x, y, **more):
            return (super().__call__(net, x, y, **more) + self.eps).clamp(0, 1)

    net, split = net_of(run), images_of(run)
    x, y = split.x[:1], split.y[:1]
    found = attack_probe.with_each(net, Shifted(eps=0.1), x, y, np.array([0, 8]), 3)
    rng = torch.Generator().manual_seed(3)
    assert torch.equal(found[1:], Shifted(eps=8 / 255)(net, x, y, rng=rng))


def test_the_first_screen_needs_neither_torch_nor_plotly() -> None:
    code = (
        "import sys; import robustviz.views.attack.screen_figures;"
        "assert not {'torch', 'plotly'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_first_screens_specs_are_those_of_the_page(runs_home) -> None:
    image, many = asked.first_screen(3, EPS)
    assert image == AttackLevelsSpec(3, eps=EPS) and many == AnswersSpec(EPS)
    assert issubclass(Answers, AccuracyCurve)
