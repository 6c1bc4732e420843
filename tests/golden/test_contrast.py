"""Tests what the contrastive methods and AALP compare, against their sources: a single view where
there is no augmentation, an attack that maximises the same contrast that training minimises, and
signed contributions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from conftest import N
from torch import Tensor, nn

from robustviz import cli, data, losses, nets, registry
from robustviz.attacks import PGD
from robustviz.methods import AALP, AFA, ModelAlignment, SupConMargin
from robustviz.methods.aalp import contributions
from robustviz.nets.attackable import attackable
from robustviz.nets.base import Classifier
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training
from robustviz.types import Batch, UserError

EPS = 0.15
FOUR = ("digits-supcon-ce", "digits-supcon", "digits-supcon-margin", "digits-supcon-all")
CONTRASTS: tuple[Literal["clean", "clean+adv"], ...] = ("clean", "clean+adv")


def of(x: Tensor, y: Tensor, index: Tensor | None = None, views: Tensor | None = None) -> Batch:
    index = torch.arange(len(y)) if index is None else index
    return Batch(x, y, index, 0, 0.5, torch.Generator().manual_seed(3), views)


def training(preset: str, **flags: object) -> Training:
    return Training(TrainConfig.make(preset, {"n_train": 65, "epochs": 1, "device": "cpu"} | flags))


# SupCon and margin: the views.


def met(run: Training, patch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Trains `run` and returns the features and labels that the SupCon loss was given for each
    batch.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    whole = losses.supcon
    patch.setattr(
        losses, "supcon", lambda z, y, *more: (seen.append((z.detach(), y)), whole(z, y, *more))[1]
    )
    list(run.epochs())
    return seen


def twins(z: Tensor, y: Tensor) -> int:
    """Returns how many positive pairs have identical features."""
    apart = torch.cdist(z.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return int(((apart < 1e-6) & (y[:, None] == y)).sum()) - len(z)


@pytest.mark.usefixtures("small_splits")
def test_where_nothing_augments_no_positive_lies_on_its_anchor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = training("digits-supcon-all")
    batches = [run._batch(index, 0.5) for index in run._batches()]
    for batch in batches:
        assert batch.views is not None and batch.views.shape == (1, *batch.x.shape)
        assert torch.equal(batch.views[0], batch.x)
    # 65 images of ten classes: some images occur twice in an epoch so that their class has a pair.
    index = torch.cat([batch.index for batch in batches])
    assert len(index) > len(index.unique()) == 65
    run = training("digits-supcon-all", batch_size=128)  # The whole epoch is one batch here.
    assert len(run._batches()) == 1
    found = met(run, monkeypatch)
    assert len(found) == 1 and len(found[0][0]) == 65
    assert [twins(*batch) for batch in found] == [0]


@pytest.mark.usefixtures("small_splits")
def test_where_something_augments_there_are_two_views() -> None:
    for augment in ("flip", "crop"):
        run = training("digits-supcon-all", augment=augment)
        for batch in (run._batch(index, 0.5) for index in run._batches()):
            assert batch.views is not None and batch.views.shape == (2, *batch.x.shape)
            assert torch.equal(batch.views[0], batch.x)
            assert not torch.equal(batch.views[0], batch.views[1])


def test_the_same_image_twice_is_no_pair_and_two_views_of_it_are_one(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double().eval(), images.double()
    again = torch.cat([torch.arange(N), torch.arange(2)])
    method, aux = SupConMargin(), nn.Identity()

    def terms(index: Tensor, views: int) -> dict[str, float]:
        batch = of(x[index], labels[index], index, torch.stack([x[index]] * views))
        found = method.loss(net, batch, aux)
        return {name: float(found[name].detach()) for name in ("supcon", "margin")}

    once = terms(torch.arange(N), 1)
    assert terms(again, 1) == pytest.approx(once, abs=1e-12)
    assert terms(torch.arange(N), 2)["supcon"] != pytest.approx(once["supcon"], abs=1e-3)


@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("augment", ["none", "flip"])
def test_the_lessons_four_see_the_same_views_batches_and_order(augment: str) -> None:
    runs = [training(preset, augment=augment) for preset in FOUR]
    for epoch in range(2):
        for run in runs:
            run.epoch = epoch
        orders = [run._batches() for run in runs]
        for place in range(len(orders[0])):
            first, *others = (
                run._batch(order[place], 0.5) for run, order in zip(runs, orders, strict=True)
            )
            assert first.views is not None and len(first.views) == (1 if augment == "none" else 2)
            for other in others:
                assert torch.equal(other.index, first.index)
                assert other.views is not None and torch.equal(other.views, first.views)
        assert len({len(order) for order in orders}) == 1
    batch = runs[0]._batch(orders[0][0], 0.5)
    terms = [
        SupConMargin.loss(run.method, run.net, batch, run.aux)  # type: ignore[arg-type]
        for run in runs
    ]
    assert len({float(term["ce"].detach()) for term in terms}) == 1
    assert [sorted(term) for term in terms] == [
        ["ce"],
        ["ce", "supcon"],
        ["ce", "margin"],
        ["ce", "margin", "supcon"],
    ]


@pytest.mark.usefixtures("small_splits")
def test_without_pairs_the_first_of_the_four_is_ordinary_training() -> None:
    paired, ordinary = TrainConfig.make(FOUR[0]).method, SupConMargin(0, 0)
    assert (paired.views, paired.balanced, paired.compares) == (2, True, False)
    assert (ordinary.views, ordinary.balanced, ordinary.compares) == (0, False, False)
    orders = [
        torch.cat(Training(TrainConfig.make(FOUR[0], {"n_train": 64, "method": m}))._batches())
        for m in ("standard", "supcon_margin")
    ]
    plain = Training(TrainConfig(method=ordinary, n_train=64))
    assert torch.equal(torch.cat(plain._batches()), orders[0])
    assert not torch.equal(orders[0], orders[1])


def test_what_later_settings_do_to_the_name_of_a_run() -> None:
    named = registry.encode(SupConMargin(), naming=True)
    assert named["head"] == "penultimate" and "pairs" not in named
    assert registry.encode(SupConMargin(pairs=True), naming=True)["pairs"] is True
    assert "contribution" not in registry.encode(AALP(), naming=True)


# SupCon and margin: the input of the classifier.


@pytest.mark.long
@pytest.mark.usefixtures("small_splits")
def test_a_projected_network_is_saved_and_comes_back(tmp_path: Path) -> None:
    asked = ["train", "--preset", "digits-supcon-all", "--epochs", "1", "--device", "cpu"]
    settings = ["n_train=64", "method.head=projected", "method.width=7"]
    sets = [word for setting in settings for word in ("--set", setting)]
    assert cli.main([*asked, *sets, "--out", str(tmp_path), "--name", "one"]) == 0
    run = folder.open_run(tmp_path / "one")
    net, x = run.net(), data.load("digits", "test").x
    assert isinstance(net.head, nn.Linear) and (net.head.in_features, net.head.out_features) == (
        7,
        10,
    )
    with torch.no_grad():
        z = net.pool(net.maps(x))
        assert z.shape == (40, 7) and torch.equal(net.head(z), net(x))
        with attackable(net) as fast:
            assert torch.allclose(fast(x), net(x), atol=1e-5)
    assert not torch.equal(PGD(eps=EPS, steps=2)(net, x, net(x).argmax(1)), x)
    config = dataclasses.replace(run.config, device="cpu")
    trained = Training(config)
    list(trained.epochs())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in trained.best.items())
    assert trained.aux is None


@pytest.mark.usefixtures("small_splits")
def test_behind_the_projection_stand_the_classifier_and_the_contrast() -> None:
    plain = training(FOUR[3])
    config = dataclasses.replace(plain.config, method=SupConMargin(head="projected"))
    run = Training(config)
    body = plain.net.maps.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in run.net.maps.state_dict().items())
    batch = run._batch(run._batches()[0], 0.5)
    terms = run.method.loss(run.net, batch, run.aux)
    with torch.no_grad():
        z = run.net.pool(run.net.maps(batch.x))
        ce = float(F.cross_entropy(run.net.head(z), batch.y))
    assert z.shape[1] == 128
    assert float(terms["ce"].detach()) == pytest.approx(ce, abs=1e-5)
    order = batch.index.tolist()
    once = [place for place, number in enumerate(order) if number not in order[:place]]
    supcon = 0.5 * float(losses.supcon(z[once], batch.y[once], 0.1))
    assert float(terms["supcon"].detach()) == pytest.approx(supcon, abs=1e-5)
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in run.net.parameters())
    # In the plain method, the classifier does not see the projection.
    terms = plain.method.loss(plain.net, batch, plain.aux)
    (seen,) = torch.autograd.grad(
        terms["ce"],
        plain.aux[0].weight,
        allow_unused=True,  # type: ignore[index, union-attr]
    )
    assert seen is None


def test_a_network_with_a_projection_is_no_source_of_alignment() -> None:
    class Earlier:
        name, architecture, weights = "earlier", TrainConfig().net, "some"
        shape, classes = (10, 1, 8), ()

        def net(self) -> nn.Module:
            return SupConMargin(head="projected").network(nets.build("small_resnet", 10, 1, 8))

    net = nets.build("small_resnet", 10, 1, 8)
    config = TrainConfig(method=ModelAlignment())
    with pytest.raises(UserError, match=r"has a projection layer .* choose another source"):
        config.method.initial(
            net, config, data.load("digits", "train", 64), lambda *name, **more: Earlier()
        )


def test_the_paper_is_called_what_it_is_called() -> None:
    assert SupConMargin.paper == (
        "Wang, Nayyem, Rakin: Enhancing Adversarial Robustness of Deep Neural Networks Through"
        " Supervised Contrastive Learning (2024)"
    )


# AFA: the attack maximises the loss that training minimises.


def features(net: Classifier) -> Callable[[Tensor], Tensor]:
    return lambda x: net.pool(net.maps(x))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_feature_attack_climbs_the_loss_that_training_descends(
    contrast: Literal["clean", "clean+adv"], conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double().eval(), images.double()
    h, method = features(net), AFA(contrast=contrast)
    moved = x + 0.05 * torch.randn(
        x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1)
    )
    climb = method.misalignment(net, None, x, labels)
    for z in (x, moved):
        with torch.no_grad():
            climbed = float(climb(z).mean())
            descended = float(method.align(torch.cat([h(x), h(z)]), labels))
        assert climbed == pytest.approx(descended, abs=1e-12)
    other = AFA(contrast=CONTRASTS[contrast == "clean"]).misalignment(net, None, x, labels)
    assert not torch.allclose(climb(moved), other(moved), atol=1e-3)
    # The features that an image is compared with are held constant: only the anchor moves.
    z = moved.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(climb(z).sum(), z)
    with torch.no_grad():
        clean, adv = h(x), h(moved)
    for i in range(N):
        one = moved[i : i + 1].clone().requires_grad_(True)
        now = torch.cat([adv[:i], h(one), adv[i + 1 :]])
        (wanted,) = torch.autograd.grad(method.each(now, labels, clean, adv)[i], one)
        assert torch.allclose(found[i : i + 1], wanted, atol=1e-12)


def test_each_attack_raises_its_own_contrast_more_than_the_other_attack_does() -> None:
    split = data.load("digits", "train", 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.build("small_resnet", 10, 1, 8).eval()
    x, y = split.x, split.y
    methods = {
        contrast: AFA(contrast=contrast, attack=PGD(eps=EPS, start="zero"))
        for contrast in CONTRASTS
    }
    reached = {name: method.misaligned(net, of(x, y), None) for name, method in methods.items()}
    assert not torch.equal(*reached.values())
    h = features(net)
    with torch.no_grad():
        for own, method in methods.items():
            high = {
                name: float(method.align(torch.cat([h(x), h(z)]), y)) for name, z in reached.items()
            }
            assert max(high, key=high.__getitem__) == own, high


# AALP: contributions are signed.


def test_a_magnitude_keeps_what_speaks_loudly_against_the_class() -> None:
    c = torch.tensor([[0.5, 0.0, -2.0, 1.0]]).repeat(2000, 1)  # Golden case L3.
    kept = {}
    for contribution in ("signed", "magnitude"):
        method = AALP(contribution=contribution)  # type: ignore[arg-type]
        mask = method.guided_mask(c, 0.5, torch.Generator().manual_seed(2))
        kept[contribution] = [k for k in range(4) if (mask[:, k] == 1).all()]
    assert kept == {"signed": [0, 3], "magnitude": [2, 3]}
    positive = c.abs()
    one, other = (
        AALP(contribution=contribution).guided_mask(  # type: ignore[arg-type]
            positive, 0.5, torch.Generator().manual_seed(2)
        )
        for contribution in ("signed", "magnitude")
    )
    assert torch.equal(one, other)


def against(run: folder.Run) -> tuple[float, float]:
    """Returns the share of features with a negative contribution among the half of features that
    counts as low, once ranked by signed contribution and once by magnitude.
    """
    net, few = run.net(), data.load(run.config.data, "test").take(torch.arange(300))
    with torch.no_grad():
        h = net.pool(net.maps(few.x))
    c = contributions(h, net.head, few.y)  # type: ignore[arg-type]
    half = c.shape[1] // 2
    by_size = c.gather(1, c.abs().argsort(dim=1))
    return tuple(  # type: ignore[return-value]
        float((low < 0).float().mean())
        for low in (c.sort(dim=1).values[:, :half], by_size[:, :half])
    )


@pytest.mark.parametrize("name", ["digits-aalp", "shapes-pgd-at"])
def test_most_of_what_counts_as_low_speaks_against_the_class(name: str) -> None:
    path = next(path for path in folder.zoo().iterdir() if path.name.startswith(f"{name}-small"))
    signed, magnitude = against(folder.Run(path))
    assert signed > 0.8 and magnitude < signed - 0.1


@pytest.mark.slow
def test_the_share_that_speaks_against_the_class_is_what_the_text_says() -> None:
    runs = [
        run
        for run in map(folder.Run, folder.zoo().iterdir())
        if run.architecture == "small_resnet"
        and run.config.method.group != "red team"
        and run.eps == run.config.data.default_eps
    ]
    shares = [100 * against(run)[0] for run in runs]
    assert len(runs) >= 30
    assert f"{min(shares):.0f} to {max(shares):.0f}% of those counted as low" in AALP.choices
