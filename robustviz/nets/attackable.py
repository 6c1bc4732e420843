"""What an attack works on: a copy of the network, so that nobody's mode, gradients or weights are
touched.

The copy is `copy.deepcopy(net)`: the same class, the same `forward`, the same hooks, in eval mode,
without gradients of parameters. In the copy of a network that is made of known layers alone, and
has no hooks, convolutions and batch norms are fused (`robustviz.nets.fused`); in networks of this
package activations lie channels last and may be computed in bf16. Nothing is traced.
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
    """Inside, a network that computes what `net` computes now in eval mode, for attacks; nothing in
    it asks for a parameter's gradient, and `net` itself is not touched.

    `fused` False: to the bit, else to rounding (relative error about 1e-6). `bf16`: feature maps
    may be computed in bf16, in networks of this package on a processor that does it (relative error
    about 1e-2); features and logits are float32. `wide`: a network with 16-bit weights computes in
    float32, since small gradients vanish in float16.

    Where no copy can be made (a module that cannot be copied or copies by reference, a `forward` of
    a single instance, a random generator of its own, functions that hold on to a network in train
    mode) and in train mode, whose attacks move the running statistics, it is `net` itself under
    `frozen`, for one thread at a time; in eval mode its buffers are given back as they were. Raises
    UserError for what is no module, and for lazy layers that have no weights yet.
    """
    if not isinstance(net, nn.Module):
        raise UserError(
            "A network is wanted, an nn.Module that gives logits, and this is a"
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
    """A copy of `net` in eval mode, without gradients of parameters, that shares nothing with it;
    None where there is none.
    """
    mine = list(net.modules())
    # a function is not copied, and what it reaches would stay in train mode
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
            # and there are classes that write down only part of themselves
            if copies & own or [*map(_hook_counts, twin.modules())] != [*map(_hook_counts, mine)]:
                return None
            twin.eval()
            return twin.requires_grad_(False)
    except Exception:
        # whatever a module says when it cannot be copied: old weight norm, pruning, locks, stored
        # activations
        return None


def _hook_counts(module: nn.Module) -> tuple[object, ...]:
    return type(module), *(len(getattr(module, name, ())) for name in HOOK_TABLES)


def _writes_itself_down(kind: type) -> bool:
    """Whether a class has its own way of being copied, which may leave something out."""
    return not kind.__module__.startswith("torch.") and any(
        getattr(kind, way, None) is not getattr(nn.Module, way, None)
        for way in ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__")
    )


def _holds_functions(module: nn.Module) -> bool:
    """Whether `module` has a hook, or a function among its attributes, which may reach what is none
    of its parts.
    """
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
    """Let attacks on `net` share one copy for as long as `net` lives, in place of a new one for
    each: for the owner of a network that is attacked often, a page or a trainer.

    Before each attack the copy takes up the values that `net` has now, in its own memory, so that
    its addresses stay. A network that was changed in another way, or has hooks, is copied anew.
    """
    with _lock:
        _kept.setdefault(net, _Kept())


def copy_of(net: nn.Module) -> Copy | None:
    """What is known of `net` where it is a copy made for gradients, inside an attack or a training;
    None of any other network.
    """
    return _copies.get(net)


def addresses(net: nn.Module) -> tuple[int, ...]:
    """Where in memory a copy finds what it computes with: a recorded step is good as long as all of
    it stays there.
    """
    layers = _copies[net].layers if net in _copies else ()
    fused = (tensor for layer in layers for tensor in (layer.weight, layer.bias))
    return tuple(tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers(), *fused))


@dataclass(eq=False)
class Copy:
    """What is known of a copy made for gradients: its fused layers, whether it is a network of this
    package with known layers alone, which work, and work faster, on images that lie channels last;
    and where steps recorded on it are kept, forgotten with it, if it is a kept copy of such a one.
    """

    layers: list[Fused]
    plain: bool
    recordings: dict[str, Any] | None


# Something for each network, by identity, and forgotten with it.
_lock = threading.RLock()
_copies: MutableMapping[nn.Module, Copy] = WeakIdKeyDictionary()
_kept: MutableMapping[nn.Module, _Kept] = WeakIdKeyDictionary()
_turns: MutableMapping[nn.Module, threading.RLock] = WeakIdKeyDictionary()


def device_of(net: nn.Module) -> torch.device:
    """Where `net` computes: where its first parameter or buffer lies; the CPU where it has none."""
    first = next(itertools.chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@dataclass(eq=False)
class _Kept:
    """The copies of a network whose owner lets them be kept, by (fused, bf16). It never holds the
    network itself.
    """

    structure: list[object] | None = None
    copies: dict[tuple[bool, bool], nn.Module] = field(default_factory=dict)

    def current(self, net: M, fused: bool, bf16: bool) -> M | None:
        """The copy with the values that `net` has now; None where one must be made anew for each
        attack.
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
    """Write the values of `net` into its copy. On a CPU only those that differ, so that a network
    which many threads use is not written to; a GPU is not asked, it would be waited for.
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
    """All that a copy takes over from `net` besides the values of parameters and buffers; None
    where it cannot be compared.
    """
    if is_hooked(net):
        return None
    names: dict[int, int] = {}  # by number of appearance: shows which are one and the same
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
    """Whether this machine's `device`, "cpu" or "cuda", multiplies bf16 faster than float32, and
    torch can make use of it.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device != "cpu" or not any(
        getattr(torch.cpu, name, bool)()  # bool() where this torch does not know
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ):
        return False
    try:  # oneDNN may be told to do without what the processor has
        x = torch.zeros(1, 8, 8, 8, dtype=torch.bfloat16).to_mkldnn()
        torch.conv2d(x, torch.zeros(8, 8, 3, 3, dtype=torch.bfloat16))
    except RuntimeError:
        return False
    return True
