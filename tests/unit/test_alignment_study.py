"""Tests the alignment study: its statistics against values computed by hand, its tables from the
JSON file alone, the shipped file, and a tiny run of the whole study.
"""

from __future__ import annotations

import json
import math

import pytest
from scipy import stats

from robustviz.types import UserError
from robustviz.views.transfer import report, study as alignment_study
from robustviz.views.transfer.report import compact, file_of, markdown, sentence, shift
from robustviz.views.transfer.study import Study, main, measure


def cell(net: str, seed: int, target: str, before: int, aligned: int, n: int = 100) -> dict:
    k = {"before": before, "label": before - 5, "witness_hard": before, "witness_soft": aligned}
    pairs = [max(aligned - before, 0) + 1, max(before - aligned, 0) + 1]
    return {
        "net": net,
        "seed": seed,
        "attack": "pgd",
        "target": target,
        "n": n,
        "k": k,
        "pairs": pairs,
        "all": {name: value + 10 for name, value in k.items()},
    }


@pytest.fixture
def study() -> dict:
    cells = [
        cell("a", 0, "c 20", 40, 50),
        cell("a", 0, "d 20", 30, 60),
        cell("a", 1, "c 20", 40, 44),
        cell("a", 1, "d 20", 0, 0, n=0),
    ]
    clean = {"before": 0.9, "label": 0.91, "witness_hard": 0.9, "witness_soft": 0.885}
    near = {"before": 0.5, "witness_soft": 0.25}
    return {
        "command": "x",
        "versions": {},
        "cpu_seconds": 1,
        "protocol": {
            "data": "digits",
            "label": "Digits",
            "n": 200,
            "n_train": 50,
            "eps": 8 / 255,
            "steps": 20,
            "attacks": {"pgd": "PGD-20"},
            "witness_seed": 10,
            "target_accuracy": {"c 20": 0.8, "d 20": 0.7},
            "recipes": {
                name: {"epochs": 3, "lr": 0.1, "batch_size": 64}
                for name in ("a", "c", "d", "fine-tuning")
            },
        },
        "sources": [
            {
                "net": "a",
                "seed": seed,
                "clean_acc": clean,
                "n_test": 360,
                "kl_from_witness": near,
                "kl_from_targets": near,
            }
            for seed in (0, 1)
        ],
        "cells": cells,
    }


def test_source_networks_are_the_units_and_cells_without_an_image_do_not_count(study) -> None:
    # (10 + 30)/2 percentage points for one source and 4 for the other.
    found = shift(study["cells"], "before")
    assert found.mean == pytest.approx(0.12) and found.networks == 2
    low, high = stats.t.interval(0.95, 1, loc=0.12, scale=stats.sem([0.2, 0.04]))
    assert (found.low, found.high) == pytest.approx(
        (low, high), rel=1e-9
    ) and found.verdict == "not decided"
    alone = shift(study["cells"][:2], "label")
    assert (
        alone.mean == pytest.approx(0.25)
        and math.isinf(alone.low)
        and str(alone) == "+25.0"
        and alone.verdict == "not decided"
    )
    with pytest.raises(UserError, match="No image qualifies"):
        shift(study["cells"][3:], "before")


def test_the_tables_say_what_the_json_says(study) -> None:
    text = markdown(study)
    assert "| PGD-20 | a | 36.7 | 31.7 | 36.7 | 51.3 | +12.0 [" in text
    assert (
        "| PGD-20 | a | 0 | c 20 | 100 | 40.0 | 50.0 | +10.0 [" in text
        and "| PGD-20 | a | 1 | d 20 | 0 | – | – | – |" in text
    )
    assert "| a | 0 | 90.0 | 91.0 | 90.0 | 88.5 | 0.500 → 0.250 | 0.500 → 0.250 |" in text
    every = next(line for line in text.splitlines() if "every image" in line)
    # The accuracy is (50 + 40 + 50 + 10) of 4·200 images.
    assert every.startswith("| PGD-20 | all, every image | 18.8 |")
    assert (
        text.endswith(sentence(study))
        and "+12.0 [" in sentence(study)
        and "does not significantly change" in sentence(study)
        and "-1.5 to -1.5" in sentence(study)
    )
    widths = {
        line.count("|")
        for line in text.splitlines()
        if line.startswith("| PGD-20 | a |") and "c 20" not in line and "d 20" not in line
    }
    assert widths == {10}


def test_the_sentence_follows_the_numbers(study) -> None:
    for one in study["cells"]:
        one["k"]["witness_soft"] = one["k"]["before"] + (
            round(one["n"] / 10) if one["target"] == "c 20" else one["n"] // 10
        )
    assert "raises the transfer error under PGD-20" in sentence(
        study
    ) and "+10.0 [+10.0, +10.0] points (higher)" in sentence(study)
    for one in study["cells"]:
        one["k"]["witness_soft"] = one["k"]["before"] - one["n"] // 10
    assert "lowers the transfer error under PGD-20" in sentence(
        study
    ) and "-10.0 [-10.0, -10.0] points (lower)" in sentence(study)


def test_the_file_is_json_with_a_line_a_cell(study) -> None:
    assert json.loads(compact(study)) == study
    assert sum(line.startswith(b'  {"net"') for line in compact(study).splitlines()) == 6


def test_the_report_trains_nothing(study, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(alignment_study, "measure", None)
    assert main(["--report", "--data", "digits"]) == 1
    assert "no alignment study of digits" in capsys.readouterr().err
    file_of("digits").write_bytes(compact(study))
    assert main(["--report", "--data", "digits"]) == 0
    assert capsys.readouterr().out.strip() == markdown(study)


def test_the_shipped_study_is_whole_and_has_what_the_specification_asks_for(capsys) -> None:
    study = json.loads(file_of("fashion_mnist").read_bytes())
    consistent(study)
    units = {(one["net"], one["seed"]) for one in study["cells"]}
    assert units == {(net, seed) for net in Study.sources for seed in Study.seeds}
    for net, seed in units:
        targets = {
            one["target"] for one in study["cells"] if (one["net"], one["seed"]) == (net, seed)
        }
        # Targets that the alignment never used, of two other architectures.
        assert len(targets) >= 3 and len({target.split()[0] for target in targets} - {net}) >= 2
    for source in study["sources"]:
        assert source["kl_from_witness"]["witness_soft"] < source["kl_from_witness"]["before"]
        assert abs(source["clean_acc"]["witness_soft"] - source["clean_acc"]["before"]) <= 0.02
    assert main(["--report"]) == 0 and sentence(study) in capsys.readouterr().out


@pytest.mark.slow
def test_a_toy_study_from_training_to_table_and_again_without_training(runs_home, capsys) -> None:
    study = Study(
        data="digits",
        sources=("small_resnet", "small_cnn"),
        targets=(("small_resnet", 20), ("small_cnn", 20)),
        seeds=(0,),
        attacks=("pgd",),
        n=100,
        n_train=300,
        steps=5,
    )
    found = measure(study, "toy")
    assert [(one["net"], one["target"]) for one in found["cells"]] == [
        ("small_resnet", "small_cnn 20"),
        ("small_cnn", "small_resnet 20"),
    ]
    consistent(found)
    for source in found["sources"]:
        assert source["kl_from_witness"]["witness_soft"] < source["kl_from_witness"]["before"]
    assert markdown(found).endswith(sentence(found))
    capsys.readouterr()
    assert measure(study, "toy") == found and "loss" not in capsys.readouterr().err


def consistent(study: dict) -> None:
    for one in study["cells"]:
        only, other = one["pairs"]
        assert (
            only - other == one["k"]["witness_soft"] - one["k"]["before"]
            and only + other <= one["n"]
        )
        assert (
            all(one["k"][name] <= min(one["n"], one["all"][name]) for name in one["k"])
            and one["n"] <= study["protocol"]["n"]
        )
