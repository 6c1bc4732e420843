"""Tests numbers and radii as people type them."""

from __future__ import annotations

import math

import pytest

from robustviz.types import UserError, check_eps, eps_text, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.15", 0.15), ("8/255", 8 / 255), (" 1 / 4 ", 0.25), (3, 3.0), ("1e-2", 0.01), ("-2", -2.0)],
)
def test_a_number_is_read_in_each_of_its_forms(text: str | float, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "x", "8/0", "1/2/3", "nan", "inf", "/", True, None, [1]])
def test_what_is_no_number_is_refused_and_quoted(text: object) -> None:
    with pytest.raises(UserError, match="number") as caught:
        parse_number(text)  # type: ignore[arg-type]
    assert repr(text) in str(caught.value) and caught.value.code == 2


@pytest.mark.parametrize(
    ("eps", "norm", "shape"),
    [
        (0, "linf", None),
        (1, "linf", None),
        (8 / 255, "linf", None),
        (11.2, "l2", (2, 9, 7)),
        (0, "l2", None),
    ],
)
def test_radii_inside_their_limits_come_back(
    eps: float, norm: str, shape: tuple[int, ...] | None
) -> None:
    assert check_eps(eps, norm, shape) == eps


@pytest.mark.parametrize(
    ("eps", "norm", "word"),
    [
        (8, "linf", "write 8/255"),
        (255, "linf", "write 255/255"),
        (4.0, "linf", "write 4/255"),
        (300, "linf", "write 8/255"),
        (-0.1, "linf", "outside"),
        (math.nan, "linf", "not a number"),
        (10**400, "linf", "not a number"),
        (True, "linf", "not a number"),
        ("0.1", "linf", "not a number"),
        (math.sqrt(126) + 0.01, "l2", r"outside \[0, 11.22\]"),
        (-1, "l2", "outside"),
    ],
)
def test_radii_outside_are_refused_with_what_was_meant(eps: float, norm: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        check_eps(eps, norm, (2, 9, 7))


def test_a_radius_is_printed_in_grey_levels_where_it_is_a_whole_number_of_them() -> None:
    assert eps_text(8 / 255) == "8/255" and eps_text(0) == "0/255" and eps_text(1.0) == "255/255"
    assert eps_text(0.15) == "0.15 (38/255)"
