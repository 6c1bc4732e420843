"""What a network from elsewhere is of: which module its weights fit, and what makes that again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robustviz import plugins
from robustviz.nets import known
from robustviz.nets.attackable import device_of
from robustviz.nets.base import Classifier, frozen
from robustviz.nets.wrapped import Wrapped
from robustviz.runs import checkpoint
from robustviz.types import JSON, UserError, harmless

NEAR = 0.6  # share of weights that agree from which another network is called near
Say = Callable[[str], object]
Net = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]
Shape = tuple[int, int, int]  # classes, channels and pixels of a side


@dataclass(eq=False)
class Found:
    """A network that is being imported: where it is from, its code's SHA-256, what was said of how
    to look into it, and the mean and deviation that came with its weights.
    """

    module: nn.Module
    source: str
    told: JSON = field(default_factory=dict)
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    plugins: list[JSON] = field(default_factory=list)


def found_in(net: Net, model: str, entry: str, shape: Shape, say: Say) -> Found:
    """The module that weights fit, with them in it."""
    if isinstance(net, nn.Module):
        return _of_module(net, model, shape)
    if isinstance(net, Mapping):
        state, file = dict(net), "This network"
    else:
        held = checkpoint.read(net, entry)
        state, file = held.state, harmless(Path(net).name)
        if held.entry:
            others = f"; there are {', '.join(held.others)} too" if held.others else ""
            say(f"The weights are those under {held.entry!r}{others}.")
    if not model:
        return _guessed(state, file, shape, say)
    refused: UserError | None = None
    for source in sorted(known.sources(model), key=lambda one: -_agrees(state, one, shape)):
        try:
            return _fitted(state, source, file, shape)
        except UserError as error:
            refused = refused or error
    assert refused is not None
    near = "" if "classes" in str(refused) else _near(state, shape, model)
    raise UserError(f"{refused}{near}") from refused


def _fitted(state: Mapping[str, Tensor], source: str, file: str, shape: Shape) -> Found:
    module = known.module(source, *shape)
    fits = checkpoint.fitted(state, module.state_dict(), source, file)
    module.load_state_dict(fits.state)
    return _with_code(Found(module.eval(), source, mean=fits.mean, std=fits.std))


def _with_code(found: Found) -> Found:
    """The same with the code that makes it named as every process finds it."""
    if known.is_code(found.source):
        place, _, make = found.source.rpartition(":")
        plugin = plugins.use(place)
        found.source = f"{plugin.source}:{make}"
        found.told["sha256"] = plugin.sha256
        found.plugins = [{"source": plugin.source, "sha256": plugin.sha256}]
    return found


def _agrees(state: Mapping[str, Tensor], source: str, shape: Shape) -> float:
    """How well weights agree with what is named; of somebody's code that is not asked."""
    other = None if known.is_code(source) else known.without_weights(source, *shape)
    return checkpoint.agreement(state, known.shapes_of(other), source) if other else 0.0


def _guessed(state: Mapping[str, Tensor], file: str, shape: Shape, say: Say) -> Found:
    """The weights in the one of our and torchvision's usual networks that they fit."""
    for source, other in known.usual(*shape):
        if checkpoint.agreement(state, known.shapes_of(other), source) == 1:
            say(f"The weights fit {source}.")
            return _fitted(state, source, file, shape)
    near = _near(state, shape, "")
    raise UserError(
        f"{file} fits no network of robustviz, and none of torchvision's usual ones with"
        f" {shape[0]} classes.{near} Name its own: model=… (on the command line --net or --model)."
    )


def _near(state: Mapping[str, Tensor], shape: Shape, but: str) -> str:
    """A sentence about the network that comes nearest, if any does."""
    shares = {
        source: checkpoint.agreement(state, known.shapes_of(other), source)
        for source, other in known.usual(*shape)
        if but not in (source, source.partition(":")[2])
    }
    best = max(shares, key=lambda one: shares[one])
    if shares[best] < NEAR:
        return ""
    how = "its weights fit all" if shares[best] == 1 else f"{shares[best]:.0%} of its weights agree"
    return f" The nearest network is {best}: {how}."


def _of_module(net: nn.Module, model: str, shape: Shape) -> Found:
    """A module in memory, and the same made again by what `model` names."""
    told: JSON = {}
    if isinstance(net, Wrapped):
        told = {key: value for key, value in net.description().items() if value is not None}
        net = net.module
    sources = known.sources(model) if model else [known.source_of(net)]
    if not sources[0]:
        raise UserError(
            "A network in memory is kept by what makes it again: name that with model=…, such as"
            " 'FILE.py:make', 'pkg.mod:make', 'torchvision:NAME' or 'timm:NAME'."
        )
    refused: UserError | None = None
    for source in sources:
        try:
            found = _fitted(net.state_dict(), source, "This network", shape)
            break
        except UserError as error:
            refused = refused or error
    else:
        assert refused is not None
        raise refused
    _check_same(net, found.module, source, shape)
    scale = (told.pop("mean", None), told.pop("std", None))
    told.pop("shape", None)
    found.told |= told
    found.mean, found.std = scale if any(scale) else (found.mean, found.std)
    return found


def _check_same(net: nn.Module, again: nn.Module, source: str, shape: Shape) -> None:
    """Raises UserError unless the network that `source` makes answers as this one does."""
    x = torch.rand((2, *shape[1:], shape[2]), generator=torch.Generator().manual_seed(0))
    try:
        first, second = _answer(net, x), _answer(again, x)
    except Exception:  # it may want larger images: then its first look will tell
        return
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return
    if first.shape != second.shape or not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise UserError(
            f"What {source} makes answers otherwise than this network with the same weights, so it"
            " is another one: name what makes it with model=…"
        )


def _answer(net: nn.Module, x: Tensor) -> object:
    with frozen(net), torch.no_grad():
        out = net(x.to(device_of(net)))
    return out.cpu() if isinstance(out, Tensor) else out


def looked_into(found: Found, shape: Shape, say: Say) -> Classifier:
    """The module as one of our networks; where it cannot read images of the data's size, it gets
    them resized to its own.
    """
    told = found.told | {"shape": (shape[1], shape[2], shape[2])}
    bare = isinstance(found.module, Classifier) and not found.told.keys() & {*known.TOLD}
    if bare:
        return known.looked_into(found.module, {})
    try:
        ours = known.looked_into(found.module, told)
    except UserError as refused:
        if told.get("size"):
            raise
        for side in _sides(found.module):
            try:
                ours = known.looked_into(found.module, told | {"size": side})
            except UserError:
                continue
            say(f"It reads images of {side} pixels only, so they are resized inside.")
            break
        else:
            raise refused from None
    assert isinstance(ours, Wrapped)
    found.told |= ours.description()
    return ours


def _sides(module: nn.Module) -> list[int]:
    """Pixels of a side that a network may want, by what it says of itself."""
    named = getattr(module, "pretrained_cfg", None) or {}
    size = (named.get("input_size") or (0, 0))[-1] or getattr(module, "image_size", 0)
    return list(dict.fromkeys([*([size] if isinstance(size, int) and size else []), 224]))
