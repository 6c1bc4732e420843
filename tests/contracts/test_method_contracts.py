"""What every training method promises, over the registry; then identities that tie single methods
to known ones.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import C, H, N, W, conv
from torch import Tensor, nn

from robustviz import losses, registry
from robustviz.attacks import FGSM, PGD
from robustviz.data import Dataset
from robustviz.methods import (
    AALP,
    AFA,
    AFATRADES,
    ALP,
    FGSMAT,
    FGSMRS,
    PART,
    PARTM,
    PGDAT,
    SIPAT,
    TRADES,
    ModelAlignment,
    SupConMargin,
)
from robustviz.methods.base import Adversarial, Method, Stage, Terms
from robustviz.nets.base import Classifier
from robustviz.training.config import TrainConfig
from robustviz.types import Batch

EPS = 0.1


# Every registered method as it comes, and every other way through its code that a setting opens.
VARIANTS: dict[str, Method] = {
    key: registry.get("method", key)() for key in registry.keys("method")
} | {
    "trades, official": TRADES(bn="official"),
    "alp, adv_only": ALP(ce="adv_only"),
    "alp, clean_only": ALP(ce="clean_only"),
    "alp, least likely": ALP(targets="least_likely"),
    "alp, adv_only, weight 0": ALP(ce="adv_only", weight=0),
    "aalp, random": AALP(dropped="random", pair_weight="clean"),
    "aalp, top": AALP(dropped="top", pair_weight="loss"),
    "aalp, magnitude": AALP(contribution="magnitude"),
    "part, layer_cam": PART(cam="layer_cam", cam_class="predicted", eps_low=0.0),
    "part, top": PART(rule="top20%", eps_low=0.0),
    "part_m, oracle": PARTM(rule="oracle", eps_low=0.0),
    "sip_at, oracle": SIPAT(salience="oracle"),
    "afa, SLF": AFA(head="SLF"),
    "afa, ALF": AFA(head="ALF"),
    "afa, AFF": AFA(head="AFF", contrast="clean+adv"),
    "afa, clean+adv": AFA(contrast="clean+adv"),
    "afa, projection": AFA(projection=True),
    "afa, cross-entropy": AFA(inner="ce", contrast="clean+adv", projection=True),
    "afa_trades, official": AFATRADES(bn="official"),
    "supcon_margin, flat": SupConMargin(reduction="flat", supcon_weight=0),
    "supcon_margin, off": SupConMargin(supcon_weight=0, margin_weight=0),
    "supcon_margin, pairs": SupConMargin(supcon_weight=0, margin_weight=0, pairs=True),
    "supcon_margin, projected": SupConMargin(head="projected"),
    "model_alignment, hard": ModelAlignment(target="witness_hard"),
    "model_alignment, label": ModelAlignment(target="label"),
    "model_alignment, mixed": ModelAlignment(ce_weight=0.5),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def method(request: pytest.FixtureRequest) -> Method:
    return request.param.bound(EPS)  # type: ignore[no-any-return]


class Earlier:
    """What was trained earlier, in these tests: a network for images of this shape."""

    name, architecture, weights = "earlier", TrainConfig().net, "some"
    shape, classes = (4, C, W), ()

    def net(self) -> Classifier:
        return conv(seed=5)


@pytest.fixture
def net(conv_net: Classifier, request: pytest.FixtureRequest) -> Classifier:
    if "method" in request.fixturenames:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            conv_net = request.getfixturevalue("method").network(conv_net)
    return conv_net.double().train()


@pytest.fixture
def batch(images: Tensor, labels: Tensor) -> Batch:
    return make(images.double(), labels)


def make(x: Tensor, y: Tensor, index: Tensor | None = None) -> Batch:
    index = torch.arange(len(y)) if index is None else index
    views = torch.stack([x, (x.flip(-1) + 0.02).clamp(0, 1)])
    objects = (x > 0.5).any(dim=1, keepdim=True)
    return Batch(
        x,
        y,
        index,
        epoch=0,
        progress=0.5,
        rng=torch.Generator().manual_seed(3),
        views=views,
        objects=objects,
    )


def each_stage(method: Method, net: nn.Module) -> list[tuple[Stage, nn.Module | None]]:
    config = TrainConfig(method=method)
    images = torch.zeros(N, C, H, W, dtype=torch.uint8)
    split = Dataset("made up", "train", images, torch.arange(N) % 4, ("a", "b", "c", "d"))
    helper = method.initial(copy.deepcopy(net), config, split, lambda *name, **more: Earlier())
    out = []
    for stage in method.stages(config):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            aux = method.aux(net, config) if helper is None else helper
        out.append((stage, aux.double() if aux is not None else None))
    return out


def gradients(net: nn.Module, terms: Terms) -> list[Tensor]:
    found = torch.autograd.grad(sum(terms.values()), list(net.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(net.parameters(), found, strict=True)
    ]


def buffers(net: nn.Module) -> list[Tensor]:
    return [value.clone() for value in net.buffers()]


# Contracts.


def test_terms_are_finite_scalars_and_reach_every_trainable_parameter(
    method: Method, net: Classifier, batch: Batch
) -> None:
    for stage, aux in each_stage(method, net):
        terms = stage.loss(net, batch, aux)
        assert terms and all(term.shape == () and term.isfinite() for term in terms.values())
        net.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        assert list(stage.trainable(net)) and all(
            p.grad is not None and p.grad.abs().max() > 0 for p in stage.trainable(net)
        )
        if aux is not None:
            assert all(
                p.grad is not None and p.grad.abs().max() > 0
                for p in aux.parameters()
                if p.requires_grad
            )


def test_stages_cover_the_training_and_train_every_parameter_at_some_time(
    method: Method, net: Classifier
) -> None:
    stages = [stage for stage, _ in each_stage(method, net)]
    assert sum(stage.share_of_epochs for stage in stages) == pytest.approx(1)
    assert len({stage.name for stage in stages}) == len(stages)
    assert {p for stage in stages for p in stage.trainable(net)} == set(net.parameters())


def test_net_and_batch_are_left_as_they_were(method: Method, net: Classifier, batch: Batch) -> None:
    net.maps[2].eval()
    modes, asks = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    x, y = batch.x.clone(), batch.y.clone()
    for stage, aux in each_stage(method, net):
        inside = (
            {name: value.clone() for name, value in aux.state_dict().items()}
            if aux is not None
            else {}
        )
        stage.loss(net, batch, aux)
        assert aux is None or all(
            torch.equal(value, inside[name]) for name, value in aux.state_dict().items()
        )
        assert aux is None or all(p.grad is None for p in aux.parameters())
        assert [m.training for m in net.modules()] == modes
        assert [p.requires_grad for p in net.parameters()] == asks
        assert all(p.grad is None for p in net.parameters())
    assert torch.equal(batch.x, x) and torch.equal(batch.y, y)
    # The next stage, the epoch's loss and its gradient: nothing of an attack stays behind in the
    # graph of the weights.
    assert all(p.is_leaf for p in net.parameters())


def test_the_order_within_a_batch_does_not_matter(
    method: Method, net: Classifier, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every attack starts where the image itself says: no noise that is tied to a place in the
    # batch.
    for key in registry.keys("attack"):
        monkeypatch.setattr(
            registry.get("attack", key),
            "starting_points",
            lambda self, ball, rng: ball.project(ball.x + 0.02 * torch.cos(50 * ball.x)),
        )
    # Nor a dropout that is: one that follows from the contributions alone.
    monkeypatch.setattr(
        AALP,
        "guided_mask",
        lambda self, c, rate, rng: (c > c.mean(dim=1, keepdim=True)).to(c) * 1.5,
    )
    mixed = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for stage, aux in each_stage(method, net):
        # a loss in train mode moves the running statistics that the next attack sees
        other = copy.deepcopy(net)
        straight = stage.loss(net, batch, aux)
        permuted = stage.loss(other, make(batch.x[mixed], batch.y[mixed], batch.index[mixed]), aux)
        assert straight.keys() == permuted.keys()
        for name in straight:
            assert torch.allclose(straight[name], permuted[name], atol=1e-9)
        for a, b in zip(gradients(net, straight), gradients(other, permuted), strict=True):
            assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "method",
    [method for method in VARIANTS.values() if isinstance(method, Adversarial)],
    indirect=True,
    ids=[name for name, method in VARIANTS.items() if isinstance(method, Adversarial)],
)
def test_the_attack_leaves_batch_norm_alone_unless_asked(
    mode: str, method: Method, net: Classifier, batch: Batch
) -> None:
    # for every forward pass of an attack (the images want a gradient): is the body in train mode?
    attacking = []
    net.maps.register_forward_pre_hook(
        lambda module, args: attacking.append(module.training) if args[0].requires_grad else None
    )
    for stage, aux in each_stage(replace(method, attack_mode=mode), net):  # type: ignore[arg-type]
        attacking.clear()
        stage.loss(net, batch, aux)
        # A body that rests stays at rest, whatever is asked for.
        wanted = mode == "train" and not stage.frozen_eval
        # SLF learns from clean images
        assert set(attacking) == {wanted} or (stage.name == "linear head" and not attacking)


def test_config_hands_its_eps_to_the_attack_unless_that_has_its_own() -> None:
    for key in registry.keys("method"):
        bound = TrainConfig(method=key, eps=0.07).bound_method  # type: ignore[arg-type]
        if hasattr(bound, "attack"):
            assert bound.attack.eps == 0.07
    own = TrainConfig(method=PGDAT(attack=PGD(eps=0.03)), eps=0.07)
    assert own.bound_method.attack.eps == 0.03 and own.eps == 0.07  # type: ignore[attr-defined]


# Identities.


def attack_only(method: Adversarial, net: nn.Module, batch: Batch) -> Tensor:
    before = buffers(net)
    x_adv = method.attacked(net, batch)
    same = all(torch.equal(a, b) for a, b in zip(before, buffers(net), strict=True))
    assert same == (method.attack_mode == "eval")
    return x_adv


@pytest.mark.parametrize(
    ("method", "attack"),
    [
        (FGSMAT(), FGSM(eps=EPS)),
        (FGSMRS(), FGSM(eps=EPS, start="uniform", step_size=1.25 * EPS)),
        (PGDAT(), PGD(eps=EPS, steps=10, step_size=EPS / 4)),
        (PGDAT(attack_mode="train"), None),
    ],
    ids=["fgsm_at", "fgsm_rs", "pgd_at", "pgd_at in train mode"],
)
def test_adversarial_training_is_cross_entropy_on_its_attack(
    method: Adversarial, attack: FGSM | PGD | None, net: Classifier, batch: Batch
) -> None:
    method = method.bound(EPS)  # type: ignore[assignment]
    x_adv = attack_only(method, copy.deepcopy(net), batch)
    batch.rng.manual_seed(3)
    if attack is not None:
        assert torch.equal(
            x_adv, attack(net, batch.x, batch.y, rng=torch.Generator().manual_seed(3))
        )
    expected = F.cross_entropy(copy.deepcopy(net)(x_adv), batch.y)
    assert float(method.loss(net, batch, None)["ce_adv"].detach()) == pytest.approx(
        float(expected.detach()), abs=1e-12
    )


def test_trades_without_beta_has_the_gradients_of_clean_cross_entropy(
    net: Classifier, batch: Batch
) -> None:
    terms = TRADES(beta=0).bound(EPS).loss(net, batch, None)
    clean = gradients(net, {"ce": F.cross_entropy(net(batch.x), batch.y)})
    assert all(
        torch.allclose(a, b, atol=1e-12) for a, b in zip(gradients(net, terms), clean, strict=True)
    )


def test_trades_is_its_loss_on_images_that_maximise_the_divergence(
    net: Classifier, batch: Batch
) -> None:
    method, frozen_net = TRADES(beta=3).bound(EPS), copy.deepcopy(net).eval()
    terms = method.loss(net, batch, None)
    # The inner ascent, written out: start 0.001·N(0,1), ten sign steps of ε/4 up KL(f(x) ‖ f(x'))
    # in eval mode.
    noise = torch.randn(
        batch.x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    z = (batch.x + 0.001 * noise).clamp(0, 1)
    with torch.no_grad():
        p = frozen_net(batch.x).softmax(1)
    for _ in range(10):
        z.requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            F.kl_div(frozen_net(z).log_softmax(1), p, reduction="sum"), z
        )
        z = (batch.x + (z.detach() + EPS / 4 * gradient.sign() - batch.x).clamp(-EPS, EPS)).clamp(
            0, 1
        )
    fresh = copy.deepcopy(net)
    expected = losses.trades(fresh(batch.x), fresh(z), batch.y, beta=3)
    assert float(sum(terms.values()).detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    # Both branches carry gradient: the clean target is not detached.
    for one, other in zip(
        gradients(net, terms), torch.autograd.grad(expected, list(fresh.parameters())), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6)


def test_official_trades_has_the_same_loss_but_other_running_statistics(
    net: Classifier, batch: Batch
) -> None:
    other = copy.deepcopy(net)
    single = TRADES().bound(EPS).loss(net, batch, None)
    batch.rng.manual_seed(3)
    official = TRADES(bn="official").bound(EPS).loss(other, batch, None)
    assert {k: float(v.detach()) for k, v in single.items()} == pytest.approx(
        {k: float(v.detach()) for k, v in official.items()}, abs=1e-12
    )
    forwards = [int(n.get_buffer("maps.2.num_batches_tracked")) for n in (net, other)]
    assert forwards == [5 + 2, 5 + 3]
    assert not torch.allclose(
        net.get_buffer("maps.2.running_mean"), other.get_buffer("maps.2.running_mean")
    )


def test_trades_climbs_the_divergence_and_not_the_cross_entropy(
    net: Classifier, batch: Batch
) -> None:
    relabelled = make(batch.x, (batch.y + 1) % 4)
    method = TRADES().bound(EPS)
    kl, kl_relabelled = (
        float(method.loss(copy.deepcopy(net), b, None)["kl"].detach()) for b in (batch, relabelled)
    )
    assert kl > 0 and kl == pytest.approx(kl_relabelled, abs=1e-12)
