"""Class activation maps (CAM) of whole batches, and the per-pixel budgets that PART computes from
them.

The grad-cam package gives the same numbers (a test compares them), but it leaves hooks, eval mode
and parameter gradients behind in the network, which would break a training step.
"""

import functools
import re
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import registry
from robustviz.inputs import (
    SIXTEEN,
    answer,
    check_images,
    check_labels,
    check_shape,
    in_parts,
    logits_of,
    plain_tensor,
    try_out,
)
from robustviz.nets.attackable import attackable, copied, copy_of, has_hooks
from robustviz.nets.base import Classifier
from robustviz.nets.wrapped import Wrapped
from robustviz.types import MASK_RULES, UserError, check_eps, parse_number, plain

# For each rule, the quarter of the image that is not marked: its row and column, 0 or 1.
QUADRANTS = {
    "all-but-upper-left": (0, 0),
    "all-but-upper-right": (0, 1),
    "all-but-lower-left": (1, 0),
    "all-but-lower-right": (1, 1),
}
BLIND = ("ones", *QUADRANTS)  # rules that use no map
RULES = (*MASK_RULES, *QUADRANTS)
# Images per forward pass on a CPU. With more images, the activations do not fit into its cache, and
# memory for them is allocated anew in each pass.
TOGETHER = 128
NUMBER = r"(-?(?:\d+\.?\d*|\.\d+))"

# The breakpoints of each colour channel, (position, value): matplotlib's `_jet_data` in `_cm.py`.
JET = {
    "red": ((0.0, 0.0), (0.35, 0.0), (0.66, 1.0), (0.89, 1.0), (1.0, 0.5)),
    "green": ((0.0, 0.0), (0.125, 0.0), (0.375, 1.0), (0.64, 1.0), (0.91, 0.0), (1.0, 0.0)),
    "blue": ((0.0, 0.5), (0.11, 1.0), (0.34, 1.0), (0.65, 0.0), (1.0, 0.0)),
}


def grad_cam(
    net: Classifier, x: Tensor, y: Tensor | None = None, *, before_norm: bool = False
) -> Tensor:
    """Grad-CAM maps Σ_k w_k·A_k of the last feature maps A_k, with w_k the spatial mean of
    ∂z_y/∂A_k; raw, signed and detached, (N, h, w).

    `x`: images (N, C, H, W) in [0, 1]; `y`: the class to explain for each image, (N,), or None for
    the predicted class; `before_norm`: use as A the input of the network's last batch norm and ReLU
    instead of their output. The maps are not scaled, so that those of a clean and an attacked image
    can be compared. The network is used in eval mode and left unchanged; samples do not affect each
    other. Raises UserError for wrong arguments, and with `before_norm` unless the network's `maps`
    end with a batch norm and a ReLU after a block, as in Wide-ResNet and PreAct-ResNet, and its
    `forward` is that of `Classifier`.

    Source: Selvaraju et al. 2017 (arXiv 1610.02391), eq. 1 and 2. PART's code takes the maps of its
    ResNet-18 at the same layer as we do, those of Wide-ResNet before the norm. Differs: no ReLU;
    the caller applies it.
    """
    maps, gradient = maps_and_gradient(net, x, y, before_norm)
    return (gradient.mean((2, 3), keepdim=True) * maps).sum(1)


def layer_cam(
    net: Classifier, x: Tensor, y: Tensor | None = None, *, before_norm: bool = False
) -> Tensor:
    """LayerCAM maps: Σ_k ReLU(∂z_y/∂A_k)·A_k; raw and detached, (N, h, w); arguments and errors as
    in `grad_cam`.

    Source: Jiang et al. 2021 (LayerCAM, IEEE Transactions on Image Processing 30). Differs: no ReLU
    of the sum; the caller applies it.
    """
    maps, gradient = maps_and_gradient(net, x, y, before_norm)
    return (gradient.relu() * maps).sum(1)


def check_maps(net: nn.Module) -> None:
    """Raises UserError if `net` has no feature maps: its attribute `maps` is not a module or, if it
    was made by `robustviz.wrap`, no layer with feature maps was found in it.
    """
    if isinstance(net, Wrapped):
        if not net.maps_at:
            raise UserError(
                "No layer with feature maps was found in this network, so no CAM map can be"
                " computed: name one with robustviz.wrap(module, maps=…)."
            )
    elif not isinstance(net, nn.Module) or not isinstance(getattr(net, "maps", None), nn.Module):
        raise UserError(
            "This network has no attribute `maps` that returns its feature maps: wrap it with"
            " robustviz.wrap(module)."
        )


def maps_and_gradient(
    net: Classifier, x: Tensor, y: Tensor | None = None, before_norm: bool = False
) -> tuple[Tensor, Tensor]:
    """The feature maps (N, D, h, w) and their gradient ∂z_y/∂maps of the same shape, both detached,
    from which all CAM maps are computed; arguments as in `grad_cam`. Raises UserError for images,
    labels or networks that do not fit.
    """
    check_maps(net)
    check_shape(x)
    trained = getattr(net, "training", False)  # maybe inside a training step: no `try_out` then
    with torch.inference_mode(False), attackable(net, fused=False) as ready:
        # `net` is itself a copy made for an attack, which has checked images and labels already
        inside = copy_of(net) is not None
        # if `maps` is the identity, `x` is a feature map and need not lie in [0, 1]
        wrapped = isinstance(ready, Wrapped)
        any_number = not wrapped and isinstance(net.maps, nn.Identity)
        x = plain_tensor(x) if inside or any_number else check_images(x)
        if not inside and not trained and len(x) > 1:
            try_out(ready, x)
        # Whether a forward pass is head(pool(maps(x))) and nothing else. Hooks of these three parts
        # do not matter: they run when the parts are called.
        is_composed = type(ready).forward is Classifier.forward and not (
            "forward" in vars(ready) or has_hooks(ready)
        )
        look = _from_maps_on if is_composed else _from_parts if wrapped else _with_a_hook
        if before_norm:
            if not (is_composed and _ends_with_norm(ready.maps)):
                raise UserError(
                    "This network does not end with a batch norm and a ReLU after its blocks, so"
                    " there are no maps before them: use the last maps, or wrn_34_10 or"
                    " preact_resnet18."
                )
            look = _from_norm_on
        if look is _with_a_hook and ready is not net:  # other threads use the cached copy
            ready = copied(ready) or ready
        at_once = TOGETHER if x.device.type == "cpu" else max(len(x), 1)
        parts = in_parts(x, at_once, getattr(net, "size", None))
        leaves, logits = zip(*(look(ready, part) for part in parts), strict=True)
        if y is None:
            y = torch.cat([each.detach().argmax(1) for each in logits])
        elif not inside:
            y = check_labels(y, len(x), logits[0].shape[1], x)
        own = torch.split(y[:, None], [len(leaf) for leaf in leaves])
        heights = (every.gather(1, at).sum() for every, at in zip(logits, own, strict=True))
        gradient = torch.cat([*map(_slope, leaves, heights)])
        maps = torch.cat([leaf.detach() for leaf in leaves])
        return (maps.float(), gradient.float()) if maps.dtype in SIXTEEN else (maps, gradient)


def _slope(leaf: Tensor, height: Tensor) -> Tensor:
    gradient = (
        torch.autograd.grad(height, leaf, allow_unused=True)[0] if height.requires_grad else None
    )
    if gradient is None:
        raise UserError(
            "The logits of this network have no gradient with respect to its feature maps, so no"
            " CAM map can be computed: pool and head must use the output of maps, without detach"
            " or no_grad."
        )
    return gradient


def _from_maps_on(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """The feature maps of images `x` as a leaf tensor, and the logits computed from this leaf."""
    with torch.no_grad():
        leaf = _map(answer(net.maps, x))
    with torch.enable_grad():
        return leaf, logits_of(lambda z: net.head(net.pool(z)), leaf)


def _from_parts(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """The feature maps of a wrapped network for images `x`, still in the graph, and the logits
    computed from them.
    """
    with torch.enable_grad():  # weights require no grad here, so the image must
        maps, _, logits = answer(net.parts, x.clone().requires_grad_())
        return maps, logits_of(lambda _: logits, x)


def _ends_with_norm(maps: nn.Module) -> bool:
    """Whether `maps` ends with a batch norm and a ReLU after at least one block. A batch norm
    directly after a convolution does not count: it may be fused into the convolution, see
    `nets.fused`.
    """
    return (
        type(maps) is nn.Sequential
        and not has_hooks(maps)
        and [type(part) for part in maps[-2:]] == [nn.BatchNorm2d, nn.ReLU]
        and not isinstance(maps[-3:][0], (nn.Conv2d, nn.BatchNorm2d))
    )


def _from_norm_on(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """The input of the last batch norm as a leaf tensor, and the logits computed from this leaf."""
    maps = cast(nn.Sequential, net.maps)
    with torch.no_grad():
        leaf = _map(answer(maps[:-2], x))
        if leaf.dtype in SIXTEEN:  # the copy computes only its blocks in 16 bits
            leaf = leaf.to(next(maps[-2:].parameters(), leaf).dtype)
    leaf = leaf.detach().requires_grad_()
    with torch.enable_grad():
        return leaf, logits_of(lambda z: net.head(net.pool(maps[-2:](z))), leaf)


def _with_a_hook(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """The feature maps, caught by a forward hook, and the logits of a network with a `forward` of
    its own. No other thread may use the network meanwhile. Raises UserError unless its `forward`
    calls `maps` exactly once.
    """
    caught: list[Tensor] = []

    def catch(module: nn.Module, given: object, maps: object) -> Tensor:
        caught.append(_map(maps))
        return caught[-1].clone()  # the next layer may change it in place

    with net.maps.register_forward_hook(catch), torch.enable_grad():
        logits = logits_of(net, x)
    if len(caught) != 1:
        raise UserError(
            f"The forward of this network calls `maps` {len(caught)} times, so it is not clear"
            " which feature maps to use."
        )
    return caught[0], logits


def _map(maps: object) -> Tensor:
    if not isinstance(maps, Tensor) or maps.ndim != 4 or not maps.is_floating_point():
        raise UserError(
            f"This network's maps have shape {tuple(maps.shape)} of"
            f" {str(maps.dtype).removeprefix('torch.')}, but must be floats of shape (N,D,h,w)."
            if isinstance(maps, Tensor)
            else f"The `maps` of this network return a {type(maps).__name__} instead of a tensor"
            " (N,D,h,w): check its hooks."
        )
    return maps.detach().requires_grad_()


def check_rule(rule: str) -> tuple[str, float]:
    """Split a mask rule into its kind and its number, as `z>1` into ("z", 1.0) and `top20%` into
    ("top", 20.0); rules without a number get 1.0. Raises UserError for a rule that
    `importance_mask` would refuse, such as `oracle`; a training calls this before it starts, so
    that it does not fail in its first batch.
    """
    if not isinstance(rule, str) or rule == "oracle":
        raise UserError(
            "The rule oracle needs the true object masks: use it with PART on a data set that"
            " has them, such as shapes."
            if isinstance(rule, str)
            else f"{rule!r} is not a mask rule: give the name of one, such as z>1. Known:"
            f" {', '.join(RULES)}.",
            code=2,
        )
    if rule in ("shuffled", "jet-compat", *BLIND):
        return rule, 1.0
    if found := re.fullmatch(f"(z|heat)>{NUMBER}", rule):
        return found[1], float(found[2])
    if found := re.fullmatch(f"top{NUMBER}%", rule):
        if not 0 <= float(found[1]) <= 100:
            raise UserError(
                f"The rule {rule} is impossible: the share of the pixels must be 0 to 100%.", code=2
            )
        return "top", float(found[1])
    raise UserError(
        f"{registry.unknown('rule', rule, RULES)} After z>, heat> and top any number is allowed.",
        code=2,
    )


def blind_mask(rule: str, x: Tensor) -> Tensor:
    """The bool mask (N, 1, H, W) of images `x` (N, C, H, W) by one of the `BLIND` rules: every
    pixel (`ones`), or every pixel outside one quarter of the image. It is the same for every image.

    The quarter at the upper left has half the height and half the width, both rounded down.
    """
    mask = torch.ones_like(x[:, :1], dtype=torch.bool)
    if rule in QUADRANTS:
        at = [
            slice(side // 2, None) if far else slice(side // 2)
            for far, side in zip(QUADRANTS[rule], x.shape[2:], strict=True)
        ]
        mask[:, :, at[0], at[1]] = False
    return mask


def importance_mask(heat: Tensor, rule: str = "z>1", size: tuple[int, int] | None = None) -> Tensor:
    """Which pixels are important: a bool mask (N, 1, H, W), or (N, 3, H, W) for the rule
    `jet-compat`.

    `heat`: a batch of raw CAM maps (N, h, w); `size`: (H, W) of the images, None for the size of
    the maps. In each map negative values are set to 0; the map is then scaled to [0, 1] and resized
    bilinearly to `size`. The z-score of a pixel is (heat − mean) / standard deviation over the H·W
    pixels. Rules:

    - `z>1`, `z>0`, `heat>0.5`, `top20%`: the number can be any other; `top` marks exactly that
      share of the pixels, rounded to whole pixels.
    - `ones`: every pixel, which gives plain adversarial training.
    - `all-but-upper-left`, … `-lower-right`: every pixel outside that quarter, whatever the map
      says: PART's motivating experiment.
    - `shuffled`: the `z>1` mask of the *next* image of the batch; the last image gets the first
      one's. The published code has this defect because it stores masks by batch number while the
      loader shuffles; it is reproduced here on purpose.
    - `jet-compat`: heat squared, coloured with the jet colour map, and z > 1 over all 3·H·W colour
      values: the published code's other defect, a budget that differs between colours and is low at
      the hottest pixel.

    A map that is constant, nowhere above 0 or not finite says nothing about importance, so all its
    pixels are marked. Raises UserError for an unknown rule, for wrong maps or sizes, and for maps
    of a single cell. The rules `all-but-…` do not use the map, so flat maps and single cells do not
    matter for them. Source: Zhang et al. 2024 (PART) and the authors' `utils.py`. Differs: they
    enlarge with PIL's bicubic filter; all our rules but `jet-compat` threshold the heat, not its
    colours.
    """
    kind, number = check_rule(rule)
    size = _checked_size(heat, size)
    if kind in QUADRANTS:
        return blind_mask(kind, heat.new_empty((len(heat), 1, *(size or heat.shape[1:]))))
    if heat.shape[1:] == (1, 1):
        raise UserError(
            "The last feature map of this network has a single cell at this image size, so no"
            " pixel is more important than another: use a network with a finer last map, such as"
            " small_resnet, or larger images."
        )
    heat, flat = _scaled(heat)
    if size is not None:
        heat = F.interpolate(heat, size, mode="bilinear", align_corners=False)
    if kind == "ones":
        mask = torch.ones_like(heat, dtype=torch.bool)
    elif kind == "heat":
        mask = heat > number
    elif kind == "top":
        count = round(number / 100 * heat.shape[2] * heat.shape[3])
        # Sorted, not compared with a quantile: enlarging repeats border pixels, so there are ties,
        # and a threshold would mark too many pixels.
        chosen = heat.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count]
        none = heat.new_zeros(heat.flatten(1).shape, dtype=torch.bool)
        mask = none.scatter(1, chosen, True).view_as(heat)
    elif kind == "jet-compat":
        shade = (heat.nan_to_num()[:, 0].square() * 256).long().clamp(0, 255)
        mask = _stands_out(jet_table().to(heat)[shade].permute(0, 3, 1, 2), number)
    else:
        mask = _stands_out(heat, number)
    return (mask | flat).roll(-1, 0) if kind == "shuffled" else mask | flat


def _scaled(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the maps `heat` (N, h, w) with negative values set to 0 and each map scaled to [0,
    1], as (N, 1, h, w), and which of the maps are flat, (N, 1, 1, 1) bool. Flat maps are constant,
    nowhere above 0 or not finite, so they say nothing about importance.
    """
    heat = heat.to(torch.promote_types(heat.dtype, torch.float32)).relu()[:, None]
    low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
    # Written so that NaN counts as flat too. Relative differences below a millionth are rounding
    # errors, which scaling would magnify.
    flat = ~(high - low > 1e-6 * high)
    # First divide by the largest value, so that adding 1e-8 has the same effect at any scale.
    low, heat = (value / torch.where(high > 0, high, 1) for value in (low, heat))
    return (heat - low) / (1 - low + 1e-8), flat


def _checked_size(heat: Tensor, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """`size` as two ints. Raises UserError unless `heat` is a batch of maps and `size` is None or
    two whole numbers of at least 1.
    """
    if not isinstance(heat, Tensor):
        raise UserError(
            f"Maps must be a tensor (N,h,w), but this is a {type(heat).__name__}: use"
            " torch.as_tensor."
        )
    if heat.ndim != 3 or not heat.is_floating_point() or 0 in heat.shape[1:]:
        hint = (
            "; for one map use heat[None]"
            if heat.ndim == 2
            else "; for a single channel use heat[:, 0]"
            if heat.ndim == 4
            else ""
        )
        raise UserError(
            "Maps must be floats of shape (N,h,w), as grad_cam returns them, but these are"
            f" {str(heat.dtype).removeprefix('torch.')} of shape {tuple(heat.shape)}{hint}."
        )
    if size is None:
        return None
    sides = [plain(side) for side in size] if isinstance(size, (tuple, list)) else []
    if len(sides) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides
    ):
        raise UserError(
            f"size={size!r} is not the size of an image: it must be (height, width), two whole"
            " numbers from 1 up."
        )
    return sides[0], sides[1]


def _stands_out(values: Tensor, number: float) -> Tensor:
    """Where the z-score of each sample's values (N, C, H, W), with the population standard
    deviation, is above `number`; bool of the same shape.
    """
    mean = values.mean((1, 2, 3), keepdim=True)
    std = values.std((1, 2, 3), correction=0, keepdim=True)
    return values - mean > number * std


@functools.cache
def jet_table() -> Tensor:
    """matplotlib's jet colour map: 256 rows of red, green, blue in [0, 1], (256, 3) float64."""
    at = np.linspace(0, 1, 256)
    return torch.from_numpy(
        np.stack([np.interp(at, *np.transpose(bends)) for bends in JET.values()], axis=1)
    )


def budget_map(mask: Tensor, eps: float, eps_low: float) -> Tensor:
    """The ε of each pixel: `eps` where `mask` is true, `eps_low` elsewhere; float32 of the mask's
    shape, in pixel units of [0, 1] images.

    Both radii may be text such as `8/255`. Raises UserError unless 0 ≤ eps_low ≤ eps ≤ 1, and for a
    mask that is not bool. Source: Zhang et al. 2024 (PART).
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        what = mask.dtype if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise UserError(
            "A mask must be a tensor of bool, as importance_mask returns it, but this is"
            f" {str(what).removeprefix('torch.')}: use mask > 0.5."
        )
    high, low = check_eps(parse_number(eps)), parse_number(eps_low)
    if not 0 <= low <= high:
        raise UserError(
            f"eps_low={low:g} must be between 0 and eps={high:g}: unimportant pixels get the"
            " smaller radius.",
            code=2,
        )
    return torch.where(mask, high, low).float()
