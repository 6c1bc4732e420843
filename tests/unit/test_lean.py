"""The copy that attacks climb: the same function as the network in eval mode, its gradient, and what it must not touch."""

from __future__ import annotations

import copy
import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import data, nets, runs
from robustviz.attacks import PGD
from robustviz.evaluate import count_right
from robustviz.nets import lean as room
from robustviz.nets.base import ImageNet, frozen
from robustviz.nets.lean import lean

CONVOLUTIONAL = ["small_cnn", "small_resnet", "resnet18", "preact_resnet18", "vgg11_bn"]


def made(key: str, channels: int = 3, size: int = 32, seed: int = 0) -> tuple[ImageNet, Tensor, Tensor]:
    """A network whose batch norm has seen something, images and labels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nets.build(key, 5, channels, size, [0.4] * channels, [0.3] * channels)
        x, y = torch.rand(6, channels, size, size), torch.randint(5, (6,))
        net.train()
        for _ in range(3):
            net(torch.rand(8, channels, size, size))
    return net.eval(), x, y


def gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)[0]


@pytest.mark.parametrize(
    ("key", "channels", "size"),
    [*((key, 3, 32) for key in CONVOLUTIONAL), *((key, *shape) for key in CONVOLUTIONAL[:2] for shape in ((1, 28), (1, 8), (3, 33)))],
)
def test_logits_features_and_gradients_are_those_of_the_network(key: str, channels: int, size: int) -> None:
    net, x, y = made(key, channels, size)
    with frozen(net):
        logits, features, wanted = net(x), net.pool(net.maps(x)), gradient(net, x, y)
    with lean(net, x) as fast:
        assert fast is not net and isinstance(fast, ImageNet)
        assert torch.allclose(fast(x), logits, atol=1e-5, rtol=1e-4)
        assert torch.allclose(fast.pool(fast.maps(x)), features, atol=1e-5, rtol=1e-4)
        found = gradient(fast, x, y)
    assert found.shape == x.shape and found.dtype == torch.float32
    # A ReLU whose input is 0 but for rounding may fall to the other side: few images, little of the gradient.
    assert (F.cosine_similarity(found.flatten(1), wanted.flatten(1)) > 0.995).all()
    assert ((found - wanted).abs().flatten(1).amax(1) < 1e-5 * wanted.abs().max()).sum() >= 3


@pytest.mark.parametrize("key", CONVOLUTIONAL)
def test_bf16_points_the_same_way(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "has_bf16", lambda device: True)
    monkeypatch.setattr(room, "ENOUGH", 1)
    net, x, y = made(key)
    with frozen(net):
        logits, wanted = net(x), gradient(net, x, y)
    with lean(net, x, bf16=True) as fast:
        found, roughly = gradient(fast, x, y), fast(x)
    assert roughly.dtype == torch.float32 and 0 < (roughly - logits).abs().max() < 0.05 * logits.abs().max() + 0.01
    assert (F.cosine_similarity(found.flatten(1), wanted.flatten(1)) > 0.9).all()


def test_small_batches_and_processors_without_bf16_stay_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, _ = made("small_resnet")
    with frozen(net):
        logits = net(x)
    for enough, has in ((10**9, True), (1, False)):
        monkeypatch.setattr(room, "ENOUGH", enough)
        monkeypatch.setattr(room, "has_bf16", lambda device, has=has: has)
        with lean(net, x, bf16=True) as fast:
            assert torch.allclose(fast(x), logits, atol=1e-5)


def test_it_follows_every_change_of_the_weights() -> None:
    net, x, _ = made("small_resnet")
    other, _, _ = made("small_resnet", seed=1)
    with lean(net, x) as fast:
        before = fast(x)
    with torch.no_grad():
        net.maps[1].weight.data.mul_(1.5)  # type: ignore[index, union-attr]  # past the version counter
    net.maps[2].running_var.mul_(0.5)  # type: ignore[index, union-attr, operator]
    with frozen(net), lean(net, x) as fast:
        assert torch.allclose(fast(x), net(x), atol=1e-5) and not torch.allclose(fast(x), before, atol=1e-3)
    net.load_state_dict(other.state_dict())
    with lean(net, x) as fast, frozen(other):
        assert torch.allclose(fast(x), other(x), atol=1e-5)


def test_the_network_keeps_its_bits_its_modes_and_its_gradients() -> None:
    net, x, y = made("small_resnet")
    net.train()
    net.maps[2].eval()  # type: ignore[index]
    state, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    asking = [parameter.requires_grad for parameter in net.parameters()]
    with lean(net, x, bf16=True) as fast:
        gradient(fast, x, y)
        assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items()) and len(state) == len(net.state_dict())
    assert modes == [module.training for module in net.modules()] and asking == [p.requires_grad for p in net.parameters()]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_network_that_cannot_be_followed_or_is_to_be_in_train_mode_stands_in_for_itself() -> None:
    vit, x, _ = made("tiny_vit")
    with lean(vit, x) as fast:
        assert fast is vit and not vit.training
    net, x, _ = made("small_resnet")
    with lean(net, x, "train") as fast:
        assert fast is net and net.training
    with lean(net.double(), x.double()) as fast:
        assert fast is net
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    with lean(plain, x) as fast:
        assert fast is plain


def test_copies_are_forgotten_with_their_network() -> None:
    net, x, _ = made("small_resnet")
    with lean(net, x):
        pass
    kept = len(room._copies)
    del net
    gc.collect()
    assert len(room._copies) == kept - 1


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), (3, 0), (5, 2)])
@pytest.mark.parametrize("size", [8, 9])
def test_a_first_convolutions_gradient_by_blocks_is_autograds(stride: int, kernel: int, padding: int, size: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Conv2d(2, 4, kernel, stride, padding), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1, 2, bias=False), nn.ReLU()]
        net = ImageNet(nn.Sequential(nets.base.Normalise(2, [0.1, 0.7], [0.2, 0.4]), *body), nn.Linear(3, 4)).eval()
        x, y = torch.rand(5, 2, size, size), torch.randint(4, (5,))
    with frozen(net):
        wanted = gradient(net, x, y)
    with lean(net, x) as fast:
        assert fast is not net and (gradient(fast, x, y) - wanted).abs().max() < 1e-5 * wanted.abs().max()


class Written(nn.Module):
    """Maps whose forward is `program(layers, normalised images)`."""

    def __init__(self, program, **layers: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.program, self.normalise, self.layers = program, nets.base.Normalise(3, [0.4, 0.1, 0.7], [0.3, 0.2, 0.5]), nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.program(self.layers, self.normalise(x))
        return made


def conv(inside: int = 8, kernel: int = 3, stride: int = 1, padding: int = 1, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inside, 8, kernel, stride, padding, **more)  # type: ignore[arg-type]


def over(value: Tensor, other: Tensor) -> Tensor:
    value += other
    return value


STEM = {"a": conv(3), "relu": nn.ReLU()}
PROGRAMS = {  # name: (layers, program, whether it can be followed)
    "three branches": ({"b": conv(), "c": conv(kernel=1, padding=0), "n": nn.BatchNorm2d(8)}, lambda m, h: m.relu(m.n(m.b(h)) + m.c(h) + h), True),
    "three branches that skip": (
        {"b": conv(kernel=1, stride=2, padding=0), "c": conv(stride=2), "d": conv(kernel=1, stride=2, padding=0)},
        lambda m, h: m.relu(m.b(h) + m.c(h) + m.d(h)), True,
    ),
    "a value before and after its ReLU": ({"b": conv()}, lambda m, h: m.b(m.relu(h)) + h, True),
    "a ReLU of one value twice": ({"b": conv(), "c": conv()}, lambda m, h: m.b(m.relu(h)) + m.c(m.relu(h)), True),
    "a ReLU in place": ({"b": conv(), "r": nn.ReLU(inplace=True), "n": nn.BatchNorm2d(8)}, lambda m, h: m.r(m.n(m.b(h))), True),
    "a ReLU in place of a value that is read again": ({"b": conv(), "r": nn.ReLU(inplace=True)}, lambda m, h: m.b(m.r(h)) + h, False),
    "identity as shortcut": ({"b": conv(), "i": nn.Identity()}, lambda m, h: m.relu(m.b(h) + m.i(h)), True),
    "a value and its identity": ({"b": conv(), "i": nn.Identity()}, lambda m, h: m.b(h + m.i(h)), True),
    "a value twice": ({}, lambda m, h: h + h, False),
    "identity at the end": ({"i": nn.Identity()}, lambda m, h: m.i(m.relu(h)), True),
    "batch norm twice": ({"n": nn.BatchNorm2d(8), "o": nn.BatchNorm2d(8, affine=False)}, lambda m, h: m.relu(m.o(m.n(h))), True),
    "batch norm before a convolution": ({"n": nn.BatchNorm2d(8), "b": conv()}, lambda m, h: m.b(m.relu(m.n(m.relu(h)))), True),
    "batch norm without statistics": ({"n": nn.BatchNorm2d(8, track_running_stats=False)}, lambda m, h: m.relu(m.n(h)), False),
    "dilation": ({"b": conv(stride=2, padding=2, dilation=2)}, lambda m, h: m.b(m.relu(h)), True),
    "groups": ({"b": conv(groups=4), "c": conv(stride=2, groups=8)}, lambda m, h: m.c(m.relu(m.b(m.relu(h)))), True),
    "more padding than a kernel has": ({"b": conv(kernel=1, padding=2), "c": conv(kernel=1, stride=2)}, lambda m, h: m.c(m.b(h)), True),
    "a stride of three": ({"b": conv(stride=3), "c": conv(kernel=1, stride=3, padding=0)}, lambda m, h: m.c(m.relu(m.b(h))), True),
    "dropout, read twice": ({"d": nn.Dropout(0.5), "b": conv()}, lambda m, h: m.b(m.d(h)) + m.d(h), True),
    "pools": ({"p": nn.MaxPool2d(2), "q": nn.AvgPool2d(3, 2, 1), "g": nn.GELU()}, lambda m, h: m.q(m.g(m.p(h))), True),
    "one convolution twice": ({"b": conv()}, lambda m, h: m.b(m.relu(m.b(h))), True),
    "a branch that leads nowhere": ({"b": conv(kernel=1, stride=2, padding=0), "c": conv()}, lambda m, h: (m.b(h), m.c(h))[1], True),
    "a value written over while another reads it": ({"b": conv(), "c": conv()}, lambda m, h: (lambda v: m.c(over(v, h)) + v)(m.b(h)), False),
    "sums that broadcast": ({"p": nn.AdaptiveAvgPool2d(1), "b": conv(kernel=1, padding=0)}, lambda m, h: m.b(m.p(m.relu(h))) + m.relu(h), False),
    "a pool and what it pools": ({"p": nn.AdaptiveAvgPool2d(1)}, lambda m, h: m.p(m.relu(h)) + m.relu(h), False),
    "another padding": ({"b": nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")}, lambda m, h: m.b(h), False),
}  # fmt: skip


class Names:
    """The layers by name, as attributes."""

    def __init__(self, layers: nn.ModuleDict) -> None:
        self.layers = layers

    def __getattr__(self, name: str) -> nn.Module:
        return self.layers[name]


def written(name: str) -> ImageNet:
    layers, program, _ = copy.deepcopy(PROGRAMS[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        maps = Written(lambda m, x: program(Names(m), m["a"](x)), **copy.deepcopy(STEM), **layers)
        for layer in maps.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
            elif isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
        return ImageNet(maps, nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("layout", ["rows", "channels last", "neither"])
def test_every_way_to_write_a_network_is_followed_or_refused(name: str, layout: str) -> None:
    net = written(name)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x, y = torch.rand(5, 3, 11, 12), torch.randint(4, (5,))
    x = {"rows": x, "channels last": x.contiguous(memory_format=torch.channels_last), "neither": x.transpose(2, 3)}[layout]
    with frozen(net):
        logits, wanted = net(x), gradient(net, x, y)
    with lean(net, x) as fast:
        assert (fast is not net) == PROGRAMS[name][2]
        found = gradient(fast, x, y)
        assert torch.allclose(fast(x), logits, atol=1e-5) and fast(x[:0]).shape == (0, 4)
    assert ((found - wanted).abs().flatten(1).amax(1) < 1e-5 * wanted.abs().max()).sum() >= 4


def test_maps_may_be_flat() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nets.base.Normalise(3, None, None), conv(3), nn.ReLU(), nn.Flatten())
        net, x, y = ImageNet(body, nn.Linear(8 * 36, 4), nn.Identity()).eval(), torch.rand(5, 3, 6, 6), torch.randint(4, (5,))
    with frozen(net):
        wanted = gradient(net, x, y)
    with lean(net, x) as fast:
        assert fast is not net and torch.allclose(gradient(fast, x, y), wanted, atol=1e-6)


@pytest.mark.parametrize("key", ["small_resnet", "vgg11_bn"])
def test_one_forward_can_go_back_twice_and_two_forwards_do_not_meet(key: str) -> None:
    net, x, y = made(key)
    with frozen(net):
        wanted = gradient(net, x, y)
    with lean(net, x) as fast:
        z = x.clone().requires_grad_()
        loss, other = F.cross_entropy(fast(z), y, reduction="sum"), fast(z.flip(3)).sum()
        found = [torch.autograd.grad(loss, z, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*found) and torch.isfinite(torch.autograd.grad(other, z)[0]).all()
    assert F.cosine_similarity(found[0].flatten(1), wanted.flatten(1)).min() > 0.995


def test_copies_and_other_precisions_of_a_network_that_has_a_copy() -> None:
    net, x, y = made("small_resnet")
    with lean(net, x):
        pass
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.maps[1].weight.mul_(1.5)  # type: ignore[index, union-attr, operator]
        net.double().head.weight.mul_(-2)  # type: ignore[operator]
    net.float()
    for one in (net, twin):
        with frozen(one):
            wanted = gradient(one, x, y)
        with lean(one, x) as fast:
            assert fast is not one
            assert F.cosine_similarity(gradient(fast, x, y).flatten(1), wanted.flatten(1)).min() > 0.995


def test_threads_may_climb_one_network_with_images_of_several_sizes() -> None:
    net, _, y = made("small_cnn")
    images = {size: torch.rand(2, 3, size, size).contiguous(memory_format=torch.channels_last) for size in (16, 24)}
    with frozen(net):
        wanted = {size: gradient(net, x, y[:2]) for size, x in images.items()}

    def climb(size: int) -> float:
        worst = 1.0
        for _ in range(20):
            with lean(net, images[size]) as fast:
                found = gradient(fast, images[size], y[:2])
            worst = min(worst, float(F.cosine_similarity(found.flatten(1), wanted[size].flatten(1)).min()))
        return worst

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet
    try:
        with ThreadPoolExecutor(4) as pool:
            assert min(pool.map(climb, [16, 24, 16, 24])) > 0.995
    finally:
        sys.setswitchinterval(interval)


class Slow(PGD):
    """PGD-12 as counted, one image at a time in fp32 on the network itself: looks after 5, 10 and 12 steps."""

    def __call__(self, net, x, y, rng=None):  # type: ignore[no-untyped-def]
        assert rng is not None and self.eps is not None
        low, high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)
        start = x + (2 * torch.rand(x.shape, generator=rng) - 1) * self.eps
        found = []
        for one, z, label, least, most in zip(x, start.clamp(0, 1), y, low, high, strict=True):
            assert one.shape == z.shape
            for step in range(1, 13):
                z = (z + self.step_size * gradient(net, z[None], label[None])[0].sign()).clamp(least, most)
                if step in (5, 10) and net(z[None]).argmax() != label:
                    break
            found.append(z)
        return torch.stack(found)

    walks = False


def test_a_count_leaves_images_where_they_are_first_found_to_be_misread() -> None:
    net = next(run for run in runs.all_runs() if run.shipped and run.id.startswith("digits-standard-small-resnet-s0")).net()
    split = data.load("digits", "test").take(40)
    x, y = split.x, split.y
    attack, slow = (kind(eps=0.08, steps=12, step_size=0.02) for kind in (PGD, Slow))
    rngs = [torch.Generator().manual_seed(3) for _ in range(2)]
    with frozen(net):
        wanted = slow(net, x, y, rngs[0])
    found = attack.search(net, x, y, rngs[1])
    apart = (found - wanted).abs().flatten(1).amax(1)
    assert (apart < 1e-6).float().mean() > 0.9  # where a gradient is nearly 0 its sign is a matter of rounding
    right = [count_right(net, x, y, one, seed=2) for one in (attack, slow)]
    assert 5 < int(right[0].sum()) < 35 and int((right[0] != right[1]).sum()) <= 1
