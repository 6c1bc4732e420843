"""Finds where an imported network comes from: which module its weights fit, and which code or
library makes that module again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robustviz import plugins
from robustviz.nets import asked, known
from robustviz.nets.attackable import device_of
from robustviz.nets.base import Classifier, frozen
from robustviz.nets.wrapped import Wrapped
from robustviz.runs import checkpoint
from robustviz.types import JSON, UserError, harmless

NEAR = 0.6  # share of agreeing weights from which another network is suggested
Say = Callable[[str], object]
Net = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]
Shape = tuple[int, int, int]  # classes, channels and pixels per side


@dataclass(eq=False)
class Found:
    """A network that is being imported: the `module`, its `source` (such as `timm:NAME` or
    `FILE.py:make`), the arguments of `nets.wrap` that are known (`told`, with the SHA-256 of the
    source's code if a user wrote it), the `mean` and `std` of images that came with its weights,
    and the `plugins` it needs.
    """

    module: nn.Module
    source: str
    told: JSON = field(default_factory=dict)
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    plugins: list[JSON] = field(default_factory=list)


def found_in(net: Net, model: str, entry: str, shape: Shape, say: Say) -> Found:
    """Returns the module that the weights `net` fit, with the weights loaded, and where the module
    comes from. If `model` is given, the networks that it may mean are tried, else the usual ones.
    If `net` is a module, the same network is made again, from `model` or the library that it comes
    from.

    `entry` as in `checkpoint.read`; `shape`: classes, channels and pixels per side; `say` is called
    with each line about what was found. Raises UserError if the weights fit none of these networks.
    """
    if isinstance(net, nn.Module):
        return _of_module(net, model, shape)
    if isinstance(net, Mapping):
        state, file = dict(net), "This network"
    else:
        held = checkpoint.read(net, entry)
        state, file = held.state, harmless(Path(net).name)
        if held.entry:
            others = f"; others: {', '.join(held.others)}" if held.others else ""
            say(f"Using the weights in the entry {held.entry!r}{others}.")
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
    """Returns `found`, the same object. If user code makes the network, `found.source` now names
    that code so that every process finds it, and the code's SHA-256 and plug-in are added.
    """
    if known.is_code(found.source):
        place, _, make = found.source.rpartition(":")
        plugin = plugins.use(place)
        found.source = f"{plugin.source}:{make}"
        found.told["sha256"] = plugin.sha256
        found.plugins = [{"source": plugin.source, "sha256": plugin.sha256}]
    return found


def _agrees(state: Mapping[str, Tensor], source: str, shape: Shape) -> float:
    """Returns the share of the weights (0 to 1) that agree with the network that `source` makes; 0
    for somebody's own code, which is not run for this.
    """
    other = None if known.is_code(source) else known.without_weights(source, *shape)
    return checkpoint.agreement(state, known.shapes_of(other), source) if other else 0.0


def _guessed(state: Mapping[str, Tensor], file: str, shape: Shape, say: Say) -> Found:
    """Returns the first of our and torchvision's usual networks that the weights fit, with the
    weights loaded. Raises UserError if they fit none.
    """
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
    """Returns a sentence about the usual network, other than `but`, that fits the weights best;
    empty if the agreement is below 60%.
    """
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
    """Returns, for a module in memory, the same network made again from what `model` says, or if
    that is empty from the library it comes from. Raises UserError if that is unknown or makes
    another network.
    """
    told: JSON = {}
    if isinstance(net, Wrapped):
        told = {key: value for key, value in net.description().items() if value is not None}
        net = net.module
    sources = known.sources(model) if model else [known.source_of(net)]
    if not sources[0]:
        raise UserError(
            "A network in memory can only be kept with the code that makes it: name that with"
            " model=…, such as 'FILE.py:make', 'pkg.mod:make', 'torchvision:NAME' or 'timm:NAME'."
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
    """Raises UserError if the network that `source` makes, `again`, gives other outputs than `net`
    for two random images. Nothing is checked if one of them cannot compute on such images or does
    not return a tensor.
    """
    x = torch.rand((2, *shape[1:], shape[2]), generator=torch.Generator().manual_seed(0))
    try:
        first, second = _answer(net, x), _answer(again, x)
    except Exception:  # it may need larger images: `looked_into` finds out
        return
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return
    if first.shape != second.shape or not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise UserError(
            f"The network that {source} makes gives other outputs with the same weights, so it is"
            " not this one: name the code that makes it with model=…"
        )


def _answer(net: nn.Module, x: Tensor) -> object:
    with frozen(net), torch.no_grad():
        out = net(x.to(device_of(net)))
    return out.cpu() if isinstance(out, Tensor) else out


def looked_into(found: Found, shape: Shape, say: Say, called: str) -> Classifier:
    """Returns the module as a `Classifier`, and adds how it is wrapped to `found.told`. If it
    cannot read images of the data's size, they are resized inside it to a size that it can read.
    `shape`, `say` as in `found_in`; `called`: the data's name. Raises UserError if there is no such
    size, or if the network takes another number of channels.
    """
    told = found.told | {"shape": (shape[1], shape[2], shape[2])}
    if isinstance(found.module, Classifier) and not found.told.keys() & {*known.TOLD}:
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
            say(f"This network only accepts images of {side} pixels, so they are resized inside.")
            break
        else:
            takes = asked.channels(found.module)
            raise UserError(
                str(refused)
                if takes in (0, shape[1])
                else f"{refused} Its first convolution takes {takes} channel{'s' * (takes > 1)};"
                f" {called} has {shape[1]}.",
                code=refused.code,
            ) from None
    assert isinstance(ours, Wrapped)
    found.told |= ours.description()
    return ours


def _sides(module: nn.Module) -> list[int]:
    """Returns image sizes, in pixels per side, that a network may need: the one in its own
    attributes, then 224.
    """
    named = getattr(module, "pretrained_cfg", None) or {}
    size = (named.get("input_size") or (0, 0))[-1] or getattr(module, "image_size", 0)
    return list(dict.fromkeys([*([size] if isinstance(size, int) and size else []), 224]))
