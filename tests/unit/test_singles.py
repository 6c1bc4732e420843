"""Tests a user's own picture: it can be used wherever a test image is looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustviz.data import sent, singles
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.ui.context import Context
from robustviz.views.attack.result import AttackLevelsSpec, SmallestEpsSpec
from robustviz.views.attention.result import AttentionLevelsSpec
from robustviz.views.contributions.result import ContributionsSpec
from robustviz.views.loss.result import SoftLabelsSpec
from robustviz.views.measure import image_of, measure
from robustviz.views.result import ProbeSpec

RNG = np.random.default_rng(0)


def digits() -> folder.Run:
    return next(run for run in folder.all_runs() if run.shipped and run.data_key == "digits")


@pytest.fixture
def one(runs_home: Path) -> singles.Single:
    """Adds a picture labelled as class 3."""
    png, digest = sent.packed(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    return singles.add(png, digest, "mine.png", digits().classes[3], "digits")


def test_it_comes_as_the_networks_other_images_do(one):
    split, x, y = image_of(digits(), one.number)
    assert x.shape == (1, 1, 8, 8) and int(y) == 3 and split.classes == digits().classes
    assert (x * 255).round().byte().numpy()[0].tolist() == one.pixels(1, 8).tolist()
    assert split.names == ("mine.png",) and len(split) == 1
    assert Context("digits", "", "", one.number).own
    for img in (0, singles.FIRST - 1, singles.FIRST):
        assert Context("digits", "", "", img).own == singles.is_own(img)


@pytest.mark.long
@pytest.mark.parametrize(
    "kind",
    [AttackLevelsSpec, SmallestEpsSpec, AttentionLevelsSpec, ContributionsSpec, SoftLabelsSpec],
)
def test_what_is_asked_of_test_images_can_be_asked_of_it(one, kind: type[ProbeSpec]):
    result = measure(digits(), kind(index=one.number))
    y = np.ravel(getattr(result, "y", 3))
    assert (y == 3).all()
    kept = [path for path in folder.home().rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == {str(one.number)}  # No answer is saved on disk.


def test_what_lasts_is_not_kept_of_it_either(one, monkeypatch):
    monkeypatch.setattr(AttackLevelsSpec, "cacheable", True)
    measure(digits(), AttackLevelsSpec(index=one.number))
    kept = [path for path in folder.home().rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == {str(one.number)}


def test_a_network_that_does_not_know_its_class_says_so(one):
    shapes = next(run for run in folder.all_runs() if run.shipped and run.data_key == "shapes")
    with pytest.raises(UserError, match="has no such class"):
        image_of(shapes, one.number)
    singles.remove(one.number)
    with pytest.raises(UserError, match="no longer here"):
        image_of(digits(), one.number)
