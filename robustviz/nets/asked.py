"""Checks of the arguments of `wrap`: the module, layer names, image sizes, mean and std."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustviz import registry
from robustviz.nets.base import PerChannel
from robustviz.types import UserError, plain

SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 16, 8)  # tried if neither size nor shape is given


def module_of(module: nn.Module) -> nn.Module:
    """`module`, taken out of wrappers such as those of torch.compile and DataParallel.

    Raises UserError if it is no nn.Module, or a program whose layers cannot be inspected
    (torch.export, TorchScript).
    """
    if isinstance(module, torch.export.ExportedProgram):
        raise UserError(
            "This is a torch.export program: pass torch.export.unflatten(program), whose layers"
            " can be inspected."
        )
    if not isinstance(module, nn.Module):
        raise UserError(
            f"A network must be an nn.Module, but this is a {type(module).__name__}: pass the"
            " network itself or, for a class, an instance of it."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            "This network is a TorchScript program, whose layers cannot be inspected: pass the"
            " nn.Module that it was made from."
        )
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return module_of(module.module)
    inner = module._modules.get("_orig_mod")  # attribute set by torch.compile
    return module if inner is None else module_of(inner)


def shapes(
    module: nn.Module,
    mean: PerChannel,
    std: PerChannel,
    size: int | None,
    shape: Sequence[int] | None,
) -> list[tuple[int, ...]]:
    """The image shapes (C, H, W) to try, the most likely first; only `shape` if it is given.

    C is the length of `mean`, else of `std`, else the first convolution's number of input
    channels; without a convolution 3 and 1 are both tried. H = W is `size`, or if that is None each
    of `SIDES` in turn. Raises UserError for an invalid size or shape.
    """
    if size is not None and (not isinstance(plain(size), int) or size < 1):
        raise UserError(
            f"size={size!r} is not a number of pixels: it must be a whole number from 1 up."
        )
    if shape is not None:
        sides = tuple(plain(side) for side in shape)
        if len(sides) != 3 or not all(type(side) is int and side > 0 for side in sides):
            raise UserError(f"shape={shape!r} is not the shape of an image: it must be (C,H,W).")
        return [sides]
    given = len(mean or std or ())
    colours = [count] if (count := given or channels(module)) else [3, 1]
    return [(c, s, s) for s in ([size] if size else SIDES) for c in colours]


def channels(module: nn.Module) -> int:
    """The number of channels that the first convolution takes; 0 if there is no convolution."""
    each = (layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return next(each, 0)


def checked_scale(
    mean: PerChannel, std: PerChannel, channels: int
) -> tuple[PerChannel, PerChannel]:
    """Returns `mean` and `std` unchanged.

    Raises UserError unless each that is given has one number per channel, and all of `std` are
    above 0.
    """
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (0, channels):
            raise UserError(
                f"{name} has {len(values)} numbers, but the images have {channels} channels: give"
                " one number per channel."
            )
    if any(not float(value) > 0 for value in std or ()):
        raise UserError(f"std={std!r} is not valid: all numbers must be above 0.")
    return mean, std


def checked_grid(grid: Sequence[int] | None) -> tuple[int, int] | None:
    """`grid` as (rows, columns); None if `grid` is None. Raises UserError unless `grid` is a tuple
    or list of two positive integers.
    """
    if grid is None:
        return None
    sides = [plain(side) for side in grid] if isinstance(grid, (tuple, list)) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"grid={grid!r} is not a grid of tokens: it must be (rows, columns).")
    return sides[0], sides[1]


def check_name(module: nn.Module, name: str | None) -> None:
    """Raises UserError if `name` is neither None nor empty and no layer of `module` has it."""
    known = [other for other, _ in module.named_modules() if other]
    if name and name not in known:
        near = registry.unknown("layer", name, known).partition(" Known: ")[0]
        top = ", ".join(other for other, _ in module.named_children()) or "none"
        raise UserError(f"{near} Its outermost layers: {top}.", code=2)


def in_words(out: Any) -> str:
    """What a network or layer returned, in words for messages: the shape and dtype of a tensor,
    else the type and its keys or length.
    """
    if isinstance(out, Tensor):
        return f"{tuple(out.shape)} of {str(out.dtype).removeprefix('torch.')}"
    if isinstance(out, Mapping):
        return f"a {type(out).__name__} with {', '.join(map(str, out)) or 'nothing in it'}"
    if isinstance(out, (tuple, list)):
        return f"a {type(out).__name__} of {len(out)}"
    return f"a {type(out).__name__}"
