"""Tests wrapping any classifier: the same logits, maps of the chosen layer, features that the last
layer reads. The module itself is unchanged, and what cannot be wrapped gives one sentence.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from robustviz import cam, nets, registry, wrap
from robustviz.attacks import PGD, Square
from robustviz.methods import AFA
from robustviz.nets.attackable import attackable
from robustviz.nets.wrapped import Wrapped, with_random_weights
from robustviz.training.evaluate import count_right
from robustviz.types import Batch, UserError
from robustviz.views.attention.maps import class_maps
from robustviz.views.loss.curvature import cross_entropy, gradient, hessian_vector, smoothed
from robustviz.views.misalignment.stages import seen_at, stages_of

PEERS = Path(__file__).resolve().parents[2] / ".venv" / "peers"
SCALE: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


class ByHand(nn.Module):
    """A user's network: activations and pooling are function calls, and one ReLU is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict(
            {"one": nn.Conv2d(3, 8, 3, 2, 1), "two": nn.Conv2d(8, 12, 3, 2, 1)}
        )
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.body.values():
            x = self.act(layer(x))
        return self.out(x.mean((2, 3)))


class Says(nn.Module):
    """A network whose output is computed by `says`."""

    def __init__(self, says: Callable[[Tensor, nn.Module], Any]) -> None:
        super().__init__()
        self.inner, self.says = ByHand(), says

    def forward(self, x: Tensor) -> Any:
        return self.says(self.inner(x), self)


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=4),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=4),
    "vit_tiny": lambda: timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=48, patch_size=8, depth=2
    ),
    "by_hand": ByHand,
}
WHERE = {  # The layer of the maps, the head, and the maps' shape at 48 pixels.
    "resnet18": ("layer3", "fc", (256, 3, 3)),
    "mobilenet_v3_small": ("features.8", "classifier.3", (48, 3, 3)),
    "vit_tiny": ("blocks.1.norm1", "head", (192, 6, 6)),
    "by_hand": ("body.two", "out", (12, 12, 12)),
}

FOUR = [pytest.param(name, marks=[pytest.mark.slow] * (name == "resnet18")) for name in MAKERS]


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MAKERS[name]().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand((6, 3, 48, 48), generator=torch.Generator().manual_seed(1))


def normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(SCALE[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (x - mean) / std


@pytest.mark.parametrize("name", ["vit_tiny", "by_hand"])
def test_the_parts_are_what_the_module_computes_and_it_is_left_alone(name: str, x: Tensor) -> None:
    module, bare = made(name), made(name)
    at, head, shape = WHERE[name]
    net = wrap(module, **SCALE, shape=(3, 48, 48))
    assert (net.maps_at, net.head_at) == (at, head) and net.has_head
    seen: dict[str, Any] = {}
    bare.get_submodule(at).register_forward_hook(lambda m, g, out: seen.update(maps=out.clone()))
    bare.get_submodule(head).register_forward_hook(lambda m, g, out: seen.update(features=g[0]))
    with torch.no_grad():
        logits = bare(normalised(x))
        parts = net.parts(x)
        assert torch.equal(net(x), logits) and torch.equal(parts.logits, logits)
    assert parts.maps.shape[1:] == shape and torch.equal(parts.features, seen["features"])
    tokens = seen["maps"]
    if tokens.ndim == 3:  # The class token comes first.
        tokens = tokens[:, 1:].transpose(1, 2).reshape(parts.maps.shape)
    assert torch.equal(parts.maps, tokens)
    assert torch.allclose(net.head(parts.features), logits, atol=1e-5)
    assert not any(layer._forward_hooks or "forward" in vars(layer) for layer in module.modules())
    assert all(p.requires_grad for p in module.parameters())
    assert module.state_dict().keys() == bare.state_dict().keys()


@pytest.mark.long
@pytest.mark.parametrize("name", FOUR)
def test_maps_are_the_slopes_of_the_bare_module(name: str, x: Tensor) -> None:
    module, (at, _, shape) = made(name), WHERE[name]
    # At 48 pixels the last maps are smaller than 4×4 cells, so an earlier layer is used.
    net = wrap(module, maps=at, **SCALE, shape=(3, 48, 48))
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    found = cam.grad_cam(net, x, y)
    held: list[Tensor] = []

    def hold(layer: nn.Module, given: Any, out: Tensor) -> Tensor:
        held.append(out)
        return out.clone()

    hook = module.get_submodule(at).register_forward_hook(hold)
    module(normalised(x)).gather(1, y[:, None]).sum().backward(inputs=held)
    hook.remove()
    own, slope = held[0].detach(), held[0].grad
    assert slope is not None
    if own.ndim == 3:
        own, slope = (each[:, 1:].transpose(1, 2).reshape(len(x), *shape) for each in (own, slope))
    expected = (slope.mean((2, 3), keepdim=True) * own).sum(1)
    scale = expected.abs().max()  # The gradients of an untrained mobilenet are tiny.
    assert scale > 0 and torch.allclose(found / scale, expected / scale, atol=1e-4)
    for method in ("layer_cam", "hires_cam"):
        assert class_maps(net, x[:2], y[:2], method).shape == (2, *shape[1:])


def test_what_is_found_fits_the_size_of_the_images() -> None:
    module = made("resnet18")
    at = {size: wrap(module, shape=(3, size, size)).maps_at for size in (32, 64)}
    assert at == {32: "layer2", 64: "layer3"}
    assert wrap(module, shape=(3, 32, 32), size=128).maps_at == "layer4"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "maps", "head", "grid"),
    [
        # By default images have 224 pixels.
        (lambda: torchvision.models.resnet18(), "layer4", "fc", None),
        (lambda: torchvision.models.vgg11(), "features", "classifier.6", None),
        (lambda: torchvision.models.densenet121(), "features", "classifier", None),
        (lambda: torchvision.models.efficientnet_b0(), "features", "classifier.1", None),
        (lambda: torchvision.models.convnext_tiny(), "features", "classifier.2", None),
        (lambda: torchvision.models.swin_t(), "permute", "head", None),
        (lambda: timm.create_model("deit_tiny_patch16_224"), "blocks.11.norm1", "head", (14, 14)),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "norm", "head.fc", None),
        (lambda: timm.create_model("convnext_atto"), "stages", "head.fc", None),
        (lambda: timm.create_model("mobilenetv3_small_050"), "blocks", "classifier", None),
        (lambda: timm.create_model("resnetv2_50x1_bit"), "norm", "head.fc", None),
    ],
)
def test_the_usual_families_are_found(make: Any, maps: str, head: str, grid: Any) -> None:
    net = wrap(make().eval())
    assert (net.maps_at, net.head_at, net.grid, net.has_head) == (maps, head, grid, True)
    assert isinstance(net.head, nn.Linear)


@pytest.mark.slow
def test_vit_b_16_is_attacked(x: Tensor) -> None:
    module = torchvision.models.vit_b_16(num_classes=4).eval()
    nn.init.normal_(module.heads.head.weight, 0, 0.05, torch.Generator().manual_seed(0))
    net = wrap(module, size=224, shape=(3, 48, 48))
    y = torch.tensor([1])
    x_adv = PGD(eps=8 / 255, steps=2)(net, x[:1], y)
    with torch.no_grad():
        before, after = (float(F.cross_entropy(net(each), y)) for each in (x[:1], x_adv))
    assert net.grid == (14, 14) and after > before + 0.01
    assert cam.grad_cam(net, x[:1], y).abs().sum() > 0


def test_a_description_makes_the_same_network_again(x: Tensor) -> None:
    module = made("vit_tiny")
    net = wrap(module, **SCALE, size=48, shape=(3, 32, 32))
    said = json.loads(json.dumps(net.description()))
    again = wrap(module, **said)
    with torch.no_grad():
        for one, two in zip(net.parts(x), again.parts(x), strict=True):
            assert torch.equal(one, two)
    assert again.description() == said and again.grid == (6, 6) and again.has_head


def test_images_are_resized_inside_and_attacked_at_their_own_size(x: Tensor) -> None:
    module, small = made("vit_tiny"), x[:, :, :32, :32]
    net = wrap(module, size=48)
    with torch.no_grad():
        larger = F.interpolate(small, (48, 48), mode="bilinear")
        assert torch.allclose(net(small), module(larger), atol=1e-6)
        y = net(small).argmax(1)
    x_adv = PGD(eps=8 / 255, steps=3)(net, small, y)
    assert x_adv.shape == small.shape and (x_adv - small).abs().max() <= 8 / 255 + 1e-6
    assert cam.grad_cam(net, small, y).shape == (6, 6, 6)


@pytest.mark.long
@pytest.mark.parametrize("name", FOUR)
def test_attacks_find_on_the_wrapped_what_they_find_on_the_bare_module(
    name: str, x: Tensor
) -> None:
    module = made(name)
    net = wrap(module, shape=(3, 48, 48))
    with torch.no_grad():
        y = module(x).argmax(1)
    for attack in (PGD(eps=4 / 255, steps=3, start="zero"), Square(eps=8 / 255, queries=5)):
        on_ours, on_theirs = (
            attack(each, x, y, rng=torch.Generator().manual_seed(0)) for each in (net, module)
        )
        assert torch.allclose(on_ours, on_theirs, atol=1e-4)
    # A copy with fused layers gives its maps and features too.
    with attackable(net) as fast, torch.no_grad():
        for one, two in zip(fast.parts(x), net.parts(x), strict=True):
            assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "eps"),
    [
        pytest.param("resnet18", 1 / 255, marks=pytest.mark.slow),
        pytest.param("vit_tiny", 3 / 255, marks=pytest.mark.slow),
        ("by_hand", 2 / 255),
    ],
)
def test_accuracy_under_pgd_is_torchattacks_own(name: str, eps: float, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(PEERS))
    torchattacks = pytest.importorskip("torchattacks")
    module = made(name)
    net = wrap(module, shape=(3, 48, 48))
    x = torch.rand((40, 3, 48, 48), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = module(x).argmax(1)
    theirs = torchattacks.PGD(module, eps=eps, alpha=eps / 4, steps=10, random_start=False)(x, y)
    with torch.no_grad():
        right = module(theirs).argmax(1) == y
    ours = count_right(net, x, y, PGD(eps=eps, steps=10, step_size=eps / 4, start="zero"))
    assert torch.equal(ours, right) and 0 < right.sum() < len(x)


def test_threads_look_at_one_network_at_once(x: Tensor) -> None:
    net = wrap(made("by_hand"), shape=(3, 48, 48)).requires_grad_(False)
    alone = [net.parts(part) for part in x.split(1)]
    found: list[list[nets.Parts]] = [[] for _ in alone]

    def look(at: int) -> None:
        for _ in range(20):
            found[at].append(net.parts(x[at : at + 1]))

    threads = [threading.Thread(target=look, args=(at,)) for at in range(len(alone))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, every in zip(alone, found, strict=True):
        assert len(every) == 20
        assert all(torch.equal(a, b) for each in every for a, b in zip(own, each, strict=True))


def test_features_have_slopes_and_those_of_a_linear_head_are_its_weights(x: Tensor) -> None:
    net = wrap(made("by_hand"), shape=(3, 48, 48))
    _, features, logits = net.parts(x)
    (slope,) = torch.autograd.grad(logits[:, 2].sum(), features)
    assert torch.allclose(slope, net.head.weight[2].expand_as(slope))


def test_a_head_of_a_convolution_is_linear_too(x: Tensor) -> None:
    class ByConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3, 4)
            self.out = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.adaptive_avg_pool2d(self.body(x).relu(), 1)).flatten(1)

    net = wrap(ByConvolution(), shape=(3, 48, 48))
    assert isinstance(net.head, nn.Linear) and net.head.in_features == 8
    _, features, logits = net.parts(x)
    assert torch.allclose(net.head(features), logits, atol=1e-5)


def test_without_a_last_layer_of_its_own_the_features_are_what_comes_last(x: Tensor) -> None:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.centres = nn.Parameter(torch.randn(4, 8))

        def forward(self, x: Tensor) -> Tensor:
            z = F.normalize(self.body(x).flatten(1))
            return z @ F.normalize(self.centres).T

    net = wrap(Cosine(), shape=(3, 48, 48))
    _, features, logits = net.parts(x)
    assert (net.features_at, net.head_at, net.has_head) == ("body", "", False)
    assert features.shape == (6, 8)
    (slope,) = torch.autograd.grad(logits.sum(), features)
    assert slope.shape == (6, 8)
    with pytest.raises(UserError, match="No layer of this network computes the logits"):
        net.head(features)


def test_the_stages_are_the_layers_up_to_the_maps(x: Tensor) -> None:
    net = wrap(made("vit_tiny"), shape=(3, 48, 48))
    assert [*stages_of(net)] == ["1 patch_embed", "2 blocks.0"]
    seen = seen_at(net, x)
    assert [*seen] == ["pixels", "1 patch_embed", "2 blocks.0", "features", "logits"]
    assert not any(layer._forward_hooks for layer in net.modules())
    resnet = wrap(made("resnet18"), maps="layer3", shape=(3, 48, 48))
    assert [*stages_of(resnet)] == ["1 conv1", "2 layer1", "3 layer2", "4 layer3"]
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 8), nn.Linear(8, 4))
    assert [*wrap(layers, shape=(3, 48, 48)).stages()] == ["0", "1", "2"]


def test_random_weights_are_drawn_alike_and_leave_the_network_alone(x: Tensor) -> None:
    net = wrap(made("vit_tiny"), shape=(3, 48, 48))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    one, two, other = (with_random_weights(net, seed).eval() for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        assert torch.equal(one(x), two(x)) and not torch.equal(one(x), other(x))
        assert not torch.allclose(one(x), net(x))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_copy_s_layers_are_looked_at_in_the_copy(x: Tensor) -> None:
    net = wrap(made("by_hand"), shape=(3, 48, 48))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.module.out.weight.zero_()
        assert not torch.equal(twin.parts(x).logits, net.parts(x).logits)


# What cannot be wrapped.


class Restless(nn.Module):
    """A network whose dropout is active in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ByHand()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.dropout(x, training=True))


class Hidden(ByHand):
    """A network with a layer that its forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize(
    ("make", "settings", "says"),
    [
        (lambda: ByHand, {}, "this is a type"),
        (lambda: torch.jit.ScriptModule(), {}, "TorchScript"),
        (ByHand, {"maps": "layer4"}, "no layer called 'layer4'. Its outermost layers: body, act"),
        (ByHand, {"maps": "body.tow"}, "Did you mean body.two"),
        (ByHand, {"maps": "act"}, "called 2 times"),
        (Hidden, {"maps": "spare"}, "never called"),
        (ByHand, {"maps": "out"}, "gives (2, 4) of float32 instead of feature maps"),
        (Restless, {}, "also in eval mode"),
        (lambda: Says(lambda z, _: (z, z)), {}, "a tuple of 2: say where they are with logits="),
        (lambda: Says(lambda z, _: {"out": z}), {}, "a dict with out: say where"),
        (
            lambda: Says(lambda z, _: {"out": z}),
            {"logits": "logits"},
            "names nothing in the output of this network, a dict",
        ),
        (lambda: Says(lambda z, _: z.softmax(1)), {}, "probabilities, not logits"),
        (lambda: Says(lambda z, _: z[:, :1]), {}, "at least 2 logits"),
        (lambda: Says(lambda z, _: z.argmax(1)), {}, "returns (2,) of torch.int64"),
        (ByHand, {"mean": (0.5, 0.5)}, "channels"),
        (ByHand, {"std": (0.5, 0.0, 0.1)}, "numbers must be above 0"),
        (ByHand, {"size": 0}, "not a number of pixels"),
        (ByHand, {"grid": (3,)}, "not a grid of tokens"),
        (ByHand, {"shape": (1, 48, 48)}, "fails on images of shape (2, 1, 48, 48)"),
        (
            lambda: MAKERS["vit_tiny"](),
            {"shape": (3, 40, 40)},
            "If the network needs its images resized, give the size with size=…",
        ),
        (lambda: MAKERS["vit_tiny"](), {"maps": "blocks.1.norm1", "grid": (9, 9)}, "fill the grid"),
    ],
)
def test_what_cannot_be_wrapped_is_one_clear_sentence(make, settings, says) -> None:
    with pytest.raises(UserError) as error:
        wrap(make(), **{"shape": (3, 48, 48), **settings})
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("says", "logits"),
    [
        (lambda z, _: (None, z), 1),
        (lambda z, _: {"out": z}, "out"),
        (lambda z, _: type("Answer", (), {"scores": z}), "scores"),
        (lambda z, _: {"out": [z]}, lambda out: out["out"][0]),
    ],
)
def test_logits_are_taken_where_they_are(says, logits, x: Tensor) -> None:
    module = Says(says).eval()
    net = wrap(module, logits=logits, shape=(3, 48, 48))
    assert torch.equal(net(x), module.inner(x)) and net.has_head
    if callable(logits):
        with pytest.raises(UserError, match="cannot be saved"):
            net.description()


def test_a_network_without_maps_is_attacked_and_says_that_it_has_none(x: Tensor) -> None:
    net = wrap(
        nn.Sequential(nn.Flatten(), nn.Linear(48 * 48 * 3, 8), nn.ReLU(), nn.Linear(8, 4)),
        shape=(3, 48, 48),
    )
    assert net.maps_at == "" and net.parts(x).maps.shape == (6, 0, 1, 1)
    with torch.no_grad():
        y = net(x).argmax(1)
    assert not count_right(net, x, y, PGD(eps=0.2, steps=5)).all()
    with pytest.raises(UserError, match="No layer with feature maps was found"):
        cam.grad_cam(net, x, y)


def test_a_method_that_trains_the_parts_says_that_it_cannot(x: Tensor) -> None:
    net: Wrapped = wrap(made("by_hand"), shape=(3, 48, 48))
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    with pytest.raises(UserError, match="AFA, AALP and SupCon train these parts"):
        AFA().loss(net, Batch(x, y, torch.arange(6), 0, 0.0, torch.Generator()), None)


class Fused(nn.Module):
    """A network that calls torch's fused attention directly."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x).flatten(2).transpose(1, 2)[:, None].contiguous()
        return self.out(F.scaled_dot_product_attention(z, z, z)[:, 0].mean(1))


@pytest.mark.parametrize(
    "make",
    [
        MAKERS["vit_tiny"],
        lambda: torchvision.models.VisionTransformer(48, 16, 1, 2, 8, 16, num_classes=4),
    ],
)
def test_the_curvature_of_a_transformer_is_known(make: Any, x: Tensor) -> None:
    module = make().eval()
    for weight in module.parameters():
        nn.init.normal_(weight, 0, 0.2, torch.Generator().manual_seed(0))
    net, y = wrap(module, shape=(3, 48, 48)), torch.tensor([1, 2])
    exact = smoothed(net, 10.0).double()
    loss, v = cross_entropy(exact, y), torch.randn(2, 3, 48, 48, dtype=torch.float64)
    found = hessian_vector(loss, x[:2].double(), v)
    step = 1e-4
    ahead, behind = (gradient(loss, x[:2].double() + sign * step * v) for sign in (1, -1))
    assert torch.allclose(found, (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-7)
    assert torch.allclose(exact(x[:2].double()).float(), net(x[:2]), atol=1e-4)


def test_a_network_without_second_derivatives_says_so(x: Tensor) -> None:
    net = smoothed(wrap(Fused(), shape=(3, 48, 48)), 10.0)
    with pytest.raises(UserError, match=r"no second derivative of aten::.*curvature cannot"):
        hessian_vector(cross_entropy(net, torch.tensor([1])), x[:1], torch.ones(1, 3, 48, 48))


@pytest.mark.long
def test_what_the_page_about_it_says_runs_as_it_stands() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "wrap.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"x": torch.rand(1, 3, 64, 64), "y": torch.tensor([1])}
    exec(code, names)
    said = names["net"].description()
    assert f'"maps": "{said["maps"]}", "features": "", "head": "{said["head"]}"' in page


@pytest.mark.parametrize("method", ["pgd_at", "trades", "part", "mart"])
def test_the_losses_of_other_methods_take_a_wrapped_network(method: str, x: Tensor) -> None:
    net = wrap(made("by_hand"), shape=(3, 48, 48)).train()
    batch = Batch(x, torch.tensor([0, 1, 2, 3, 0, 1]), torch.arange(6), 0, 0.5, torch.Generator())
    terms = registry.get("method", method)().bound(8 / 255).loss(net, batch, None)
    torch.stack([*terms.values()]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.training
