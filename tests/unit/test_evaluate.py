"""Accuracy under attack: counted right, written down completely, the same when repeated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from robustviz import data, evaluate, runs
from robustviz.attacks import FGSM, PGD
from robustviz.config import TrainConfig
from robustviz.data import Dataset
from robustviz.evaluate import count_right, measure
from robustviz.results import Evaluation, Finding
from robustviz.runs import Run
from robustviz.training import Training
from robustviz.types import UserError

if TYPE_CHECKING:
    from conftest import Toy


def test_clean_accuracy_equals_brute_force(toy: Toy) -> None:
    x, y = toy.x + 0.2 * torch.randn(toy.x.shape, generator=torch.Generator().manual_seed(0)), toy.y
    brute = []
    for i in range(len(x)):
        logits = toy.net(x[i : i + 1])[0].tolist()
        brute.append(max(range(4), key=logits.__getitem__) == int(y[i]))
    assert 0 < sum(brute) < len(brute)
    assert count_right(toy.net, x, y).tolist() == brute


def test_robust_accuracy_equals_brute_force_batch_by_batch(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "BATCH", 30)  # 80 images: 30, 30, 20
    attack = PGD(eps=0.03, steps=3)
    brute = []
    for number, start in enumerate((0, 30, 60)):
        x, y = toy.x[start : start + 30], toy.y[start : start + 30]
        x_adv = attack(toy.net, x, y, rng=torch.Generator().manual_seed(5 * 1_000_003 + number))
        brute += (toy.net(x_adv).argmax(1) == y).tolist()
    assert 0 < sum(brute) < len(brute)
    assert count_right(toy.net, toy.x, toy.y, attack, seed=5).tolist() == brute


def test_a_beginning_of_the_images_gets_the_same_verdicts(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "BATCH", 20)
    attack = PGD(eps=0.03, steps=3)
    whole = count_right(toy.net, toy.x, toy.y, attack)
    assert torch.equal(count_right(toy.net, toy.x[:40], toy.y[:40], attack), whole[:40])


def test_no_images_are_no_verdicts_and_no_evaluation(toy: Toy) -> None:
    assert count_right(toy.net, toy.x[:0], toy.y[:0], PGD(eps=0.1)).shape == (0,)
    with pytest.raises(UserError, match="no images"):
        measure(toy.net, split(toy).take(0), PGD(eps=0.1))


def split(toy: Toy) -> Dataset:
    return Dataset("toy", "test", (toy.x * 255).round().to(torch.uint8), toy.y, ("a", "b", "c", "d"))


def test_a_measurement_counts_on_all_images_and_leaves_the_net_alone(toy: Toy) -> None:
    images = split(toy)
    attack = PGD(eps=0.03, steps=3)
    looks: list[int] = []
    found = measure(toy.net, images, attack, seed=2, tick=lambda: looks.append(1))
    assert (found.n, found.split, found.seed, found.eps, found.device) == (80, "test", 2, 0.03, "cpu")
    assert found.clean_k == int(count_right(toy.net, images.x, images.y).sum())
    assert found.robust_k == int(count_right(toy.net, images.x, images.y, attack, seed=2).sum()) < found.clean_k
    assert found.attack["steps"] == 3 and found.attack["key"] == "pgd" and found.doctor and looks
    assert not toy.net.training and all(p.requires_grad and p.grad is None for p in toy.net.parameters())
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(measure(toy.net, images, attack, seed=2), seconds=0)


# Of a run.


@pytest.fixture
def run(runs_home: Path, small_splits: None, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with weights, made by hand."""
    monkeypatch.setattr(evaluate, "examine", lambda *a, **k: ())
    made = runs.create(dataclasses.replace(tiny, method="pgd_at"))
    net = Training(made.config).net
    made.save_weights("net.safetensors", net.state_dict())
    runs.write_file(made.path / "config.json", runs.to_bytes(made.info | {"images": {"classes": 10, "channels": 1, "size": 8}}))
    return runs.open_run(made.id)


def test_a_plain_evaluation_is_pgd_20_at_the_runs_eps_on_the_whole_test_split(run: Run) -> None:
    found = evaluate.evaluate(run)
    assert (found.attack["key"], found.attack["steps"], found.attack["restarts"], found.attack["start"], found.attack["step_size"]) == (
        "pgd",
        20,
        1,
        "uniform",
        None,
    )
    assert (found.eps, found.n, found.seed, found.split) == (0.15, 40, 0, "test")
    test = data.load("digits", "test")
    by_hand = count_right(run.net(), test.take(len(test)).x, test.take(len(test)).y, PGD(eps=0.15, steps=20))
    assert found.robust_k == int(by_hand.sum())
    assert run.evaluation() == found == run.evaluation(found.key) and run.evaluation("nonsense") is None


def test_each_protocol_is_kept_once_and_the_plain_one_is_found_among_them(run: Run) -> None:
    assert run.evaluation() is None
    made = [
        evaluate.evaluate(run, FGSM()), evaluate.evaluate(run, n=10), evaluate.evaluate(run, PGD(steps=20), eps=0.3),
        evaluate.evaluate(run, seed=1), evaluate.evaluate(run, PGD(steps=20, restarts=2)), plain := evaluate.evaluate(run),
    ]  # fmt: skip
    assert len({found.key for found in made}) == 6
    assert run.evaluation() == plain
    evaluate.evaluate(run)
    assert [found.key for found in run.evaluations()][:5] == [found.key for found in made][:5] and len(run.evaluations()) == 6


def test_n_takes_the_beginning_of_the_stratified_permutation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Dataset] = []
    monkeypatch.setattr(evaluate, "measure", lambda net, split, attack, **k: seen.append(split) or kept())  # type: ignore[func-returns-value]
    evaluate.evaluate(run, n=10)
    assert torch.equal(seen[0].images, data.load("digits", "test").take(10).images) and sorted(seen[0].y.tolist()) == list(range(10))


def kept() -> Evaluation:
    return Evaluation({"key": "pgd"}, 0.1, 10, 9, 5, 0, "test", 1.0, "cpu", (Finding("budget", True, 0.1, "Fine."),))


def test_a_shipped_run_is_evaluated_into_the_cache_and_stays_as_it_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo").mkdir()
    run.path.rename(tmp_path / "zoo" / run.id)
    monkeypatch.setattr(runs, "zoo", lambda: tmp_path / "zoo")
    shipped = runs.open_run(run.id)
    assert shipped.shipped
    before = {path: path.read_bytes() for path in shipped.path.rglob("*") if path.is_file()}
    found = evaluate.evaluate(shipped)
    assert {path: path.read_bytes() for path in shipped.path.rglob("*") if path.is_file()} == before
    assert (runs.home() / ".zoo-cache" / run.id / "eval.json").is_file() and shipped.evaluation() == found


def test_a_run_without_weights_is_one_clear_sentence(run: Run) -> None:
    (run.path / "net.safetensors").unlink()
    with pytest.raises(UserError, match="has not finished an epoch"):
        evaluate.evaluate(run)
