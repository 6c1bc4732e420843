"""What every network promises, over the registry."""

from __future__ import annotations

import pytest
import torch

from robustviz import nets, registry
from robustviz.types import UserError


@pytest.fixture(params=registry.keys("net"))
def key(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (2, 28)])
def test_logits_are_head_of_pool_of_maps_that_are_never_below_4_pixels(key: str, channels: int, size: int) -> None:
    net = nets.build(key, classes=5, channels=channels, size=size).eval()
    x = torch.rand(3, channels, size, size)
    maps = net.maps(x)
    features = net.pool(maps)
    assert maps.ndim == 4
    assert min(maps.shape[-2:]) >= 4 or (key == "resnet18" and size < 32)  # made for 32 pixels: its last map is an eighth
    assert features.shape == (3, maps.shape[1])
    assert torch.equal(net.head(features), net(x)) and net(x).shape == (3, 5)


def test_normalisation_is_inside_and_travels_with_the_weights(key: str) -> None:
    torch.manual_seed(0)
    plain = nets.build(key, classes=4, channels=2, size=16).eval()
    scaled = nets.build(key, classes=4, channels=2, size=16, mean=[0.2, 0.6], std=[0.5, 0.1])
    weights = {name: value for name, value in plain.state_dict().items() if name not in ("maps.0.mean", "maps.0.std")}
    scaled.load_state_dict(weights, strict=False)
    x = torch.rand(3, 2, 16, 16)
    by_hand = (x - torch.tensor([0.2, 0.6]).view(1, 2, 1, 1)) / torch.tensor([0.5, 0.1]).view(1, 2, 1, 1)
    assert torch.allclose(scaled.eval()(x), plain(by_hand), atol=1e-5)
    again = nets.build(key, classes=4, channels=2, size=16)
    again.load_state_dict(scaled.state_dict())
    assert torch.equal(again.eval()(x), scaled(x))


def test_weights_follow_from_the_seed(key: str) -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in nets.build(key, classes=4, channels=1, size=8).parameters()])

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_too_small_images_and_too_few_classes_are_refused(key: str) -> None:
    with pytest.raises(UserError, match="too small"):
        nets.build(key, classes=4, size=7)
    with pytest.raises(UserError, match="at least 2 classes"):
        nets.build(key, classes=1)
