"""What every network here is: `head(pool(maps(x)))`, with the normalisation as the first layer of
`maps`.

Attacks and pages work on [0, 1] pixels only; a checkpoint carries its own mean and standard
deviation. Views ask for `parts` and know no architecture: CAM differentiates the logits by the
maps, feature views read the features. `robustviz.nets.wrapped` gives them of any other network.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustviz.types import UserError

PerChannel = Sequence[float] | None  # a number for each channel of images in [0, 1]; None: identity


class Normalise(nn.Module):
    """(x − mean) / std per channel; mean and std are buffers, so they travel with the weights.
    None: identity.

    Raises UserError for images with another number of channels: they would be spread over all of
    them without a word.
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
                f"This network reads images of {channels} channels, and these have {x.shape[1]}:"
                f" shape {tuple(x.shape)}.{hint if (x.shape[1], channels) == (1, 3) else ''}"
            )
        return (x - self.mean) / self.std


class Parts(NamedTuple):
    """What a network makes of N images on the way to its answer: feature maps (N,D,h,w), features
    (N,D'), logits (N,K). Logits have a gradient by features, and features by maps.
    """

    maps: Tensor
    features: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """A classifier of images in [0, 1] in three parts: feature maps (N,D,h,w), features (N,D),
    logits (N,K). `size`: pixels of a side to which it resizes images, None for not at all.
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
        """The maps, features and logits of images `x` (N,C,H,W), of one forward pass."""
        maps = self.maps(x)
        features = self.pool(maps).flatten(1)
        return Parts(maps, features, self.head(features))


def stem_stride(size: int) -> int:
    """1 up to 16 pixels, 2 up to 40, 4 above: a small net then costs about the same on every data
    set.
    """
    return 1 if size <= 16 else 2 if size <= 40 else 4


@dataclass(eq=False)
class _Loan:
    """A module or parameter while somebody has it frozen: how it was before, and what each user
    set, the latest last.
    """

    before: bool
    # user: (its thread, the mode it wants, the value it set)
    uses: dict[object, tuple[int, bool, bool]] = field(default_factory=dict)


_loans: dict[int, _Loan] = {}  # by id: whoever has frozen a module or parameter holds it
_change = threading.Condition()  # guards the table; told when a loan ends


@contextmanager
def frozen(net: nn.Module, mode: Literal["eval", "train"] = "eval") -> Iterator[None]:
    """Inside, the net is in `mode` and no parameter asks for a gradient; afterwards every module
    and parameter is as it was, one by one, because `net.train()` would wake layers that somebody
    froze on purpose.

    Uses may overlap, in one thread or in several: what the last user gives back is what the first
    one found. A thread that wants another mode than the one in which a second thread has this
    network now waits for it; raises UserError where it has the network itself meanwhile, since two
    such threads would wait for each other.
    """
    user, here, training = object(), threading.get_ident(), mode == "train"
    modules = list(net.modules())
    # inference tensors refuse to be asked
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
    """Whether no other thread has one of the modules in the other mode. Raises UserError where this
    thread would wait for itself.
    """
    here, loans = threading.get_ident(), [_loans.get(id(module)) for module in modules]
    uses = [use for loan in loans if loan is not None for use in loan.uses.values()]
    busy = any(thread != here and wanted != training for thread, wanted, _ in uses)
    if busy and any(thread == here for thread, _, _ in uses):
        raise UserError(
            f"This network is to be put into {'train' if training else 'eval'} mode while another"
            " thread uses it in the other one: give each thread a copy."
        )
    return not busy


def _ask_for_gradients(parameters: Sequence[nn.Parameter], values: Sequence[bool]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        if parameter.requires_grad != value:
            parameter.requires_grad_(value)


def _put_into_mode(net: nn.Module, modules: Sequence[nn.Module], training: bool) -> None:
    """By the network's own `train`, which may keep a layer as it is or do more; by hand where it
    has none.
    """
    try:
        net.train(training)
    except NotImplementedError:  # exported programs
        for module in modules:
            module.training = training


def _give_back(lent: Sequence[object], user: object) -> list[bool]:
    """End a user's loans; what each thing must be set to now: what another user set last, else what
    it was before all.
    """
    values = []
    for thing in lent:
        loan = _loans[id(thing)]
        loan.uses.pop(user, None)
        values.append(next(reversed(loan.uses.values()))[2] if loan.uses else loan.before)
        if not loan.uses:
            del _loans[id(thing)]
    return values
