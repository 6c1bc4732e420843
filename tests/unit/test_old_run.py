"""Tests that a run folder of version 0.1.0, made before the code was reorganised (commit 3e586a8),
opens today with the same numbers.

It was made by `train --data digits --method trades --net small_cnn --epochs 8 --seed 3 --device cpu
--set attack.steps=4`, `evaluate --attack apgd --n 60`, and the probes accuracy_curve and
smallest_eps with `--set n=20`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from robustviz import probes, registry
from robustviz.probes import AccuracyCurveSpec, SmallestEpsSpec
from robustviz.runs.folder import Run, all_runs, open_run
from robustviz.training.evaluate import evaluate
from robustviz.views.measure import probe_of

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "runs"
ID = "digits-trades-small-cnn-s3-46ba9bd7"


@pytest.fixture
def run(runs_home: Path) -> Run:
    shutil.copytree(FIXTURE / ID, runs_home / ID)
    return open_run(ID)


def test_its_settings_are_read_as_they_were_and_give_the_same_id(run: Run) -> None:
    config = run.config
    assert (config.data.key, config.method.key, config.net) == ("digits", "trades", "small_cnn")
    assert (config.eps, config.epochs, config.seed, config.threads) == (0.15, 8, 3, 1)
    assert config.method.attack.steps == 4 and config.run_id == ID
    kept = json.loads((run.path / "config.json").read_text())
    # Settings that are younger than the run are left out, see Option.later.
    asked = registry.encode(config, naming=True)
    assert asked == {name: kept[name] for name in asked}


def test_its_history_and_its_evaluations_are_the_same(run: Run) -> None:
    history = run.metrics()
    assert list(history["epoch"]) == list(range(1, 9))
    assert history["clean_acc"].iloc[-1] == pytest.approx(0.9833333333333333)
    plain, apgd = run.evaluations()
    assert (plain.n, plain.clean_k, plain.robust_k, plain.printed) == (360, 355, 288, "PGD-20")
    assert (apgd.n, apgd.clean_k, apgd.robust_k, apgd.printed) == (60, 57, 48, "APGD-CE-100")
    assert run.evaluation() == plain and len(plain.doctor) == 8
    assert all(finding.ok for finding in plain.doctor)
    assert [known.id for known in all_runs() if known.path == run.path] == [ID]


@pytest.mark.long
def test_its_weights_answer_as_they_did(run: Run) -> None:
    """Another processor rounds differently, so an image at the decision boundary may get another
    prediction.
    """
    kept, again = run.evaluations()[0], evaluate(run, n=360, seed=0)
    assert again.clean_k == kept.clean_k
    assert abs(again.robust_k - kept.robust_k) <= 3


@pytest.mark.long
def test_what_its_probes_kept_is_found_again_and_still_true(run: Run) -> None:
    curve = probe_of(AccuracyCurveSpec()).kept(run, AccuracyCurveSpec())
    assert curve is not None and list(curve.k) == list(probes.accuracy_curve(run).k)
    assert (int(curve.k[0]), int(curve.k[4]), curve.n) == (196, 158, 200)
    spec = SmallestEpsSpec(n=20)
    kept = probe_of(spec).kept(run, spec)
    assert kept is not None
    for file in (run.path / "probes").iterdir():
        file.unlink()
    fresh = probes.smallest_eps(run, spec)
    assert np.allclose(kept.eps, fresh.eps, atol=2 * kept.tolerance)
