"""Tests Transfer's figures: the numbers in the cells equal counts by hand, and the sentences are
true at extreme values.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from robustviz import figures
from robustviz.stats import mcnemar, tango, wilson
from robustviz.types import UserError
from robustviz.views.screen import wordy
from robustviz.views.transfer import screen_figures as first
from robustviz.views.transfer.result import Fooled, Transfer

N = 20


def made(
    run: str,
    qualified: list[int],
    wrong: list[int],
    *,
    targets: tuple[str, ...] = ("one", "two"),
    aligned: bool = False,
    **meta: Any,
) -> Transfer:
    """Returns a result on twenty images. For each target, the first `qualified` images qualify, and
    the target is wrong on the first `wrong` images.
    """
    models = [run, *targets, *(("old", "teacher") if aligned else ())]
    rows = np.arange(N)
    kl = np.abs(np.subtract.outer(np.arange(len(models)), np.arange(len(models)))) / 10
    return Transfer(
        targets=list(targets),
        qualified=np.stack([rows < k for k in qualified]),
        wrong=np.stack([rows < k for k in wrong]),
        before_qualified=np.zeros((len(targets) if aligned else 0, N), bool),
        before_wrong=np.zeros((len(targets) if aligned else 0, N), bool),
        models=models,
        kl=kl,
        accuracy=np.full(len(models), 0.9),
        meta={
            "run": run,
            "data": "toy",
            "attack": {"key": "mim", "steps": 7, "step_size": 0.01},
            "eps": 4 / 255,
            "seed": 3,
            "n": N,
            "method": "m",
            "labels": [f"small_cnn seed {at}" for at in range(len(models))],
            "groups": ["", "defence", *[""] * (len(models) - 2)],
        }
        | meta,
    )


def said(figure: Any) -> str:
    return str(figure.layout.meta["sentence"])


def test_each_cell_has_its_error_its_interval_and_its_n() -> None:
    found = {"A before": made("a", [20, 8], [5, 8]), "aligned": made("b", [10, 0], [1, 4])}
    figure = figures.transfer(found, b="two")
    map_, grey = figure.data
    assert np.allclose(np.array(map_.z, float), [[25, 10], [100, np.nan]], equal_nan=True)
    # With fewer than thirty images a cell is grey.
    assert np.isfinite(np.array(grey.z, float)).tolist() == [[True, True], [True, False]]
    assert grey.text[0] == map_.text[0] and grey.text[1][1] == ""
    low, high = (100 * value for value in wilson(5, 20))
    assert map_.text[0][0] == f"25%<br>[{low:.0f}, {high:.0f}]<br>n = 20"
    (gap,) = figure.layout.annotations
    assert gap.text == "n = 0" and (gap.x, gap.y) == (1, 1)
    assert map_.y[1].startswith("B ") and not map_.y[0].startswith("B ")
    text, sure = said(figure), figure.layout.meta["sure"]
    assert (
        "MIM-7, ε = 4/255, seed 3. In each cell, 0 to 20 of 20 images qualify. In 1 cell no image"
        " qualifies." in sure
    )
    assert (
        "Most often fooled is B small_cnn seed 2, by images of A before (100%)" in text
        and "of aligned (10%)" in text
    )
    assert "small_cnn seed 1: 5 to 25% of all attacked images are misclassified, 10% of the" in text
    assert len(figure.to_json()) < 400 * 1024 and text in figure.layout.meta["alt"]


def test_the_matrix_says_where_it_has_nothing_or_little_to_say() -> None:
    nothing = said(figures.transfer({"A": made("a", [0, 0], [5, 5])}))
    assert "None of the 20 images qualifies" in nothing and "larger ε" in nothing
    assert "Every cell has the same error: 50%" in said(
        figures.transfer({"A": made("a", [10, 8], [5, 4])})
    )
    assert "Fooled is small_cnn seed 1, by images of A (50%" in said(
        figures.transfer({"A": made("a", [10], [5], targets=("one",))})
    )
    tied = figures.transfer({"A": made("a", [10, 10, 10], [5, 5, 1], targets=("x", "y", "z"))})
    assert "(50%, as 1 other)" in said(tied) and "With fewer than 100" in tied.layout.meta["sure"]


def test_a_source_that_is_no_target_of_itself_leaves_its_cell_empty() -> None:
    found = {"A": made("a", [10], [5], targets=("b",)), "B": made("b", [10], [2], targets=("a",))}
    figure = figures.transfer(found)
    assert [note.text for note in figure.layout.annotations] == [
        "used in training",
        "used in training",
    ]


def test_two_targets_of_one_name_stay_two_rows() -> None:
    result = made("a", [10, 10], [5, 1], targets=("x-1111", "x-2222"))
    result.meta["labels"][2] = result.meta["labels"][1]
    assert len(set(figures.transfer({"A": result}).data[0].y)) == 2


def test_the_difference_is_counted_in_pairs_around_zero() -> None:
    ours, theirs = made("b", [16, 12], [8, 12], aligned=True), made("a", [18, 10], [2, 10])
    figure = figures.transfer_difference({"A before": theirs, "aligned": ours})
    map_ = figure.data[0]
    low, high = (100 * value for value in tango(6, 0, 16))
    assert np.allclose(np.array(map_.z, float), [[100 * 6 / 16], [0]]) and low > 0
    assert map_.text[0][0] == f"+38<br>[{low:+.0f}, {high:+.0f}]<br>n = 16"
    assert map_.zmid == 0 and map_.zmin == -map_.zmax
    text = said(figure)
    assert (
        text == "Against A before the error is higher on 1 of 2 targets, lower on 0."
        and "Compared on the 10 to 16 images" in figure.layout.meta["sure"]
    )
    back = figures.transfer_difference({"A before": theirs, "aligned": ours}, of="A before")
    assert said(back) == "Against aligned the error is higher on 0 of 2 targets, lower on 1."


def test_what_cannot_be_compared_is_one_clear_sentence() -> None:
    ours, theirs = made("b", [16, 12], [8, 12], aligned=True), made("a", [18, 10], [2, 10])
    with pytest.raises(UserError, match="one more to compare"):
        figures.transfer_difference({"aligned": ours})
    with pytest.raises(UserError, match="one more to compare"):
        figures.transfer_difference({"A": theirs, "C": made("c", [1, 1], [1, 1])})
    with pytest.raises(UserError, match="were attacked differently"):
        figures.transfer_difference(
            {"A": dataclasses.replace(theirs, meta=theirs.meta | {"eps": 0.1}), "aligned": ours}
        )
    none = figures.transfer_difference({"A": made("a", [0, 0], [2, 2]), "aligned": ours})
    assert (
        "no difference shown on 0 of 2 targets. On 2 no image qualifies." in said(none)
        and "the 0 to 0 images" in none.layout.meta["sure"]
    )


def test_the_likeness_map_says_whether_alignment_brought_the_answers_nearer() -> None:
    figure = figures.prediction_kl(made("b", [16, 12], [8, 12], aligned=True))
    assert np.array(figure.data[0].z).shape == (5, 5) and figure.data[0].x[0] == "source"
    # The models are 0 source, 1 and 2 targets, 3 before, 4 witness. The KL is a tenth of the
    # distance in this list.
    assert "is 0.100 before the alignment and 0.400 after" in said(
        figure
    ) and "nearer to 1 of 2 unseen targets" in said(figure)
    plain = said(figures.prediction_kl(made("a", [1, 1], [1, 1])))
    assert (
        "Nearest to the source's outputs are those of small_cnn seed 1 (KL 0.100). Farthest are"
        " those of small_cnn seed 2 (0.200)" in plain
    )


def test_a_matrix_without_a_number_keeps_its_names_and_small_differences_their_place() -> None:
    empty = figures.transfer({"A": made("a", [0, 0], [5, 5])})
    assert (
        empty.layout.xaxis.ticktext == ("A",)
        and [*empty.layout.yaxis.range] == [1.5, -0.5]
        and len(empty.layout.yaxis.ticktext) == 2
    )
    alike = dataclasses.replace(
        made("a", [1], [1], targets=("x",)), kl=np.array([[0, 0.001], [0.001, 0]])
    )
    figure = figures.prediction_kl(alike)
    assert (
        figure.data[0].zmax == 0.1
        and "From the outputs of small_cnn seed 1 to the source's, the KL is 0.001." in said(figure)
    )


def test_dark_figures_are_plain_json_too() -> None:
    figure = figures.transfer(made("a", [20, 8], [5, 8]), template="robustviz_dark")
    assert json.loads(figure.to_json())["layout"]["meta"]["alt"]


# The first screen.


def shown(net: str = "small_resnet", seed: int = 0, method: str = "standard", target: str = ""):
    return {
        "label": f"{net} seed {seed}",
        "method": method,
        "net": net,
        "seed": seed,
        "ordinary": method == "standard",
        "settings": [target] * bool(target),
        "target": target,
    }


MODELS = {
    "a": shown(),
    "soft": shown(method="model_alignment", target="witness_soft"),
    "label": shown(method="model_alignment", target="label"),
    "twin": shown(seed=1),
    "cnn": shown("small_cnn"),
    "b": shown(method="pgd_at"),
    "witness": shown("small_cnn", 2, "other"),
}


def fooled(
    wrong: dict[tuple[str, str], range], misread: dict[str, range] | None = None, n: int = 100
) -> Fooled:
    """Returns a result on `n` images: which of them each model misclassifies under each source's
    attack, and which without an attack.
    """
    rows, models, sources = np.arange(n), list(MODELS), ["a", "soft", "label"]
    clean = [np.isin(rows, (misread or {}).get(model, range(0))) for model in models]
    bits = [
        [np.isin(rows, wrong.get((source, model), range(0))) for model in models]
        for source in sources
    ]
    return Fooled(
        sources,
        models,
        np.packbits(clean, axis=1),
        np.packbits(bits, axis=2),
        n,
        meta={
            "run": "a",
            "classes": ["x"],
            "attack": {"key": "pgd", "steps": 20, "restarts": 1, "start": "uniform"},
            "eps": 8 / 255,
            "seed": 0,
            "of": n,
            "shown": list(MODELS.values()),
            "witness": {"soft": "witness", "label": "witness"},
        },
    )


ATTACKED = {
    ("a", "a"): range(85),
    ("a", "twin"): range(40),
    ("a", "cnn"): range(20),
    ("a", "b"): range(8),
    ("soft", "soft"): range(70),
    ("soft", "twin"): range(41),
    ("soft", "cnn"): range(40),
    ("soft", "b"): range(8),
}


def test_a_bar_a_target_and_what_alignment_changes_is_counted_in_pairs() -> None:
    result = fooled(ATTACKED, {"b": range(4, 10), "witness": range(50)})
    bars = first.targets(result, "b", "B PGD-AT")
    assert [bar.name for bar in bars] == [
        "A itself",
        "A's twin, seed 1",
        "small CNN, seed 0",
        "B PGD-AT",
    ]
    # B misclassifies eight images under attack, four of which it also misclassifies untouched.
    assert first.counts(result, bars[-1], "a") == (4, 6)
    screen = first.screen(result, "a", bars)
    assert screen.answer == [
        "Images attacked on A fool A on 85%, its twin on 40%, B on 4%.",
        "After soft labels, images attacked on A fool A on 70%, its twin on 41%, B on 4%.",
    ]
    assert screen.control is not None and screen.control.start == 0
    changes = [screen.moves[f"change{at}"][1] for at in range(4)]
    assert [after for _, after in changes] == [
        "−15 points",
        "no difference shown",
        "+20 points",
        "no difference shown",
    ]
    for at in range(4):  # a lecture hides both before *Reveal*
        assert f'<span class="told"><b data-move="share{at}">' in screen.picture
    low, high = tango(20, 0, 100)
    assert first.moved(result, bars[2], "soft") == (0.2, low, high, mcnemar(20, 0))
    low, high = wilson(40, 100)
    assert (
        f"--k:40.00%;--p:0.00%;--l:{100 * low:.2f}%;--w:{100 * (high - low):.2f}%"
        in (screen.moves["bar1"][1][0])
    )
    sure = " ".join(screen.sure)
    assert "n = 100 test images, attacked with PGD-20." in sure and "small CNN, seed 2" in sure
    every = [*screen.answer, *screen.sure, screen.alt]
    assert not [line for text in every for line in wordy(text)]


def test_a_copy_as_a_starts_after_and_without_copies_nothing_moves() -> None:
    result = fooled(ATTACKED)
    copy = first.screen(result, "soft", first.targets(result, "b"))
    assert copy.control is not None and copy.control.start == 1
    assert copy.answer[0].startswith("Before soft labels, images attacked on A fool A on 85%")
    hard = first.screen(result, "label", first.targets(result, "b"))
    assert hard.answer[1].startswith("After true labels, images attacked on A fool A on 0%")
    alone = dataclasses.replace(result, sources=["a"])
    screen = first.screen(alone, "a", first.targets(alone))
    assert screen.control is None and not screen.moves and len(screen.answer) == 1
    assert "The Train page makes one." not in screen.answer
    assert any("fine-tuned to soft labels" in line for line in screen.sure)
    assert "a small CNN" in first.screen(result, "b", first.targets(result)[::2]).answer[0]
    with pytest.raises(UserError, match="no aligned copy"):
        figures.alignment(alone)


def test_the_figure_of_alignment_has_every_interval() -> None:
    figure = figures.alignment(fooled(ATTACKED), b="b")
    soft, true = figure.data
    assert soft.x == (-15, 1, 20, 0) and soft.name == "soft labels" and true.x[2] == -20
    low, high = tango(20, 0, 100)
    assert soft.error_x.array[2] == pytest.approx(100 * high - 20)
    assert soft.error_x.arrayminus[2] == pytest.approx(20 - 100 * low)
    assert said(figure) == (
        "After soft labels, 1 of 3 unseen networks is fooled more often. After true labels, 3 of 3"
        " unseen networks are fooled less often."
    )
    meta = figure.layout.meta
    assert not wordy(meta["sentence"]) and not wordy(meta["sure"])
    assert len(figure.layout.xaxis.title.text) <= 42  # fits a phone


@pytest.mark.parametrize("aligned", [False, True])
def test_no_sentence_is_long(aligned) -> None:
    ours, theirs = made("b", [16, 12], [8, 12], aligned=aligned), made("a", [18, 10], [2, 10])
    for figure in (
        figures.transfer({"A before": theirs, "aligned": ours}),
        figures.transfer({"A": made("a", [0, 0], [5, 5])}),
        figures.transfer_difference({"A before": theirs, "aligned": ours}, of="aligned"),
        figures.prediction_kl(ours),
    ):
        meta = figure.layout.meta
        assert not wordy(meta["sentence"]) and not wordy(meta["sure"])
