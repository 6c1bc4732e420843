"""Any network as a `Classifier`: `wrap(module)` finds its maps, features and last layer.
Only `wrap` registers hooks on the module, during one forward pass. `parts` neither hooks nor
changes the module: it runs a twin, in which the inspected layers and the modules that contain them
are new objects and all else, also every weight, is shared. So any number of threads may look inside
at once.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.chance import drawn_from
from robustviz.inputs import FAILURES, answer, logits_of
from robustviz.nets import asked, places
from robustviz.nets.attackable import device_of
from robustviz.nets.base import Classifier, Normalise, Parts, PerChannel, frozen
from robustviz.types import JSON, UserError

FEW = 4  # if there are fewer stages than this, the last one is replaced by its own layers
Logits = str | int | Callable[[Any], Tensor] | None
Tap = Callable[[Any], Any]


class Headless(nn.Module):
    """The head of a network in which no layer computes the logits from the features alone; it
    raises UserError when called.
    """

    def forward(self, z: Tensor) -> Tensor:
        raise UserError(
            "No layer of this network computes the logits from the features alone, so logits of"
            " given features cannot be computed: name the last layer with head=…"
        )


class Wrapped(Classifier):
    """A network from outside this package as a `Classifier`, made by `wrap`.

    Images in [0, 1] are resized to `size` if that is not None, normalised, and passed to `module`.
    `maps_at`, `features_at`, `head_at` are names of layers of `module`, as explained in `wrap`. The
    maps and features come from `parts`; reading the attributes `maps` and `pool` raises UserError.
    """

    def __init__(
        self,
        module: nn.Module,
        at: places.Places,
        normalise: Normalise,
        logits: Logits,
        size: int | None,
        shape: tuple[int, int, int],
    ) -> None:
        nn.Module.__init__(self)
        self.module, self.normalise = module, normalise
        self.maps_at, self.features_at, self.head_at = at.maps, at.features, at.head
        self.grid, self.logits_at, self.size, self.shape = at.grid, logits, size, shape
        # set by `wrap` once it has checked that head(features) equals the logits
        self.has_head = False

    @property
    def maps(self) -> nn.Module:  # type: ignore[override]
        """Raises UserError, as does `pool`, because a wrapped network has no such modules."""
        raise UserError(
            "A wrapped network has no parts maps and pool that run one after the other: use"
            " parts(x). AFA, AALP and SupCon train these parts, so they need a network of"
            " robustviz's own: python -m robustviz list nets."
        )

    pool = maps

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, K) of images `x` (N, C, H, W) in [0, 1]."""
        logits: Tensor = _picked(self.module(self._shown(x)), self.logits_at)
        return logits

    def parts(self, x: Tensor) -> Parts:
        """The maps, features and logits of images `x` (N, C, H, W), from one forward pass.

        Tokens are arranged on their grid, without class tokens. If there is no layer for the maps,
        the maps are (N, 0, 1, 1); if there is neither a layer for the features nor a head, the
        features are the means of the maps. Raises UserError if one of the layers is not called
        exactly once, or returns something that cannot be used.
        """
        shown, seen = self._shown(x), dict[str, list[Tensor]]()
        taps: list[tuple[str, str, Tap]] = []

        def maps(out: Any) -> Tensor:
            own = out if isinstance(out, Tensor) else None
            found = None if own is None else places.as_map(own, self.grid, shown)
            if own is None or found is None:
                raise UserError(_no_map(self.maps_at, out, self.grid))
            seen.setdefault("maps", []).append(found)
            return places.from_map(found, own)

        def features(out: Any) -> Tensor:
            if not isinstance(out, Tensor) or out.ndim < 2:
                raise UserError(
                    f"The layer {self.features_at or self.head_at} gives {asked.in_words(out)}"
                    " instead of features (N,D): name another layer with features=…"
                )
            flat = out.flatten(1)
            seen.setdefault("features", []).append(flat)
            return flat.view_as(out)

        if self.maps_at:
            taps.append((self.maps_at, "out", maps))
        if self.features_at or self.head_at:
            where = (self.features_at, "out") if self.features_at else (self.head_at, "given")
            taps.append((*where, features))
        twin = _tapped(self.module, [(n, *tap[1:]) for tap in taps for n in self._names(tap[0])])
        logits = _picked(twin(shown), self.logits_at)
        for what, name in (("maps", self.maps_at), ("features", self.features_at or self.head_at)):
            if name and len(seen.get(what, ())) != 1:
                raise UserError(_not_once(name, len(seen.get(what, ())), what))
        found = seen["maps"][0] if self.maps_at else x.new_zeros(len(x), 0, 1, 1)
        mean = "features" not in seen
        return Parts(found, found.mean((2, 3)) if mean else seen["features"][0], logits)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The module that computes the logits from the features: the last layer.

        A convolution is returned as an nn.Linear that shares its weights and requires no gradient.
        If no layer computes the logits so, a module is returned that raises UserError when called.
        """
        if not self.has_head:
            return Headless()
        layer = self.module.get_submodule(self.head_at)
        if not isinstance(layer, nn.Conv2d):
            return layer
        own, bias = layer.weight.detach().flatten(1), layer.bias
        # its weights are replaced by those of the convolution
        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.in_features, linear.out_features = own.shape[1], own.shape[0]
        linear.weight = nn.Parameter(own, requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return linear

    def stages(self) -> dict[str, nn.Module]:
        """The layers up to the one that outputs the feature maps, by name, in the module's order.

        These are the children of the module, by dotted name; one that contains the layer of the
        maps is replaced by its own children, at every depth. If that gives fewer than `FEW` layers
        and the layer of the maps is an nn.Sequential, its children take its place. Without a layer
        for the maps, all children of the module are returned.
        """
        out: dict[str, nn.Module] = {}

        def enter(layer: nn.Module, before: str) -> bool:
            for name, child in layer.named_children():
                path = f"{before}{name}"
                if self.maps_at.startswith(f"{path}."):
                    return enter(child, f"{path}.")
                out[path] = child
                if path == self.maps_at:
                    return True
            return False

        enter(self.module, "")
        last = self.module.get_submodule(self.maps_at)
        if self.maps_at and len(out) < FEW and isinstance(last, nn.Sequential):
            out.pop(self.maps_at, None)
            out |= {f"{self.maps_at}.{name}": child for name, child in last.named_children()}
        return out

    def description(self) -> JSON:
        """The arguments with which `wrap` makes this network again from its module, as JSON.

        Raises UserError if `logits` is a function, which cannot be saved.
        """
        if callable(self.logits_at):
            raise UserError(
                "The logits of this network are picked by a function, which cannot be saved:"
                " give their name, or a module whose forward returns only the logits."
            )
        return {
            "maps": self.maps_at,
            "features": self.features_at,
            "head": self.head_at,
            "logits": self.logits_at,
            "mean": self.normalise.mean.flatten().tolist(),
            "std": self.normalise.std.flatten().tolist(),
            "size": self.size,
            "grid": self.grid and list(self.grid),
            "shape": list(self.shape),
        }

    def _shown(self, x: Tensor) -> Tensor:
        """The images as `module` expects them: resized and normalised."""
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            smaller = self.size < max(x.shape[2:])
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=smaller)
        out: Tensor = self.normalise(x)
        return out

    def _names(self, name: str) -> list[str]:
        """All names of the layer called `name`, since a network may contain a layer twice."""
        layer = self.module.get_submodule(name)
        every = self.module.named_modules(remove_duplicate=False)
        return [other for other, module in every if module is layer]


def _picked(out: Any, logits: Logits) -> Any:
    """The logits in the output `out` of a network: `out` itself if `logits` is None, its entry or
    attribute `logits`, or what the function `logits` returns for it.
    """
    if callable(logits):
        return logits(out)
    if logits is None:
        return out
    inside: Any = out
    if isinstance(logits, int) or isinstance(out, Mapping):
        return inside[logits]
    return getattr(out, logits)


def _tapped(module: nn.Module, taps: Sequence[tuple[str, str, Tap]]) -> nn.Module:
    """A twin of `module` that shares its weights and calls functions at the named layers; `module`
    itself is not changed.

    `taps`: (layer name, "given" or "out", function). The function is called with the layer's first
    argument ("given") or its output ("out"), which is replaced by what the function returns.
    """
    twin = object.__new__(type(module))
    vars(twin).update(vars(module))
    below: dict[str, list[tuple[str, str, Tap]]] = {}
    for name, when, tap in taps:
        first, _, rest = name.partition(".")
        below.setdefault(first, []).append((rest, when, tap))
    here = below.pop("", [])
    vars(twin)["_modules"] = {
        name: _tapped(child, below[name]) if child is not None and name in below else child
        for name, child in module._modules.items()
    }
    # keep a forward set on the instance, but not that of a fused copy
    forward = vars(twin).pop("forward", None)
    own = getattr(forward, "__func__", None)
    if forward is not None and own is not type(module).forward:
        vars(twin)["forward"] = types.MethodType(own, twin) if own else forward
    if here:
        run = twin.forward

        def tapped(*given: Any, **named: Any) -> Any:
            for _, when, tap in here:
                if when == "given" and given:
                    given = (tap(given[0]), *given[1:])
            out = run(*given, **named)
            for _, when, tap in here:
                out = tap(out) if when == "out" else out
            return out

        vars(twin)["forward"] = tapped
    return twin


def wrap(
    module: nn.Module,
    *,
    maps: str | None = None,
    features: str | None = None,
    head: str | None = None,
    logits: Logits = None,
    mean: PerChannel = None,
    std: PerChannel = None,
    size: int | None = None,
    grid: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
) -> Wrapped:
    """Returns any classifier `module` as a network of this package, which shares its weights.

    `maps`: name of the layer whose output (N,D,h,w), (N,h,w,D) or tokens (N,T,D) are the feature
    maps; `features`: of the layer whose output is the features (N,D), "" if they are the input of
    the head; `head`: of the last layer. Those left None are found by a forward pass on noise
    (`places.find`). `logits`: where the logits are if the module does not return a tensor: a key,
    an index, an attribute or a function. `mean`, `std`: the normalisation that the module expects,
    one number per channel for images in [0, 1]. `size`: side in pixels to which images are resized
    inside. `grid`: rows and columns of the tokens; class tokens come before them. `shape`:
    (C, H, W) of the images before they are resized; None: usual shapes are tried.

    Raises UserError for a module that cannot read such images, returns probabilities or anything
    else instead of logits (N,K), or returns different logits for the same images in eval mode, and
    for layers that do not exist, are not called, or are called several times.
    """
    module = asked.module_of(module)
    x, normalise = _trial_images(module, mean, std, size, shape)
    wanted = places.Places(maps or "", features or "", head or "", asked.checked_grid(grid))
    net = Wrapped(module, wanted, normalise, logits, size, tuple(x.shape[1:]))  # type: ignore[arg-type]
    for name in (maps, features, head):
        asked.check_name(module, name)
    with frozen(net), torch.no_grad():
        first = _logits(net, x)
        if not torch.allclose(first, _logits(net, x), rtol=1e-4, atol=1e-5, equal_nan=True):
            raise UserError(
                "This network returns different logits for the same images, also in eval mode,"
                " so its accuracy would mean nothing: remove random operations from its forward."
            )
    if None in (maps, features, head):
        _find(net, x, maps, features, head)
    _check_head(net, x)
    return net


def with_random_weights(net: Wrapped, seed: int) -> Wrapped:
    """A copy of `net` with random weights, drawn with `seed`, as if it had not been trained.

    Layers with `reset_parameters` are initialised by it. All other parameters (class tokens,
    position embeddings) have their values shuffled, which keeps their scale.
    """
    net = copy.deepcopy(net)
    rng = torch.Generator().manual_seed(seed)
    with drawn_from(rng), torch.no_grad():
        for layer in net.modules():
            begin = getattr(layer, "reset_parameters", None)
            if callable(begin):
                begin()
                continue
            for own in layer.parameters(recurse=False):
                order = torch.randperm(own.numel(), generator=rng)
                own.copy_(own.flatten()[order.to(own.device)].view_as(own))
    return net


def _trial_images(
    module: nn.Module,
    mean: PerChannel,
    std: PerChannel,
    size: int | None,
    shape: Sequence[int] | None,
) -> tuple[Tensor, Normalise]:
    """Noise (2, C, H, W) that the module accepts, and the normalisation for it.

    Raises UserError with the module's first error if it accepts none of the shapes in
    `asked.shapes`.
    """
    device, error = device_of(module), None
    weights = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    for channels, *sides in asked.shapes(module, mean, std, size, shape):
        normalise = Normalise(channels, *asked.checked_scale(mean, std, channels))
        normalise = normalise.to(device, weights)
        noise = torch.rand((2, channels, *sides), generator=torch.Generator().manual_seed(0))
        trial = Wrapped(module, places.Places("", "", "", None), normalise, None, size, (0, 0, 0))
        x = noise.to(device, weights)
        with frozen(module), torch.no_grad():
            try:
                answer(trial, x)
                return x, normalise
            except UserError as raised:
                error = error or raised
    asks = "" if shape is not None else " Give the shape of its images with shape=(C,H,W)."
    raise UserError(
        f"{error}{asks} If the network needs its images resized, give the size with size=…"
    ) from error


def _logits(net: Wrapped, x: Tensor) -> Tensor:
    """The network's logits (N, K) for trial images `x`. Raises UserError, with the likely cause, if
    it returns none, or probabilities instead.
    """
    try:
        out = answer(net.module, net._shown(x))
    except UserError as error:
        raise UserError(str(error)) from error
    if net.logits_at is None and not isinstance(out, Tensor):
        raise UserError(
            f"The network must return logits (N,K), but it returns {asked.in_words(out)}: say"
            " where they are with logits=…, a name, a position or a function."
        )
    try:
        picked = _picked(out, net.logits_at)
    except FAILURES as error:
        raise UserError(
            f"logits={net.logits_at!r} names nothing in the output of this network,"
            f" {asked.in_words(out)}."
        ) from error
    logits = logits_of(lambda _: picked, x)
    if bool((logits >= 0).all()) and torch.allclose(
        logits.sum(1), torch.ones(len(logits)).to(logits), atol=1e-3
    ):
        raise UserError(
            "This network returns probabilities, not logits: each image's add up to 1. An attack"
            " uses the gradient of the logits, which softmax makes very small: leave the softmax"
            " out."
        )
    return logits


def _find(
    net: Wrapped, x: Tensor, maps: str | None, features: str | None, head: str | None
) -> None:
    """Finds those of the layers `maps`, `features` and `head` that are None, and the grid if it is
    not known, and stores them in `net`. `x`: images to try.
    """
    shown = net._shown(x[:1])
    out, calls = places.trial(net.module, shown)
    found = places.find(calls, _picked(out, net.logits_at), shown)
    if head is None:
        net.head_at = found.head
    if features is None and not net.head_at:
        net.features_at = found.features
    if maps is None:
        net.maps_at, net.grid = found.maps, net.grid or found.grid
    elif net.grid is None:
        sides = [s for c in calls if (s := places.side_of_call(c, shown))]
        own = next((call.out for call in calls if call.name == maps), None)
        if isinstance(own, Tensor) and own.ndim == 3:
            net.grid = places.grid_of(own.shape[1], sides, shown)


def _check_head(net: Wrapped, x: Tensor) -> None:
    """Sets `net.has_head`: whether there is a head and head(features) equals the logits of `x`, to
    about 1e-3. Raises UserError if `parts` fails.
    """
    with frozen(net), torch.no_grad():
        _, features, logits = net.parts(x)
        if not net.head_at:
            return
        net.has_head = True
        try:
            made = net.head(features)
        except FAILURES:
            made = None
        net.has_head = (
            isinstance(made, Tensor)
            and made.shape == logits.shape
            and torch.allclose(made, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
        )


def _no_map(name: str, out: Any, grid: tuple[int, int] | None) -> str:
    tokens = isinstance(out, Tensor) and out.ndim == 3
    return (
        f"The layer {name} gives {asked.in_words(out)} instead of feature maps (N,D,h,w),"
        " (N,h,w,D) or tokens (N,T,D): "
        + (
            "say with grid=(rows, columns) how the tokens are arranged."
            if tokens and grid is None
            else f"its tokens do not fill the grid {grid}."
            if tokens
            else "name another one with maps=…"
        )
    )


def _not_once(name: str, times: int, what: str) -> str:
    return (
        f"The layer {name} is never called as a part of this network, so it has no {what}: name"
        f" another one with {what}=…"
        if not times
        else f"The layer {name} is called {times} times for an image, so it is not clear which"
        f" {what} to use: name another one with {what}=…"
    )
