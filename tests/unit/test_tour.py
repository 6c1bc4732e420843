"""Tests the questions of the tour: the right options were measured, and the sentences are short."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from robustviz.cli import main
from robustviz.runs import folder
from robustviz.ui import networks
from robustviz.views import pack
from robustviz.views.attack.result import AnswersSpec
from robustviz.views.screen import wordy
from robustviz.views.tour.lesson import MOST, lesson
from robustviz.views.tour.step import Step, choices, score
from robustviz.views.tour.steps import DATA, steps

PAIR = networks.defaults(networks.on(DATA))
STEPS = steps(*PAIR)


def step(key: str) -> Step:
    return next(each for each in STEPS if each.key == key)


def test_seven_steps_in_the_order_of_the_lesson():
    wanted = ["see", "predict", "attack", "explain", "defend", "compare", "mistake"]
    assert [each.key for each in STEPS] == wanted


def test_the_first_two_steps_show_the_untouched_image_alone_until_the_guess():
    see, predict = STEPS[:2]
    assert see.screen is predict.before and see.screen.picture.count("<img") == 1
    assert see.screen.control is None and predict.screen.control is not None
    said = see.options[see.right]
    assert see.screen.answer == [f"A predicts {said}."] and f"A {said}: " in see.screen.picture


@pytest.mark.parametrize("each", STEPS, ids=lambda each: each.key)
def test_a_step_is_short_and_can_be_guessed(each):
    assert len(set(each.options)) == len(each.options) >= 3
    assert 0 <= each.right < len(each.options)
    assert wordy(f"{each.intro} {each.question} {each.told}") == []


def test_the_counts_are_those_of_the_shipped_answers():
    """Counted in another way: from the evaluation with PGD-20 on the first 200 images."""
    for key, run_id in (("attack", PAIR[0]), ("defend", PAIR[1])):
        evaluation = folder.open_model(run_id).evaluation()
        assert evaluation is not None
        first = int(evaluation.right()[1][:200].sum())
        told = step(key).options[step(key).right]
        assert told.endswith(" of 200")
        # The pack's attack starts at smaller radii and keeps the images it fooled there, so it may
        # fool a few more.
        assert first - 8 <= int(told.split()[0]) <= first


def test_how_often_the_attack_fools_is_the_count_of_the_shipped_answers():
    """An image is fooled if it is right untouched and wrong under attack."""
    run = folder.open_model(PAIR[0])
    answers = pack.kept(run, AnswersSpec(folder.open_model(PAIR[1]).eps))
    assert answers is not None
    at = answers.nearest(folder.open_model(PAIR[1]).eps)
    right = [set(np.flatnonzero(answers.said[row] == answers.y)) for row in (0, at)]
    fooled, clean = len(right[0] - right[1]), len(right[0])
    assert answers.eps[0] == 0 and f"{fooled} of the {clean} pictures" in step("attack").told


def test_what_the_defence_costs_is_said_as_far_as_it_is_shown():
    a, b = (folder.open_model(run_id).evaluation() for run_id in PAIR)
    assert a is not None and b is not None
    gained = int((b.right()[0] & ~a.right()[0]).sum())
    lost = int((a.right()[0] & ~b.right()[0]).sum())
    compared = step("compare")
    assert f"{a.clean_k:,} of {a.n:,}" in compared.told
    if abs(gained - lost) < 1.9 * np.sqrt(gained + lost):
        assert compared.options[compared.right] == "no difference shown"


def test_choices_hold_the_measured_count_once_and_others_far_from_it():
    for right in range(201):
        options, place = choices(200, right)
        counts = [int(each.split()[0]) for each in options]
        assert counts[place] == right and counts == sorted(set(counts))
        assert all(abs(each - right) >= 20 and each % 10 for each in counts if each != right)


def test_the_score_counts_guesses_that_were_made():
    rights = [each.right for each in STEPS]
    assert score(STEPS, rights) == "7 of 7 guesses right"
    assert score(STEPS, [rights[0], None, rights[2] + 1]) == "1 of 2 guesses right"


def test_the_lesson_is_one_small_file_that_names_no_other():
    content = lesson(STEPS)
    assert len(content) <= MOST
    text = content.decode()
    for asking in ("http://", "https://", 'src="/', "@import", "fetch("):
        assert asking not in text.replace("http://www.w3.org/2000/svg", ""), asking


@pytest.mark.long
def test_the_lesson_is_made_without_torch() -> None:
    code = (
        "import sys; from robustviz.ui import networks; from robustviz.views.tour import steps;"
        "from robustviz.views.tour.lesson import lesson;"
        "lesson(steps.steps(*networks.defaults(networks.on(steps.DATA))));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_writes_the_lesson(tmp_path, capsys):
    assert main(["lesson", "--out", str(tmp_path / "lesson.html"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (tmp_path / "lesson.html").stat().st_size == said["bytes"] > 100_000
