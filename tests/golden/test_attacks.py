"""Tests each attack against golden numbers, against slow reference implementations written
independently, and against the components of the AutoAttack package.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import data
from robustviz.attacks import APGD, CW, DIM, MIM, PGD, TIM, Attack, AutoAttack, Square
from robustviz.attacks.apgd import checkpoints
from robustviz.attacks.balls import Linf
from robustviz.attacks.dim import between, smallest
from robustviz.attacks.square import side
from robustviz.nets.base import Classifier
from robustviz.registry import encode
from robustviz.runs import folder as runs
from robustviz.runs.naming import unusual
from robustviz.training.evaluate import count_right
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError

if TYPE_CHECKING:
    from conftest import Toy

EPS = {"linf": 0.1, "l2": 1.0}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).double().mean())


class Coarse(nn.Module):
    """The network with rounded logits: nearly the same predictions, but no gradient."""

    def __init__(self, net: nn.Module, steps: float = 20.0) -> None:
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) * self.steps).round() / self.steps


# Momentum, diverse inputs, translation invariance and margin loss: two steps, computed one image at
# a time.

# A function from an image and the step number to the image that the network is shown.
Look = Callable[[Tensor, int], Tensor]


def slow_walk(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int,
    decay: float = 0.0,
    look: Look = lambda z, step: z,
    smooth: Callable[[Tensor], Tensor] = lambda g: g,
) -> Tensor:
    out = []
    for i in range(len(x)):
        z, memory = x[i : i + 1].clone(), torch.zeros_like(x[i : i + 1])
        for step in range(steps):
            z.requires_grad_(True)
            (gradient,) = torch.autograd.grad(-net(look(z, step)).log_softmax(1)[0, y[i]], z)
            gradient = smooth(gradient)
            memory = decay * memory + gradient / gradient.abs().sum()
            z = torch.max(
                torch.min(z.detach() + eps / 4 * memory.sign(), x[i : i + 1] + eps),
                x[i : i + 1] - eps,
            ).clamp(0, 1)
        out.append(z)
    return torch.cat(out)


def test_mim_equals_its_slow_twin_and_without_decay_pgd(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double(), images.double()
    with_memory = MIM(eps=0.1, steps=6)(net, x, labels)
    assert (with_memory - slow_walk(net, x, labels, eps=0.1, steps=6, decay=1.0)).abs().max() < 1e-9
    plain = PGD(eps=0.1, steps=6, start="zero")(net, x, labels)
    assert torch.equal(MIM(eps=0.1, steps=6, decay=0)(net, x, labels), plain)
    assert (with_memory - plain).abs().max() > 1e-3
    assert torch.equal(DIM(eps=0.1, steps=6, diversity=0)(net, x, labels), plain)
    assert torch.equal(TIM(eps=0.1, steps=6, diversity=0, kernel=1)(net, x, labels), plain)


def slow_resize(length: int, target: int) -> Tensor:
    """Returns the (target, length) matrix of linear interpolation between pixel centres."""
    matrix = torch.zeros(target, length, dtype=torch.float64)
    for i in range(target):
        at = min(max((i + 0.5) * length / target - 0.5, 0.0), length - 1.0)
        low = int(at)
        matrix[i, low] += 1 - (at - low)
        matrix[i, min(low + 1, length - 1)] += at - low
    return matrix


def slow_look(seed: int, share: float) -> Look:
    """Returns the input transform of DIM: with probability 0.5 the image is shrunk to a random
    size, from `share` of its height or width up to one pixel less than all of it, and put at a
    random place on black.
    """
    draws = torch.rand(100, generator=seeded(seed)).tolist()

    def look(z: Tensor, step: int) -> Tensor:
        chance, size, down, right = draws[4 * step : 4 * step + 4]
        if chance >= 0.5:
            return z
        frame = torch.zeros_like(z)
        h, w = z.shape[2:]
        new_h = list(range(int(share * h), h))[int(size * (h - int(share * h)))]
        new_w = list(range(int(share * w), w))[int(size * (w - int(share * w)))]
        top, left = int(down * (h - new_h + 1)), int(right * (w - new_w + 1))
        frame[:, :, top : top + new_h, left : left + new_w] = (
            slow_resize(h, new_h) @ z @ slow_resize(w, new_w).T
        )
        return frame

    return look


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dim_equals_its_slow_twin(
    seed: int, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double(), images.double()
    found = DIM(eps=0.1, steps=4, decay=0.5, resize=0.6)(net, x, labels, rng=seeded(seed))
    slow = slow_walk(net, x, labels, eps=0.1, steps=4, decay=0.5, look=slow_look(seed, 0.6))
    assert (found - slow).abs().max() < 1e-9
    assert (found - slow_walk(net, x, labels, eps=0.1, steps=4, decay=0.5)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        (1, {1}),
        (2, {1}),
        (8, {7}),
        (16, {14, 15}),
        (32, {28, 29, 30, 31}),
        (224, set(range(201, 224))),
    ],
)
def test_every_size_of_a_diverse_input_can_come_up(side: int, sizes: set[int]) -> None:
    shares = [i / 1000 for i in range(1000)]
    assert {between(smallest(side, 0.9), side - 1, share) for share in shares} == sizes
    assert {between(0, 3, share) for share in shares} == {0, 1, 2, 3}


def slow_smooth(gradient: Tensor, side: int) -> Tensor:
    reach = side // 2
    weight = {
        (a, b): float(
            torch.tensor(-(a * a + b * b) / (2 * reach**2 / 3), dtype=torch.float64).exp()
        )
        for a in range(-reach, reach + 1)
        for b in range(-reach, reach + 1)
    }
    total, out = sum(weight.values()), torch.zeros_like(gradient)
    for (a, b), w in weight.items():
        for i in range(gradient.shape[2]):
            for j in range(gradient.shape[3]):
                if 0 <= i + a < gradient.shape[2] and 0 <= j + b < gradient.shape[3]:
                    out[:, :, i, j] += w / total * gradient[:, :, i + a, j + b]
    return out


@pytest.mark.long
@pytest.mark.parametrize("kernel", [3, 7])
def test_tim_equals_its_slow_twin(
    kernel: int, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double(), images.double()
    found = TIM(eps=0.1, steps=2, decay=1, diversity=0, kernel=kernel)(net, x, labels)
    slow = slow_walk(
        net,
        x,
        labels,
        eps=0.1,
        steps=2,
        decay=1.0,
        smooth=lambda gradient: slow_smooth(gradient, kernel),
    )
    assert (found - slow).abs().max() < 1e-9


def test_a_kernel_without_a_middle_or_larger_than_the_image_is_refused(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    with pytest.raises(UserError, match="odd"):
        TIM(kernel=4)
    with pytest.raises(UserError, match="does not fit"):
        TIM(eps=0.1, kernel=9)(conv_net, images, labels)


def test_cw_climbs_the_margin_and_not_the_cross_entropy(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double(), images.double()
    for targeted, sign in ((False, 1), (True, -1)):
        z = x.clone()
        for _ in range(3):
            z.requires_grad_(True)
            logits = net(z)
            margins = [
                max(row[j] for j in range(4) if j != y) - row[y]
                for row, y in zip(logits, labels.tolist(), strict=True)
            ]
            (gradient,) = torch.autograd.grad(sum(margins), z)  # type: ignore[arg-type]
            z = torch.max(
                torch.min(z.detach() + 0.025 * sign * gradient.sign(), x + 0.1), x - 0.1
            ).clamp(0, 1)
        found = CW(eps=0.1, steps=3, start="zero", targeted=targeted)(net, x, labels)
        assert (found - z).abs().max() < 1e-9
        assert (
            found - PGD(eps=0.1, steps=3, start="zero", targeted=targeted)(net, x, labels)
        ).abs().max() > 1e-3


# Auto-PGD.


def test_apgd_has_its_golden_checkpoints() -> None:
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(1) == (1,)
    assert all(0 < a < b <= 20 for a, b in zip(checkpoints(20), checkpoints(20)[1:], strict=False))


def slow_apgd(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    eps: float,
    norm: str,
    steps: int,
) -> Tensor:
    """Algorithm 1 of the paper for one image of shape (1, C, H, W), with the paper's variable
    names.
    """

    def project(z: Tensor) -> Tensor:
        if norm == "linf":
            return (x + (z - x).clamp(-eps, eps)).clamp(0, 1)
        return (x + (z - x) * min(1.0, eps / max(float((z - x).norm()), 1e-12))).clamp(0, 1)

    def f(z: Tensor) -> tuple[float, Tensor]:
        z = z.clone().requires_grad_(True)
        value = objective(z)
        (gradient,) = torch.autograd.grad(value, z)
        return float(value.detach()), (
            gradient.sign() if norm == "linf" else gradient / gradient.norm().clamp(min=1e-12)
        )

    eta, alpha, w = 2 * eps, 0.75, [0, *checkpoints(steps)]
    f_max, _ = f(start)
    x_max = xk = xk_before = start
    values, etas, maxima = [f_max], [eta], [f_max]
    j = 1
    for k in range(steps):
        _, up = f(xk)
        z = project(xk + eta * up)
        a = 1.0 if k == 0 else alpha
        xk, xk_before = project(xk + a * (z - xk) + (1 - a) * (xk - xk_before)), xk
        value, _ = f(xk)
        values.append(value)
        if value > f_max:
            x_max, f_max = xk, value
        if j < len(w) and k + 1 == w[j]:
            rose = sum(values[i + 1] > values[i] for i in range(w[j - 1], w[j]))
            condition1 = rose <= 0.75 * (w[j] - w[j - 1])
            condition2 = j > 1 and etas[j - 1] == etas[j - 2] and maxima[j - 1] == f_max
            if condition1 or condition2:
                eta, xk = eta / 2, x_max
            etas.append(eta)
            maxima.append(f_max)
            j += 1
    return x_max


@pytest.mark.long
@pytest.mark.parametrize("norm", EPS)
def test_apgd_equals_the_algorithm_of_the_paper(
    norm: str, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x, eps = conv_net.double(), images.double()[:6], EPS[norm]
    draw = torch.rand if norm == "linf" else torch.randn
    t = draw(x.shape, generator=seeded(3), dtype=x.dtype)
    t = 2 * t - 1 if norm == "linf" else t
    found = APGD(
        norm=norm, eps=eps, steps=60
    ).maximise(  # type: ignore[arg-type]
        lambda z: F.cross_entropy(net(z), labels[:6], reduction="none"), x, rng=seeded(3)
    )
    for i in range(6):
        here, y = x[i : i + 1], labels[i : i + 1]
        length = t[i].abs().max() if norm == "linf" else t[i].norm()
        start = (here + eps * t[i : i + 1] / length).clamp(0, 1)
        slow = slow_apgd(lambda z, y=y: F.cross_entropy(net(z), y), here, start, eps, norm, 60)
        assert (found[i] - slow[0]).abs().max() < 1e-6


@pytest.mark.parametrize(
    "attack",
    [APGD(eps=0.03, steps=30), APGD(eps=0.03, steps=30, loss="dlr"), Square(eps=0.04, queries=60)],
)
def test_the_first_success_is_kept_and_until_then_the_best(attack: Attack, toy: Toy) -> None:
    path = attack.trace(toy.net, toy.x, toy.y)
    with torch.no_grad():
        heights = torch.stack([attack.objective(toy.net, toy.y)(z) for z in path])
        wrong = torch.stack([toy.net(z).argmax(1) != toy.y for z in path])
    assert wrong[-1].any() and not wrong[-1].all() and wrong[-1].sum() > wrong[0].sum()
    for before, after, was_wrong in zip(path, path[1:], wrong, strict=False):
        assert torch.equal(before[was_wrong], after[was_wrong])
    rises = heights.diff(dim=0)
    assert (rises[~wrong[1:]] >= -1e-6).all() and (rises > 0).any()


def test_restarts_and_targets_of_apgd_fool_more_and_no_image_less(toy: Toy) -> None:
    weak = {"eps": 0.04, "steps": 2, "loss": "dlr"}

    def fooled(**more: Any) -> Tensor:
        with torch.no_grad():
            return (
                toy.net(APGD(**(weak | more))(toy.net, toy.x, toy.y, rng=seeded(1))).argmax(1)
                != toy.y
            )

    once, often = fooled(), fooled(restarts=6)
    assert (often | ~once).all() and often.sum() > once.sum()
    one, all_three, more_than_there_are = fooled(targets=1), fooled(targets=3), fooled(targets=9)
    assert (all_three | ~one).all() and all_three.sum() > one.sum()
    assert torch.equal(all_three, more_than_there_are)


def test_apgd_with_targets_walks_to_the_highest_wrong_classes_in_turn(
    conv_net: Classifier, images: Tensor
) -> None:
    """When no image ever counts as fooled, the runs target the wrong classes in descending order of
    their clean logits.
    """
    with torch.no_grad():
        logits = conv_net(images)
        y = logits.argmax(1)
        ranked = logits.argsort(dim=1, descending=True)
    asked: list[Tensor] = []

    class Spied(APGD):
        def _loss(self, logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
            assert target is not None
            if not asked or not torch.equal(asked[-1], target):
                asked.append(target)
            return super()._loss(logits, y, target)

        def _won(self, logits: Tensor, y: Tensor) -> Tensor:
            return torch.zeros(len(y), dtype=torch.bool)

    Spied(eps=0.01, steps=2, loss="dlr", targets=3)(conv_net, images, y)
    assert torch.equal(torch.stack(asked, dim=1), ranked[:, 1:])


def two_class(linear_net: Classifier) -> tuple[Classifier, Tensor, Tensor]:
    return linear_net, torch.full((3, 2, 9, 7), 0.5), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    ("attack", "need"),
    [
        (AutoAttack(eps=0.1), 4),
        (APGD(eps=0.1, loss="dlr"), 3),
        (APGD(eps=0.1, loss="dlr", targets=1), 4),
    ],
)
def test_too_few_classes_are_one_clear_sentence_before_any_work(
    attack: Attack, need: int, linear_net: Classifier
) -> None:
    calls = []
    linear_net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(UserError, match=f"at least {need} classes, but this network has 2"):
        attack(*two_class(linear_net))
    # The network check uses three images, two of them alone, and the attack itself must not start.
    assert len(calls) <= 3
    attack.check(need)
    with pytest.raises(UserError):
        attack.check(need - 1)


def test_cross_entropy_apgd_works_on_two_classes(linear_net: Classifier) -> None:
    net, x, y = two_class(linear_net)
    found = APGD(eps=0.1).maximise(lambda z: F.cross_entropy(net(z), y, reduction="none"), x)
    assert (
        found - x - 0.1 * (net.head.weight[1] - net.head.weight[0]).sign().view(1, 2, 9, 7)
    ).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"targets": 9}, "loss=dlr"),
        ({"targets": 9, "loss": "dlr", "targeted": True}, "only one of them"),
    ],
)
def test_settings_of_apgd_that_contradict_each_other_are_refused(
    settings: dict[str, Any], word: str
) -> None:
    with pytest.raises(UserError, match=word):
        APGD(**settings)


# Square.


def test_sides_of_the_squares_follow_the_schedule_of_the_paper() -> None:
    def slow(query: int) -> float:  # The fractions are of 10,000 queries.
        for mark, halved in (
            (8000, 512),
            (6000, 256),
            (4000, 128),
            (2000, 64),
            (1000, 32),
            (500, 16),
            (200, 8),
            (50, 4),
            (10, 2),
        ):
            if query > mark:
                return 0.8 / halved
        return 0.8

    for size in (8, 32):
        for query in range(0, 10_000, 7):
            assert side(0.8, query, 10_000, size, size) == min(
                max(round((slow(query) * size * size) ** 0.5), 1), size
            )
    assert [side(0.8, query, 5000, 8, 8) for query in (0, 6, 26, 101, 251, 501, 4999)] == [
        7,
        5,
        4,
        3,
        2,
        1,
        1,
    ]
    assert side(1.0, 0, 10, 9, 7) == 7


@pytest.mark.long
def test_square_reaches_the_closed_form_of_a_linear_objective_in_every_corner() -> None:
    weight = torch.cos(torch.arange(126) * 0.7).view(1, 2, 9, 7)
    x = torch.full((3, 2, 9, 7), 0.5)
    found = Square(eps=0.1, queries=4000, variant="paper").maximise(
        lambda z: (z * weight).sum(dim=(1, 2, 3)), x
    )
    assert (found - x - 0.1 * weight.sign()).abs().max() < 1e-6


@pytest.mark.long
def test_autoattacks_squares_leave_out_the_last_row_and_column() -> None:
    x = torch.full((3, 1, 9, 7), 0.5)
    first = Square(eps=0.1, queries=1).starting_points(Linf(x, 0.1), seeded(0))
    moved = {
        variant: Square(eps=0.1, queries=3000, variant=variant, p=0.05)
        for variant in ("autoattack", "paper")
    }
    touched = {
        name: attack.maximise(lambda z: -z.sum(dim=(1, 2, 3)), x, rng=seeded(0)) != first
        for name, attack in moved.items()
    }
    assert (
        not touched["autoattack"][:, :, -1].any() and not touched["autoattack"][:, :, :, -1].any()
    )
    assert (
        touched["autoattack"][:, :, :-1, :-1].any()
        and touched["paper"][:, :, -1].any()
        and touched["paper"][:, :, :, -1].any()
    )


def test_square_gives_each_pixel_its_own_budget_and_draws_per_image() -> None:
    budget = torch.rand((4, 1, 9, 7), generator=seeded(0)) * 0.1
    delta = (
        Square(queries=50).maximise(
            lambda z: z.sum(dim=(1, 2, 3)), torch.full((4, 2, 9, 7), 0.5), eps=budget
        )
        - 0.5
    )
    assert (delta.abs() - budget).abs().max() < 1e-6
    assert not torch.equal(delta[0].sign(), delta[1].sign())


def test_square_fools_a_net_without_gradient_which_pgd_cannot(toy: Toy) -> None:
    net = Coarse(toy.net)
    assert (
        accuracy(net, PGD(eps=0.05, start="zero")(net, toy.x, toy.y), toy.y)
        == accuracy(net, toy.x, toy.y)
        > 0.9
    )
    assert accuracy(net, Square(eps=0.05, queries=200)(net, toy.x, toy.y), toy.y) < 0.5


def test_square_asks_only_for_images_that_are_still_right(toy: Toy) -> None:
    asked: list[int] = []
    handle = toy.net.register_forward_hook(lambda module, args, out: asked.append(len(args[0])))
    found = Square(eps=0.05, queries=200)(toy.net, toy.x, toy.y)
    handle.remove()
    look, asked = asked[:3], asked[3:]  # The network check, on three images, precedes the search.
    assert (
        look == [3, 1, 1]
        and len(asked) <= 202
        and asked == sorted(asked, reverse=True)
        and asked[-1] < len(toy.x)
    )
    wrong = toy.net(toy.x).argmax(1) != toy.y
    assert torch.equal(found[wrong], toy.x[wrong])


def test_square_refuses_l2_and_a_trace_that_fills_the_memory(conv_net: Classifier) -> None:
    with pytest.raises(UserError, match="linf"):
        Square(norm="l2")
    with pytest.raises(UserError, match="GiB"):
        Square(eps=0.1).trace(
            conv_net, torch.zeros(400, 3, 32, 32), torch.zeros(400, dtype=torch.long)
        )


# AutoAttack.


def test_autoattack_says_how_many_targets_it_had() -> None:
    assert [attack_name(encode(AutoAttack()), classes) for classes in (4, 9, 10, 100, 0)] == [
        "AutoAttack (3 targets)",
        "AutoAttack (8 targets)",
        "AutoAttack",
        "AutoAttack",
        "AutoAttack",
    ]
    assert attack_name(encode(APGD(loss="dlr", targets=9)), 5) == "APGD-DLR-100 (4 targets)"
    assert (
        attack_name(encode(APGD()), 3) == "APGD-CE-100"
        and attack_name(encode(PGD()), 3) == "PGD-10"
    )


@pytest.mark.long
def test_autoattack_leaves_tracing_and_the_log_alone_and_says_nothing(
    toy: Toy, capfd: pytest.CaptureFixture[str]
) -> None:
    def tracer(*_: object) -> None:
        return None

    before, log = sys.gettrace(), logging.getLogger("auto-attack")
    try:
        sys.settrace(tracer)
        # AutoAttack would warn of zero gradients here if its output were not suppressed.
        AutoAttack(eps=0.3)(Coarse(toy.net), toy.x[:4], toy.y[:4])
        kept = sys.gettrace()
    finally:
        sys.settrace(before)
    assert kept is tracer and not log.disabled
    assert capfd.readouterr() == ("", "")


def test_autoattack_without_its_package_is_one_clear_sentence(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match="pip install"):
        AutoAttack(eps=0.1)(toy.net, toy.x, toy.y)


def test_autoattack_has_no_objective_of_others_and_no_target(toy: Toy) -> None:
    with pytest.raises(UserError, match="pgd or apgd"):
        AutoAttack(eps=0.1).maximise(lambda z: z.sum(dim=(1, 2, 3)), toy.x)
    with pytest.raises(TypeError):
        AutoAttack(targeted=True)  # type: ignore[call-arg]


@pytest.mark.slow
def test_autoattack_fools_as_many_as_its_parts(toy: Toy) -> None:
    x, y, eps = toy.x, toy.y, 0.03

    def right(attack: Attack) -> int:
        return int(count_right(toy.net, x, y, attack).sum())

    parts = [APGD(eps=eps), APGD(eps=eps, loss="dlr", targets=3)]
    assert 0 < right(AutoAttack(eps=eps)) <= min(map(right, parts)) < 40


# Parity with the components of the AutoAttack package, on a shipped network.


@pytest.fixture(params=["digits-pgd-at-small-resnet-s0", "digits-standard-small-resnet-s0"])
def shipped(request: pytest.FixtureRequest) -> tuple[Classifier, Tensor, Tensor, float]:
    every = (runs.Run(path) for path in runs.zoo().iterdir() if path.name.startswith(request.param))
    (run,) = (run for run in every if not unusual(run))
    split = data.load(run.config.data, "test").take(100)
    return run.net(), split.x, split.y, float(run.config.eps or 0)


def part(name: str, net: nn.Module, x: Tensor, y: Tensor, eps: float) -> int:
    """Returns how many images are still classified correctly after one component of AutoAttack."""
    from pyautoattack import AutoAttack as Package

    net.requires_grad_(False)
    work = Package(
        net, norm="Linf", eps=eps, version="custom", attacks=[name], seed=0, device="cpu"
    )
    work.apgd.n_restarts, work.verbose = 1, False  # As in AutoAttack's standard version.
    found, _ = work.run_standard_evaluation(x, y)
    return int((net(found).argmax(1) == y).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "attack"),
    [("apgd-ce", APGD()), ("apgd-dlr", APGD(loss="dlr")), ("apgd-t", APGD(loss="dlr", targets=9))],
)
def test_apgd_leaves_as_many_right_as_autoattacks_own(
    name: str, attack: APGD, shipped: tuple[Classifier, Tensor, Tensor, float]
) -> None:
    net, x, y, eps = shipped
    assert (
        abs(int(count_right(net, x, y, attack.bound(eps)).sum()) - part(name, net, x, y, eps)) <= 3
    )


@pytest.mark.slow
def test_square_leaves_as_many_right_as_autoattacks_own_and_the_papers_no_more(
    shipped: tuple[Classifier, Tensor, Tensor, float],
) -> None:
    net, x, y, eps = shipped
    theirs = part("square", net, x, y, eps)
    assert abs(int(count_right(net, x, y, Square(eps=eps)).sum()) - theirs) <= 3
    assert int(count_right(net, x, y, Square(eps=eps, variant="paper")).sum()) <= theirs + 3
