"""How an imported network expects its images (its "reading"): in [0, 1], normalised with the
statistics of CIFAR-10 or ImageNet, in grey levels, or with channels in the order blue, green, red.
The weights do not say which, so `likely` tries several and compares how many images are then
classified correctly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robustviz.inputs import all_logits
from robustviz.nets.attackable import device_of
from robustviz.nets.base import Classifier, Normalise, frozen
from robustviz.nets.wrapped import Wrapped
from robustviz.stats import Bools, mcnemar, wilson
from robustviz.types import UserError

AT_ONCE = 50  # images that are computed together
SECONDS = 30.0  # all readings together take about this long at most
FEWEST = 40  # images that are always used, however long that takes
SURE = 0.01  # p-value below which two readings count as different


@dataclass(frozen=True)
class Reading:
    """One way in which a network may expect its images: (x − mean) / std per channel, where a mean
    or std that is None changes nothing. If `flip` is set, the channels are then put into the order
    blue, green, red.
    """

    name: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flip: bool = False


COLOUR = (
    Reading("raw"),
    Reading("cifar", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    Reading("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Reading("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Reading("0-255", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
)
GREY = (
    Reading("raw"),
    Reading("mnist", (0.1307,), (0.3081,)),
    Reading("half", (0.5,), (0.5,)),
    Reading("0-255", (0.0,), (1 / 255,)),
)


@dataclass(frozen=True)
class Verdict:
    """How images are given to a network from now on (`reading`), whether that choice is `clear`,
    and the reason in a sentence (`text`). `right`: how many of the first `n` images were classified
    correctly under each way that was tried, by the way's name.
    """

    reading: Reading
    clear: bool
    text: str
    right: dict[str, int]
    n: int

    @property
    def lines(self) -> list[str]:
        """One line per reading that was tried with its accuracy, the best first."""
        return [
            f"{name:<14} {k / self.n:7.1%}  ({k} of {self.n} right)"
            for name, k in sorted(self.right.items(), key=lambda each: -each[1])
        ]


def usual(channels: int) -> tuple[Reading, ...]:
    """Returns the readings that are tried for this number of channels. For three channels `likely`
    also tries the best of them with the channels in reverse order.
    """
    return {1: GREY, 3: COLOUR}.get(channels, COLOUR[:1])


def named(name: str, channels: int) -> Reading:
    """Returns the reading with this name, such as `cifar`, or `bgr-cifar` for flipped channels;
    `bgr` is short for `bgr-raw`. Raises UserError for an unknown name, and for flipped channels if
    there are not three.
    """
    every = {each.name: each for each in usual(channels)}
    flip = name == "bgr" or name.startswith("bgr-")
    base = every.get(name.removeprefix("bgr").removeprefix("-") or "raw" if flip else name)
    if base is None or (flip and channels != 3):
        more = ", bgr, bgr-cifar, …" if channels == 3 else ""
        raise UserError(
            f"There is no reading {name!r} for images of {channels} channels. Known:"
            f" {', '.join(every)}{more}. For other values use mean=… and std=…",
            code=2,
        )
    return flipped(base) if flip else base


def flipped(reading: Reading) -> Reading:
    """Returns a copy of a reading that gives the channels to the network as blue, green, red."""
    return replace(reading, name=f"bgr-{reading.name}", flip=True)


def normalise_of(net: Classifier) -> Normalise:
    """Returns the layer of a network that normalises images. Raises UserError if it has none."""
    if isinstance(net, Wrapped):
        return net.normalise
    found = next((part for part in net.modules() if isinstance(part, Normalise)), None)
    if found is None:
        raise UserError("This network has no layer that normalises images.")
    return found


def set_reading(net: Classifier, reading: Reading) -> None:
    """Set the mean and std of the network's normalisation to this reading's, in place;
    `reading.flip` is ignored. Raises UserError if the network has no such layer.
    """
    layer = normalise_of(net)
    layer.mean.copy_(torch.tensor(reading.mean or (0.0,)).view(1, -1, 1, 1))
    layer.std.copy_(torch.tensor(reading.std or (1.0,)).view(1, -1, 1, 1))


@contextmanager
def _read_as(net: Classifier, reading: Reading) -> Iterator[Callable[[Tensor], Tensor]]:
    """A context manager that yields a function, which runs the network with this reading, also with
    flipped channels. At the end the old normalisation is restored.
    """
    layer = normalise_of(net)
    before = layer.mean.clone(), layer.std.clone()
    order = -1 if reading.flip else 1
    mean, std = (values and values[::order] for values in (reading.mean, reading.std))
    try:
        set_reading(net, Reading("", mean, std))
        yield lambda x: net(x.flip(1) if reading.flip else x)
    finally:
        layer.mean.copy_(before[0])
        layer.std.copy_(before[1])


def right_under(net: Classifier, x: Tensor, y: Tensor, reading: Reading) -> Bools:
    """Returns which of the images `x` (N,C,H,W) the network classifies correctly with this reading,
    as an array (N,) of bool.
    """
    device = device_of(net)
    with frozen(net), torch.no_grad(), _read_as(net, reading) as read:
        every = [
            (all_logits(read, part.to(device)).argmax(1).cpu() == labels)
            for part, labels in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)
        ]
    return torch.cat(every).numpy()


def likely(net: Classifier, x: Tensor, y: Tensor, classes: int) -> Verdict:
    """Returns the verdict on how the network most likely expects its images: the `Reading` with
    which it classifies most of them correctly. One with flipped channels is chosen only if it is
    significantly better than all others. The mean and standard deviation of the images themselves
    (`data`), if they are not near a usual reading, are chosen if they are significantly better, or
    if they are better and the usual readings cannot be told apart. If no reading is significantly
    better than chance, the first of the usual ones is chosen. `clear` is true if the chosen reading
    is significantly better than chance and than all others.

    `x` (N,C,H,W) in [0, 1], `y` (N,); if the network is slow, only the first images are used.
    `classes`: the number of classes.
    """
    tried = usual(x.shape[1])
    began = time.perf_counter()
    start = min(FEWEST, len(x))
    right_under(net, x[:start], y[:start], tried[0])
    each = (time.perf_counter() - began) / start
    n = min(len(x), max(start, int(SECONDS / (each * (len(tried) + 2)))))
    x, y = x[:n], y[:n]
    found = {reading: right_under(net, x, y, reading) for reading in tried}
    if x.shape[1] == 3:
        blue = flipped(max(found, key=lambda one: int(found[one].sum())))
        found[blue] = right_under(net, x, y, blue)
    mean, std = (tuple(round(float(v), 4) for v in of((0, 2, 3))) for of in (x.mean, x.std))
    near = any(
        one.mean
        and one.std
        and max(abs(a - b) for a, b in zip((*one.mean, *one.std), (*mean, *std), strict=True))
        < 0.05
        for one in tried
    )
    own = {} if near else {(data := Reading("data", mean, std)): right_under(net, x, y, data)}
    first, second = (_verdict(found | more, classes) for more in ({}, own))
    return second if second.reading in own and (second.clear or not first.clear) else first


def _verdict(found: Mapping[Reading, Bools], classes: int) -> Verdict:
    right = {reading.name: int(hits.sum()) for reading, hits in found.items()}
    best = max(found, key=lambda one: right[one.name])
    n, k = len(found[best]), right[best.name]
    alike = [
        other
        for other, hits in found.items()
        if other is not best
        and mcnemar(int((found[best] & ~hits).sum()), int((hits & ~found[best]).sum())) >= SURE
    ]
    if wilson(k, n)[0] <= 1 / classes:
        best = next(iter(found))
        text = (
            f"Unclear: no reading is better than chance ({k} of {n} right at best). Perhaps the"
            " weights, the order of the classes"
            f"{' (likely: so few are right)' * (wilson(k, n)[1] < 1 / classes)} or the data do not"
            f" fit; {best.name} is used."
        )
    elif alike:
        names = ", ".join(one.name for one in found if one in (best, *alike))
        best = next((one for one in (best, *alike) if not one.flip), best)
        text = f"Unclear: {names} cannot be told apart on {n} images; {best.name} is used."
    else:
        text = f"{best.name} is the best of those tried: {k} of {n} right."
    return Verdict(best, not text.startswith("Unclear"), text, right, n)


def as_given(net: Classifier, x: Tensor, y: Tensor, reading: Reading) -> Verdict:
    """Returns the verdict for a reading that is known, with the number of correct images among `x`
    (N,C,H,W); `clear` is True.
    """
    k, n = int(np.sum(right_under(net, x, y, reading))), len(x)
    return Verdict(reading, True, f"{reading.name}: {k} of {n} right.", {reading.name: k}, n)
