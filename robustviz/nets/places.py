"""Finds the layers of any network that give the feature maps, the features and the logits, from one
forward pass. It also converts the output of a layer into a feature map and back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustviz.nets.base import frozen

FEWEST = 4  # smallest side of a feature map in cells, if the network has a map that large
PREFIX = 8  # largest number of class and register tokens assumed if no grid is given
# Layers that only pass on, pool or resize their input; their output is not used as feature maps.
PASSING = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Flatten,
    nn.Identity,
    nn.Softmax,
    nn.Upsample,
)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer: its `name`, the `layer`, its first positional argument (`given`; None if
    there was none) and its output (`out`).
    """

    name: str
    layer: nn.Module
    given: Any
    out: Any


@dataclass(frozen=True)
class Places:
    """The names of the layers that output maps and features, and of the head, the last layer. A
    name is "" if there is no such layer.

    If `features` is "", the features are the input of the head. `grid`: rows and columns of the
    tokens if the maps are made of tokens, else None.
    """

    maps: str
    features: str
    head: str
    grid: tuple[int, int] | None


@contextmanager
def watched(net: nn.Module) -> Iterator[list[Call]]:
    """A context that yields a list to which every call of a layer inside `net` is added.

    The calls are in the order in which they return.
    """
    calls: list[Call] = []

    def note(name: str) -> Any:
        return lambda layer, given, out: calls.append(
            Call(name, layer, given[0] if given else None, out)
        )

    hooks = [layer.register_forward_hook(note(name)) for name, layer in net.named_modules() if name]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def find(calls: Sequence[Call], logits: Tensor, x: Tensor) -> Places:
    """The places of a network, from the calls of a forward pass with gradients on images `x`.

    Only layers called once count. The head is the last linear layer (or convolution of a 1×1 map)
    with one output per class, and its input is the features. Without a head, the features are the
    last output with one vector per image that is not the logits. The maps are the last output of at
    least 4×4 cells, or if there is none of at least 2×2, on which the head's input (without a head:
    the logits) depends; layers in `PASSING`, such as average pooling, do not count. In a vision
    transformer with a class token, the maps are therefore the input of the last attention: after it
    the other tokens do not affect the features.
    """
    times = Counter(call.name for call in calls)
    once = [call for call in calls if times[call.name] == 1]
    head = next((call for call in reversed(once) if _is_head(call, logits)), None)
    vector = next((call for call in reversed(once) if _is_vector(call, logits)), None)
    read = logits if head is None else head.given
    width = read.shape[1] if head is not None else 0
    maps, grid = _last_map(once, read, width, x)
    return Places(
        "" if maps is None else maps.name,
        vector.name if head is None and vector is not None else "",
        "" if head is None else head.name,
        grid,
    )


def _is_head(call: Call, logits: Tensor) -> bool:
    return (
        isinstance(call.layer, (nn.Linear, nn.Conv2d))
        and isinstance(call.given, Tensor)
        and isinstance(call.out, Tensor)
        and call.given[0].numel() == call.given.shape[1]
        and call.out.flatten(1).shape == logits.shape
    )


def _is_vector(call: Call, logits: Tensor) -> bool:
    """Whether the call returns features, one vector per image, and not the logits themselves."""
    out = call.out
    if not isinstance(out, Tensor) or out.ndim < 2 or out[0].numel() != out.shape[1]:
        return False
    return out.requires_grad and not (
        out.flatten(1).shape == logits.shape and torch.equal(out.flatten(1), logits)
    )


def _last_map(
    calls: Sequence[Call], read: Tensor, width: int, x: Tensor
) -> tuple[Call | None, tuple[int, int] | None]:
    """The last call that outputs a map of at least 4×4 cells (if there is none: of at least 2×2) on
    which `read` depends; None if there is no such call.

    Also returns the grid of its tokens, or None for a map (N, D, h, w) or (N, h, w, D). Tokens
    count only if each has `width` numbers; with `width` 0 any number will do.
    """
    found: list[tuple[Call, tuple[int, int] | None, int]] = []
    sides: list[tuple[int, int]] = []  # sides of the maps found so far
    for call in calls:
        out, side = call.out, side_of_call(call, x)
        if side:
            sides.append(side)
        if not isinstance(out, Tensor) or not out.requires_grad or isinstance(call.layer, PASSING):
            continue
        if side and min(side) > 1:
            found.append((call, None, min(side)))
        elif (
            out.ndim == 3
            and out.shape[2] == (width or out.shape[2])
            and (grid := grid_of(out.shape[1], sides, x))
        ):
            found.append((call, grid, min(grid)))
    if not found or not read.requires_grad:
        return None, None
    slopes = torch.autograd.grad(
        read, [call.out for call, *_ in found], torch.randn_like(read), allow_unused=True
    )
    seen = [
        one
        for one, slope in zip(found, slopes, strict=True)
        if slope is not None and _any(*one[1:], slope)
    ]
    best = next((one for one in reversed(seen) if one[2] >= FEWEST), None)
    best = best or (seen[-1] if seen else None)
    return (None, None) if best is None else best[:2]


def _any(grid: tuple[int, int] | None, side: int, slope: Tensor) -> bool:
    return bool((slope if grid is None else slope[:, -grid[0] * grid[1] :]).any())


def side_of_call(call: Call, x: Tensor) -> tuple[int, int] | None:
    """Rows and columns of a layer's output (N, D, h, w) or (N, h, w, D) for images `x`.

    None if the output does not have the proportions of the images.
    """
    out = call.out
    if not isinstance(out, Tensor) or out.ndim != 4:
        return None
    for side in (out.shape[2:], out.shape[1:3]):
        if _alike(side[0], side[1], x):
            return side[0], side[1]
    return None


def _alike(rows: int, columns: int, x: Tensor) -> bool:
    """Whether this many rows and columns have the proportions of the images, to within a cell, and
    are not more than the images have.
    """
    height, width = x.shape[2:]
    return rows <= height and columns <= width and abs(rows - columns * height / width) < 1


def grid_of(tokens: int, sides: Sequence[tuple[int, int]], x: Tensor) -> tuple[int, int] | None:
    """Rows and columns of the image tokens among `tokens` tokens; None if no grid fits.

    Up to `PREFIX` class or register tokens come before them. `sides`: rows and columns of earlier
    maps; the last that fits is taken. If none fits, the grid is a square, provided that the images
    `x` (N, C, H, W) are about square.
    """
    for rows, columns in reversed(sides):
        if 0 <= tokens - rows * columns <= PREFIX and rows * columns > 1:
            return rows, columns
    side = int(tokens**0.5)
    fits = side > 1 and tokens - side * side <= PREFIX and _alike(side, side, x)
    return (side, side) if fits else None


def as_map(out: Tensor, grid: tuple[int, int] | None, x: Tensor) -> Tensor | None:
    """A layer's output for images `x` as maps (N, D, h, w); None if it cannot be read as maps.

    `grid`: rows and columns of the tokens if the output is tokens (N, T, D), else None; class
    tokens are left out.
    """
    if not out.is_floating_point():
        return None
    if out.ndim == 4:
        _, first, second, third = out.shape
        last = not _alike(second, third, x) and _alike(first, second, x)
        return out.permute(0, 3, 1, 2) if last else out
    if out.ndim != 3 or grid is None or out.shape[1] < grid[0] * grid[1]:
        return None
    tokens = out[:, -grid[0] * grid[1] :].transpose(1, 2)
    return tokens.reshape(*tokens.shape[:2], *grid)


def from_map(maps: Tensor, out: Tensor) -> Tensor:
    """The layer's output `out` with the map that `as_map` took from it replaced by `maps`."""
    if out.ndim == 4:
        return maps.clone() if maps.shape == out.shape else maps.permute(0, 2, 3, 1)
    tokens = maps.flatten(2).transpose(1, 2)
    return torch.cat([out[:, : out.shape[1] - tokens.shape[1]], tokens], dim=1)


def trial(net: nn.Module, x: Tensor) -> tuple[Any, list[Call]]:
    """Runs `net` in eval mode on a copy of the images `x` that requires a gradient; returns its
    output and the calls of its layers.
    """
    with torch.inference_mode(False), frozen(net), watched(net) as calls, torch.enable_grad():
        return net(x.clone().requires_grad_()), calls
