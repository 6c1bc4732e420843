"""Tests the first screen of the Attention page: its maps are those of the probes, its sentences are
true in every case, and its pictures show the data.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from robustviz import cam, probes
from robustviz.probes import AdversarialSpec, AttentionSpec, OverlapSpec, PaintedSpec
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.views.attention import overlay
from robustviz.views.attention.result import (
    AttentionLevels,
    AttentionLevelsSpec,
    first_screen,
    levels_of,
)
from robustviz.views.measure import image_of, measure, net_of
from robustviz.views.screen import Control, wordy


def shipped(data: str, method: str) -> folder.Run:
    return next(
        run
        for run in folder.all_runs()
        if run.shipped
        and not unusual(run)
        and (run.data_key, run.method_key, run.architecture) == (data, method, "small_resnet")
        and run.info["seed"] == 0
    )


@pytest.fixture
def both(runs_home) -> dict[str, AttentionLevels]:
    return {
        name: measure(run := shipped("shapes", key), AttentionLevelsSpec(22, eps=run.eps))
        for name, key in (("A Standard", "standard"), ("B PGD-AT", "pgd_at"))
    }


def slider(result: AttentionLevels) -> Control:
    return Control("ε", [str(level) for level in result.levels], result.usual, "eps")


@pytest.mark.parametrize("grey", [1, 3, 8, 9, 17, 38, 77, 200, 255])
def test_levels_are_whole_few_and_the_radius_is_among_them(grey) -> None:
    levels = levels_of(grey / 255)
    assert levels[0] == 0 and grey in levels and len(levels) <= 17
    assert levels == sorted(set(levels)) and levels[-1] <= min(2 * grey, 255)


@pytest.mark.long
def test_each_level_is_the_attack_of_that_radius_alone(both) -> None:
    for name, result in both.items():
        run = shipped("shapes", "standard" if name[0] == "A" else "pgd_at")
        _, x, y = image_of(run, 22)
        for at in (0, 3, result.usual, 16):
            eps = int(result.levels[at]) / 255
            one = probes.adversarial(run, AdversarialSpec(22, eps=eps))
            assert np.allclose(result.probs[at], one.probs_adv, atol=2e-3)
            assert np.abs(result.picture(at) - one.x_adv).max() <= 1.5 / 255
            whole = torch.from_numpy(one.x_adv)[None]
            assert np.allclose(result.heat[at], cam.grad_cam(net_of(run), whole, y)[0], atol=1e-2)
        assert np.allclose(result.picture(0), x[0].numpy()) and not result.change[0].any()
        assert np.abs(result.change).max() <= result.levels[-1]


@pytest.mark.long
def test_one_claim_has_one_number(both) -> None:
    """The prediction at the run's ε is the same on this screen, on the maps below, and where a
    person paints.
    """
    result, run = both["A Standard"], shipped("shapes", "standard")
    maps = probes.attention(run, AttentionSpec(22, eps=run.eps, steps=10, controls=1))
    painted = probes.painted(run, PaintedSpec(22, eps=run.eps, steps=10))
    everywhere = probes.painted(run, PaintedSpec(22, mask="all", eps=run.eps, steps=10))
    printed = {
        f"{int(probs.argmax())} {probs.max():.0%}"
        for probs in (
            result.probs[result.usual],
            maps.probs_adv,
            painted.probs_full,
            everywhere.probs_adv,
        )
    }
    assert len(printed) == 1 and np.array_equal(maps.x_adv, painted.x_full)


@pytest.mark.long
def test_the_hottest_spot_is_that_of_the_pointing_game(runs_home) -> None:
    run = shipped("shapes", "pgd_at")
    many = probes.overlap.answer(run, OverlapSpec(n=12, steps=10))
    for index in range(12):
        one = measure(run, AttentionLevelsSpec(index, eps=run.eps))
        assert one.on[0] == pytest.approx(many.pointing[0, index])


def changed(result: AttentionLevels, was: float, now: float, known: bool = True):
    """Returns the result with the hottest spots on the object (1), beside it (0) or nowhere
    (NaN).
    """
    on = np.full(len(result.levels), float(now))
    on[0] = was
    spots = np.zeros((len(on), 2)) + np.where(np.isnan(on), np.nan, 5)[:, None]
    spots[0] -= 0 if was == now else 3
    shown = result.object if known else np.zeros((0, 0), bool)
    return dataclasses.replace(result, on=on, hottest=spots, object=shown)


@pytest.mark.long
@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ((1, 0), (1, 1), "A's hottest spot leaves the object under attack; B's stays on it."),
        ((0, 1), (0, 0), "hottest spot moves onto the object under attack; B's stays beside it."),
        ((1, 1), (1, 1), "On this image, both hottest spots stay on the object; A's"),
        ((0, 0), (0, 0), "both hottest spots stay beside the object; A's"),
        ((1, 0), (1, 0), "both hottest spots leave the object; A's"),
        ((1, np.nan), (1, 1), "A's hottest spot vanishes under attack; B's stays on it."),
        ((np.nan, np.nan), (np.nan, 1), "is nowhere under attack; B's appears on it."),
    ],
)  # fmt: skip
def test_the_answer_says_what_the_spots_do(both, a, b, says) -> None:
    first, second = both.values()
    case = {"A Standard": changed(first, *a), "B PGD-AT": changed(second, *b)}
    said = [overlay.answer(case, at) for at in range(17)]
    assert says in said[8] and not any(map(wordy, said))
    assert said[0].startswith("Untouched, ") and "attack" not in said[0]
    alone = overlay.answer({"A Standard": case["A Standard"]}, 8)
    assert alone.startswith("On this image, A's hottest spot") and "B" not in alone
    if a == b:  # of what, too
        assert re.search(
            r"A's (fades|grows) to \d+% of its untouched value, B's .*to \d+%", said[8]
        )


def test_a_spot_that_goes_from_one_place_beside_the_object_to_another_does_not_stay(both):
    first, second = both.values()
    far = changed(first, 0, 0)
    far.hottest[8] += (0, 9)  # 9 pixels are more than one cell of 8 pixels.
    said = overlay.answer({"A Standard": far, "B PGD-AT": changed(second, 0, 0)}, 8)
    assert "A's hottest spot moves elsewhere beside the object under attack; B's stays" in said
    assert not wordy(said)


def test_where_no_object_is_known_it_says_how_far_the_spot_moves(both) -> None:
    first, second = both.values()
    case = {"A Standard": changed(first, 1, 0, False), "B PGD-AT": changed(second, 1, 1, False)}
    assert "A's hottest spot moves by 4 pixels under attack; B's stays in place." in overlay.answer(
        case, 8
    )
    assert (
        overlay.answer(case, 0)
        == "ε is 0, so the image is unchanged: move the slider to attack it."
    )
    screen = overlay.screen(case, slider(first))
    assert "outline" not in screen.picture and "only for the data set shapes" in " ".join(
        screen.sure
    )


@pytest.mark.long
def test_every_sentence_of_the_screen_is_short(both) -> None:
    many = {
        name: probes.overlap.answer(shipped("shapes", key), OverlapSpec(n=8, steps=2))
        for name, key in (("A Standard", "standard"), ("B PGD-AT", "pgd_at"))
    }
    for known, draw in itertools.product(({}, many), ("smooth", "cells", "alone")):
        screen = overlay.screen(both, slider(both["A Standard"]), many=known, draw=draw)
        texts = [*screen.answer, *screen.sure, re.sub(r"<style>.*?</style>", "", screen.picture)]
        assert not [bad for text in texts[:-1] for bad in wordy(text)]
        assert "nan" not in " ".join(texts[:-1]).lower()
        assert all(len(values) == 17 for _, values in screen.moves.values())
        assert set(re.findall(r'data-move="([^"]+)"', screen.picture)) == {
            f"{side}-{part}" for side in "ab" for part in ("image", "map", "said")
        } - ({"a-image", "b-image"} if draw == "alone" else set()) | {
            f"{side}-spot {side}-seen" for side in "ab"
        }
    assert "8 test images" in screen.sure[0] and "95%" in screen.sure[1]


def decoded(address: str) -> np.ndarray:
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_a_map_is_red_above_0_teal_below_and_clear_between(both) -> None:
    heat = np.array([[1.0, 0.0, -1.0], [0.5, 0.001, -3.0]])
    picture = decoded(overlay.uri(overlay.tinted(heat, 1.0)))
    assert picture.shape == (2, 3, 4)
    assert tuple(picture[0, 0, :3]) == overlay.FOR == tuple(picture[1, 0, :3])
    assert tuple(picture[0, 2, :3]) == overlay.AGAINST
    assert picture[0, 1, 3] == picture[1, 1, 3] == 0
    assert 0 < picture[1, 0, 3] < picture[0, 0, 3] == picture[0, 2, 3] == picture[1, 2, 3]
    screen = overlay.screen(both, slider(both["A Standard"]))
    first = decoded(screen.moves["a-map"][1][0])
    assert first.shape == (32, 32, 4)
    cells = overlay.screen(both, slider(both["A Standard"]), draw="cells")
    assert decoded(cells.moves["a-map"][1][0]).shape[:2] == both["A Standard"].heat.shape[1:]
    whole = sum(len(value) for _, values in screen.moves.values() for value in values)
    assert whole + len(screen.picture) < 300 * 1024


def test_enlarging_keeps_constants_and_slopes_and_the_hottest_place(both) -> None:
    assert np.allclose(overlay.enlarged(np.full((4, 3), 2.0), 32, 30), 2)
    slope = overlay.enlarged(np.tile(np.arange(4.0), (4, 1)), 32, 32)[0]
    assert np.allclose(np.diff(slope[12:20]), 1 / 8)
    for result in both.values():  # The ring is within one cell of the reddest pixel.
        for heat, spot in zip(result.heat, result.hottest, strict=True):
            peak = np.unravel_index(overlay.enlarged(heat, 32, 32).argmax(), (32, 32))
            assert np.hypot(*(spot - peak)) <= 8


def test_the_outline_goes_round_the_object(both) -> None:
    assert overlay._outline(np.zeros((0, 0), bool)) == ""
    one = np.zeros((3, 4), bool)
    one[1, 2] = True
    assert sorted(overlay._outline(one).split("M")[1:]) == ["2 1h1", "2 1v1", "2 2h1", "3 1v1"]


def test_it_asks_what_the_page_asks_and_needs_no_torch(both) -> None:
    run = shipped("shapes", "standard")
    assert first_screen(22, run.eps) == (AttentionLevelsSpec(22, eps=run.eps), OverlapSpec())
    packed = both["A Standard"].to_npz()
    assert len(packed) < 24 * 1024
    back = AttentionLevels.from_npz(packed)
    assert np.array_equal(back.picture(8), both["A Standard"].picture(8))
    code = (
        "import sys; import robustviz.views.attention.overlay, robustviz.views.attention.result;"
        "assert not {'torch', 'plotly', 'streamlit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
