"""What an attack works on: a copy of the network, so that nobody's mode, gradients or weights are
touched.

The copy is `copy.deepcopy(net)`: the same class, the same `forward`, the same hooks, in eval mode,
without gradients of parameters. In the copy of a network that is made of known layers alone, and
has no hooks, a convolution and the batch norm after it become one convolution where a container
runs them in turn; in networks of this package activations lie channels last and may be computed in
bf16. Nothing is traced.
"""

from __future__ import annotations

import copy
import functools
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustviz import registry
from robustviz.nets.base import Normalise, frozen
from robustviz.types import UserError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HOOK_TABLES = (
    *HOOKS,
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
KNOWN_ROOMS = ("torch.nn.modules.", "torchvision.models.", "robustviz.nets.")
SIXTEEN = (torch.float16, torch.bfloat16)
T = TypeVar("T")


class _Table(Generic[T]):
    """Something kept for each network, by identity, and forgotten with it."""

    def __init__(self) -> None:
        self.kept: dict[int, T] = {}

    def get(self, net: nn.Module) -> T | None:
        return self.kept.get(id(net))

    def __contains__(self, net: nn.Module) -> bool:
        return id(net) in self.kept

    def __setitem__(self, net: nn.Module, value: T) -> None:
        if id(net) not in self.kept:
            weakref.finalize(net, self.kept.pop, id(net), None).atexit = False
        self.kept[id(net)] = value


@contextmanager
def attackable(
    net: nn.Module,
    mode: Literal["eval", "train"] = "eval",
    *,
    fused: bool = True,
    bf16: bool = False,
    wide: bool = False,
) -> Iterator[nn.Module]:
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
    wide = wide and _is_16_bit(net)
    ready: nn.Module | None = None
    if mode == "eval":
        with _lock:
            kept = _kept.get(net)
            ready = (
                net
                if net in _fused_copies
                else kept.current(net, fused, bf16)
                if kept and not wide
                else None
            )
        ready = _copied(net, fused, bf16) if ready is None else ready
    if ready is not None:
        yield ready.float() if wide and ready is not net else ready
        return
    with frozen(net, mode), _turn(net):
        before = [(buffer, buffer.clone()) for buffer in net.buffers()] if mode == "eval" else []
        try:
            yield net
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


def copied(net: nn.Module) -> nn.Module | None:
    """A copy of `net` in eval mode, without gradients of parameters, that shares nothing with it;
    None where there is none.
    """
    mine = list(net.modules())
    if any(
        _writes_itself_down(type(m))
        or "forward" in vars(m)
        or any(isinstance(value, torch.Generator) for value in vars(m).values())
        for m in mine
    ):
        return None
    if any(m.training for m in mine) and any(_holds_functions(m) for m in mine):
        return None  # a function is not copied, and what it reaches would stay in train mode
    try:
        with torch.inference_mode(False), torch.no_grad():
            twin = copy.deepcopy(net)
            theirs = list(twin.modules())
            shared = {id(part) for part in (*theirs, *twin.parameters(), *twin.buffers())}
            if shared & {id(part) for part in (*mine, *net.parameters(), *net.buffers())}:
                return None
            if [_hook_counts(m) for m in theirs] != [_hook_counts(m) for m in mine]:
                return None  # a class that writes down only part of itself
            twin.eval()
            for parameter in twin.parameters():
                parameter.requires_grad_(False)
    except Exception:
        # whatever a module says when it cannot be copied: old weight norm, pruning, locks, stored
        # activations
        return None
    return twin


def _hook_counts(module: nn.Module) -> tuple[object, ...]:
    return type(module), *(len(getattr(module, name, ())) for name in HOOK_TABLES)


def _writes_itself_down(kind: type) -> bool:
    """Whether a class has its own way of being copied, which may leave something out."""
    ways = ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__")
    return not kind.__module__.startswith("torch.") and any(
        getattr(kind, way, None) is not getattr(nn.Module, way, None) for way in ways
    )


def _holds_functions(module: nn.Module) -> bool:
    """Whether `module` has a hook, or a function among its attributes, which may reach what is none
    of its parts.
    """
    return has_hooks(module) or any(
        callable(value) and not isinstance(value, (type, nn.Module))
        for value in vars(module).values()
    )


def _is_16_bit(net: nn.Module) -> bool:
    return any(parameter.dtype in SIXTEEN for parameter in net.parameters())


def _copied(net: nn.Module, fused: bool, bf16: bool) -> nn.Module | None:
    twin = copied(net)
    if twin is not None and fused:
        plain, layers = _is_plain(twin), _fuse(twin, bf16)
        with _lock:
            _fused_copies[twin] = layers
            if plain:
                _channels_last[twin] = True
    return twin


def keep(net: nn.Module) -> None:
    """Let attacks on `net` share one copy for as long as `net` lives, in place of a new one for
    each: for the owner of a network that is attacked often, a page or a trainer.

    Before each attack the copy takes up the values that `net` has now, in its own memory, so that
    its addresses stay. A network that was changed in another way, or has hooks, is copied anew.
    """
    with _lock:
        if net not in _kept:
            _kept[net] = _Kept()


def is_fused_copy(net: nn.Module) -> bool:
    """Whether `net` is a copy made for gradients, inside an attack or a training."""
    return net in _fused_copies


def recordings_of(net: nn.Module) -> dict[str, Any] | None:
    """Where steps recorded on `net` are kept, forgotten with it; None where it is no kept copy of a
    network of this package.
    """
    return _recordings.get(net)


def addresses(net: nn.Module) -> tuple[int, ...]:
    """Where in memory a copy finds what it computes with: a recorded step is good as long as all of
    it stays there.
    """
    fused = (
        tensor for layer in _fused_copies.get(net) or () for tensor in (layer.weight, layer.bias)
    )
    return tuple(
        tensor.data_ptr() for tensor in itertools.chain(net.parameters(), net.buffers(), fused)
    )


def takes_any_layout(net: nn.Module) -> bool:
    """Whether `net` is a copy made for attacks whose layers work, and work faster, on images that
    lie channels last.
    """
    return net in _channels_last


_lock = threading.RLock()
_channels_last: _Table[bool] = _Table()
_fused_copies: _Table[list[_Fused]] = _Table()
_kept: _Table[_Kept] = _Table()
_recordings: _Table[dict[str, Any]] = _Table()
_turns: _Table[threading.RLock] = _Table()


def _turn(net: nn.Module) -> threading.RLock:
    with _lock:
        if net not in _turns:
            _turns[net] = threading.RLock()
        turn = _turns.get(net)
    assert turn is not None
    return turn


def device_of(net: nn.Module) -> torch.device:
    """Where `net` computes: where its first parameter or buffer lies; the CPU where it has none."""
    first = next(itertools.chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device


class _Kept:
    """The copies of a network whose owner lets them be kept, by (fused, bf16). It never holds the
    network itself.
    """

    def __init__(self) -> None:
        self.structure: list[object] | None = None
        self.copies: dict[tuple[bool, bool], nn.Module] = {}

    def current(self, net: nn.Module, fused: bool, bf16: bool) -> nn.Module | None:
        """The copy with the values that `net` has now; None where one must be made anew for each
        attack.
        """
        now = _structure(net)
        if now is None or now != self.structure:
            self.structure, self.copies = now, {}
        if now is None:
            return None
        twin = self.copies.get((fused, bf16))
        if twin is None:
            twin = _copied(net, fused, bf16)
            if twin is None:
                return None
            self.copies[fused, bf16] = twin
            if fused and _is_plain(net):
                _recordings[twin] = {}
        else:
            _take_up(twin, net)
        return twin


def _take_up(twin: nn.Module, net: nn.Module) -> None:
    """Write the values of `net` into its copy. On a CPU only those that differ, so that a network
    which many threads use is not written to; a GPU is not asked, it would be waited for.
    """
    changed = False
    with torch.no_grad():
        for own, value in zip(
            (*twin.parameters(), *twin.buffers()), (*net.parameters(), *net.buffers()), strict=True
        ):
            if own.device.type != "cpu" or not torch.equal(own, value.to(own.dtype)):
                own.copy_(value)
                changed = True
    for layer in (_fused_copies.get(twin) or ()) if changed else ():
        layer.follow()


def _structure(net: nn.Module) -> list[object] | None:
    """All that a copy takes over from `net` besides the values of parameters and buffers; None
    where it cannot be compared.
    """
    if _is_hooked(net):
        return None
    names: dict[int, int] = {}  # by number of appearance: shows which are one and the same
    out: list[object] = []
    for name, module in net.named_modules(remove_duplicate=False):
        out += [name, type(module), names.setdefault(id(module), len(names))]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            out += [
                (
                    None
                    if tensor is None
                    else (
                        names.setdefault(id(tensor), len(names)),
                        tensor.shape,
                        tensor.dtype,
                        tensor.device,
                    )
                )
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


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks take part in a call of `module` itself."""
    return _is_globally_hooked() or any(getattr(module, name, None) for name in HOOKS)


def _is_globally_hooked() -> bool:
    return any(getattr(torch_module, f"_global{name}", None) for name in HOOKS)


def _is_hooked(net: nn.Module) -> bool:
    """Whether something beside its layers takes part in a forward pass of `net`."""
    return any(has_hooks(module) for module in net.modules())


# As they were before anybody could put others in their place.
FORWARDS = {kind: kind.forward for kind in (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU)}
CONVOLVE = nn.Conv2d._conv_forward
ATTRIBUTES: dict[type[nn.Module], set[str]] = {
    type(layer): set(vars(layer))
    for layer in (nn.Sequential(), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU())
}


def _is_known(net: nn.Module) -> bool:
    """Whether `net` is made of layers of torch, torchvision and this package alone, without hooks
    and as they were made: then its forward changes no layer, hooks none, and runs each as its
    container says.
    """
    if (
        _is_hooked(net)
        or any(kind.forward is not forward for kind, forward in FORWARDS.items())
        or nn.Conv2d._conv_forward is not CONVOLVE
    ):
        return False
    parts = [*net.modules()]
    if any(
        isinstance(part, nn.DataParallel) or not f"{type(part).__module__}.".startswith(KNOWN_ROOMS)
        for part in parts
    ):
        return (
            False  # of a DataParallel, replicas on other devices would find the first one's weights
        )
    return all(
        set(vars(part)) <= ATTRIBUTES[type(part)] for part in parts if type(part) in ATTRIBUTES
    )


def _is_plain(net: nn.Module) -> bool:
    """Whether `net` is a network of this package, whose layers work in any memory layout, with
    known layers alone.
    """
    return type(net) in (registry.get("net", key) for key in registry.keys("net")) and _is_known(
        net
    )


@functools.cache
def has_bf16(device: str) -> bool:
    """Whether this machine's `device`, "cpu" or "cuda", multiplies bf16 faster than float32, and
    torch can make use of it.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    asks = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
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
    """A convolution and the batch norm after it, in eval mode, as one convolution; it holds them
    without owning them.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, layout: torch.memory_format
    ) -> None:
        super().__init__()
        self.parts = (conv, norm)
        self.weight = torch.empty_like(
            conv.weight, dtype=dtype, memory_format=layout, requires_grad=False
        )
        self.bias = torch.empty(len(conv.weight), dtype=dtype, device=conv.weight.device)
        self.follow()

    def follow(self) -> None:
        """Take up the values that the two layers have now, in the same memory."""
        conv, norm = self.parts
        with torch.no_grad():
            weight, bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,  # type: ignore[arg-type]
                norm.running_var,  # type: ignore[arg-type]
                norm.eps,
                norm.weight,
                norm.bias,
            )
            self.weight.copy_(weight)
            self.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.parts[0]
        return F.conv2d(
            x, self.weight, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )


# Containers whose forward is known: the pairs of a convolution and the batch norm that alone reads
# it, and the ReLUs of a sum that nobody else reads. `nn.Sequential` is the third of them.
BLOCKS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "torchvision.models.resnet.BasicBlock": ((("conv1", "bn1"), ("conv2", "bn2")), ()),
    "torchvision.models.resnet.Bottleneck": (
        (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
        (),
    ),
    "robustviz.nets.small_resnet.Block": ((), ("relu",)),
    "robustviz.nets.preact_resnet18.PreActBlock": ((), ()),
}
IN_BF16 = (
    nn.Sequential,
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Identity,
    Normalise,
)


def _fuse(twin: nn.Module, bf16: bool) -> list[_Fused]:
    """Give each container of `twin` whose forward is known a forward with fused layers, in place;
    these layers. What they stand in for stays as it is, so that a forward which calls one of the
    layers by itself is still right.
    """
    if not _is_known(twin):
        return []
    plain = _is_plain(twin)
    bf16 = bf16 and plain and has_bf16(device_of(twin).type) and _can_be_bf16(twin.maps)  # type: ignore[arg-type]
    layout, dtype = (
        torch.channels_last if plain else torch.contiguous_format,
        torch.bfloat16 if bf16 else None,
    )
    if plain:
        twin.to(memory_format=layout)
    fused: list[_Fused] = []
    for container in list(twin.modules()):
        layers = _fused_layers(container, dtype, layout)
        if layers:
            fused += [layer for layer in layers.values() if isinstance(layer, _Fused)]
            container.forward = _with_layers(container, layers).forward
    if bf16:
        _to_bf16(twin.maps, {layer.parts[0] for layer in fused})  # type: ignore[arg-type]
    return fused


def _can_be_bf16(maps: nn.Module) -> bool:
    return type(maps) is nn.Sequential and all(
        type(part) in IN_BF16 or _name(part) in BLOCKS for part in maps.modules()
    )


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


def _fused_layers(
    container: nn.Module, dtype: torch.dtype | None, layout: torch.memory_format
) -> dict[str, nn.Module | None]:
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
        conv, norm = children.get(first), children.get(second)
        if _can_be_fused(conv, norm):
            layers |= {
                first: _Fused(conv, norm, dtype or conv.weight.dtype, layout),  # type: ignore[arg-type, union-attr]
                second: skipped,
            }
            if _is_relu(children.get(after.get(second, ""))):
                layers[after[second]] = nn.ReLU(inplace=True)
    if skipped is not None:
        layers |= {name: nn.ReLU(inplace=True) for name in sums if _is_relu(children.get(name))}
    return layers


def _can_be_fused(conv: nn.Module | None, norm: nn.Module | None) -> bool:
    return (
        type(conv) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and conv.padding_mode == "zeros"
        and norm.running_mean is not None
        and norm.running_var is not None
        and not norm.training
        and conv.weight.dtype == norm.running_mean.dtype
        and conv.weight.dtype in (torch.float32, torch.float64)
    )


def _is_relu(layer: nn.Module | None) -> bool:
    return type(layer) is nn.ReLU


def _with_layers(container: nn.Module, layers: dict[str, nn.Module | None]) -> nn.Module:
    """A module that runs the forward of `container`'s class with other layers, and shares
    everything else with it.
    """
    other = object.__new__(type(container))
    vars(other).update(vars(container))
    children = {name: layers.get(name, child) for name, child in container._modules.items()}
    vars(other)["_modules"] = {
        name: child for name, child in children.items() if child is not None or name not in layers
    }
    return other


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
