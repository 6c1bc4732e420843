"""A copy of a network that is cheap to climb: for attacks, which ask for the gradient of the input only, in eval mode,
many times between two changes of the weights.

Batch norm in eval mode is a multiplication and an addition, so it is folded into the convolution before it; activations
lie channels last; where the processor multiplies bf16 faster and the batch is large enough to gain from it, feature maps
are computed in bf16. What is found so is judged by the network itself, in fp32.
"""

from __future__ import annotations

import functools
import operator
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from robustviz.nets.base import ImageNet, Normalise, frozen

ENOUGH = 64 * 64  # input values of a batch from which bf16 is tried; with twice as many (128 digits) a step is a quarter faster


@functools.cache
def has_bf16(device: str) -> bool:
    """Whether matrices of bf16 are multiplied faster than those of fp32 on this machine's `device`, "cpu" or "cuda"."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device == "cpu" and any(ask() for ask in asks if ask is not None)


@contextmanager
def lean(net: nn.Module, x: Tensor, mode: Literal["eval", "train"] = "eval", bf16: bool = False) -> Iterator[nn.Module]:
    """Inside, a network that gives the logits of `net` in eval mode for images like `x`, with the weights that `net` has
    now, and nothing asks for a gradient of a parameter; `net` itself is as `frozen` makes it.

    `bf16`: feature maps may be computed in bf16, where that is faster. Features and logits are fp32 (relative error about
    1e-6 without bf16, 1e-2 with it). A network whose layers cannot be followed, or whose `mode` is train, stands in for itself.
    """
    with frozen(net, mode):
        if mode == "train":
            yield net
            return
        fast = bf16 and x.numel() >= ENOUGH and has_bf16(x.device.type)
        if isinstance(net, ImageNet) and x.dtype == torch.float32 and (copy := _copy_of(net, torch.bfloat16 if fast else torch.float32)):
            yield copy.current(net)
        else:
            yield net


_copies: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, _Copy | None]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _copy_of(net: ImageNet, dtype: torch.dtype) -> _Copy | None:
    """The copy of `net` in `dtype`, made once; in fp32 where bf16 cannot be had, None where nothing can."""
    with _lock:
        mine = _copies.setdefault(net, {})
        if dtype not in mine:
            try:
                made: _Copy | None = _Copy(net, dtype)
            except (fx.proxy.TraceError, TypeError, NotImplementedError):  # its forward decides by what it sees
                made = None
            mine[dtype] = made if made is not None and made.fits else None
        found = mine[dtype]
    return found if found is not None or dtype == torch.float32 else _copy_of(net, torch.float32)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Normalise) or super().is_leaf_module(m, module_qualified_name)


class _Passed(torch.autograd.Function):
    """A part of the copy, forward and back; nothing but the sign of a ReLU is remembered in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: _Part) -> Tensor:
        ctx.part, ctx.shape = part, x.shape
        z = part.ahead(x)
        if part.relu:
            z.relu_()
            ctx.save_for_backward(z)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.part.relu:
            gradient = torch.ops.aten.threshold_backward(gradient, ctx.saved_tensors[0], 0)
        return ctx.part.back(gradient, ctx.shape), None


class _Part(nn.Module):
    """Layers of a network that the copy does in one go. It holds the network's layers without owning them."""

    relu: bool
    by_hand = False  # whether `back` is better than what autograd would do

    def __init__(self, relu: bool, **layers: nn.Module | None) -> None:
        super().__init__()
        self.relu = relu
        self.__dict__.update(layers)

    def follow(self, dtype: torch.dtype) -> None:
        """Take up the weights that the layers have now."""
        raise NotImplementedError

    def ahead(self, x: Tensor) -> Tensor:
        """The output, which nobody else holds, without the ReLU."""
        raise NotImplementedError

    def back(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of the input, which had `shape`, from that of the output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.by_hand:
            return _Passed.apply(x, self)
        z = self.ahead(x)
        return z.relu_() if self.relu else z


class _Convolution(_Part):
    """A convolution with the batch norm and the ReLU that follow it; the first one with the normalisation before it, too.

    oneDNN has no good kernel for the input's gradient of a convolution with stride 2 and few channels: for a 3×3 one on
    pixels it is found as a 2×2 convolution, without stride, of four times as many channels, one for each pixel of a 2×2
    block; a 1×1 one simply skips pixels.
    """

    layer: nn.Conv2d
    norm: nn.BatchNorm2d | None
    first: Normalise | None

    def __init__(self, layer: nn.Conv2d, norm: nn.BatchNorm2d | None, first: Normalise | None, relu: bool) -> None:
        super().__init__(relu, layer=layer, norm=norm, first=first)
        self.how = (layer.stride, layer.padding, layer.dilation, layer.groups)
        plain = layer.dilation == (1, 1) and layer.groups == 1 and layer.stride == (2, 2)
        self.skips = plain and layer.kernel_size == (1, 1) and layer.padding == (0, 0)
        self.blocks = plain and layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.in_channels <= 4
        self.by_hand = self.skips or first is not None

    def follow(self, dtype: torch.dtype) -> None:
        weight, bias = self.layer.weight, self.layer.bias
        if self.norm is not None:
            scale, shift = _affine(self.norm)
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None else torch.addcmul(shift, bias, scale)
        if self.first is not None:
            weight = weight / self.first.std
        self.dtype, self.weight = dtype, weight.to(dtype, memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
        if self.blocks:
            self.transposed = _block_weight(weight).to(dtype, memory_format=torch.channels_last)

    def ahead(self, x: Tensor) -> Tensor:
        if self.first is not None:  # before the padding, so it cannot be folded; the division can
            x = (x - self.first.mean).to(self.dtype, memory_format=torch.channels_last)
        if self.skips:
            return F.conv2d(x[:, :, ::2, ::2], self.weight, self.bias)
        return torch.conv2d(x, self.weight, self.bias, *self.how)  # type: ignore[arg-type]

    def back(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        if self.blocks and shape[2] % 2 == 0 and shape[3] % 2 == 0:
            found = F.conv2d(gradient, self.transposed, None, 1, 1)[:, :, 1:, 1:]
            found = found.unflatten(1, (2, 2, shape[1])).permute(0, 3, 4, 1, 5, 2)
            kind = torch.float32 if self.first is not None else self.dtype
            return found.to(kind, memory_format=torch.contiguous_format).reshape(shape)
        if self.skips:
            found = torch.empty(shape, dtype=self.dtype, device=gradient.device, memory_format=torch.channels_last).zero_()
            found[:, :, ::2, ::2] = F.conv2d(gradient, self.weight.transpose(0, 1))
            return found
        stride, padding, dilation, groups = self.how
        found = torch.ops.aten.convolution_backward(
            gradient, gradient.new_empty(1).expand(shape), self.weight, None, stride, padding, dilation, False, (0, 0), groups, (True, False, False)
        )[0]  # fmt: skip
        return found.to(torch.float32, memory_format=torch.contiguous_format) if self.first is not None else found


def _block_weight(weight: Tensor) -> Tensor:
    """Of a 3×3 convolution (D,C,3,3) with stride 2 and padding 1, the 2×2 one (4·C,D,2,2) that takes the output's gradient to
    the input's: output channels are (row in the block, column in the block, C), and output row i reads rows i and i + 1.

    Input row 2i + a is touched by output row i with the weight's row 1 + a, and for a = 1 by output row i + 1 with row 0.
    """
    made = weight.new_zeros(2, 2, weight.shape[1], weight.shape[0], 2, 2)
    touch = ((0, 0, 1), (1, 0, 2), (1, 1, 0))  # (place in the block, output row − i, row of the weight)
    for a, down, row in touch:
        for b, right, column in touch:
            made[a, b, :, :, down, right] = weight[:, :, row, column].T
    return made.flatten(0, 2)


class _Affine(_Part):
    """Batch norm that no convolution can take up, and the ReLU after it."""

    norm: nn.BatchNorm2d

    def __init__(self, norm: nn.BatchNorm2d, relu: bool) -> None:
        super().__init__(relu, norm=norm)

    def follow(self, dtype: torch.dtype) -> None:
        self.scale, self.shift = (part[:, None, None].to(dtype) for part in _affine(self.norm))

    def ahead(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as z·scale + shift."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


class _Left(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.dtype = z.dtype
        return z.float() if z.dtype != torch.float32 else z.view_as(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.to(ctx.dtype, memory_format=torch.channels_last)


class _Leave(nn.Module):
    """Feature maps in fp32 for the head; on the way back the gradient is laid channels last, or every part would turn it."""

    def forward(self, z: Tensor) -> Tensor:
        return _Left.apply(z)


class _Copy:
    """The lean copy of one network's maps in one arithmetic, brought up to date when it is asked for."""

    def __init__(self, net: ImageNet, dtype: torch.dtype) -> None:
        graph = _Tracer().trace(net.maps)
        layers = dict(net.maps.named_modules())
        self.parts = _rewritten(graph, layers)
        kept = {str(node.target): layers[str(node.target)] for node in graph.nodes if node.op == "call_module" and node.target in layers}
        self.dtype = dtype
        # The images must enter through a part: it brings them into the copy's arithmetic.
        doors = [self.parts.get(str(user.target)) for node in graph.nodes if node.op == "placeholder" for user in node.users]
        enters = bool(doors) and all(isinstance(door, _Convolution) and door.first is not None for door in doors)
        self.fits = enters and not any(node.op == "get_attr" for node in graph.nodes)
        # Layers that stay themselves have fp32 parameters, which bf16 maps do not fit.
        self.fits &= dtype == torch.float32 or not any(list(layer.parameters()) for layer in kept.values())
        self.maps = fx.GraphModule({**kept, **self.parts}, graph) if self.fits else nn.Identity()

    def current(self, net: ImageNet) -> ImageNet:
        """The copy with the weights that `net` has now; its head and pool are the network's own."""
        with torch.no_grad():
            for part in self.parts.values():
                part.follow(self.dtype)
        return ImageNet(nn.Sequential(self.maps, _Leave()), net.head, net.pool)


def _rewritten(graph: fx.Graph, layers: dict[str, nn.Module]) -> dict[str, _Part]:
    """Put lean parts into the graph where they fit; the parts by name."""
    parts: dict[str, _Part] = {}
    taken: set[fx.Node] = set()

    def layer(node: object, *kinds: type[nn.Module]) -> Any:
        found = layers.get(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None
        return found if isinstance(found, kinds or nn.Module) else None

    def only_user(node: fx.Node, *kinds: type[nn.Module]) -> fx.Node | None:
        user = next(iter(node.users)) if len(node.users) == 1 else None
        return user if layer(user, *kinds) is not None else None

    for node in list(graph.nodes):
        before = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if node in taken or before is None:
            continue
        first = norm = None
        if layer(node, nn.ReLU) and before.target is operator.add and len(before.users) == 1:
            node.op, node.target = "call_function", torch.relu_  # nobody else reads the sum
            continue
        if layer(node, nn.Conv2d) and layer(node).padding_mode == "zeros" and not isinstance(layer(node).padding, str):
            norm = only_user(node, nn.BatchNorm2d)
            first = before if layer(before, Normalise) and len(before.users) == 1 else None
        elif not (layer(node, nn.BatchNorm2d) and layer(node).track_running_stats):
            continue
        relu = only_user(norm or node, nn.ReLU)
        name = f"lean_{len(parts)}"
        if layer(node, nn.Conv2d):
            parts[name] = _Convolution(layer(node), layer(norm), layer(first), relu is not None)
        else:
            parts[name] = _Affine(layer(node), relu is not None)
        taken |= {one for one in (norm, relu) if one is not None}
        with graph.inserting_before(node):
            made = graph.call_module(name, (first.args[0] if first else before,))
        (relu or norm or node).replace_all_uses_with(made)
        for one in filter(None, (relu, norm, node, first)):
            graph.erase_node(one)
    return parts
