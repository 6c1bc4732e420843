"""Tests the cards of a class in order: what may be said about methods, how often that is right, and
which cards are not compared.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

from robustviz.cli import seeds
from robustviz.runs import card
from robustviz.runs.card import Card
from robustviz.views.cards import pile, strips
from robustviz.views.screen import wordy

N = 1000


def made(method: str, seed: int, kept: float, **more: object) -> Card:
    """Returns a card as `card.read` does."""
    number = {
        "attack": "PGD-20",
        "eps": 8 / 255,
        "n": N,
        "right": round(N * kept),
        "seed": 0,
        "split": "test",
        "images": "62a5620a15e5182e",
        "reliable": True,
    }
    number |= {name: more.pop(name) for name in tuple(more) if name in number}
    settings = {
        "data": {"key": "shapes"},
        "method": {"key": method},
        "net": "small_resnet",
        "eps": 8 / 255,
        "epochs": 20,
        "select": "robust",
        "seed": seed,
        **more,
    }
    name = "-".join([method, str(seed), *map(str, more.values())]).replace("_", "-")
    return Card(name, "", "shapes", settings, (number,))  # type: ignore[arg-type]


def only(cards: list[Card]) -> pile.Layer:
    (layer,) = pile.layers(cards)
    return layer


def test_one_method_over_seeds_is_chance_and_nothing_else() -> None:
    layer = only([made("pgd_at", seed, 0.6 + 0.01 * seed) for seed in range(10)])
    assert [row.name for row in layer.rows] == ["PGD-AT"] and not layer.pairs
    assert strips.answer(layer) == (
        "Same settings, 10 seeds: 60.0% to 69.0%. The differences are due to chance."
    )
    mean, low, high = layer.rows[0].interval
    assert mean == pytest.approx(0.645) and low == pytest.approx(
        0.645 - 2.2622 * 0.030277 / 10**0.5, abs=1e-4
    )
    assert high - mean == pytest.approx(mean - low)
    layer = only([made("pgd_at", seed, share) for seed, share in enumerate((0.9, 1.0, 0.99))])
    assert "95% interval 82.7% to 100.0%" in strips.screen([layer]).picture


def test_seeds_of_one_method_never_yield_a_sentence_about_methods() -> None:
    every = [
        card.of(seen.id, seen.config, seen.evaluations)
        for seen in map(seeds.read, sorted(seeds.FOLDER.glob("*.json")))
    ]
    groups: dict[str, list[Card]] = {}
    for one in every:
        groups.setdefault(repr({**one.settings, "seed": 0}), []).append(one)
    tried = 0
    for group in groups.values():
        for layer in pile.layers(group):
            tried += 1
            assert len(layer.rows) == 1 and not layer.pairs
            assert not re.search(r"more (often )?than", strips.answer(layer))
    assert tried > 60


def rate(effect: float, times: int, count: int, spread: float = 0.02) -> float:
    """Returns how often a difference of this size is found between two methods with `count` seeds
    each.
    """
    rng, shown = np.random.default_rng(0), 0
    fixed = [{"method": {"key": key}} for key in ("trades", "pgd_at")]
    for _ in range(times):
        a, b = rng.normal(0.6, spread, count) + effect, rng.normal(0.6, spread, count)
        rows = [
            pile.Row(settings["method"]["key"], settings, dict(enumerate(map(float, kept))))
            for settings, kept in zip(fixed, (a, b), strict=True)
        ]
        shown += pile.compared(*rows).apart
    return shown / times


def test_a_difference_is_shown_as_often_as_its_size_and_the_seeds_allow() -> None:
    assert rate(0.0, 300, 5) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    assert rate(0.0, 300, 3) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    # By the noncentral t distribution, 5 seeds each with means two standard deviations apart are
    # told apart in 79% of cases.
    assert abs(rate(0.04, 300, 5) - 0.79) < 0.08
    assert rate(0.08, 100, 5) == 1.0


def test_methods_need_three_seeds_a_side_and_one_thing_that_differs() -> None:
    few = [made("pgd_at", seed, 0.5 + seed / 100) for seed in range(3)]
    few += [made("trades", seed, 0.9 + seed / 100) for seed in range(2)]
    assert strips.answer(only(few)) == "Methods cannot be compared yet: each needs 3 seeds."
    enough = [*few, made("trades", 7, 0.93)]
    said = strips.answer(only(enough))
    assert said == (
        "TRADES is right on attacked images 40.3 percentage points more often than PGD-AT, over 3"
        " and 3 seeds."
    )
    longer = [made("trades", seed, 0.9 + seed / 100, epochs=30) for seed in range(3)]
    assert strips.answer(only([*few[:3], *longer])) == (
        "Methods cannot be compared: they differ in more than one setting (epochs, method)."
    )
    same = [made("pgd_at", seed, 0.9 + seed / 100, epochs=30) for seed in range(3)]
    layer = only([*few[:3], *same])
    assert [row.name for row in layer.rows] == ["PGD-AT, epochs 30", "PGD-AT, epochs 20"]
    assert strips.answer(layer).startswith("PGD-AT, epochs 30 is right on attacked images 40.0 ")
    method = {"key": "pgd_at", "awp": 0.01, "attack": {"key": "pgd", "steps": 20}}
    both = [made("pgd_at", seed, 0.9 + seed / 100) for seed in range(3)]
    both = [dataclasses.replace(one, settings=one.settings | {"method": method}) for one in both]  # type: ignore[operator]
    assert strips.answer(only([*few[:3], *both])) == (
        "Methods cannot be compared: they differ in more than one setting (method.attack,"
        " method.awp)."
    )
    constant = [made("trades", seed, 0.9) for seed in range(3)]
    assert "their variation is unknown" in strips.answer(only([*few[:3], *constant]))


def test_what_is_not_compared_is_counted_and_not_listed_at_length() -> None:
    cards = [made("pgd_at", seed, 0.5 + seed / 100, epochs=epochs, lr=epochs / 100)
             for epochs in range(1, 5) for seed in range(3)]  # fmt: skip
    layer = only([*cards, made("trades", 0, 0.6), made("mart", 0, 0.6)])
    picture = strips.screen([layer]).picture
    assert "6 pairs are not compared: they differ in more than one setting" in picture
    assert "Rows with fewer than 3 seeds are not compared: 2." in picture
    assert picture.count("<li>") == 2
    assert strips.answer(layer) == (
        "Methods cannot be compared: no two rows differ in exactly one setting."
    )


def test_more_pairs_make_wider_intervals() -> None:
    cards = [
        made(method, seed, 0.5 + at / 10 + seed / 100)
        for at, method in enumerate(("pgd_at", "trades", "mart"))
        for seed in range(4)
    ]
    three, one = only(cards).pairs, only(cards[:8]).pairs
    again = next(pair for pair in three if {pair.a.name, pair.b.name} == {"TRADES", "PGD-AT"})
    assert len(three) == 3 and again.difference == one[0].difference
    assert again.high - again.low > one[0].high - one[0].low
    assert strips.answer(only(cards)) == "A difference is shown for 3 of 3 pairs of rows."


def test_a_training_counts_once_whatever_its_run_is_called() -> None:
    first = made("pgd_at", 0, 0.5)
    other = dataclasses.replace(first, id="another-name")
    layer = only([first, other, made("pgd_at", 1, 0.6)])
    assert layer.cards == 2 and layer.twice == 1
    assert any("counted once: 1." in line for line in strips.screen([layer]).sure)


def test_what_was_measured_otherwise_is_kept_apart() -> None:
    usual = [made("pgd_at", seed, 0.5 + seed / 100) for seed in range(4)]
    apart = [
        made("pgd_at", 4, 0.9, images="0" * 16),
        made("pgd_at", 5, 0.9, **{"eps": 4 / 255}),
        made("pgd_at", 6, 0.9, split="val"),
        made("pgd_at", 7, 0.9, attack="CW-100"),
        dataclasses.replace(made("pgd_at", 8, 0.9), data="mine"),
    ]
    layers = pile.layers([*usual, *apart])
    assert [layer.cards for layer in layers] == [4, 1, 1, 1, 1, 1]
    names = [layer.name for layer in layers]
    assert len({*names}) == 6 and names[0].startswith("shapes, PGD-20 at 8/255, 1000 images")
    screen = strips.screen(layers)
    assert screen.control and list(screen.control.values) == names
    assert "5 other ways of measuring are shown separately: move the control." in screen.sure
    assert "90.0%" not in screen.moves["strips"][1][0]


def test_forty_cards_are_a_picture_of_few_words() -> None:
    rng = np.random.default_rng(1)
    methods = ("pgd_at", "trades", "mart", "fgsm_rs")
    cards = [made(methods[at % 4], at, float(rng.normal(0.6, 0.03))) for at in range(40)]
    layer = only(cards)
    screen = strips.screen([layer])
    assert layer.cards == 40 and screen.control is None and not screen.moves
    # A wide and a small chart, with dots and means.
    assert screen.picture.count("<circle") == 2 * (40 + 4)
    assert len(layer.pairs) == 6 and "pairs of rows" in screen.answer[0]
    assert not [line for line in (*screen.answer, *screen.sure) if wordy(line)]


def test_a_method_that_is_not_here_has_its_key() -> None:
    layer = only([made("of_a_plugin", 0, 0.5)])
    assert layer.rows[0].name == "of_a_plugin" and layer.rows[0].interval[2] == math.inf
    assert strips.answer(layer).startswith("One seed of of_a_plugin says nothing")
    assert "<svg" in strips.screen([layer]).picture
