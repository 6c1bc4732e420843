"""Tests the study of backgrounds: a tiny run of the whole study, the stored results of the real
one, and its step in the tour.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustviz.data import shapes
from robustviz.registry import options
from robustviz.training.config import TrainConfig
from robustviz.views.screen import wordy
from robustviz.views.tour import background, study
from robustviz.views.tour.study import METHODS, PRESETS, Study, markdown, measure

KEPT = background.read()


@pytest.mark.slow
def test_a_toy_study_is_measured_kept_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setitem(shapes.COUNTS, "test", 20)
    monkeypatch.setitem(shapes.COUNTS, "val", 20)
    toy = Study(seeds=(0,), n=20, n_attacked=4, steps=2, shown=2, n_train=64, epochs=1)
    path = tmp_path / "cue.json"
    found = measure(toy, path)
    assert json.loads(path.read_text("utf-8")) == found
    assert [(cell["method"], cell["cue"]) for cell in found["cells"]] == [
        (method, cue) for method in METHODS for cue in PRESETS
    ]
    for cell in found["cells"]:
        assert all(0 <= cell[name] <= 20 for name in study.GROUNDS)
        assert all(0 <= cell[f"{name}_attacked"] <= 4 for name in study.GROUNDS)
    assert len(markdown(found).splitlines()) == 4 + len(found["cells"])
    told = capsys.readouterr().err
    assert measure(toy, path) == found and capsys.readouterr().err == "", told


@pytest.mark.parametrize("cell", KEPT["cells"], ids=lambda cell: cell["run"])
def test_a_kept_network_is_the_one_that_the_presets_train(cell: dict[str, object]) -> None:
    flags = {"method": cell["method"], "seed": cell["seed"], "device": "cpu"}
    config = TrainConfig.make(PRESETS[str(cell["cue"])], flags, [])
    assert config.run_id == cell["run"]
    assert config == Study().config(str(cell["cue"]), str(cell["method"]), config.seed)


def test_the_pair_differs_in_the_cue_alone() -> None:
    on, off = (TrainConfig.make(name, {}, []) for name in PRESETS.values())
    assert (off.data.cue, on.data.cue) == (0.0, KEPT["protocol"]["cue"]["on"])
    assert {name for name in options(TrainConfig) if getattr(off, name) != getattr(on, name)} == {
        "data"
    }


def test_what_was_found_is_the_lesson() -> None:
    """For every seed: with the cue, a network loses most of its accuracy when backgrounds change;
    without the cue it loses almost nothing.
    """
    n = KEPT["protocol"]["n"]
    for cell in KEPT["cells"]:
        lost = (cell["own"] - cell["other"]) / n
        if cell["method"] == "standard":
            assert lost > 0.5 if cell["cue"] == "on" else abs(lost) < 0.03, cell["run"]


def test_the_step_asks_and_tells_what_was_counted() -> None:
    step, misled = background.step(), background.cell(KEPT, "standard", "on")
    assert misled is not None
    assert step.options[step.right] == f"{misled['other']} of {KEPT['protocol']['n']:,}"
    assert len(set(step.options)) == 3
    assert wordy(f"{step.intro} {step.question} {step.told}") == []
    assert wordy(" ".join([*step.screen.answer, *step.screen.sure])) == []
    assert str(misled["other"]) in step.screen.answer[1]
    assert step.screen.picture.count("<img ") == len(KEPT["images"]) == 6
