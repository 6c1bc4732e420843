"""Tests adversarial weight perturbation (AWP) against a short reference implementation, and checks
that it does not change the weights, the running statistics, the attacked images, the random numbers
or a training without AWP.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import data, registry
from robustviz.attacks import PGD, Attack
from robustviz.methods import AALP, AFA, PGDAT, TRADES
from robustviz.methods.base import Adversarial
from robustviz.nets.base import Classifier
from robustviz.training import awp, loop
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training
from robustviz.types import Batch

FEW = PGD(steps=2, step_size=0.1)
METHODS = [
    method
    for key in registry.keys("method")
    if issubclass(method := registry.get("method", key), Adversarial)
]


def of(x: Tensor, y: Tensor) -> Batch:
    rng = torch.Generator().manual_seed(3)
    return Batch(x, y, torch.arange(len(y)), epoch=0, progress=0.5, rng=rng)


def one_step(kind: Any, **settings: Any) -> Any:
    """Builds a training method whose attack, its default one, takes a single step."""
    attack = kind().attack
    shorter = {"steps": 1} if hasattr(attack, "steps") else {}
    return kind(attack=dataclasses.replace(attack, **shorter), **settings)


def gradients_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def backward(method: Any, net: Classifier, batch: Batch, gamma: float, share: float = 1.0) -> Any:
    return awp.backward(loop._Loss(method.loss, net, None), net, batch, share, gamma, bf16=False)


# A two-layer linear network, written out by hand.


def plain(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """Returns the gradients of the mean cross-entropy of w2(w1·x + b1) + b2, computed by hand."""
    h = x @ w1.T + b1
    p = (h @ w2.T + b2).exp()
    d = (p / p.sum(1, keepdim=True) - torch.eye(3, dtype=x.dtype)[y]) / len(y)
    back = d @ w2
    return [back.T @ x, back.sum(0), d.T @ h, d.sum(0)]


def moved(w: Tensor, g: Tensor, gamma: float) -> Tensor:
    """Returns w moved along g by γ times the norm of w."""
    return w + gamma * (w**2).sum().sqrt() * g / (g**2).sum().sqrt()


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.3])
def test_the_gradient_is_the_one_at_the_worst_weights_and_the_weights_stay(
    gamma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    first, head = nn.Linear(5, 4), nn.Linear(4, 3)
    net = Classifier(nn.Sequential(nn.Flatten(), first), head, nn.Identity()).double()
    x, y = torch.rand(6, 5, 1, 1, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    x_adv = x + 0.1
    monkeypatch.setattr(PGDAT, "attacked", lambda self, net, batch: x_adv)
    before = copy.deepcopy(net.state_dict())
    terms = backward(PGDAT(), net, of(x, y), gamma)

    w1, b1, w2, b2 = (value.detach() for value in (*first.parameters(), *head.parameters()))
    flat = x_adv.flatten(1)
    g1, _, g2, _ = plain(w1, b1, w2, b2, flat, y)
    v1, v2 = moved(w1, g1, gamma), moved(w2, g2, gamma)
    wanted = plain(v1, b1, v2, b2, flat, y)
    for parameter, gradient in zip((*first.parameters(), *head.parameters()), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-14, rtol=1e-12)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    loss = F.cross_entropy((flat @ v1.T + b1) @ v2.T + b2, y)
    assert float(terms["ce_adv"].detach()) == pytest.approx(float(loss), abs=1e-14)
    # The perturbed weights must give a higher loss, not a lower one.
    assert gamma == 0 or loss > F.cross_entropy(net(x_adv), y).detach() + gamma / 10


def test_biases_batch_norm_and_what_has_no_gradient_stay_where_they_are(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    """Each weight with more than one dimension moves by exactly γ of its norm."""
    F.cross_entropy(conv_net(images), labels).backward()
    conv_net.head.weight.grad = None
    before = {name: value.detach().clone() for name, value in conv_net.named_parameters()}
    kept = awp.worst(conv_net, 0.25)
    assert kept and all(weight.ndim > 1 for weight, _ in kept)
    changed = {weight for weight, _ in kept}
    for name, weight in conv_net.named_parameters():
        if weight in changed:
            far = float((weight.detach() - before[name]).norm() / before[name].norm())
            assert far == pytest.approx(0.25, rel=1e-4), name
        else:
            assert torch.equal(weight.detach(), before[name]), name
    assert conv_net.head.weight not in changed
    weight, value = kept[0]
    weight.grad.zero_()  # type: ignore[union-attr]
    with torch.no_grad():
        weight.copy_(value)
    # The gradient is zero, so nothing may move, and no NaN may appear.
    assert torch.equal(awp.worst(conv_net, 0.25)[0][0].detach(), value)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.key)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_method_attacks_once_and_running_statistics_move_once(
    kind: Any,
    mode: Any,
    conv_net: Classifier,
    images: Tensor,
    labels: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second pass trains on the attacked images of the first pass and draws the same random
    numbers.
    """
    method = one_step(kind, attack_mode=mode).bound(0.1)
    attacks, maximise = list[int](), Attack.maximise

    def counted(*args: Any, **settings: Any) -> Tensor:
        attacks.append(1)
        return maximise(*args, **settings)

    monkeypatch.setattr(Attack, "maximise", counted)
    after = []
    for gamma in (0.0, 1e-12, 0.3):
        net, batch = copy.deepcopy(conv_net).train(), of(images, labels)
        backward(method, net, batch, gamma)
        after.append((gradients_of(net), net.state_dict(), batch.rng.get_state()))
        assert all(
            torch.equal(p, q) for p, q in zip(net.parameters(), conv_net.parameters(), strict=True)
        )
    assert len(attacks) == 3
    (off, plain_net, state), (near, near_net, _), (on, on_net, on_state) = after
    # A tiny weight perturbation must hardly change the gradients, which shows that both passes use
    # the same attacked images, masks and statistics.
    for name, gradient in off.items():
        assert torch.allclose(near[name], gradient, atol=1e-5, rtol=1e-3), name
    for name, value in plain_net.items():
        assert torch.allclose(near_net[name].float(), value.float(), atol=1e-5), name
    assert any((on[name] - gradient).abs().max() > 1e-4 for name, gradient in off.items())
    assert torch.equal(state, on_state)
    moves = [name for name in plain_net if name.endswith("num_batches_tracked")]
    assert moves and all(torch.equal(on_net[name], plain_net[name]) for name in moves)


# Whole trainings.


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data.load

    def load(source: Any, split: str = "train", n: int | None = None) -> data.Dataset:
        return whole(source, split, n) if split == "train" else whole(source, split, n).take(8)

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(loop, "count_right", lambda net, x, *a, **k: torch.ones(len(x)))


def short(method: Any, **fields: Any) -> TrainConfig:
    settings = {"n_train": 96, "epochs": 2, "batch_size": 32} | fields
    return TrainConfig(
        data="digits", net="small_resnet", method=method, threads=1, device="cpu", **settings
    )  # type: ignore[arg-type]


def trained(method: Any, **fields: Any) -> dict[str, Tensor]:
    run = Training(short(method, **fields))
    list(run.epochs())
    return run.state()[0]


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.long
def test_without_it_nothing_changes_and_the_warm_up_is_without_it() -> None:
    off = trained(PGDAT(attack=FEW))
    assert same_bits(trained(PGDAT(attack=FEW, awp=0.1, awp_warmup=1)), off)
    half, on = (trained(PGDAT(attack=FEW, awp=0.1, awp_warmup=share)) for share in (0.5, 0.0))
    assert not same_bits(half, off) and not same_bits(half, on)
    # At its default value, AWP must not be part of the run's name.
    config = TrainConfig(data="digits", method=TRADES())  # type: ignore[arg-type]
    assert config.run_id == "digits-trades-small-resnet-s0-9f922fe2"
    assert dataclasses.replace(config, method=TRADES(awp=0.01)).run_id != config.run_id


@pytest.mark.long
@pytest.mark.parametrize(
    "method",
    [
        AALP(attack=FEW, awp=0.1),
        TRADES(attack=dataclasses.replace(FEW, start="gauss"), awp=0.1, attack_mode="train"),
        AFA(attack=FEW, awp=0.1, projection=True),
    ],
    ids=lambda method: method.key,
)
def test_a_pause_changes_no_bit_and_the_average_follows_the_weights(method: Any) -> None:
    config = short(method, ema=0.5)
    straight = Training(config)
    list(straight.epochs())
    paused = Training(config)
    list(paused.epochs(lambda tick: "pause" if (tick.epoch, tick.batch) == (1, 1) else "go"))
    assert paused.ended == "pause"
    resumed = Training(config)
    resumed.restore(*paused.state())
    list(resumed.epochs())
    assert same_bits(resumed.state()[0], straight.state()[0])
    assert resumed.ema is not None and not torch.equal(
        resumed.ema.head.weight, resumed.net.head.weight
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "precision"),
    [(AFA(attack=FEW, head=head, head_share=0.5), "fp32") for head in ("SLF", "ALF", "AFF")]
    + [(PGDAT(attack=FEW), "bf16")],
    ids=lambda value: getattr(value, "head", str(value)),
)
def test_stages_and_bf16_go_with_it(method: Any, precision: Any) -> None:
    settings = {"precision": precision, "n_train": 32, "batch_size": 16}
    on, off = (trained(dataclasses.replace(method, awp=g), **settings) for g in (0.1, 0.0))
    assert all(torch.isfinite(value).all() for value in on.values()) and not same_bits(on, off)


@pytest.mark.long
@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.key)
def test_the_average_of_the_weights_goes_with_every_method(kind: Any) -> None:
    run = Training(short(one_step(kind), ema=0.9, n_train=40, epochs=1))
    list(run.epochs())
    assert run.judged is run.ema and same_bits(run.best, run.ema.state_dict())  # type: ignore[union-attr]
    assert not same_bits(run.best, run.net.state_dict())
