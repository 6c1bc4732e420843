"""What every network promises, over the registry."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from robustviz import nets, registry
from robustviz.types import UserError

LARGE = (  # 46 million parameters: the fast suite makes one, and the slow one keeps every promise
    "wrn_34_10"
)


@pytest.fixture(
    params=[
        pytest.param(key, marks=[pytest.mark.slow] * (key == LARGE)) for key in registry.keys("net")
    ]
)
def key(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (2, 28), (1, 11), (3, 64)])
def test_logits_are_head_of_pool_of_maps_that_are_never_below_4_pixels(
    key: str, channels: int, size: int
) -> None:
    net = nets.build(key, classes=5, channels=channels, size=size).eval()
    x = torch.rand(1 if size == 64 else 3, channels, size, size)
    with torch.no_grad():
        check_parts(key, net, x)


def check_parts(key: str, net: nets.Classifier, x: torch.Tensor) -> None:
    size = x.shape[-1]
    maps = net.maps(x)
    features = net.pool(maps)
    assert maps.ndim == 4
    # made for 32 pixels: its last map is an eighth
    assert min(maps.shape[-2:]) >= 4 or (key == "resnet18" and size < 32)
    assert features.shape == (len(x), maps.shape[1])
    assert torch.equal(net.head(features), net(x)) and net(x).shape == (len(x), 5)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 28)])
def test_every_parameter_and_every_pixel_has_a_gradient(key: str, channels: int, size: int) -> None:
    check_gradients(
        nets.build(key, classes=5, channels=channels, size=size),
        torch.rand(4, channels, size, size),
    )


def check_gradients(net: nets.Classifier, x: torch.Tensor) -> None:
    x.requires_grad_()
    F.cross_entropy(net.train()(x), torch.arange(len(x))).backward()
    for name, parameter in net.named_parameters():
        assert (
            parameter.grad is not None
            and parameter.grad.isfinite().all()
            and parameter.grad.abs().max() > 1e-7
        ), name
    assert x.grad is not None and (x.grad.abs().amax((0, 1)) > 0).all()


def test_the_large_network_keeps_the_main_promises() -> None:
    torch.manual_seed(0)
    net = nets.build(LARGE, classes=5, channels=3, size=8).eval()
    with torch.no_grad():
        check_parts(LARGE, net, torch.rand(2, 3, 8, 8))
    check_gradients(net, torch.rand(2, 3, 8, 8))


def test_a_name_for_people_says_how_large_it_is(key: str) -> None:
    cls = registry.get("net", key)
    millions = float(cls.label.rsplit("(", 1)[1].removesuffix(" M)"))
    count = sum(p.numel() for p in nets.build(key, classes=10).parameters()) / 1e6
    assert abs(count - millions) < 0.05 * max(1, count)


def test_normalisation_is_inside_and_travels_with_the_weights(key: str) -> None:
    torch.manual_seed(0)
    plain = nets.build(key, classes=4, channels=2, size=16).eval()
    scaled = nets.build(key, classes=4, channels=2, size=16, mean=[0.2, 0.6], std=[0.5, 0.1])
    weights = {
        name: value
        for name, value in plain.state_dict().items()
        if name not in ("maps.0.mean", "maps.0.std")
    }
    scaled.load_state_dict(weights, strict=False)
    x = torch.rand(3, 2, 16, 16)
    by_hand = (x - torch.tensor([0.2, 0.6]).view(1, 2, 1, 1)) / torch.tensor([0.5, 0.1]).view(
        1, 2, 1, 1
    )
    assert torch.allclose(scaled.eval()(x), plain(by_hand), atol=1e-5)
    again = nets.build(key, classes=4, channels=2, size=16)
    again.load_state_dict(scaled.state_dict())
    assert torch.equal(again.eval()(x), scaled(x))


def test_weights_follow_from_the_seed(key: str) -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat(
            [p.flatten() for p in nets.build(key, classes=4, channels=1, size=8).parameters()]
        )

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_too_small_images_and_too_few_classes_are_refused(key: str) -> None:
    with pytest.raises(UserError, match="too small"):
        nets.build(key, classes=4, size=7)
    with pytest.raises(UserError, match="at least 2 classes"):
        nets.build(key, classes=1)
