"""Tests what every attack and every accuracy count must satisfy for any network in any state, on
randomly built networks.

The expected results come from a reference of twenty lines that attacks the network itself, without
any fast path.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from robustviz import data, inputs
from robustviz.attacks import APGD, CW, FGSM, MIM, PGD, TIM, Attack, Square
from robustviz.attacks.balls import BALLS
from robustviz.attacks.base import LogitObjective, cross_entropy, input_gradient
from robustviz.nets.attackable import attackable
from robustviz.nets.base import Classifier, Normalise
from robustviz.runs import folder
from robustviz.training.evaluate import count_right
from robustviz.types import UserError

SHAPE, CLASSES = (2, 7, 6), 4
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Residual(nn.Module):
    """A network with its own forward, in which one module is used twice and another is called
    directly.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), norm, nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = F.relu(h + self.body(h))
        return self.head((h + self.body[0](h)).mean((2, 3)))


class Flat(nn.Module):
    """A network without convolutions that flattens its input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(math.prod(SHAPE), 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(16, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.view(len(x), -1))


class Doubled(Classifier):
    """A subclass of `Classifier` with another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x).flip(1) + x.mean((1, 2, 3))[:, None]


def maps(norm: nn.Module, drop: bool = False) -> nn.Sequential:
    more = [nn.Dropout2d(0.3)] if drop else []
    return nn.Sequential(
        Normalise(2, [0.4, 0.6], [0.3, 0.2]),
        nn.Conv2d(2, 6, 3),
        norm,
        nn.ReLU(),
        *more,
        nn.Conv2d(6, 6, 2, stride=2),
        nn.ReLU(),
    )


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")  # type: ignore[no-any-return]


BUILD = {
    "three parts": lambda norm: Classifier(maps(norm), nn.Linear(6, CLASSES)),
    "dropout": lambda norm: Classifier(maps(norm, drop=True), nn.Linear(6, CLASSES)),
    "subclass": lambda norm: Doubled(maps(norm), nn.Linear(6, CLASSES)),
    "residual": Residual,
    "flat": lambda norm: Flat(),
    "sequence": lambda norm: nn.Sequential(
        *maps(norm), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)
    ),
    "data parallel": lambda norm: nn.DataParallel(Classifier(maps(norm), nn.Linear(6, CLASSES))),
}
NORMS = {
    "norm": lambda: nn.BatchNorm2d(6),
    "plain norm": lambda: nn.BatchNorm2d(6, affine=False),
    "group": lambda: nn.GroupNorm(2, 6),
    "none": nn.Identity,
}
ATTACKS: tuple[Attack, ...] = (
    FGSM(eps=0.1),
    FGSM(eps=0.1, start="uniform"),
    PGD(eps=0.1, steps=3),
    PGD(eps=0.8, norm="l2", steps=3),
    PGD(eps=0.1, steps=2, restarts=3),
    PGD(eps=0.1, steps=3, targeted=True),
    MIM(eps=0.1, steps=3),
    MIM(eps=0.8, norm="l2", steps=3),
    TIM(eps=0.1, steps=3),
    CW(eps=0.1, steps=3),
    APGD(eps=0.1, steps=5),
    APGD(eps=0.8, norm="l2", steps=5, loss="dlr"),
    Square(eps=0.1, queries=12),
)


@st.composite
def networks(draw: Any) -> nn.Module:
    """Draws a network whose batch norm has running statistics, sometimes with hooks or a
    parametrisation, in train or eval mode.
    """
    torch.manual_seed(draw(st.integers(0, 2**31 - 1)))
    net: nn.Module = BUILD[draw(st.sampled_from(sorted(BUILD)))](
        NORMS[draw(st.sampled_from(sorted(NORMS)))]()
    )
    for _ in range(2):
        net.train()(torch.rand(8, *SHAPE))
    layers = [
        part for part in net.modules() if isinstance(part, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    ]
    if draw(st.booleans()):
        draw(st.sampled_from(layers)).register_forward_hook(lambda module, given, out: out * 1.5)
    if draw(st.booleans()):
        parametrizations.weight_norm(
            draw(st.sampled_from([part for part in layers if not isinstance(part, nn.BatchNorm2d)]))
        )
    net.train(draw(st.booleans()))
    for part in net.modules():
        if draw(st.integers(0, 5)) == 0:
            part.training = not part.training
    for parameter in net.parameters():
        parameter.requires_grad_(draw(st.integers(0, 4)) > 0)
    return net.double() if draw(st.booleans()) else net


@st.composite
def batches(draw: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draws images in [0, 1] in some memory layout, with some pixels exactly 0 or 1, and labels of
    some integer dtype.
    """
    n, rng = draw(st.integers(1, 7)), torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    x = ((torch.rand((n, *SHAPE), generator=rng) - 0.5) * 1.2 + 0.5).clamp(0, 1).to(dtype)
    layout = draw(st.sampled_from(["rows", "channels last", "every second"]))
    x = {
        "rows": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "every second": x.repeat_interleave(2, 0)[::2],
    }[layout]
    y = torch.randint(CLASSES, (n,), generator=rng).to(
        draw(st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.int16]))
    )
    return x, y


def state(net: nn.Module) -> list[Any]:
    tensors = [value.clone() for value in (*net.parameters(), *net.buffers())]
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    return [
        tensors,
        grads,
        [part.training for part in net.modules()],
        [p.requires_grad for p in net.parameters()],
        torch.get_rng_state(),
    ]


def unchanged(before: list[Any], now: list[Any]) -> bool:
    tensors = all(torch.equal(a, b) for a, b in zip(before[0], now[0], strict=True))
    grads = all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(before[1], now[1], strict=True)
    )
    return tensors and grads and before[2:4] == now[2:4] and torch.equal(before[4], now[4])


def size(delta: Tensor, norm: str) -> Tensor:
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)


@pytest.mark.long
@quick
@given(st.data(), networks(), st.sampled_from(ATTACKS))
def test_an_attack_stays_in_ball_and_box_and_touches_nothing(
    draw: st.DataObject, net: nn.Module, attack: Attack
) -> None:
    dtype = next(net.parameters()).dtype
    x, y = draw.draw(batches(dtype))
    copies, before = (x.clone(), y.clone()), state(net)
    with (
        torch.set_grad_enabled(draw.draw(st.booleans())),
        torch.inference_mode(draw.draw(st.booleans())),
    ):
        x_adv = attack(net, x, y)
    assert unchanged(before, state(net)) and torch.equal(x, copies[0]) and torch.equal(y, copies[1])
    assert (
        x_adv.shape == x.shape
        and x_adv.dtype == dtype
        and not x_adv.requires_grad
        and not x_adv.is_inference()
    )
    assert (
        x_adv.min() >= 0
        and x_adv.max() <= 1
        and size(x_adv - x, attack.norm).max() <= (attack.eps or 0) + 1e-6
    )
    assert torch.equal(attack(net, x, y), x_adv)


@pytest.mark.long
@quick
@given(st.data(), networks(), st.sampled_from(ATTACKS))
def test_a_count_does_not_depend_on_how_many_images_are_computed_at_once(
    draw: st.DataObject, net: nn.Module, attack: Attack
) -> None:
    x, y = draw.draw(batches(next(net.parameters()).dtype))
    before = state(net)
    attack = replace(attack, targeted=False) if getattr(attack, "targeted", False) else attack
    with pytest.MonkeyPatch.context() as patch:
        whole = count_right(net, x, y, attack)
        patch.setattr(inputs, "CPU_BYTES", draw.draw(st.sampled_from([1, 20_000, 60_000])))
        in_parts = count_right(net, x, y, attack)
    assert unchanged(before, state(net))
    # Rounding may change the prediction of one image at the decision boundary.
    assert int((whole != in_parts).sum()) <= 1
    assert torch.equal(count_right(net, x, y), count_right(net, x[:], y.long()))


def reference(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int,
    size: float,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Textbook PGD in linf on the network itself, which must be in eval mode."""
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    z = (
        x
        if rng is None
        else (x + (2 * torch.rand(x.shape, generator=rng) - 1) * eps).clamp(low, high)
    )
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
        z = (z.detach() + size * gradient.sign()).clamp(low, high)
    return z


@pytest.mark.long
@quick
@given(st.data(), networks())
def test_gradients_at_equal_points_are_the_networks(draw: st.DataObject, net: nn.Module) -> None:
    net = net.eval()
    x, y = draw.draw(batches(next(net.parameters()).dtype))
    x, y = x.contiguous(), y.long()  # Attacks pass images and labels to a network in this form.
    z = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
    with attackable(net) as fast:
        found = input_gradient(LogitObjective(fast, cross_entropy, y), x)
    near = (found - wanted).abs().flatten(1).amax(1) <= 1e-4 * wanted.abs().max()
    # One image may differ, because a ReLU's input may be 0 up to rounding.
    assert int((~near).sum()) <= 1


@quick
@given(
    st.integers(0, 2**31 - 1), st.sampled_from(["linf", "l2"]), st.floats(-40, 37), st.booleans()
)
def test_a_step_depends_on_the_gradients_direction_and_not_on_its_size(
    seed: int, norm: str, power: float, holes: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, gradient = torch.rand((5, *SHAPE), generator=rng), torch.randn((5, *SHAPE), generator=rng)
    if holes:  # The gradient is exactly 0 at half of the pixels.
        gradient = gradient * (torch.rand(gradient.shape, generator=rng) < 0.5)
    ball = BALLS[norm](x, 0.3 if norm == "linf" else 2.0)
    moved = ball.step(x, gradient * 10.0**power, 0.1) - x
    # Such small floats have few significant bits.
    assert torch.allclose(
        moved, ball.step(x, gradient, 0.1) - x, atol=1e-3 if power < -36 else 1e-6
    )
    assert torch.allclose(
        size(moved, norm), torch.full((5,), 0.1), atol=1e-3 if power < -36 else 1e-6
    )
    if norm == "linf":
        plain = (x + 0.1 * gradient.sign()).clamp((x - 0.3).clamp(min=0), (x + 0.3).clamp(max=1))
        assert torch.equal(ball.advance(x, gradient, 0.1), plain)


def shipped(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    run = next(run for run in folder.all_runs() if run.shipped and run.id.startswith(name))
    split = data.load(run.data_key, "test")
    split = split.take(min(500, len(split)))
    return run.net(), split.x, split.y


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "digits-standard-small-resnet-s0",
        "digits-standard-tiny-vit-s0",
        "digits-part-small-resnet-s0",
    ],
)
def test_robust_counts_are_the_references(name: str) -> None:
    net, x, y = shipped(name)
    net = net.eval()
    attack = PGD(eps=0.15, steps=10, step_size=0.0375)
    wanted = []
    for number, start in enumerate(range(0, len(x), 250)):
        images, labels = x[start : start + 250], y[start : start + 250]
        z = reference(net, images, labels, 0.15, 10, 0.0375, torch.Generator().manual_seed(number))
        wanted.append(net(z).argmax(1) == labels)
    assert abs(int(count_right(net, x, y, attack).sum()) - int(torch.cat(wanted).sum())) <= 2


@pytest.mark.long
def test_a_compiled_network_is_attacked_as_its_original() -> None:
    torch.manual_seed(0)
    net = Classifier(maps(nn.BatchNorm2d(6)), nn.Linear(6, CLASSES)).train()
    net(torch.rand(8, *SHAPE))
    other, x, y = compiled(net), torch.rand(6, *SHAPE), torch.arange(6) % CLASSES
    attack = PGD(eps=0.1, steps=2)
    assert torch.allclose(attack(other, x, y), attack(net, x, y), atol=1e-6)
    assert net.training and all(p.requires_grad for p in net.parameters())


def no_statistics() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )


class Centred(nn.Module):
    """A network that subtracts the mean of the batch from each image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(math.prod(SHAPE), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        return self.head(h - h.mean(0))


@pytest.mark.parametrize("make", [no_statistics, Centred])
def test_a_network_whose_answer_depends_on_the_batch_gets_a_sentence(make: Any) -> None:
    net, x, y = make().eval(), torch.rand(6, *SHAPE), torch.arange(6) % CLASSES
    for work in (
        lambda: count_right(net, x, y),
        lambda: count_right(net, x, y, PGD(eps=0.1)),
        lambda: APGD(eps=0.1)(net, x, y),
    ):
        with pytest.raises(UserError, match="depend on the other images"):
            work()


class Random(nn.Module):
    """A network with random logits. This does not count as a dependence on the other images of the
    batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.rand(len(x), CLASSES) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_a_network_that_answers_at_random_is_counted() -> None:
    x, y = torch.rand(40, *SHAPE), torch.arange(40) % CLASSES
    assert 0 < int(count_right(Random(), x, y, PGD(eps=0.1, steps=2)).sum()) < 40
