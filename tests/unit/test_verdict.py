"""Tests verdicts about methods: simulated differences of known size get the right verdict."""

import math

import numpy as np
import pytest

from robustviz.claims.verdict import POWER, verdict
from robustviz.stats import t_quantile
from robustviz.types import UserError

SIMULATED = 600


def rate(word: str, effect: float, sd: float = 0.02, seeds: int = 5, **more: object) -> float:
    """Returns the share of simulations of two methods with true difference `effect` that get this
    verdict.
    """
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(SIMULATED):
        b = dict(enumerate(rng.normal(0.6, 0.05, seeds)))
        a = {seed: b[seed] + rng.normal(effect, sd) for seed in b}
        found += verdict(a, b, wanted=seeds, **{"smallest": 0.01, **more}).word == word  # type: ignore[arg-type]
    return found / SIMULATED


def bound(share: float) -> float:
    """Returns four standard errors of a share of the simulations."""
    return 4 * math.sqrt(share * (1 - share) / SIMULATED)


def test_no_difference_is_seldom_called_one():
    """5% two-sided, so 2.5% in the direction of the claim, and a tenth of that with ten claims."""
    assert rate("seen here", 0.0) <= 0.025 + bound(0.025)
    assert rate("seen here", 0.0, claims=10) <= 0.0025 + bound(0.0025)


def test_a_method_that_is_worse_is_never_seen_as_better():
    assert rate("seen here", -0.05) == 0
    assert rate("not seen here", -0.1) > 0.95


def test_what_runs_would_notice_is_noticed_as_often_as_said():
    """The size is computed from the true standard error. Such an effect must be found at least as
    often as stated, up to the approximation.
    """
    size = 0.02 / math.sqrt(5) * (t_quantile(4) + t_quantile(4, 2 * POWER - 1))
    found = rate("seen here", size, smallest=1e-6)
    assert POWER - 0.05 <= found <= POWER + 0.12


@pytest.mark.parametrize("not_worse", [False, True])
@pytest.mark.parametrize("smallest", [0.01, 0.05])
def test_what_runs_would_notice_decides_the_claim_as_often_as_said(smallest, not_worse):
    """Whether the smallest difference that counts is below or above what five seeds can tell."""
    half = 0.02 / math.sqrt(5) * t_quantile(4)
    size = 0.02 / math.sqrt(5) * t_quantile(4, 2 * POWER - 1)
    size += smallest + half if not_worse else max(smallest, half)
    word, effect = ("not seen here", -size) if not_worse else ("seen here", size)
    found = rate(word, effect, smallest=smallest, not_worse=not_worse)
    assert POWER - 0.05 <= found <= POWER + 0.12


@pytest.mark.parametrize("way", [{}, {"less": True}, {"not_worse": True}])
def test_what_runs_cannot_tell_is_smaller_than_what_they_would_notice(way):
    """Of a claim of a difference and of a loss that is allowed, in both directions."""
    rng, met = np.random.default_rng(3), 0
    for _ in range(SIMULATED):
        b = dict.fromkeys(range(5), 0.6)
        a = {seed: 0.6 + rng.normal(rng.choice([-0.03, 0, 0.03]), 0.02) for seed in b}
        for smallest in (0.005, 0.02, 0.04):
            found = verdict(a, b, wanted=5, smallest=smallest, **way)
            if found.word == "cannot tell":
                met += 1
                far = -found.effect if found.not_worse else abs(found.effect)
                assert far < found.notices
    assert met > SIMULATED / 4


def test_a_loss_that_may_be_too_large_is_told_with_the_loss_that_is_allowed():
    """The difference excludes 0, so a size that is noticed beside it must be about the loss."""
    a = {seed: 0.572 + 0.005 * (seed - 2) for seed in range(5)}
    found = verdict(a, dict.fromkeys(a, 0.6), wanted=5, smallest=0.02, not_worse=True, claims=9)
    assert found.high < 0 and found.notices == pytest.approx(0.02 + 0.01922 + 0.00333, abs=1e-4)
    assert found.text == (
        "cannot tell (a loss is seen; one of 0.02 is allowed; these runs would notice 0.043 or"
        " more)"
    )


def test_less_turns_the_claim_round():
    assert rate("seen here", -0.1, less=True) > 0.95
    assert rate("not seen here", 0.1, less=True) > 0.95


def test_not_worse_needs_an_interval_above_the_margin():
    assert rate("seen here", 0.0, sd=0.005, smallest=0.03, not_worse=True) > 0.95
    assert rate("seen here", -0.03, sd=0.01, smallest=0.03, not_worse=True) <= 0.025 + bound(0.025)
    assert rate("not seen here", -0.1, sd=0.01, smallest=0.03, not_worse=True) > 0.95


def test_a_small_true_difference_is_not_called_one_that_counts():
    """The difference is certainly there, but too small to count."""
    assert rate("not seen here", 0.005, sd=1e-4, smallest=0.01) == 1


def test_no_room_above_is_a_ceiling():
    b = {seed: 0.995 for seed in range(5)}
    a = {seed: 0.996 + 0.0001 * seed for seed in range(5)}
    assert verdict(a, b, wanted=5, smallest=0.01, top=1.0).word == "cannot tell (ceiling)"
    assert verdict(a, b, wanted=5, smallest=0.01).word == "not seen here"
    assert verdict(a, b, wanted=5, smallest=0.01, less=True, top=1.0).word == "not seen here"


@pytest.mark.parametrize("have", [0, 1, 2, 4])
def test_fewer_seeds_than_wanted_decide_nothing(have):
    a = {seed: 0.9 for seed in range(have)}
    found = verdict(a, {seed: 0.1 for seed in range(9)}, wanted=5, smallest=0.01)
    assert found.text == f"not decided ({have} of 5 seeds)"


def test_two_seeds_decide_nothing_even_if_no_more_were_wanted():
    a, b = {0: 0.9, 1: 0.91}, {0: 0.1, 1: 0.1}
    assert verdict(a, b, wanted=2, smallest=0.01).word == "not decided"


def test_one_method_against_itself_is_never_a_difference_of_methods():
    """Two random halves of the seeds of one method: a difference is found no more often than chance
    allows, with the correction for many claims.
    """
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(SIMULATED):
        every = rng.normal(0.56, 0.1, 10)
        found = verdict(
            dict(enumerate(every[:5])),
            dict(enumerate(every[5:])),
            wanted=5,
            smallest=0.01,
            claims=20,
        )
        seen += found.word == "seen here"
    assert seen / SIMULATED <= 0.00125 + bound(0.00125)


def test_what_is_no_number_and_no_margin_are_refused():
    with pytest.raises(UserError, match="no number"):
        verdict({0: math.nan, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 1}, wanted=3, smallest=0.01)
    with pytest.raises(UserError, match="above 0"):
        verdict({}, {}, wanted=3, smallest=0.0)
