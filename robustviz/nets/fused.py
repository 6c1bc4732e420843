"""Faster layers for a copy of a network: fused convolution and batch norm, and bf16 feature maps.
A pair is fused where its container is known to call both in turn. Only networks of known layers
without hooks are changed, since the forward of another network may use its layers in other ways.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustviz import registry
from robustviz.nets.base import Classifier, Normalise

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
KNOWN_ROOMS = ("torch.nn.modules.", "torchvision.models.", "robustviz.nets.")

# The original methods and attributes, to notice layers that were patched later.
FORWARDS = {kind: kind.forward for kind in (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU)}
CONVOLVE = nn.Conv2d._conv_forward
ATTRIBUTES: dict[type[nn.Module], set[str]] = {
    type(layer): set(vars(layer))
    for layer in (nn.Sequential(), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU())
}
# Containers whose forward is known: their (convolution, batch norm) pairs, where only the batch
# norm uses the convolution's output, and the ReLUs of a sum that is used nowhere else.
# `nn.Sequential` is handled in `_fused_layers`.
Pairs = Iterable[tuple[str, str]]
BLOCKS: dict[str, tuple[Pairs, tuple[str, ...]]] = {
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


def has_hooks(module: nn.Module) -> bool:
    """Whether calling `module` runs hooks, either its own or those registered for all modules."""
    return any(
        getattr(torch_module, f"_global{name}", None) or getattr(module, name, None)
        for name in HOOKS
    )


def is_hooked(net: nn.Module) -> bool:
    """Whether a forward pass of `net` runs hooks in any of its modules."""
    return any(has_hooks(module) for module in net.modules())


def is_known(net: nn.Module) -> bool:
    """Whether `net` consists only of unmodified layers of torch, torchvision and this package and
    has no hooks.

    Then each container calls its layers as its class defines, and nothing else runs in a forward
    pass. DataParallel is excluded, since its replicas on other devices would use the weights of the
    first device.
    """
    return (
        not is_hooked(net)
        and all(kind.forward is forward for kind, forward in FORWARDS.items())
        and nn.Conv2d._conv_forward is CONVOLVE
        and all(
            f"{type(part).__module__}.".startswith(KNOWN_ROOMS)
            and not isinstance(part, nn.DataParallel)
            and set(vars(part)) <= ATTRIBUTES.get(type(part), set(vars(part)))
            for part in net.modules()
        )
    )


def is_plain(net: nn.Module) -> TypeGuard[Classifier]:
    """Whether `net` is a network of this package, made of known layers only.

    Its layers then work in any memory layout.
    """
    ours = (registry.get("net", key) for key in registry.keys("net"))
    return type(net) in ours and is_known(net)


class Fused(nn.Module):
    """A convolution and the batch norm after it, in eval mode, computed as one convolution.

    It refers to both layers without registering them as submodules.
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

    @torch.no_grad()
    def follow(self) -> None:
        """Recomputes weight and bias, in place, from the current values of the two layers."""
        conv, norm = self.parts
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
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


def fuse(twin: nn.Module, bf16: bool) -> list[Fused]:
    """Gives the known containers of `twin` a forward with fused layers; returns the fused layers.

    `twin` is changed in place if `is_known(twin)`; otherwise it stays as it is and the list is
    empty. The original layers remain in `twin`, so that code that calls one of them by itself still
    gets the right result. A network of this package also gets channels-last memory and, with
    `bf16`, computes its feature maps in bf16 if all of their layers allow it; those of its
    convolutions that are not fused are then converted to bf16.
    """
    if not is_known(twin):
        return []
    maps = twin.maps if is_plain(twin) else None
    layout = torch.contiguous_format if maps is None else torch.channels_last
    if maps is not None:
        twin.to(memory_format=layout)
    can_be_bf16 = type(maps) is nn.Sequential and all(
        type(part) in IN_BF16 or _name(part) in BLOCKS for part in maps.modules()
    )
    in_bf16 = maps if bf16 and can_be_bf16 else None
    fused: list[Fused] = []
    for container in list(twin.modules()):
        layers = _fused_layers(container, None if in_bf16 is None else torch.bfloat16, layout)
        if layers:
            fused += [layer for layer in layers.values() if isinstance(layer, Fused)]
            container.forward = _with_layers(container, layers).forward
    if in_bf16 is not None:
        _to_bf16(in_bf16, {layer.parts[0] for layer in fused})
    return fused


def _to_bf16(maps: nn.Module, done: set[nn.Conv2d]) -> None:
    """Makes `maps` compute in bf16 after its normalisation and return float32.

    `done`: the convolutions that are fused already, whose own weights stay as they are.
    """
    for part in maps.modules():
        if isinstance(part, nn.Conv2d) and part not in done:
            part.to(torch.bfloat16)
        elif type(part).forward is Normalise.forward:
            part.forward = functools.partial(_in, torch.bfloat16, part.forward)
    maps.forward = functools.partial(_in, torch.float32, maps.forward)


def _in(dtype: torch.dtype, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return forward(x).to(dtype)


def _fused_layers(
    container: nn.Module, dtype: torch.dtype | None, layout: torch.memory_format
) -> dict[str, nn.Module | None]:
    """The layers to use in place of `container`'s own, by name; empty if all stay.

    These are a `Fused` for each pair, None or an Identity in place of its batch norm (None: the
    layer is left out), and an in-place ReLU for a ReLU after a pair or of a sum. `dtype` (None: the
    layer's own) and `layout` are those of the fused weights.
    """
    children = container._modules
    in_turn = type(container) is nn.Sequential
    after = dict(itertools.pairwise(children)) if in_turn else {}
    pairs, relus = BLOCKS.get(_name(container), (after.items(), ()))
    layers: dict[str, nn.Module | None] = {}
    for first, second in pairs:
        conv, norm = children.get(first), children.get(second)
        if (
            type(conv) is nn.Conv2d
            and type(norm) is nn.BatchNorm2d
            and conv.padding_mode == "zeros"
            and norm.running_mean is not None
            and norm.running_var is not None
            and not norm.training
            and conv.weight.dtype == norm.running_mean.dtype
            and conv.weight.dtype in (torch.float32, torch.float64)
        ):
            layers[first] = Fused(conv, norm, dtype or conv.weight.dtype, layout)
            layers[second] = None if in_turn else nn.Identity()
            relus = (*relus, after.get(second, ""))
    return layers | {
        name: nn.ReLU(inplace=True) for name in relus if type(children.get(name)) is nn.ReLU
    }


def _with_layers(container: nn.Module, layers: dict[str, nn.Module | None]) -> nn.Module:
    """A module that runs the forward of `container`'s class with `layers` in place of its own.

    A layer given as None is left out. Everything else is shared with `container`.
    """
    other = object.__new__(type(container))
    children = {
        name: layers.get(name, child)
        for name, child in container._modules.items()
        if name not in layers or layers[name] is not None
    }
    vars(other).update(vars(container) | {"_modules": children})
    return other


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
