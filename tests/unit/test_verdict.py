"""The verdict on two networks says no more than the paired images show."""

from __future__ import annotations

import numpy as np
import pytest

from robustviz.types import UserError
from robustviz.views.verdict import held


def bits(k: int, n: int = 200) -> np.ndarray:
    return np.arange(n) < k


def test_the_one_that_holds_more_is_named_with_its_counts():
    found = held(bits(23), bits(135), attack="PGD-20", eps=8 / 255)
    assert found.line == "B is more robust: it holds 135 of 200 attacked images, A 23."
    assert found.winner == "B"
    assert "one training seed a side" in found.sure[0]  # words first
    said = " ".join(found.sure)
    for part in (
        "upper bound",
        "n = 200",
        "PGD-20 at ε = 8/255",
        "seed 0",
        "A alone is right on 0 of 200, B alone on 112.",
        "B less A: +56.0 points.",
        "p < 0.001",
    ):
        assert part in said
    other = held(bits(135), bits(23), attack="PGD-20", eps=8 / 255, names=("Standard", "PART"))
    assert other.line.startswith("Standard is more robust: it holds 135 of 200")
    assert "PART less Standard: −56.0 points." in other.sure


def test_what_an_interval_does_not_exclude_is_no_difference():
    found = held(bits(100), bits(103), attack="PGD-20", eps=8 / 255)
    assert (found.line, found.winner) == (
        "No difference shown: A holds 100 of 200 attacked images, B 103.",
        "",
    )


def test_what_rounds_to_nothing_is_no_difference():
    n = 20_000
    found = held(bits(10_000, n), bits(10_060, n), attack="PGD-20", eps=8 / 255)
    assert found.line.startswith("No difference shown")  # though p is far below 0.001
    assert "p < 0.001" in found.sure[-1]


def test_untouched_images_one_network_and_few_images():
    assert held(bits(150), bits(190), attack="PGD-20", eps=0).line == (
        "B is more accurate: it reads 190 of 200 untouched images right, A 150."
    )
    alone = held(bits(23), attack="PGD-20", eps=8 / 255)
    assert alone.line == "A holds 23 of 200 attacked images." and "one network" in alone.sure[0]
    assert any("few" in each for each in held(bits(3, 9), attack="FGSM", eps=0.1).sure)
    assert held(bits(0, 0), bits(0, 0), attack="FGSM", eps=0.1).winner == ""


def test_images_that_do_not_pair_are_refused():
    with pytest.raises(UserError, match="same images"):
        held(bits(1, 3), bits(1, 4), attack="PGD-20", eps=0.1)
