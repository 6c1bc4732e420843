"""Tests bad inputs: what is no image, no label or no classifier gives the same one-sentence error
at every entry point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import cam, data, inputs
from robustviz.attacks import APGD, CW, FGSM, MIM, PGD, Attack, AutoAttack, Square
from robustviz.nets.base import Classifier
from robustviz.training.evaluate import attacked, count_right
from robustviz.types import UserError

ATTACKS: tuple[Attack, ...] = (
    FGSM(eps=0.1),
    PGD(eps=0.1, steps=2),
    PGD(eps=0.1, steps=2, restarts=2),
    MIM(eps=0.1, steps=2),
    CW(eps=0.1, steps=2),
    APGD(eps=0.1, steps=3),
    Square(eps=0.1, queries=3),
    AutoAttack(eps=0.1),
)
ENTRANCES: dict[str, Callable[[Any, Any, Any], object]] = {
    "clean count": lambda net, x, y: count_right(net, x, y),
    "count": lambda net, x, y: count_right(net, x, y, ATTACKS[1]),
    "attacked": lambda net, x, y: attacked(net, x, y, ATTACKS[1]),
    "grad_cam": cam.grad_cam,
    "layer_cam": cam.layer_cam,
    "trace": lambda net, x, y: ATTACKS[1].trace(net, x, y),
    **{f"{type(attack).__name__} {number}": attack for number, attack in enumerate(ATTACKS)},
}
WRONG_IMAGES = {
    "uint8": (lambda x: (255 * x).to(torch.uint8), "uint8.*divide them by 255"),
    "grey levels": (lambda x: 255 * x, "grey levels.*255"),
    "normalised": (lambda x: (x - 0.5) / 0.2, "normalised"),
    "NaN": (lambda x: torch.where(x > 0.9, torch.nan, x), "NaN"),
    "no batch axis": (
        lambda x: x[0],
        r"no batch axis or no channels: .* a single image: x\[None\], grey ones: x\[:, None\]\.",
    ),
    "flat": (lambda x: x.flatten(1), "N,C,H,W"),
    "grey for colour": (lambda x: x[:, :1], "channels"),
    "NumPy": (lambda x: x.numpy(), "torch.from_numpy"),
    "float64": (lambda x: x.double(), "float32"),
    "sparse": (lambda x: x.to_sparse(), "sparse"),
}
WRONG_LABELS = {
    "column": (lambda y: y[:, None], r"shape \(12, 1\)"),
    "one-hot": (lambda y: F.one_hot(y, 4), r"argmax"),
    "float one-hot": (lambda y: F.one_hot(y, 4).float(), "argmax"),
    "one for many": (lambda y: y[:1], "12 images"),
    "floats": (lambda y: y.float(), "float32"),
    "bools": (lambda y: y > 1, "bool"),
    "ignored": (lambda y: torch.full_like(y, -100), "-100"),
    "too large": (lambda y: y + 1, "label 4 .*4 classes"),
    "a list": (lambda y: y.tolist(), "torch.tensor"),
    "no axis": (lambda y: y[0], r"\(12,\)"),
}


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_is_no_batch_of_images_is_one_sentence(
    entrance: str, wrong: str, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    change, said = WRONG_IMAGES[wrong]
    with pytest.raises(UserError, match=said):
        ENTRANCES[entrance](conv_net, change(images), labels)


@pytest.mark.parametrize("wrong", WRONG_LABELS)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_is_no_label_an_image_is_one_sentence(
    entrance: str, wrong: str, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    change, said = WRONG_LABELS[wrong]
    with pytest.raises(UserError, match=said):
        ENTRANCES[entrance](conv_net, images, change(labels))


@pytest.mark.long
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_labels_of_every_integer_type_are_the_same_labels(
    entrance: str, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    wanted = ENTRANCES[entrance](conv_net, images, labels)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint64):
        assert torch.equal(ENTRANCES[entrance](conv_net, images, labels.to(dtype)), wanted)


class Gives(nn.Module):
    """A network whose output is changed by `make`, for example to something other than logits."""

    def __init__(self, net: nn.Module, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.make = net, make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.net(x))


WRONG_ANSWERS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a tuple": (lambda z: (z, z), "returns a tuple"),
    "a dict": (lambda z: {"logits": z}, "returns a dict"),
    "one logit": (lambda z: z[:, :1], "at least 2"),
    "flat": (lambda z: z[:, 0], "logits"),
    "maps": (lambda z: z[:, :, None], "logits"),
    "classes": (lambda z: z.argmax(1), "logits"),
    "mean": (lambda z: z.mean(0), "logits"),
    "an error": (lambda z: z @ z, "network fails"),
    "an assertion": (lambda z: z.assert_that, "network fails"),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
@pytest.mark.parametrize("attack", [None, *ATTACKS], ids=lambda attack: type(attack).__name__)
def test_what_gives_no_logits_is_one_sentence(
    attack: Attack | None, wrong: str, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    make, said = WRONG_ANSWERS[wrong]
    with pytest.raises(UserError, match=said):
        count_right(Gives(conv_net, make), images, labels, attack)


def test_what_is_no_network_no_attack_no_seed_or_no_generator_is_one_sentence(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    for work, said in (
        (lambda: count_right(lambda x: x, images, labels), "network must be"),
        (lambda: ATTACKS[0](images, conv_net, labels), "must be"),  # type: ignore[arg-type]
        (lambda: count_right(conv_net, images, labels, "pgd"), "no attack"),
        (lambda: count_right(conv_net, images, labels, PGD), "no attack"),  # type: ignore[arg-type]
        (lambda: count_right(conv_net, images, labels, ATTACKS[0], seed=1.5), "whole number"),
        (lambda: count_right(conv_net, images, labels, PGD(eps=0.1, targeted=True)), "untargeted"),
        (lambda: ATTACKS[1](conv_net, images, labels, 5), "Generator"),  # type: ignore[arg-type]
        (lambda: ATTACKS[1](nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), images, labels), "lazy"),
        (
            lambda: PGD(eps=0.1, restarts=2).maximise(lambda z: z.flatten(1), images),
            "one number per image",
        ),
        (lambda: APGD(eps=0.1).maximise(lambda z: z.sum(), images), "one number per image"),
    ):
        with pytest.raises(UserError, match=said):
            work()
    seeded = count_right(conv_net, images, labels, ATTACKS[1], seed=3)
    assert torch.equal(count_right(conv_net, images, labels, ATTACKS[1], seed=np.int64(3)), seeded)


# Radii.


def test_a_number_is_a_number_wherever_it_comes_from(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    wanted = PGD(eps=0.1, steps=2)(conv_net, images, labels)
    for eps in (np.float64(0.1), np.float32(0.1), torch.tensor(0.1), np.array(0.1)):
        assert torch.allclose(
            PGD(eps=eps, steps=np.int64(2))(conv_net, images, labels), wanted, atol=1e-6
        )  # type: ignore[arg-type]
        objective = PGD().objective(conv_net, labels)
        assert torch.allclose(PGD(steps=2).maximise(objective, images, eps=eps), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("eps", "said"),
    [
        (8, "eps=8 .*8/255"),
        (np.float32(8), "eps=8 "),
        (1.0001, "eps=1.0001 "),
        (-0.1, "-0.1"),
        (torch.tensor(2.0), "eps=2 "),
        (float("nan"), "nan"),
        ("x", "'x'"),
    ],
)
def test_a_wrong_radius_is_printed_as_it_was_given(
    eps: Any, said: str, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    objective = PGD().objective(conv_net, labels)
    with pytest.raises(UserError, match=said):
        PGD(steps=2).maximise(objective, images, eps=eps)
    if eps != "x":
        with pytest.raises(UserError, match=said):
            PGD(eps=eps)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1.5, -0.1])
@pytest.mark.parametrize("shape", [(12,), (12, 1, 9, 7)])
def test_a_tensor_of_radii_is_checked_like_a_number(
    bad: float, shape: tuple[int, ...], conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    eps = torch.full(shape, 0.1)
    eps[3] = bad
    with pytest.raises(UserError):
        PGD(steps=2).maximise(PGD().objective(conv_net, labels), images, eps=eps)
    with pytest.raises(UserError, match="numbers"):
        PGD(steps=2).maximise(PGD().objective(conv_net, labels), images, eps=eps > 0)


# 16-bit floats.


class Louder(nn.Module):
    """A network with such large logits that its gradient is zero in float16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.net(x)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_keep_the_ball_and_lose_no_gradient(dtype: torch.dtype) -> None:
    from robustviz.runs import folder

    split = data.load("digits", "test").take(60)
    net = Louder(
        next(
            run
            for run in folder.all_runs()
            if run.shipped and run.id.startswith("digits-standard-small-resnet-s0")
        ).net()
    )
    for attack in (PGD(eps=0.15), MIM(eps=0.15), APGD(eps=0.15, steps=10)):
        wanted = int(count_right(net, split.x, split.y, attack).sum())
        x = split.x.to(dtype)
        shown = attack(net, x, split.y)
        assert (
            shown.dtype == torch.float32
            and (shown - x.float()).abs().max() <= 0.15 + 1e-6
            and 0 <= shown.min() <= shown.max() <= 1
        )
        small = Louder(net.net).to(dtype)
        assert abs(int(count_right(small, split.x, split.y, attack).sum()) - wanted) <= 6
        net.float()


# Gradients that are NaN or missing.


class Rooted(nn.Module):
    """The same logits, but through a square root whose gradient is NaN where a pixel is dark."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + 0 * (x * (x > 0.4)).sqrt().flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.1),
        PGD(eps=1.0, norm="l2"),
        MIM(eps=0.1),
        APGD(eps=0.1, steps=10),
        FGSM(eps=1.0, norm="l2"),
    ],
)
def test_a_pixel_without_a_gradient_stays_and_the_others_go_on(
    attack: Attack, conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    net, dark = Rooted(conv_net), images <= 0.4
    z = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(z), labels, reduction="sum"), z)
    assert torch.equal(gradient.isnan(), dark) and dark.any() and not dark.all()
    shown = attack(net, images, labels)
    assert shown.isfinite().all() and (shown - images)[~dark].abs().max() > 0.01
    if isinstance(attack, FGSM):
        assert torch.equal(shown[dark], images[dark])


class Numberless(nn.Module):
    """A network that returns NaN for some of the images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        broken = x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] > 0.5
        return torch.where(broken, torch.nan, self.net(x))


def test_an_image_whose_logits_are_no_numbers_is_misread(
    conv_net: Classifier, images: Tensor
) -> None:
    # argmax of a NaN row is class 0, so these labels would count as correct.
    labels = torch.zeros(len(images), dtype=torch.int64)
    broken = images.mean((1, 2, 3)) > 0.5
    assert broken.any() and not count_right(Numberless(conv_net), images, labels)[broken].any()


class Blind(nn.Module):
    """A network whose output has no gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def test_a_network_without_a_gradient_is_a_sentence_but_for_square(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    for attack in ATTACKS:
        if attack.key == "square":
            assert attack(Blind(conv_net), images, labels).shape == images.shape
        else:
            with pytest.raises(UserError, match="square"):
                attack(Blind(conv_net), images, labels)


def test_memory_for_a_pass_is_measured(
    conv_net: Classifier, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (
        inputs.try_out(conv_net, images),
        inputs.try_out(conv_net, F.interpolate(images, scale_factor=4)),
    )
    assert small.classes == 4 and 10 < large.image_bytes / small.image_bytes < 22
    monkeypatch.setattr(inputs, "CPU_BYTES", 5 * small.image_bytes)
    assert inputs.try_out(conv_net, images).at_once == 5
