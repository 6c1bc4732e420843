"""A copy of a network that is cheap to climb: for attacks, which ask for the gradient of the input only, in eval mode,
many times between two changes of the weights.

Batch norm in eval mode is a multiplication and an addition, so it is folded into the convolution before it; what follows
a convolution (a sum, a ReLU) is done as its result is written; activations lie channels last; where the processor
multiplies bf16 faster and the batch is large enough to gain from it, feature maps are computed in bf16. The way back is
written out, too: autograd sees one function. Who counts what is found so asks the network itself, in fp32.
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
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from robustviz.nets.base import ImageNet, Normalise, frozen

ENOUGH = 64 * 64  # input values of a batch from which bf16 is tried; with twice as many (128 digits) a step is a quarter faster
LAST = torch.channels_last


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
    1e-6 without bf16, 1e-2 with it; on a GPU, where torch's convolutions are TF32, 1e-3 without). A network whose layers
    cannot be followed, or whose `mode` is train, stands in for itself.
    """
    with frozen(net, mode):
        if mode == "train":
            yield net
            return
        fast = bf16 and x.numel() >= ENOUGH and has_bf16(x.device.type)
        if isinstance(net, ImageNet) and x.dtype == torch.float32 and (copy := _copy_of(net, torch.bfloat16 if fast else torch.float32, x)):
            with _lock:
                copy.follow()
            yield copy
        else:
            yield net


class LeanNet(ImageNet):
    """The lean copy of one network in one arithmetic. Its head and pool are the network's own, its maps a program.

    Images in either layout; the gradient of images that lie channels last lies so, too, and both then cost less.
    """

    def __init__(self, net: ImageNet, program: _Program) -> None:
        super().__init__(program, net.head, net.pool)
        self.kept: dict[str, Any] = {}  # what those who climb it keep, forgotten with it
        kinds = [type(layer) for layer in net.pool] if isinstance(net.pool, nn.Sequential) else []
        self.averages = kinds == [nn.AdaptiveAvgPool2d, nn.Flatten] and net.pool[0].output_size == 1  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_Climbed.apply(x, self.maps, True)) if self.averages else super().forward(x)

    def follow(self) -> None:
        """Take up the weights that the network has now."""
        assert isinstance(self.maps, _Program)
        self.maps.follow()

    def places(self) -> tuple[int, ...]:
        """Where in memory it finds what it computes with: a recorded step is good as long as all of it stays there."""
        assert isinstance(self.maps, _Program)
        return tuple(tensor.data_ptr() for tensor in (*self.parameters(), *self.buffers(), *self.maps.held()))


_copies: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, LeanNet | None]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _copy_of(net: ImageNet, dtype: torch.dtype, x: Tensor) -> LeanNet | None:
    """The copy of `net` in `dtype`, made once and tried on an image of `x`; in fp32 where bf16 cannot be had, None where nothing can."""
    with _lock:
        mine = _copies.setdefault(net, {})
        if dtype not in mine:
            try:
                mine[dtype] = LeanNet(net, _Program(net, dtype)) if _agrees(_Program(net, torch.float32), net.maps, x) else None
            except (fx.proxy.TraceError, TypeError, NotImplementedError):  # its forward decides by what it sees, or is not known here
                mine[dtype] = None
        found = mine[dtype]
    return found if found is not None or dtype == torch.float32 else _copy_of(net, torch.float32, x)


def _agrees(program: _Program, maps: nn.Module, x: Tensor) -> bool:
    """Whether an image's maps and a gradient are the same. No trace shows hooks, a sum that broadcasts, or a value that is
    written over while others read it.
    """
    if x.is_meta:
        return True
    found = []
    for each in (program, maps):
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            z = (x[:1].detach() if len(x) else x.new_full((1, *x.shape[1:]), 0.5)).clone().requires_grad_()
            try:
                made = each(z)
                slope = torch.arange(made.numel(), device=x.device).sin().view(made.shape)  # no layer takes it for a constant
                found.append((made.detach(), torch.autograd.grad(made, z, slope)[0]))
            except RuntimeError:
                return False
    return all(a.shape == b.shape and bool((a - b).norm() <= 0.05 * b.norm()) for a, b in zip(*found, strict=True))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Normalise) or super().is_leaf_module(m, module_qualified_name)


# What a program is made of.

Gradients = dict["_Step | None", Tensor]  # by what made the value; None: the images


class _Step:
    """Something the copy does in one go. It holds the network's layers without owning them."""

    relu = False

    def __init__(self, *reads: _Step | None) -> None:
        self.reads = list(reads)  # the steps whose values it takes; None: the images
        self.writes: fx.Node | None = None  # the node of the network's graph whose value it makes
        self.spent: list[_Step | None] = []  # those nobody takes after it

    def follow(self, dtype: torch.dtype) -> None:
        """Take up the weights that the layers have now."""

    def ahead(self, *taken: Tensor) -> tuple[Tensor, Any]:
        """(value, which nobody else holds, and what `back` will need)."""
        raise NotImplementedError

    def back(self, gradient: Tensor, kept: Any, found: Gradients) -> None:
        """Add to `found` the gradients of what was taken, from that of the value. What is in `found` is held by nobody else."""
        raise NotImplementedError


def _add(found: Gradients, step: _Step | None, gradient: Tensor) -> None:
    found[step] = gradient if step not in found else found[step] + gradient


class _Convolution(_Step):
    """A convolution with the batch norm that follows it, then a sum with another value, then a ReLU, each where there is
    one; the first convolution with the normalisation before it, too.

    On a CPU the gradient of the input is a convolution again, since oneDNN's own kernels for it are slow where there is a
    stride and channels are few: without stride it is one with the kernel turned round; for a 3×3 kernel with stride 2 it is
    a 2×2 one, without stride, of four times as many channels, one for each pixel of a 2×2 block; a 1×1 one skips pixels.
    """

    def __init__(self, read: _Step | None, layer: nn.Conv2d, first: Normalise | None) -> None:
        super().__init__(read)
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise NotImplementedError("a convolution with another padding than zeros")
        self.layer, self.first = layer, first
        self.norm: nn.BatchNorm2d | None = None
        self.stride, self.padding, self.dilation = list(layer.stride), list(layer.padding), list(layer.dilation)
        self.turned = [d * (k - 1) - p for d, k, p in zip(self.dilation, layer.kernel_size, self.padding, strict=True)]
        plain = self.dilation == [1, 1] and layer.groups == 1
        self.turns = layer.groups == 1 and self.stride == [1, 1] and min(self.turned) >= 0
        self.skips = plain and self.stride == [2, 2] and layer.kernel_size == (1, 1) and self.padding == [0, 0]
        self.blocks = plain and self.stride == [2, 2] and layer.kernel_size == (3, 3) and self.padding == [1, 1] and layer.in_channels <= 16
        self.weight: Tensor | None = None

    def follow(self, dtype: torch.dtype) -> None:
        weight, bias = self.layer.weight, self.layer.bias
        if self.norm is not None:
            scale, shift = _affine(self.norm)
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None else torch.addcmul(shift, bias, scale)
        if self.first is not None:
            weight = weight / self.first.std
        back = None
        if weight.device.type == "cpu":
            back = _block_weight(weight) if self.blocks else weight.flip(2, 3).transpose(0, 1) if self.turns or self.skips else None
        if self.weight is None or self.weight.device != weight.device:
            self.dtype, self.mean = dtype, torch.zeros(0, 0)
            self.weight = torch.empty_like(weight, dtype=dtype, memory_format=LAST)
            self.bias = None if bias is None else torch.empty_like(bias, dtype=dtype)
            self.backwards = None if back is None else torch.empty(back.shape, dtype=dtype).contiguous(memory_format=LAST)
        # Into the same memory, where a recorded graph looks for them.
        for mine, now in ((self.weight, weight), (self.bias, bias), (self.backwards, back)):
            if mine is not None and now is not None:
                mine.copy_(now)

    def ahead(self, *taken: Tensor) -> tuple[Tensor, Any]:
        x, shape = taken[0], taken[0].shape
        if self.first is not None:  # before the padding, so it cannot be folded; the division can
            x = self._centred(x)
        stride = self.stride
        if self.skips:
            x, stride = x[:, :, ::2, ::2].contiguous(memory_format=LAST), [1, 1]
        other = taken[1] if len(taken) > 1 else None
        assert self.weight is not None
        z = _convolve(x, self.weight, self.bias, stride, self.padding, self.dilation, self.layer.groups, other, self.relu)
        return z, (shape, taken[0].is_contiguous(), z if self.relu else None)

    def _centred(self, x: Tensor) -> Tensor:
        """x − mean in the copy's arithmetic, channels last."""
        assert self.first is not None
        mean = self.first.mean
        # Channels last, three numbers in turn would be slow, so there is one for every pixel.
        if x.device.type == "cpu" and x.is_contiguous(memory_format=LAST):
            whole = self.mean  # another thread may come with images of another size
            if whole.shape[1:] != x.shape[1:] or whole.device != x.device:
                whole = self.mean = torch.empty_like(x[:1], memory_format=LAST)
            mean = whole.copy_(mean)
        return torch.sub(x, mean, out=torch.empty_like(x, dtype=self.dtype, memory_format=LAST))

    def back(self, gradient: Tensor, kept: Any, found: Gradients) -> None:
        shape, plain, z = kept
        if z is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, z, 0)
        if len(self.reads) > 1:
            _add(found, self.reads[1], gradient)
        if self.first is None:
            found[self.reads[0]] = self._of_input(gradient, shape, found.get(self.reads[0]))
        else:
            kind = torch.contiguous_format if plain else LAST
            _add(found, None, self._of_input(gradient, shape, None).to(torch.float32, memory_format=kind))

    def _of_input(self, gradient: Tensor, shape: torch.Size, before: Tensor | None) -> Tensor:
        """The gradient of the input, added to that from `before`."""
        weight = self.backwards
        if weight is not None and self.turns:
            return _convolve(gradient, weight, None, [1, 1], self.turned, self.dilation, 1, before)
        if weight is not None and self.skips:
            made = _convolve(gradient, weight, None, [1, 1], [0, 0], [1, 1], 1)
            whole = torch.empty(shape, dtype=self.dtype, memory_format=LAST).zero_() if before is None else before
            whole[:, :, ::2, ::2] += made
            return whole
        if weight is not None and self.blocks:  # (N, row of blocks, column of blocks, row in a block, column in it, C)
            made = (
                _convolve(gradient, weight, None, [1, 1], [1, 1], [1, 1], 1)[:, :, 1:, 1:]
                .permute(0, 2, 3, 1)
                .unflatten(3, (2, 2, shape[1]))
            )
            made = made.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)
        else:
            assert self.weight is not None
            unread = torch.empty(shape, dtype=self.dtype, device=gradient.device, memory_format=LAST)
            made = torch.ops.aten.convolution_backward(
                gradient, unread, self.weight, None, self.stride, self.padding, self.dilation, False, (0, 0), self.layer.groups, (True, False, False),
            )[0]  # fmt: skip
        return made if before is None else made.add_(before)


_fused: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)  # as inductor uses it


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    other: Tensor | None = None, relu: bool = False,
) -> Tensor:  # fmt: skip
    """relu(convolution + other); on a CPU in one pass, where torch has oneDNN."""
    one = _fused is not None and x.device.type == "cpu"
    if one and other is None:
        return _fused(x, weight, bias, padding, stride, dilation, groups, "relu" if relu else "none", [], "")
    if one:
        return _fused.binary(x, other, weight, bias, padding, stride, dilation, groups, "add", 1.0, "relu" if relu else None, [], None)
    z = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    z = z if other is None else z.add_(other)
    return z.relu_() if relu else z


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


class _Affine(_Step):
    """Batch norm that no convolution can take up, and the ReLU after it."""

    def __init__(self, read: _Step | None, norm: nn.BatchNorm2d) -> None:
        super().__init__(read)
        if read is None:
            raise NotImplementedError("batch norm of pixels")
        self.norm = norm
        self.scale: Tensor | None = None

    def follow(self, dtype: torch.dtype) -> None:
        now = [part[:, None, None].to(dtype) for part in _affine(self.norm)]
        if self.scale is None or self.scale.device != now[0].device:
            self.scale, self.shift = now
        self.scale.copy_(now[0])
        self.shift.copy_(now[1])

    def ahead(self, *taken: Tensor) -> tuple[Tensor, Any]:
        assert self.scale is not None
        z = torch.addcmul(self.shift, taken[0], self.scale)
        return (z.relu_(), z) if self.relu else (z, None)

    def back(self, gradient: Tensor, kept: Any, found: Gradients) -> None:
        assert self.scale is not None
        if kept is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, kept, 0)
        _add(found, self.reads[0], gradient * self.scale)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as z·scale + shift. Raises NotImplementedError where it keeps no statistics."""
    if norm.running_var is None or norm.running_mean is None:
        raise NotImplementedError("batch norm without running statistics")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


class _Sum(_Step):
    """The sum of two values that no convolution can take up, and the ReLU after it."""

    def ahead(self, *taken: Tensor) -> tuple[Tensor, Any]:
        z = taken[0] + taken[1]
        return (z.relu_(), z) if self.relu else (z, None)

    def back(self, gradient: Tensor, kept: Any, found: Gradients) -> None:
        if kept is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, kept, 0)
        _add(found, self.reads[0], gradient)
        _add(found, self.reads[1], gradient.clone())


class _Layer(_Step):
    """Any other layer that has no parameters, by autograd."""

    def __init__(self, read: _Step | None, layer: nn.Module) -> None:
        super().__init__(read)
        if read is None or any(True for _ in layer.parameters()) or any(True for _ in layer.buffers()) or getattr(layer, "inplace", False):
            raise NotImplementedError(f"a layer of the kind {type(layer).__name__} here")
        self.layer = layer

    def ahead(self, *taken: Tensor) -> tuple[Tensor, Any]:
        with torch.enable_grad():
            x = taken[0].detach().requires_grad_()
            z = self.layer(x)
        return z.detach(), (x, z)

    def back(self, gradient: Tensor, kept: Any, found: Gradients) -> None:
        x, z = kept
        _add(found, self.reads[0], torch.autograd.grad(z, x, gradient, retain_graph=True)[0])  # it goes with the tape


class _Program(nn.Module):
    """Steps in order, from images to maps in fp32. Raises NotImplementedError for a network it does not know how to follow."""

    def __init__(self, net: ImageNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.steps = _steps(net.maps)
        for number, step in enumerate(self.steps):
            later = {read for other in self.steps[number + 1 :] for read in other.reads}
            step.spent = [read for read in set(step.reads) - later if read is not None]
        self.follow()  # raises for weights that cannot be taken up

    def follow(self) -> None:
        """Take up the weights that the layers have now."""
        with torch.no_grad():
            for step in self.steps:
                step.follow(self.dtype)

    def held(self) -> Iterator[Tensor]:
        """Every tensor that a step computes with besides what it takes."""
        for step in self.steps:
            parts = [getattr(step, name, None) for name in ("weight", "bias", "backwards", "scale", "shift")]
            first = getattr(step, "first", None)
            yield from (part for part in (*parts, first and first.mean) if part is not None)

    def forward(self, x: Tensor) -> Tensor:
        return _Climbed.apply(x, self, False)


class _Climbed(torch.autograd.Function):
    """A program, forward and back, and the average over the map where it is asked for; between the two no more is
    remembered than the signs of ReLUs need.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, program: _Program, average: bool) -> Tensor:
        values: dict[_Step | None, Tensor] = {None: x}
        ctx.program, ctx.tape = program, []
        with torch.autocast(x.device.type, enabled=False):
            for step in program.steps:
                values[step], kept = step.ahead(*(values[read] for read in step.reads))
                if ctx.needs_input_grad[0]:
                    ctx.tape.append(kept)
                for read in step.spent:
                    del values[read]
        z = values[program.steps[-1]]
        ctx.shape = z.shape if average else None
        if average:
            return z.mean((2, 3), dtype=torch.float32)
        return z.float() if z.dtype != torch.float32 else z.view_as(z)  # the tape's own tensor would keep the tape alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        steps, dtype = ctx.program.steps, ctx.program.dtype
        if ctx.shape is not None:
            cells = ctx.shape[2] * ctx.shape[3]
            gradient = gradient.div(cells).to(dtype)[:, :, None, None].expand(ctx.shape)
        layout = LAST if gradient.ndim == 4 else torch.contiguous_format
        found: Gradients = {steps[-1]: gradient.to(dtype, memory_format=layout, copy=True)}
        with torch.autocast(gradient.device.type, enabled=False):
            for step, kept in zip(reversed(steps), reversed(ctx.tape), strict=True):
                if step in found:
                    step.back(found.pop(step), kept, found)
        return found[None], None, None


def _steps(maps: nn.Module) -> list[_Step]:
    """The steps of `maps`: each layer becomes one, or is taken up by the step before it when that is its only use."""
    graph, layers = _Tracer().trace(maps), dict(maps.named_modules())
    steps: list[_Step] = []
    maker: dict[fx.Node, _Step | None] = {}  # what makes the value of a node
    centring: dict[fx.Node, Normalise] = {}

    def free(node: fx.Node, *kinds: type[_Step]) -> Any:
        """The step that makes `node`, where what comes next can be done in it: it ends there and nobody else reads it."""
        step = maker[node]
        return step if isinstance(step, kinds) and step.writes is node and len(node.users) == 1 and not step.relu else None

    def new(step: _Step, at: int | None = None) -> _Step:
        steps.insert(len(steps) if at is None else at, step)
        return step

    for node in graph.nodes:
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        inputs = node.all_input_nodes
        made: _Step | None = None
        if node.op == "output":
            if maker[inputs[0]] is not (steps[-1] if steps else None):
                raise NotImplementedError("maps that are not what the last step makes")
        elif node.op == "placeholder":
            pass
        elif any(one in centring for one in inputs) != (isinstance(layer, nn.Conv2d) and maker[inputs[0]] is None):
            raise NotImplementedError("pixels that are not normalised and then convolved")
        elif isinstance(layer, Normalise) and maker[inputs[0]] is None:
            centring[node] = layer
        elif isinstance(layer, nn.Identity):
            made = maker[inputs[0]]
        elif isinstance(layer, nn.Conv2d):
            made = read = maker[inputs[0]]
            one = _Convolution(read, layer, centring.get(inputs[0]))
            # A skipping one at once: its gradient then comes last, and is added to the pixels it does not skip.
            made = new(one, steps.index(read) + 1 if one.skips and read is not None else None)
        elif isinstance(layer, nn.BatchNorm2d):
            before: _Convolution | None = free(inputs[0], _Convolution)
            if before is not None and before.norm is None and len(before.reads) == 1:
                before.norm, made = layer, before
            else:
                made = new(_Affine(maker[inputs[0]], layer))
        elif isinstance(layer, nn.ReLU) and free(inputs[0], _Convolution, _Affine, _Sum):
            made = free(inputs[0], _Step)
            made.relu = True
        elif node.op == "call_function" and node.target in (operator.add, operator.iadd) and len(inputs) == 2:
            pair = [maker[one] for one in inputs]
            if None in pair:
                raise NotImplementedError("a sum with pixels")
            late = max((0, 1), key=lambda k: steps.index(pair[k]))  # type: ignore[arg-type]
            made = free(inputs[late], _Convolution)
            if made is not None and len(made.reads) == 1:
                made.reads.append(pair[1 - late])
            else:
                made = new(_Sum(*pair))
        elif layer is not None and len(inputs) == 1:
            made = new(_Layer(maker[inputs[0]], layer))
        else:
            raise NotImplementedError(f"{node.op} of {node.target}")
        maker[node] = made
        if made is not None and not isinstance(layer, nn.Identity):
            made.writes = node
    if not steps:
        raise NotImplementedError("maps without layers")
    return steps
