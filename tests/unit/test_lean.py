"""The copy that attacks climb: the same function as the network in eval mode, its gradient, and what it must not touch."""

from __future__ import annotations

import copy
import gc

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
