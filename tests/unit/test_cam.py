"""Large batches go through a network in parts; nobody sees it in the maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustviz import cam


@pytest.mark.parametrize("deep", [False, True])
def test_a_large_batch_goes_through_in_parts_and_gives_the_same_maps(deep, conv_net, images, labels, monkeypatch) -> None:
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
            assert max(sizes) == 5 and sum(sizes) == len(images)
            assert torch.allclose(parts, whole, rtol=0, atol=1e-6)
    hook.remove()
    assert cam.grad_cam(conv_net, images[:0], labels[:0]).shape[0] == 0
