"""Networks by the names that a person, or an imported run, gives them: one of ours, torchvision's
or timm's, or what a function of somebody's code makes. Weights are never fetched.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustviz import nets, plugins, registry
from robustviz.imports import load
from robustviz.nets.base import Classifier
from robustviz.nets.wrapped import Wrapped, wrap
from robustviz.types import UserError, harmless

ROOMS = ("nets", "torchvision", "timm")  # whose networks are made without anybody's code
# What a run's config.json keeps of how its module is looked into: what `wrap` takes.
TOLD = ("maps", "features", "head", "logits", "mean", "std", "size", "grid", "shape")
# Those of torchvision that weights are compared with where they do not fit what was named.
USUAL = re.compile(
    r"resnet\d+|resnext50_32x4d|wide_resnet50_2|mobilenet_\w+|efficientnet_b[0-3]|vgg1[169](_bn)?"
    r"|convnext_(tiny|small)|densenet121|vit_b_(16|32)|swin_[ts]|alexnet|shufflenet_v2_x1_0"
)


class Flipped(nn.Module):
    """A network that reads blue, green, red: it is handed the channels in that order."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x.flip(1))


def sources(name: str) -> list[str]:
    """What a name may mean, the likeliest first: as it is where it has a colon, else ours,
    torchvision's, timm's. Raises UserError where nobody has such a network.
    """
    room, colon, rest = name.partition(":")
    if colon:
        if room in ROOMS:
            _check(room, rest)
        return [name]
    found = []
    for room in ROOMS:
        try:
            _check(room, name)
            found.append(f"{room}:{name}")
        except (UserError, ImportError):
            pass
    if not found:
        near = difflib.get_close_matches(name, {*registry.keys("net"), *_torchvision()}, 5, 0.4)
        raise UserError(
            f"Neither robustviz nor torchvision nor timm has a network called {harmless(name)!r};"
            f" names like it: {', '.join(near) or 'none'}. A function of yours that makes one is"
            " named FILE.py:make or pkg.mod:make.",
            code=2,
        )
    return found


def is_code(source: str) -> bool:
    """Whether somebody's code makes it."""
    return source.partition(":")[0] not in ROOMS


def _torchvision() -> list[str]:
    models = load("torchvision.models")
    return list(models.list_models(module=models))


def _timm() -> Any:
    try:
        return load("timm")
    except ImportError:
        raise UserError(
            "timm's networks need timm, which is not installed: run `pip install timm`."
        ) from None


def _check(room: str, name: str) -> None:
    """Raises UserError where that room has no such network; a name that would fetch weights from
    somewhere is none.
    """
    if room == "nets":
        registry.get("net", name)
        return
    known = _torchvision() if room == "torchvision" else _timm().list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 5, 0.4)) or "none"
        raise UserError(
            f"{room} has no network called {harmless(name)!r}; names like it: {near}.", code=2
        )


def module(
    source: str, classes: int, channels: int, size: int, *, asked_by: str = "", sha256: str = ""
) -> nn.Module:
    """A new network with weights drawn from torch's global generator. `source`: `nets:KEY`,
    `torchvision:NAME`, `timm:NAME`, `FILE.py:make` or `pkg.mod:make`; a function's parameters
    called classes or num_classes, channels and size get these. `asked_by`, `sha256` as in
    `plugins.resolve`.

    Raises UserError where there is none of that name, where code is not trusted here, and where it
    makes no network.
    """
    room, _, name = source.partition(":")
    if room not in ROOMS:
        make = plugins.resolve(source, asked_by=asked_by, sha256=sha256)
        return _of_code(make, source, classes, channels, size)
    _check(room, name)
    if room == "nets":
        return nets.build(name, classes, channels, size)
    if room == "torchvision":
        if channels != 3:
            raise UserError(
                f"torchvision's networks read colour images, and these have {channels} channels:"
                " take one of timm's, or a function that makes it for such images."
            )
        made: nn.Module = load("torchvision.models").get_model(
            name, weights=None, num_classes=classes
        )
        return made
    made = _timm().create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    return made


def _of_code(make: Any, source: str, classes: int, channels: int, size: int) -> nn.Module:
    offered = {"classes": classes, "num_classes": classes, "channels": channels, "size": size}
    named = harmless(source)
    try:
        wanted = inspect.signature(make).parameters
        made = make(**{name: value for name, value in offered.items() if name in wanted})
    except Exception as error:  # it is somebody's code
        raise UserError(
            f"{named} raised {type(error).__name__}: {harmless(error)}. It is called without"
            " arguments, or with classes, channels and size where it has such parameters."
        ) from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{named} gave a {type(made).__name__}; an nn.Module is wanted.")
    return made


def network(
    told: Mapping[str, Any] | None, shape: tuple[int, int, int], asked_by: str
) -> Classifier:
    """The network that an imported run's config.json describes, with weights drawn from torch's
    global generator. `shape`: its classes, and channels and pixels of a side of its images. Raises
    UserError where nothing is described, and as `module` and `wrap` do.
    """
    if told is None:
        raise UserError(f"{asked_by} does not say what its network is: import it anew.")
    sha256 = str(told.get("sha256", ""))
    made = module(str(told["source"]), *shape, asked_by=asked_by, sha256=sha256)
    return looked_into(made, told)


def looked_into(made: nn.Module, told: Mapping[str, Any]) -> Classifier:
    """A module as one of our networks: as it is where it is one and nothing is said, else wrapped
    as `told`.
    """
    if told.get("flip"):
        made = Flipped(made)
    if isinstance(made, Classifier) and not any(told.get(name) is not None for name in TOLD):
        return made
    return wrap(made, **{name: told[name] for name in TOLD if told.get(name) is not None})


def source_of(net: nn.Module) -> str:
    """Where a network in memory is from, as far as it says so: ours, torchvision's or timm's; empty
    where it does not.
    """
    if isinstance(net, Wrapped):
        return source_of(net.module)
    key = getattr(type(net), "key", "")
    if isinstance(net, Classifier) and key in registry.every("net"):
        return f"nets:{key}"
    named = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {}
    if type(net).__module__.startswith("timm.") and named.get("architecture"):
        return f"timm:{named['architecture']}"
    if type(net).__module__.startswith("torchvision.models."):
        own = shapes_of(net)
        for name, other in _others(type(net).__module__, net):
            if shapes_of(other) == own:
                return name
    return ""


def _others(room: str, net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """torchvision's networks of the same file with as many classes, without weights."""
    heads = [part for part in net.modules() if isinstance(part, nn.Linear)]
    classes = heads[-1].out_features if heads else 1000
    models = load("torchvision.models")
    for name in _torchvision():
        if models.get_model_builder(name).__module__ == room:
            with torch.device("meta"):
                other = models.get_model(name, weights=None, num_classes=classes)
            yield f"torchvision:{name}", other


def usual(classes: int, channels: int, size: int) -> Iterator[tuple[str, nn.Module]]:
    """Ours and torchvision's usual networks for such images, without weights, to compare with."""
    names = [f"nets:{key}" for key in registry.keys("net")]
    if channels == 3:
        names += [f"torchvision:{name}" for name in _torchvision() if USUAL.fullmatch(name)]
    for name in names:
        if (other := without_weights(name, classes, channels, size)) is not None:
            yield name, other


def without_weights(source: str, classes: int, channels: int, size: int) -> nn.Module | None:
    """A network that has shapes and no numbers; None where it cannot be made so, or at all."""
    try:
        with torch.device("meta"):
            return module(source, classes, channels, size)
    except (UserError, RuntimeError, NotImplementedError):
        return None


def shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each weight by name."""
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}
