"""The promises of every attack, checked in each norm that it accepts."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import plugins, registry
from robustviz.attacks import APGD, Attack, AutoAttack, Square
from robustviz.contracts import hold, promise
from robustviz.contracts.toys import conv, images, labels, toy
from robustviz.types import UserError

# attacks whose random numbers for an image depend on its index in the batch
AT_RANDOM = (APGD, Square, AutoAttack)
STOPS = (APGD, Square, AutoAttack)  # attacks that leave misclassified images unchanged


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def size(delta: Tensor, norm: str) -> Tensor:
    """The size of each image's perturbation in `delta` (N, C, H, W), in the norm `linf` or `l2`;
    (N,).
    """
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The accuracy of `net` on images `x` with labels `y`, in [0, 1]."""
    with torch.no_grad():
        return float((net(x).argmax(1) == y).double().mean())


@promise("attack")
def has_words(attack: Attack) -> None:
    """The attack has the class attributes that the app shows: `label` and `text`."""
    said = plugins.incomplete("attack", type(attack))
    hold(not said, f"{type(attack).__name__} {said}")


@promise("attack")
def in_the_ball(attack: Attack) -> None:
    """Attacked images have the shape and dtype of the originals, lie in the ball and in [0, 1], and
    differ from the originals; APGD, Square and AutoAttack leave images that were misclassified
    already unchanged, and change those that they fool.
    """
    net, x, y = conv(), images(), labels()
    x_adv = attack(net, x, y, rng=_seeded(3))
    hold(
        x_adv.shape == x.shape and x_adv.dtype == x.dtype,
        "The attacked images have another shape or dtype.",
    )
    hold(x_adv.min() >= 0 and x_adv.max() <= 1, "Values leave [0, 1].")
    far = float(size(x_adv - x, attack.norm).max())
    hold(far <= (attack.eps or 0) + 1e-6, f"A change of {far:.4g} is larger than {attack.eps}.")
    with torch.no_grad():
        right, stays = net(x).argmax(1) == y, net(x_adv).argmax(1) == y
    moved = size(x_adv - x, attack.norm) > 0
    if isinstance(attack, STOPS):
        kept = not moved[~right].any() and moved[right & ~stays].all()
        hold(kept, "An image that was misclassified already was changed, or a fooled one was not.")
    else:
        hold(moved.all(), f"{int((~moved).sum())} of {len(x)} images were not changed.")


@promise("attack")
def nothing_without_a_radius(attack: Attack) -> None:
    """With eps=0 the images are returned unchanged."""
    x_adv = replace(attack, eps=0.0)(conv(), images(), labels(), rng=_seeded(3))
    hold(torch.equal(x_adv, images()), "With eps=0 the images change.")


@promise("attack")
def the_seed_decides(attack: Attack) -> None:
    """The same seed gives the same images bit for bit, no generator means seed 0, and torch's
    global generator is left as it is.
    """
    net, x, y = conv(), images(), labels()
    everywhere = torch.get_rng_state()
    once, again = (attack(net, x, y, rng=_seeded(5)) for _ in range(2))
    hold(torch.equal(once, again), "The same seed gives other images: draw from the rng given.")
    none = torch.equal(attack(net, x, y), attack(net, x, y, rng=_seeded(0)))
    hold(none, "Without a seed the images are not those of seed 0.")
    hold(
        torch.equal(torch.get_rng_state(), everywhere),
        "It uses torch's global generator: draw from the rng given instead.",
    )


@promise("attack")
def another_seed_another_start(attack: Attack) -> str | None:
    """If the start is random, another seed gives another result."""
    if "start" not in registry.hints(type(attack)):
        return "It has no choice of start."
    begun = replace(attack, start="uniform")  # type: ignore[call-arg]
    one, other = (begun(conv(), images(), labels(), rng=_seeded(seed)) for seed in (0, 1))
    hold(not torch.equal(one, other), "Seeds 0 and 1 give the same images.")
    return None


@promise("attack")
def one_by_one(attack: Attack) -> str | None:
    """Attacking images in a batch gives the same result, up to rounding in float64, as attacking
    them one by one; an attack with a choice of start begins at the image itself.
    """
    if isinstance(attack, AT_RANDOM):
        return "It draws other noise for an image that is attacked alone."
    if "start" in registry.hints(type(attack)):
        attack = replace(attack, start="zero")  # type: ignore[call-arg]
    net, x, y = conv().double(), images().double(), labels()
    alone = torch.cat([attack(net, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    apart = float((attack(net, x, y) - alone).abs().max())
    hold(apart < 1e-9, f"Images attacked alone differ by {apart:.2g} from those in a batch.")
    return None


@promise("attack")
def nothing_is_touched(attack: Attack) -> None:
    """The attack and its trace return images that require no gradient, and leave the given images
    and the network's modes, requires_grad flags, gradients, weights and statistics as they are.
    """
    net, x, y = conv().train(), images(), labels()
    body: Any = net.maps
    body[2].eval()  # as if the user had frozen one batch norm and one weight on purpose
    body[1].weight.requires_grad_(False)
    F.cross_entropy(net(x), y).backward()
    before, given = _state(net), x.clone()
    for x_adv in (attack(net, x, y), attack.trace(net, x, y)):
        hold(not x_adv.requires_grad, "The returned images require a gradient: detach them.")
    for (what, was), now in zip(before.items(), _state(net).values(), strict=True):
        same = len(was) == len(now) and all(map(_same, was, now))
        hold(same, f"The network's {what} have changed.")
    hold(torch.equal(x, given) and not x.requires_grad and x.grad is None, "It changes its input.")


def _state(net: nn.Module) -> dict[str, list[Any]]:
    return {
        "modes": [module.training for module in net.modules()],
        "requires_grad flags": [p.requires_grad for p in net.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "weights or statistics": [value.clone() for value in net.state_dict().values()],
    }


def _same(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return torch.equal(one, other) if both else one is other


@promise("attack")
def restored_when_it_fails(attack: Attack) -> None:
    """An error of the network during the attack is passed on, and the network's modes and
    requires_grad flags are restored.
    """

    def fails(*_: object) -> None:
        raise ArithmeticError

    net = conv().train()
    net.head.register_forward_hook(fails)
    with contextlib.suppress(ArithmeticError):
        attack(net, images(), labels())
        hold(False, "It swallows an error of the network.")
    hold(all(module.training for module in net.modules()), "The network stays in eval mode.")
    hold(all(p.requires_grad for p in net.parameters()), "The network's weights stay frozen.")


@promise("attack")
def it_fools(attack: Attack) -> None:
    """The attack lowers the accuracy of a trained network, which is above 95%, by more than 10
    percentage points.
    """
    net, x, y = toy().net, toy().x, toy().y
    before, after = accuracy(net, x, y), accuracy(net, attack(net, x, y), y)
    hold(
        before > 0.95 and after < before - 0.1,
        f"The accuracy goes from {before:.0%} to {after:.0%}; it must fall from above 95% by more"
        " than 10 points.",
    )


@promise("attack")
def it_aims(attack: Attack) -> str | None:
    """A targeted attack brings more images to the target class than an untargeted attack does, and
    more than are classified so without an attack.
    """
    if "targeted" not in registry.hints(type(attack)):
        return "It has no targeted form."
    net, x, target = toy().net, toy().x, (toy().y + 1) % 4
    aimed = replace(attack, targeted=True)
    reached = accuracy(net, aimed(net, x, target), target)
    strayed = accuracy(net, attack(net, x, toy().y), target)
    hold(
        reached > strayed and reached > accuracy(net, x, target),
        f"Targeted, it reaches the class on {reached:.0%} of the images; untargeted, on"
        f" {strayed:.0%}.",
    )
    return None


@promise("attack")
def its_way(attack: Attack) -> None:
    """The trace has one entry more than there are steps, every entry lies in the ball, and the last
    one is the attack's result bit for bit.
    """
    net, x, y = conv(), images(), labels()
    path = attack.trace(net, x, y, rng=_seeded(4))
    hold(path.shape == (attack.count + 1, *x.shape), f"A trace of shape {tuple(path.shape)}.")
    ends = torch.equal(path[-1], attack(net, x, y, rng=_seeded(4)))
    hold(ends, "The trace does not end at the attack's result.")
    far = max(float(size(step - x, attack.norm).max()) for step in path)
    hold(far <= (attack.eps or 0) + 1e-6, f"A step lies {far:.4g} away, outside the ball.")


@promise("attack")
def a_radius_is_needed(attack: Attack) -> None:
    """Without an eps the attack raises a UserError that says so."""
    try:
        replace(attack, eps=None)(conv(), images(), labels())
    except UserError as error:
        hold("no eps" in str(error), f"It says something else: {error}")
    else:
        hold(False, "It attacks without a radius.")


@promise("attack")
def one_image(attack: Attack) -> None:
    """A batch of a single image is attacked within the ball and keeps its shape."""
    x = toy().x[:1]
    x_adv = attack(toy().net, x, toy().y[:1])
    hold(
        x_adv.shape == x.shape and size(x_adv - x, attack.norm).max() <= (attack.eps or 0) + 1e-6,
        "A single image is returned in another shape, or outside the ball.",
    )


@promise("attack")
def float64(attack: Attack) -> None:
    """Images in float64 are attacked and returned in float64."""
    x_adv = attack(conv().double(), images().double(), labels())
    hold(x_adv.dtype == torch.float64, f"The images are returned in {x_adv.dtype}.")
