"""The promises of every network. A check takes the network's key and builds what it needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from robustviz import nets, registry
from robustviz.contracts import hold, promise
from robustviz.types import UserError

# made for 32 pixels: the side of its last map is an eighth of the image's
SMALL_MAPS = ("resnet18",)
SHAPES = ((1, 8), (3, 32), (2, 28), (1, 11), (3, 64))


def check_parts(key: str, net: nets.Classifier, x: torch.Tensor) -> None:
    """Raises Broken unless `net.forward(x)`, for a `net` in eval mode, is head(pool(maps(x))) bit
    for bit, with correct shapes for 5 classes. The maps must have at least 4×4 cells, except for
    `SMALL_MAPS` below 32 pixels.
    """
    with torch.no_grad():
        maps = net.maps(x)
        features, logits = net.pool(maps), net(x)
        hold(
            maps.ndim == 4, f"`maps` returns shape {tuple(maps.shape)}, which is not (N, D, h, w)."
        )
        least = min(maps.shape[-2:])
        hold(
            least >= 4 or (key in SMALL_MAPS and x.shape[-1] < 32),
            f"For images of {x.shape[-1]} pixels the last feature map has {least}; CAM maps need"
            " at least 4.",
        )
        hold(
            features.shape == (len(x), maps.shape[1]), "`pool` returns another number of features."
        )
        hold(
            logits.shape == (len(x), 5),
            f"The logits have shape {tuple(logits.shape)} for 5 classes.",
        )
        hold(torch.equal(net.head(features), logits), "`forward` is not head(pool(maps(x))).")


def check_gradients(net: nets.Classifier, x: torch.Tensor) -> None:
    """Raises Broken if the gradient of the loss on `x` is 0 everywhere or not finite for a
    parameter, or if it is 0 for a pixel in all images. Afterwards `net` is in train mode and `x`
    requires a gradient, and the gradients are stored in `.grad`.
    """
    x.requires_grad_()
    F.cross_entropy(net.train()(x), torch.arange(len(x))).backward()
    for name, parameter in net.named_parameters():
        grad = parameter.grad
        lives = grad is not None and bool(grad.isfinite().all() and grad.abs().max() > 1e-7)
        hold(lives, f"{name} has no gradient.")
    hold(x.grad is not None and (x.grad.abs().amax((0, 1)) > 0).all(), "A pixel has no gradient.")


@promise("net")
def three_parts(key: str) -> None:
    """The logits are head(pool(maps(x))), and the maps have at least 4×4 cells (those of resnet18
    only for images from 32 pixels up).
    """
    for channels, size in SHAPES:
        net = nets.build(key, classes=5, channels=channels, size=size).eval()
        check_parts(key, net, torch.rand(1 if size == 64 else 3, channels, size, size))


@promise("net")
def everything_has_a_gradient(key: str) -> None:
    """Every parameter and every pixel has a gradient other than 0."""
    for channels, size in ((1, 8), (3, 28)):
        net = nets.build(key, classes=5, channels=channels, size=size)
        check_gradients(net, torch.rand(4, channels, size, size))


@promise("net")
def its_size(key: str) -> None:
    """The label states the millions of parameters for 10 classes, like "Pocket CNN (0.01 M)"."""
    label = str(registry.get("net", key).label)
    try:
        millions = float(label.rsplit("(", 1)[1].removesuffix(" M)"))
    except (IndexError, ValueError):
        hold(False, f"{label!r} does not end in its millions of parameters, like (0.01 M).")
    count = sum(p.numel() for p in nets.build(key, classes=10).parameters()) / 1e6
    hold(abs(count - millions) < 0.05 * max(1, count), f"{label!r} has {count:.2f} M parameters.")


@promise("net")
def normalised_inside(key: str) -> None:
    """The network normalises its input itself, and saves mean and std with its weights."""
    torch.manual_seed(0)
    plain = nets.build(key, classes=4, channels=2, size=16).eval()
    scaled = nets.build(key, classes=4, channels=2, size=16, mean=[0.2, 0.6], std=[0.5, 0.1])
    weights = {
        name: value
        for name, value in plain.state_dict().items()
        if name not in ("maps.0.mean", "maps.0.std")
    }
    scaled.load_state_dict(weights, strict=False)
    x = torch.rand(3, 2, 16, 16)
    mean, std = (torch.tensor(v).view(1, 2, 1, 1) for v in ([0.2, 0.6], [0.5, 0.1]))
    with torch.no_grad():
        by_hand = torch.allclose(scaled.eval()(x), plain((x - mean) / std), atol=1e-5)
        hold(
            by_hand, "mean and std are not applied first: make Normalise the first layer of `maps`."
        )
        again = nets.build(key, classes=4, channels=2, size=16)
        again.load_state_dict(scaled.state_dict())
        hold(torch.equal(again.eval()(x), scaled(x)), "mean and std are not in its state_dict.")


@promise("net")
def the_seed_decides(key: str) -> None:
    """The initial weights depend only on torch's seed, and another seed gives others."""

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        net = nets.build(key, classes=4, channels=1, size=8)
        return torch.cat([p.flatten() for p in net.parameters()])

    hold(torch.equal(draw(0), draw(0)), "The same seed gives other weights.")
    hold(not torch.equal(draw(0), draw(1)), "Another seed gives the same weights.")


@promise("net")
def what_is_too_small(key: str) -> None:
    """Building the network for images below 8 pixels or one class raises a UserError."""
    for classes, size, word in ((4, 7, "too small"), (1, 32, "at least 2 classes")):
        try:
            nets.build(key, classes=classes, size=size)
        except UserError as error:
            hold(word in str(error), str(error))
        else:
            hold(False, f"It can be built for {classes} classes of {size} pixels.")
