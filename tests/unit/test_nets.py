"""Tests the architectures against published sizes and independent implementations of their
blocks.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import nets
from robustviz.nets.preact_resnet18 import PreActBlock
from robustviz.nets.tiny_vit import Attention, Block


@pytest.mark.parametrize(
    ("key", "count", "side"),
    [
        ("preact_resnet18", 11_172_170, 4),  # RobustBench's PreActResNet18 with bn_before_fc.
        (
            "vgg11_bn",
            9_220_480 - 2_752 + 5_504 + 5_130,
            4,
        ),  # torchvision's convolutions without their biases, plus batch norms and the head.
        pytest.param(
            "wrn_34_10", 46_160_474, 8, marks=pytest.mark.slow
        ),  # TRADES' WideResNet() without its unused sub_block1.
    ],
)
def test_sizes_are_the_published_ones_at_32_pixels(key: str, count: int, side: int) -> None:
    net = nets.build(key, classes=10).eval()
    assert sum(p.numel() for p in net.parameters()) == count
    with torch.no_grad():
        assert net.maps(torch.rand(1, 3, 32, 32)).shape[-1] == side


def test_the_last_maps_of_pre_activation_nets_are_behind_a_relu() -> None:
    net = nets.build("preact_resnet18", classes=3, channels=1, size=8)
    with torch.no_grad():
        maps = net.train().maps(torch.rand(4, 1, 8, 8))
    assert maps.min() == 0 and 0.2 < (maps == 0).float().mean() < 0.8


@pytest.mark.parametrize(("out", "stride"), [(4, 1), (6, 1), (4, 2), (6, 2)])
def test_a_pre_activation_block_equals_its_equation(out: int, stride: int) -> None:
    torch.manual_seed(0)
    block = PreActBlock(4, out, stride).double().train()
    x = torch.randn(5, 4, 7, 7, dtype=torch.float64)
    weights = [p for name, p in block.named_parameters() if p.ndim == 4]

    def ready(t: Tensor) -> Tensor:
        return (
            (t - t.mean((0, 2, 3), keepdim=True))
            / (t.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        ).relu()

    first = ready(x)
    skip = x if len(weights) == 2 else F.conv2d(first, weights[2], stride=stride)
    assert (len(weights) == 2) == (out == 4 and stride == 1)
    expected = (
        F.conv2d(
            ready(F.conv2d(first, weights[0], stride=stride, padding=1)), weights[1], padding=1
        )
        + skip
    )
    assert torch.allclose(block(x), expected, atol=1e-12)


def test_attention_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    tokens = torch.randn(4, 5, 12)
    assert torch.allclose(
        ours(tokens), theirs(tokens, tokens, tokens, need_weights=False)[0], atol=1e-6
    )


def test_a_transformer_block_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Block(12, 3)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    with torch.no_grad():
        for mine, other in (
            (ours.attend[0], theirs.norm1),
            (ours.attend[1].out, theirs.self_attn.out_proj),
            (ours.think[0], theirs.norm2),
            (ours.think[1], theirs.linear1),
            (ours.think[3], theirs.linear2),
        ):
            other.load_state_dict(mine.state_dict())
        theirs.self_attn.in_proj_weight.copy_(ours.attend[1].qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.attend[1].qkv.bias)
    tokens = torch.randn(4, 5, 12)
    assert torch.allclose(ours(tokens), theirs.train()(tokens), atol=1e-6)


@pytest.fixture
def vit() -> nets.Classifier:
    torch.manual_seed(0)
    return nets.build("tiny_vit", classes=4, channels=1, size=8).eval()


def test_the_transformer_gives_the_same_bits_whoever_asks(vit: nets.Classifier) -> None:
    x = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        quiet = vit(x)
    asked = vit(x.clone().requires_grad_())
    assert torch.equal(quiet, asked) and torch.equal(quiet, copy.deepcopy(vit).train()(x))
    assert torch.allclose(torch.cat([vit(one[None]) for one in x]), quiet, atol=1e-5)


def test_the_transformer_has_second_derivatives(vit: nets.Classifier) -> None:
    net = vit.double()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(
        x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def slope(at: Tensor, graph: bool = False) -> Tensor:
        return torch.autograd.grad(
            F.cross_entropy(net(at), torch.tensor([2])), at, create_graph=graph
        )[0]

    (curvature,) = torch.autograd.grad((slope(x, graph=True) * direction).sum(), x)
    step = 1e-4 * direction
    by_difference = (slope(x + step) - slope(x - step)) / 2e-4
    assert curvature.abs().max() > 1e-6
    assert torch.allclose(curvature, by_difference, rtol=1e-4, atol=1e-8)


def test_the_transformer_knows_places_and_its_maps_lie_on_the_image(vit: nets.Classifier) -> None:
    x = torch.rand(1, 1, 8, 8)
    assert not torch.allclose(vit(x), vit(x.flip(3)), atol=1e-4)
    grid = nn.Sequential(*list(vit.maps)[:4])  # The layers before the tokens exchange information.
    changed = x.clone()
    changed[0, 0, 2:4, 6:8] += 0.5  # The patch in row 1, column 3.
    moved = (grid(x) - grid(changed)).abs().sum((0, 1)) > 1e-6
    assert moved.nonzero().tolist() == [[1, 3]]
    tokens = torch.randn(1, 80, 4, 4)
    assert torch.allclose(
        vit.maps[4](tokens.transpose(2, 3)), vit.maps[4](tokens).transpose(2, 3), atol=1e-5
    )
