"""The promises of every training method."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from robustviz import plugins, registry
from robustviz.contracts import hold, promise
from robustviz.contracts.toys import C, H, N, W, conv, images, labels
from robustviz.data import Dataset
from robustviz.methods.base import Adversarial, Method, Stage, Terms, check_terms
from robustviz.nets.base import Classifier
from robustviz.training.config import TrainConfig
from robustviz.types import Batch

EPS = 0.1
Stages = list[tuple[Stage, nn.Module | None]]


class Earlier:
    """A stand-in for a network that was trained before: `conv` of `toys`, with 4 classes."""

    name, architecture, weights = "earlier", "small_resnet", "some"
    shape, classes = (4, C, W), ()

    def net(self) -> Classifier:
        return conv(seed=5)


def network(method: Method) -> Classifier:
    """The network `conv` with what `method` adds to its architecture, in float64 and train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return method.network(conv()).double().train()


def make(x: Tensor, y: Tensor, index: Tensor | None = None) -> Batch:
    """A batch of images `x` with everything that a method may need: two views, and object masks.

    `index` (N,): the images' indices in the training split; None: 0 to len(y) − 1. The batch is of
    epoch 0, at half of the training (`progress` 0.5).
    """
    index = torch.arange(len(y)) if index is None else index
    views = torch.stack([x, (x.flip(-1) + 0.02).clamp(0, 1)])
    objects = (x > 0.5).any(dim=1, keepdim=True)
    return Batch(
        x,
        y,
        index,
        epoch=0,
        progress=0.5,
        rng=torch.Generator().manual_seed(3),
        views=views,
        objects=objects,
    )


def usual() -> Batch:
    """The batch on which promises are checked: images (12, 2, 9, 7) in float64, labels of 4
    classes.
    """
    return make(images().double(), labels())


def each_stage(method: Method, net: nn.Module) -> Stages:
    """The method's stages, each with the network that its loss gets as `aux`, in float64.

    That is the network that `initial` returns, else a new one from `aux` for each stage, else None.
    """
    config = TrainConfig(method=method)
    blank = torch.zeros(N, C, H, W, dtype=torch.uint8)
    split = Dataset("made up", "train", blank, torch.arange(N) % 4, ("a", "b", "c", "d"))
    found: Any = lambda *name, **more: Earlier()  # noqa: E731
    with torch.random.fork_rng():
        torch.manual_seed(2)
        helper = method.initial(copy.deepcopy(net), config, split, found)  # type: ignore[arg-type]
    out: Stages = []
    for stage in method.stages(config):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            aux = method.aux(net, config) if helper is None else helper  # type: ignore[arg-type]
        out.append((stage, aux.double() if aux is not None else None))
    return out


def gradients(net: nn.Module, terms: Terms) -> list[Tensor]:
    """The gradient of the sum of `terms` for each parameter of `net`; zeros for a parameter on
    which no term depends.
    """
    total = torch.stack(list(terms.values())).sum()
    parameters = list(net.parameters())
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@promise("method")
def has_words(method: Method) -> None:
    """The method has the class attributes that the app shows: `label`, `group`, `paper`, `text`."""
    said = plugins.incomplete("method", type(method))
    hold(not said, f"{type(method).__name__} {said}")


@promise("method")
def finite_terms(method: Method) -> None:
    """In every stage there is at least one loss term, each is a finite scalar, and all parameters
    being trained, also those of a helper network, get a gradient other than 0.
    """
    method = method.bound(EPS)
    net = network(method)
    for stage, aux in each_stage(method, net):
        terms = check_terms(stage.loss(net, usual(), aux))
        hold(terms, f"Stage {stage.name} has no terms.")
        for name, term in terms.items():
            hold(term.isfinite(), f"The term {name} is {float(term.detach())}.")
        net.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        learning = list(stage.trainable(net))
        hold(learning, f"Stage {stage.name} trains nothing.")
        if aux is not None:
            learning += [p for p in aux.parameters() if p.requires_grad]
        still = sum(p.grad is None or not p.grad.abs().max() > 0 for p in learning)
        hold(not still, f"{still} of {len(learning)} parameters get no gradient in {stage.name}.")


@promise("method")
def whole_stages(method: Method) -> None:
    """The stages' shares of the epochs add up to 1, their names differ, and every parameter of the
    network is trained in at least one of them.
    """
    method = method.bound(EPS)
    net = network(method)
    stages = [stage for stage, _ in each_stage(method, net)]
    total = sum(stage.share_of_epochs for stage in stages)
    hold(math.isclose(total, 1, rel_tol=1e-6), f"The stages' shares add up to {total:g}.")
    hold(len({stage.name for stage in stages}) == len(stages), "Two stages have the same name.")
    every = {p for stage in stages for p in stage.trainable(net)}
    hold(every == set(net.parameters()), "A parameter is never trained.")


@promise("method")
def nothing_is_touched(method: Method) -> None:
    """A loss leaves the batch, the helper network, and the weights, modes, requires_grad flags and
    gradients of the network unchanged; the network's running statistics may change.
    """
    method = method.bound(EPS)
    net, batch = network(method), usual()
    body: Any = net.maps
    body[2].eval()
    modes, asks = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    x, y, weights = batch.x.clone(), batch.y.clone(), [p.clone() for p in net.parameters()]
    for stage, aux in each_stage(method, net):
        inside = {} if aux is None else {k: v.clone() for k, v in aux.state_dict().items()}
        stage.loss(net, batch, aux)
        if aux is not None:
            same = all(torch.equal(value, inside[name]) for name, value in aux.state_dict().items())
            hold(same, "The helper network is changed.")
            hold(
                all(p.grad is None for p in aux.parameters()),
                "The helper network has gradients afterwards.",
            )
        hold(all(map(torch.equal, net.parameters(), weights)), "The network's weights are changed.")
        hold([m.training for m in net.modules()] == modes, "The network's modes are changed.")
        hold([p.requires_grad for p in net.parameters()] == asks, "requires_grad is changed.")
        hold(all(p.grad is None for p in net.parameters()), "The network has gradients afterwards.")
    hold(torch.equal(batch.x, x) and torch.equal(batch.y, y), "The batch is changed.")
    # weights that are no leaves would carry an attack's graph into later steps
    hold(all(p.is_leaf for p in net.parameters()), "Weights are part of an attack's graph.")


@contextmanager
def _fixed_starts() -> Iterator[None]:
    """A context in which every registered attack starts at a point that depends on the image alone,
    not on its index in the batch, as random points do.
    """

    def start(self: Any, ball: Any, rng: Any) -> Tensor:
        placed: Tensor = ball.project(ball.x + 0.02 * torch.cos(50 * ball.x))
        return placed

    with ExitStack() as stack:
        for key in registry.keys("attack"):
            cls = registry.get("attack", key)
            stack.enter_context(mock.patch.object(cls, "starting_points", start))
        yield


@promise("method")
def no_order(method: Method) -> None:
    """The order within a batch affects neither the loss terms nor the gradients, if attacks start
    at points that depend on the image alone.
    """
    method = method.bound(EPS)
    net, batch = network(method), usual()
    mixed = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    with _fixed_starts():
        for stage, aux in each_stage(method, net):
            # a copy, since a loss in train mode changes the running statistics that the next attack
            # sees
            other = copy.deepcopy(net)
            straight = check_terms(stage.loss(net, batch, aux))
            turned = make(batch.x[mixed], batch.y[mixed], batch.index[mixed])
            permuted = stage.loss(other, turned, aux)
            hold(
                straight.keys() == permuted.keys(),
                "In another order of the images it has other terms.",
            )
            for name in straight:
                same = torch.allclose(straight[name], permuted[name], atol=1e-9)
                hold(same, f"The term {name} depends on the order of the images.")
            pairs = zip(gradients(net, straight), gradients(other, permuted), strict=True)
            same = all(torch.allclose(a, b, atol=1e-9) for a, b in pairs)
            hold(same, "Its gradients depend on the order of the images.")


@promise("method")
def rests_while_attacked(method: Method) -> str | None:
    """The method's attack, which at least one stage uses, leaves batch norm alone (eval mode)
    unless attack_mode is train; a stage that freezes modules is attacked in eval mode in either
    case.
    """
    if not isinstance(method, Adversarial):
        return "It attacks nothing."
    for mode in ("eval", "train"):
        asked = replace(method, attack_mode=mode).bound(EPS)
        # whether the body is in train mode, at each forward pass of an attack
        attacking: list[bool] = []
        net = network(asked)
        net.maps.register_forward_pre_hook(
            lambda module, args, seen=attacking: (
                seen.append(module.training) if args[0].requires_grad else None
            )
        )
        attacked = False
        for stage, aux in each_stage(asked, net):
            attacking.clear()
            stage.loss(net, usual(), aux)
            attacked |= bool(attacking)
            # a frozen body stays in eval mode; a stage may also train on clean images without any
            # attack
            wanted = mode == "train" and not stage.frozen_eval
            hold(
                set(attacking) <= {wanted},
                f"With attack_mode={mode} the network is attacked in the other mode: use"
                " self.attacked(net, batch).",
            )
        hold(attacked, "It attacks nothing: use self.attacked(net, batch), or derive from Method.")
    return None


@promise("method")
def takes_the_radius(method: Method) -> str | None:
    """A config's eps becomes the eps of the method's attack, unless the attack has its own."""
    attack = getattr(method, "attack", None)
    if attack is None:
        return "It has no attack."
    bound: Any = TrainConfig(method=method, eps=0.07).bound_method
    hold(bound.attack.eps == (attack.eps or 0.07), f"Its attack's eps is {bound.attack.eps}.")
    return None
