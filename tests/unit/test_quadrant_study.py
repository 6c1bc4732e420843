"""Tests the quadrant study: its rules and budgets, its statistics against scipy, its sentences, its
file, and a tiny run of the whole study.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats

from robustviz import cam, figures
from robustviz.methods import PART, PGDAT
from robustviz.runs.folder import all_runs, read_json
from robustviz.runs.naming import unusual
from robustviz.training.config import TrainConfig
from robustviz.types import Batch, UserError
from robustviz.views.quadrants import panel as quadrants_panel, study as quadrant_study
from robustviz.views.quadrants.result import Quadrants
from robustviz.views.quadrants.study import (
    PLACES,
    Study,
    compact,
    file_of,
    main,
    markdown,
    measure,
    read,
    result_of,
    sentence,
)
from robustviz.views.screen import wordy

# The rules.


def test_each_rule_leaves_out_its_quarter_whatever_the_map_says(images) -> None:
    for rule, (low, right) in cam.QUADRANTS.items():
        expected = np.ones((9, 7), bool)
        # With 9 rows and 7 columns the halves have 4 and 5 rows, and 3 and 4 columns.
        for r, c in np.ndindex(9, 7):
            expected[r, c] = ((r >= 4), (c >= 3)) != (bool(low), bool(right))
        for heat in (
            torch.rand(12, 3, 2),
            torch.full((12, 3, 2), torch.nan),
            torch.zeros(12, 1, 1),
        ):
            mask = cam.importance_mask(heat, rule, (9, 7))
            assert mask.shape == (12, 1, 9, 7) and all(
                np.array_equal(one[0].numpy(), expected) for one in mask
            )
        cam.check_rule(rule)
        assert torch.equal(cam.blind_mask(rule, images), mask)
    assert cam.blind_mask("ones", images).all()
    covered = sum(~cam.blind_mask(rule, images).int() + 2 for rule in cam.QUADRANTS)
    assert (covered == 1).all(), "the four quarters cover every pixel once"
    with pytest.raises(UserError, match="Did you mean all-but-upper-left"):
        cam.check_rule("all-but-uper-left")


def test_part_gives_the_quarter_the_smaller_radius_from_the_first_batch_on_without_a_map(
    images, labels
) -> None:
    method = PART(rule="all-but-lower-right", eps_low=6 / 255, warmup=0.0).bound(12 / 255)
    batch = Batch(images, labels, torch.arange(12), 0, 0.0, torch.Generator(), None, None)
    budget = method.budget(torch.nn.Identity(), batch)  # The network has no feature maps at all.
    assert budget[0, 0, 4:, 3:].unique().tolist() == pytest.approx([6 / 255]) and budget[
        0, 0, :4
    ].unique().tolist() == pytest.approx([12 / 255])


def test_new_rules_leave_the_ids_of_runs_alone() -> None:
    runs = [run for run in all_runs() if run.shipped and run.method_key.startswith("part")]
    assert len(runs) >= 6 and all(
        TrainConfig.from_json(run.config.to_json()).run_id == run.id for run in runs
    )


def test_the_trainings_are_the_papers_on_the_recipe_of_shapes() -> None:
    study = Study()
    quarter, full, low = (study.config(name, 2) for name in ("upper-left", "full", "low"))
    assert (
        quarter.method == PART(rule="all-but-upper-left", eps_low=4 / 255, warmup=0.0)
        and quarter.eps == 8 / 255
    )
    assert full.method == low.method == PGDAT() and (full.eps, low.eps) == (8 / 255, 4 / 255)
    usual = TrainConfig(data="shapes", method="part")
    same = (
        "net",
        "n_train",
        "epochs",
        "batch_size",
        "lr",
        "momentum",
        "weight_decay",
        "schedule",
        "augment",
    )
    assert all(
        getattr(one, name) == getattr(usual, name) for one in (quarter, full, low) for name in same
    )
    order = list(study.order())
    assert len(order) == len(set(order)) == 6 * len(study.seeds) and {
        name for name, _ in order[:4]
    } == set(PLACES)


# The statistics.


@pytest.fixture
def study() -> dict:
    """Returns a study of two seeds in which upper-left leads by 4 and 6 percentage points under
    attack, and by 0 and 2 on clean images.
    """
    cells = []
    for seed, shift in ((0, 0), (1, 10)):
        for name in PLACES:
            best = name == "upper-left"
            cells.append(
                {
                    "variant": name,
                    "seed": seed,
                    "n": 200,
                    "clean_k": 160 + shift + 4 * seed * best,
                    "robust_k": 80 + shift + (8 + 4 * seed) * best,
                }
            )
    cells.append({"variant": "full", "seed": 0, "n": 200, "clean_k": 150, "robust_k": 90})
    protocol = {
        "data": "shapes",
        "label": "Shapes",
        "net": "small_resnet",
        "eps": 12 / 255,
        "eps_low": 6 / 255,
        "test_eps": 8 / 255,
        "attack": "PGD-20",
        "seeds": [0, 1, 2],
        "n_train": 2000,
        "epochs": 20,
        "batch_size": 64,
        "lr": 0.05,
    }
    return {"command": "x", "versions": {}, "cpu_seconds": 1, "protocol": protocol, "cells": cells}


def test_four_equal_quadrants_are_seldom_said_to_differ(study) -> None:
    """At most 5% of simulations show a lead, and naming a best quadrant needs three leads at
    once.
    """
    rng, decided, some = np.random.default_rng(0), 0, 0
    for _ in range(300):
        study["protocol"]["seeds"] = list(range(5))
        study["cells"] = [
            {
                "variant": name,
                "seed": seed,
                "n": 1000,
                "clean_k": 900,
                "robust_k": int(rng.normal(600, 15)),
            }
            for seed in range(5)
            for name in PLACES
        ]
        result = result_of(study)
        decided += result.best("robust")[1]
        some += bool((result.robust_lead[:, 1] > 0).any())
    assert decided <= 3 and some <= 15 + 8


def test_seeds_are_paired_and_only_whole_ones_count(study) -> None:
    study["cells"].append(
        {"variant": "upper-left", "seed": 2, "n": 200, "clean_k": 0, "robust_k": 0}
    )
    result = result_of(study)
    # The control with only one seed is left out.
    assert result.names == list(PLACES) and result.meta["seeds"] == [0, 1]
    assert result.robust[0].tolist() == [0.44, 0.51] and result.robust[1].tolist() == [0.4, 0.45]
    low, high = stats.t.interval(1 - 0.05 / 6, 1, loc=0.05, scale=stats.sem([0.04, 0.06]))
    assert (
        result.robust_lead[1] == pytest.approx([0.05, low, high], rel=1e-9)
        and np.isnan(result.robust_lead[0]).all()
    )
    assert (result.robust_interval[:, 1] >= 0).all() and (result.robust_interval[:, 2] <= 1).all()
    assert result.best("robust") == (0, False)
    assert result_of(
        {**study, "cells": [*study["cells"], {**study["cells"][8], "seed": 1}]}
    ).names == [*PLACES, "full"]


def test_a_lead_is_decided_only_where_it_excludes_0_for_all_three(study) -> None:
    for cell in study["cells"]:
        if cell["variant"] == "upper-left":
            cell["robust_k"] = 88 + 10 * cell["seed"]
    result = result_of(study)
    assert result.best("robust") == (
        0,
        True,
    ) and "points below: each difference is clear" in sentence(result)
    tied = next(
        cell for cell in study["cells"] if (cell["variant"], cell["seed"]) == ("lower-left", 0)
    )
    tied["robust_k"] += 6
    result = result_of(study)
    assert (
        result.best("robust") == (0, False)
        and result.robust_lead[1, 1] > 0
        and "each difference is clear" not in sentence(result)
    )


def test_one_seed_decides_nothing(study) -> None:
    study["cells"] = study["cells"][:4]
    result = result_of(study)
    assert (
        result.best("robust") == (0, False)
        and "1 seed," in sentence(result)
        and "one seed cannot decide that" in sentence(result)
    )
    figure = figures.quadrants(result, picked="upper-right")
    assert (
        "inf" not in figure.to_json().lower()
        and "+4.0 percentage points ahead under attack: no difference shown"
        in figure.layout.meta["sentence"]
    )


def test_no_whole_seed_is_a_sentence(study) -> None:
    study["cells"] = study["cells"][:3]
    with pytest.raises(UserError, match="no seed of which all four quadrants are trained"):
        result_of(study)


def test_ties_are_said_as_ties(study) -> None:
    for cell in study["cells"]:
        cell["clean_k"], cell["robust_k"] = 160, 80
    said = sentence(result_of(study))
    assert said.count("The others are 0.0 percentage points below: no difference shown.") == 2


def test_the_full_radius_is_told_apart_from_the_shipped_network() -> None:
    result = result_of(read())
    said, seed = sentence(result), result.meta["seeds"].index(0)
    at = result.names.index("full")
    means, ones = (
        tuple(f"{100 * value:.1f}%" for value in pair)
        for pair in (
            (result.clean[at].mean(), result.robust[at].mean()),
            (result.clean[at, seed], result.robust[at, seed]),
        )
    )
    assert "a mean of {} clean and {} under attack".format(*means) in said
    assert "Seed 0 alone reaches {} and {}. The shipped PGD-AT shares".format(*ones) in said
    shipped = next(
        run
        for run in all_runs()
        if run.shipped
        and run.data_key == "shapes"
        and run.method_key == "pgd_at"
        and run.architecture == "small_resnet"
        and run.info["seed"] == 0
        and not unusual(run)
    )
    own = dataclasses.replace(Study().config("full", 0), select="robust", snapshots=2)
    assert shipped.config == own, "it differs in the epoch that is kept, and in nothing else"
    picked = figures.quadrants(result, picked="lower-left").layout.meta["sentence"]
    assert not wordy(picked) and not wordy(quadrants_panel._paper(result.meta))


# What is shown.


def test_the_tables_say_what_the_json_says(study) -> None:
    text = markdown(study)
    assert (
        "| upper-left | 83.5 [" in text
        and "| best | best | 78.00 | 47.69 |" in text
        and "| 76.77 | 46.75 |" in text
    )
    assert "| upper-left | 1 | 200 | 87.0 | 51.0 |" in text and text.endswith(
        sentence(result_of(study))
    )


def test_the_figure_speaks_of_the_pick_first(study) -> None:
    result = result_of(study)
    figure = figures.quadrants(result, picked="lower-left")
    assert [trace.name for trace in figure.data] == ["clean", "PGD-20 at 8/255"] and len(
        figure.data[0].x
    ) == 4
    assert [trace.marker.symbol for trace in figure.data] == ["circle", "x"]
    said = figure.layout.meta["sentence"]
    assert (
        said.startswith("You picked lower left: PGD-20 accuracy 42.5% [")
        and "The best, upper left, is +5.0 [" in said
        and "no difference shown" in said
    )
    assert (
        said.endswith(result.meta["summary"])
        and said in figure.layout.meta["alt"]
        and len(figure.to_json()) < 400 * 1024
    )
    best = figures.quadrants(result, picked="upper-left").layout.meta["sentence"]
    assert "It is the best of the four, but no clear lead is shown." in best
    assert figures.quadrants(result).layout.meta["sentence"] == result.meta["summary"]
    assert Quadrants.from_npz(result.to_npz()).names == result.names


def test_the_file_is_json_with_a_line_a_cell(study) -> None:
    assert json.loads(compact(study)) == study
    assert sum(line.startswith(b'  {"variant"') for line in compact(study).splitlines()) == 9


def test_the_report_trains_nothing(study, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(quadrant_study, "FOLDER", tmp_path)
    monkeypatch.setattr(quadrant_study, "measure", None)
    assert main(["--report"]) == 1 and "no quadrant study on shapes" in capsys.readouterr().err
    file_of("shapes").write_bytes(compact(study))
    assert main(["--report"]) == 0 and capsys.readouterr().out.strip() == markdown(study)


def test_the_shipped_study_is_what_the_specification_asks_for() -> None:
    study = read_json(file_of("shapes"))
    result = result_of(study)
    assert (
        result.clean.shape[1] >= 1
        and result.meta["n"] == 1000
        and result.meta["attack"] == "PGD-20"
    )
    assert (result.clean > result.robust).all() and (
        result.meta["eps"],
        result.meta["eps_low"],
    ) == (Study.eps, Study.eps_low)
    shown = study["protocol"]
    asked = Study().config("upper-left", 0)
    assert (shown["n_train"], shown["epochs"], shown["lr"]) == (
        asked.n_train,
        asked.epochs,
        asked.lr,
    )


@pytest.mark.slow
def test_a_toy_study_from_training_to_table_and_again_without_training(
    runs_home, tmp_path, capsys
) -> None:
    study, path = (
        Study(
            data="digits",
            seeds=(0,),
            n_train=100,
            epochs=1,
            steps=2,
            eps=0.15,
            eps_low=0.07,
            test_eps=0.1,
        ),
        tmp_path / "q.json",
    )
    made = measure(study, path, "toy")
    assert (
        len(made["cells"]) == 6
        and read_json(path) == made
        and markdown(made).endswith(sentence(result_of(made)))
    )
    capsys.readouterr()
    assert measure(study, path, "toy") == made and "loss" not in capsys.readouterr().err
    more = measure(dataclasses.replace(study, seeds=(0, 1)), path, "toy")
    assert more["cells"][:6] == made["cells"] and len(more["cells"]) == 12, (
        "what one seed gave is kept where more are asked for"
    )
    assert len(measure(dataclasses.replace(study, steps=3), path, "toy")["cells"]) == 6, (
        "another protocol begins anew"
    )
