"""Networks by name: from this package, torchvision or timm, or made by a function in user code.
Weights are never downloaded.
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

ROOMS = ("nets", "torchvision", "timm")  # sources of networks that run no user code
# The arguments of `wrap` that a run's config.json stores.
TOLD = ("maps", "features", "head", "logits", "mean", "std", "size", "grid", "shape")
# The torchvision networks to compare weights with if they do not fit the named network.
USUAL = re.compile(
    r"resnet\d+|resnext50_32x4d|wide_resnet50_2|mobilenet_\w+|efficientnet_b[0-3]|vgg1[169](_bn)?"
    r"|convnext_(tiny|small)|densenet121|vit_b_(16|32)|swin_[ts]|alexnet|shufflenet_v2_x1_0"
)


class Flipped(nn.Module):
    """Wraps a network that expects the channels blue, green, red: reverses their order first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x.flip(1))


def sources(name: str) -> list[str]:
    """The networks that `name` may stand for, as `source:name`, the most likely first.

    Of a name with a colon the list is [name]; otherwise this package, torchvision and, if it is
    installed, timm are searched in this order. Raises UserError if no source that was searched has
    such a network, and for `timm:NAME` if timm is not installed. Functions in user code are not
    looked up here.
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
            f" similar names: {', '.join(near) or 'none'}. To use a function of your own that"
            " makes a network, write FILE.py:make or pkg.mod:make.",
            code=2,
        )
    return found


def is_code(source: str) -> bool:
    """Whether `source` is a function in user code, `FILE.py:make` or `pkg.mod:make`."""
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
    """Raises UserError if this source has no network of that name.

    Only plain names are accepted, none that would download weights.
    """
    if room == "nets":
        registry.get("net", name)
        return
    known = _torchvision() if room == "torchvision" else _timm().list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 5, 0.4)) or "none"
        raise UserError(
            f"{room} has no network called {harmless(name)!r}; similar names: {near}.", code=2
        )


def module(
    source: str, classes: int, channels: int, size: int, *, asked_by: str = "", sha256: str = ""
) -> nn.Module:
    """A new network with weights drawn from torch's global generator.

    `source`: `nets:KEY`, `torchvision:NAME`, `timm:NAME`, `FILE.py:make` or `pkg.mod:make`. A
    function is called with those of `classes`, `num_classes`, `channels` and `size` that are its
    parameters; torchvision and timm ignore `size`. `asked_by` and `sha256` are as in
    `plugins.resolve`. Raises UserError if there is no network of that name, for torchvision unless
    there are 3 channels, for timm if it is not installed, if the code is not trusted on this
    computer, and if the function fails or does not return a network.
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
                "torchvision's networks need colour images (3 channels), but these have"
                f" {channels}: use a timm network, or a function that makes a network for such"
                " images."
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
    except Exception as error:  # user code may raise anything
        raise UserError(
            f"{named} raised {type(error).__name__}: {harmless(error)}. It is called with"
            " classes, channels and size if it has such parameters, else without arguments."
        ) from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{named} returned a {type(made).__name__}, but must return an nn.Module.")
    return made


def network(
    told: Mapping[str, Any] | None, shape: tuple[int, int, int], asked_by: str
) -> Classifier:
    """The network described in an imported run's config.json, `told`, with random weights.

    The weights are drawn from torch's global generator. `shape`: number of classes, channels, and
    side of the images in pixels; `asked_by`: what messages call the run. Raises UserError if `told`
    is None, and as `module` and `wrap` do.
    """
    if told is None:
        raise UserError(f"{asked_by} does not describe its network: import it again.")
    sha256 = str(told.get("sha256", ""))
    made = module(str(told["source"]), *shape, asked_by=asked_by, sha256=sha256)
    return looked_into(made, told)


def looked_into(made: nn.Module, told: Mapping[str, Any]) -> Classifier:
    """`made` as a `Classifier`: unchanged if it is one and `told` sets nothing, else wrapped.

    `told` has arguments of `wrap` by name; `flip`: the network expects blue, green, red.
    """
    if told.get("flip"):
        made = Flipped(made)
    if isinstance(made, Classifier) and not any(told.get(name) is not None for name in TOLD):
        return made
    return wrap(made, **{name: told[name] for name in TOLD if told.get(name) is not None})


def source_of(net: nn.Module) -> str:
    """Where a network in memory comes from, such as `timm:NAME`; "" if it cannot be determined."""
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
    """Yields torchvision's networks from its module `room`, as (source, network).

    They have as many classes as `net` and are on the meta device, so without values.
    """
    heads = [part for part in net.modules() if isinstance(part, nn.Linear)]
    classes = heads[-1].out_features if heads else 1000
    models = load("torchvision.models")
    for name in _torchvision():
        if models.get_model_builder(name).__module__ == room:
            with torch.device("meta"):
                other = models.get_model(name, weights=None, num_classes=classes)
            yield f"torchvision:{name}", other


def usual(classes: int, channels: int, size: int) -> Iterator[tuple[str, nn.Module]]:
    """Yields common networks for images of these classes, channels and size, as (source, network),
    to compare the shapes of weights with.

    They come from this package and, for 3 channels, from torchvision, and are on the meta device,
    so without values.
    """
    names = [f"nets:{key}" for key in registry.keys("net")]
    if channels == 3:
        names += [f"torchvision:{name}" for name in _torchvision() if USUAL.fullmatch(name)]
    for name in names:
        if (other := without_weights(name, classes, channels, size)) is not None:
            yield name, other


def without_weights(source: str, classes: int, channels: int, size: int) -> nn.Module | None:
    """The network that `source` names (as for `module`), on the meta device: with shapes but no
    values. None if making it raises UserError, RuntimeError or NotImplementedError.
    """
    try:
        with torch.device("meta"):
            return module(source, classes, channels, size)
    except (UserError, RuntimeError, NotImplementedError):
        return None


def shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each entry of the state dict, by name."""
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}
