"""Tests what every registered training method must satisfy, and identities that relate methods to
known formulas.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import contracts, losses, registry
from robustviz.attacks import FGSM, PGD
from robustviz.contracts.methods import gradients, make, no_order
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
from robustviz.methods.base import Adversarial, Method
from robustviz.nets.base import Classifier
from robustviz.training.config import TrainConfig
from robustviz.types import Batch

EPS = 0.1


# Every registered method with its defaults, and with every setting that takes another path through
# its code.
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


def buffers(net: nn.Module) -> list[Tensor]:
    return [value.clone() for value in net.buffers()]


# Contracts of every method.


@pytest.mark.long
@pytest.mark.parametrize("promise", contracts.promises("method"), ids=lambda each: each.says)
@pytest.mark.parametrize("tried", VARIANTS.values(), ids=VARIANTS.keys())
def test_promise(
    promise: contracts.Promise, tried: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    if promise.check is no_order:
        # Replace the dropout mask, which depends on the place in the batch, by one computed from
        # the contributions alone.
        monkeypatch.setattr(
            AALP,
            "guided_mask",
            lambda self, c, rate, rng: (c > c.mean(dim=1, keepdim=True)).to(c) * 1.5,
        )
    if why := promise.check(tried):
        pytest.skip(why)


def test_an_attack_with_its_own_eps_keeps_it() -> None:
    own = TrainConfig(method=PGDAT(attack=PGD(eps=0.03)), eps=0.07)
    assert own.bound_method.attack.eps == 0.03 and own.eps == 0.07  # type: ignore[attr-defined]


# Identities of single methods.


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
    # The inner maximisation written out: start at 0.001·N(0,1), then ten sign steps of ε/4 that
    # raise KL(f(x) ‖ f(x')), in eval mode.
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
    # Gradients flow through both branches: the clean target is not detached.
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
