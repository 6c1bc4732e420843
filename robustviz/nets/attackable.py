"""What an attack works on: a copy of the network, so that nobody's mode, gradients or weights are touched.

The copy is `copy.deepcopy(net)`: the same class, the same `forward`, the same hooks, in eval mode, without gradients of
parameters. In the copy a convolution and the batch norm after it become one convolution where a container runs them in
turn, and for networks of this package activations lie channels last and may be computed in bf16. Nothing is traced.
"""

from __future__ import annotations

import copy
import functools
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustviz import registry
from robustviz.nets.base import Normalise, frozen
from robustviz.types import UserError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
KNOWN_ROOMS = ("torch.nn.", "torchvision.models.", "robustviz.nets.")  # their forwards take activations in any memory layout


@contextmanager
def attackable(net: nn.Module, mode: Literal["eval", "train"] = "eval", *, fused: bool = True, bf16: bool = False) -> Iterator[nn.Module]:
    """Inside, a network that computes what `net` computes now in eval mode, for attacks; nothing in it asks for a parameter's
    gradient, and `net` itself is not touched.

    `fused` False: to the bit, else to rounding (relative error about 1e-6). `bf16`: feature maps may be computed in bf16, in
    networks of this package on a processor that does it (relative error about 1e-2); features and logits are float32.

    Where no copy can be made (a module that cannot be copied or copies by reference, a `forward` of a single instance, a
    random generator of its own) and in train mode, whose attacks move the running statistics, it is `net` itself under
    `frozen`, for one thread at a time. Raises UserError for lazy layers that have no weights yet.
    """
    if any(isinstance(parameter, UninitializedParameter) for parameter in net.parameters()):
        raise UserError("This network has lazy layers that have not seen an image yet: call it once on a batch of images first.")
    ready: nn.Module | None = None
    if mode == "eval":
        with _lock:
            kept = _kept.get(net)
            ready = net if net in _fused_copies else kept.current(net, fused, bf16) if kept else None
        ready = _copied(net, fused, bf16) if ready is None else ready
    if ready is not None:
        yield ready
    else:
        with _turn(net), frozen(net, mode):
            yield net


def copied(net: nn.Module) -> nn.Module | None:
    """A copy of `net` in eval mode, without gradients of parameters, that shares nothing with it; None where there is none."""
    mine = list(net.modules())
    if any("forward" in vars(m) or any(isinstance(value, torch.Generator) for value in vars(m).values()) for m in mine):
        return None
    try:
        with torch.inference_mode(False), torch.no_grad():
            twin = copy.deepcopy(net)
    except Exception:  # whatever a module says when it cannot be copied: old weight norm, pruning, locks, stored activations
        return None
    theirs = [*twin.modules(), *twin.parameters(), *twin.buffers()]
    if {id(part) for part in theirs} & {id(part) for part in (*mine, *net.parameters(), *net.buffers())}:
        return None
    twin.eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _copied(net: nn.Module, fused: bool, bf16: bool) -> nn.Module | None:
    twin = copied(net)
    if twin is not None and fused:
        plain, layers = _is_plain(twin), _fuse(twin, bf16)
        with _lock:
            _fused_copies[twin] = layers
            if plain:
                _channels_last.add(twin)
    return twin


def keep(net: nn.Module, *, changes: bool) -> None:
    """Let attacks on `net` share one copy for as long as `net` lives, in place of a new one for each.

    For owners: a page whose network never changes, or a trainer (`changes`), whose network has new values before each
    attack; they are then written into the copy's own memory, so that its addresses stay. A network that was changed in
    another way, or has hooks, is copied anew.
    """
    with _lock:
        _kept[net] = _Kept(changes)


def recordings_of(net: nn.Module) -> dict[str, Any] | None:
    """Where steps recorded on `net` are kept, forgotten with it; None where it is no kept copy of a network of this package."""
    return _recordings.get(net)


def addresses(net: nn.Module) -> tuple[int, ...]:
    """Where in memory a copy finds what it computes with: a recorded step is good as long as all of it stays there."""
    fused = (tensor for layer in _fused_copies.get(net, ()) for tensor in (layer.weight, layer.bias))
    return tuple(tensor.data_ptr() for tensor in itertools.chain(net.parameters(), net.buffers(), fused))


def takes_any_layout(net: nn.Module) -> bool:
    """Whether `net` is a copy made for attacks whose layers work, and work faster, on images that lie channels last."""
    return net in _channels_last


_lock = threading.RLock()
_channels_last: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_fused_copies: weakref.WeakKeyDictionary[nn.Module, list[_Fused]] = weakref.WeakKeyDictionary()
_kept: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()
_recordings: weakref.WeakKeyDictionary[nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()
_turns: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()


def _turn(net: nn.Module) -> threading.RLock:
    with _lock:
        return _turns.setdefault(net, threading.RLock())


def device_of(net: nn.Module) -> torch.device:
    """Where `net` computes: where its first parameter or buffer lies; the CPU where it has none."""
    first = next(itertools.chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device


class _Kept:
    """The copies of a network whose owner lets them be kept, by (fused, bf16). It never holds the network itself."""

    def __init__(self, changes: bool) -> None:
        self.changes = changes
        self.structure: list[object] | None = None
        self.copies: dict[tuple[bool, bool], nn.Module] = {}
        self.versions: dict[tuple[bool, bool], list[int]] = {}  # of the values that each copy has

    def current(self, net: nn.Module, fused: bool, bf16: bool) -> nn.Module | None:
        """The copy with the values that `net` has now; None where one must be made anew for each attack."""
        now = _structure(net)
        if now is None or now != self.structure:
            self.structure, self.copies = now, {}
        if now is None:
            return None
        kind, values = (fused, bf16), [*net.parameters(), *net.buffers()]
        versions = [version for value in values for version in (id(value), value._version)]
        twin = self.copies.get(kind)
        if twin is None:
            twin = _copied(net, fused, bf16)
            if twin is None:
                return None
            self.copies[kind] = twin
            if fused and _is_plain(net):
                _recordings[twin] = {}
        elif self.changes or versions != self.versions[kind]:
            with torch.no_grad():
                for own, value in zip((*twin.parameters(), *twin.buffers()), values, strict=True):
                    own.copy_(value)
            for layer in _fused_copies.get(twin, ()):
                layer.follow()
        self.versions[kind] = versions
        return twin


def _structure(net: nn.Module) -> list[object] | None:
    """All that a copy takes over from `net` besides the values of parameters and buffers; None where it cannot be compared."""
    if _is_hooked(net):
        return None
    names: dict[int, int] = {}  # by number of appearance: shows which are one and the same
    out: list[object] = []
    for name, module in net.named_modules(remove_duplicate=False):
        out += [name, type(module), names.setdefault(id(module), len(names))]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            out += [None if tensor is None else (names.setdefault(id(tensor), len(names)), tensor.shape, tensor.dtype, tensor.device)]
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules", "training"):
                out += [tuple(value)] if key != "training" else []
            elif isinstance(value, (bool, int, float, str, type(None), torch.dtype)):
                out += [key, value]
            elif isinstance(value, (tuple, list, set)) and all(isinstance(each, (bool, int, float, str, type(None))) for each in value):
                out += [key, tuple(value)]
            elif not (isinstance(value, dict) and not value):
                return None
    return out


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks take part in a call of `module` itself."""
    return _is_globally_hooked() or any(getattr(module, name, None) for name in HOOKS)


def _is_globally_hooked() -> bool:
    return any(getattr(torch_module, f"_global{name}", None) for name in HOOKS)


def _is_hooked(net: nn.Module) -> bool:
    """Whether something beside its layers takes part in a forward pass of `net`."""
    return any(has_hooks(module) for module in net.modules())


def _is_plain(net: nn.Module) -> bool:
    """Whether `net` is a network of this package with nothing but layers that are known to work in any memory layout."""
    ours = type(net) in (registry.get("net", key) for key in registry.keys("net"))
    return ours and not _is_hooked(net) and all(type(part).__module__.startswith(KNOWN_ROOMS) for part in net.modules())


@functools.cache
def has_bf16(device: str) -> bool:
    """Whether this machine's `device`, "cpu" or "cuda", multiplies bf16 faster than float32, and torch can make use of it."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    if device != "cpu" or not any(ask() for ask in asks if ask is not None):
        return False
    try:  # oneDNN may be told to do without what the processor has
        x = torch.zeros(1, 8, 8, 8, dtype=torch.bfloat16).to_mkldnn()
        torch.conv2d(x, torch.zeros(8, 8, 3, 3, dtype=torch.bfloat16))
    except RuntimeError:
        return False
    return True


# Convolution and batch norm as one.


class _Fused(nn.Module):
    """A convolution and the batch norm after it, in eval mode, as one convolution; it holds them without owning them.

    A forward that changes their weights while it runs is followed, too.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, layout: torch.memory_format) -> None:
        super().__init__()
        self.parts = (conv, norm)
        self.weight = torch.empty_like(conv.weight, dtype=dtype, memory_format=layout, requires_grad=False)
        self.bias = torch.empty(len(conv.weight), dtype=dtype, device=conv.weight.device)
        self.follow()

    def follow(self) -> None:
        """Take up the values that the two layers have now, in the same memory."""
        conv, norm = self.parts
        with torch.no_grad():
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,  # type: ignore[arg-type]
            )  # fmt: skip
            self.weight.copy_(weight)
            self.bias.copy_(bias)
        self.seen = self._values()

    def _values(self) -> list[tuple[Tensor, int] | None]:
        conv, norm = self.parts
        values = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return [None if value is None else (value, value._version) for value in values]

    def _is_current(self) -> bool:
        pairs = zip(self._values(), self.seen, strict=True)
        return all(a is b or (a is not None and b is not None and a[0] is b[0] and a[1] == b[1]) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_current():
            self.follow()
        conv = self.parts[0]
        return F.conv2d(x, self.weight, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


# Containers whose forward is known: the pairs of a convolution and the batch norm that alone reads it, and the ReLUs of a sum
# that nobody else reads. `nn.Sequential` is the third of them.
BLOCKS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "torchvision.models.resnet.BasicBlock": ((("conv1", "bn1"), ("conv2", "bn2")), ()),
    "torchvision.models.resnet.Bottleneck": ((("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")), ()),
    "robustviz.nets.small_resnet.Block": ((), ("relu",)),
    "robustviz.nets.preact_resnet18.PreActBlock": ((), ()),
}
IN_BF16 = (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity, Normalise)


def _fuse(twin: nn.Module, bf16: bool) -> list[_Fused]:
    """Give each container of `twin` whose forward is known a forward with fused layers, in place; these layers. What they
    stand in for stays as it is, so that a forward which calls one of the layers by itself is still right.
    """
    if any(isinstance(part, nn.DataParallel) and len(part.device_ids) > 1 for part in twin.modules()):
        return []  # the replicas on other devices would find the first one's weights
    plain = _is_plain(twin)
    bf16 = bf16 and plain and has_bf16(device_of(twin).type) and _can_be_bf16(twin.maps)  # type: ignore[arg-type]
    layout, dtype = torch.channels_last if plain else torch.contiguous_format, torch.bfloat16 if bf16 else None
    if plain:
        twin.to(memory_format=layout)
    fused: list[_Fused] = []
    for container in list(twin.modules()):
        layers = _fused_layers(container, dtype, layout)
        if layers:
            fused += [layer for layer in layers.values() if isinstance(layer, _Fused)]
            container.forward = functools.partial(_run, *_with_layers(container, layers), tuple(container._modules.values()))
    if bf16:
        _to_bf16(twin.maps, {layer.parts[0] for layer in fused})  # type: ignore[arg-type]
    return fused


def _can_be_bf16(maps: nn.Module) -> bool:
    return type(maps) is nn.Sequential and all(type(part) in IN_BF16 or _name(part) in BLOCKS for part in maps.modules())


def _to_bf16(maps: nn.Module, done: set[nn.Conv2d]) -> None:
    """Let `maps` compute in bf16 from its normalisation on, and give its result in float32."""
    for part in maps.modules():
        if isinstance(part, nn.Conv2d) and part not in done:
            part.to(torch.bfloat16)
        elif isinstance(part, Normalise):
            part.forward = functools.partial(_in, torch.bfloat16, part.forward)  # type: ignore[method-assign]
    maps.forward = functools.partial(_in, torch.float32, maps.forward)


def _in(dtype: torch.dtype, forward: Any, x: Tensor) -> Tensor:
    result: Tensor = forward(x)
    return result.to(dtype)


def _fused_layers(container: nn.Module, dtype: torch.dtype | None, layout: torch.memory_format) -> dict[str, nn.Module | None]:
    """What stands in for layers of `container` by name, None: left out; empty where nothing can."""
    children = container._modules
    if type(container) is nn.Sequential:
        names = list(children)
        pairs, after = list(itertools.pairwise(names)), dict(itertools.pairwise(names[1:]))
        skipped: nn.Module | None = None
    else:
        pairs, sums = BLOCKS.get(_name(container), ((), ()))  # type: ignore[assignment]
        after, skipped = {}, nn.Identity()
    layers: dict[str, nn.Module | None] = {}
    for first, second in pairs:
        conv, norm = children[first], children[second]
        if _can_be_fused(conv, norm):
            layers |= {first: _Fused(conv, norm, dtype or conv.weight.dtype, layout), second: skipped}  # type: ignore[arg-type, union-attr]
            if _is_relu(children.get(after.get(second, ""))):
                layers[after[second]] = nn.ReLU(inplace=True)
    if skipped is not None:
        layers |= {name: nn.ReLU(inplace=True) for name in sums if _is_relu(children.get(name))}
    return layers


def _can_be_fused(conv: nn.Module | None, norm: nn.Module | None) -> bool:
    return (
        type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and not has_hooks(conv) and not has_hooks(norm)
        and conv.padding_mode == "zeros" and norm.running_mean is not None and norm.running_var is not None and not norm.training
        and conv.weight.dtype == norm.running_mean.dtype and conv.weight.dtype in (torch.float32, torch.float64)
    )  # fmt: skip


def _is_relu(layer: nn.Module | None) -> bool:
    return type(layer) is nn.ReLU and not has_hooks(layer)


def _with_layers(container: nn.Module, layers: dict[str, nn.Module | None]) -> tuple[nn.Module, nn.Module]:
    """Two modules that run the forward of `container`'s class and share everything with it: one its own layers, whatever they
    are by then, the other with `layers` in their place. None of them holds the container, which holds them.
    """
    own, other = object.__new__(type(container)), object.__new__(type(container))
    vars(own).update(vars(container))
    vars(other).update(vars(container))
    children = {name: layers.get(name, child) for name, child in container._modules.items()}
    vars(other)["_modules"] = {name: child for name, child in children.items() if child is not None or name not in layers}
    return own, other


def _run(own: nn.Module, other: nn.Module, layers: tuple[nn.Module | None, ...], *given: Any) -> Any:
    """The forward of `other`; that of `own` where its layers are no longer those that the other one was made for."""
    now = tuple(own._modules.values())
    same = len(now) == len(layers) and all(a is b for a, b in zip(now, layers, strict=True))
    return type(own).forward(other if same else own, *given)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
