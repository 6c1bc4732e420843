"""Tests the table of images that `evaluate --out` writes: its counts equal those of the evaluation,
and each row describes the image whose number and file it names.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from robustviz import cli, data
from robustviz.attacks import PGD
from robustviz.data import Folder
from robustviz.data.splits import stratified_order
from robustviz.runs import folder
from robustviz.training.evaluate import attacked, evaluate
from robustviz.training.images import Images

ID = "digits-pgd-at-small-resnet-s0-0c56e5c2"


@pytest.fixture(autouse=True)
def _no_doctor(monkeypatch):
    """Skips the doctor, which is tested elsewhere and takes seconds."""
    monkeypatch.setattr("robustviz.training.evaluate.examine", lambda *given: ())


@pytest.fixture
def table(runs_home, tmp_path, capsys):
    """Returns a function that runs `evaluate` and returns its JSON answer and the rows of its
    file.
    """

    def ask(run, *words):
        capsys.readouterr()
        out = tmp_path / "images.csv"
        assert cli.main(["evaluate", str(run), "--out", str(out), "--json", *words]) == 0
        told = json.loads(capsys.readouterr().out)
        with out.open(encoding="utf-8", newline="") as file:
            return told, list(csv.DictReader(file))

    return ask


def test_counts_verdicts_and_distances_are_those_of_the_evaluation(table):
    told, rows = table(ID, "--attack", "pgd", "--steps", "3", "--n", "40", "--seed", "5")
    assert len(rows) == told["n"] == 40
    for name in ("clean", "attacked"):
        right = sum(row[f"{name}_right"] == "True" for row in rows)
        assert right == told[f"{'clean' if name == 'clean' else 'robust'}_k"]
        assert all((row[name] == row["label"]) == (row[f"{name}_right"] == "True") for row in rows)
    run = folder.open_run(ID)
    split = data.load(run.config.data, "test")
    order = stratified_order(split.y)[:40].tolist()
    assert [int(row["image"]) for row in rows] == sorted(order)
    assert [row["label"] for row in rows] == [split.classes[split.y[i]] for i in sorted(order)]
    verdicts = next(each for each in run.evaluations() if each.key == told["key"]).right()[1]
    by_number = {int(row["image"]): row for row in rows}
    assert [by_number[i]["attacked_right"] == "True" for i in order] == verdicts.tolist()
    few = split.take(40)
    x_adv = attacked(run.net(), few.x, few.y, PGD(steps=3, eps=run.eps), seed=5)
    for at, number in enumerate(order):
        row = by_number[number]
        # Otherwise the image stays where it was first misclassified.
        if row["attacked_right"] == "True":
            way = (x_adv[at] - few.x[at]).flatten().double()
            assert float(row["linf"]) == pytest.approx(way.abs().max().item())
            assert float(row["l2"]) == pytest.approx(way.norm().item())
        assert 0 < float(row["linf"]) <= run.eps + 1e-6


def test_a_file_s_name_stands_beside_its_own_answer_and_is_no_formula(tmp_path, runs_home, tiny):
    rng = np.random.default_rng(0)
    for at, name in enumerate(("=1+1", "b")):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = rng.integers(100 * at, 100 * at + 80, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    split = data.load(Folder(path=str(tmp_path), size=8), "test")
    images = Images()
    answers = torch.arange(len(split)) % 2
    x = split.take(len(split)).x
    images.see(x, (x + 0.1).clamp(0, 1), answers, 1 - answers)
    for row in images.rows(split):
        assert row["file"] == split.names[row["image"]]
        assert row["file"].startswith(row["label"]) and row["linf"] <= 0.1 + 1e-6
        assert row["clean_right"] != row["attacked_right"]
    images.see(x[:0], x[:0], answers[:0], answers[:0])
    images.attacked = [torch.full_like(answers, -1)]  # what `Counts` stores where outputs are NaN
    assert {row["attacked"] for row in images.rows(split)} == {""}


def test_nothing_else_changes_where_images_are_told(runs_home):
    run = folder.open_run(ID)
    plain = evaluate(run, PGD(steps=2), n=30)
    images = Images()
    told = evaluate(run, PGD(steps=2), n=30, seen=images.see)
    assert (plain.clean_right, plain.robust_right) == (told.clean_right, told.robust_right)
    assert sum(map(len, images.clean)) == 30


@pytest.mark.parametrize(
    "words", [["--attack", "ladder", "--out", "x.csv"], ["--out", "x.npz"], ["--out", "x"]]
)
def test_no_table_is_a_sentence_before_anything_is_measured(words, runs_home, capsys):
    assert cli.main(["evaluate", ID, *words]) == 2
    assert "use a file name ending in .csv" in capsys.readouterr().err
