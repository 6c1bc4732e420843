"""Tests the first screen of Features: its sentence is counted in feature space, its points move and
are hollow where the network misclassifies them, and its pictures show the images.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from robustviz import open_run, probes
from robustviz.stats import tango
from robustviz.views.features import film_screen, screen
from robustviz.views.features.result import (
    TENTHS,
    FeatureFilm,
    FeatureFilmSpec,
    FeatureMapSpec,
    FeaturesSpec,
    FeatureTilesSpec,
    first_screen,
)
from robustviz.views.measure import images_of, net_of
from robustviz.views.misalignment.result import MisalignmentSpec, first_screen as causes
from robustviz.views.screen import wordy
from robustviz.views.theme import CLASSES
from tests.pages.conftest import ordinary

SPEC = FeatureMapSpec(n=60, steps=4, projection="pca")


@pytest.fixture(scope="module")
def sides() -> list[screen.Side]:
    return [
        screen.Side(
            side,
            f"{side.upper()} {key}",
            probes.feature_map(ordinary("digits", key), SPEC),
            probes.feature_tiles(ordinary("digits", key), SPEC.alike(FeatureTilesSpec)),
        )
        for side, key in (("a", "standard"), ("b", "pgd_at"))
    ]


def test_the_line_counts_in_feature_space_what_an_independent_count_does(sides) -> None:
    kept = []
    for key in ("standard", "pgd_at"):
        seen = probes.features(ordinary("digits", key), SPEC.alike(FeaturesSpec))
        centres = np.stack([seen.clean[seen.y == c].mean(0) for c in range(10)])
        to = seen.adversarial @ centres.T / np.linalg.norm(centres, axis=1)
        kept.append(to.argmax(1) == seen.y)
    a, b = (int(each.sum()) for each in kept)
    low, _ = tango(int((kept[1] & ~kept[0]).sum()), int((kept[0] & ~kept[1]).sum()), 60)
    found = screen.verdict(sides)
    assert low > 0 and found.line == (
        f"With B, {b} of 60 attacked images stay nearest to their own class, with A only {a}."
    )
    same = screen.verdict([sides[0], sides[0]._replace(side="b")])
    assert same.line.startswith("No difference shown: with A,") and not same.winner
    alone = screen.verdict(sides[:1])
    assert alone.line == f"With A, {a} of 60 attacked images stay nearest to their own class."
    drawn = screen.first(sides, 3)
    for text in (*drawn.answer, *drawn.sure, same.line, alone.line):
        assert not wordy(text), text
    assert any("PGD-4" in text for text in drawn.sure)


def test_a_point_is_hollow_from_the_tenth_on_that_misreads_it(sides) -> None:
    run, tiles = ordinary("digits", "standard"), sides[0].tiles
    seen = probes.feature_tiles(run, SPEC.alike(FeatureTilesSpec))
    x = images_of(run).take(torch.arange(60)).x
    assert tiles is not None and np.array_equal(seen.lost, tiles.lost)
    pictures = torch.from_numpy(seen.images())[:, :1]
    # Small images such as digits are stored exactly, up to rounding to multiples of 1/255.
    assert float((pictures[:60] - x).abs().max()) <= 0.5 / 255 + 1e-6
    x_adv = pictures[60:]
    with torch.no_grad():
        wrong = torch.stack(
            [
                net_of(run)(x + (x_adv - x) * tenth / TENTHS).argmax(1) != torch.from_numpy(seen.y)
                for tenth in range(TENTHS + 1)
            ]
        ).numpy()
    said = np.arange(TENTHS + 1)[:, None] >= seen.lost
    # The attacked images are rounded to multiples of 1/255, which changes the prediction for a few.
    assert (wrong & said).sum() >= 0.97 * said.sum() and np.array_equal(said[-1], wrong[-1])
    drawn = screen.first(sides, 3)
    counts = drawn.moves["count-a"][1]
    assert counts[-1] == f"{int((seen.pred_adv == seen.y).sum())} of 60 classified correctly"
    assert (
        counts[0] == f"{int((seen.lost > 0).sum())} of 60 classified correctly"
        and len(counts) == 11
    )
    assert drawn.picture.count('class="f"') == sum(
        int((side.tiles.lost <= TENTHS).sum()) for side in sides if side.tiles
    )


def test_neighbours_are_the_nearest_others_by_cosine(sides) -> None:
    seen = probes.features(ordinary("digits", "pgd_at"), SPEC.alike(FeaturesSpec))
    tiles = sides[1].tiles
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (seen.clean, seen.adversarial)]
    for near, z in zip((tiles.near, tiles.near_adv), unit, strict=True):
        to = z @ unit[0].T
        np.fill_diagonal(to, -2)
        assert np.array_equal(np.sort(near, axis=1), np.sort(np.argsort(-to, axis=1)[:, :5], 1))


def test_every_image_is_a_mark_that_can_be_reached_clicked_and_pictured(sides) -> None:
    drawn = screen.first(sides, 3)
    assert sorted(
        map(int, re.findall(r'class="pt"[^>]*data-click="(\d+)"', drawn.picture))
    ) == sorted([*range(60)] * 2)
    assert drawn.picture.count('tabindex="0"') == 2 and drawn.picture.count("data-rove") == 2
    assert set(re.findall(r'fill="(#\w+)"', drawn.picture)) == set(CLASSES["robustviz_light"])
    dark = screen.first(sides, 3, "robustviz_dark").picture
    assert set(re.findall(r'fill="(#\w+)"', dark)) == set(CLASSES["robustviz_dark"])
    # A fooled image keeps its class's colour and shape: a hollow mark covers the full one.
    both = r'<path d="([^"]+)" stroke="var\(--paper\)"[^>]*><g class="f"[^>]*><path d="([^"]+)"'
    full = re.findall(rf'fill="(#\w+)" tabindex[^>]*>{both} stroke="([^"]+)"', drawn.picture)
    assert full and all((a, b) == (d, c) for a, b, c, d in full)
    # The marked image moves together with its point.
    style = re.search(r'style="([^"]*)"[^>]*data-click="3"', drawn.picture)
    assert style and style[1] in drawn.moves["mark-a"][1][0]
    assert drawn.moves["near-b"][1][0].count("<button") == 10
    absent = screen.first(sides, 300)
    assert absent.picture == drawn.picture, "the maps would be built anew"
    assert "Image 300 is not among the 60 images of this map" in absent.moves["near-a"][1][0]
    bare = screen.first([side._replace(tiles=None) for side in sides], 3)
    assert "data-tiles" not in bare.picture and len(bare.moves["count-a"][1]) == 11


def test_what_is_asked_first_fits_the_settings_at_their_defaults() -> None:
    asked, pictured = first_screen(7, 0.1)
    assert asked == FeatureMapSpec(projection="umap")
    assert pictured == FeatureTilesSpec() and causes(7, 0.1) == (
        FeatureMapSpec().alike(MisalignmentSpec),
    )


@pytest.mark.long
def test_the_films_slider_moves_both_networks_and_says_who_is_right() -> None:
    films = {
        f"{side} {key}": probes.feature_film.answer(
            open_run(ordinary("digits", key).path), FeatureFilmSpec(n=30, steps=2)
        )
        for side, key in (("A", "standard"), ("B", "pgd_at"))
    }
    drawn = film_screen.film(films)
    control, (a, b) = drawn.control, films.values()
    assert control and [int(value) for value in control.values] == sorted({*a.epochs, *b.epochs})
    assert control.key == "map-epoch" and control.start == len(control.values) - 1
    right = [int((film.pred_adv[-1] == film.y).sum()) for film in (a, b)]
    assert drawn.answer[-1] == (
        f"Epoch {a.epochs[-1]}, attacked images classified correctly: A: {right[0]} of 30, B:"
        f" {right[1]} of 30."
    )
    assert not any(wordy(text) for text in (*drawn.answer, *drawn.sure))
    names = {
        name for each in re.findall(r'data-move="([^"]*)"', drawn.picture) for name in each.split()
    }
    assert names == set(drawn.moves)
    assert all(len(values) == len(control.values) for _, values in drawn.moves.values())


def test_of_many_classes_a_film_draws_all_points() -> None:
    """Only classes with fooled images have colours of their own; the others are grey."""
    rng, y = np.random.default_rng(0), np.arange(24) % 12
    said = np.where(np.arange(24) < 2, (y + 1) % 12, y)[None]
    points, empty = rng.random((1, 24, 2)), np.zeros((1, 3))
    meta = {"classes": [f"c{at}" for at in range(12)], "run": "r", "attack": {"key": "pgd"}}
    found = FeatureFilm(
        y=y,
        index=np.arange(24),
        pred=y[None],
        pred_adv=said,
        epochs=np.array([1]),
        clean=points,
        adversarial=points + 0.01,
        own=empty,
        other=empty,
        moved=empty[:, :2],
        meta=meta | {"n": 24, "seed": 0, "eps": 0.1, "data": "x", "projection": "centres"},
    )
    drawn = film_screen.film({"A": found})
    marks = {name: "".join(values) for name, (kind, values) in drawn.moves.items() if kind == "d"}
    assert sum(path.count("h0") for path in marks.values()) == 24
    assert sum(path.count("m-4-4") for path in marks.values()) == 24
    assert marks["dots-others-a"].count("h0") == 20


def test_a_film_names_the_epoch_of_each_map_and_shows_none_before_the_first() -> None:
    a = probes.feature_film.answer(
        open_run(ordinary("digits", "standard").path), FeatureFilmSpec(n=30, steps=2)
    )
    kept = [2, 5]  # B is A with the stored weights of only these epochs.
    late = {
        name: getattr(a, name)[kept]
        for name in ("clean", "adversarial", "pred", "pred_adv", "own", "other", "moved")
    }
    b = dataclasses.replace(a, epochs=a.epochs[kept], **late)
    drawn = film_screen.film({"A": a, "B": b})
    epochs, right = list(a.epochs), (a.pred_adv == a.y).sum(axis=1)
    said = [f"Epoch {epoch}, attacked images classified correctly: A: " for epoch in epochs]
    assert all(text.startswith(start) for text, start in zip(drawn.answer, said, strict=True))
    assert drawn.answer[1] == f"{said[1]}{right[1]} of 30. B kept no weights up to this epoch."
    assert drawn.answer[2] == f"{said[2]}{right[2]} of 30, B: {right[2]} of 30."
    assert drawn.answer[4] == (
        f"{said[4]}{right[4]} of 30. B at its epoch {epochs[2]}: {right[2]} of 30."
    )
    assert not any(wordy(text) for text in drawn.answer)
    nothing = "no weights kept yet"
    assert list(drawn.moves["when-b"][1]) == [
        *[nothing] * 2,
        *[f"epoch {epochs[2]}"] * 3,
        *[f"epoch {epochs[5]}"] * (len(epochs) - 5),
    ]
    assert list(drawn.moves["when-a"][1]) == [f"epoch {epoch}" for epoch in epochs]
    shapes = [
        values for name, (kind, values) in drawn.moves.items() if kind == "d" and "-b" in name
    ]
    assert not any(any(values[:2]) for values in shapes) and shapes[0][2]
