"""Tests looking at one image without a run, and a network with images as a run in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustviz
from robustviz import cam, data, nets, probes
from robustviz.attacks import PGD
from robustviz.types import UserError
from robustviz.views.measure import images_of, net_of


class Own(nn.Module):
    """A user's network with its own forward, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 12, 3, 1, 1)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.last(self.body(self.stem(x)).relu().mean((2, 3)))
        return z


@pytest.fixture
def own() -> Own:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Own().train()


X = torch.rand((12, 3, 16, 16), generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 5


def test_a_look_is_what_attack_map_and_parts_give(own: Own) -> None:
    before = {name: value.clone() for name, value in own.state_dict().items()}
    found = robustviz.look(own, X[0], 2, eps="8/255", seed=4)
    assert own.training
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    net = robustviz.wrap(own.eval(), shape=(3, 16, 16)).eval()
    y = torch.tensor([2])
    x_adv = PGD(steps=20, eps=8 / 255)(net, X[:1], y, torch.Generator().manual_seed(4))
    np.testing.assert_allclose(found.x_adv, x_adv[0].numpy(), atol=1e-6)
    assert 0 < np.abs(found.x_adv - found.x).max() <= 8 / 255 + 1e-6
    heat = cam.grad_cam(net, torch.cat([X[:1], x_adv]), y.repeat(2)).numpy()
    np.testing.assert_allclose(found.heat, heat[0], atol=1e-6)
    np.testing.assert_allclose(found.heat_adv, heat[1], atol=1e-6)
    with torch.no_grad():
        clean, attacked = (net.parts(x) for x in (X[:1], x_adv))
    np.testing.assert_allclose(found.features, clean.features[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(found.probs_adv, attacked.logits.softmax(1)[0].numpy(), atol=1e-6)
    moved = (attacked.logits - clean.logits)[0]
    assert found.push.sum() == pytest.approx(float(moved[found.other] - moved[2]), abs=1e-5)
    assert found.other != 2 and found.fooled == (int(attacked.logits.argmax()) != 2)


def test_a_look_shows_itself_and_nothing_that_a_class_is_called_is_markup(own: Own) -> None:
    names = ["<b>", "![x](http://a.example/p.png)", "c", "d", "e"]
    shown = robustviz.look(own, X[3], eps=0.05, classes=names)._repr_html_()
    assert shown.count("<figure") == 5 and "<b>" not in shown and "http:" not in shown
    assert not re.search(r"<script|(src|href)=\"(?!data:image/png)", shown)
    assert re.fullmatch(r"Look: PGD-20 within ε .*\.", repr(robustviz.look(own, X[3], eps=0.05)))


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda net: robustviz.look(net, X, eps=0.1), r"choose one, for example x\[0\]"),
        (lambda net: robustviz.look(net, X[0]), "The attack has no ε"),
        (lambda net: robustviz.look(net, X[0], 7, eps=0.1), "The label 7 is outside"),
        (lambda net: robustviz.look(net, X[0], "cat", eps=0.1), "of type str"),
        (lambda net: robustviz.look(net, X[0] * 255, eps=0.1), "look like grey levels"),
        (lambda net: robustviz.look(net, X[0], eps=0.1, map="cam"), "Did you mean grad_cam"),
        (lambda net: robustviz.look(nn.Flatten(), X[0], eps=0.1), "no CAM map can be computed"),
        (lambda net: robustviz.look(5, X[0], eps=0.1), "nn.Module, but this is a int"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(
    own: Own, ask: Callable[[nn.Module], Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        ask(own)


def test_every_probe_takes_a_network_in_memory(own: Own, runs_home: Path) -> None:
    run = robustviz.as_run(own, (X, Y), eps="8/255")
    assert own.training and not net_of(run).training
    assert torch.equal(images_of(run).x, X) and run.eps == pytest.approx(8 / 255)
    found = probes.adversarial(run, probes.AdversarialSpec(index=3))
    np.testing.assert_allclose(found.x, X[3].numpy(), atol=1e-6)
    assert found.y == 3 % 5
    assert probes.attention(run, probes.AttentionSpec(index=2)).meta["run"] == run.id
    assert probes.contributions(run).meta["classes"] == list("01234")
    assert len(probes.gradients(run, probes.GradientsSpec(n=6)).norm) == 6
    assert probes.features(run, probes.FeaturesSpec(n=10)).meta["data"] == "given"
    assert not runs_home.exists()  # Nothing was saved.


def test_which_layer_is_looked_at_is_said_when_it_is_wrapped(own: Own) -> None:
    fine = robustviz.wrap(own, maps="stem.0", shape=(3, 16, 16))
    run = robustviz.as_run(fine, (X, Y))
    assert probes.attention(run, probes.AttentionSpec()).heat.shape[-2:] == (8, 8)


def test_two_networks_in_memory_are_told_apart(own: Own) -> None:
    other = Own()
    one, two = (robustviz.as_run(net, (X, Y)) for net in (own, other))
    assert one.id != two.id and one.weights != two.weights
    assert one.id == robustviz.as_run(own, (X, Y)).id


def test_a_network_of_fewer_classes_and_training_images_are_refused(own: Own) -> None:
    with pytest.raises(UserError, match="A label is 9, and this network has 5 classes"):
        robustviz.as_run(own, (X, Y + 5))
    run = robustviz.as_run(own, (X, Y))
    with pytest.raises(UserError, match=r"needs train images too, .*robustviz\.import_run"):
        data.load(run.config.data, "train")


def test_a_network_of_ours_needs_no_wrapping() -> None:
    net = nets.build("small_cnn", 5, 3, 16)
    assert type(net_of(robustviz.as_run(net, (X, Y)))) is type(net)
