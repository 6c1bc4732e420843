"""Tests the scoreboard: what it counts, what it compares, and what it says it does not compare."""

from __future__ import annotations

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from robustviz import registry
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.training.ladder import headline
from robustviz.views.compare import board as drawn
from robustviz.views.compare.board import Name
from robustviz.views.compare.scores import Board, board, score
from robustviz.views.screen import COLOURS, wordy
from tests.pages.conftest import ordinary


def shipped(data: str) -> list[Run]:
    return [run for run in folder.all_runs() if run.shipped and run.data_key == data]


def known(data: str) -> Board:
    found = board(shipped(data))
    assert found is not None
    return found


def names(found: Board) -> dict[str, Name]:
    return {key: Name(f"{one.run.method_key} · {key}", key) for key, one in found.scores.items()}


@pytest.mark.parametrize("data", ["shapes", "digits"])
def test_a_network_s_height_is_what_withstood_every_attack_run(data: str) -> None:
    found = known(data)
    assert found.attacks == ("FGSM", "PGD-20", "PGD-100×5", "CW-100", "AutoAttack")
    assert set(found.scores) == {run.id for run in shipped(data)}
    for run_id, one in found.scores.items():
        together = headline(one.run.evaluations(), one.on.eps)
        assert together and found.counted(one, len(found.attacks)) == (together.k, together.n)
        heights = [found.counted(one, at)[0] for at in range(len(found.attacks) + 1)]
        assert heights == sorted(heights, reverse=True), run_id
        plain = one.run.evaluation()
        assert plain and (one.plain.clean_k, one.plain.n) == (plain.clean_k, plain.n)


def test_what_was_attacked_otherwise_is_not_compared_silently() -> None:
    found, (a, b) = known("shapes"), (ordinary("shapes", key).id for key in ("standard", "pgd_at"))
    last = len(found.attacks)
    verdict = found.verdict(a, b, last)
    assert verdict.line == (
        "B is more robust: it is right on 136 of 200 images under all 5 attacks, A on 15."
    )
    assert found.verdict(a, b, 0).line.startswith("No difference shown: A is right on 194 of 200")
    assert found.verdict(a, a, last).line == "A and B are the same network."
    assert found.verdict(a, "", last).line == "A is right on 15 of 200 images under all 5 attacks."
    small = next(run for run in shipped("shapes") if run.method_key == "pgd_at" and run.eps < 0.01)
    assert not found.alike(found.scores[small.id], ("FGSM",))
    assert "A was attacked at 8/255, B at 2/255" in found.verdict(a, small.id, last).line
    sip = ordinary("shapes", "sip_at").id  # This run was never attacked with AutoAttack.
    assert not found.alike(found.scores[sip], found.attacks)
    assert found.alike(found.scores[sip], found.attacks[:-1])
    line = found.verdict(a, sip, last).line
    assert line.endswith(
        "A on 17. Not run on both: AutoAttack. A's mark shows another measurement, 15 of 200."
    )
    assert found.verdict(a, "no-such-run", last).line.startswith("B has not been attacked yet")


def test_a_run_with_the_plain_evaluation_only_has_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network trained here was attacked only with PGD-20 on the whole split, so it is compared on
    that.
    """
    run = ordinary("shapes", "trades")
    plain = run.evaluation()
    whole = Run.evaluations
    monkeypatch.setattr(
        Run, "evaluations", lambda self: [plain] if self.id == run.id else whole(self)
    )
    found, a = known("shapes"), ordinary("shapes", "standard").id
    one = found.scores[run.id]
    assert list(one.steps) == ["PGD-20"] and found.counted(one, 5) == (743, 1000)
    assert not found.alike(one, ("PGD-20",))
    line = found.verdict(a, run.id, 5).line
    assert line.startswith(
        "B is more robust: it is right on 743 of 1,000 attacked images, A on 121."
    )
    assert line.endswith(
        "Only PGD-20 was run on both. A's mark shows another measurement, 15 of 200."
    )
    sure = found.verdict(a, run.id, 5).sure
    assert not [each for each in sure if "epochs" in each]
    monkeypatch.setitem(run.info, "epochs", 3)
    told = "A was trained for 20 epochs, B for 3: that can matter, too."
    assert told in found.verdict(a, run.id, 5).sure
    monkeypatch.setattr(Run, "evaluations", lambda self: [])
    assert board(shipped("shapes")) is None


def test_a_later_evaluation_on_fewer_images_does_not_take_the_place_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ordinary("shapes", "trades")
    plain = run.evaluation()
    assert plain is not None
    few = next(one for one in run.evaluations() if one.printed == "PGD-20" and one.n == 200)
    for every in ([plain, few], [few, plain]):
        monkeypatch.setattr(Run, "evaluations", lambda self, every=every: every)
        found = score(run)
        assert found is not None and found.on.images == plain.images


@pytest.mark.long
@pytest.mark.parametrize("data", ["shapes", "digits"])
def test_every_computed_sentence_is_short(data: str) -> None:
    found = known(data)
    ids = list(found.scores)
    for b in ["", *ids]:
        screen = drawn.first(found, names(found), ids[0], b)
        assert not [wordy(line) for line in (*screen.answer, *screen.sure) if wordy(line)]
        assert len(screen.answer) == len(screen.control.values if screen.control else ()) == 6


def test_the_picture_is_sound_and_each_mark_can_be_reached_and_read() -> None:
    found = known("shapes")
    a, b = (ordinary("shapes", key).id for key in ("standard", "pgd_at"))
    screen = drawn.first(found, names(found), a, b)
    ElementTree.fromstring(f"<div>{screen.picture}</div>")
    asked = set(" ".join(re.findall(r'data-move="([^"]*)"', screen.picture)).split())
    assert asked == set(screen.moves)
    assert all(len(values) == 6 for _, values in screen.moves.values())
    clicks = re.findall(r'data-click="([^"]*)"', screen.picture)
    assert sorted(clicks) == sorted([*found.scores] * 2)  # A wide chart and a narrow one.
    assert screen.picture.count('tabindex="0" role="button"') == len(clicks)
    assert 'aria-hidden="true"><g' not in screen.picture
    assert screen.picture.count(">at 2/255<") == 1


def test_a_card_shows_an_image_that_the_network_loses() -> None:
    found = known("shapes")
    one = found.scores[ordinary("shapes", "standard").id]
    clean, kept = one.right([]), one.right()
    first = int((clean & ~kept).argmax())
    assert drawn.lost(one, range(200)) == first and drawn.lost(one, [*kept.nonzero()[0]]) is None
    assert drawn.lost(one, [5000]) is None  # This image was not attacked.
    ids = list(found.scores)
    images = {at: f"data:image/png;base64,{at}" for at in range(200)}
    screen = drawn.first(found, names(found), ids[0], ids[1], images)
    ElementTree.fromstring(f"<div>{screen.picture}</div>")
    assert screen.picture.count("<use ") == 2 * len(ids)
    assert all(screen.picture.count(f'"{address}"') == 2 for address in images.values())


def test_methods_are_told_apart_by_colour_and_shape() -> None:
    marks = {key: drawn.mark(key) for key in registry.keys("method")}
    assert set(drawn.MARKS) == set(marks) and len(set(marks.values())) == len(marks)
    assert drawn.mark("of another version") == drawn.mark("another one")

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for hue in drawn.HUES.values():
        for scheme in COLOURS.values():
            bright, dark = sorted((light(hue), light(scheme["paper"])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 3
            assert hue not in scheme.values() or hue == drawn.HUES["grey"]


def test_a_new_method_has_a_mark_and_larger_eps_a_larger_one() -> None:
    sizes = [drawn.radius(eps / 255) for eps in (0, 2, 8, 16, 76)]
    assert sizes == sorted(set(sizes)) and sizes[-1] < 10


@pytest.mark.parametrize(
    ("clean", "shown", "first", "last"),
    [
        ([0.11, 0.78, 0.9, 0.995], [0.78, 0.9, 0.995], "75%", "100%"),
        ([0.35, 0.43, 0.52, 0.56], [0.35, 0.43, 0.52, 0.56], "30%", "60%"),
        ([1.0], [1.0], "95%", "100%"),
    ],
)
def test_the_axis_holds_all_networks_but_those_far_behind_the_best(
    clean: list[float], shown: list[float], first: str, last: str
) -> None:
    scores = {
        str(at): SimpleNamespace(plain=SimpleNamespace(clean_acc=each))
        for at, each in enumerate(clean)
    }
    plot = drawn._axes(SimpleNamespace(scores=scores), 720, 400)
    assert [each for each in clean if plot.x[0] < each <= plot.x[1]] == shown
    assert (plot.x_ticks[0][1], plot.x_ticks[-1][1]) == (first, last)
