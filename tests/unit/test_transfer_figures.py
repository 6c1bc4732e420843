"""Transfer's figures: the numbers in the cells are those of a count by hand, and the sentences hold
at the edges.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from robustviz import figures
from robustviz.stats import tango, wilson
from robustviz.types import UserError
from robustviz.views.transfer.result import Transfer

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
    """A result on twenty images: of each target how many qualify, and on how many of these, from
    the first, it is wrong.
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
    (map_,) = figure.data
    assert np.allclose(np.array(map_.z, float), [[25, 10], [100, np.nan]], equal_nan=True)
    low, high = (100 * value for value in wilson(5, 20))
    assert map_.text[0][0] == f"25 %<br>[{low:.0f}, {high:.0f}]<br>n = 20"
    (gap,) = figure.layout.annotations
    assert gap.text == "n = 0" and (gap.x, gap.y) == (1, 1)
    assert map_.y[1].startswith("B ") and not map_.y[0].startswith("B ")
    text = said(figure)
    assert (
        "MIM-7, ε = 4/255, seed 3; 0 to 20 images qualify" in text
        and "In 1 cell no image qualifies" in text
    )
    assert (
        "Most often fooled is B small_cnn seed 2 by images of A before (100 %" in text
        and "of aligned (10 %" in text
    )
    assert "small_cnn seed 1 errs on 5 to 25 % of all attacked images, on 10 % untouched" in text
    assert len(figure.to_json()) < 400 * 1024 and text in figure.layout.meta["alt"]


def test_the_matrix_says_where_it_has_nothing_or_little_to_say() -> None:
    nothing = said(figures.transfer({"A": made("a", [0, 0], [5, 5])}))
    assert "None of the 20 images qualifies" in nothing and "larger ε" in nothing
    assert "Every cell has the same error: 50 %" in said(
        figures.transfer({"A": made("a", [10, 8], [5, 4])})
    )
    assert "Fooled is small_cnn seed 1 by images of A (50 %" in said(
        figures.transfer({"A": made("a", [10], [5], targets=("one",))})
    )
    tied = said(
        figures.transfer({"A": made("a", [10, 10, 10], [5, 5, 1], targets=("x", "y", "z"))})
    )
    assert "of 10, as 1 other)" in tied and "Below 100 images" in tied


def test_a_source_that_is_no_target_of_itself_leaves_its_cell_empty() -> None:
    found = {"A": made("a", [10], [5], targets=("b",)), "B": made("b", [10], [2], targets=("a",))}
    figure = figures.transfer(found)
    assert [note.text for note in figure.layout.annotations] == ["took part", "took part"]


def test_two_targets_of_one_name_stay_two_rows() -> None:
    result = made("a", [10, 10], [5, 1], targets=("x-1111", "x-2222"))
    result.meta["labels"][2] = result.meta["labels"][1]
    assert len(set(figures.transfer({"A": result}).data[0].y)) == 2


def test_the_difference_is_counted_in_pairs_around_zero() -> None:
    ours, theirs = made("b", [16, 12], [8, 12], aligned=True), made("a", [18, 10], [2, 10])
    figure = figures.transfer_difference({"A before": theirs, "aligned": ours})
    (map_,) = figure.data
    low, high = (100 * value for value in tango(6, 0, 16))
    assert np.allclose(np.array(map_.z, float), [[100 * 6 / 16], [0]]) and low > 0
    assert map_.text[0][0] == f"+38<br>[{low:+.0f}, {high:+.0f}]<br>n = 16"
    assert map_.zmid == 0 and map_.zmin == -map_.zmax
    text = said(figure)
    assert (
        "Against A before: the error is decidedly higher on 1, lower on 0, undecided on 1 of 2"
        " targets (95 % intervals, 10 to 16 images)" in text
    )
    back = figures.transfer_difference({"A before": theirs, "aligned": ours}, of="A before")
    assert (
        "Against aligned: the error is decidedly higher on 0, lower on 1, undecided on 1"
        in said(back)
    )


def test_what_cannot_be_compared_is_one_clear_sentence() -> None:
    ours, theirs = made("b", [16, 12], [8, 12], aligned=True), made("a", [18, 10], [2, 10])
    with pytest.raises(UserError, match="one more to compare"):
        figures.transfer_difference({"aligned": ours})
    with pytest.raises(UserError, match="one more to compare"):
        figures.transfer_difference({"A": theirs, "C": made("c", [1, 1], [1, 1])})
    with pytest.raises(UserError, match="not attacked alike"):
        figures.transfer_difference(
            {"A": dataclasses.replace(theirs, meta=theirs.meta | {"eps": 0.1}), "aligned": ours}
        )
    none = figures.transfer_difference({"A": made("a", [0, 0], [2, 2]), "aligned": ours})
    assert (
        "undecided on 0 of 2 targets (95 % intervals, 0 to 0 images); on 2 no image qualifies."
        in said(none)
    )


def test_the_likeness_map_says_whether_alignment_brought_the_answers_nearer() -> None:
    figure = figures.prediction_kl(made("b", [16, 12], [8, 12], aligned=True))
    assert np.array(figure.data[0].z).shape == (5, 5) and figure.data[0].x[0] == "source"
    # source 0, targets 1 and 2, before 3, witness 4: the KL is a tenth of the distance in this list
    assert "is 0.100 before the alignment and 0.400 after" in said(
        figure
    ) and "nearer to 1 of 2 unseen targets" in said(figure)
    plain = said(figures.prediction_kl(made("a", [1, 1], [1, 1])))
    assert (
        "Nearest to the source's answers are those of small_cnn seed 1 (KL 0.100), farthest those"
        " of small_cnn seed 2 (0.200)" in plain
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
        and "From the answers of small_cnn seed 1 to the source's the KL is 0.001." in said(figure)
    )


def test_dark_figures_are_plain_json_too() -> None:
    figure = figures.transfer(made("a", [20, 8], [5, 8]), template="robustviz_dark")
    assert json.loads(figure.to_json())["layout"]["meta"]["alt"]
