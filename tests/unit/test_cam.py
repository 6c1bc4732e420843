"""Tests that large batches go through a network in parts without changing the maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv
from torch import Tensor, nn

from robustviz import cam
from robustviz.nets.attackable import attackable
from robustviz.nets.base import Classifier
from robustviz.types import UserError


@pytest.mark.parametrize("deep", [False, True])
def test_a_large_batch_goes_through_in_parts_and_gives_the_same_maps(
    deep, conv_net, images, labels, monkeypatch
) -> None:
    if deep:
        conv_net.head = nn.Sequential(conv_net.head, nn.Tanh())
    sizes: list[int] = []
    hook = conv_net.maps.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for make in (cam.grad_cam, cam.layer_cam):
        monkeypatch.setattr(cam, "TOGETHER", 128)
        for y in (labels, None):
            whole = make(conv_net, images, y)
            with monkeypatch.context() as small:
                small.setattr(cam, "TOGETHER", 5)
                sizes.clear()
                parts = make(conv_net, images, y)
            # The check of the network on a few images comes first.
            of_parts = sizes[-math.ceil(len(images) / 5) :]
            assert max(of_parts) == 5 and sum(of_parts) == len(images)
            assert torch.allclose(parts, whole, rtol=0, atol=1e-6)
    hook.remove()
    assert cam.grad_cam(conv_net, images[:0], labels[:0]).shape[0] == 0


# Which inputs are accepted.


def bare(channels: int = 3) -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Conv2d(channels, 4, 3), nn.Linear(4, 3)).eval()


def not_copied(net: Classifier) -> Classifier:
    net.noise = torch.Generator()  # A deep copy of the network would share the generator.
    return net


X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("made", [bare, lambda: not_copied(bare())], ids=["copied", "not copied"])
@pytest.mark.parametrize("count", [1, 3])
def test_what_no_map_can_be_made_of_is_one_clear_sentence(made: Any, count: int) -> None:
    for make in (cam.grad_cam, cam.layer_cam):
        for x, y, says in (
            (X.repeat(1, 2, 1, 1), None, "network fails on images"),
            (X.double(), None, "use x.to.torch.float32"),
            (255 * X, None, "grey levels"),
            (X - 1, None, "normalised"),
            (X, torch.full((3,), 9), "The label 9 is outside"),
            (X, torch.zeros(3), "one integer per image"),
        ):
            with pytest.raises(UserError, match=says):
                make(made(), x[:count], None if y is None else y[:count])
        with pytest.raises(UserError, match="no attribute `maps`"):
            make(nn.Flatten(), X)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrap", [lambda net: net, not_copied], ids=["copied", "not copied"])
def test_networks_of_which_no_map_can_be_made_are_one_clear_sentence(wrap: Any) -> None:
    class Cut(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.detach().mean((2, 3))

    class Elsewhere(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            self.maps(x)
            return self.head(
                x.mean((2, 3)) @ self.maps.weight.mean((2, 3)).T + x.requires_grad_().sum() * 0
            )

    hooked, cut = bare(), bare()
    hooked.maps.register_forward_hook(lambda module, given, maps: (maps, maps))
    cut.pool = Cut()
    without = Classifier(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Linear(4, 3),
    )
    for net, says in (
        (hooked, "tuple"),
        (cut, "no gradient with respect to its feature maps"),
        (Elsewhere(bare().maps, bare().head), "no gradient with respect to its feature maps"),
        (without.eval(), "depend on the other images"),
    ):
        with pytest.raises(UserError, match=says):
            cam.grad_cam(wrap(net), X)
    with pytest.raises(UserError, match="return a tuple instead of a tensor"):
        cam.grad_cam(wrap(hooked), X[:1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_16_bits_has_maps(dtype: torch.dtype) -> None:
    for net in (bare(), not_copied(bare())):
        whole, found = cam.grad_cam(bare(), X), cam.grad_cam(net.to(dtype), X)
        assert found.dtype == torch.float32 and torch.allclose(
            found, whole, atol=0.02 * float(whole.abs().max())
        )
        assert torch.equal(cam.grad_cam(net, X.to(dtype).float()), cam.grad_cam(net, X.to(dtype)))


def test_a_network_that_cannot_be_copied_and_writes_on_its_maps_has_the_same_maps() -> None:
    class Own(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(nn.functional.relu(self.maps(x), inplace=True)))

    net = not_copied(Own(bare().maps, bare().head))
    assert torch.equal(cam.grad_cam(net, X), cam.grad_cam(Own(bare().maps, bare().head), X))
    assert not net.maps._forward_hooks and all(p.requires_grad for p in net.parameters())


HEAT = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rule", ["z>1", "ones", "all-but-upper-left", "jet-compat"])
@pytest.mark.parametrize(
    ("heat", "size", "says"),
    [
        (HEAT.numpy(), None, "this is a ndarray"),
        (HEAT[0], None, r"shape \(3, 3\).*heat\[None\]"),
        (HEAT[:, None], None, r"heat\[:, 0\]"),
        (HEAT.long(), None, "these are int64"),
        (HEAT[:, :0], None, r"shape \(2, 0, 3\)"),
        (HEAT, (0, 0), r"size=\(0, 0\) is not the size"),
        (HEAT, (8,), "not the size"),
        (HEAT, 8, "size=8"),
        (HEAT, (8.5, 8), "not the size"),
        (HEAT, ("8", "8"), "not the size"),
        (HEAT, (-1, 8), "not the size"),
    ],
)
def test_maps_and_sizes_that_are_none_are_one_clear_sentence(
    rule: str, heat: Any, size: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        cam.importance_mask(heat, rule, size)


def test_a_rule_is_a_name_and_sizes_of_numpys_are_sizes() -> None:
    for rule in (None, 1, ["z>1"]):
        with pytest.raises(UserError, match="is not a mask rule"):
            cam.importance_mask(HEAT, rule)  # type: ignore[arg-type]
    wanted = cam.importance_mask(HEAT, "z>1", (8, 9))
    for size in ((np.int64(8), np.int32(9)), torch.Size((8, 9)), [8, torch.tensor(9)]):
        assert torch.equal(cam.importance_mask(HEAT, "z>1", size), wanted)  # type: ignore[arg-type]


def test_a_budget_is_made_of_radii_in_pixel_units() -> None:
    mask = HEAT > 0.5
    wanted = cam.budget_map(mask, 8 / 255, 4 / 255)
    for eps, low in (
        ("8/255", "4/255"),
        (np.float64(8 / 255), torch.tensor(4 / 255, dtype=torch.float64)),
    ):
        found = cam.budget_map(mask, eps, low)  # type: ignore[arg-type]
        assert found.dtype == torch.float32 and torch.equal(found, wanted)
    for eps, low, says in (
        (8, 0.1, "write 8/255"),
        (math.inf, 0.1, "not a finite number"),
        (math.nan, 0.1, "not a finite number"),
        ("8/25x", 0.1, "not a number"),
        (0.1, math.nan, "not a finite number"),
        (0.1, None, "None is not a number"),
        (True, 0.1, "True is not a number"),
        (0.1, 0.2, "between"),
    ):
        with pytest.raises(UserError, match=says):
            cam.budget_map(mask, eps, low)  # type: ignore[arg-type]
    for other, says in ((mask.float(), "but this is float32"), (mask.numpy(), "a ndarray")):
        with pytest.raises(UserError, match=says):
            cam.budget_map(other, 0.1, 0.05)  # type: ignore[arg-type]


def test_the_middle_of_an_attack_is_not_looked_at_twice(
    images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = conv()
    monkeypatch.setattr(cam, "try_out", lambda *given: pytest.fail("looked at again"))
    with attackable(net) as inside:
        assert torch.allclose(
            cam.grad_cam(inside, images, labels)[:1],
            cam.grad_cam(net, images[:1], labels[:1]),
            atol=1e-5,
        )  # type: ignore[arg-type]
