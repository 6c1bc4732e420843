"""Tests the GPU benchmarks with tiny inputs on a CPU, so that they work when there is a GPU, and
the peak rates they are compared with.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY
from torch import Tensor, nn

from benchmarks import (
    __main__ as bench,
    b00_roofline as roofline,
    b02_resnet,
    b03_epoch,
    b06_small,
    b07_autoattack,
    b13_standard,
    report,
    setting,
    trainers,
)
from benchmarks.harness import OURS, Outcome, Time, machine
from robustviz import data, memory, nets
from robustviz.attacks import PGD
from robustviz.methods import PGDAT, Standard
from robustviz.nets.base import Classifier
from robustviz.training.config import TrainConfig
from robustviz.training.loop import train

PEERS = REPOSITORY / ".venv" / "peers"
ON_A_GPU = ("B2", "B3", "B6", "B7", "B13")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(roofline, "SIZES", {"cpu": (32, 64)})
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 2**20})
    monkeypatch.setitem(data.shapes.COUNTS, "val", 20)
    monkeypatch.setitem(data.shapes.COUNTS, "test", 20)
    rates = roofline.gemm_rate
    memory.WORKING.clear()
    rates.cache_clear()
    yield
    memory.WORKING.clear()
    rates.cache_clear()


@pytest.fixture
def toy() -> TrainConfig:
    """Returns a training of two epochs of three batches of shapes of 20×20 pixels, with one image
    left over.
    """
    return TrainConfig(
        data=data.Shapes(size=20),
        n_train=25,
        method=PGDAT(attack=PGD(steps=2)),
        net="small_resnet",
        epochs=2,
        batch_size=8,
        augment="crop_flip",
        device="cpu",
        threads=1,
    )


def by_hand(
    net: nn.Module, eps: float, step: float, steps: int, shape: tuple[int, ...], classes: int
) -> setting.Attacker:
    return lambda x, y: trainers.written_out(net, x, y, eps, step, steps)


def absent(*settings: object) -> setting.Attacker:
    raise ImportError("no package called so")


# The commands that the owner of a GPU types.


@pytest.mark.parametrize("name", ON_A_GPU)
def test_an_item_for_a_gpu_refuses_a_cpu_in_one_sentence(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--only", name, "--out", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert f"`make bench ONLY={name}`" in said and said.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_what_an_item_measured_is_written_before_the_next_race(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"

    def outcomes(device, rounds):
        time = roofline.copying("cpu", 2**12, 1)
        yield Outcome("B0", "first", "here", (time,))
        assert [one["what"] for one in json.loads(out.read_text())["items"]["B0"]["outcomes"]] == [
            "first"
        ]
        yield Outcome("B0", "second", "here", (time,))
        raise ImportError("the peer of the third is not here")

    monkeypatch.setattr(roofline, "outcomes", outcomes)
    assert bench.main(["--only", "b0", "--out", str(out)]) == 1
    assert [one["what"] for one in json.loads(out.read_text())["items"]["B0"]["outcomes"]] == [
        "first",
        "second",
    ]
    assert "the peer of the third is not here" in capsys.readouterr().err


def test_every_item_says_what_it_is():
    assert set(ON_A_GPU) | {"B0", "B1"} <= set(report.items())
    assert all(report._title(name) for name in report.items())


# The peak rates.


def test_the_work_of_an_attack_step_is_counted_as_by_hand():
    """Counts the convolution and the head, each forward and backward to the image, with two
    operations per weight and position.
    """
    net = Classifier(nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 4))
    assert roofline.step_flops(net, torch.rand(7, 3, 9, 6)) == 2 * 2 * (9 * 3 * 5 * 9 * 6 + 5 * 4)
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_a_step_on_resnet18_is_two_of_its_forward_passes():
    net = nets.build("resnet18", 10, 3, 32, None, None)
    # By torch's own counter a forward pass takes 1.1108 GFLOP per image.
    assert roofline.step_flops(net, torch.rand(2, 3, 32, 32)) == pytest.approx(
        2 * 1.1108e9, rel=0.01
    )


def test_the_roofline_is_measured_on_a_cpu():
    found = list(roofline.outcomes("cpu", 2))
    threads = torch.get_num_threads()
    kinds = [one.what.split(" ")[0] for one in found]
    assert (
        kinds[0] == "fp32" and kinds[-1] == "copying" and set(kinds) <= {"fp32", "bf16", "copying"}
    )
    assert all(len(one.times[0].seconds) == 2 for one in found)
    size = int(found[0].setting.split("³")[0])
    assert (
        found[0].what
        == f"fp32 GEMM at {roofline.spell(2 * size**3 / found[0].times[0].least)}FLOP/s"
    )
    assert (
        found[-1].what
        == f"copying at {roofline.spell(2 * 2**20 / found[-1].times[0].least)}B/s, read and written"
    )
    assert torch.get_num_threads() == threads


def test_the_readme_gives_times_where_there_is_no_peer():
    races = [Outcome("B0", f"race {k}", "here", (Time(OURS, (k, k), 9.0),)) for k in (1.0, 2.0)]
    line = report.summary(
        {"cpu": {"B0": {"machine": machine(), "outcomes": [one.to_json() for one in races]}}}
    )
    assert "| race 1.0, 1 s; race 2.0, 2 s |" in line


def test_a_share_is_the_rate_over_the_products(monkeypatch):
    monkeypatch.setattr(roofline, "gemm_rate", lambda device, dtype, threads: 8e12)
    assert (
        roofline.share("ours", 0.5, 1e12, "cuda", torch.bfloat16)
        == "ours: 2 TFLOP/s of needed work, 25% of the bf16 GEMM rate (8 TFLOP/s)."
    )


# The two training loops.


@pytest.mark.long
def test_ours_without_validation_ends_with_the_weights_of_a_training(toy):
    toy = dataclasses.replace(toy, ema=0.5, n_train=24)
    for record in train(toy):
        last = record
    mine = trainers.Ours(toy).finish().state_dict()
    assert all(
        torch.equal(mine[name], value) for name, value in last.training.judged.state_dict().items()
    )


@pytest.mark.parametrize("attack", [trainers.written_out, setting.by_hand])
def test_attacks_written_out_end_in_the_corner_of_a_linear_net(attack, linear_net, images):
    """Ten steps of ε/4 cross the whole ball from any start, and a linear network's gradient has the
    same signs everywhere.
    """
    y = torch.arange(len(images)) % 2
    weight = linear_net.head.weight
    signs = torch.stack([(weight[1 - label] - weight[label]).sign() for label in y]).view_as(images)
    found = attack(linear_net, images, y, 0.1, 0.025, 10)
    assert not found.requires_grad
    assert torch.allclose(found, (images + 0.1 * signs).clamp(0, 1), atol=1e-6)
    assert torch.allclose(found, PGD(eps=0.1)(linear_net, images, y), atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("resident", [False, True])
def test_the_usual_loop_learns_what_it_is_shown(toy, resident):
    toy = dataclasses.replace(toy, epochs=12, n_train=24, lr=0.1, augment="none")
    start = trainers.Ours(toy)
    usual = trainers.Usual(start, 8, lambda net: lambda x, y: x, workers=0, resident=resident)
    x, y = start.training.images.float() / 255, start.training.y

    def loss(net: nn.Module) -> float:
        net.eval()
        return float(F.cross_entropy(net(x), y).detach())

    before = loss(usual.net)
    assert before == loss(start.training.net)  # Both start from the same weights.
    after = loss(usual.finish())
    assert after < 0.75 * before
    assert usual.loss > 0 and 0 < usual.right <= 12 * 24
    assert loss(start.training.net) == before


def test_a_turn_is_as_many_images_for_both(toy, monkeypatch):
    mine = trainers.Ours(toy)
    usual = trainers.Usual(mine, 4, lambda net: lambda x, y: seen.append(len(x)) or x, workers=0)
    seen: list[int] = []
    monkeypatch.setattr(
        mine.training, "_step", lambda stage, index, lr, progress: seen.append(len(index))
    )
    for one, sizes in ((mine, [8] * 4), (usual, [4] * 8)):
        seen.clear()
        one.turn(32)
        assert seen == sizes


def test_pictures_are_shifted_over_black_and_mirrored():
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    torch.manual_seed(0)
    padded = F.pad(images.float() / 255, (1, 1, 1, 1))[0]
    cuts = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    possible = {tuple(one.flatten().tolist()) for cut in cuts for one in (cut, cut.flip(-1))}
    pictures = trainers.Pictures(images, torch.tensor([3]), moved=True)
    found = {tuple(pictures[0][0].flatten().tolist()) for _ in range(300)}
    assert found == possible and pictures[0][1] == 3
    assert torch.equal(
        trainers.Pictures(images, torch.tensor([3]), moved=False)[0][0], images[0].float() / 255
    )


# The benchmarks.


@pytest.mark.long
def test_b2_races_every_peer_in_both_batch_sizes(toy, monkeypatch):
    monkeypatch.setattr(setting, "PEERS", {"ART": by_hand})
    monkeypatch.setattr(setting, "_torchattacks", by_hand)
    split = data.load(toy.data, "test")
    net = nets.build("small_resnet", 10, 3, 20, None, None).eval()
    trained, plain = b02_resnet.against(net, split.x, split.y, 8 / 255, "toy", 2, (4, 2))
    assert [time.name for time in trained.times] == [
        OURS,
        *(f"{name}, batch {size}" for size in (4, 2) for name in ("torchattacks", "ART")),
    ]
    assert all(len(time.seconds) == 2 for time in trained.times)
    assert trained.times[1:] == plain.times[1:] and trained.times[0] != plain.times[0]
    assert trained.wanted["ART, batch 2"] == 20 and not plain.wanted
    (gate,) = trained.gates
    assert "20 to attack" in gate.says
    assert f"{OURS}: " in trained.note and "% of the" in trained.note


@pytest.mark.long
def test_b2_runs_without_a_peer_and_says_which(toy, monkeypatch):
    monkeypatch.setattr(setting, "_torchattacks", absent)
    monkeypatch.setattr(setting, "PEERS", {"ART": absent})
    split = data.load(toy.data, "test")
    net = nets.build("small_resnet", 10, 3, 20, None, None).eval()
    trained, _ = b02_resnet.against(net, split.x, split.y, 8 / 255, "toy", 1, (4,))
    assert [time.name for time in trained.times] == [OURS, f"{setting.BY_HAND}, batch 4"]
    assert trained.wanted == {f"{setting.BY_HAND}, batch 4": 5.0}
    (gate,) = trained.gates
    assert "ART is not here" in trained.note and f"by {setting.BY_HAND} (toy" in gate.says


def epochs_of(toy: TrainConfig, attack: trainers.Attacking) -> list[Outcome]:
    return list(
        trainers.race_epochs(
            "B3",
            toy,
            "toy",
            attack,
            "usual loop",
            sizes=(4, 8),
            turn=16,
            epoch=160,
            wanted=(5, 3),
            rounds=2,
            workers=0,
        )
    )


@pytest.mark.long
def test_b3_races_both_number_formats_against_three_loops(toy):
    toy = dataclasses.replace(toy, precision="bf16", n_train=8, epochs=1)
    fast, plain = epochs_of(toy, b03_epoch.written_out(toy))
    names = [
        "usual loop, DataLoader, batch 4",
        "usual loop, DataLoader, batch 8",
        "usual loop, resident, batch 8",
    ]
    assert [time.name for time in fast.times] == [OURS, *names]
    assert fast.wanted == dict(zip(names, (5, 5, 3), strict=True)) and not plain.wanted
    assert fast.what.endswith("bf16") and plain.what.endswith("fp32")
    assert fast.times[1:] == plain.times[1:] and all(len(time.seconds) == 2 for time in fast.times)
    for one in (fast, plain):
        (gate,) = one.gates
        assert "1 epochs" in gate.says and "n = 20" in gate.says
        # The time was measured on 8 images and is given for 80.
        assert f"{OURS} {trainers.spell(10 * one.times[0].median)}" in one.note


@pytest.mark.long
def test_b6_races_its_peers_lines_where_the_peer_is_not_here(toy, monkeypatch):
    monkeypatch.setattr(setting, "_torchattacks", absent)
    attack = b06_small.leanest(toy)
    net, x, y = (
        nets.build("small_resnet", 10, 3, 20, None, None).eval(),
        *setting.unseen(toy.data, 5, 3),
    )
    found = attack(net)(x, y)
    assert 0 < (found - x).abs().max() <= float(toy.eps) + 1e-6
    (only,) = epochs_of(dataclasses.replace(toy, n_train=8, epochs=1), attack)
    assert len(only.times) == 4 and only.gates


def test_unseen_images_are_not_those_learned_from(toy):
    x, y = setting.unseen(toy.data, 25, 6)
    learned = data.load(toy.data, "train", 25).x
    assert len(x) == len(y) == 6 and not any(
        torch.equal(one, other) for one in x for other in learned
    )
    assert torch.equal(setting.unseen(toy.data, 28, 3)[0], x[3:])


@pytest.mark.parametrize("apart", [0, 100])
def test_a_gate_on_accuracy_is_about_what_both_get_right(toy, monkeypatch, apart):
    """On images of the last class only, compares a network that always predicts the last class with
    one that predicts the first or the last.
    """

    class Says(nn.Module):
        def __init__(self, which: int) -> None:
            super().__init__()
            self.logits = nn.Parameter(F.one_hot(torch.tensor(which), 10).float())

        def forward(self, x: Tensor) -> Tensor:
            return self.logits + 0 * x.sum((1, 2, 3))[:, None]

    split = data.load(toy.data, "test")
    monkeypatch.setattr(
        data,
        "load",
        lambda source, name, n=None: dataclasses.replace(split, y=torch.full_like(split.y, 9)),
    )
    monkeypatch.setattr(trainers.Ours, "finish", lambda self: Says(0 if apart else 9))
    monkeypatch.setattr(trainers.Usual, "finish", lambda self: Says(9))
    gate = trainers._as_accurate(toy, ("fp32",), lambda net: lambda x, y: x, 0)["fp32"]
    assert gate.held == (not apart)
    assert (
        f"PGD-10 {100 - apart}.0%, clean {100 - apart}.0%; the usual loop 100.0%, 100.0% (n"
        " = 20)" in gate.says
    )


@pytest.mark.long
def test_b7_stops_the_clock_before_the_attack_and_goes_on_only_within_reach(toy):
    config, attack = dataclasses.replace(toy, select="last"), PGD(steps=2)
    first, second = b07_autoattack.judged(config, "toy", 0.0, (4, 20), attack)
    assert first.times == second.times and len(first.times) == 1
    assert (
        first.gates[0].held
        and "first 4 test" in first.gates[0].says
        and "first 20 test" in second.gates[0].says
    )
    (only,) = b07_autoattack.judged(config, "toy", 104.0, (4, 20), attack)
    assert not only.gates[0].held and "2604.22853" in only.note


@pytest.mark.long
def test_b7s_judge_is_the_authors_autoattack(toy):
    pytest.importorskip("pyautoattack")
    (found,) = b07_autoattack.judged(
        dataclasses.replace(toy, eps=0.5, epochs=1, select="last"), "toy", 0.0, (6,)
    )
    assert "AutoAttack leaves 0.00% of the first 6" in found.gates[0].says


def test_one_of_b7s_trainings_refuses_a_cpu_in_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert b07_autoattack.main(["fgsm_rs", "10"]) == 1
    said = capsys.readouterr().err
    assert "no usable CUDA device" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", b07_autoattack.RECIPES)
def test_b7s_recipes_are_trainings(name):
    config = b07_autoattack.RECIPES[name].config("cpu")
    assert (config.method.key, config.net, config.batch_size, config.precision) == (
        name,
        "resnet18",
        512,
        "bf16",
    )
    assert (
        bool(config.ema) == (config.method.key != "fgsm_rs")
        and config.select == "last"
        and config.eps == 8 / 255
    )


def test_b13_races_whole_trainings_with_seeds_of_their_own(toy, monkeypatch):
    config = dataclasses.replace(toy, method=Standard(), epochs=1, n_train=16)
    seeds = []
    made = trainers.Ours
    monkeypatch.setattr(
        b13_standard, "Ours", lambda config: seeds.append(config.seed) or made(config)
    )
    one = b13_standard.against(config, lambda: 95.0, 2, "note")
    assert seeds == [0, 1, 2] and len(one.times) == 2  # The first training is a warm-up.
    mine, theirs = one.gates
    assert not mine.held and "of 2 trainings" in mine.says
    assert theirs.held and theirs.says.startswith("airbench94: 95.00%")
    alone = b13_standard.against(config, None, 1, "note")
    assert len(alone.times) == 1 and len(alone.gates) == 1 and not alone.wanted


@pytest.mark.long
def test_airbench_finds_our_images_where_it_looks(tmp_path, toy):
    b13_standard.images(tmp_path / "cifar10", toy.data)
    held = torch.load(tmp_path / "cifar10" / "train.pt")
    assert (
        held["images"].shape == (2020, 20, 20, 3)
        and held["images"].dtype == torch.uint8
        and held["labels"].shape == (2020,)
    )
    test, split = torch.load(tmp_path / "cifar10" / "test.pt"), data.load(toy.data, "test")
    assert torch.equal(test["images"].permute(0, 3, 1, 2), split.images) and torch.equal(
        test["labels"], split.y
    )
    assert test["classes"] == list(split.classes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_libraries_attack_within_the_ball(toy, monkeypatch):
    if not PEERS.is_dir():
        pytest.skip("the peers are installed by `make bench`")
    monkeypatch.syspath_prepend(PEERS)
    net = nets.build("small_resnet", 10, 3, 20, None, None).eval()
    split = data.load(toy.data, "test")
    x, y = split.x[:4], split.y[:4]
    found, missing = setting.some_peers(
        tuple(setting.PEERS), net, 0.1, 0.025, 10, tuple(x.shape), 10
    )
    assert not missing and list(found) == list(setting.PEERS)
    with torch.no_grad():
        before = F.cross_entropy(net(x), y)
        for name, attack in found.items():
            with torch.enable_grad():
                x_adv = attack(x, y)
            assert (x_adv - x).abs().max() <= 0.1 + 1e-6 and F.cross_entropy(
                net(x_adv), y
            ) > before, name
