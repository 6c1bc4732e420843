"""`Classifier`, the base class of all networks here: it computes `head(pool(maps(x)))`. The first
layer of `maps` normalises, so attacks and pages only see pixels in [0, 1], and a checkpoint
contains its mean and std. Views use `parts` and need not know the architecture: CAM differentiates
the logits with respect to the maps, feature views use the features. `robustviz.nets.wrapped` makes
a `Classifier` of any other network.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustviz.types import UserError

PerChannel = Sequence[float] | None  # one number per channel, for images in [0, 1]; None: identity


class Normalise(nn.Module):
    """Computes (x − mean) / std per channel; mean and std are buffers (1, C, 1, 1). None stands for
    a mean of 0 and a std of 1.

    `forward` raises UserError for images with another number of channels, which would otherwise be
    broadcast silently.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: PerChannel, std: PerChannel) -> None:
        super().__init__()
        self.register_buffer(
            "mean", torch.tensor(mean or [0.0] * channels, dtype=torch.float32).view(1, -1, 1, 1)
        )
        self.register_buffer(
            "std", torch.tensor(std or [1.0] * channels, dtype=torch.float32).view(1, -1, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        channels = self.mean.shape[1]
        if x.ndim == 4 and x.shape[1] != channels:
            hint = " Repeat the grey channel: x.expand(-1, 3, -1, -1)."
            raise UserError(
                f"This network needs images with {channels} channels, but these have"
                f" {x.shape[1]}: shape"
                f" {tuple(x.shape)}.{hint if (x.shape[1], channels) == (1, 3) else ''}"
            )
        return (x - self.mean) / self.std


class Parts(NamedTuple):
    """The intermediate results of N images: maps (N, D, h, w), features (N, D'), logits (N, K).

    The logits are differentiable with respect to the features, and the features with respect to the
    maps.
    """

    maps: Tensor
    features: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """A classifier of images in [0, 1]: feature maps (N, D, h, w), features (N, D), logits (N, K).

    `size`: the side in pixels to which the network resizes images, None for no resizing. `pool`
    turns maps into features; None: global average pooling.
    """

    size: int | None = None

    def __init__(self, maps: nn.Module, head: nn.Module, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.maps = maps
        self.pool = pool or nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.maps(x)))
        return logits

    def parts(self, x: Tensor) -> Parts:
        """The maps, features and logits of images `x` (N, C, H, W), from one forward pass."""
        maps = self.maps(x)
        features = self.pool(maps).flatten(1)
        return Parts(maps, features, self.head(features))


def stem_stride(size: int) -> int:
    """The stride of a network's first convolution: 1 for images of up to 16 pixels, 2 up to 40,
    else 4.

    With it a small network takes about the same time per image on every data set.
    """
    return 1 if size <= 16 else 2 if size <= 40 else 4


@dataclass(eq=False)
class _Loan:
    """A module or parameter that `frozen` has changed: its `training` or `requires_grad` before,
    and the values that each context now in use has set.

    The latest context is the last entry.
    """

    before: bool
    # user: (its thread, the mode it wants, the value it set)
    uses: dict[object, tuple[int, bool, bool]] = field(default_factory=dict)


# by id, which stays valid: whoever froze a module or parameter keeps a reference to it
_loans: dict[int, _Loan] = {}
_change = threading.Condition()  # guards the table; notified when a loan ends


@contextmanager
def frozen(net: nn.Module, mode: Literal["eval", "train"] = "eval") -> Iterator[None]:
    """A context in which `net` is in `mode`, as set by its `train` method, and no parameter of it
    requires a gradient.

    Afterwards every module is in its own former mode, and every parameter has its own former
    `requires_grad`: layers that were put into eval mode on purpose are in it again. Contexts may
    overlap, in one thread or in several: the last one to end restores what the first one found.
    While another thread is inside such a context of `net` with the other mode, this thread waits.
    If this thread is inside a context of `net` too, UserError is raised instead, because two such
    threads would wait for each other for ever.
    """
    user, here, training = object(), threading.get_ident(), mode == "train"
    modules = list(net.modules())
    # inference tensors do not allow requires_grad to be set
    parameters = [parameter for parameter in net.parameters() if not parameter.is_inference()]
    with _change:
        _change.wait_for(lambda: _is_free(modules, training))
        for part, before, value in (
            *((module, module.training, training) for module in modules),
            *((parameter, parameter.requires_grad, False) for parameter in parameters),
        ):
            _loans.setdefault(id(part), _Loan(before)).uses[user] = here, training, value
    try:
        with _change:
            if any(module.training != training for module in modules):
                _put_into_mode(net, modules, training)
            for module in modules:
                _loans[id(module)].uses[user] = here, training, module.training
            _ask_for_gradients(parameters, [False] * len(parameters))
        yield
    finally:
        with _change:
            modes = _give_back(modules, user)
            if modes[0] != net.training:
                _put_into_mode(net, modules, modes[0])
            for module, value in zip(modules, modes, strict=True):
                module.training = value
            _ask_for_gradients(parameters, _give_back(parameters, user))
            _change.notify_all()


def _is_free(modules: Sequence[nn.Module], training: bool) -> bool:
    """Whether no other thread uses one of the modules in the other mode.

    Raises UserError if one does and this thread uses one of the modules too, because it might then
    wait for ever.
    """
    here, loans = threading.get_ident(), [_loans.get(id(module)) for module in modules]
    uses = [use for loan in loans if loan is not None for use in loan.uses.values()]
    busy = any(thread != here and wanted != training for thread, wanted, _ in uses)
    if busy and any(thread == here for thread, _, _ in uses):
        raise UserError(
            f"This network cannot switch to {'train' if training else 'eval'} mode while another"
            " thread uses it in the other mode: give each thread its own copy."
        )
    return not busy


def _ask_for_gradients(parameters: Sequence[nn.Parameter], values: Sequence[bool]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        if parameter.requires_grad != value:
            parameter.requires_grad_(value)


def _put_into_mode(net: nn.Module, modules: Sequence[nn.Module], training: bool) -> None:
    """Calls `net.train`, which may be overridden; where it is not implemented, sets the flags."""
    try:
        net.train(training)
    except NotImplementedError:  # exported programs
        for module in modules:
            module.training = training


def _give_back(lent: Sequence[object], user: object) -> list[bool]:
    """Ends the use of modules or parameters `lent` to the context `user`; returns the value that
    each of them must have now.

    This is the value set last by another context, or the original one if there is none.
    """
    values = []
    for thing in lent:
        loan = _loans[id(thing)]
        loan.uses.pop(user, None)
        values.append(next(reversed(loan.uses.values()))[2] if loan.uses else loan.before)
        if not loan.uses:
            del _loans[id(thing)]
    return values
