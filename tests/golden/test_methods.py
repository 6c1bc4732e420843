"""Tests training methods against the acceptance list of their specification: golden numbers through
each method's own loss, bitwise equality of a method with its option turned off and the method it
extends, and early refusal of bad input.

The letters in the test names are those of the specification: P for PART, A for AFA, S for SupCon
with margin, M for model alignment, L for AALP.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from conftest import Blink, C, H, N, W
from PIL import Image
from torch import Tensor, nn

from robustviz import cam, cli, data, losses, nets, registry
from robustviz.attacks import FGSM, PGD
from robustviz.methods import (
    AALP,
    AFA,
    AFATRADES,
    ALP,
    MART,
    PART,
    PARTM,
    PARTT,
    PGDAT,
    TRADES,
    ModelAlignment,
    Standard,
    SupConMargin,
)
from robustviz.methods.aalp import contributions
from robustviz.methods.base import Adversarial, Method
from robustviz.nets.base import Classifier
from robustviz.runs import folder, worker
from robustviz.training import loop
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.training.loop import Training, balanced_order, check, learning_rate
from robustviz.types import Batch, UserError

EPS = 0.15  # The default ε of digits.
# The steps are long, so that the projection makes the difference between radii.
FEW = PGD(steps=3, step_size=0.1)
NEAR = PGD(steps=3, step_size=0.1, start="gauss")


def of(x: Tensor, y: Tensor, progress: float = 0.5, views: Tensor | None = None) -> Batch:
    return Batch(
        x,
        y,
        torch.arange(len(y)),
        epoch=0,
        progress=progress,
        rng=torch.Generator().manual_seed(3),
        views=views,
    )


@pytest.fixture(scope="module")
def _quick() -> Iterator[None]:
    """Skips validation, because these tests compare only the weights of the last epoch."""
    patch, whole = pytest.MonkeyPatch(), data.load

    def load(source: Any, split: str = "train", n: int | None = None) -> data.Dataset:
        return whole(source, split, n) if split == "train" else whole(source, split, n).take(8)

    patch.setattr(data, "load", load)
    patch.setattr(loop, "count_right", lambda net, x, *a, **k: torch.ones(len(x)))
    yield
    patch.undo()


def short(method: Method, **fields: Any) -> TrainConfig:
    """Returns the config of a training on digits that takes a fifth of a second."""
    settings = {"n_train": 96, "epochs": 2, "batch_size": 48} | fields
    return TrainConfig(
        data="digits", net="small_resnet", method=method, threads=1, device="cpu", **settings
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(_quick: None) -> Callable[..., dict[str, Tensor]]:
    """Returns a function that trains and returns the final weights; each config is trained only
    once.
    """
    known: dict[TrainConfig, dict[str, Tensor]] = {}

    def train(method: Method, **fields: Any) -> dict[str, Tensor]:
        config = short(method, **fields)
        if config not in known:
            run = Training(config)
            list(run.epochs())
            known[config] = run.net.state_dict()
        return known[config]

    return train


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Golden numbers through the methods, with a network whose logits are its input and an attack that
# returns a given result.

Z = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]], dtype=torch.float64)
Z_ADV = torch.tensor([[1.0, 0.5, -1.0], [0.5, -0.5, 0.5]], dtype=torch.float64)
Y = torch.tensor([0, 1])
ANGLES = {"clean": (0, 60, 90, 180), "anchors": (20, 50, 100, 150)}
G4_Y = torch.tensor([0, 0, 1, 1])


def unit_vectors(name: str) -> Tensor:
    angle = torch.tensor(ANGLES[name], dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def mirror(width: int) -> Classifier:
    """Returns a network whose features and logits are the (N, width, 1, 1) images themselves."""
    head = nn.Linear(width, width, bias=False, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.eye(width))
    return Classifier(nn.Identity(), head, nn.Flatten())


def as_images(z: Tensor) -> Tensor:
    return z[:, :, None, None]


def total(
    method: Method,
    aux: nn.Module | None = None,
    x_adv: Tensor = Z_ADV,
    patch: pytest.MonkeyPatch | None = None,
) -> Tensor:
    if patch is not None:
        patch.setattr(type(method), "attacked", lambda self, net, batch: as_images(x_adv))
    return sum(method.loss(mirror(3), of(as_images(Z), Y), aux).values())


@pytest.mark.parametrize(
    ("method", "golden"),
    [
        (PGDAT(), 1.208476),
        (TRADES(), 1.985334),
        (PARTT(), 1.985334),
        (MART(), 2.193499),
        (PARTM(), 2.193499),
        (PARTM(beta=6), 2.292860),
        (ALP(), 1.129267),
        (ALP(ce="adv_only"), 1.520976),
        (ALP(ce="clean_only"), 0.425058 + 0.3125),
        (ALP(weight=0), (0.425058 + 1.208476) / 2),
        (ALP(weight=0, ce="adv_only"), 1.208476),
        (AALP(drop=0), 0.908936),
        (AALP(drop=0, pair_weight="clean"), 1.010179),
        (AALP(drop=0, pair_weight="ones"), 1.129267),
        (AALP(drop=0, ce="adv_only"), 1.300645),
    ],
    ids=repr,
)
def test_L1_losses_through_the_method_have_their_golden_values(
    method: Method, golden: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert abs(float(total(method, patch=monkeypatch).detach()) - golden) < 1e-6


def test_L1_the_weight_by_loss_is_one_over_one_plus_cross_entropy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ce = [
        -math.log(math.exp(row[k]) / sum(map(math.exp, row)))
        for row, k in zip(Z_ADV.tolist(), Y.tolist(), strict=True)
    ]
    d = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / 3
        for one, other in zip(Z.tolist(), Z_ADV.tolist(), strict=True)
    ]
    wanted = (0.425058 + 1.208476) / 2 + 0.5 * sum(
        a / (1 + b) for a, b in zip(d, ce, strict=True)
    ) / 2
    assert (
        abs(float(total(AALP(drop=0, pair_weight="loss"), patch=monkeypatch).detach()) - wanted)
        < 1e-6
    )


class Fixed(nn.Module):
    """A witness with fixed logits."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z

    def forward(self, x: Tensor) -> Tensor:
        return self.z


@pytest.mark.parametrize(
    ("method", "golden"),
    [
        (ModelAlignment(), 0.284019),  # The default temperature is 4.
        (ModelAlignment(temperature=1.0), 0.255643),
        (ModelAlignment(target="label"), 0.425058),
        (
            ModelAlignment(target="witness_hard"),
            (-math.log(0.8437947) - math.log(0.3071959)) / 2,
        ),  # The witness predicts class 0 for both images.
        (ModelAlignment(ce_weight=0.5), 0.284019 + 0.5 * 0.425058),
        (
            ModelAlignment(target="witness_hard", ce_weight=2.0),
            (-math.log(0.8437947) - math.log(0.3071959)) / 2 + 2 * 0.425058,
        ),
        (ModelAlignment(target="label", ce_weight=2.0), 0.425058),
    ],
    ids=repr,
)
def test_M1_alignment_through_the_method_has_its_golden_values(
    method: Method, golden: float
) -> None:
    # A tie, for which argmax returns the first index.
    assert Z_ADV[1, 0] == Z_ADV[1, 2] == Z_ADV[1].max()
    assert abs(float(total(method, Fixed(Z_ADV)).detach()) - golden) < 1e-6


@pytest.mark.parametrize(
    ("contrast", "temperature", "golden"), [("clean", 0.5, 1.093307), ("clean", 0.1, 2.224034)]
)
def test_A1_alignment_through_the_method_has_its_golden_values(
    contrast: Literal["clean"], temperature: float, golden: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = AFA(contrast=contrast, temperature=temperature, head="SLF")
    monkeypatch.setattr(
        AFA, "misaligned", lambda self, net, batch, aux: as_images(unit_vectors("anchors"))
    )
    terms = method.loss(mirror(2), of(as_images(unit_vectors("clean")), G4_Y), None)
    assert terms.keys() == {"afa"} and abs(float(terms["afa"].detach()) - golden) < 1e-6
    joint = AFATRADES(temperature=temperature, align_weight=2.0)
    monkeypatch.setattr(
        AFATRADES, "attacked", lambda self, net, batch: as_images(unit_vectors("anchors"))
    )
    terms = joint.loss(mirror(2), of(as_images(unit_vectors("clean")), G4_Y), None)
    trades = losses.trades(unit_vectors("clean"), unit_vectors("anchors"), G4_Y, 6.0)
    assert abs(float(terms["afa"].detach()) - 2 * golden) < 2e-6
    assert float((terms["ce"] + terms["kl"]).detach()) == pytest.approx(float(trades), abs=1e-12)


def test_A1_against_clean_and_attacked_images_an_anchor_meets_all_but_itself() -> None:
    clean, adv = unit_vectors("clean").tolist(), unit_vectors("anchors").tolist()
    each = []
    for i, anchor in enumerate(adv):
        others = [(z, y) for z, y in zip(clean, G4_Y.tolist(), strict=True)]
        others += [
            (z, y) for k, (z, y) in enumerate(zip(adv, G4_Y.tolist(), strict=True)) if k != i
        ]
        share = [(math.exp((anchor[0] * z[0] + anchor[1] * z[1]) / 0.5), y) for z, y in others]
        own = [s for s, y in share if y == G4_Y[i]]
        each.append(-sum(math.log(s / sum(s for s, _ in share)) for s in own) / len(own))
    both = torch.cat([unit_vectors("clean"), unit_vectors("anchors")])
    found = AFA(contrast="clean+adv", temperature=0.5).align(both, G4_Y)
    assert float(found) == pytest.approx(sum(each) / 4, abs=1e-12)


def test_S1_S3_both_contrastive_terms_through_the_method_have_their_golden_values() -> None:
    z = unit_vectors("clean")
    # Two views of two images; each pair has one label.
    views = torch.stack([as_images(z[[0, 2]]), as_images(z[[1, 3]])])
    method = SupConMargin(temperature=0.5, supcon_weight=0.25, margin_weight=2.0)
    terms = method.loss(mirror(2), of(views[0], Y, views=views), nn.Identity())
    assert abs(float(terms["supcon"].detach()) - 0.25 * 0.989836) < 1e-6
    assert abs(float(terms["margin"].detach()) - 2 * 0.779084) < 2e-6
    by_hand = F.cross_entropy(z[[0, 2, 1, 3]], torch.tensor([0, 1, 0, 1]))
    assert float(terms["ce"].detach()) == pytest.approx(float(by_hand), abs=1e-12)


# With its option turned off, a method gives the same weights, bit for bit, as the method it
# extends, after a real training and with the same random generator.

OFF: dict[str, tuple[Method, Method]] = {
    "P2 part, eps_low = eps": (PART(attack=FEW, eps_low=EPS, warmup=0), PGDAT(attack=FEW)),
    "P2 part, every pixel": (
        PART(attack=FEW, eps_low=0.0, warmup=0, rule="ones"),
        PGDAT(attack=FEW),
    ),
    "P2 part, always warming up": (PART(attack=FEW, eps_low=0.0, warmup=1), PGDAT(attack=FEW)),
    "P2 part, scaled": (PART(attack=FEW, eps_low=EPS, warmup=0, apply="scale"), PGDAT(attack=FEW)),
    "P2 part_t, scaled": (
        PARTT(attack=NEAR, eps_low=0.0, warmup=0, rule="ones", apply="scale"),
        TRADES(attack=NEAR),
    ),
    "P2 part_m, scaled": (
        PARTM(attack=NEAR, eps_low=EPS, warmup=0, apply="scale"),
        MART(attack=NEAR),
    ),
    "P part, masks of others by another name": (
        PART(attack=FEW, warmup=0, masks_of="others"),
        PART(attack=FEW, warmup=0, rule="shuffled"),
    ),
    "P2 part_t": (PARTT(attack=NEAR, eps_low=EPS, warmup=0), TRADES(attack=NEAR)),
    "P2 part_m": (PARTM(attack=NEAR, eps_low=EPS, warmup=0), MART(attack=NEAR)),
    "L2 aalp without dropout and weights": (
        AALP(attack=FEW, drop=0, pair_weight="ones"),
        ALP(attack=FEW),
    ),
    "L2 alp on attacked images alone": (
        ALP(attack=FEW, ce="adv_only", weight=0),
        PGDAT(attack=FEW),
    ),
    "L2 aalp on attacked images alone": (
        AALP(attack=FEW, drop=0, pair_weight="ones", ce="adv_only", weight=0),
        PGDAT(attack=FEW),
    ),
    "S4 supcon_margin without either": (SupConMargin(supcon_weight=0, margin_weight=0), Standard()),
    "afa_trades without alignment": (AFATRADES(attack=NEAR, align_weight=0), TRADES(attack=NEAR)),
}

ON: dict[str, tuple[Method, Method]] = {
    "part": (PART(attack=FEW), PGDAT(attack=FEW)),  # The lower radius defaults to 7/8 of ε.
    "part, after a warm-up": (
        PART(attack=FEW, eps_low=0.0, warmup=0.5),
        PART(attack=FEW, eps_low=0.0, warmup=0),
    ),
    "part, scaled": (PART(attack=FEW, apply="scale"), PART(attack=FEW)),
    "part, masks of others": (PART(attack=FEW, masks_of="others"), PART(attack=FEW)),
    "part_t": (PARTT(attack=NEAR), TRADES(attack=NEAR)),
    "part_m": (PARTM(attack=NEAR), MART(attack=NEAR)),
    "aalp, dropout": (AALP(attack=FEW, pair_weight="ones"), ALP(attack=FEW)),
    "aalp, weights": (AALP(attack=FEW, drop=0), ALP(attack=FEW)),
    "alp": (ALP(attack=FEW, ce="adv_only"), PGDAT(attack=FEW)),
    "alp, mixed": (ALP(attack=FEW, weight=0), PGDAT(attack=FEW)),
    "supcon": (SupConMargin(margin_weight=0), Standard()),
    "margin": (SupConMargin(supcon_weight=0), SupConMargin(margin_weight=0)),
    "afa_trades": (AFATRADES(attack=NEAR), TRADES(attack=NEAR)),
}


@pytest.mark.long
@pytest.mark.parametrize(("method", "base"), OFF.values(), ids=OFF)
def test_an_option_that_is_off_changes_no_bit_of_the_weights(
    method: Method, base: Method, trained: Callable[..., dict[str, Tensor]]
) -> None:
    assert same_bits(trained(method), trained(base))


@pytest.mark.long
@pytest.mark.parametrize(("method", "base"), ON.values(), ids=ON)
def test_an_option_that_is_on_changes_the_weights(
    method: Method, base: Method, trained: Callable[..., dict[str, Tensor]]
) -> None:
    one, other = trained(method), trained(base)
    assert one.keys() == other.keys() and not torch.equal(one["head.weight"], other["head.weight"])


def test_L2_alp_without_pairing_is_mixed_minibatch_adversarial_training_written_out(
    trained: Callable[..., dict[str, Tensor]],
) -> None:
    config = short(ALP(attack=FEW, weight=0))
    source = Training(config)
    net = source.net
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for source.epoch in range(2):
        batches = source._batches()
        for source.batch, index in enumerate(batches):
            x, y = source.images[index].float() / 255, source.y[index]
            x_adv = FEW.bound(EPS)(
                net, x, y, rng=source._generator("noise", source.epoch, source.batch)
            )
            optimiser.param_groups[0]["lr"] = learning_rate(
                "cyclic", 0.1, (source.epoch + (source.batch + 0.5) / len(batches)) / 2
            )
            net.train()
            optimiser.zero_grad()
            F.cross_entropy(net(torch.cat([x, x_adv])), torch.cat([y, y])).backward()
            optimiser.step()
    assert same_bits(net.state_dict(), trained(config.method))


# Batch norm: how often each method runs the network in train mode, and on which images.


@pytest.mark.parametrize(
    ("method", "forwards"),
    [
        (Standard(), 1),
        (PGDAT(), 1),
        (TRADES(), 2),
        (TRADES(bn="official"), 3),
        (MART(), 2),
        (ALP(), 1),
        (AALP(), 1),
        (PART(), 1),
        (PARTT(), 2),
        (PARTM(), 2),
        (AFA(), 1),
        (AFATRADES(), 2),
        (AFATRADES(bn="official"), 3),
        (SupConMargin(), 1),
        (ModelAlignment(), 1),
        (ALP(ce="adv_only", weight=0), 1),
    ],
    ids=repr,
)
def test_batch_norm_sees_as_many_batches_as_the_method_says(
    method: Method, forwards: int, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net = conv_net.train()
    before = int(net.get_buffer("maps.2.num_batches_tracked"))
    aux = {"supcon_margin": nn.Identity(), "model_alignment": copy.deepcopy(conv_net).eval()}.get(
        method.key
    )
    method.bound(0.1).loss(
        net, of(images, labels, views=torch.stack([images, images.flip(-1)])), aux
    )
    assert int(net.get_buffer("maps.2.num_batches_tracked")) - before == forwards


@pytest.mark.parametrize("method", [ALP(), AALP(), AALP(drop=0), AFA()], ids=repr)
def test_both_halves_share_one_forward_pass(
    method: Adversarial, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, one, two = (copy.deepcopy(conv_net).train() for _ in range(3))
    method = method.bound(0.1)  # type: ignore[assignment]
    attack = (
        (lambda: method.misaligned(one, of(images, labels), None))
        if isinstance(method, AFA)
        else None
    )
    x_adv = attack() if attack else method.attacked(one, of(images, labels))
    method.loss(net, of(images, labels), None)
    one(torch.cat([images, x_adv]))
    two(images), two(x_adv)
    for name in (
        "maps.2.running_mean",
        "maps.2.running_var",
        "maps.5.running_mean",
        "maps.5.running_var",
    ):
        assert torch.equal(net.get_buffer(name), one.get_buffer(name)), name
        assert not torch.allclose(net.get_buffer(name), two.get_buffer(name), atol=1e-5), name


# PART.

RULES = ("z>1", "z>0", "heat>0.5", "top20%", "shuffled", "jet-compat")


@pytest.fixture
def colour() -> tuple[Classifier, Tensor, Tensor]:
    """Returns a small network, 12 colour images of shape (3, 16, 16), and their labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.build("small_resnet", 4, 3, 16)
    return (
        net,
        torch.rand((N, 3, 16, 16), generator=torch.Generator().manual_seed(1)),
        torch.arange(N) % 4,
    )


@pytest.mark.parametrize(
    ("family", "rule", "eps_low"),
    [
        *((PART, rule, 0.0) for rule in RULES),
        (PART, "z>1", 0.05),
        (PARTT, "z>1", 0.0),
        (PARTM, "z>1", 0.0),
        (PARTT, "top20%", 0.05),
    ],
)
def test_P1_every_pixel_keeps_to_its_own_radius(
    family: type[PART], rule: str, eps_low: float, colour: tuple[Classifier, Tensor, Tensor]
) -> None:
    net, x, y = colour
    method = family(
        rule=rule,
        eps_low=eps_low,
        attack=dataclasses.replace(family().attack, steps=4, step_size=0.08),
    ).bound(0.1)
    with method.attackable(net, x) as fast:  # type: ignore[attr-defined]
        mask = method.mask(fast, of(x, y)).expand_as(x)  # type: ignore[attr-defined]
    assert 0 < mask.float().mean() < 1
    # The attacked copy may compute in bf16, so pixels at the threshold may fall on the other side.
    assert (mask == method.mask(net, of(x, y))).float().mean() > 0.98  # type: ignore[attr-defined]
    x_adv = method.attacked(net, of(x, y))  # type: ignore[attr-defined]
    delta = (x_adv - x).abs()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert delta[mask].max() <= 0.1 + 1e-6 and delta[~mask].max() <= eps_low + 1e-6
    assert delta[mask].max() > 0.09  # The attack uses the full radius.
    if eps_low == 0:
        assert torch.equal(x_adv[~mask], x[~mask])


def test_P1_the_smaller_radius_is_seven_eighths_unless_it_is_set(
    colour: tuple[Classifier, Tensor, Tensor],
) -> None:
    net, x, y = colour
    budget = PART().bound(0.16).budget(net, of(x, y))  # type: ignore[attr-defined]
    assert budget.shape == (N, 1, 16, 16) and sorted(
        set(budget.flatten().tolist())
    ) == pytest.approx([0.14, 0.16])
    assert torch.equal(budget > 0.15, PART().mask(net, of(x, y)))
    early, late = (
        PART(warmup=0.25).bound(0.16).budget(net, of(x, y, progress)) for progress in (0.2499, 0.25)
    )  # type: ignore[attr-defined]
    assert early is None and late is not None


@pytest.mark.parametrize(("family", "base"), [(PART, PGDAT), (PARTT, TRADES), (PARTM, MART)])
@pytest.mark.parametrize("fields", [{"eps_low": 0.1}, {"eps_low": 0.0, "rule": "ones"}], ids=str)
def test_P2_with_one_radius_the_images_are_bit_equal_to_the_base_methods(
    family: type[PART],
    base: type[PGDAT],
    fields: dict[str, Any],
    colour: tuple[Classifier, Tensor, Tensor],
) -> None:
    net, x, y = colour
    attack = dataclasses.replace(base().attack, eps=0.1, steps=3, step_size=0.08)
    one, other = (
        family(**fields, attack=attack).attacked(net, of(x, y)),
        base(attack=attack).attacked(net, of(x, y)),
    )
    assert torch.equal(one, other)
    assert not torch.equal(family(eps_low=0.0, attack=attack).attacked(net, of(x, y)), other)


@pytest.mark.parametrize("start", ["uniform", "gauss", "zero"])
def test_P3_on_a_linear_network_the_change_has_its_closed_form(
    start: Literal["uniform", "gauss", "zero"], linear_net: Classifier
) -> None:
    net = linear_net.double()
    x = 0.4 + 0.2 * torch.rand(
        (N, C, H, W), generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    y = torch.arange(N) % 2
    mask = torch.rand((N, 1, H, W), generator=torch.Generator().manual_seed(5)) < 0.3
    radius = cam.budget_map(mask, 0.1, 0.03)
    attack = PGD(eps=0.1, steps=10, start=start)  # Steps times step size is 2.5 ε.
    x_adv = attack.maximise(
        attack.objective(net, y), x, eps=radius, rng=torch.Generator().manual_seed(3)
    )
    weight = net.head.weight.detach()
    up = (weight[1 - y] - weight[y]).view(N, C, H, W)  # The direction that raises the loss.
    wanted = up.sign() * radius.double()
    assert torch.allclose(x_adv - x, wanted, atol=1e-12)
    drop = losses.margin(net(x_adv), y) - losses.margin(net(x), y)
    assert torch.allclose(drop, (up.abs() * radius.double()).flatten(1).sum(1), atol=1e-12)


def pooled(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *more)


@pytest.mark.parametrize("way", ["closed form", "autograd"])
def test_P4_class_activation_maps_have_their_golden_values(way: str) -> None:
    head = nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -1.0], [0.3, 0.2]]))
    net = Classifier(
        nn.Identity(), head, pooled() if way == "closed form" else pooled(nn.Identity())
    )
    maps = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.5, 2.0], [0.0, 0.0]]]], dtype=torch.float64)
    raw = cam.grad_cam(net, maps, torch.tensor([0]))
    assert raw.tolist() == [[[0.125, -0.5], [0.0, 0.25]]] and raw.relu().tolist() == [
        [[0.125, 0.0], [0.0, 0.25]]
    ]
    assert cam.layer_cam(net, maps, torch.tensor([0])).relu().tolist() == [
        [[0.25, 0.0], [0.0, 0.25]]
    ]


def test_P4_behind_average_pooling_grad_cam_is_xgradcam_and_cam_but_layer_cam_is_not(
    conv_net: Classifier, images: Tensor
) -> None:
    net, y = conv_net.double(), torch.arange(N) % 4
    maps = net.maps(images.double()).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net.head(net.pool(maps)).gather(1, y[:, None]).sum(), maps)
    maps = maps.detach()
    # XGrad-CAM's weights: the gradient averaged with the activations as weights.
    share = maps / maps.sum((2, 3), keepdim=True).clamp(min=1e-12)
    dead = maps.sum((2, 3), keepdim=True) == 0
    xgrad = (((share * gradient).sum((2, 3), keepdim=True) * maps) * ~dead).sum(1)
    plain = torch.einsum("nk,nkhw->nhw", net.head.weight[y], maps) / (maps.shape[2] * maps.shape[3])
    found = cam.grad_cam(net, images.double(), y)
    assert torch.allclose(found, xgrad, atol=1e-12) and torch.allclose(
        found, plain.detach(), atol=1e-12
    )
    assert not torch.allclose(found, cam.layer_cam(net, images.double(), y), atol=1e-3)


@pytest.mark.parametrize(
    ("rule", "count"), [("z>1", 184), ("z>0", 360), ("top20%", 205), ("ones", 1024)]
)
def test_P5_the_mask_of_a_gaussian_has_its_golden_size(rule: str, count: int) -> None:
    place = torch.arange(4, dtype=torch.float64) - 1.5
    heat = torch.exp(-(place[:, None].square() + place[None, :].square()))[None]
    mask = cam.importance_mask(heat, rule, (32, 32))
    assert mask.shape == (1, 1, 32, 32) and mask.dtype == torch.bool and int(mask.sum()) == count
    # The "top" rules are left out: mirrored pixels tie, and rounding decides which are kept.
    if not rule.startswith("top"):
        # Scaling the map changes nothing, because min–max scaling comes first.
        assert torch.equal(cam.importance_mask(7 * heat, rule, (32, 32)), mask)


@pytest.mark.parametrize("rule", RULES)
def test_P5_permuting_the_batch_permutes_the_budgets(
    rule: str, colour: tuple[Classifier, Tensor, Tensor]
) -> None:
    net, x, y = colour
    mixed = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    method = PART(rule=rule, eps_low=0.02, cam_class="true").bound(0.1)
    budget = method.budget(net, of(x, y))  # type: ignore[attr-defined]
    permuted = method.budget(net, of(x[mixed], y[mixed]))  # type: ignore[attr-defined]
    # The published defect, kept as the rule "shuffled", is the only rule that gives an image the
    # mask of another image.
    assert torch.equal(permuted, budget[mixed]) == (rule != "shuffled")
    if rule == "shuffled":
        assert torch.equal(
            budget, PART(rule="z>1", eps_low=0.02).bound(0.1).budget(net, of(x, y)).roll(-1, 0)
        )  # type: ignore[attr-defined]


def test_P5_a_map_that_says_nothing_leaves_plain_adversarial_training() -> None:
    for heat in (
        torch.zeros(1, 4, 4),
        torch.full((1, 4, 4), 0.7),
        torch.full((1, 4, 4), -1.0),
        torch.full((1, 4, 4), math.nan),
    ):
        assert cam.importance_mask(heat, "z>1", (8, 8)).all()


def test_PART_looks_at_the_true_class_unless_asked_and_touches_nothing(
    colour: tuple[Classifier, Tensor, Tensor],
) -> None:
    net, x, y = colour
    net.train()
    before = copy.deepcopy(net.state_dict())
    true, predicted = PART().heat(net, x, y), PART(cam_class="predicted").heat(net, x, y)
    assert (
        same_bits(before, net.state_dict())
        and net.training
        and all(p.grad is None for p in net.parameters())
    )
    with torch.no_grad():
        answer = net.eval()(x).argmax(1)
    assert torch.equal(true, cam.grad_cam(net, x, y)) and torch.equal(
        predicted, cam.grad_cam(net, x, answer)
    )
    assert not torch.equal(true, predicted)
    assert torch.equal(PART(cam="layer_cam").heat(net, x, y), cam.layer_cam(net, x, y))


# AFA.


@pytest.fixture
def digits() -> tuple[Classifier, Tensor, Tensor]:
    """Returns a new network in train mode, 64 digits, and their labels."""
    split = data.load("digits", "train", 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nets.build("small_resnet", 10, 1, 8).train(), split.x, split.y


@pytest.mark.parametrize("method", [AFA(), AFA(projection=True), AFA(temperature=0.5)], ids=repr)
def test_A2_the_feature_attack_raises_the_loss_and_leaves_the_network_alone(
    method: AFA, digits: tuple[Classifier, Tensor, Tensor]
) -> None:
    net, x, y = digits
    aux = method.aux(net, TrainConfig(method=method))
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    before = copy.deepcopy(net.state_dict())
    x_adv = method.bound(EPS).misaligned(net, of(x, y), aux)  # type: ignore[attr-defined]
    assert same_bits(before, net.state_dict())  # The state includes the running statistics.
    assert all(
        p.requires_grad and torch.equal(p.grad, torch.full_like(p, 0.5)) for p in net.parameters()
    )  # type: ignore[arg-type]
    assert all(module.training for module in net.modules())
    net.eval()

    def h(z: Tensor) -> Tensor:
        features = net.pool(net.maps(z))
        return features if aux is None else aux(features)

    with torch.no_grad():
        at_rest, moved = (
            losses.contrastive_per_anchor(h(z), y, h(x), y, method.temperature) for z in (x, x_adv)
        )
    assert (moved > at_rest).float().mean() >= 0.95
    assert (x_adv - x).abs().max() <= EPS + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.long
def test_A2_the_feature_attack_is_not_the_one_on_cross_entropy(
    digits: tuple[Classifier, Tensor, Tensor],
) -> None:
    net, x, y = digits
    method = AFA().bound(EPS)
    assert isinstance(method, AFA)
    features, answer = method.misaligned(net, of(x, y), None), method.attacked(net, of(x, y))
    used = []
    for inner in ("contrastive", "ce"):
        probe = dataclasses.replace(method, inner=inner)  # type: ignore[arg-type]
        seen: list[Tensor] = []
        handle = net.maps.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0].detach())
        )
        probe.loss(net, of(x, y), None)
        handle.remove()
        used.append(seen[-1][len(x) :])
        net.load_state_dict(digits[0].state_dict())
    assert torch.equal(used[0], features) and not torch.equal(features, answer)
    assert not torch.equal(used[1], features)


def test_A3_a_sample_attacked_alone_reaches_what_it_reaches_in_the_batch(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double(), images.double()
    method = AFA(attack=PGD(eps=0.1, start="zero"))
    x_adv = method.misaligned(net, of(x, labels), None)
    with torch.no_grad():
        clean = net.pool(net.maps(x))
    for i in range(N):
        own = labels[i : i + 1]

        def climb(z: Tensor, own: Tensor = own) -> Tensor:
            return losses.contrastive_per_anchor(
                net.pool(net.maps(z)), own, clean, labels, method.temperature
            )

        alone = method.attack.maximise(climb, x[i : i + 1], rng=torch.Generator())
        with torch.no_grad():
            assert float(climb(alone)) == pytest.approx(float(climb(x_adv[i : i + 1])), abs=1e-6)
            assert float(climb(alone)) > float(climb(x[i : i + 1]))


STAGED: dict[str, AFA] = {
    "SLF": AFA(head="SLF", head_share=0.5, attack=PGD(steps=2)),
    "ALF": AFA(head="ALF", head_share=0.5, attack=PGD(steps=2), projection=True),
    "ALF, attacked in train mode": AFA(
        head="ALF", head_share=0.5, attack=PGD(steps=2), attack_mode="train"
    ),
    "AFF": AFA(head="AFF", head_share=0.5, attack=PGD(steps=2)),
}


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("name", STAGED)
def test_A4_the_second_stage_leaves_every_tensor_of_the_body_as_it_was(
    name: str, tiny: TrainConfig
) -> None:
    run = Training(dataclasses.replace(tiny, method=STAGED[name], epochs=4))
    states, terms = [], []
    for record in run.epochs():
        states.append(copy.deepcopy(run.net.state_dict()))
        terms.append((record.stage, set(record.losses)))
    second = {"SLF": ("linear head", {"ce"}), "AFF": ("fine-tune all", {"ce_adv"})}.get(
        name, ("linear head", {"ce_adv"})
    )
    assert terms == [("features", {"afa"})] * 2 + [second] * 2
    body = [key for key in states[0] if not key.startswith("head.")]
    assert any("running_var" in key for key in body) and any(
        "num_batches_tracked" in key for key in body
    )
    still = [key for key in body if torch.equal(states[1][key], states[3][key])]
    if name == "AFF":
        assert not torch.equal(states[1]["maps.1.weight"], states[3]["maps.1.weight"])
    else:
        assert still == body
    # The first stage did train the feature maps,
    assert not torch.equal(states[0]["maps.1.weight"], states[1]["maps.1.weight"])
    assert torch.equal(states[0]["head.weight"], states[1]["head.weight"])  # but not the head.
    assert not torch.equal(states[2]["head.weight"], states[3]["head.weight"])


def test_A5_without_a_radius_the_term_is_supcon_with_the_own_twin(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double(), images.double()
    term = AFA(attack=PGD(eps=0.0)).loss(net, of(x, labels), None)["afa"]
    with torch.no_grad():
        z = F.normalize(net.pool(net.maps(x)), dim=1)
    each = []
    for i in range(N):
        share = [math.exp(float(z[i] @ z[a]) / 0.1) for a in range(N)]
        own = [share[p] for p in range(N) if labels[p] == labels[i]]
        each.append(-sum(math.log(s / sum(share)) for s in own) / len(own))
    assert float(term.detach()) == pytest.approx(sum(each) / N, abs=1e-9)


@pytest.mark.parametrize("contrast", ["clean", "clean+adv"])
def test_AFA_gradient_flows_through_anchors_and_contrast_and_never_from_the_head(
    contrast: Literal["clean", "clean+adv"], conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net = conv_net.double().train()
    method = AFA(contrast=contrast).bound(0.1)
    terms = method.loss(net, of(images.double(), labels), None)
    (of_head,) = torch.autograd.grad(
        terms["ce_head"], net.maps[1].weight, allow_unused=True, retain_graph=True
    )
    # The gradient is None because the online head trains on detached features.
    assert of_head is None
    both = torch.randn(
        (2 * N, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_(True)
    (gradient,) = torch.autograd.grad(method.align(both, labels), both)
    assert gradient[:N].abs().max() > 1e-3 and gradient[N:].abs().max() > 1e-3


@pytest.mark.long
def test_AFATRADES_climbs_the_divergence_and_the_misalignment_together(
    digits: tuple[Classifier, Tensor, Tensor],
) -> None:
    net, x, y = digits
    frozen = copy.deepcopy(net).eval()

    def heights(z: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            kl = losses.kl(frozen(x), frozen(z))
            h, clean = (frozen.pool(frozen.maps(v)) for v in (z, x))
            return float(kl), float(losses.adversarial_contrastive(h, y, clean, y, 0.1))

    trades = heights(TRADES().bound(EPS).attacked(net, of(x, y)))  # type: ignore[attr-defined]
    joint = heights(AFATRADES().bound(EPS).attacked(net, of(x, y)))  # type: ignore[attr-defined]
    heavy = heights(AFATRADES(align_weight=100.0).bound(EPS).attacked(net, of(x, y)))
    rest = heights(x)
    assert trades[1] < joint[1] and rest[1] < joint[1] and joint[0] > 0
    assert trades[0] > heavy[0]  # A term with a smaller share in the objective rises less.


# SupCon and margin.


@pytest.mark.usefixtures("_quick")
def test_S4_the_projector_comes_from_a_generator_of_its_own(tiny: TrainConfig) -> None:
    ordinary = Training(dataclasses.replace(tiny, method="standard"))
    for method in (SupConMargin(), SupConMargin(width=7), AFA(projection=True)):
        run = Training(dataclasses.replace(tiny, method=method))
        assert same_bits(run.net.state_dict(), ordinary.net.state_dict()) and run.aux is not None
        again = Training(dataclasses.replace(tiny, method=method))
        assert same_bits(run.aux.state_dict(), again.aux.state_dict())  # type: ignore[union-attr]
        other = Training(dataclasses.replace(tiny, method=method, seed=1))
        assert not same_bits(run.aux.state_dict(), other.aux.state_dict())
    off = SupConMargin(supcon_weight=0, margin_weight=0)
    assert (
        off.views == 0
        and not off.balanced
        and Training(dataclasses.replace(tiny, method=off)).aux is None
    )


@pytest.mark.usefixtures("_quick")
def test_the_projector_learns_beside_the_network(tiny: TrainConfig) -> None:
    run = Training(dataclasses.replace(tiny, method=SupConMargin(), epochs=1))
    before = copy.deepcopy(run.aux.state_dict())  # type: ignore[union-attr]
    list(run.epochs())
    assert not any(torch.equal(before[name], value) for name, value in run.aux.state_dict().items())


@pytest.mark.long
def test_S5_a_radius_of_zero_returns_the_images_and_an_attack_never_helps(
    trained: Callable[..., dict[str, Tensor]],
) -> None:
    split = data.load("digits", "test")
    x, y = split.x, split.y
    for method in (SupConMargin(), Standard()):
        net = nets.build("small_resnet", 10, 1, 8)
        net.load_state_dict(trained(method, epochs=4, n_train=200))
        assert torch.equal(FGSM(eps=0.0)(net, x, y), x)
        clean = int(count_right(net, x, y).sum())
        assert clean > 0.3 * len(y)  # The network did learn something.
        assert int(count_right(net, x, y, FGSM(eps=0.0)).sum()) == clean
        robust = [int(count_right(net, x, y, FGSM(eps=eps)).sum()) for eps in (0.05, EPS)]
        assert robust[0] <= clean and robust[1] < clean


def balanced_labels() -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [
        torch.tensor([0, 0, 1, 1, 1]),
        torch.cat([torch.arange(7).repeat(2), torch.randint(7, (40,), generator=rng)]),
    ]


@pytest.mark.parametrize("y", balanced_labels(), ids=["tiny", "seven classes"])
@pytest.mark.parametrize("seed", range(5))
def test_a_balanced_order_brings_pairs_and_every_sample(y: Tensor, seed: int) -> None:
    order = balanced_order(y, torch.Generator().manual_seed(seed))
    counts = torch.bincount(y)
    assert len(order) == int((counts + counts % 2).sum())
    times = torch.bincount(order, minlength=len(y))
    assert times.min() == 1 and times.max() <= 2
    # A class with an odd number of images repeats one of them.
    assert torch.equal(torch.bincount(y[times == 2], minlength=len(counts)), counts % 2)
    for batch in order.split(6):
        assert len(batch) % 2 == 0 and torch.bincount(y[batch])[y[batch].unique()].min() >= 2
    pairs = order.view(-1, 2)
    assert (y[pairs[:, 0]] == y[pairs[:, 1]]).all() and (pairs[:, 0] != pairs[:, 1]).all()
    assert not torch.equal(order, balanced_order(y, torch.Generator().manual_seed(seed + 100)))


def spied(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> tuple[list[Batch], Training]:
    """Trains, and returns the batches that the method was given, and the training."""
    seen: list[Batch] = []
    kind = type(config.method)
    whole = kind.loss
    monkeypatch.setattr(
        kind,
        "loss",
        lambda self, net, batch, aux: (seen.append(batch), whole(self, net, batch, aux))[1],
    )
    run = Training(config)
    list(run.epochs())
    return seen, run


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("size", [32, 33])
def test_a_training_hands_over_two_different_views_of_balanced_batches(
    size: int, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        tiny, method=SupConMargin(), augment="flip", n_train=65, batch_size=size, epochs=2
    )
    seen, run = spied(monkeypatch, config)
    for epoch in range(2):
        index = torch.cat([batch.index for batch in seen if batch.epoch == epoch])
        assert set(index.tolist()) == set(range(65))
    for batch in seen:
        assert batch.views is not None and batch.views.shape == (2, *batch.x.shape)
        assert torch.equal(batch.views[0], batch.x) and not torch.equal(
            batch.views[0], batch.views[1]
        )
        counts = torch.bincount(batch.y)
        assert counts[batch.y.unique()].min() >= 2
        original = run.images[batch.index].float() / 255
        for view in batch.views:
            straight = (view == original).flatten(1).all(1)
            turned = (view == original.flip(-1)).flatten(1).all(1)
            assert (straight | turned).all() and not straight.all() and not turned.all()
    first = [batch.views[1] for batch in seen]  # type: ignore[index]
    assert not torch.equal(first[0], first[len(first) // 2])  # Each epoch draws new views.


@pytest.mark.usefixtures("_quick")
def test_object_masks_move_with_the_augmented_images(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = data.load

    def load(source: Any, split: str = "train", n: int | None = None) -> data.Dataset:
        """Loads shapes whose pixels are replaced by their object mask."""
        found = whole(source, split, n)
        assert found.masks is not None
        return dataclasses.replace(
            found, images=(found.masks * 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        )

    monkeypatch.setattr(data, "load", load)
    method = PART(rule="oracle", eps_low=0.0, warmup=0, attack=PGD(steps=1))
    config = dataclasses.replace(
        tiny,
        data=data.source("shapes"),
        method=method,
        augment="crop_flip",
        n_train=40,
        batch_size=20,
        epochs=1,
    )
    seen, run = spied(monkeypatch, config)
    for batch in seen:
        assert (
            batch.objects is not None
            and batch.objects.dtype == torch.bool
            and batch.objects.shape == (20, 1, 32, 32)
        )
        assert torch.equal(batch.objects, batch.x[:, :1] > 0.5)
        assert not torch.equal(batch.objects, run.masks[batch.index])  # type: ignore[index]
        budget = run.method.budget(run.net, batch)  # type: ignore[attr-defined]
        assert torch.equal(budget > 0, batch.objects)
    # The images are the same as for every other method.
    others, _ = spied(monkeypatch, dataclasses.replace(config, method=Standard()))
    assert all(torch.equal(a.x, b.x) for a, b in zip(seen, others, strict=True)) and all(
        b.objects is None for b in others
    )


# Model alignment.


def saved(config: TrainConfig, name: str) -> folder.Run:
    """Trains and saves a finished run in the runs' home."""
    done = Training(config)
    list(done.epochs())
    run = folder.create(config, name=name)
    worker.describe(run, done)
    run.save_weights("net.safetensors", done.judged.state_dict())
    return run


@pytest.fixture
def pair(tiny: TrainConfig, runs_home: Path, _quick: None) -> TrainConfig:
    """Returns a config that aligns one trained network to another."""
    for seed, name in enumerate(("source", "witness")):
        saved(dataclasses.replace(tiny, method=Standard(), seed=seed, epochs=2), name)
    return dataclasses.replace(
        tiny,
        method=ModelAlignment(source="source", witness="witness"),
        epochs=2,
        lr=0.05,
        schedule="cosine",
    )


def test_M2_aligned_to_itself_there_is_nothing_to_learn(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    witness = copy.deepcopy(conv_net).requires_grad_(False)
    for temperature in (1.0, 4.0):
        term = ModelAlignment(temperature=temperature).loss(conv_net, of(images, labels), witness)[
            "kl_witness"
        ]
        gradient = torch.autograd.grad(term, list(conv_net.parameters()))
        assert abs(float(term.detach())) <= 1e-7 and all(g.abs().max() <= 1e-7 for g in gradient)


def test_M3_the_witness_never_changes_and_the_labels_do_not_count(pair: TrainConfig) -> None:
    run = Training(pair)
    assert (
        run.aux is not None
        and not run.aux.training
        and not any(p.requires_grad for p in run.aux.parameters())
    )
    # The training starts from the weights of the source.
    assert same_bits(run.net.state_dict(), folder.open_run("source").net().state_dict())
    before = copy.deepcopy(run.aux.state_dict())
    list(run.epochs())
    assert same_bits(run.aux.state_dict(), before) and same_bits(
        before, folder.open_run("witness").net().state_dict()
    )
    assert not run.aux.training and all(p.grad is None for p in run.aux.parameters())
    assert not torch.equal(run.net.head.weight, folder.open_run("source").net().head.weight)

    relabelled = Training(pair)
    relabelled.y = relabelled.y[
        torch.randperm(len(relabelled.y), generator=torch.Generator().manual_seed(0))
    ]
    list(relabelled.epochs())
    assert same_bits(relabelled.net.state_dict(), run.net.state_dict())
    # With a positive weight on the cross-entropy, the true labels do matter.
    method = ModelAlignment(source="source", witness="witness", ce_weight=0.5)
    mixed = Training(dataclasses.replace(pair, method=method))
    mixed.y = relabelled.y
    list(mixed.epochs())
    assert mixed.records[0]["losses"].keys() == {"kl_witness", "ce"}
    assert not same_bits(mixed.net.state_dict(), run.net.state_dict())
    # Control: with the target "label" the labels must matter, so the comparison above can fail.
    method = ModelAlignment(source="source", witness="witness", target="label")
    one, other = (Training(dataclasses.replace(pair, method=method)) for _ in range(2))
    other.y = relabelled.y
    list(one.epochs()), list(other.epochs())
    assert not same_bits(one.net.state_dict(), other.net.state_dict())


@pytest.mark.slow
def test_M4_held_out_divergence_falls_and_clean_accuracy_stays(runs_home: Path) -> None:
    def ordinary(net: str, seed: int) -> TrainConfig:
        return TrainConfig(
            data="digits", method=Standard(), net=net, epochs=8, seed=seed, threads=1, device="cpu"
        )  # type: ignore[arg-type]

    source, witness = (
        saved(ordinary(net, seed), name)
        for net, seed, name in (("small_resnet", 0, "source"), ("small_cnn", 1, "witness"))
    )
    method = ModelAlignment(source="source", witness="witness")
    run = Training(
        TrainConfig(data="digits", method=method, net="small_resnet", threads=1, device="cpu")
    )  # type: ignore[arg-type]
    list(run.epochs())
    split = data.load("digits", "test")
    before, after, target = source.net(), run.net.eval(), witness.net()
    with torch.no_grad():
        gap = [float(losses.kl(target(split.x), net(split.x), 4.0)) for net in (before, after)]
    assert gap[1] < 0.8 * gap[0]
    clean = [float(count_right(net, split.x, split.y).float().mean()) for net in (before, after)]
    assert abs(clean[1] - clean[0]) <= 0.02 and clean[0] > 0.9


# AALP.


def test_L3_contributions_add_up_to_the_logit_and_have_their_golden_values(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    head = nn.Linear(4, 2, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[9.0, 9.0, 9.0, 9.0], [0.5, 1.0, -1.0, 2.0]]))
    c = contributions(
        torch.tensor([[1.0, 0.0, 2.0, 0.5]], dtype=torch.float64), head, torch.tensor([1])
    )
    assert c.tolist() == [[0.5, 0.0, -2.0, 1.0]] and (
        c.argsort(dim=1, descending=True) + 1
    ).tolist() == [[4, 1, 2, 3]]
    with torch.no_grad():
        features = conv_net.pool(conv_net.maps(images))
        z = conv_net.head(features).gather(1, labels[:, None]).squeeze(1)
    c = contributions(features, conv_net.head, labels)
    assert not c.requires_grad
    assert torch.allclose(c.sum(1) + conv_net.head.bias[labels].detach(), z, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize(("keep", "kept"), [(0.5, 4), (0.3, 3), (0.0, 0), (1.0, 8)])
def test_L4_what_contributes_most_is_never_dropped_and_the_rest_at_its_rate(
    rate: float, keep: float, kept: int
) -> None:
    draws = 10_000
    c = torch.randn((draws, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = AALP(keep=keep).guided_mask(c, rate, torch.Generator().manual_seed(2))
    assert mask.shape == c.shape and mask.dtype == c.dtype
    in_order = mask.gather(1, c.argsort(dim=1, descending=True))
    assert torch.equal(in_order[:, :kept], torch.ones(draws, kept, dtype=torch.float64))
    rest = in_order[:, kept:]
    # The features that are kept are scaled up.
    assert set(rest.flatten().tolist()) <= {0.0, float(torch.tensor(1 / (1 - rate)))}
    sigma = math.sqrt(rate * (1 - rate) / draws)
    for feature in range(8 - kept):
        assert abs(float((rest[:, feature] == 0).double().mean()) - rate) <= 3 * sigma
    if kept < 8:
        assert abs(float((rest == 0).double().mean()) - rate) <= 3 * sigma / math.sqrt(8 - kept)


@pytest.mark.parametrize("dropped", ["top", "random"])
def test_L4_the_controls_drop_the_top_or_any_at_an_equal_rate(
    dropped: Literal["top", "random"],
) -> None:
    c = torch.randn((10_000, 8), generator=torch.Generator().manual_seed(1))
    mask = AALP(dropped=dropped).guided_mask(c, 0.4, torch.Generator().manual_seed(2))
    lost = (mask.gather(1, c.argsort(dim=1, descending=True)) == 0).double().mean(0)
    wanted = [0.4] * 4 + [0.0] * 4 if dropped == "top" else [0.2] * 8
    assert lost.tolist() == pytest.approx(wanted, abs=3 * math.sqrt(0.25 / 10_000))
    # On average the mask leaves the sum of the features unchanged.
    assert float(mask.mean()) == pytest.approx(1, abs=0.02)


def test_L4_the_rate_rises_over_the_first_fifth() -> None:
    rates = [AALP().rate(progress) for progress in (0.0, 0.1, 0.2, 0.9, 1.0)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.5, 0.5])
    assert AALP(ramp=0).rate(0.0) == 0.5 and AALP(drop=0).rate(1.0) == 0


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_L4_both_twins_share_the_mask_which_follows_the_clean_features(
    progress: float, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    method, net = AALP().bound(0.1), conv_net.train()
    into_head, out_of_pool = [], []
    net.head.register_forward_pre_hook(lambda module, args: into_head.append(args[0].detach()))
    net.pool.register_forward_hook(lambda module, args, out: out_of_pool.append(out.detach()))
    method.loss(net, of(images, labels, progress), None)
    before, after = out_of_pool[-1], into_head[-1]
    alive = before != 0
    factor = torch.where(alive, after / before.where(alive, torch.ones(())), torch.ones(())).round(
        decimals=4
    )
    shared = alive[:N] & alive[N:]
    assert torch.equal(factor[:N][shared], factor[N:][shared])
    c = contributions(before[:N], net.head, labels)
    top = c.argsort(dim=1, descending=True, stable=True).argsort(dim=1) < 3
    assert (factor[:N][top] == 1).all()
    assert set(factor.flatten().tolist()) == ({1.0} if progress == 0 else {0.0, 1.0, 2.0})


def test_L4_attacks_and_evaluation_know_nothing_of_the_dropout(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    images_of_each = [
        AALP(drop=drop).bound(0.1).attacked(conv_net, of(images, labels, 1.0))
        for drop in (0.0, 0.5, 0.95)
    ]  # type: ignore[attr-defined]
    assert all(torch.equal(x_adv, images_of_each[0]) for x_adv in images_of_each)
    with torch.no_grad():
        before = conv_net.eval()(images)
        AALP(drop=0.95).bound(0.1).loss(conv_net, of(images, labels, 1.0), None)
        assert torch.equal(conv_net.eval()(images), before)


@pytest.mark.parametrize("pair_weight", ["adversarial", "clean", "loss"])
def test_L5_no_gradient_flows_through_the_weight(
    pair_weight: Literal["adversarial", "clean", "loss"], monkeypatch: pytest.MonkeyPatch
) -> None:
    z, z_adv = Z.clone().requires_grad_(True), Z_ADV.clone().requires_grad_(True)
    monkeypatch.setattr(AALP, "attacked", lambda self, net, batch: as_images(z_adv))
    terms = AALP(drop=0, pair_weight=pair_weight).loss(mirror(3), of(as_images(z), Y), None)
    found = torch.autograd.grad(terms["pairing"], (z, z_adv))

    def pairing(hold: bool) -> Tensor:
        judged = z if pair_weight == "clean" else z_adv
        judged = judged.detach() if hold else judged
        p = judged.softmax(1)[[0, 1], Y]
        return (
            0.5
            * (
                (1 / (1 - p.log()) if pair_weight == "loss" else p) * (z - z_adv).pow(2).mean(1)
            ).mean()
        )

    constant, through = (torch.autograd.grad(pairing(hold), (z, z_adv)) for hold in (True, False))
    for mine, wanted in zip(found, constant, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-12)
    assert not torch.allclose(
        found[0 if pair_weight == "clean" else 1],
        through[0 if pair_weight == "clean" else 1],
        atol=1e-3,
    )


def test_L5_the_attack_leaves_gradients_alone(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    for parameter in conv_net.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    for targets in ("untargeted", "least_likely"):
        AALP(targets=targets).bound(0.1).attacked(conv_net.train(), of(images, labels))
        assert all(torch.equal(p.grad, torch.full_like(p, 0.5)) for p in conv_net.parameters())
        assert all(module.training for module in conv_net.modules())


def test_least_likely_targets_are_reached_for(toy: Any) -> None:
    net = copy.deepcopy(toy.net)
    with torch.no_grad():
        target = net(toy.x).argmin(1)
        before = net(toy.x).softmax(1).gather(1, target[:, None]).mean()
        x_adv = ALP(targets="least_likely").bound(0.1).attacked(net, of(toy.x, toy.y))
        after = net(x_adv).softmax(1).gather(1, target[:, None]).mean()
        away = ALP().bound(0.1).attacked(net, of(toy.x, toy.y))  # type: ignore[attr-defined]
        other = net(away).softmax(1).gather(1, target[:, None]).mean()
    assert after > 2 * before and after > other


# Trainings that are stopped in the middle of a stage, with a helper network or with views, resume
# bit for bit.

RESUMED: dict[str, Method] = STAGED | {
    "supcon_margin": SupConMargin(),
    "part": PART(attack=PGD(steps=2)),
    "aalp": AALP(attack=PGD(steps=2)),
    "model_alignment": ModelAlignment(source="source", witness="witness"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in RESUMED if "," not in name])
def test_a_pause_within_any_stage_changes_no_bit(name: str, pair: TrainConfig) -> None:
    config = dataclasses.replace(pair, method=RESUMED[name], epochs=4, augment="crop_flip")
    whole = Training(config)
    list(whole.epochs())
    final = whole.state()[0]
    for stop in ((2, 0), (2, 1), (3, 1)):  # Where the second stage begins, and within that stage.
        first = Training(config)
        list(
            first.epochs(
                lambda tick, stop=stop: (
                    "pause" if (tick.epoch, tick.batch) == stop and tick.phase == "train" else "go"
                )
            )
        )
        assert first.ended == "pause"
        tensors, plain = first.state()
        resumed = Training(config)
        resumed.restore({key: value.clone() for key, value in tensors.items()}, plain)
        list(resumed.epochs())
        assert same_bits(resumed.state()[0], final), stop
        assert [r["losses"] for r in resumed.records] == [r["losses"] for r in whole.records]


# Bad input gives one clear message before any training, and leaves no run folder behind.


class Point(Blink):
    """A network whose last feature map is a single cell."""

    key = "point"

    def __init__(self, classes: int, channels: int, size: int, mean: Any, std: Any) -> None:
        super().__init__(classes, channels, size, mean, std)
        self.maps.add_module("pooled", nn.AdaptiveAvgPool2d(1))


class Bare(nn.Module):
    """A network without feature maps."""

    key = "bare"

    def __init__(self, classes: int, channels: int, size: int, mean: Any, std: Any) -> None:
        super().__init__()
        self.head = nn.Linear(channels * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Deep(Blink):
    """A network whose head is more than one linear layer."""

    key = "deep"

    def __init__(self, classes: int, channels: int, size: int, mean: Any, std: Any) -> None:
        super().__init__(classes, channels, size, mean, std)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, classes))


@pytest.fixture
def odd_nets(monkeypatch: pytest.MonkeyPatch, tiny: TrainConfig) -> None:
    for kind in (Point, Bare, Deep):
        monkeypatch.setitem(registry._table["net"], kind.key, kind)


BAD: dict[str, tuple[list[str], str, int]] = {
    "eps_low above eps": (["part", "method.eps_low=0.2"], r"eps_low=51/255 is above eps=0\.15", 2),
    "eps_low above the attack's own eps": (
        ["part_t", "method.eps_low=0.1", "attack.eps=0.05"],
        "eps_low=.* is above eps=",
        2,
    ),
    "unknown rule": (["part", "method.rule=z1"], r"no rule called 'z1'.*Did you mean z>1\?", 2),
    "a rule that is almost right": (
        ["part_m", "method.rule=shufled"],
        r"Did you mean shuffled\?",
        2,
    ),
    "an impossible share": (["part", "method.rule=top120%"], "share .* 0 to 100", 2),
    "oracle without masks": (
        ["part", "method.rule=oracle"],
        "digits has none: use the data shapes",
        1,
    ),
    "jet-compat on grey images": (
        ["part_t", "method.rule=jet-compat"],
        "jet-compat makes one mask per colour channel",
        1,
    ),
    "l2": (["part", "attack.norm=l2"], "defined for linf only: set attack.norm=linf", 2),
    "a map of one cell": (["part", "net=point"], "single cell", 1),
    "no maps": (["part", "net=bare"], "no feature maps", 1),
    "no norm behind the blocks": (
        ["part_m", "method.cam_maps=before_norm"],
        "does not end with a batch norm and a ReLU.*use the last maps",
        1,
    ),
    "guided dropout without a linear head": (
        ["aalp", "net=deep"],
        "needs a linear last layer.*method.drop=0",
        1,
    ),
    "a projection without a linear head": (["supcon_margin", "net=deep"], "head must be linear", 1),
    "afa's projection without a linear head": (
        ["afa", "net=deep", "method.projection=true"],
        "head must be linear",
        1,
    ),
    "too small a batch for pairs": (
        ["supcon_margin", "batch_size=3"],
        "set batch_size to 4 or more",
        2,
    ),
    "too few epochs for two stages": (
        ["afa", "method.head=SLF", "epochs=1"],
        "needs at least 2 epochs",
        2,
    ),
    "unknown head": (["afa", "method.head=LF"], "not one of online, SLF, ALF, AFF", 2),
    "no shipped source": (
        ["model_alignment"],
        "no ordinary small_resnet on digits to use as the source.*method.source=RUN",
        1,
    ),
    "no such witness": (
        ["model_alignment", "method.source=resnet", "method.witness=nobody"],
        "no run called 'nobody'",
        1,
    ),
    "a witness of other images": (
        ["model_alignment", "method.source=resnet", "method.witness=coloured"],
        (
            "The witness coloured was trained on 10 classes of 3×32×32 images, but digits has 10 of"
            " 1×8×8: choose a witness"
        ),
        1,
    ),
    "a witness of fewer classes": (
        ["model_alignment", "method.source=resnet", "method.witness=four"],
        "witness four was trained on 4 classes .* digits has 10",
        1,
    ),
    "a witness of other classes": (
        ["model_alignment", "method.source=resnet", "method.witness=renamed"],
        "trained on other classes",
        1,
    ),
    "a source of another architecture": (
        ["model_alignment", "method.source=cnn", "method.witness=resnet"],
        "choose the net small_cnn",
        2,
    ),
    "a witness that was never trained": (
        ["model_alignment", "method.source=resnet", "method.witness=idle"],
        "idle.*no trained weights",
        1,
    ),
}


@pytest.fixture
def strangers(runs_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """Creates runs that fit and runs that do not, hides the shipped ones, and returns the names."""
    monkeypatch.setattr(folder, "zoo", lambda: tmp_path / "zoo")
    digits = tuple("0123456789")
    described: dict[str, tuple[str, tuple[str, ...], int, int]] = {
        "resnet": ("small_resnet", digits, 1, 8),
        "cnn": ("small_cnn", digits, 1, 8),
        "coloured": ("small_cnn", digits, 3, 32),
        "four": ("small_cnn", digits[:4], 1, 8),
        "renamed": ("small_cnn", tuple("abcdefghij"), 1, 8),
    }
    for name, (net, classes, channels, size) in described.items():
        run = folder.create(TrainConfig(data="digits", method="standard", net=net), name=name)
        images = {
            "classes": len(classes),
            "channels": channels,
            "size": size,
            "names": list(classes),
        }
        folder.write_file(run.path / "config.json", folder.to_bytes(run.info | {"images": images}))
        run.save_weights(
            "net.safetensors", nets.build(net, len(classes), channels, size).state_dict()
        )
    folder.create(
        TrainConfig(data="digits", method="standard", net="small_cnn", seed=1), name="idle"
    )  # type: ignore[arg-type]
    return {*described, "idle"}


@pytest.mark.long
@pytest.mark.usefixtures("odd_nets", "_quick")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_there_is_a_run_folder(
    name: str, strangers: set[str], runs_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (method, *settings), sentence, code = BAD[name]
    base = [
        "n_train=40",
        *(
            []
            if any(s.startswith("net=") for s in settings) or method == "model_alignment"
            else ["net=blink"]
        ),
    ]
    sets = [part for setting in [*base, *settings] for part in ("--set", setting)]
    assert (
        cli.main(["train", "--data", "digits", "--method", method, "--device", "cpu", *sets])
        == code
    )
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert {path.name for path in runs_home.iterdir()} == strangers
    pairs = [tuple(setting.split("=", 1)) for setting in [*base, *settings]]
    with pytest.raises(UserError, match=sentence) as caught:
        check(TrainConfig.make(None, {"data": "digits", "method": method, "device": "cpu"}, pairs))
    assert caught.value.code == code and str(caught.value) in said.err


def test_a_class_of_one_image_is_refused_by_name(
    runs_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "pictures"
    for split in ("train", "val", "test"):
        for kind, count in (("cat", 6), ("dog", 6), ("yak", 1)):
            (place / split / kind).mkdir(parents=True)
            for k in range(count):
                pixels = torch.randint(
                    256,
                    (16, 16, 3),
                    generator=torch.Generator().manual_seed(hash((split, kind, k)) % 2**31),
                )
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(
                    place / split / kind / f"{k}.png"
                )
    asked = [
        "train",
        "--data",
        f"folder:{place}",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--set",
        "batch_size=4",
    ]
    assert cli.main([*asked, "--method", "supcon_margin"]) == 1
    assert "The class yak has one training image" in capsys.readouterr().err
    assert not runs_home.exists() or not list(runs_home.iterdir())
    # Without the contrastive loss no pairs are needed, so one image is enough.
    source = data.source(f"folder:{place}")
    check(
        TrainConfig(
            data=source,
            method=SupConMargin(supcon_weight=0, margin_weight=0),
            device="cpu",
            threads=1,
        )
    )  # type: ignore[arg-type]


@pytest.mark.usefixtures("odd_nets", "_quick")
@pytest.mark.parametrize(
    ("method", "net"),
    [
        (PART(rule="ones"), "point"),
        (PART(rule="ones"), "bare"),
        (AALP(drop=0), "deep"),
        (SupConMargin(supcon_weight=0, margin_weight=0), "deep"),
    ],
    ids=repr,
)
def test_what_the_refusals_advise_does_work(method: Method, net: str, tiny: TrainConfig) -> None:
    run = Training(dataclasses.replace(tiny, method=method, net=net, epochs=1))
    assert len(list(run.epochs())) == 1
