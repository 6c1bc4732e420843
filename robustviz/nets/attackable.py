"""The copy of a network that attacks work on, so that the caller's network is left unchanged.
It is `copy.deepcopy(net)`, in eval mode and without parameter gradients. If it consists of known
layers only and has no hooks, convolutions and batch norms are fused (`robustviz.nets.fused`);
networks of this package use channels-last memory and may compute in bf16. Nothing is traced.
"""

from __future__ import annotations

import copy
import functools
import itertools
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

from robustviz.nets.base import frozen
from robustviz.nets.fused import HOOKS, Fused, fuse, has_hooks as has_hooks, is_hooked, is_plain
from robustviz.types import UserError

HOOK_TABLES = (
    *HOOKS,
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
SIXTEEN = (torch.float16, torch.bfloat16)
M = TypeVar("M", bound=nn.Module)


@contextmanager
def attackable(
    net: M,
    mode: Literal["eval", "train"] = "eval",
    *,
    fused: bool = True,
    bf16: bool = False,
    wide: bool = False,
) -> Iterator[M]:
    """A context that yields the network to attack: mostly a copy of `net` in eval mode.

    No parameter of the yielded network requires a gradient, and with `mode` eval `net` is as before
    at the end. With `fused` the logits equal those of `net` up to rounding (relative error about
    1e-6), without it bit for bit. `bf16`, only with `fused`: feature maps may be computed in bf16,
    in networks of this package on hardware that supports it (relative error about 1e-2); features
    and logits are float32. `wide`: the copy of a network with 16-bit weights computes in float32,
    since small gradients underflow in float16. If `net` is itself a copy made with `fused`, it is
    not copied again.

    A network cannot be copied if a module of it is not fully copied by deepcopy, defines its own
    copying, or has a `forward` or a random generator as an attribute; nor if it is in train mode
    and has hooks or functions as attributes. For such a network, and for `mode` train, in which an
    attack updates the running statistics, the context yields `net` itself under `frozen`, to one
    thread at a time; with `mode` eval its buffers are restored afterwards. Raises UserError if
    `net` is no nn.Module or has lazy layers without weights.
    """
    if not isinstance(net, nn.Module):
        raise UserError(
            "A network must be an nn.Module that returns logits, but this is a"
            f" {type(net).__name__}."
        )
    if any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
        raise UserError(
            "This network has lazy layers that have not seen an image yet: call it once on a batch"
            " of images first."
        )
    wide = wide and any(parameter.dtype in SIXTEEN for parameter in net.parameters())
    ready = None
    if mode == "eval":
        with _lock:
            kept = None if wide else _kept.get(net)
            ready = net if net in _copies else kept.current(net, fused, bf16) if kept else None
        ready = _copied(net, fused, bf16) if ready is None else ready
    if ready is not None:
        yield ready.float() if wide and ready is not net else ready
        return
    with _lock:
        turn = _turns.setdefault(net, threading.RLock())
    with frozen(net, mode), turn:
        before = [(buffer, buffer.clone()) for buffer in net.buffers()] if mode == "eval" else []
        try:
            yield net
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


def copied(net: M) -> M | None:
    """A copy of `net` in eval mode, whose parameters require no gradient and which shares nothing
    with it.

    Returns None if no such copy can be made, for the reasons that `attackable` lists.
    """
    mine = list(net.modules())
    # deepcopy does not copy functions, so a network they refer to would stay in train mode
    training = any(m.training for m in mine)
    if any(
        _writes_itself_down(type(m))
        or "forward" in vars(m)
        or any(isinstance(value, torch.Generator) for value in vars(m).values())
        or (training and _holds_functions(m))
        for m in mine
    ):
        return None
    try:
        with torch.inference_mode(False), torch.no_grad():
            twin = copy.deepcopy(net)
            copies, own = (
                {id(part) for part in (*each.modules(), *each.parameters(), *each.buffers())}
                for each in (twin, net)
            )
            # some classes share parts with their copies or leave parts out
            if copies & own or [*map(_hook_counts, twin.modules())] != [*map(_hook_counts, mine)]:
                return None
            twin.eval()
            return twin.requires_grad_(False)
    except Exception:
        # modules that cannot be copied raise various errors: old weight norm, pruning, locks,
        # stored activations
        return None


def _hook_counts(module: nn.Module) -> tuple[object, ...]:
    return type(module), *(len(getattr(module, name, ())) for name in HOOK_TABLES)


def _writes_itself_down(kind: type) -> bool:
    """Whether a class outside torch defines its own copying or pickling, which may leave something
    out.
    """
    return not kind.__module__.startswith("torch.") and any(
        getattr(kind, way, None) is not getattr(nn.Module, way, None)
        for way in ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__")
    )


def _holds_functions(module: nn.Module) -> bool:
    """Whether `module` has a hook or a function as an attribute, which may refer to a network."""
    return has_hooks(module) or any(
        callable(value) and not isinstance(value, (type, nn.Module))
        for value in vars(module).values()
    )


def _copied(net: M, fused: bool, bf16: bool, kept: bool = False) -> M | None:
    twin = copied(net)
    if twin is not None and fused:
        plain = is_plain(twin)
        layers = fuse(twin, bf16 and has_bf16(device_of(twin).type))
        with _lock:
            _copies[twin] = Copy(layers, plain, {} if plain and kept else None)
    return twin


def keep(net: nn.Module) -> None:
    """Makes all later attacks on `net` share a copy instead of copying `net` each time.

    For code that owns a network and attacks it often, such as a page or a trainer. There is one
    copy for each combination of `fused` and `bf16` in use. Before each attack the current weights
    and buffers of `net` are written into the memory of the existing copy, whose addresses therefore
    stay the same. If anything else in `net` has changed, a new copy is made. A network with hooks
    or with attributes that cannot be compared is still copied for every attack, as is one with
    16-bit weights if the attack uses gradients.
    """
    with _lock:
        _kept.setdefault(net, _Kept())


def copy_of(net: nn.Module) -> Copy | None:
    """The `Copy` record of `net` if `attackable` made it as a copy with `fused`, else None."""
    return _copies.get(net)


def addresses(net: nn.Module) -> tuple[int, ...]:
    """The memory addresses of all tensors that `net`, a copy, computes with.

    A step recorded as a CUDA graph (`attacks.recorded`) is valid only while these stay the same.
    """
    layers = _copies[net].layers if net in _copies else ()
    fused = (tensor for layer in layers for tensor in (layer.weight, layer.bias))
    return tuple(tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers(), *fused))


@dataclass(eq=False)
class Copy:
    """What is known of a copy that `attackable` made with `fused`.

    `layers`: its fused layers. `plain`: whether it is a network of this package with known layers
    only, which accepts channels-last images and is faster with them. `recordings`: the attack steps
    recorded on it as CUDA graphs, if it is plain and kept (see `keep`), else None; they are freed
    with the copy.
    """

    layers: list[Fused]
    plain: bool
    recordings: dict[str, Any] | None


# Per network, by identity; an entry is dropped when its network is freed.
_lock = threading.RLock()
_copies: MutableMapping[nn.Module, Copy] = WeakIdKeyDictionary()
_kept: MutableMapping[nn.Module, _Kept] = WeakIdKeyDictionary()
_turns: MutableMapping[nn.Module, threading.RLock] = WeakIdKeyDictionary()


def device_of(net: nn.Module) -> torch.device:
    """The device of the first parameter or buffer of `net`; the CPU if it has none."""
    first = next(itertools.chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@dataclass(eq=False)
class _Kept:
    """The copies of one network that its attacks share, by (fused, bf16), and the `_structure` that
    the network had when they were made.

    The network itself is not referred to, so it can be freed.
    """

    structure: list[object] | None = None
    copies: dict[tuple[bool, bool], nn.Module] = field(default_factory=dict)

    def current(self, net: M, fused: bool, bf16: bool) -> M | None:
        """The shared copy with the current values of `net`; None if it must be copied every time,
        because it has hooks or attributes that cannot be compared, or if it cannot be copied.
        """
        now = _structure(net)
        if now is None or now != self.structure:
            self.structure, self.copies = now, {}
        if now is None:
            return None
        twin = cast("M | None", self.copies.get((fused, bf16)))
        if twin is not None:
            _take_up(twin, net)
        elif (twin := _copied(net, fused, bf16, kept=True)) is not None:
            self.copies[fused, bf16] = twin
        return twin


@torch.no_grad()
def _take_up(twin: nn.Module, net: nn.Module) -> None:
    """Writes the parameters and buffers of `net` into its copy and updates the copy's fused layers.

    On a CPU only tensors with other values are written, so that a copy used by several threads is
    left alone if nothing has changed. On a GPU all are written, since comparing would mean waiting
    for the GPU.
    """
    stale = [
        own.copy_(value)
        for own, value in zip(
            (*twin.parameters(), *twin.buffers()), (*net.parameters(), *net.buffers()), strict=True
        )
        if own.device.type != "cpu" or not torch.equal(own, value.to(own.dtype))
    ]
    for layer in _copies[twin].layers if stale and twin in _copies else ():
        layer.follow()


def _structure(net: nn.Module) -> list[object] | None:
    """Everything that a copy takes from `net`, except the values of its parameters and buffers.

    Two such lists are compared to see whether a kept copy is still valid. None if `net` has hooks
    or attributes that cannot be compared.
    """
    if is_hooked(net):
        return None
    # object id -> order of first appearance, which shows where an object is shared
    names: dict[int, int] = {}
    out: list[object] = []
    for name, module in net.named_modules(remove_duplicate=False):
        out += [name, type(module), names.setdefault(id(module), len(names))]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            number = names.setdefault(id(tensor), len(names))
            out += [
                tensor if tensor is None else (number, tensor.shape, tensor.dtype, tensor.device)
            ]
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules", "training"):
                out += [tuple(value)] if key != "training" else []
            elif isinstance(value, (bool, int, float, str, type(None), torch.dtype)):
                out += [key, value]
            elif isinstance(value, (tuple, list, set)) and all(
                isinstance(each, (bool, int, float, str, type(None))) for each in value
            ):
                out += [key, tuple(value)]
            elif not (isinstance(value, dict) and not value):
                return None
    return out


@functools.cache
def has_bf16(device: str) -> bool:
    """Whether `device` ("cpu" or "cuda") of this machine has fast bf16 instructions.

    On a CPU they must also be ones that torch can use.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device != "cpu" or not any(
        getattr(torch.cpu, name, bool)()  # bool() is False: for torch versions without the function
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ):
        return False
    try:  # oneDNN may be configured not to use it
        x = torch.zeros(1, 8, 8, 8, dtype=torch.bfloat16).to_mkldnn()
        torch.conv2d(x, torch.zeros(8, 8, 3, 3, dtype=torch.bfloat16))
    except RuntimeError:
        return False
    return True
