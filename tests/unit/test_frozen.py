"""`frozen` lends a net and gives it back exactly."""

from __future__ import annotations

import pytest
import torch

from robustviz.nets.base import ImageNet, frozen


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_inside_the_whole_net_is_in_one_mode_and_afterwards_each_module_in_its_own(mode: str, conv_net: ImageNet) -> None:
    conv_net.train()
    conv_net.maps[2].eval()
    conv_net.head.weight.requires_grad_(False)
    modes, asks = [m.training for m in conv_net.modules()], [p.requires_grad for p in conv_net.parameters()]
    with pytest.raises(KeyError), frozen(conv_net, mode):  # type: ignore[arg-type]
        assert {m.training for m in conv_net.modules()} == {mode == "train"}
        assert not any(p.requires_grad for p in conv_net.parameters())
        raise KeyError
    assert [m.training for m in conv_net.modules()] == modes
    assert [p.requires_grad for p in conv_net.parameters()] == asks


def test_it_nests(conv_net: ImageNet) -> None:
    conv_net.train()
    with frozen(conv_net, "train"):
        with frozen(conv_net):
            assert not conv_net.training
        assert conv_net.training
        assert not any(p.requires_grad for p in conv_net.parameters())
    assert conv_net.training and all(p.requires_grad for p in conv_net.parameters())


def test_no_gradient_reaches_a_frozen_parameter(conv_net: ImageNet, images: torch.Tensor) -> None:
    with frozen(conv_net):
        assert not conv_net(images).requires_grad
    assert conv_net(images).requires_grad
