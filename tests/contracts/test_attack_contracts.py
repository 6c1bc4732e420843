"""Tests what every registered attack must satisfy in both norms, and identities between attacks or
with closed forms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import contracts, registry
from robustviz.attacks import FGSM, PGD, Attack
from robustviz.attacks.base import Objective
from robustviz.contracts.attacks import accuracy, size
from robustviz.nets.base import Classifier
from robustviz.types import UserError

if TYPE_CHECKING:
    from conftest import Toy

EPS = {"linf": 0.1, "l2": 1.0}
# Fewer steps are enough to check the contracts.
SHORT = {"cw": {"steps": 5}, "apgd": {"steps": 20}, "square": {"queries": 100}}


def every_attack() -> Iterator[object]:
    for key in registry.keys("attack"):
        for norm in EPS:
            with contextlib.suppress(UserError):  # An attack may refuse l2.
                marks = [pytest.mark.slow] if key == "autoattack" and norm == "l2" else []
                # Each image that AutoAttack cannot fool costs thousands of queries; with this ε
                # there are hardly any.
                eps = EPS[norm] * (3 if key == "autoattack" else 1)
                attack = registry.get("attack", key)(norm=norm, eps=eps, **SHORT.get(key, {}))
                yield pytest.param(attack, id=f"{key}-{norm}", marks=marks)


@pytest.fixture(params=list(every_attack()))
def attack(request: pytest.FixtureRequest) -> Attack:
    return request.param  # type: ignore[no-any-return]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Contracts of every attack.


@pytest.mark.long
@pytest.mark.parametrize("promise", contracts.promises("attack"), ids=lambda each: each.says)
def test_promise(promise: contracts.Promise, attack: Attack) -> None:
    if why := promise.check(attack):
        pytest.skip(why)


def test_eps_in_grey_levels_is_refused_with_the_value_that_was_meant(attack: Attack) -> None:
    with pytest.raises(UserError, match="8/255"):
        replace(attack, norm="linf", eps=8)


def test_settings_have_names_and_may_be_spelled_as_others_do(attack: Attack) -> None:
    kind, more = type(attack), SHORT.get(attack.key, {})
    for spelled in {"linf": ("Linf", "l_inf", "L-inf"), "l2": ("L2", "l-2")}[attack.norm]:
        assert kind(norm=spelled, eps=str(attack.eps), **more) == attack  # type: ignore[arg-type]
        assert registry.with_value(kind(**more), "norm", spelled).norm == attack.norm
    assert kind(eps="8/255") == kind(eps=8 / 255)  # type: ignore[arg-type]
    for error in (UserError, TypeError):
        with pytest.raises(
            error, match=rf"takes its settings by name, such as {kind.__name__}\(eps"
        ):
            kind(8 / 255)  # type: ignore[misc]
    with pytest.raises(UserError, match=r"'some' is not a number; write it like 0.15 or 8/255"):
        kind(eps="some")  # type: ignore[arg-type]


# Identities of single attacks.


def test_fgsm_is_one_pgd_step_of_eps_from_the_image(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    for norm, eps in EPS.items():
        step = PGD(norm=norm, eps=eps, step_size=eps, steps=1, start="zero")
        assert torch.equal(
            FGSM(norm=norm, eps=eps)(conv_net, images, labels), step(conv_net, images, labels)
        )  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", EPS)
def test_pgd_on_a_linear_net_is_its_closed_form(norm: str, linear_net: Classifier) -> None:
    """With two classes the cross-entropy falls along w_y − w_other everywhere, so the result must
    be x moved by ε in the opposite direction.
    """
    net, x, y = (
        linear_net.double(),
        torch.full((12, 2, 9, 7), 0.5, dtype=torch.float64),
        torch.arange(12) % 2,
    )
    eps = EPS[norm]
    uphill = torch.stack(
        [net.head.weight[1 - label] - net.head.weight[label] for label in y]
    ).detach()
    best = eps * (uphill.sign() if norm == "linf" else uphill / uphill.norm(dim=1, keepdim=True))
    for start, steps in (("zero", 10), ("uniform", 400)):
        found = PGD(norm=norm, eps=eps, steps=steps, start=start)(net, x, y)
        assert (found - x - best.view_as(x)).abs().max() < 1e-9


def slow_pgd(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    eps: Tensor | float,
    step: float,
    steps: int,
) -> Tensor:
    """Linf PGD as in docs/methods.md, "Conventions": clip the perturbation to ±ε, then clamp the
    image to [0, 1], one image at a time.
    """
    out = []
    for i in range(len(x)):
        here = eps[i : i + 1] if isinstance(eps, Tensor) else torch.tensor(eps, dtype=x.dtype)
        z = start[i : i + 1].clone()
        for _ in range(steps):
            z.requires_grad_(True)
            log_p = net(z).log_softmax(1)[0, y[i]]
            (gradient,) = torch.autograd.grad(-log_p, z)
            delta = torch.max(
                torch.min(z.detach() + step * gradient.sign() - x[i : i + 1], here), -here
            )
            z = (x[i : i + 1] + delta).clamp(0, 1)
        out.append(z.detach())
    return torch.cat(out)


@pytest.mark.parametrize("start", ["uniform", "gauss", "zero"])
def test_pgd_equals_its_slow_twin(
    start: str, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x, eps = conv_net.double(), images.double(), 0.1
    attack = PGD(eps=eps, steps=7, start=start)  # type: ignore[arg-type]
    noise = {"uniform": torch.rand, "gauss": torch.randn, "zero": torch.zeros}[start](
        x.shape, dtype=x.dtype, **({} if start == "zero" else {"generator": seeded(2)})
    )
    first = {
        "uniform": (2 * noise - 1) * eps,
        "gauss": (0.001 * noise).clamp(-eps, eps),
        "zero": noise,
    }[start]
    slow = slow_pgd(net, x, labels, (x + first).clamp(0, 1), eps, eps / 4, 7)
    assert (attack(net, x, labels, rng=seeded(2)) - slow).abs().max() < 1e-6


def test_fgsm_rs_takes_one_step_of_a_quarter_more_than_eps(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x, attack = conv_net.double(), images.double(), FGSM(eps=0.1, start="uniform")
    start = attack.trace(net, x, labels)[0]
    assert (
        attack(net, x, labels) - slow_pgd(net, x, labels, start, 0.1, 0.125, 1)
    ).abs().max() < 1e-6
    assert (
        attack(net, x, labels) - slow_pgd(net, x, labels, start, 0.1, 0.1, 1)
    ).abs().max() > 1e-3


def test_default_step_is_a_quarter_of_eps_up_to_20_steps_and_an_eighth_above() -> None:
    assert PGD(steps=20).default_step(0.2) == 0.05
    assert PGD(steps=21).default_step(0.2) == 0.025


def test_restarts_fool_whatever_the_first_run_fooled_and_more(toy: Toy) -> None:
    weak = PGD(eps=0.05, steps=2, step_size=0.01)
    with torch.no_grad():
        fooled = [
            toy.net(replace(weak, restarts=r)(toy.net, toy.x, toy.y, rng=seeded(1))).argmax(1)
            != toy.y
            for r in (1, 8)
        ]
    assert (fooled[1] | ~fooled[0]).all()
    assert fooled[1].sum() > fooled[0].sum()


def test_restarts_prefer_a_success_to_a_high_objective(toy: Toy) -> None:
    class Misled(PGD):
        """An attack that stays at its random start and whose objective prefers confident correct
        predictions.
        """

        def objective(self, net: nn.Module, y: Tensor) -> Objective:
            return lambda z: -F.cross_entropy(net(z), y, reduction="none")

    attack, rng = Misled(eps=0.2, steps=1, step_size=0.0), seeded(1)
    with torch.no_grad():
        singles = torch.stack(
            [toy.net(attack(toy.net, toy.x, toy.y, rng=rng)).argmax(1) != toy.y for _ in range(6)]
        )
        fooled = (
            toy.net(replace(attack, restarts=6)(toy.net, toy.x, toy.y, rng=seeded(1))).argmax(1)
            != toy.y
        )
    assert torch.equal(fooled, singles.any(0)) and singles.any(0).sum() > singles[0].sum()


def test_restarts_keep_the_highest_objective(conv_net: Classifier, images: Tensor) -> None:
    def objective(z: Tensor) -> Tensor:
        return conv_net(z)[:, 0]

    weak = PGD(eps=0.1, steps=1)
    rng = seeded(1)
    runs = torch.stack(
        [objective(weak.maximise(objective, images, rng=rng)) for _ in range(4)]
    ).detach()
    best = objective(replace(weak, restarts=4).maximise(objective, images, rng=seeded(1))).detach()
    assert torch.equal(best, runs.amax(0)) and not torch.equal(best, runs[0])


def test_a_restart_replaces_a_run_whose_objective_is_not_a_number(images: Tensor) -> None:
    judged = []

    def objective(z: Tensor) -> Tensor:
        heights = z.sum((1, 2, 3))
        if not z.requires_grad:  # the points that the runs ended at are compared without gradients
            judged.append(heights)
            heights = heights * (torch.nan if len(judged) == 1 else 1)
        return heights

    found = PGD(eps=0.1, steps=1, restarts=3).maximise(objective, images, rng=seeded(1))
    assert torch.equal(found.sum((1, 2, 3)), torch.stack(judged[1:]).amax(0))


# Budgets per pixel and per image.


@pytest.fixture
def objective(conv_net: Classifier, labels: Tensor):
    return lambda z: F.cross_entropy(conv_net(z), labels, reduction="none")


def test_each_pixel_keeps_its_own_budget(objective, images: Tensor) -> None:
    budget = torch.rand((12, 1, 9, 7), generator=seeded(0)) * 0.1
    budget[budget < 0.03] = 0
    delta = PGD(eps=0.1).maximise(objective, images, eps=budget) - images
    assert (delta.abs() <= budget + 1e-6).all()
    assert (delta[(budget == 0).expand_as(delta)] == 0).all()
    assert (delta.abs() > 0.05).any()


def test_a_uniform_map_gives_the_bits_of_one_number(objective, images: Tensor) -> None:
    for start in ("uniform", "gauss", "zero"):
        attack = PGD(eps=0.1, start=start)  # type: ignore[arg-type]
        scalar = attack.maximise(objective, images, rng=seeded(1))
        for shape in ((12,), (12, 1, 1, 1), (12, 1, 9, 7), (12, 2, 9, 7)):
            assert torch.equal(
                attack.maximise(objective, images, eps=torch.full(shape, 0.1), rng=seeded(1)),
                scalar,
            )


def test_a_map_goes_through_the_slow_twin_too(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, x = conv_net.double(), images.double()
    budget = torch.rand((12, 1, 9, 7), generator=seeded(0), dtype=torch.float64) * 0.1
    found = PGD(eps=0.1, steps=5, start="zero").maximise(
        lambda z: F.cross_entropy(net(z), labels, reduction="none"), x, eps=budget
    )
    assert (found - slow_pgd(net, x, labels, x, budget, 0.025, 5)).abs().max() < 1e-6


@pytest.mark.parametrize("norm", EPS)
def test_each_image_can_have_its_own_radius(norm: str, objective, images: Tensor) -> None:
    radii = torch.linspace(0, EPS[norm], 12)
    delta = PGD(norm=norm, eps=EPS[norm]).maximise(objective, images, eps=radii) - images
    found = size(delta, norm)
    assert (found <= radii + 1e-6).all() and (found[1:] > 0).all()


@pytest.mark.parametrize(
    ("norm", "budget", "word"),
    [
        ("l2", torch.full((12, 1, 9, 7), 0.1), "linf only"),
        ("linf", torch.full((12, 1, 9, 7), -0.1), "negative"),
        ("l2", torch.full((12,), -0.1), "negative"),
        ("linf", torch.full((12, 1, 7, 9), 0.1), "do not fit"),
        ("linf", torch.full((5,), 0.1), "do not fit"),
        ("linf", 1.5, "outside"),
        # The largest possible l2 distance of 2·9·7 pixels is √126 = 11.22.
        ("l2", 11.3, "outside"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    norm: str, budget: Tensor | float, word: str, objective, images: Tensor
) -> None:
    with pytest.raises(UserError, match=word):
        PGD(norm=norm, eps=0.1).maximise(objective, images, eps=budget)  # type: ignore[arg-type]


# Comparison with another library.


def test_robust_accuracy_is_within_a_point_of_torchattacks(toy: Toy) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    ours = PGD(eps=0.05, steps=20, step_size=0.0125, start="zero")(toy.net, toy.x, toy.y)
    theirs = torchattacks.PGD(toy.net, eps=0.05, alpha=0.0125, steps=20, random_start=False)(
        toy.x, toy.y
    )
    assert abs(accuracy(toy.net, ours, toy.y) - accuracy(toy.net, theirs, toy.y)) <= 0.01
