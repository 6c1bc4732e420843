"""Tests the copy of a network that attacks use: it always computes what the network computes now,
for any network, and the network's modes, weights and gradients stay unchanged.
"""

from __future__ import annotations

import copy
import gc
import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune, weight_norm

from robustviz import cam, data, nets
from robustviz.attacks import PGD
from robustviz.nets import attackable as room
from robustviz.nets.attackable import attackable, copied, keep
from robustviz.nets.base import Classifier, Normalise, frozen
from robustviz.runs import folder
from robustviz.training.evaluate import count_right

CONVOLUTIONAL = ["small_cnn", "small_resnet", "resnet18", "preact_resnet18", "vgg11_bn"]
# Of the large networks one is tested each time, the others in the slow suite.
ONE_LARGE = [
    pytest.param(key, marks=[pytest.mark.slow] * (key in CONVOLUTIONAL[3:]))
    for key in CONVOLUTIONAL
]


def made(
    key: str = "small_resnet", channels: int = 3, size: int = 32, seed: int = 0
) -> tuple[Classifier, Tensor, Tensor]:
    """Returns a network whose batch norm has running statistics, images and labels."""
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


def same(fast: nn.Module, net: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Returns whether two networks give the same logits and the same gradients. One image's
    gradient may differ, because a ReLU's input may be 0 up to rounding.
    """
    logits, wanted, found = net(x), gradient(net, x, y), gradient(fast, x, y)
    near = (found - wanted).abs().flatten(1).amax(1) < 1e-4 * wanted.abs().max()
    return torch.allclose(fast(x), logits, atol=1e-4, rtol=1e-4) and int(near.sum()) >= len(x) - 1


# The copy computes the same function, whatever has just been done to the network.


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "channels", "size"),
    [
        *((key, 3, 32) for key in [*CONVOLUTIONAL[:3], "tiny_vit"]),
        *(pytest.param(key, 3, 32, marks=pytest.mark.slow) for key in CONVOLUTIONAL[3:]),
        *((key, *shape) for key in CONVOLUTIONAL[:2] for shape in ((1, 28), (3, 33))),
    ],
)
def test_the_copy_computes_what_the_network_computes(key: str, channels: int, size: int) -> None:
    net, x, y = made(key, channels, size)
    with attackable(net) as fast:
        assert fast is not net and type(fast) is type(net)
        assert torch.allclose(fast(x), net(x), atol=1e-4, rtol=1e-4) and torch.allclose(
            fast.maps(x), net.maps(x), atol=1e-4, rtol=1e-4
        )
    with attackable(net, fused=False) as plain:
        assert torch.equal(plain(x), net(x)) and torch.equal(
            gradient(plain, x, y), gradient(net, x, y)
        )
    # In float64 rounding does not move a ReLU's input to the other side of 0.
    net, x = net.double(), x.double()
    with attackable(net) as fast:
        assert torch.allclose(gradient(fast, x, y), gradient(net, x, y), rtol=1e-8, atol=1e-12)


def fresh_head(net: Classifier) -> None:
    net.head = nn.Linear(64, 5)


def softplus(net: Classifier) -> None:
    net.maps[3] = nn.Softplus()  # type: ignore[index]


def max_pool(net: Classifier) -> None:
    net.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())


def stride(net: Classifier) -> None:
    net.maps[1].stride = (1, 1)  # type: ignore[index, union-attr]


def padding(net: Classifier) -> None:
    net.maps[1].padding = (0, 0)  # type: ignore[index, union-attr]


def epsilon(net: Classifier) -> None:
    net.maps[2].eps = 3.0  # type: ignore[index, union-attr]


def hook_on(path: str) -> Callable[[Classifier], None]:
    def change(net: Classifier) -> None:
        net.get_submodule(path).register_forward_hook(lambda module, given, out: out.tanh() * 3)

    change.__name__ = f"hook_on_{path or 'the_network'}"
    return change


def pre_hook(net: Classifier) -> None:
    net.maps[2].register_forward_pre_hook(lambda module, given: (given[0] * 1.5,))


def backward_hook(net: Classifier) -> None:
    net.maps[1].register_full_backward_hook(
        lambda module, into, out: (into[0] * 2 if into[0] is not None else None,)
    )  # type: ignore[index, union-attr]


def another_class(net: Classifier) -> None:
    net.__class__ = type(
        "Louder",
        (type(net),),
        {"forward": lambda self, z: 4 * nets.base.Classifier.forward(self, z).roll(1, 1)},
    )


def another_block(net: Classifier) -> None:
    block = net.maps[5]  # type: ignore[index]
    block.__class__ = type(
        "Shortcut", (type(block),), {"forward": lambda self, x: self.shortcut(x) + self.body[0](x)}
    )


def no_batch_norm_in_a_block(net: Classifier) -> None:
    net.maps[4].body[1] = nn.Identity()  # type: ignore[index, union-attr]


def parametrised(net: Classifier) -> None:
    parametrizations.weight_norm(net.maps[1])  # type: ignore[index]


def spectral(net: Classifier) -> None:
    parametrizations.spectral_norm(net.head)


def reflected(net: Classifier) -> None:
    net.maps[1].padding_mode = "reflect"  # type: ignore[index, union-attr]
    net.maps[1]._reversed_padding_repeated_twice = [1, 1, 1, 1]  # type: ignore[index, union-attr]


CHANGES = [
    fresh_head,
    softplus,
    max_pool,
    stride,
    padding,
    epsilon,
    hook_on(""),
    hook_on("maps"),
    hook_on("maps.4"),
    hook_on("maps.1"),
    hook_on("maps.2"),
    hook_on("pool"),
    hook_on("head"),
    pre_hook,
    backward_hook,
    another_class,
    another_block,
    no_batch_norm_in_a_block,
    parametrised,
    spectral,
    reflected,
]


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kept", [False, True])
def test_a_network_changed_after_an_attack_is_attacked_as_it_is_now(
    change: Callable[[Classifier], None], kept: bool
) -> None:
    net, x, y = made()
    if kept:
        keep(net)
    PGD(eps=0.03, steps=2)(net, x, y)
    before = net(x).detach()
    torch.manual_seed(3)
    change(net)
    net.eval()
    assert not torch.allclose(net(x), before) or change in (parametrised, spectral, backward_hook)
    with attackable(net) as fast:
        assert same(fast, net, x, y)
    leaf = net.maps(x).detach().requires_grad_()
    if type(net).forward is Classifier.forward and not room.has_hooks(net):
        score = net.head(net.pool(leaf)).gather(1, y[:, None]).sum()
        wanted = (torch.autograd.grad(score, leaf)[0].mean((2, 3), keepdim=True) * leaf).sum(1)
        assert torch.allclose(cam.grad_cam(net, x, y), wanted, atol=1e-6)


def test_a_hook_on_every_module_is_seen() -> None:
    net, x, y = made("small_cnn")
    handle = register_module_forward_hook(
        lambda module, given, out: out * 1.1 if isinstance(module, nn.Conv2d) else out
    )
    try:
        with attackable(net) as fast:
            assert same(fast, net, x, y)
    finally:
        handle.remove()
    with attackable(net) as fast:
        assert same(fast, net, x, y)


class OwnForward(nn.Module):
    """A network that calls its parts in another order than a container would."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        # The convolution alone, then convolution and batch norm.
        h = self.body[0](x) + self.body[1](self.body[0](x))
        h = h + self.body[:3](x) + self.body(x)
        return self.head(h.mean((2, 3)))


def test_a_forward_that_calls_parts_of_a_container_by_themselves_is_right() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.BatchNorm2d(8),
    )
    net = OwnForward(body).train()
    for _ in range(3):
        net(torch.rand(8, 3, 9, 7))
    net.eval()
    x, y = torch.rand(5, 3, 9, 7), torch.randint(4, (5,))
    with attackable(net) as fast:
        assert same(fast, net, x, y)


class Restless(nn.Module):
    """A network that changes its own layers in every forward pass: it overwrites weights, replaces
    them, or replaces a layer.
    """

    def __init__(self, way: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.way = nn.Linear(8, 4), way

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.arange(216.0).view(8, 3, 3, 3).cos() * float(x.detach().mean())
        with torch.no_grad():
            if self.way == "written":
                self.body[0].weight.copy_(weight)
            elif self.way == "placed":
                self.body[0].weight = nn.Parameter(weight, requires_grad=False)
            else:
                self.body[1] = (
                    nn.Identity()
                    if float(x.detach().mean()) < 0.4
                    else nn.BatchNorm2d(8, eps=1.0).eval().requires_grad_(False)
                )
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("way", ["written", "placed", "another layer"])
def test_layers_that_change_during_a_forward_pass_are_followed(way: str) -> None:
    net, x, y = Restless(way).eval(), torch.rand(5, 3, 9, 7), torch.randint(4, (5,))
    with attackable(net) as fast:
        for images in (x, x / 2):
            assert torch.allclose(fast(images), net(images), atol=1e-5)
            assert same(fast, net, images, y)


class Viewing(nn.Module):
    """A network that requires contiguous activations, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 7 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.view(len(x), 3, 9, 7)).view(len(x), -1))


@pytest.mark.parametrize("layout", ["rows", "channels last", "every second", "transposed"])
def test_images_may_lie_in_memory_as_they_like(layout: str) -> None:
    net, x, y = Viewing().eval(), torch.rand(5, 3, 9, 7), torch.randint(4, (5,))
    lying = {
        "rows": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "every second": x.repeat_interleave(2, 3)[..., ::2],
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
    }[layout]
    attack = PGD(eps=0.1, steps=3)
    assert (
        torch.equal(attack(net, lying, y), attack(net, x, y))
        and attack(net, lying, y).is_contiguous()
    )


# Networks that cannot be copied.


def old_weight_norm(net: Classifier) -> None:
    weight_norm(net.head)


def pruned(net: Classifier) -> None:
    prune.l1_unstructured(net.maps[1], "weight", 0.5)  # type: ignore[index]


def a_lock(net: Classifier) -> None:
    net.lock = threading.Lock()  # type: ignore[assignment]


def a_forward_of_its_own(net: Classifier) -> None:
    plain = net.forward
    net.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]


def a_generator(net: Classifier) -> None:
    net.rng = torch.Generator()  # type: ignore[assignment]


def a_part_that_is_its_own_copy(net: Classifier) -> None:
    net.head.__class__ = type("Shared", (nn.Linear,), {"__deepcopy__": lambda self, memo: self})


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        old_weight_norm,
        pruned,
        a_lock,
        a_forward_of_its_own,
        a_generator,
        a_part_that_is_its_own_copy,
    ],
)
def test_a_network_that_cannot_be_copied_is_attacked_itself_and_given_back(
    change: Callable[[Classifier], None],
) -> None:
    net, x, y = made()
    change(net)
    net.train()
    net.maps[2].eval()  # type: ignore[index]
    modes, asks = (
        [part.training for part in net.modules()],
        [p.requires_grad for p in net.parameters()],
    )
    values = {name: value.clone() for name, value in net.state_dict().items()}
    with attackable(net) as ready:
        assert ready is net and not any(part.training for part in net.modules())
    found = PGD(eps=0.03, steps=3)(net, x, y)
    assert [part.training for part in net.modules()] == modes and [
        p.requires_grad for p in net.parameters()
    ] == asks
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
    net.eval()
    twin = type("Wrapped", (nn.Module,), {"forward": lambda self, z: net(z)})()
    assert torch.allclose(found, PGD(eps=0.03, steps=3)(twin, x, y), atol=1e-6)


def test_in_train_mode_it_is_the_network_itself() -> None:
    net, x, _ = made()
    before = net.maps[2].running_mean.clone()  # type: ignore[index, union-attr]
    with attackable(net, "train") as ready:
        assert ready is net and net.training
        ready(x)
    assert not net.training and not torch.equal(net.maps[2].running_mean, before)


# Copies that are kept.


def test_a_kept_copy_takes_up_new_values_in_its_own_memory() -> None:
    net, x, y = made()
    other, _, _ = made(seed=1)
    keep(net)
    with attackable(net) as fast:
        before, where = fast(x), room.addresses(fast)
    with torch.no_grad():
        # This change does not raise the tensor's version counter.
        net.maps[1].weight.data.mul_(1.5)
    net.maps[2].running_var.mul_(0.5)  # type: ignore[index, union-attr, operator]
    with attackable(net) as again:
        assert again is fast and room.addresses(fast) == where
        assert same(fast, net, x, y) and not torch.allclose(fast(x), before, atol=1e-3)
    net.load_state_dict(other.state_dict())
    with attackable(net) as fast:
        assert same(fast, other, x, y)


def test_a_kept_copy_of_a_network_that_should_not_change_follows_it_all_the_same() -> None:
    net, x, y = made()
    keep(net)
    with attackable(net) as fast:
        assert same(fast, net, x, y)
    with torch.no_grad():
        net.maps[1].weight.mul_(1.5)  # type: ignore[index, union-attr, operator]
    net.head.weight = nn.Parameter(net.head.weight.detach() * -2)
    with attackable(net) as again:
        assert again is fast and same(fast, net, x, y)


def test_kept_copies_are_forgotten_with_their_network() -> None:
    net, _, _ = made()
    keep(net)
    with attackable(net) as fast:
        pass
    gone = weakref.ref(fast)
    del net, fast
    gc.collect()
    assert gone() is None


def test_nothing_of_the_network_is_touched() -> None:
    net, x, y = made()
    net.train()
    net.maps[2].eval()  # type: ignore[index]
    state, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    for _ in range(2):
        with attackable(net) as fast:
            assert not {id(part) for part in fast.modules()} & {id(part) for part in net.modules()}
            gradient(fast, x, y)
            assert not any(parameter.requires_grad for parameter in fast.parameters())
            assert modes == [module.training for module in net.modules()] and all(
                p.requires_grad for p in net.parameters()
            )
        keep(net)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


# bf16.


@pytest.mark.long
@pytest.mark.parametrize("key", ONE_LARGE)
def test_bf16_points_the_same_way(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "has_bf16", lambda device: True)
    net, x, y = made(key)
    with attackable(net, bf16=True) as fast:
        found, roughly = gradient(fast, x, y), fast(x)
        assert fast.maps(x).dtype == torch.float32
    logits, wanted = net(x), gradient(net, x, y)
    assert (
        roughly.dtype == torch.float32
        and 0 < (roughly - logits).abs().max() < 0.05 * logits.abs().max() + 0.01
    )
    assert (F.cosine_similarity(found.flatten(1), wanted.flatten(1)) > 0.9).all()


def test_bf16_is_for_networks_of_this_package_on_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x, _ = made("small_cnn")
    ours, hooked, vit = net, copy.deepcopy(net), made("tiny_vit")[0]
    hooked.maps.register_forward_hook(lambda module, given, out: out)
    stranger = Classifier(copy.deepcopy(net.maps), copy.deepcopy(net.head))
    for has, one, exact in (
        (False, ours, True),
        (True, ours, False),
        (True, hooked, True),
        (True, stranger, True),
        (True, vit, True),
    ):
        monkeypatch.setattr(room, "has_bf16", lambda device, has=has: has)
        with attackable(one, bf16=True) as fast:
            assert torch.allclose(fast(x), one.eval()(x), atol=1e-5) == exact


# Several threads.


def test_threads_may_attack_one_network_while_others_use_it() -> None:
    net, x, y = made("small_cnn", size=16)
    net.train()
    attack = PGD(eps=0.03, steps=5)
    wanted = attack(net, x, y)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # Switch threads very often, so that they interfere if they can.
    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: attack(net, x, y), range(12)))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.allclose(found, wanted, atol=1e-6) for found in results)
    assert net.training and all(p.requires_grad for p in net.parameters())


def test_a_network_that_cannot_be_copied_is_one_threads_at_a_time() -> None:
    net, x, y = made("small_cnn", size=16)
    a_lock(net)
    attack, inside = PGD(eps=0.03, steps=4), []

    def count(module: nn.Module, given: object, out: Tensor) -> None:
        inside.append(threading.get_ident())

    net.train()
    net.head.register_forward_hook(count)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: attack(net, x, y), range(6)))
    assert all(torch.equal(found, results[0]) for found in results)
    assert net.training and all(p.requires_grad for p in net.parameters())
    turns = [a for a, b in itertools.pairwise(inside) if a != b]
    assert len(turns) <= 5  # All forward passes of one thread's attack follow one another.


# Counting the images that withstand an attack.


class Slow(PGD):
    """A reference for PGD-12 in an evaluation: one image at a time, in fp32, on the network itself,
    which checks the predictions after 5, 10 and 12 steps.
    """

    def __call__(self, net, x, y, rng=None):  # type: ignore[no-untyped-def]
        assert rng is not None and self.eps is not None
        low, high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)
        start = x + (2 * torch.rand(x.shape, generator=rng) - 1) * self.eps
        found = []
        for one, z, label, least, most in zip(x, start.clamp(0, 1), y, low, high, strict=True):
            assert one.shape == z.shape
            for step in range(1, 13):
                z = (z + self.step_size * gradient(net, z[None], label[None])[0].sign()).clamp(
                    least, most
                )
                if step in (5, 10) and net(z[None]).argmax() != label:
                    break
            found.append(z)
        return torch.stack(found)


@pytest.mark.long
def test_a_count_leaves_an_image_where_it_is_first_misread_and_takes_an_attacks_own_call() -> None:
    net = next(
        run
        for run in folder.all_runs()
        if run.shipped and run.id.startswith("digits-standard-small-resnet-s0")
    ).net()
    split = data.load("digits", "test").take(40)
    x, y = split.x, split.y
    attack, slow = (kind(eps=0.08, steps=12, step_size=0.02) for kind in (PGD, Slow))
    rngs = [torch.Generator().manual_seed(3) for _ in range(2)]
    with frozen(net):
        wanted = slow(net, x, y, rngs[0])
    found = attack.search(net, x, y, rngs[1])
    apart = (found - wanted).abs().flatten(1).amax(1)
    assert (
        apart < 1e-6
    ).float().mean() > 0.9  # Where a gradient is almost 0, rounding decides its sign.
    right = [count_right(net, x, y, one, seed=2) for one in (attack, slow)]
    assert 5 < int(right[0].sum()) < 35 and int((right[0] != right[1]).sum()) <= 1


def test_a_copy_is_copied_whole() -> None:
    net, x, _ = made()
    twin = copied(net)
    assert twin is not None and torch.equal(twin(x), net(x)) and isinstance(twin.maps[0], Normalise)
