"""Tests the overlap of maps with the true object: golden cases, a reference with loops over images,
and the table that the command prints.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robustviz import cam, cli, figures, probes
from robustviz.attacks import PGD
from robustviz.probes import OverlapSpec
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.stats import mean_interval, wilson
from robustviz.training.evaluate import attacked
from robustviz.types import UserError
from robustviz.views.attention.overlap import overlaps
from robustviz.views.attention.result import Overlap
from robustviz.views.measure import images_of, net_of
from robustviz.views.screen import wordy

SPEC = OverlapSpec(n=30, steps=3)


def shipped(data: str, method: str = "standard") -> folder.Run:
    found = (
        run
        for run in folder.all_runs()
        if run.shipped and not unusual(run) and (run.data_key, run.method_key) == (data, method)
    )
    return next(
        run for run in found if run.architecture == "small_resnet" and run.info["seed"] == 0
    )


@pytest.fixture
def run(runs_home) -> folder.Run:
    return shipped("shapes")


def test_a_map_that_is_the_object_scores_one_and_its_opposite_nothing() -> None:
    objects = np.zeros((1, 4, 4), bool)
    objects[0, :2, :2] = True
    heat = torch.from_numpy(objects.astype(np.float32))
    iou, pointing, energy, silent, share = overlaps(heat, "heat>0.5", objects)
    assert (iou, pointing, energy, silent, share) == (1, 1, 1, False, 0.25)
    iou, pointing, energy, silent, _ = overlaps(1 - heat, "heat>0.5", objects)
    assert (iou, pointing, energy, silent) == (0, 0, 0, False)


@pytest.mark.parametrize(
    "heat",
    [
        torch.zeros(1, 2, 2),
        torch.ones(1, 2, 2),
        torch.tensor([[[-1.0, -2.0], [-3.0, -1.0]]]),
        torch.full((1, 2, 2), float("nan")),
    ],
)
def test_a_map_that_says_nothing_counts_as_a_blind_guess(heat) -> None:
    objects = np.zeros((1, 4, 4), bool)
    objects[0, 0] = True
    iou, pointing, energy, silent, share = overlaps(heat, "z>1", objects)
    assert silent.all() and share == 1 and iou == pointing == 0.25 and energy == pytest.approx(0.25)


@pytest.mark.long
def test_every_number_is_what_a_loop_over_images_finds(run) -> None:
    found = probes.overlap.answer(run, SPEC)
    few, net = images_of(run).take(torch.arange(30)), net_of(run)
    shown = {0: few.x, 1: attacked(net, few.x, few.y, PGD(eps=run.eps, steps=3))}
    for row, x in shown.items():
        for i in range(30):
            heat = cam.grad_cam(net, x[i : i + 1], few.y[i : i + 1])
            mask, there = cam.importance_mask(heat, "z>1", (32, 32))[0, 0], few.masks[i, 0]
            assert found.iou[row, i] == pytest.approx(
                int((mask & there).sum()) / int((mask | there).sum())
            )
            whole = F.interpolate(
                heat.double().relu()[None], (32, 32), mode="bilinear", align_corners=False
            )[0, 0]
            assert found.energy[row, i] == pytest.approx(
                float(whole[there].sum() / whole.sum()), abs=1e-6
            )
            tops = [
                (r, c)
                for r in range(32)
                for c in range(32)
                if whole[r, c] > whole.max() * (1 - 1e-9)
            ]
            assert found.pointing[row, i] == pytest.approx(
                sum(bool(there[at]) for at in tops) / len(tops)
            )
            assert found.area[i] == pytest.approx(float(there.float().mean()))
    assert found.interval("iou", 0) == pytest.approx(mean_interval(found.iou[0]))
    assert found.interval("pointing", 1)[1:] == pytest.approx(wilson(found.pointing[1].sum(), 30))


def test_chance_is_what_scattered_masks_get(run) -> None:
    found = probes.overlap.answer(run, SPEC)
    objects = images_of(run).take(torch.arange(30)).masks[:, 0].numpy().reshape(30, -1)
    rng, marked = np.random.default_rng(0), 200
    share = marked / 1024
    thrown = [rng.permuted(np.arange(1024)[None].repeat(30, 0) < marked, axis=1) for _ in range(50)]
    seen = np.mean([(mask & objects).sum(1) / (mask | objects).sum(1) for mask in thrown])
    formula = share * found.area / (share + found.area - share * found.area)
    assert seen == pytest.approx(formula.mean(), abs=0.002)
    assert (found.chance > 0).all() and (found.chance < found.area + 0.2).all()


@pytest.mark.long
def test_only_the_same_images_are_compared(run) -> None:
    found = probes.overlap.answer(run, SPEC)
    assert found.gap(found, "iou", 0) == (0, 0, 0)
    other = dataclasses.replace(found, index=found.index + 1)
    with pytest.raises(UserError, match="same images"):
        found.gap(other, "iou", 0)
    said = figures.overlap({"A Standard": found, "B Standard": other}).layout.meta["sentence"]
    assert "cannot be compared" in said


def test_the_figure_says_higher_only_where_the_interval_says_so(run) -> None:
    found = probes.overlap.answer(run, SPEC)
    better = dataclasses.replace(found, iou=np.minimum(found.iou + 0.1, 1), meta=found.meta)
    with pytest.raises(UserError, match="one or two networks, and got 3"):
        figures.overlap({"A": found, "B": better, "C": better})
    figure = figures.overlap({"A Standard": found, "B PART": better})
    said = figure.layout.meta["sentence"]
    assert (
        "IoU of the mask +0.10" in said
        and "]: higher.  \npointing game +0.00" in said
        and said.count("no difference shown") == 2
        and not wordy(said)
    )
    assert (
        len(figure.data) == 7
        and len(figure.to_json()) < 400 * 1024
        and "PGD-3" in figure.layout.meta["sure"]
        and "n = 30" in figure.layout.meta["sure"]
    )
    one = dataclasses.replace(
        found,
        **{name: getattr(found, name)[:, :1] for name in ("iou", "pointing", "energy")},
        **{name: getattr(found, name)[:1] for name in ("area", "chance", "index", "y")},
    )
    for shown in (one, {"A Standard": one, "B Standard": one}):
        said = figures.overlap(shown).layout.meta["sentence"]
        assert "inf" not in said and "nan" not in said and "higher" not in said


def test_what_cannot_be_measured_is_one_clear_sentence(run, runs_home, capsys) -> None:
    with pytest.raises(UserError, match="only on the data set shapes"):
        probes.overlap(shipped("digits"), SPEC)
    for setting in ("rule=oracle", "rule=jet-compat", "rule=abc", "n=0", "eps=9", "method=x"):
        assert cli.main(["probe", run.id, "overlap", "--set", setting]) == 2
        assert "unexpected" not in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_the_report_has_a_row_a_run_with_intervals(run, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        OverlapSpec,
        "__init__",
        lambda self: [object.__setattr__(self, k, v) for k, v in vars(SPEC).items()] and None,
    )
    digits = shipped("digits")
    assert cli.main(["report", "--overlap", run.id, digits.id, "--json"]) == 0
    out = capsys.readouterr()
    (row,) = json.loads(out.out)
    found = probes.overlap(run, SPEC)
    assert [row["iou"]["clean"][name] for name in ("mean", "low", "high")] == pytest.approx(
        found.interval("iou", 0)
    )
    assert row["run"] == run.id and row["n"] == 30 and "only on the data set shapes" in out.err
    assert cli.main(["report", "--overlap", run.id]) == 0
    assert (
        "{:.3f} [{:.3f}, {:.3f}]".format(*found.interval("pointing", 1)) in capsys.readouterr().out
    )
    assert (
        cli.main(["report", "--overlap", digits.id]) == 1
        and "only on the data set shapes" in capsys.readouterr().err
    )
    assert (
        cli.main(["report", "--overlap", digits.id, digits.id]) == 1
        and "None of these runs" in capsys.readouterr().err
    )
    assert cli.main(["report", "--overlap", "--ladder"]) == 2
    assert (
        cli.main(["report", "--overlap", "no-such-run"]) != 0
        and "unexpected" not in capsys.readouterr().err
    )


def test_the_command_writes_a_table_and_what_reads_back(run, tmp_path) -> None:
    for name in ("F.npz", "F.csv"):
        assert (
            cli.main(
                [
                    "probe",
                    run.id,
                    "overlap",
                    "--set",
                    "n=5",
                    "--set",
                    "steps=1",
                    "--out",
                    str(tmp_path / name),
                ]
            )
            == 0
        )
    found = Overlap.from_npz((tmp_path / "F.npz").read_bytes())
    assert found.iou.shape == (3, 5) and len((tmp_path / "F.csv").read_text().splitlines()) == 6
