"""Tests the Features probe: its results for a shipped network equal those of an independent
computation, and noise does not count as an attack.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import davies_bouldin_score, pairwise_distances, silhouette_score
from sklearn.metrics.pairwise import cosine_similarity

from robustviz import cli, measures, probes
from robustviz.attacks import PGD
from robustviz.nets import frozen
from robustviz.probes import FeaturesSpec
from robustviz.runs import catalogue, folder
from robustviz.runs.naming import unusual
from robustviz.training.evaluate import attacked, count_right
from robustviz.types import UserError
from robustviz.views.features.result import Features
from robustviz.views.measure import images_of, net_of

ROOM = sys.modules["robustviz.views.features.probe"]
SPEC = FeaturesSpec(n=120, steps=10, k=5)


def shipped(method: str, data: str = "digits") -> folder.Run:
    found = (
        run
        for run in folder.all_runs()
        if run.shipped and not unusual(run) and run.data_key == data and run.method_key == method
    )
    return next(
        run for run in found if run.architecture == "small_resnet" and run.info["seed"] == 0
    )


@pytest.fixture
def run(runs_home):
    return shipped("standard")


@pytest.mark.long
def test_features_are_what_the_head_reads_and_the_answers_are_the_networks(run) -> None:
    # Two batches.
    found, net, split = (
        probes.features(run, FeaturesSpec(n=300, steps=3)),
        net_of(run),
        images_of(run),
    )
    few = split.take(torch.arange(300))
    assert np.array_equal(found.y, few.y.numpy()) and np.array_equal(found.index, np.arange(300))
    with frozen(net), torch.no_grad():
        logits, from_features = net(few.x), net.head(torch.from_numpy(found.clean))
    assert torch.allclose(from_features, logits, atol=1e-5)
    assert np.array_equal(found.pred, logits.argmax(1).numpy())
    attack = PGD(eps=run.eps, steps=3)
    right = count_right(net, few.x, few.y, attack).numpy()
    assert np.array_equal(found.pred_adv == found.y, right), (
        "not the attack that an evaluation counts"
    )
    x_adv = attacked(net, few.x, few.y, attack)
    with frozen(net), torch.no_grad():
        assert np.allclose(found.adversarial, net.pool(net.maps(x_adv)).numpy(), atol=1e-5)
        x_noise = few.x + run.eps * (
            2 * torch.rand(few.x.shape, generator=torch.Generator().manual_seed(0)) - 1
        )
        assert np.allclose(found.noise, net.pool(net.maps(x_noise.clamp(0, 1))).numpy(), atol=1e-4)
    change = (x_adv - few.x).abs().flatten(1).amax(1).numpy()
    far = np.linalg.norm(found.adversarial - found.clean, axis=1)
    assert np.allclose(found.lipschitz_adv, far / change, rtol=1e-4)


def test_every_measure_equals_an_independent_computation(run) -> None:
    found = probes.features(run, SPEC)
    y, same = found.y, found.y[:, None] == found.y
    off = ~np.eye(len(y), dtype=bool)
    clean = found.clean.astype(np.float64)
    centres = np.stack([clean[y == c].mean(0) for c in range(10)])
    for name, pred in (
        ("clean", found.pred),
        ("adversarial", found.pred_adv),
        ("noise", found.pred_noise),
    ):
        z = getattr(found, name).astype(np.float64)
        squared = 2 - 2 * cosine_similarity(z)
        vote = {}
        for place, bank in (("accuracy", z), ("among_clean", clean)):
            far = pairwise_distances(z, bank)
            np.fill_diagonal(far, np.inf)
            near = y[far.argsort(axis=1, kind="stable")[:, :5]]
            vote[place] = near, np.array([np.bincount(row, minlength=10).argmax() for row in near])
        to = cosine_similarity(z, centres)
        between = cosine_similarity(centres, np.stack([z[y == c].mean(0) for c in range(10)]))
        cka = np.linalg.norm((z - z.mean(0)).T @ (clean - clean.mean(0))) ** 2
        cka /= np.linalg.norm(np.cov(z.T) * (len(z) - 1)) * np.linalg.norm(
            np.cov(clean.T) * (len(z) - 1)
        )
        expected = {
            "accuracy": np.mean(pred == y),
            "alignment": squared[same & off].mean(),
            "uniformity": np.log(np.exp(-2 * squared[off]).mean()),
            "silhouette": silhouette_score(z, y),
            "davies_bouldin": davies_bouldin_score(z, y),
            "knn_accuracy": np.mean(vote["accuracy"][1] == y),
            "neighbourhood_hit": np.mean(vote["accuracy"][0] == y[:, None]),
            "knn_among_clean": np.mean(vote["among_clean"][1] == y),
            "hit_among_clean": np.mean(vote["among_clean"][0] == y[:, None]),
            "own_cosine": to[np.arange(len(y)), y].mean(),
            "other_cosine": np.where(np.arange(10) == y[:, None], -1, to).max(axis=1).mean(),
            "centre_own": np.diag(between).mean(),
            "centre_other": between[~np.eye(10, dtype=bool)].mean(),
            "twin_alignment": np.mean(2 - 2 * np.diag(cosine_similarity(clean, z))),
            "cka": cka,
            "lipschitz": {
                "clean": 0.0,
                "adversarial": found.lipschitz_adv.mean(),
                "noise": found.lipschitz_noise.mean(),
            }[name],
            "moved": (
                np.linalg.norm(z - clean, axis=1).mean()
                / pairwise_distances(centres)[~np.eye(10, dtype=bool)].mean()
            ),
        }
        assert found.measures[name] == pytest.approx(expected, abs=1e-6), name
        stored = {
            "clean": found.centres_clean,
            "adversarial": found.centres_adv,
            "noise": found.centres_noise,
        }[name]
        assert np.allclose(stored, between, atol=1e-9)


def test_noise_of_the_same_eps_moves_features_far_less_than_the_attack(run) -> None:
    found = probes.features(run, SPEC)
    assert np.mean(found.moved_noise < found.moved_adv) > 0.98
    assert found.measures["adversarial"]["moved"] > 3 * found.measures["noise"]["moved"]
    assert (
        found.measures["noise"]["knn_among_clean"]
        > 0.9
        > 0.3
        > found.measures["adversarial"]["knn_among_clean"]
    )


def test_adversarial_training_keeps_features_in_place(run) -> None:
    ordinary, trained = probes.features(run, SPEC), probes.features(shipped("pgd_at"), SPEC)
    assert trained.measures["adversarial"]["moved"] < ordinary.measures["adversarial"]["moved"] / 2
    assert (
        trained.measures["adversarial"]["knn_among_clean"]
        > ordinary.measures["adversarial"]["knn_among_clean"] + 0.5
    )


def test_the_same_is_computed_twice_and_the_second_time_read(run, tmp_path, monkeypatch) -> None:
    first = probes.features(run, SPEC)
    (kept,) = (run.notes / "probes").glob("features-*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(ROOM, "features_of", None)  # Any computation would raise an error now.
        read = probes.features(run, SPEC)
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "elsewhere"))
    again = probes.features(run, SPEC)
    assert kept.exists() and read.measures == first.measures == again.measures
    for field in dataclasses.fields(Features):
        if isinstance(getattr(first, field.name), np.ndarray):
            assert np.array_equal(
                getattr(first, field.name), getattr(again, field.name), equal_nan=True
            ), field.name
            assert np.array_equal(
                getattr(first, field.name), getattr(read, field.name), equal_nan=True
            ), field.name


def test_the_sentence_has_the_measures_numbers(run) -> None:
    found = probes.features(run, SPEC)
    adv, noise = found.measures["adversarial"], found.measures["noise"]
    for value in (
        adv["own_cosine"],
        adv["other_cosine"],
        noise["own_cosine"],
        adv["knn_among_clean"],
        noise["knn_among_clean"],
    ):
        assert f"{value:.2f}" in found.meta["summary"]
    assert "PGD-10" in found.meta["summary"] and "5-NN" in found.meta["summary"]


def test_the_command_writes_a_file_that_reads_back(run, tmp_path, capsys) -> None:
    out = tmp_path / "F.npz"
    assert (
        cli.main(
            [
                "probe",
                run.id,
                "features",
                "--out",
                str(out),
                "--set",
                "n=40",
                "--set",
                "steps=2",
                "--set",
                "k=3",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["spec"]["n"] == 40
    found = Features.from_npz(out.read_bytes())
    assert (
        found.clean.shape == (40, 64)
        and found.clean.dtype == np.float32
        and set(found.measures) == {"clean", "adversarial", "noise"}
    )


def test_eps_0_moves_nothing(run) -> None:
    found = probes.features(run, dataclasses.replace(SPEC, eps=0.0))
    assert not found.moved_adv.any() and not found.lipschitz_noise.any()
    assert found.measures["adversarial"] == pytest.approx(found.measures["clean"], abs=1e-9)


def test_a_run_of_the_l2_norm_is_attacked_in_linf_at_its_data_s_radius(run, monkeypatch) -> None:
    usual = probes.features(run, SPEC)
    monkeypatch.setattr(catalogue, "is_l2", lambda run: True)
    monkeypatch.setattr(folder.Run, "eps", 1.0)
    found = probes.features.answer(run, SPEC)
    assert found.meta["norm"] == "linf" and found.meta["eps"] == run.config.data.default_eps
    assert np.array_equal(found.adversarial, usual.adversarial)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (FeaturesSpec(n=5, k=2, steps=1), "no class has two"),
        (FeaturesSpec(n=40, k=40, steps=1), "at least 41 points"),
    ],
)
def test_too_few_images_are_one_clear_sentence(run, spec, says) -> None:
    with pytest.raises(UserError, match=says):
        probes.features(run, spec)


def test_a_class_without_an_image_changes_no_mean(run) -> None:
    found = probes.features(run, SPEC)
    clean, adv, y, pred = (
        torch.from_numpy(part) for part in (found.clean, found.adversarial, found.y, found.pred_adv)
    )
    centres = measures.centre_cosines(clean, adv, y, 11)
    moved = measures.Displacement(
        torch.from_numpy(found.lipschitz_adv), torch.from_numpy(found.moved_adv)
    )
    assert ROOM.describe(adv, clean, y, pred, 5, centres, moved) == pytest.approx(
        found.measures["adversarial"], abs=1e-12
    )
