"""Tests training: the same bit for bit for one seed, also when stopped and resumed anywhere, and
fair between methods.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import data, registry
from robustviz.methods import PGDAT, Standard
from robustviz.methods.base import Method, Stage, Terms
from robustviz.training import loop
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Diverged, EpochRecord, Tick, Training, learning_rate, train
from robustviz.training.progress import tolerance_note
from robustviz.types import Batch, UserError

pytestmark = pytest.mark.usefixtures("small_splits")


@dataclass(frozen=True)
class TwoStages(Method):
    """A method with two stages: first the whole network, then a new linear head on the fixed
    body.
    """

    key = "two_stages"
    label = "Two stages"

    def loss(self, net: nn.Module, batch: Batch, aux: nn.Module | None) -> Terms:
        return {
            "ce": F.cross_entropy(net(batch.x), batch.y),
            "noise": torch.rand((), generator=batch.rng) * net(batch.x).square().mean(),
        }

    def stages(self, config: TrainConfig) -> tuple[Stage, ...]:
        return (
            Stage("body", 0.5, self.loss),
            Stage("head", 0.5, self.loss, trainable=head_of, new_head=True, frozen_eval=("maps",)),
        )


def head_of(net: Any) -> Iterable[nn.Parameter]:
    return net.head.parameters()  # type: ignore[no-any-return]


@pytest.fixture
def two_stages(monkeypatch: pytest.MonkeyPatch) -> Method:
    registry.keys("method")
    monkeypatch.setitem(registry._table["method"], "two_stages", TwoStages)
    return TwoStages()


def finished(
    config: TrainConfig, on_batch: Callable[[Tick], loop.Answer] | None = None
) -> tuple[Training, list[dict[str, Any]]]:
    done = Training(config)
    records = [plain(record) for record in done.epochs(on_batch)]
    return done, records


def plain(record: EpochRecord | dict[str, Any]) -> dict[str, Any]:
    """Returns a record without its time."""
    fields = record.to_json() if isinstance(record, EpochRecord) else record
    return {name: value for name, value in fields.items() if name != "seconds"}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# One seed gives one result.


@pytest.mark.long
@pytest.mark.parametrize("method", registry.keys("method"))
def test_one_seed_gives_one_result_bit_for_bit(method: str, tiny: TrainConfig) -> None:
    # Model alignment needs the architecture of its source.
    net = "small_resnet" if method == "model_alignment" else tiny.net
    config = dataclasses.replace(tiny, method=method, epochs=2, augment="crop_flip", net=net)
    torch.manual_seed(1)
    one, records = finished(config)
    torch.manual_seed(2)
    torch.rand(7)
    everywhere = torch.get_rng_state()
    other, again = finished(config)
    assert same_bits(one.state()[0], other.state()[0]) and records == again
    # The global random generator is unchanged.
    assert torch.equal(torch.get_rng_state(), everywhere)


def test_another_seed_gives_another_result(tiny: TrainConfig) -> None:
    one, other = (Training(dataclasses.replace(tiny, seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.net.head.weight, other.net.head.weight)
    assert not torch.equal(torch.cat(one._batches()), torch.cat(other._batches()))
    assert (
        one._generator("noise", 0, 0).initial_seed()
        != other._generator("noise", 0, 0).initial_seed()
    )
    one, other = (Training(dataclasses.replace(tiny, seed=0)) for _ in range(2))
    other.epoch = 1
    # Each epoch has its own order.
    assert not torch.equal(torch.cat(one._batches()), torch.cat(other._batches()))


def test_two_methods_with_one_seed_see_the_same_batches(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Batch]] = {"standard": [], "pgd_at": []}
    weights = {}
    for cls in (Standard, PGDAT):

        def spy(
            self: Method, net: nn.Module, batch: Batch, aux: nn.Module | None, whole: Any = cls.loss
        ) -> Terms:
            seen[self.key].append(
                dataclasses.replace(batch, rng=torch.Generator().set_state(batch.rng.get_state()))
            )
            return whole(self, net, batch, aux)  # type: ignore[no-any-return]

        monkeypatch.setattr(cls, "loss", spy)
        run = Training(dataclasses.replace(tiny, method=cls(), epochs=2, augment="crop_flip"))
        weights[cls.key] = copy.deepcopy(run.net.state_dict())
        list(run.epochs())
    assert same_bits(weights["standard"], weights["pgd_at"])
    assert len(seen["standard"]) == len(seen["pgd_at"]) == 4
    for one, other in zip(*seen.values(), strict=True):
        assert (
            torch.equal(one.x, other.x)
            and torch.equal(one.y, other.y)
            and torch.equal(one.index, other.index)
        )
        assert torch.equal(one.rng.get_state(), other.rng.get_state())
        assert (one.epoch, one.progress) == (other.epoch, other.progress)


def test_an_epoch_shows_every_image_once_and_progress_runs_from_zero_to_one(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Batch] = []
    whole = Standard.loss
    monkeypatch.setattr(
        Standard,
        "loss",
        lambda self, net, batch, aux: (seen.append(batch), whole(self, net, batch, aux))[1],
    )
    run, _ = finished(dataclasses.replace(tiny, method="standard"))
    for epoch in range(3):
        assert sorted(torch.cat([b.index for b in seen if b.epoch == epoch]).tolist()) == list(
            range(64)
        )
    assert [b.progress for b in seen] == pytest.approx([i / 6 for i in range(6)])
    split = data.load("digits", "train", 64)
    assert all(
        torch.equal(b.x, split.x[b.index]) and torch.equal(b.y, split.y[b.index]) for b in seen
    )
    assert run.ended == "done"


# Stopped anywhere and resumed, bit for bit.


def freeze(run: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, position = run.state()
    return {name: value.clone() for name, value in tensors.items()}, json.loads(
        json.dumps(position)
    )


def paused_at(config: TrainConfig, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    asked: Iterator[int] = iter(range(10**6))
    run = Training(config)
    list(
        run.epochs(lambda tick: "pause" if tick.phase == "train" and next(asked) == step else "go")
    )
    assert run.ended == "pause"
    return freeze(run)


VARIANTS: dict[str, dict[str, Any]] = {
    "fgsm_rs": {"augment": "crop_flip"},
    "with a running average": {"method": "standard", "ema": 0.8},
    "without momentum": {"method": "standard", "momentum": 0.0, "schedule": "cosine"},
    "two stages": {"method": "two_stages", "epochs": 4},
}


@pytest.mark.long
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_a_pause_at_any_batch_changes_no_bit(
    fields: dict[str, Any], tiny: TrainConfig, two_stages: Method
) -> None:
    config = dataclasses.replace(tiny, **fields)
    whole, records = finished(config)
    final, _ = freeze(whole)
    assert ("momentum/0" in final) == (config.momentum > 0)
    for step in range(2 * int(config.epochs or 0)):
        resumed = Training(config)
        resumed.restore(*paused_at(config, step))
        again = [plain(record) for record in resumed.epochs()]
        assert [plain(record) for record in resumed.records] == records, (
            f"paused before batch {step}"
        )
        assert again == records[len(records) - len(again) :]
        assert same_bits(resumed.state()[0], final), f"paused before batch {step}"
        assert same_bits(resumed.best, whole.best) and resumed.best_epoch == whole.best_epoch


def test_stop_ends_at_once_and_is_told_from_pause_and_done(tiny: TrainConfig) -> None:
    run, records = finished(tiny, lambda tick: "stop" if tick.epoch == 1 else "go")
    assert run.ended == "stop" and len(records) == 1 and (run.epoch, run.batch) == (1, 0)


def test_ticks_say_where_the_training_is(tiny: TrainConfig) -> None:
    ticks: list[Tick] = []
    finished(dataclasses.replace(tiny, epochs=2), lambda tick: ticks.append(tick) or "go")
    steps = [(t.epoch, t.batch) for t in ticks if t.phase == "train"]
    assert steps == [(0, 0), (0, 1), (1, 0), (1, 1)] and {(t.epochs, t.batches) for t in ticks} == {
        (2, 2)
    }
    assert any(t.phase == "validate" for t in ticks)


def test_a_state_of_another_network_is_refused(tiny: TrainConfig) -> None:
    state = paused_at(tiny, 1)
    with pytest.raises(UserError, match="another network"):
        Training(dataclasses.replace(tiny, net="small_cnn")).restore(*state)


# Stages.


def test_the_second_stage_trains_a_new_head_on_a_body_at_rest(
    tiny: TrainConfig, two_stages: Method
) -> None:
    run = Training(dataclasses.replace(tiny, method=two_stages, epochs=4))
    nets, optimisers, heads = [], [], []
    whole = Training._enter

    def spy(self: Training, stage: Stage, *, fresh: bool) -> None:
        whole(self, stage, fresh=fresh)
        heads.append(self.net.head.weight.detach().clone())
        optimisers.append(len(self.optimiser.state))  # type: ignore[union-attr]

    run._enter = spy.__get__(run)  # type: ignore[method-assign]
    records = []
    for record in run.epochs():
        records.append(record)
        nets.append(copy.deepcopy(run.net.state_dict()))
    assert [record.stage for record in records] == ["body", "body", "head", "head"]
    body = [name for name in nets[0] if name.startswith("maps.")]
    assert any("running_mean" in name for name in body)
    assert not all(torch.equal(nets[0][name], nets[1][name]) for name in body)
    # Both the weights and the running statistics.
    assert all(torch.equal(nets[1][name], nets[3][name]) for name in body)
    # The head is initialised anew,
    assert len(heads) == 2 and not torch.equal(heads[1], nets[1]["head.weight"])
    assert not torch.equal(nets[2]["head.weight"], nets[3]["head.weight"])  # and trained.
    assert optimisers == [0, 0]  # The optimiser starts without momentum in each stage.
    assert len(run.optimiser.state) == 2  # type: ignore[union-attr]
    assert {name for name, p in run.net.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }
    rates = [record.lr for record in records]
    assert rates[:2] == rates[2:]  # The schedule starts again in each stage.


@pytest.mark.parametrize(
    ("shares", "epochs", "edges"),
    [
        ((0.5, 0.5), 4, [2, 4]),
        ((0.9, 0.1), 3, [2, 3]),
        ((0.01, 0.99), 3, [1, 3]),
        ((0.3, 0.3, 0.4), 3, [1, 2, 3]),
    ],
)
def test_every_stage_gets_its_share_and_at_least_one_epoch(
    shares: tuple[float, ...],
    epochs: int,
    edges: list[int],
    tiny: TrainConfig,
    two_stages: Method,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = tuple(
        Stage(str(number), share, two_stages.loss) for number, share in enumerate(shares)
    )
    monkeypatch.setattr(TwoStages, "stages", lambda self, config: stages)
    plan = Training(dataclasses.replace(tiny, method=two_stages, epochs=epochs)).plan
    assert [last for _, _, last in plan] == edges and [first for _, first, _ in plan] == [
        0,
        *edges[:-1],
    ]
    with pytest.raises(UserError, match="stages"):
        Training(dataclasses.replace(tiny, method=two_stages, epochs=len(shares) - 1))


# The numbers.


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        ("cyclic", {0.0: 0.0, 0.15: 0.1, 0.3: 0.2, 0.65: 0.1, 1.0: 0.0}),
        ("cosine", {0.0: 0.2, 0.5: 0.1, 1.0: 0.0, 1 / 3: 0.15}),
        ("step", {0.0: 0.2, 0.74: 0.2, 0.75: 0.02, 0.89: 0.02, 0.9: 0.002, 1.0: 0.002}),
        ("constant", {0.0: 0.2, 0.5: 0.2, 1.0: 0.2}),
        ("cyclic@1/2", {0.0: 0.0, 0.25: 0.1, 0.5: 0.2, 0.75: 0.1, 1.0: 0.0}),
        ("step@0.5", {0.0: 0.2, 0.49: 0.2, 0.5: 0.02, 1.0: 0.02}),
        ("step@1/4,1/2,3/4", {0.2: 0.2, 0.25: 0.02, 0.5: 0.002, 0.75: 0.0002, 1.0: 0.0002}),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    schedule: str, points: dict[float, float], tiny: TrainConfig
) -> None:
    for progress, rate in points.items():
        assert learning_rate(schedule, 0.2, progress) == pytest.approx(rate)
    _, records = finished(dataclasses.replace(tiny, method="standard", schedule=schedule, lr=0.2))
    assert [record["lr"] for record in records] == pytest.approx(
        [learning_rate(schedule, 0.2, (2 * e + 1.5) / 6) for e in range(3)]
    )


def test_schedules_without_turns_of_their_own_are_to_the_bit_what_they_were() -> None:
    rng = random.Random(0)
    for at in (0.0, 0.3, 0.75, 0.9, 1.0, *(rng.random() for _ in range(2000))):
        top = rng.choice([0.01, 0.1, 0.2]) * rng.random()
        slow = {
            "cyclic": at / 0.3 if at < 0.3 else (1 - at) / 0.7,
            "cosine": 0.5 * (1 + math.cos(math.pi * at)),
            "step": 1.0 if at < 0.75 else 0.1 if at < 0.9 else 0.01,
            "constant": 1.0,
        }
        assert {name: learning_rate(name, top, at) for name in slow} == {
            name: top * share for name, share in slow.items()
        }


def test_a_stage_turns_at_shares_of_itself(tiny: TrainConfig, two_stages: Method) -> None:
    _, records = finished(
        dataclasses.replace(tiny, method=two_stages, epochs=4, lr=0.1, schedule="step@1/2")
    )
    assert [record["lr"] for record in records] == pytest.approx([0.1, 0.01, 0.1, 0.01])


def test_the_running_average_is_what_is_judged_and_kept(tiny: TrainConfig) -> None:
    run = Training(dataclasses.replace(tiny, method="standard", ema=0.7, select="last"))
    path: list[dict[str, Tensor]] = []
    list(
        run.epochs(
            lambda tick: (
                path.append(copy.deepcopy(run.net.state_dict())) or "go"
                if tick.phase == "train"
                else "go"
            )
        )
    )  # type: ignore[func-returns-value]
    path.append(run.net.state_dict())
    slow = dict(path[0])
    for weights in path[1:]:
        for name, _ in run.net.named_parameters():
            slow[name] = 0.7 * slow[name] + 0.3 * weights[name]
    for name, _ in run.net.named_parameters():
        assert torch.allclose(run.best[name], slow[name], atol=1e-6)
    assert not torch.allclose(run.best["head.weight"], run.net.head.weight)
    assert run.judged is run.ema
    # The statistics of batch norm are copied from the network.
    assert all(torch.equal(value, run.best[name]) for name, value in run.net.named_buffers())


def test_logged_terms_are_means_over_the_epoch(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([1.0, 2.0, 5.0, 7.0, 0.5, 0.5])
    monkeypatch.setattr(
        Standard,
        "loss",
        lambda self, net, batch, aux: {
            "a": (v := next(values)) + 0 * net(batch.x).sum(),
            "b": 2 * v + 0 * net(batch.x).sum(),
        },
    )
    _, records = finished(dataclasses.replace(tiny, method="standard"))
    assert [record["losses"] for record in records] == [
        {"a": 1.5, "b": 3.0},
        {"a": 6.0, "b": 12.0},
        {"a": 0.5, "b": 1.0},
    ]


def test_a_step_is_sgd_on_the_sum_of_the_terms(tiny: TrainConfig, two_stages: Method) -> None:
    config = dataclasses.replace(
        tiny,
        method="standard",
        epochs=1,
        n_train=32,
        schedule="constant",
        lr=0.1,
        weight_decay=0.01,
    )
    run = Training(config)
    by_hand = copy.deepcopy(run.net).train()
    x, y = run.images.float() / 255, run.y
    order = run._batches()[0]
    F.cross_entropy(by_hand(x[order]), y[order]).backward()
    list(run.epochs())
    for mine, theirs in zip(run.net.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(mine, theirs - 0.1 * (theirs.grad + 0.01 * theirs), atol=1e-6)


def test_the_net_normalises_by_the_training_split(tiny: TrainConfig) -> None:
    x = data.load("digits", "train", 64).x.double()
    normalise = Training(tiny).net.maps[0]  # type: ignore[index]
    assert float(normalise.mean) == pytest.approx(float(x.mean()), abs=1e-6) and float(
        normalise.std
    ) == pytest.approx(float(x.std()), abs=1e-6)


def test_accuracies_are_counted_on_the_validation_split_as_said(tiny: TrainConfig) -> None:
    run, records = finished(dataclasses.replace(tiny, method="pgd_at", epochs=1))
    val = data.load("digits", "val")
    with torch.no_grad():
        clean = (run.net.eval()(val.x).argmax(1) == val.y).double().mean()
    assert records[-1]["clean_acc"] == pytest.approx(float(clean)) and records[-1]["n_val"] == len(
        val
    )
    attack = run._judge_attack()
    assert (attack.steps, attack.eps, attack.step_size, attack.default_step(attack.eps)) == (
        10,
        0.15,
        None,
        0.15 / 4,
    )


# Which epoch is best.


def judged(
    config: TrainConfig, scores: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> Training:
    """Returns a training whose validation counts the given numbers of (clean, robust) images as
    right.
    """
    flat = iter([count for pair in scores for count in pair])
    monkeypatch.setattr(loop, "count_right", lambda *a, **k: torch.ones(next(flat)))
    run = Training(dataclasses.replace(config, method="standard", epochs=len(scores)))
    run.weights = []  # type: ignore[attr-defined]
    for _ in run.epochs():
        run.weights.append(copy.deepcopy(run.net.state_dict()))  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(("select", "best"), [("robust", 3), ("clean", 1), ("last", 4)])
def test_the_best_epoch_is_chosen_as_asked_and_ties_go_to_the_later(
    select: str, best: int, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = judged(
        dataclasses.replace(tiny, select=select), [(9, 2), (5, 5), (8, 5), (7, 4)], monkeypatch
    )
    assert run.best_epoch == best and same_bits(run.best, run.weights[best - 1])
    marks = {
        "robust": [True, True, True, False],
        "clean": [True, False, False, False],
        "last": [True] * 4,
    }
    assert [record["best"] for record in run.records] == marks[select]


# Errors.


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training_with_advice(
    bad: float, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Standard.loss
    monkeypatch.setattr(
        Standard,
        "loss",
        lambda self, net, batch, aux: {
            "ce": whole(self, net, batch, aux)["ce"] * (bad if batch.epoch == 1 else 1)
        },
    )
    run = Training(dataclasses.replace(tiny, method="standard"))
    with pytest.raises(
        Diverged, match=r"epoch 2; kept epoch 1\. Try a lower learning rate than 0\.1\."
    ) as caught:
        list(run.epochs())
    # The training stops at once, not at the end of the epoch.
    assert (run.epoch, run.batch) == (1, 0)
    assert (
        isinstance(caught.value, UserError)
        and run.best_epoch == 1
        and all(value.isfinite().all() for value in run.best.values())
    )


def test_a_loss_that_was_never_a_number_says_that_nothing_was_learned(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Standard, "loss", lambda self, net, batch, aux: {"ce": net(batch.x).sum() * math.nan}
    )
    with pytest.raises(Diverged, match="epoch 1; nothing was learned yet"):
        finished(dataclasses.replace(tiny, method="standard"))


@pytest.mark.parametrize(
    ("n", "sizes"), [(64, [32, 32]), (65, [32, 32]), (66, [32, 32, 2]), (10, [10])]
)
def test_a_last_batch_of_one_image_is_left_out(n: int, sizes: list[int], tiny: TrainConfig) -> None:
    assert [
        len(part) for part in Training(dataclasses.replace(tiny, n_train=n))._batches()
    ] == sizes


def test_training_never_touches_the_test_split(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = data.load, []

    def load(source: Any, split: str = "train", n: int | None = None) -> data.Dataset:
        assert split != "test"
        asked.append(split)
        return whole(source, split, n)

    monkeypatch.setattr(data, "load", load)
    run, _ = finished(dataclasses.replace(tiny, epochs=1))
    run.strip()
    assert set(asked) == {"train", "val"}


def test_too_few_images_are_refused(tiny: TrainConfig) -> None:
    with pytest.raises(UserError, match="too few images"):
        Training(dataclasses.replace(tiny, n_train=1))


def test_the_strip_shows_the_same_images_attacked_within_eps(tiny: TrainConfig) -> None:
    run, _ = finished(dataclasses.replace(tiny, epochs=1))
    one, other = run.strip(), run.strip()
    assert one.x.shape == (8, 1, 8, 8) and (one.x_adv == other.x_adv).all()
    assert 0 < abs(one.x_adv - one.x).max() <= one.eps + 1e-6 and one.epoch == 1


def test_the_short_way_in_yields_records_with_the_training_behind_them(tiny: TrainConfig) -> None:
    records = train(tiny)
    first = next(records)
    assert (
        first.epoch == 1
        and isinstance(first.training.net, nn.Module)
        and "training" not in first.to_json()
    )


@pytest.mark.long
def test_a_training_computes_with_its_own_threads_and_leaves_the_process_its(
    tiny: TrainConfig,
) -> None:
    inside = []

    def look(tick: Tick) -> loop.Answer:
        inside.append(torch.get_num_threads())
        return "go"

    torch.set_num_threads(3)
    outside = [torch.get_num_threads() for _ in train(dataclasses.replace(tiny, threads=2), look)]
    assert set(inside) == {2} and outside == [3, 3, 3] and torch.get_num_threads() == 3


def test_a_resume_that_cannot_be_exact_says_so() -> None:
    same = {"torch": "2", "platform": "a", "device": "cpu"}
    assert tolerance_note(same, dict(same)) == ""
    assert "torch" in tolerance_note(same, same | {"torch": "3"})
    one, other = (same | {"processor": each} for each in ("AVX2", "AVX512"))
    assert "processor" in tolerance_note(one, other)
    assert tolerance_note(same, one) == ""  # an older run, which did not record it
    assert "GPU" in tolerance_note(same | {"device": "cuda"}, same | {"device": "cuda"})
