"""Tests class activation maps and masks against golden numbers, slow reference implementations and
the grad-cam package.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from conftest import conv
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from robustviz import cam, nets, registry
from robustviz.nets.base import Classifier
from robustviz.types import UserError

PER_IMAGE = (
    "z>1",
    "z>0",
    "z>-0.5",
    "heat>0.5",
    "heat>.25",
    "top20%",
    "top7.5%",
    "ones",
    "jet-compat",
)


@pytest.fixture
def two_maps() -> tuple[Classifier, Tensor]:
    """P4 in docs/methods.md, "Golden numbers": the image is the two feature maps and the head is
    (1, −1).
    """
    head = nn.Linear(2, 2).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.5]]))
        head.bias.zero_()
    x = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.5, 2.0], [0.0, 0.0]]]], dtype=torch.float64)
    return Classifier(nn.Identity(), head), x


@pytest.fixture
def heats() -> Tensor:
    """Returns raw, signed maps of shape (9, 3, 4), each with some positive value."""
    return torch.randn((9, 3, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def bump() -> Tensor:
    """P5 in docs/methods.md, "Golden numbers": a bump in the middle of a 4×4 map."""
    at = (torch.arange(4, dtype=torch.float64) - 1.5) ** 2
    return (-(at[:, None] + at)).exp()[None]


def test_cams_have_their_golden_values(two_maps: tuple[Classifier, Tensor]) -> None:
    net, x = two_maps
    assert cam.grad_cam(net, x, torch.tensor([0])).tolist() == [[[0.125, -0.5], [0.0, 0.25]]]
    assert cam.layer_cam(net, x, torch.tensor([0])).relu().tolist() == [[[0.25, 0.0], [0.0, 0.25]]]
    assert cam.layer_cam(net, x, torch.tensor([1])).tolist() == [[[0.0625, 0.25], [0.0, 0.0]]]


def test_without_a_label_the_predicted_class_is_explained(
    two_maps: tuple[Classifier, Tensor],
) -> None:
    net, x = two_maps
    assert net(x).argmax(1).tolist() == [1]
    assert torch.equal(cam.grad_cam(net, x), cam.grad_cam(net, x, torch.tensor([1])))
    bent = Classifier(nn.Identity(), nn.Sequential(net.head, nn.Tanh()))
    assert torch.equal(cam.layer_cam(bent, x), cam.layer_cam(bent, x, torch.tensor([1])))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[pytest.mark.slow] * (key == "wrn_34_10"))
        for key in registry.keys("net")
    ],
)
def test_cams_equal_those_of_the_grad_cam_package(key: str) -> None:
    torch.manual_seed(5)
    size = 16
    net = nets.build(key, classes=5, channels=3, size=size, mean=[0.4] * 3, std=[0.2] * 3)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        net.train()(x)  # Running statistics that differ from a new network's.
    net.eval()
    y = torch.tensor([4, 1])
    for ours, package in ((cam.grad_cam, GradCAM), (cam.layer_cam, LayerCAM)):
        found = ours(net, x, y).numpy()
        assert found.min() < 0 or ours is cam.layer_cam
        with package(model=net, target_layers=[net.maps]) as theirs:
            targets = [ClassifierOutputTarget(int(label)) for label in y]
            scaled = theirs(input_tensor=x, targets=targets)
            seen = theirs.activations_and_grads
            raw = theirs.get_cam_image(
                x, net.maps, targets, seen.activations[0].numpy(), seen.gradients[0].numpy(), False
            )
        assert np.abs(raw).max() > 1e-3 and np.abs(found - raw).max() < 1e-5
        # The package rescales the map twice.
        assert (
            np.abs(
                scale_cam_image(scale_cam_image(np.maximum(found, 0), (size, size))) - scaled
            ).max()
            < 1e-5
        )


def slow_maps(net: Classifier, x: Tensor, y: Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Grad-CAM and LayerCAM for one sample, one channel and one cell at a time, with gradients from
    central differences.
    """
    grad, layer = [], []
    for i in range(len(x)):
        maps = net.maps(x[i : i + 1]).detach()
        slope = torch.zeros_like(maps[0])
        for place in np.ndindex(*maps.shape[1:]):
            step = torch.zeros_like(maps)
            step[(0, *place)] = 1e-5
            slope[place] = (net.head(net.pool(maps + step)) - net.head(net.pool(maps - step)))[
                0, y[i]
            ].detach() / 2e-5
        a, g = maps[0].numpy(), slope.numpy()
        grad.append(sum(g[k].mean() * a[k] for k in range(len(a))))
        layer.append(sum(np.maximum(g[k], 0) * a[k] for k in range(len(a))))
    return grad, layer


@pytest.mark.parametrize("kind", ["linear head", "other pooling", "deep head"])
def test_cams_equal_their_slow_twins(kind: str, images: Tensor, labels: Tensor) -> None:
    torch.manual_seed(2)
    net = conv().double()
    if kind == "other pooling":
        net.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    if kind == "deep head":
        net.head = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    x, y = images[:3].double(), labels[:3]
    grad, layer = slow_maps(net, x, y)
    assert np.abs(cam.grad_cam(net, x, y).numpy() - grad).max() < 1e-8
    assert np.abs(cam.layer_cam(net, x, y).numpy() - layer).max() < 1e-8


def test_the_closed_form_equals_autograd(images: Tensor, labels: Tensor) -> None:
    closed = conv()
    through = copy.deepcopy(closed)
    through.head = nn.Sequential(through.head)
    for ours in (cam.grad_cam, cam.layer_cam):
        assert torch.allclose(
            ours(closed, images, labels), ours(through, images, labels), atol=1e-7
        )


@pytest.mark.parametrize("deep", [False, True])
def test_the_network_is_left_as_it_was_and_samples_are_independent(
    deep: bool, images: Tensor, labels: Tensor
) -> None:
    net = conv()
    if deep:
        net.head = nn.Sequential(net.head, nn.Tanh())
    expected = cam.grad_cam(net.eval(), images, labels)
    net.train()
    net.maps[2].eval()
    net.maps[1].weight.requires_grad_(False)
    net.maps[4].weight.grad = torch.ones_like(net.maps[4].weight)
    before, grads = (
        copy.deepcopy(net),
        [p.grad if p.grad is None else p.grad.clone() for p in net.parameters()],
    )
    x = images.clone().requires_grad_()
    with torch.no_grad():
        found = cam.grad_cam(net, x, labels)
    assert torch.equal(found, expected) and torch.equal(cam.grad_cam(net, x, labels), expected)
    assert not found.requires_grad and x.grad is None
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    for (name, now), then in zip(
        net.state_dict().items(), before.state_dict().values(), strict=True
    ):
        assert torch.equal(now, then), name
    assert [p.requires_grad for p in net.parameters()] == [
        p.requires_grad for p in before.parameters()
    ]
    for now, then in zip((p.grad for p in net.parameters()), grads, strict=True):
        assert now is then is None or torch.equal(now, then)
    single = torch.cat(
        [cam.grad_cam(net, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
    )
    assert torch.allclose(single, expected, atol=1e-6)


# Masks.


@pytest.mark.parametrize(
    ("rule", "golden"),
    [("z>1", 184), ("z>0", 360), ("ones", 1024), ("top20%", 205), ("top0%", 0), ("top100%", 1024)],
)
def test_masks_have_their_golden_sizes(rule: str, golden: int) -> None:
    mask = cam.importance_mask(bump(), rule, (32, 32))
    assert mask.shape == (1, 1, 32, 32) and mask.dtype == torch.bool
    assert int(mask.sum()) == golden


def slow_heat(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """ReLU, min–max scaling and bilinear enlargement, one pixel at a time."""
    heat = np.maximum(heat, 0)
    heat = (heat - heat.min()) / (heat.max() - heat.min() + 1e-8)
    out = np.zeros((height, width))
    for r, c in np.ndindex(height, width):
        at = [
            max((i + 0.5) * side / new - 0.5, 0)
            for i, side, new in ((r, heat.shape[0], height), (c, heat.shape[1], width))
        ]
        (r0, c0), (r1, c1) = (
            map(math.floor, at),
            (min(math.floor(a) + 1, side - 1) for a, side in zip(at, heat.shape, strict=True)),
        )
        p, q = at[0] - r0, at[1] - c0
        out[r, c] = (1 - p) * ((1 - q) * heat[r0, c0] + q * heat[r0, c1]) + p * (
            (1 - q) * heat[r1, c0] + q * heat[r1, c1]
        )
    return out


def test_masks_equal_their_slow_twins(heats: Tensor) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    size = (11, 10)
    masks = {
        rule: cam.importance_mask(heats, rule, size).numpy() for rule in (*PER_IMAGE, "shuffled")
    }
    for i, raw in enumerate(heats.numpy()):
        heat = slow_heat(raw, *size)
        z = (heat - heat.mean()) / heat.std()
        assert np.array_equal(masks["z>1"][i, 0], z > 1)
        assert np.array_equal(masks["z>0"][i, 0], z > 0)
        assert np.array_equal(masks["z>-0.5"][i, 0], z > -0.5)
        assert np.array_equal(masks["heat>0.5"][i, 0], heat > 0.5)
        assert np.array_equal(masks["heat>.25"][i, 0], heat > 0.25)
        chosen = masks["top20%"][i, 0]
        assert chosen.sum() == 22 and heat[chosen].min() >= heat[~chosen].max() - 1e-12
        assert masks["top7.5%"][i, 0].sum() == 8  # 7.5% of 110 pixels are 8.25.
        assert np.array_equal(masks["z>1"][i, 0], masks["shuffled"][i - 1, 0])
        colour = matplotlib.colormaps["jet"](heat**2)[..., :3]
        assert np.array_equal(
            masks["jet-compat"][i], ((colour - colour.mean()) / colour.std() > 1).transpose(2, 0, 1)
        )


def test_the_jet_table_is_that_of_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    assert np.allclose(
        cam.jet_table().numpy(), matplotlib.colormaps["jet"](range(256))[:, :3], rtol=0, atol=1e-12
    )


def test_jet_compat_shows_the_published_defect() -> None:
    mask = cam.importance_mask(bump(), "jet-compat", (32, 32))[0]
    hottest = (15, 15)
    assert mask.shape == (3, 32, 32) and not mask.all(0).any()
    # jet(1) is a dark red: no colour channel exceeds the threshold.
    assert not mask[:, hottest[0], hottest[1]].any()
    assert len({int(channel.sum()) for channel in mask}) == 3


@pytest.mark.parametrize("rule", PER_IMAGE)
def test_permuting_the_batch_permutes_masks_and_budgets(rule: str, heats: Tensor) -> None:
    order = torch.randperm(len(heats), generator=torch.Generator().manual_seed(1))
    mask = cam.importance_mask(heats, rule, (8, 8))
    permuted = cam.importance_mask(heats[order], rule, (8, 8))
    assert torch.equal(permuted, mask[order])
    assert torch.equal(cam.budget_map(permuted, 0.2, 0.1), cam.budget_map(mask, 0.2, 0.1)[order])


def test_shuffled_gives_an_image_the_mask_of_the_next(heats: Tensor) -> None:
    mask, wrong = cam.importance_mask(heats), cam.importance_mask(heats, "shuffled")
    assert torch.equal(wrong[:-1], mask[1:]) and torch.equal(wrong[-1], mask[0])
    assert not torch.equal(wrong, mask)


@pytest.mark.parametrize("rule", [*PER_IMAGE, "shuffled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_that_says_nothing_marks_every_pixel(rule: str, dtype: torch.dtype) -> None:
    flat = torch.stack(
        [
            torch.zeros(4, 4),
            torch.full((4, 4), -2.0),
            torch.full((4, 4), 0.3),
            torch.full((4, 4), torch.nan),
        ]
    ).to(dtype)
    flat[2, 0, 0] *= 1 + 1e-7  # A rounding error must not count as importance.
    assert cam.importance_mask(flat, rule, (9, 9)).all()


def test_masks_do_not_depend_on_the_scale_of_the_map(heats: Tensor) -> None:
    for rule in PER_IMAGE:
        assert torch.equal(
            cam.importance_mask(heats, rule, (8, 8)),
            cam.importance_mask(1000 * heats, rule, (8, 8)),
        ), rule


def test_a_single_cell_and_unknown_rules_are_refused(heats: Tensor) -> None:
    with pytest.raises(UserError, match="single cell"):
        cam.importance_mask(torch.ones(3, 1, 1), "z>1", (8, 8))
    for rule, said in {
        "oracle": "true object masks",
        "z>": "Did you mean z>1",
        "suffled": "Did you mean shuffled",
        "top120%": "0 to 100",
        "z > 1": "Did you mean z>1",
        "jet": "Known: z>1",
        "": "any number is allowed",
        "heat>nan": "no rule",
    }.items():
        for refuse in (cam.check_rule, lambda text: cam.importance_mask(heats, text)):
            with pytest.raises(UserError, match=said):
                refuse(rule)
    for rule in (*PER_IMAGE, *cam.RULES):
        cam.check_rule(rule)


def test_budgets_are_eps_where_it_matters_and_eps_low_elsewhere(heats: Tensor) -> None:
    mask = cam.importance_mask(heats, "jet-compat", (6, 5))
    budget = cam.budget_map(mask, 8 / 255, 7 / 255)
    assert budget.shape == (9, 3, 6, 5) and budget.dtype == torch.float32
    assert (budget[mask] == torch.tensor(8 / 255)).all() and (
        budget[~mask] == torch.tensor(7 / 255)
    ).all()
    assert torch.equal(cam.budget_map(mask, 8 / 255, 8 / 255), torch.full(mask.shape, 8 / 255))
    for low in (0.2, -0.01):
        with pytest.raises(UserError, match="between 0 and eps"):
            cam.budget_map(mask, 0.1, low)
