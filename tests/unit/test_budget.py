"""Tests the page about the cost of a larger ε: the shipped study, the two blobs, and the sentences
of the page.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.views.budget import panel, probe, result, scene
from robustviz.views.budget.figures import budget
from robustviz.views.budget.result import Balls, Family
from robustviz.views.screen import wordy

BLOBS = result.balls()
DATA = result.known()


def family(clean: list[int], eps: list[float], **more: float) -> Family:
    """Returns networks of one data set, each evaluated on 1,000 images."""
    n = len(clean)
    counts = np.array(clean)
    meta = {"classes": 10, "apart": 1.0, "usual": eps[-1], "attack": "PGD-20", "data": "shapes"}
    meta |= {"trained_on": 2000, **more}
    return Family(
        np.array(eps), np.arange(n), np.full(n, 1000), counts, counts, counts // 2, meta=meta
    )


@pytest.mark.parametrize("key", DATA)
def test_the_study_repeats_what_the_shipped_evaluations_say(key):
    found = result.family(key)
    said = {each["run"]: each for each in json.loads(result.FILE.read_text())["cells"]}
    checked = 0
    for run in folder.all_runs():
        if run.id in said:
            one = run.evaluation()
            cell = said[run.id]
            assert (cell["n"], cell["clean_k"]) == (one.n, one.clean_k)
            assert cell["own_k"] == (one.robust_k if cell["eps"] else one.clean_k)
            checked += 1
    assert checked >= 10
    assert (found.clean_k <= found.n).all() and (found.usual_k <= found.clean_k).all()


def test_every_budget_of_the_family_is_there():
    from robustviz import zoo

    for key in DATA:
        assert set(zoo.BUDGETS[key]) < set(result.family(key).eps.tolist())


@pytest.mark.parametrize("key", DATA)
def test_every_sentence_is_short(key):
    found = result.family(key)
    screen = scene.first(found, BLOBS)
    figure = budget(found)
    for text in (*screen.answer, *screen.sure, scene.lesson(found), panel.PAPERS):
        assert wordy(text) == []
    title = figure.layout.title  # fits a phone
    assert len(title.text) <= 42 and len(title.subtitle.text) <= 56
    for said in (figure.layout.meta["sentence"], figure.layout.meta["sure"]):
        assert wordy(said) == []


def test_all_that_moves_is_in_the_picture_and_has_a_value_everywhere():
    screen = scene.first(result.family("shapes"), BLOBS)
    for name, (_, values) in screen.moves.items():
        assert name in screen.picture and len(values) == len(screen.control.values)
    assert len(screen.answer) == len(screen.control.values)


def test_a_cost_is_said_only_where_every_network_of_it_is_below_every_ordinary_one():
    assert scene.costly(family([970, 960, 800], [0.0, 0.1, 0.2])).tolist() == [0.2]
    assert scene.costly(family([970, 960, 965], [0.0, 0.1, 0.2])).tolist() == []
    # One seed of the largest ε is as accurate as the ordinary network.
    assert scene.costly(family([970, 800, 968], [0.0, 0.2, 0.2])).tolist() == []
    assert scene.costly(family([800, 700], [0.1, 0.2])).tolist() == []
    assert "No difference" in scene.lesson(family([970, 960], [0.0, 0.1]))


def test_whether_the_data_demand_it_is_measured_on_their_images():
    far, near = (family([970, 500], [0.0, 0.2], apart=apart) for apart in (1.0, 0.1))
    assert "require no loss" in scene.lesson(far)
    assert "require no loss" not in scene.lesson(near)
    # both halves argue the same: overlap costs accuracy, and where there is none, the training does
    assert "Unlike the points' squares" in scene.lesson(far)
    assert "So the training costs accuracy here." in scene.lesson(far)
    assert "So the training" not in scene.lesson(near)
    assert "So the training" not in scene.lesson(family([970, 968], [0.0, 0.2]))


@pytest.mark.parametrize("key", DATA)
def test_no_name_of_a_curve_lies_in_the_chart_of_the_networks(key):
    found = result.family(key)
    for width in (500, 360):  # the second for phones: fewer numbers, as large as the others
        texts = re.findall(r"<text[^>]*>([^<]*)<", scene._family(found, width))
        *numbers, across, up, key = texts
        assert across.startswith("ε in training") and (up, key) == ("test images right", "")
        assert all(re.match(r"[\d.]+%?$", each) for each in numbers)


def test_a_network_that_learned_nothing_is_said():
    found = family([970, 116], [0.0, 0.2])
    assert found.learned.tolist() == [True, False]
    assert "116 of 1000" in scene.unlearned(found)[0]
    assert "1 of 2 learned nothing" in scene.lesson(found)
    assert found.mean(found.clean_k)[0].tolist() == [0.0]  # The mean leaves the network out.
    assert "learned nothing" in scene.first(found, BLOBS).picture
    assert scene.unlearned(family([970, 900], [0.0, 0.2])) == []


def test_squares_overlap_where_two_points_are_closer_than_twice_the_radius():
    x = np.array([[0.0, 0.0], [1.0, 0.3], [5.0, 5.0]])
    blobs = Balls(
        x,
        np.array([0, 1, 0]),
        np.array([0, 0.5, 0.6]),
        *[np.ones((3, 1), int)] * 2,
        np.zeros((3, 2, 2), int),
        meta={"n": 1},
    )
    assert blobs.nearest.tolist() == [1.0, 1.0, 4.7]
    assert blobs.meeting.tolist() == [0, 0, 2]  # At 0.5 the balls only touch.
    assert blobs.first == 2
    assert dataclasses.replace(blobs, eps=np.array([0, 0.1, 0.2])).first == 3


def test_the_boundary_is_where_the_answer_changes():
    z = np.linspace(-10, 10, 21, dtype=int)[None, None].repeat(5, 1)
    blobs = Balls(
        np.zeros((1, 2)),
        np.zeros(1, int),
        np.zeros(1),
        *[np.ones((1, 1), int)] * 2,
        z,
        meta={"window": [-1, 1, -1, 1]},
    )
    plot = scene.Plot(200, 200, (-1, 1), (-1, 1))
    pieces = list(scene._edge(plot, blobs, 0))
    assert len(pieces) == 4
    for piece in pieces:
        for end in piece[1:].split("L"):
            assert abs(float(end.split()[0]) - plot.px(0)) < 0.2


def test_the_shipped_blobs_cost_nothing_until_squares_overlap_and_then_do():
    first = BLOBS.first
    assert 0 < first < len(BLOBS.eps)
    clean = BLOBS.clean_k.mean(axis=1) / BLOBS.meta["n"]
    assert (clean[:first] > 0.99).all() and clean[-1] < 0.95
    assert (BLOBS.held_k <= BLOBS.clean_k).all()


@pytest.mark.long
def test_the_points_networks_are_the_same_by_seed_and_use_no_global_chance():
    x, y = probe.draw(20, 0)
    before = torch.get_rng_state()
    one, two = (probe.trained(x, y, 0.1, 3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_an_attack_on_points_stays_in_its_square():
    x, y = probe.draw(20, 0)
    net = probe.trained(x, y, 0.0, 0)
    moved = probe.attacked(net, x, y, 0.3, 10, 0)
    assert math.isclose(float((moved - x).abs().max()), 0.3, rel_tol=1e-5)
    assert probe.attacked(net, x, y, 0.0, 10, 0) is x


def test_what_is_missing_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(result, "FILE", tmp_path / "budget.json")
    with pytest.raises(UserError, match="study"):
        result.family("shapes")
    (tmp_path / "budget.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        result.known()
    monkeypatch.undo()
    with pytest.raises(UserError, match="no network on cifar10"):
        result.family("cifar10")


def test_the_first_screen_needs_no_torch():
    code = (
        "import sys; from robustviz.views.budget import result, scene;"
        "scene.first(result.family('shapes'), result.balls());"
        "sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    )
    assert not subprocess.run([sys.executable, "-c", code], cwd=folder.REPOSITORY).returncode
