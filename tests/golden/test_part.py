"""Tests PART beyond the acceptance list in `test_methods.py`: which mask an image gets, how a mask
is applied, and from which feature maps it is computed. Letters as in docs/methods.md, PART.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from robustviz import cam, nets, registry
from robustviz.attacks import PGD
from robustviz.methods import MART, PART, PARTM, PARTT, PGDAT, TRADES
from robustviz.methods.part import Reweighted
from robustviz.nets.attackable import attackable
from robustviz.nets.base import Classifier
from robustviz.nets.preact_resnet18 import preact_maps
from robustviz.training.config import TrainConfig
from robustviz.types import Batch, UserError

RULES = ("z>1", "z>0", "heat>0.5", "top20%", "jet-compat", "oracle", "all-but-upper-left")
FAMILIES = [(PART, PGDAT), (PARTT, TRADES), (PARTM, MART)]
N = 8


def batch_of(x: Tensor, y: Tensor, progress: float = 0.5) -> Batch:
    marks = torch.rand((len(x), 1, 16, 16), generator=torch.Generator().manual_seed(7)) > 0.6
    return Batch(
        x,
        y,
        torch.arange(len(y)),
        epoch=0,
        progress=progress,
        rng=torch.Generator().manual_seed(3),
        objects=marks,
    )


@pytest.fixture
def colour() -> tuple[Classifier, Batch]:
    """Returns a small network and a batch of 8 colour images of shape (3, 16, 16)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.build("small_resnet", 4, 3, 16)
    x = torch.rand((N, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    return net, batch_of(x, torch.arange(N) % 4)


def again(batch: Batch, **fields: Any) -> Batch:
    """Returns the same batch with its random generator reset."""
    return dataclasses.replace(batch, rng=torch.Generator().manual_seed(3), **fields)


# Which mask an image gets.


@pytest.mark.parametrize("rule", RULES)
def test_masks_of_others_are_the_next_images_under_any_rule(
    rule: str, colour: tuple[Classifier, Batch]
) -> None:
    net, batch = colour
    own = PART(rule=rule).mask(net, batch)
    others = PART(rule=rule, masks_of="others").mask(net, batch)
    assert others.shape[1] == (3 if rule == "jet-compat" else 1)
    for i in range(N):
        assert torch.equal(others[i], own[(i + 1) % N])
    assert torch.equal(own, others) == (rule == "all-but-upper-left")


def test_the_rule_shuffled_is_z_above_1_with_masks_of_others(
    colour: tuple[Classifier, Batch],
) -> None:
    net, batch = colour
    old = PART(rule="shuffled").mask(net, batch)
    assert torch.equal(old, PART(masks_of="others").mask(net, batch))
    assert torch.equal(old, PART(rule="shuffled", masks_of="others").mask(net, batch))
    assert not torch.equal(old, PART().mask(net, batch))


def test_the_release_is_all_of_its_deviations_at_once(colour: tuple[Classifier, Batch]) -> None:
    net, batch = colour
    method = TrainConfig.make("cifar10-part-as-released").bound_method
    assert isinstance(method, PART) and method.attack.eps == 8 / 255
    heat = cam.grad_cam(net, batch.x, net.eval()(batch.x).argmax(1))
    mask = cam.importance_mask(heat, "jet-compat", (16, 16))
    wanted = torch.where(mask[[*range(1, N), 0]], 8 / 255, 7 / 255)
    assert not torch.equal(net(batch.x).argmax(1), batch.y)
    assert torch.equal(method.budget(net, batch), wanted)
    for field, value in (("masks_of", "own"), ("cam_class", "true"), ("rule", "z>1")):
        other = dataclasses.replace(method, **{field: value})
        assert not torch.equal(other.budget(net, batch).expand_as(wanted), wanted), field


# How a mask is applied.


@pytest.mark.parametrize(("family", "base"), FAMILIES)
@pytest.mark.parametrize("rule", ["z>1", "jet-compat"])
def test_scaled_is_the_base_methods_change_times_radius_over_eps(
    family: type[PART], base: type[PGDAT], rule: str, colour: tuple[Classifier, Batch]
) -> None:
    net, batch = colour
    attack = dataclasses.replace(base().attack, eps=0.1, steps=3, step_size=0.08)
    method = family(rule=rule, eps_low=0.04, apply="scale", attack=attack)
    x_adv = method.attacked(net, again(batch))
    whole = base(attack=attack).attacked(net, again(batch))
    with method.attackable(net, batch.x) as fast:
        mask = method.mask(fast, batch).expand_as(batch.x)
    assert 0 < mask.float().mean() < 1 and method.budget(net, batch) is None
    assert torch.equal(x_adv[mask], whole[mask])
    assert torch.allclose((x_adv - batch.x)[~mask], 0.4 * (whole - batch.x)[~mask], atol=1e-6)
    clipped = dataclasses.replace(method, apply="clip").attacked(net, again(batch))
    assert (clipped - x_adv).abs().max() > 0.01
    # P1: no pixel leaves its radius or [0, 1].
    delta = (x_adv - batch.x).abs()
    assert delta[~mask].max() <= 0.04 + 1e-6 and 0.09 < delta[mask].max() <= 0.1 + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    none = dataclasses.replace(method, eps_low=0.0).attacked(net, again(batch))
    assert torch.equal(none[~mask], batch.x[~mask])


@pytest.mark.long
@pytest.mark.parametrize("apply", ["clip", "scale"])
@pytest.mark.parametrize(("family", "base"), FAMILIES)
def test_P2_with_one_radius_either_way_is_the_base_method_to_the_bit(
    apply: str, family: type[PART], base: type[PGDAT], colour: tuple[Classifier, Batch]
) -> None:
    net, batch = colour
    attack = dataclasses.replace(base().attack, eps=0.1, steps=3, step_size=0.08)
    plain = base(attack=attack).attacked(net, again(batch))
    for fields, progress in (
        ({"eps_low": 0.1}, 0.5),
        ({"eps_low": 0.0, "rule": "ones"}, 0.5),
        ({"eps_low": 0.0}, 0.2),  # During the warm-up.
        ({"eps_low": 0.1, "masks_of": "others"}, 0.5),
    ):
        method = family(**fields, apply=apply, attack=attack)
        assert torch.equal(method.attacked(net, again(batch, progress=progress)), plain), fields
    less = family(eps_low=0.05, apply=apply, attack=attack)
    assert not torch.equal(less.attacked(net, again(batch)), plain)


def test_without_a_radius_nothing_moves(colour: tuple[Classifier, Batch]) -> None:
    net, batch = colour
    for apply in ("clip", "scale"):
        method = PART(apply=apply, attack=PGD(eps=0, steps=2))  # type: ignore[arg-type]
        assert torch.equal(method.attacked(net, again(batch)), batch.x)


# Which feature maps are used.


def pre_activation(size: int = 16) -> Classifier:
    """Returns a small pre-activation network, as in Wide-ResNet, whose running statistics differ
    from a new network's.
    """
    torch.manual_seed(4)
    maps = preact_maps(3, size, 4, ((1, 8), (1, 12)), [0.4] * 3, [0.2] * 3)
    net = Classifier(maps, nn.Linear(12, 5))
    with torch.no_grad():
        net.train()(torch.rand(16, 3, size, size))
        net.maps[-2].weight.uniform_(-1, 3)
        net.maps[-2].bias.normal_()
    return net.eval()


@pytest.mark.parametrize("ours", ["grad_cam", "layer_cam"])
def test_maps_before_the_last_norm_are_those_of_the_grad_cam_package(ours: str) -> None:
    net, x, y = pre_activation(), torch.rand(3, 3, 16, 16), torch.tensor([4, 1, 0])
    found = getattr(cam, ours)(net, x, y, before_norm=True)
    with {"grad_cam": GradCAM, "layer_cam": LayerCAM}[ours](
        model=net, target_layers=[net.maps[-3]]
    ) as theirs:
        targets = [ClassifierOutputTarget(int(label)) for label in y]
        theirs(input_tensor=x, targets=targets)
        seen = theirs.activations_and_grads
        raw = theirs.get_cam_image(
            x, net.maps[-3], targets, seen.activations[0].numpy(), seen.gradients[0].numpy(), False
        )
    assert np.abs(raw).max() > 1e-3 and np.abs(found.numpy() - raw).max() < 1e-6
    assert (found - getattr(cam, ours)(net, x, y)).abs().max() > 1e-3
    assert torch.equal(
        getattr(cam, ours)(net, x, before_norm=True),
        getattr(cam, ours)(net, x, net(x).argmax(1), before_norm=True),
    )


def test_before_the_norm_xgrad_cam_is_another_map() -> None:
    """With average pooling right after the maps XGrad-CAM equals Grad-CAM (P4), but not with a ReLU
    in between.
    """
    net, x, y = (
        pre_activation().double(),
        torch.rand(3, 3, 16, 16).double(),
        torch.tensor([4, 1, 0]),
    )
    maps = net.maps[:-2](x).detach().requires_grad_()
    heights = net.head(net.pool(net.maps[-2:](maps))).gather(1, y[:, None])
    (gradient,) = torch.autograd.grad(heights.sum(), maps)
    maps = maps.detach()
    found = cam.grad_cam(net, x, y, before_norm=True)
    assert torch.allclose(found, (gradient.mean((2, 3), keepdim=True) * maps).sum(1), atol=1e-12)
    weight = (gradient * maps).sum((2, 3), keepdim=True) / maps.sum((2, 3), keepdim=True)
    assert (found - (weight * maps).sum(1)).abs().max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("fused", [False, True])
def test_a_copy_for_attacks_has_the_same_maps_before_the_norm(fused: bool) -> None:
    torch.manual_seed(0)
    net = nets.build("preact_resnet18", 4, 3, 16).eval()
    x = torch.rand(40, 3, 16, 16)
    whole = cam.grad_cam(net, x, before_norm=True)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with attackable(net, fused=fused, bf16=fused) as fast:
        found = cam.grad_cam(fast, x, before_norm=True)
    assert found.dtype == whole.dtype == torch.float32
    # In bf16 the tolerance is 5% of the largest value, otherwise 1e-6 of it.
    assert (found - whole).abs().max() <= (0.05 if fused else 1e-6) * whole.abs().max()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("key", registry.keys("net"))
def test_only_pre_activation_networks_have_maps_before_the_norm(key: str) -> None:
    with torch.device("meta"):
        net = nets.build(key, 4, 3, 32)
    assert cam._ends_with_norm(net.maps) == (key in ("wrn_34_10", "preact_resnet18"))


def test_a_network_without_them_is_one_clear_sentence(colour: tuple[Classifier, Batch]) -> None:
    net, batch = colour
    hooked, elsewhere = pre_activation(), pre_activation()
    hooked.maps.register_forward_hook(lambda *_: None)
    elsewhere.forward = lambda x: elsewhere.head(elsewhere.pool(elsewhere.maps(x)))  # type: ignore
    for each in (net, nets.build("small_cnn", 4, 3, 16), hooked, elsewhere):
        with pytest.raises(UserError, match=r"does not end with a batch norm and a ReLU.*use"):
            cam.layer_cam(each, batch.x, before_norm=True)


@pytest.mark.long
def test_part_takes_its_maps_where_it_is_told() -> None:
    net, x = pre_activation(), torch.rand(4, 3, 16, 16)
    batch = batch_of(x, torch.arange(4))
    for kind, family in itertools.product(("grad_cam", "layer_cam"), (PART, PARTT, PARTM)):
        method = family(cam=kind, cam_maps="before_norm")  # type: ignore[arg-type]
        wanted = getattr(cam, kind)(net, x, batch.y, before_norm=True)
        assert torch.equal(method.heat(net, x, batch.y), wanted)
        assert not torch.equal(family(cam=kind).heat(net, x, batch.y), wanted)  # type: ignore[arg-type]


# Settings that were added later must not appear in the names of earlier runs.


@pytest.mark.parametrize("family", [PART, PARTT, PARTM])
def test_settings_that_came_later_leave_names_and_old_files_alone(family: type[Reweighted]) -> None:
    config = TrainConfig(data="shapes", method=family())  # type: ignore[arg-type]
    later = {"cam_maps", "masks_of", "apply"}
    named = registry.encode(config, naming=True)["method"]
    assert not later & set(named)
    written = config.to_json()
    assert later <= set(written["method"])
    for name in later:
        del written["method"][name]
    assert TrainConfig.from_json(written) == config
    for field, value in (("cam_maps", "before_norm"), ("masks_of", "others"), ("apply", "scale")):
        other = registry.with_value(config, f"method.{field}", value)
        assert other.run_id != config.run_id, field
