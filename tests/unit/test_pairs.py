"""Tests what Compare may say about two runs, and what it must not say."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from robustviz.runs import folder
from robustviz.runs.files import read_json, to_bytes
from robustviz.runs.folder import Run
from robustviz.training.evaluation import Evaluation
from robustviz.views.compare import pairs
from robustviz.views.compare.pairs import Trained
from robustviz.views.screen import wordy
from tests.pages.conftest import ordinary


@functools.cache
def seeds() -> list[Trained]:
    return [pairs._shipped(path) for path in sorted(pairs.SEEDS.glob("*.json"))]


@functools.cache
def every(data: str) -> list[Trained]:
    return pairs.every_seed(data)


def settings(method: str) -> dict[str, object]:
    return next(
        {**one.settings}
        for one in every("digits")
        if one.method == method and one.settings["net"] == "small_resnet"
    )


def simulated(method: str, shares: np.ndarray, n: int = 10_000) -> list[Trained]:
    """Returns one training per share, whose seed is its position and whose other settings are as
    shipped.
    """
    out = []
    for seed, share in enumerate(shares):
        found = Evaluation(
            {"key": "pgd", "steps": 20},
            float(settings(method)["eps"]),
            n,
            n,
            round(share * n),
            0,
            "test",
            1.0,
            "cpu",
            images="one",
        )
        out.append(Trained(settings(method) | {"seed": seed}, (found,)))
    return out


def test_two_seeds_of_one_method_never_yield_a_sentence_about_methods() -> None:
    known = [*every("digits"), *every("shapes")]
    groups: dict[str, list[Trained]] = {}
    for one in [*known, *seeds()]:
        groups.setdefault(one.method + str(one.settings["data"]), []).append(one)
    alike = [pair for group in groups.values() for pair in itertools.combinations(group, 2)]
    assert len(alike) > 300
    for first, second in alike:
        found = pairs.methods(first, second, known)
        assert found.effect is None and not found.shown
        assert found.lines == ("Both have the same method, so methods are not compared.",)


def test_many_simulated_seeds_of_one_method_say_nothing_about_methods() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        group = simulated("pgd_at", 0.8 + 0.02 * rng.standard_normal(10))
        assert pairs.methods(group[0], group[1], group).effect is None


def test_below_three_seeds_a_side_nothing_is_said() -> None:
    a, b = (simulated(key, np.array([0.2, 0.2]) + gain) for key, gain in TWO)
    found = pairs.methods(a[0], b[0], [*a, *b])
    assert found.effect is None and found.lines[0].startswith(
        "2 seeds were trained with both methods"
    )
    assert "--seeds 0,1,2 --methods fgsm_at,pgd_at --data digits" in found.lines[1]
    a, b = (simulated(key, np.array([0.2, 0.21, 0.22]) + gain) for key, gain in TWO)
    other = [dataclasses.replace(one, settings=one.settings | {"seed": 7}) for one in b[:1]]
    # Only seeds of both methods count.
    assert pairs.methods(a[0], b[0], [*a, *other, *b[1:]]).seeds == 2
    found = pairs.methods(a[0], b[0], [*a, *b])
    assert found.seeds == 3 and found.effect == pytest.approx(0.3)


TWO = (("fgsm_at", 0.0), ("pgd_at", 0.3))


@pytest.mark.parametrize("true", [0.0, 0.014, 0.03])
def test_an_effect_of_known_size_is_shown_as_often_as_it_should(true: float) -> None:
    """Ten seeds whose differences have a standard deviation of 0.018. The paired t test shows an
    effect of 0 in 5%, and by the noncentral t distribution an effect of 0.014 in 59% and of 0.03 in
    99.6% of simulations. The interval contains the true effect in 95%.
    """
    from scipy import stats

    rng, times, shown, inside = np.random.default_rng(1), 300, 0, 0
    for _ in range(times):
        start = rng.normal(0.5, 0.03, 10)  # The effect of the seed on both methods.
        a = simulated("fgsm_at", start)
        b = simulated("pgd_at", start + rng.normal(true, 0.018, 10))
        found = pairs.methods(a[0], b[0], [*a, *b])
        assert found.low is not None and found.high is not None
        shown += found.shown
        inside += found.low <= true <= found.high
    assert 0.915 <= inside / times <= 0.985  # 95%, within 2.8 standard errors.
    centre, edge = true / 0.018 * 10**0.5, stats.t.ppf(0.975, 9)
    stated = stats.nct.sf(edge, 9, centre) + stats.nct.cdf(-edge, 9, centre) if true else 0.05
    assert abs(shown / times - stated) < 3 * (stated * (1 - stated) / times) ** 0.5


def test_the_shipped_seeds_tell_two_methods_apart() -> None:
    known = every("digits")
    a, b = (pairs.trained(ordinary("digits", key)) for key in ("standard", "fgsm_at"))
    found = pairs.methods(a, b, known)
    assert found.shown and found.seeds >= 3 and found.effect is not None and found.effect > 0.3
    assert found.lines[0].startswith(f"Over {found.seeds} seeds FGSM-AT is right ")
    assert "n = 360" in found.lines[-1]
    wide = pairs.methods(a, b, known, at_once=3)
    assert wide.high - wide.low > found.high - found.low  # type: ignore[operator]
    assert wide.effect == found.effect
    for line in (*found.lines, *wide.lines):
        assert not wordy(line), line


def test_settings_besides_the_method_are_not_the_method() -> None:
    a, b = (simulated(key, np.full(4, 0.5)) for key, _ in TWO)
    b = [dataclasses.replace(one, settings=one.settings | {"epochs": 7}) for one in b]
    found = pairs.methods(a[0], b[0], [*a, *b])
    assert found.effect is None and found.lines[0].startswith("More than the method differs")


def changed(tmp_path: Path, name: str, **more: object) -> Run:
    """Returns a copy of the shipped PGD-AT run with other settings."""
    path = tmp_path / name
    ours = ("config.json", "eval.json", "net.safetensors")
    path.mkdir()
    for each in ours:
        shutil.copy(ordinary("digits", "pgd_at").path / each, path)
    config = read_json(path / "config.json") | more
    (path / "config.json").write_bytes(to_bytes(config))
    return Run(path)


def test_what_differs_between_two_trainings_is_said(tmp_path: Path) -> None:
    run, fgsm = ordinary("digits", "pgd_at"), ordinary("digits", "fgsm_at")
    assert pairs.kin(run, fgsm) == "Same seed, same batches: what differs is the method."
    other = changed(tmp_path, "s1", seed=1)
    assert (
        pairs.kin(run, other) == "Same settings, different seeds: any difference is due to chance."
    )
    assert pairs.kin(run, run) == "Same settings, same seed: the same training twice."
    both = pairs.kin(other, fgsm)
    assert both.startswith("They differ in method and seed: this pair alone cannot tell")
    method = {**run.info["method"], "attack": {**run.info["method"]["attack"], "steps": 7}}
    steps = changed(tmp_path, "steps", method=method)
    assert (
        pairs.kin(run, steps) == "Same seed, same batches: what differs is a setting of the method."
    )
    margin = pairs.kin(run, ordinary("digits", "supcon_margin"))
    assert (
        margin.startswith("Same seed, but one method draws balanced batches") or "differ" in margin
    )


def test_other_data_and_other_test_images_are_refused(tmp_path: Path) -> None:
    run = ordinary("digits", "pgd_at")
    assert pairs.apart(run, ordinary("digits", "fgsm_at")) == ""
    said = pairs.apart(run, ordinary("shapes", "pgd_at"))
    assert "choose networks of one data set" in said and said.count(". ") == 0
    other = changed(tmp_path, "split")
    text = (other.path / "eval.json").read_text("utf-8")
    for number, each in enumerate({one.images for one in run.evaluations() if one.images}):
        text = text.replace(each, f"{number:016d}")
    (other.path / "eval.json").write_text(text, "utf-8")
    said = pairs.apart(run, Run(other.path))
    assert "different images" in said and "evaluate both on the same split" in said


def test_one_network_against_one_is_said_with_its_paired_interval() -> None:
    a, b = (pairs.trained(ordinary("digits", key)) for key in ("standard", "fgsm_at"))
    found = pairs.network(a, b, ("A", "B"))
    assert found.line.startswith("B is more robust: it is right on ") and "of 360" in found.line
    assert any("Tango, paired" in line for line in found.sure)
    assert "one training seed each" in found.sure[0]


def test_every_damaged_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "SEEDS", tmp_path)
    (tmp_path / "digits-broken.json").write_text("{", "utf-8")
    (tmp_path / "digits-empty.json").write_text("{}", "utf-8")
    known = pairs.every_seed("digits")
    assert len(known) == len(
        [run for run in folder.all_runs() if run.data_key == "digits" and not run.imported]
    )
