"""Tests accuracy under attack: it is counted correctly, saved completely, and the same when
repeated.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from robustviz import data, registry
from robustviz.attacks import CW, FGSM, PGD, AutoAttack
from robustviz.cli import main
from robustviz.data import Dataset
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.training import evaluate
from robustviz.training.config import TrainConfig
from robustviz.training.doctor import Consult
from robustviz.training.evaluate import count_right, measure
from robustviz.training.evaluation import Evaluation, Finding, attack_name, paired
from robustviz.training.loop import Training
from robustviz.types import UserError

if TYPE_CHECKING:
    from conftest import Toy

NOTHING = Consult(unbounded=0, pgd20=0, pgd60=0, square=0)


def test_clean_accuracy_equals_brute_force(toy: Toy) -> None:
    x, y = (
        (toy.x + 0.2 * torch.randn(toy.x.shape, generator=torch.Generator().manual_seed(0))).clamp(
            0, 1
        ),
        toy.y,
    )
    brute = []
    for i in range(len(x)):
        logits = toy.net(x[i : i + 1])[0].tolist()
        brute.append(max(range(4), key=logits.__getitem__) == int(y[i]))
    assert 0 < sum(brute) < len(brute)
    assert count_right(toy.net, x, y).tolist() == brute


def test_robust_accuracy_equals_brute_force_batch_by_batch(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The 80 images are split into batches of 30, 30 and 20.
    monkeypatch.setattr(evaluate, "BATCH", 30)
    attack = PGD(eps=0.03, steps=3)
    brute = []
    for number, start in enumerate((0, 30, 60)):
        x, y = toy.x[start : start + 30], toy.y[start : start + 30]
        x_adv = attack(toy.net, x, y, rng=torch.Generator().manual_seed(5 * 1_000_003 + number))
        brute += (toy.net(x_adv).argmax(1) == y).tolist()
    assert 0 < sum(brute) < len(brute)
    assert count_right(toy.net, toy.x, toy.y, attack, seed=5).tolist() == brute


def test_a_beginning_of_the_images_gets_the_same_verdicts(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BATCH", 20)
    attack = PGD(eps=0.03, steps=3)
    whole = count_right(toy.net, toy.x, toy.y, attack)
    assert torch.equal(count_right(toy.net, toy.x[:40], toy.y[:40], attack), whole[:40])


def test_no_images_are_no_verdicts_and_no_evaluation(toy: Toy) -> None:
    assert count_right(toy.net, toy.x[:0], toy.y[:0], PGD(eps=0.1)).shape == (0,)
    with pytest.raises(UserError, match="no images"):
        measure(toy.net, split(toy).take(0), PGD(eps=0.1))


def split(toy: Toy) -> Dataset:
    return Dataset(
        "toy", "test", (toy.x * 255).round().to(torch.uint8), toy.y, ("a", "b", "c", "d")
    )


def test_a_measurement_counts_on_all_images_and_leaves_the_net_alone(toy: Toy) -> None:
    images = split(toy)
    attack = PGD(eps=0.03, steps=3)
    looks: list[int] = []
    found = measure(
        toy.net, images, attack, seed=2, tick=lambda: looks.append(1), consulted=NOTHING
    )
    ends = [evaluate.seen(tick, len(images)) for tick in range(len(looks))]
    # The doctor's attacks are not counted, because `consulted` holds their result already.
    assert ends[0] == (0, 560) and ends[-1] == (80, 560)
    assert (found.n, found.split, found.seed, found.eps, found.device) == (
        80,
        "test",
        2,
        0.03,
        "cpu",
    )
    assert found.clean_k == int(count_right(toy.net, images.x, images.y).sum())
    assert (
        found.robust_k
        == int(count_right(toy.net, images.x, images.y, attack, seed=2).sum())
        < found.clean_k
    )
    assert found.attack["steps"] == 3 and found.attack["key"] == "pgd" and found.doctor and looks
    assert not toy.net.training and all(
        p.requires_grad and p.grad is None for p in toy.net.parameters()
    )
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(
        measure(toy.net, images, attack, seed=2, consulted=NOTHING), seconds=0
    )


# Evaluations of a run.


@pytest.fixture
def run(
    runs_home: Path, small_splits: None, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Creates a run with untrained weights."""
    monkeypatch.setattr(evaluate, "examine", lambda *a, **k: ())
    made = folder.create(dataclasses.replace(tiny, method="pgd_at"))
    net = Training(made.config).net
    made.save_weights("net.safetensors", net.state_dict())
    folder.write_file(
        made.path / "config.json",
        folder.to_bytes(made.info | {"images": {"classes": 10, "channels": 1, "size": 8}}),
    )
    return folder.open_run(made.id)


def test_a_plain_evaluation_is_pgd_20_at_the_runs_eps_on_the_whole_test_split(run: Run) -> None:
    found = evaluate.evaluate(run)
    assert (
        found.attack["key"],
        found.attack["steps"],
        found.attack["restarts"],
        found.attack["start"],
        found.attack["step_size"],
    ) == ("pgd", 20, 1, "uniform", None)
    assert (found.eps, found.n, found.seed, found.split) == (0.15, 40, 0, "test")
    test = data.load("digits", "test")
    by_hand = count_right(
        run.net(), test.take(len(test)).x, test.take(len(test)).y, PGD(eps=0.15, steps=20)
    )
    assert found.robust_k == int(by_hand.sum())
    assert (
        run.evaluation() == found == run.evaluation(found.key)
        and run.evaluation("nonsense") is None
    )


def test_each_protocol_is_kept_once_and_the_plain_one_is_found_among_them(run: Run) -> None:
    assert run.evaluation() is None
    made = [
        evaluate.evaluate(run, FGSM()),
        evaluate.evaluate(run, n=10),
        evaluate.evaluate(run, PGD(steps=20), eps=0.3),
        evaluate.evaluate(run, seed=1),
        evaluate.evaluate(run, PGD(steps=20, restarts=2)),
        plain := evaluate.evaluate(run),
    ]
    assert len({found.key for found in made}) == 6
    assert run.evaluation() == plain
    evaluate.evaluate(run)
    assert [found.key for found in run.evaluations()][:5] == [found.key for found in made][
        :5
    ] and len(run.evaluations()) == 6


def test_n_takes_the_beginning_of_the_stratified_permutation(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Dataset] = []
    monkeypatch.setattr(
        evaluate, "measure", lambda net, split, attack, **k: seen.append(split) or kept()
    )  # type: ignore[func-returns-value]
    evaluate.evaluate(run, n=10)
    assert torch.equal(seen[0].images, data.load("digits", "test").take(10).images) and sorted(
        seen[0].y.tolist()
    ) == list(range(10))


def kept() -> Evaluation:
    return Evaluation(
        {"key": "pgd"},
        0.1,
        10,
        9,
        5,
        0,
        "test",
        1.0,
        "cpu",
        (Finding("budget", True, 0.1, "Fine."),),
    )


def test_a_shipped_run_is_evaluated_into_the_cache_and_stays_as_it_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo").mkdir()
    run.path.rename(tmp_path / "zoo" / run.id)
    monkeypatch.setattr(folder, "zoo", lambda: tmp_path / "zoo")
    shipped = folder.open_run(run.id)
    assert shipped.shipped
    before = {path: path.read_bytes() for path in shipped.path.rglob("*") if path.is_file()}
    found = evaluate.evaluate(shipped)
    assert {path: path.read_bytes() for path in shipped.path.rglob("*") if path.is_file()} == before
    assert (
        folder.home() / ".zoo-cache" / run.id / "eval.json"
    ).is_file() and shipped.evaluation() == found


def test_a_run_without_weights_is_one_clear_sentence(run: Run) -> None:
    (run.path / "net.safetensors").unlink()
    with pytest.raises(UserError, match="has not finished an epoch"):
        evaluate.evaluate(run)


# Restarts, verdicts and ladders.


def slow_restarts(toy: Toy, attack: PGD, seed: int) -> list[bool]:
    """A reference that attacks every image in every restart and draws the noise for all images, so
    skipping fooled images must give the same result.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003)
    held = [True] * len(toy.x)
    for _ in range(attack.restarts):
        z = (toy.x + (2 * torch.rand(toy.x.shape, generator=rng) - 1) * attack.eps).clamp(0, 1)
        for _ in range(attack.steps):
            z = z.detach().requires_grad_(True)
            torch.nn.functional.cross_entropy(toy.net(z), toy.y, reduction="sum").backward(
                inputs=[z]
            )
            moved = z.detach() + attack.eps / 4 * z.grad.sign()
            z = torch.minimum(torch.maximum(moved, toy.x - attack.eps), toy.x + attack.eps).clamp(
                0, 1
            )
        held = [
            was and bool(now) for was, now in zip(held, toy.net(z).argmax(1) == toy.y, strict=True)
        ]
    return held


def test_restarts_that_skip_fooled_images_count_as_the_plain_loop(toy: Toy) -> None:
    attack = PGD(eps=0.05, steps=2, restarts=6)
    found = count_right(toy.net, toy.x, toy.y, attack, seed=4).tolist()
    once = count_right(
        toy.net, toy.x, toy.y, dataclasses.replace(attack, restarts=1), seed=4
    ).tolist()
    assert found == slow_restarts(toy, attack, 4) and 0 < sum(found) < sum(once)


def test_restarts_do_not_work_on_images_that_are_fooled(toy: Toy) -> None:
    seen: list[int] = []

    class Counted(PGD):
        def _walk(self, objective, x, *rest, **more):  # type: ignore[no-untyped-def]
            seen.append(len(x))
            return super()._walk(objective, x, *rest, **more)

    left = [
        int(count_right(toy.net, toy.x, toy.y, PGD(eps=0.05, steps=2, restarts=r), seed=4).sum())
        for r in (1, 2, 3)
    ]
    assert (
        count_right(toy.net, toy.x, toy.y, Counted(eps=0.05, steps=2, restarts=4), seed=4).sum()
        <= left[2]
    )
    assert seen == [80, *left] and left[2] < left[0]


def test_the_verdict_on_each_image_is_kept(toy: Toy) -> None:
    images, attack = split(toy), PGD(eps=0.03, steps=3)
    found = measure(toy.net, images, attack, seed=2, consulted=NOTHING)
    clean, robust = found.right()
    assert clean.tolist() == count_right(toy.net, images.x, images.y).tolist()
    assert robust.tolist() == count_right(toy.net, images.x, images.y, attack, seed=2).tolist()
    assert found.classes == 4 and found.images == evaluate.fingerprint(images)


def test_a_fingerprint_tells_images_labels_and_their_order_apart(toy: Toy) -> None:
    whole = split(toy)
    other = dataclasses.replace(whole, y=whole.y.roll(1))
    pixel = whole.images.clone()
    pixel[3, 0, 0, 0] ^= 1
    every = [
        whole,
        other,
        whole.take(torch.arange(79, -1, -1)),
        whole.take(40),
        dataclasses.replace(whole, images=pixel),
    ]
    assert len({evaluate.fingerprint(one) for one in every}) == 5
    assert evaluate.fingerprint(whole) == evaluate.fingerprint(split(toy))


def test_the_doctor_sees_the_images_that_were_counted(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(evaluate, "BATCH", 30)
    monkeypatch.setattr(evaluate, "examine", lambda net, x, y, x_adv, *a: shown.append(x_adv) or ())
    images, attack = split(toy), PGD(eps=0.03, steps=3)
    measure(toy.net, images, attack, seed=2)
    assert torch.equal(
        shown[0],
        attack(
            toy.net, images.x[:30], images.y[:30], rng=torch.Generator().manual_seed(2 * 1_000_003)
        ),
    )


def test_a_targeted_attack_measures_no_robustness(toy: Toy) -> None:
    with pytest.raises(UserError, match="untargeted"):
        measure(toy.net, split(toy), PGD(eps=0.1, targeted=True))


QUICK = (FGSM(), PGD(steps=8), PGD(steps=12, restarts=3))


@pytest.fixture
def trained(run: Run, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a run with the network and test split of `toy`, and a doctor that finds nothing."""
    monkeypatch.setattr(evaluate, "consult", lambda *a, **k: NOTHING)
    monkeypatch.setattr(Run, "net", lambda self: toy.net)
    monkeypatch.setattr(data, "load", lambda *a, **k: split(toy))
    return run


def test_an_evaluation_and_a_ladder_leave_the_process_its_threads(trained: Run) -> None:
    inside: list[int] = []
    torch.set_num_threads(3)
    look = lambda *_: inside.append(torch.get_num_threads())  # noqa: E731
    evaluate.evaluate(trained, QUICK[0], eps=0.025, tick=look)
    evaluate.ladder(trained, eps=0.025, rungs=QUICK[:1], tick=look, say=look)
    assert set(inside) == {trained.config.threads} and torch.get_num_threads() == 3


@pytest.mark.long
def test_a_ladder_is_ordered_and_counts_as_single_evaluations_do(trained: Run) -> None:
    said: list[str] = []
    found = evaluate.ladder(trained, eps=0.025, rungs=QUICK, say=said.append)
    alone = [evaluate.evaluate(trained, attack, eps=0.025) for attack in QUICK]
    assert [rung.robust_k for rung in found.rungs] == [one.robust_k for one in alone]
    assert [rung.robust_right for rung in found.rungs] == [one.robust_right for one in alone]
    assert (
        found.ordered
        and found.n == 80 == found.rungs[0].clean_k >= found.rungs[0].robust_k > found.robust_k > 0
    )
    still = alone[0].right()[0]
    for rung, one in zip(found.rungs, alone, strict=True):
        still = still & one.right()[1]
        assert rung.cumulative_k == still.sum()
    assert len(said) == 3 and "PGD-12×3" in said[2] and "Only 80 images" in found.rungs[0].note


def test_a_ladder_goes_on_where_it_was(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    whole = evaluate.measure

    def counted(net, split, attack, **k):  # type: ignore[no-untyped-def]
        made.append(attack.key)
        if len(made) == 3:
            raise KeyboardInterrupt
        return whole(net, split, attack, **k)

    monkeypatch.setattr(evaluate, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.ladder(trained, eps=0.025, rungs=QUICK)
    # Each rung is saved as soon as it is finished.
    assert [found.rung for found in trained.evaluations()] == [1, 2]
    found = evaluate.ladder(trained, eps=0.025, rungs=QUICK)
    assert made == ["fgsm", "pgd", "pgd", "pgd"] and len(found.rungs) == 3
    before = (trained.path / "eval.json").read_bytes()
    assert evaluate.ladder(trained, eps=0.025, rungs=QUICK) == found and len(made) == 4
    assert (trained.path / "eval.json").read_bytes() == before
    evaluate.ladder(trained, eps=0.03, n=20, rungs=QUICK[:1])
    evaluate.ladder(trained, eps=0.06, rungs=QUICK[:1])
    evaluate.ladder(trained, eps=0.03, seed=1, rungs=QUICK[:1])
    assert len(made) == 7  # Other images, another ε, another seed.


def test_a_rung_measured_once_more_stays_a_rung(trained: Run) -> None:
    found = evaluate.ladder(trained, eps=0.025, rungs=QUICK)
    again = evaluate.evaluate(trained, QUICK[1], eps=0.025)
    assert again.rung == 2 and again.cumulative_k == found.rungs[1].cumulative_k
    assert sorted(one.rung for one in trained.evaluations()) == [1, 2, 3]


def test_a_ladder_is_climbed_again_after_new_weights(trained: Run) -> None:
    old = evaluate.ladder(trained, eps=0.025, rungs=QUICK[:1])
    trained.save_weights("net.safetensors", {"other": torch.zeros(1)})
    assert (
        evaluate.ladder(trained, eps=0.025, rungs=QUICK[:1]).rungs[0].weights
        != old.rungs[0].weights
    )


def test_the_ladder_is_the_one_in_methods_md() -> None:
    assert [attack_name(registry.encode(attack)) for attack in evaluate.LADDER] == [
        "FGSM",
        "PGD-20",
        "PGD-100×5",
        "CW-100",
        "AutoAttack",
    ]
    assert evaluate.LADDER[2].bound(8 / 255)._size(8 / 255) == pytest.approx(1 / 255)


def test_a_ladder_of_an_l2_run_attacks_in_l2(
    trained: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "norm_of", lambda config: "l2")
    found = evaluate.ladder(trained, rungs=(FGSM(), PGD(steps=20)))
    assert [rung.printed for rung in found.rungs] == ["FGSM (ℓ2)", "PGD-20 (ℓ2)"]
    assert output(capsys, "report", trained.id, "--ladder")[1].count("(ℓ2)") == 2


def test_autoattack_is_left_out_below_four_classes_with_a_sentence(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = data.load
    monkeypatch.setattr(
        data, "load", lambda *a, **k: dataclasses.replace(whole(*a, **k), classes=("a", "b", "c"))
    )
    monkeypatch.setattr(evaluate, "examine", lambda *a, **k: ())
    found = evaluate.ladder(trained, eps=0.025, rungs=(FGSM(), AutoAttack()))
    assert [rung.attack["key"] for rung in found.rungs] == ["fgsm"]
    assert (
        found.left_out.startswith("AutoAttack is left out: ")
        and "4 classes" in found.left_out
        and found.left_out in found.verdict
    )


# The command line.


def output(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str, str]:
    status = main(list(line))
    return status, *capsys.readouterr()


def test_the_command_line_climbs_the_ladder(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "LADDER", QUICK)
    status, out, err = output(
        capsys,
        "evaluate",
        trained.id,
        "--attack",
        "ladder",
        "--n",
        "30",
        "--eps",
        "0.025",
        "--json",
    )
    found = json.loads(out)
    assert status == 0 and len(err.splitlines()) == 3
    assert (found["run"], found["attack"], found["n"], found["eps"]) == (
        str(trained.path),
        "ladder",
        30,
        0.025,
    )
    assert (
        found["robust_acc"] == found["rungs"][-1]["cumulative_k"] / 30
        and found["ordered"]
        and len(found["findings"]) == 3
    )
    assert found["clean_acc"] == found["rungs"][0]["clean_acc"]
    assert (found["worst_acc"], found["worst_k"]) == (
        found["robust_acc"],
        found["rungs"][-1]["cumulative_k"],
    )
    assert found["worst_attacks"] == ["FGSM", "PGD-8", "PGD-12×3"]
    status, out, err = output(
        capsys, "evaluate", trained.id, "--attack", "ladder", "--n", "30", "--eps", "0.025"
    )
    assert (
        status == 0
        and err == ""
        and len(out.splitlines()) == 6
        and "stay right under every rung" in out
        and "Only 30 images" in out
        and "\nMeasured before and not repeated: 3 of 3 rungs; --again measures" in out
    )
    status, out, err = output(capsys, "evaluate", trained.id, "--attack", "ladder", "--steps", "3")
    assert status == 2 and "fixed" in err


def test_the_ladder_says_what_it_does_not_repeat_and_repeats_it_when_asked(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    whole = evaluate.measure

    def counted(net, split, attack, **k):  # type: ignore[no-untyped-def]
        made.append(attack.key)
        return dataclasses.replace(whole(net, split, attack, **k), seconds=0.001)  # as if at once

    monkeypatch.setattr(evaluate, "measure", counted)
    monkeypatch.setattr(evaluate, "LADDER", QUICK)
    line = ("evaluate", trained.id, "--attack", "ladder", "--n", "30", "--eps", "0.025")
    evaluate.ladder(trained, n=30, eps=0.025, rungs=QUICK[:2])  # as if it was interrupted
    assert "not repeated: 2 of 3 rungs; --again" in output(capsys, *line)[1] and len(made) == 3
    status, out, err = output(capsys, *line, "--again", "--json")
    assert status == 0 and len(json.loads(out)["rungs"]) == 3 and "not repeated" not in err
    assert made == 2 * ["fgsm", "pgd", "pgd"]
    assert sorted(one.rung for one in trained.evaluations()) == [1, 2, 3]


def test_the_command_line_sets_what_an_attack_has_and_says_what_it_has_not(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("evaluate", trained.id, "--n", "10", "--json", "--attack")
    assert (
        json.loads(output(capsys, *line, "pgd", "--steps", "2", "--restarts", "3")[1])["printed"]
        == "PGD-2×3"
    )
    assert (
        json.loads(
            output(capsys, *line, "apgd", "--set", "loss=dlr", "--set", "attack.steps=3")[1]
        )["printed"]
        == "APGD-DLR-3"
    )
    for attack, option, word in (
        ("fgsm", "--steps", "steps"),
        ("square", "--restarts", "restarts"),
    ):
        status, out, err = output(capsys, *line, attack, option, "3")
        assert (status, out, err.count("\n")) == (
            2,
            "",
            1,
        ) and f"{attack} has no setting called {word}" in err
    assert output(capsys, *line, "pgd", "--set", "targeted=true")[0] == 2


@pytest.mark.long
def test_the_report_names_attacks_faults_and_differences(
    toy: Toy, trained: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "LADDER", QUICK)
    twin = folder.Run(trained.path.with_name("twin"))
    shutil.copytree(trained.path, twin.path)
    untrained = copy.deepcopy(toy.net)
    torch.nn.init.normal_(untrained.head.weight, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(Run, "net", lambda self: toy.net if self.id == trained.id else untrained)
    held = evaluate.evaluate(trained, eps=0.02)
    evaluate.ladder(trained, eps=0.02)
    monkeypatch.setattr(
        evaluate, "examine", lambda *a, **k: (Finding("black-box", False, -0.5, "Masked."),)
    )
    found = evaluate.evaluate(twin, eps=0.02)
    table = output(capsys, "report", trained.id, "twin", "--against", trained.id)[1].splitlines()
    assert [line.split(" | ")[3] for line in table[2:7]] == [
        "PGD-20",
        "FGSM",
        "PGD-8",
        "PGD-12×3",
        "PGD-20",
    ]
    assert (
        "no fault found" in table[2]
        and "unreliable: black-box" in table[6]
        and "cumulative" in table[5]
    )
    pairs = paired(found, held)
    assert (
        pairs.verdict == "less robust"
        and pairs.cell in table[6]
        and table[-1] == pairs.sentence("twin", trained.id)
    )
    rows = json.loads(output(capsys, "report", "twin", "--against", trained.id, "--json")[1])
    assert (
        rows[0]["against"]["verdict"] == pairs.verdict and rows[0]["against"]["run"] == trained.id
    )
    evaluate.evaluate(twin, FGSM(), eps=0.2)
    assert "no matching evaluation" in output(capsys, "report", "twin", "--against", trained.id)[1]


def test_the_report_by_ladder_has_one_row_a_run(
    trained: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "LADDER", (FGSM(), PGD(steps=20)))
    assert "No evaluations yet" in output(capsys, "report", trained.id, "--ladder")[1]
    plain = evaluate.evaluate(trained)
    alone = output(capsys, "report", trained.id, "--ladder")[1].splitlines()[2].split(" | ")
    assert (
        alone[2] == "–"
        and alone[3].startswith(f"{plain.robust_acc:.3f} [")
        and alone[4:8] == ["–"] * 4
    )
    found = evaluate.ladder(trained, n=20)
    row = output(capsys, "report", trained.id, "--ladder")[1].splitlines()[2].split(" | ")
    assert (
        row[2:4] == [f"{rung.robust_acc:.3f}" for rung in found.rungs]
        and row[4:7] == ["–"] * 3
        and row[7].startswith(f"{found.worst.acc:.3f} [")
        and row[8] == "20"
    )
    # Another attack on the same images counts too, even if it is not a rung.
    evaluate.evaluate(trained, CW(steps=30), n=20)
    told = json.loads(output(capsys, "report", trained.id, "--ladder", "--json")[1])[0]
    assert told["worst_attacks"] == ["FGSM", "PGD-20", "CW-30"]
    still = np.logical_and.reduce(
        [each for one in trained.evaluations() if one.n == 20 for each in one.right()]
    )
    assert (told["worst_k"], told["n"]) == (still.sum(), 20) and told["worst_k"] <= found.robust_k
    assert told["robust_acc"] == found.robust_acc


def test_the_report_says_which_rows_share_their_images(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.evaluate(trained, FGSM(), eps=0.03)
    evaluate.evaluate(trained, PGD(steps=3), eps=0.03)
    said = output(capsys, "report", trained.id)[1]
    head, _, *rows = (
        [cell.strip() for cell in line.strip("| ").split("|")] for line in said.splitlines()
    )
    every, images = head.index("every attack [95%]"), head.index("images")
    assert "same images" not in said and len({row[images] for row in rows}) == 1
    assert len({row[every] for row in rows}) == 1 and "[" in rows[0][every]
    evaluate.evaluate(trained, FGSM(), eps=0.03, n=20)
    said = output(capsys, "report", trained.id)[1]
    last = [cell.strip() for cell in said.splitlines()[4].strip("| ").split("|")]
    assert last[every] == "–" and last[images] != rows[0][images]
    assert said.splitlines()[-1].startswith("Not all rows of one data set were evaluated")


def test_an_evaluation_says_what_withstood_every_attack_run_on_its_images(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("evaluate", trained.id, "--eps", "0.03", "--attack")
    alone = json.loads(output(capsys, *line, "fgsm", "--json")[1])
    assert alone["worst_attacks"] == ["FGSM"] and alone["worst_k"] <= alone["robust_k"]
    found = json.loads(output(capsys, *line, "cw", "--seed", "3", "--json")[1])
    first, second = (one.right() for one in trained.evaluations())
    assert found["worst_k"] == (first[0] & first[1] & second[1]).sum()
    assert found["worst_acc"] == found["worst_k"] / found["n"]
    assert found["worst_attacks"] == ["FGSM", "CW-20"]
    # This value stays the accuracy under this attack alone.
    assert found["robust_acc"] == second[1].mean()
    said = output(capsys, *line, "cw", "--seed", "3")[1]
    assert "of 80 images are right under every attack run: FGSM, CW-20." in said


@pytest.mark.long
def test_an_evaluation_with_its_doctor_is_counted_to_its_end(toy: Toy) -> None:
    """Each tick counts further than the one before, and the last tick comes just before the
    doctor's last attack.
    """
    looks: list[int] = []
    images = split(toy)
    measure(toy.net, images, PGD(eps=0.03, steps=2), tick=lambda: looks.append(1))
    counts = [evaluate.seen(tick, len(images))[0] for tick in range(len(looks))]
    assert counts == [0, 0, 80, 160, 240, 320, 400, 480]
    assert evaluate.seen(len(looks) - 1, 80)[1] - counts[-1] == 80
    far = [evaluate.seen(tick, 1000) for tick in range(15)]
    assert far[4:9] == [(at, 1600) for at in (0, 250, 500, 750, 1000)] and far[14][0] == 1600
