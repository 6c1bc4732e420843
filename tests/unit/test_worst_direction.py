"""Tests the first screens of the Loss page: every point is the network's output there, and the
sentences state what was measured.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from robustviz import cli, probes
from robustviz.attacks import PGD
from robustviz.nets import frozen
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.views.loss.result import WorstDirection, WorstDirectionSpec, first_screen
from robustviz.views.loss.screen_figures import (
    COLOURS,
    SHARES,
    alignment,
    bands,
    enlarged,
    positions,
    verdict,
    worst_direction,
    zero_line,
)
from robustviz.views.measure import image_of, net_of
from robustviz.views.screen import Screen, page, wordy
from tests.aligned import aligned, origin

ALIGNED = aligned().id
BEFORE, WITNESS = origin(aligned())
SPEC = WorstDirectionSpec(index=3, grid=7)


@pytest.fixture
def run(runs_home):
    return folder.open_run(ALIGNED)


def logits(run: folder.Run, x: torch.Tensor) -> torch.Tensor:
    net = net_of(run)
    with frozen(net), torch.no_grad():
        return net(x)


def test_every_point_is_what_the_network_answers_to_the_picture_shown(run) -> None:
    found = probes.worst_direction(run, SPEC)
    x = torch.from_numpy(found.x / np.float32(255))
    d = torch.from_numpy(found.d / np.float32(127))
    r = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)).float() * 2 - 1
    for i, a in enumerate(found.a):
        for j, b in enumerate(found.b):
            z = logits(run, (x + float(a) * d + float(b) * r).clamp(0, 1)[None])
            loss = float(F.cross_entropy(z, torch.tensor([found.y])))
            assert np.logaddexp(0, found.odds[i, j]) == pytest.approx(loss, rel=0.01, abs=1e-4)
            right = int(z.argmax()) == found.y
            assert (found.margin[i, j] > 0) == right or abs(found.margin[i, j]) < 0.01
    for level in (0, 20, len(found.line) - 1):
        shown = torch.from_numpy(found.picture(level)).float()[None]
        z = logits(run, shown).log_softmax(1)[0].numpy()
        assert found.line[level] == pytest.approx(z, abs=1e-3)
        assert found.answers[level] == z.argmax()
    assert len(found.line) == 77, "digits: 0 to twice 38.25 grey levels"


@pytest.mark.long
def test_the_direction_is_the_networks_own_unless_another_is_named(run) -> None:
    found = probes.worst_direction(run, SPEC)
    _, x, y = image_of(run, 3)
    x_adv = PGD(eps=run.eps, start="zero", steps=20)(net_of(run), x, y)
    assert found.d / 127 * run.eps == pytest.approx((x_adv - x)[0].numpy(), abs=run.eps / 127)
    assert found.meta["reference"] == run.id and not found.label.size and not found.logp.size
    other = probes.worst_direction(
        run, dataclasses.replace(SPEC, reference=BEFORE, witness=WITNESS)
    )
    assert other.meta["reference"] == BEFORE and not np.array_equal(other.d, found.d)
    assert other.meta["weights"] == run.weights
    third = len(found.a) // 3
    assert found.a[third] == 0 and found.b[len(found.b) // 2] == pytest.approx(0, abs=1e-7)
    assert found.a[-1] == pytest.approx(2 * run.eps) and found.a[0] == pytest.approx(-run.eps)
    names = {
        probes.worst_direction.name(run, dataclasses.replace(SPEC, reference=each))
        for each in ("", BEFORE)
    }
    assert len(names) == 2


def test_the_soft_loss_is_the_one_of_the_surfaces(run) -> None:
    found = probes.worst_direction(
        run, dataclasses.replace(SPEC, reference=BEFORE, witness=WITNESS)
    )
    z = logits(run, torch.from_numpy(found.x / np.float32(255))[None])
    wanted = logits(folder.open_run(WITNESS), torch.from_numpy(found.x / np.float32(255))[None])
    for t in (1, 4, 20):
        q, p = F.softmax(wanted[0].double() / t, 0), F.softmax(z[0].double() / t, 0)
        expected = t * t * float((q * (q / p).log()).sum())
        assert found.soft(t)[2, 3] == pytest.approx(expected, rel=0.02, abs=0.01)
    with pytest.raises(UserError, match="no witness"):
        probes.worst_direction(run, SPEC).soft(4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"grid": 21}, "multiple of 6"),
        ({"eps": 0.0}, "ε above 0"),
        ({"index": 99999}, "no image 99999"),
        ({"reference": "no-such-run"}, "no run called"),
        ({"witness": "shapes-standard-small-cnn-s0-67af4565"}, "other images or classes"),
    ],
    ids=str,
)
def test_bad_settings_are_one_sentence(run, settings, says) -> None:
    with pytest.raises(UserError, match=says):
        probes.worst_direction(run, WorstDirectionSpec(**settings))


def test_the_command_writes_a_file_that_reads_back(run, tmp_path) -> None:
    out = tmp_path / "F.npz"
    assert cli.main(["probe", run.id, "worst_direction", "--out", str(out), "--json"]) == 0
    assert WorstDirection.from_npz(out.read_bytes()).y == int(image_of(run, 0)[2])
    assert len(out.read_bytes()) < 12_000, "a dozen images of four networks are shipped"


# Drawings and sentences.


def made(change: int | None, name: str = "A x", y: int = 0) -> WorstDirection:
    """Returns a result of a network with two classes whose prediction changes at grey level
    `change`; ε is 8/255.
    """
    a = np.arange(-8, 17) / 255
    odds = np.repeat(((a * 255) - (99 if change is None else change - 0.5))[:, None], 25, 1)
    levels = np.arange(17) - (99 if change is None else change - 0.5)
    right = -np.logaddexp(0, levels)
    line = np.stack([right, -np.logaddexp(0, -levels)], 1)
    return WorstDirection(
        x=np.full((3, 4, 4), 100, np.uint8),
        d=np.full((3, 4, 4), 127, np.int8),
        a=a,
        b=a - 4 / 255,
        odds=odds,
        margin=-odds,
        logp=np.stack([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)], 2),
        line=line,
        label=np.log([0.75, 0.25]),
        y=y,
        eps=8 / 255,
        meta={"run": "r", "classes": ["cat", "<dog>"], "index": 7, "seed": 0},
    )


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (2, 9, "A's prediction changes at 2 grey levels; B's prediction changes at 9, each in"),
        (
            2,
            None,
            "A's prediction changes at 2 grey levels; B's prediction stays right up to 16, the end"
            " of the picture",
        ),
        (
            None,
            None,
            "A's prediction stays right up to 16 grey levels, the end of the picture; B's"
            " prediction stays right up to 16",
        ),
        (
            0,
            9,
            "A misclassifies the untouched image; B's prediction changes at 9 grey levels in its",
        ),
        (0, 0, "A misclassifies the untouched image; B misclassifies the untouched image."),
    ],
)
def test_the_verdict_is_what_was_measured(a, b, says) -> None:
    said = verdict({"A x": made(a), "B y": made(b)})
    assert said.startswith(says) and not wordy(said)
    assert made(a).change == a


def test_one_network_alone() -> None:
    assert (
        verdict({"A x": made(3)})
        == "A's prediction changes at 3 grey levels in its worst direction."
    )


def moved(screen: Screen, name: str) -> list[str]:
    return list(screen.moves[name][1])


def sound(screen: Screen) -> None:
    """Checks that every moving part is in the picture and has a value at every position of the
    slider, and that no sentence is too long.
    """
    assert screen.control is not None
    named = set(" ".join(re.findall(r'data-move="([^"]+)"', screen.picture)).split())
    assert set(screen.moves) <= named
    for _, values in screen.moves.values():
        assert len(values) == len(screen.control.values)
    assert len(screen.answer) in (1, len(screen.control.values))
    assert [each for text in (*screen.answer, *screen.sure) for each in wordy(text)] == []
    assert "<dog>" not in screen.picture and "&lt;dog&gt;" in screen.picture
    assert b"</script><" not in page(screen, "</script><b>")


def test_the_dot_walks_and_the_picture_and_the_answer_follow() -> None:
    screen = worst_direction({"A x": made(3), "B y": made(None)})
    sound(screen)
    assert list(screen.control.values) == [str(level) for level in range(17)]
    assert screen.control.values[screen.control.start] == "8"
    assert moved(screen, "a-below")[2] == "✓ cat, 62%" and "✗ <dog>" in moved(screen, "a-below")[3]
    along = np.diff(np.array(moved(screen, "a-cx"), float))
    assert (along > 0).all() and np.ptp(along) < 0.05, "even steps to the right"
    source = moved(screen, "a-src")[5]
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as shown:
        assert shown.size == (4, 4) and shown.convert("RGB").getpixel((0, 0)) == (105, 105, 105)
    assert screen.picture.count("<image ") == 2 and "<path" in screen.picture


def test_positions_are_few_and_name_grey_levels() -> None:
    assert positions(8 / 255) == list(range(17)) and positions(0.15) == list(range(77))
    assert len(positions(0.5)) <= 80 and positions(0.5)[1] == 4


def test_colours_are_intervals_of_the_share() -> None:
    odds = np.log((1 - SHARES) / SHARES)
    values = np.r_[odds - 1e-3, odds[-1] + 1]
    for value, colour in zip(values, COLOURS, strict=True):
        with Image.open(io.BytesIO(bands(np.full((7, 7), value), odds, 9))) as drawn:
            pixel = drawn.convert("RGB").getpixel((4, 4))
        assert "#{:02X}{:02X}{:02X}".format(*pixel) == colour
    # The values grow along a, which is drawn to the right.
    slope = np.repeat(np.arange(7.0)[:, None], 7, 1)
    with Image.open(io.BytesIO(bands(slope, np.arange(9) - 2.5, 70))) as drawn:
        row = [drawn.getpixel((at, 35)) for at in range(70)]
    assert row == sorted(row) and len(set(row)) == 7
    assert enlarged(slope, 13)[::2, ::2] == pytest.approx(slope, abs=1e-5)


def test_the_line_is_where_values_cross_zero() -> None:
    i, j = np.indices((5, 6)).astype(float)
    line = zero_line(i - 0.5 * j - 1.25)
    assert len(line) and np.allclose(line[..., 0] - 0.5 * line[..., 1] - 1.25, 0)
    assert line[..., 1].min() == 0 and line[..., 1].max() == 5, "from edge to edge"
    assert not len(zero_line(np.ones((3, 3)))) and len(zero_line(i - 1)), "on a node"


def test_what_an_alignment_changed_is_said_at_every_temperature() -> None:
    before, after = made(3), dataclasses.replace(made(6), meta=made(6).meta)
    screen = alignment(before, after)
    sound(screen)
    assert list(screen.control.values) == [str(t) for t in range(1, 21)]
    middle = before.odds[8, 12], after.odds[8, 12]
    one, two = (f"{np.logaddexp(0, float(each)):.2f}" for each in middle)
    assert f"The loss to the true class fell from {one} to {two}." in screen.answer[3]
    soft = [f"{result.soft(4)[8, 12]:.2f}" for result in (before, after)]
    assert f"rose from {soft[0]} to {soft[1]} at this image." in screen.answer[3]
    assert len({*screen.answer}) > 10 and "control" not in screen.answer[0]
    assert moved(screen, "share-0")[0] == "75%" and moved(screen, "share-0")[19] == "51%"
    same = alignment(before, before, control="the true classes")
    assert "stayed at" in same.answer[0] and "it learned the true classes" in same.answer[0]


def test_the_first_screen_asks_little() -> None:
    (spec,) = first_screen(5, 8 / 255)
    assert spec == WorstDirectionSpec(index=5, eps=8 / 255)
