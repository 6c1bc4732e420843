"""Tests the doctor: it finds each fault that it knows, and passes a healthy network."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustviz
from robustviz import data, zoo
from robustviz.attacks import CW, FGSM, PGD, Attack, AutoAttack, Square
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.training import anything, doctor
from robustviz.training.doctor import Consult, consult, examine
from robustviz.training.evaluation import Finding
from robustviz.training.planted import plant
from robustviz.types import UserError

if TYPE_CHECKING:
    from conftest import Toy

ATTACK = PGD(eps=0.05, steps=10)
# For tests in which the doctor's own attacks do not matter. The counts are of 80 images.
FINE = Consult(unbounded=0, pgd20=40, pgd60=40, square=80)


def complaints(
    toy: Toy,
    net: nn.Module | None = None,
    *,
    x: Tensor | None = None,
    x_adv: Tensor | None = None,
    attack: Attack = ATTACK,
    consulted: Consult | None = None,
) -> set[str]:
    net = net or toy.net
    x = toy.x if x is None else x
    x_adv = attack(net, x, toy.y) if x_adv is None else x_adv
    findings = examine(net, x, toy.y, x_adv, attack, classes=4, consulted=consulted)
    assert all("\n" not in finding.text and finding.text.endswith(".") for finding in findings)
    return {finding.name for finding in findings if not finding.ok}


@pytest.mark.long
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_healthy_network_passes(norm: str, toy: Toy) -> None:
    assert complaints(toy, attack=PGD(norm=norm, eps=0.05)) == set()  # type: ignore[arg-type]


@pytest.mark.long
def test_the_network_is_left_as_it_was(toy: Toy) -> None:
    net = copy.deepcopy(toy.net).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    complaints(toy, net)
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_change_larger_than_eps_is_found(toy: Toy) -> None:
    inside = toy.x.clamp(0, 0.8)
    assert "budget" not in complaints(toy, x=inside, x_adv=inside + 0.05, consulted=FINE)
    assert "budget" in complaints(toy, x=inside, x_adv=inside + 0.051, consulted=FINE)
    one = inside.clone()
    one[79, 1, 8, 6] += 0.2
    # A single pixel of a single image.
    assert "budget" in complaints(toy, x=inside, x_adv=one, consulted=FINE)
    assert "budget" in complaints(
        toy, x=inside, x_adv=inside + 0.01, attack=PGD(norm="l2", eps=0.05), consulted=FINE
    )


@pytest.mark.parametrize("by", [-0.01, 0.01])
def test_pixels_outside_the_unit_range_are_found(by: float, toy: Toy) -> None:
    x = toy.x.clone()
    x[0, 0, 0, 0] = 0.0 if by < 0 else 1.0
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] += by
    assert "range" in complaints(
        toy, x=x, x_adv=x_adv, consulted=FINE
    ) and "range" not in complaints(toy, x=x, x_adv=x, consulted=FINE)
    assert "range" in complaints(toy, x=x_adv, x_adv=x, consulted=FINE)  # Also in the clean images.


class Sick(nn.Module):
    """A healthy network inside a function that adds a fault."""

    def __init__(self, net: nn.Module, disease: Any) -> None:
        super().__init__()
        self.net, self.disease = net, disease

    def forward(self, x: Tensor) -> Tensor:
        return self.disease(self.net, x)  # type: ignore[no-any-return]


def probabilities(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).softmax(1)


def saturated(net: nn.Module, x: Tensor) -> Tensor:
    return net(x) * 1e5  # The softmax is exactly 1 and its gradient exactly 0.


def staircase(net: nn.Module, x: Tensor) -> Tensor:
    return net((x * 20).round() / 20)


def cut_off(net: nn.Module, x: Tensor) -> Tensor:
    return net(x.detach()) + 0 * x.sum()


def turned_round(net: nn.Module, x: Tensor) -> Tensor:
    # The right logits, with a gradient that points in the wrong direction.
    return net(2 * x.detach() - x)


def noisy(net: nn.Module, x: Tensor) -> Tensor:
    return net(x) + 1e-3 * torch.randn(len(x), 4)


def rough(net: nn.Module, x: Tensor) -> Tensor:
    """The logits come from few grey levels, so their true gradient is zero; the gradient that shows
    is that of another function.
    """
    return net((x * 10).round() / 10) + 1e-3 * net(1 - x)


@pytest.mark.long
@pytest.mark.parametrize(
    ("disease", "found"),
    [
        (probabilities, {"logits"}),
        (saturated, {"gradients", "black-box"}),
        (staircase, {"gradients", "black-box"}),
        (rough, {"black-box"}),
        (cut_off, {"gradients"}),
        (turned_round, {"unbounded"}),
        (noisy, {"deterministic"}),
    ],
)
def test_a_disease_is_found(disease: Any, found: set[str], toy: Toy) -> None:
    torch.manual_seed(0)
    assert found <= complaints(toy, Sick(toy.net, disease))


@pytest.mark.long
def test_a_gradient_that_leads_astray_is_told_from_one_that_is_gone(toy: Toy) -> None:
    assert "gradients" not in complaints(toy, Sick(toy.net, turned_round))


@pytest.mark.long
def test_more_steps_that_help_the_defender_are_found(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tired(PGD):
        def __call__(
            self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None
        ) -> Tensor:
            return x if self.steps > 50 else super().__call__(net, x, y, rng)

    monkeypatch.setattr(doctor, "PGD", Tired)
    assert complaints(toy) == {"more steps"}


# An attack without gradients.


@pytest.mark.slow
def test_a_gradient_that_only_misleads_is_found_by_an_attack_that_needs_none() -> None:
    """Examples planted by such a search find it too. The network is a shipped one."""
    run = Run(
        folder.zoo()
        / next(config.run_id for config in zoo.wanted() if config.method.key == "standard")
    )
    assert run.data_key == "digits"
    few = data.load(run.config.data, "test").take(50)
    attack = PGD(eps=run.eps, steps=20)
    verdicts = {}
    for name, net in (("healthy", run.net()), ("masked", Sick(run.net(), rough))):
        found = examine(net, few.x, few.y, attack(net, few.x, few.y), attack, classes=10)
        verdicts[name] = {finding.name for finding in found if not finding.ok}
    assert verdicts["healthy"] == set() and verdicts["masked"] >= {"black-box", "active test"}


@pytest.mark.parametrize(("square", "ok"), [(40, True), (38, True), (37, False)])
def test_two_images_more_by_the_black_box_are_chance(
    square: int, ok: bool, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_right", lambda *a: 40)
    found = examine(
        toy.net,
        toy.x,
        toy.y,
        toy.x,
        ATTACK,
        4,
        consulted=Consult(unbounded=0, pgd20=0, pgd60=0, square=square),
    )
    assert {finding.name: finding.ok for finding in found}["black-box"] == ok


@pytest.mark.parametrize("attack", [FGSM(eps=0.05), Square(eps=0.05, queries=5)])
def test_pgd_20_speaks_for_attacks_that_are_weak_or_black_themselves(
    attack: Attack, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_right", lambda *a: 80)
    for pgd, ok in ((42, True), (43, False)):
        found = examine(
            toy.net,
            toy.x,
            toy.y,
            toy.x,
            attack,
            4,
            consulted=Consult(unbounded=0, pgd20=pgd, pgd60=pgd, square=40),
        )
        last = found[-1]
        assert (last.name, last.ok) == (
            "black-box",
            ok,
        ) and f"leaves 40 of 80 right, PGD-20 {pgd}" in last.text


@pytest.mark.long
def test_a_consultation_is_the_doctors_own_attacks(toy: Toy) -> None:
    told = consult(toy.net, toy.x, toy.y, ATTACK, 3)

    def left(attack: Attack) -> int:
        return int(
            (
                toy.net(attack(toy.net, toy.x, toy.y, rng=torch.Generator().manual_seed(3))).argmax(
                    1
                )
                == toy.y
            ).sum()
        )

    planted = plant(toy.net, toy.x, 0.05, seed=3)
    assert planted is not None
    assert told == Consult(
        left(PGD(eps=1.0, steps=20, start="zero")),
        left(PGD(eps=0.05, steps=20)),
        left(PGD(eps=0.05, steps=60)),
        left(Square(eps=0.05, queries=doctor.QUERIES, variant="paper")),
        left(CW(eps=0.05, steps=20)),
        otherwise=0,
        found=planted.found(PGD(eps=0.05, steps=20), 3),
    )
    x_adv = ATTACK(toy.net, toy.x, toy.y)
    assert examine(toy.net, toy.x, toy.y, x_adv, ATTACK, 4, 3) == examine(
        toy.net, toy.x, toy.y, x_adv, ATTACK, 4, 3, told
    )


@pytest.mark.long
def test_in_l2_the_black_box_is_said_not_to_be_measured(toy: Toy) -> None:
    attack = PGD(norm="l2", eps=0.05)
    last = examine(toy.net, toy.x, toy.y, attack(toy.net, toy.x, toy.y), attack, 4)[-1]
    assert last.name == "black-box" and last.ok and last.text.startswith("Not measured")


# Warnings: the number may be right, but a person should check it.


def finding(toy: Toy, name: str, net: nn.Module | None = None, **given: Any) -> Finding:
    """Returns one finding on the first 40 images of `toy`. `given` replaces how many images the
    doctor's own attacks left right.
    """
    x, y = toy.x[:40], toy.y[:40]
    attack, net = given.pop("attack", ATTACK), net or toy.net
    x_adv = given.pop("x_adv", x)
    told = Consult(**({"unbounded": 0, "pgd20": 20, "pgd60": 20, "square": 40} | given))
    found = examine(net, x, y, x_adv, attack, 4, consulted=told)
    return next(each for each in found if each.name == name)


@pytest.mark.parametrize(("cw", "warns"), [(40, False), (38, True), (39, False), (None, False)])
def test_five_points_fewer_under_the_margin_are_a_warning(
    cw: int | None, warns: bool, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_right", lambda *a: 40)
    found = finding(toy, "loss", cw20=cw)
    assert (found.warning, found.ok) == (warns, True)


@pytest.mark.parametrize(("otherwise", "warns"), [(0, False), (2, False), (3, True), (None, False)])
def test_images_that_fare_otherwise_in_float64_are_a_warning(
    otherwise: int | None, warns: bool, toy: Toy
) -> None:
    found = finding(toy, "float64", otherwise=otherwise)
    assert found.warning == warns and found.ok
    assert ("Not measured" in found.text) == (otherwise is None)


@pytest.mark.long
def test_float64_shows_a_gradient_that_is_too_small_for_float32(toy: Toy) -> None:
    def vanished(net: nn.Module, x: Tensor) -> Tensor:
        logits = net(x)
        return logits * (300 / logits.abs().amax(1, keepdim=True)).detach()

    def single(net: nn.Module, x: Tensor) -> Tensor:
        return net(x.float()) + torch.ones(1, dtype=torch.float32) @ torch.ones(1, 4).to(x.dtype)

    told = consult(Sick(toy.net, vanished), toy.x, toy.y, ATTACK)
    assert told.otherwise is not None and told.otherwise > 2
    assert consult(Sick(toy.net, single), toy.x, toy.y, ATTACK).otherwise is None


def test_gradients_that_are_no_numbers_are_a_warning(toy: Toy) -> None:
    def partly(net: nn.Module, x: Tensor) -> Tensor:
        # The square root has an infinite slope at 0, and 0 times infinity is NaN.
        return net(x) + 0 * (x[:, :1, :1, :1] * 0).sqrt().flatten(1)

    found = finding(toy, "gradients", Sick(toy.net, partly))
    assert found.level == "warning" and "not numbers" in found.text
    everywhere = Sick(toy.net, lambda net, x: net(x) + 0 * (0 * x.sum((1, 2, 3))).sqrt()[:, None])
    assert finding(toy, "gradients", everywhere).level == "unreliable"


def test_an_attack_that_stopped_early_is_a_warning(toy: Toy) -> None:
    x, y = toy.x[:40], toy.y[:40]
    # The targeted attack moves towards the true class.
    down = PGD(eps=0.05, steps=10, targeted=True)(toy.net, x, y)
    assert finding(toy, "moved", x_adv=x).warning and finding(toy, "moved", x_adv=down).warning
    assert not finding(toy, "moved", x_adv=ATTACK(toy.net, x, y)).warning
    assert not finding(toy, "moved", x_adv=x, attack=PGD(eps=0.0)).warning
    found = finding(toy, "moved", x_adv=x, attack=AutoAttack(eps=0.05))
    assert not found.warning and "Not measured" in found.text


def test_a_network_that_learned_nothing_is_told_by_the_largest_class(toy: Toy) -> None:
    found = finding(toy, "learned")
    assert found.level == "ok" and found.text.endswith("The largest class's share is 25%.")
    constant = Sick(toy.net, lambda net, x: 0 * net(x) + torch.tensor([1.0, 0, 0, 0]))
    found = finding(toy, "learned", constant)
    assert found.level == "warning" and found.text.startswith("This network has learned nothing.")


@pytest.mark.long
def test_a_network_that_learned_nothing_may_expect_normalised_images(toy: Toy) -> None:
    constant = Sick(toy.net, lambda net, x: 0 * net(x) + torch.tensor([1.0, 0, 0, 0]))
    found, well = (
        robustviz.evaluate(net, (toy.x, toy.y), "fgsm", eps=0.05) for net in (constant, toy.net)
    )
    assert "robustviz.wrap(net, mean=…, std=…)" in str(found)
    assert "robustviz.wrap" not in str(well)
    first = str(well).splitlines()[0]
    assert (
        first.endswith("; attacked with ε = 0.05 (13/255), seed 0")
        and f"{well.clean_acc:.3f} [" in first
    )


def test_neighbouring_gradients_agree_or_lead_nowhere(toy: Toy) -> None:
    def shattered(net: nn.Module, x: Tensor) -> Tensor:
        return net(x + 0.002 * (1000 * x).sin())

    assert finding(toy, "smoothness").value > 0.8
    assert finding(toy, "smoothness", Sick(toy.net, shattered)).level == "unreliable"


@pytest.mark.long
def test_sentences_are_short(toy: Toy) -> None:
    for net in (toy.net, Sick(toy.net, staircase)):
        x_adv = ATTACK(net, toy.x, toy.y)
        told = consult(net, toy.x, toy.y, ATTACK)
        for each in examine(net, toy.x, toy.y, x_adv, ATTACK, 4, consulted=told):
            for sentence in each.text.split(". "):
                assert len(sentence.split()) <= 20, sentence


# Which inputs are accepted.


def findings(
    toy: Toy,
    x: Any = None,
    y: Any = None,
    x_adv: Any = None,
    classes: Any = 4,
    attack: Attack = ATTACK,
) -> Any:
    x, y = toy.x[:8] if x is None else x, toy.y[:8] if y is None else y
    return examine(
        toy.net,
        x,
        y,
        x if x_adv is None else x_adv,
        attack,
        classes,
        consulted=Consult(unbounded=0, pgd20=8, pgd60=8, square=8),
    )


@pytest.mark.parametrize(
    "ask",
    [
        findings,
        lambda toy, x=None, y=None: consult(
            toy.net, toy.x[:8] if x is None else x, toy.y[:8] if y is None else y, ATTACK
        ),
    ],
    ids=["examine", "consult"],
)
def test_images_and_labels_of_another_kind_are_one_clear_sentence(ask: Any, toy: Toy) -> None:
    few, y = toy.x[:8], toy.y[:8]
    for given, says in (
        ({"x": few[:0], "y": y[:0]}, "no images"),
        ({"x": few[0]}, "no batch axis or no channels"),
        ({"x": (255 * few).byte()}, "divide them by 255"),
        ({"x": few.numpy()}, "ndarray"),
        ({"x": few[:, :1]}, "2 channels"),
        ({"y": y[:, None]}, "squeeze"),
        ({"y": y.float()}, "one integer per image"),
        ({"y": y[:3]}, "fit 8 images"),
        ({"y": y + 4}, "has 4 classes"),
        ({"y": y - 1}, "The label -1 is outside"),
        ({"y": y.tolist()}, "this is a list"),
        ({"x": few.double()}, "Its weights are float32"),
    ):
        with pytest.raises(UserError, match=says):
            ask(toy, **given)


def test_attacked_images_classes_and_radius_of_another_kind_are_one_clear_sentence(
    toy: Toy,
) -> None:
    for given, says in (
        ({"x_adv": toy.x[:7]}, "do not match"),
        ({"x_adv": toy.x[0]}, "no batch axis or no channels"),
        ({"classes": "4"}, "classes='4'"),
        ({"classes": 2}, "has 2 classes"),
        ({"attack": PGD()}, "has no eps"),
    ):
        with pytest.raises(UserError, match=says):
            findings(toy, **given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no eps"):
        consult(toy.net, toy.x, toy.y, PGD())
    with pytest.raises(UserError, match="grey levels"):
        consult(toy.net, 255 * toy.x, toy.y, ATTACK)


@pytest.mark.long
def test_labels_and_images_that_attacks_take_are_examined(toy: Toy) -> None:
    x, y = toy.x[:8].bfloat16(), toy.y[:8]
    wanted, told = findings(toy, x.float()), consult(toy.net, x.float(), y, ATTACK)
    with torch.inference_mode():
        inferred = x.float().clone(), y.clone()
    for other in ((x, y), (x.float(), y.int()), (x.float(), y.to(torch.uint16)), inferred):
        assert findings(toy, *other) == wanted and consult(toy.net, *other, ATTACK) == told
        with torch.inference_mode():
            assert findings(toy, *other) == wanted and consult(toy.net, *other, ATTACK) == told
    assert findings(toy, x.float(), classes=4.0) == wanted


def test_a_network_hardly_better_than_guessing_is_told_and_asked_about_its_images(toy: Toy) -> None:
    """As a network is that was trained on normalised images and gets others: 13 of 100 right."""
    y = torch.arange(100) % 10
    said = torch.where(torch.arange(100) < 13, y, (y + 1) % 10)
    seen = Mock(y=y, logits=F.one_hot(said, 10).float())
    assert doctor._learned(seen).warning
    seen.logits = F.one_hot(torch.where(torch.arange(100) < 30, y, (y + 1) % 10), 10).float()
    found = doctor._learned(seen)
    assert not found.warning and "robustviz.wrap(net" in anything._hinted(found).text
