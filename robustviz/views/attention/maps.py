"""Class activation maps of any kind, and networks with random weights to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import cam, imports, nets
from robustviz.data import Dataset
from robustviz.nets.base import Normalise
from robustviz.nets.wrapped import Wrapped, with_random_weights
from robustviz.runs.folder import Run
from robustviz.stats import Bools
from robustviz.types import UserError
from robustviz.views.attention.result import AttentionLevelsSpec, AttentionSpec
from robustviz.views.measure import net_of

PACKAGE = {  # the classes of the grad-cam package, for the methods that we have not got ourselves
    "grad_cam_plusplus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}


def class_maps(net: nets.Classifier, x: Tensor, y: Tensor, method: str = "grad_cam") -> Tensor:
    """Raw maps (N, h, w) of images `x` for the classes `y` (N,); the network is left as it was.

    Signed where the method is; eigen_cam's sign means nothing. Raises UserError for a network
    without maps, for maps of a single cell, and where the grad-cam package is missing.
    """
    cam.check_maps(net)
    with nets.frozen(net), torch.no_grad():
        shape = (net.parts(x[:1]).maps if isinstance(net, Wrapped) else net.maps(x[:1])).shape
    if len(shape) != 4 or shape[2:] == (1, 1):
        raise UserError(
            "The last feature map of this network has a single cell at this image size, so no place"
            " in the image stands out: take a network with a finer last map, such as small_resnet,"
            " or larger images."
        )
    return OWN[method](net, x, y) if method in OWN else _of_package(net, x, y, PACKAGE[method])


def _score_cam(net: nets.Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Σ_k w_k·A_k, the weights being the softmax over k of the class's logit where map k, enlarged
    and scaled, veils the image.

    Source: Wang et al. 2020 (Score-CAM, arXiv 1910.01279). Differs: the logit itself, not its gain
    over a black image, which the softmax over k does not see; no ReLU. The package's own prints a
    progress bar for each image.
    """
    out = []
    with nets.frozen(net), torch.no_grad():
        for image, label in zip(x, y, strict=True):
            maps = net.parts(image[None]).maps[0]
            veil = F.interpolate(
                maps[:, None], image.shape[1:], mode="bilinear", align_corners=True
            )
            low, high = veil.amin((2, 3), keepdim=True), veil.amax((2, 3), keepdim=True)
            weight = net(image * (veil - low) / (high - low + 1e-8))[:, label].softmax(0)
            out.append((weight[:, None, None] * maps).sum(0))
    return torch.stack(out)


OWN: dict[str, Callable[[nets.Classifier, Tensor, Tensor], Tensor]] = {
    "grad_cam": cam.grad_cam,
    "layer_cam": cam.layer_cam,
    "score_cam": _score_cam,
}


def _of_package(net: nets.Classifier, x: Tensor, y: Tensor, name: str) -> Tensor:
    make = getattr(grad_cam_package(), name)
    wanted = imports.load("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    targets = [wanted(int(label)) for label in y]
    maps, gradients = (part.numpy() for part in cam.maps_and_gradient(net, x, y))
    # The package would hook a network, go back by its weights and leave gradients in it; and what
    # it shows is cut at 0 and scaled for each image by itself, so that two could not be compared.
    nobody = nn.ParameterList([torch.zeros(1)])
    with make(model=nobody, target_layers=[]) as method:
        heat = method.get_cam_image(x, nobody, targets, maps, gradients, False)
    return torch.from_numpy(np.asarray(heat, dtype=np.float32))


def grad_cam_package() -> Any:
    """The package, which ROAD needs too. Raises UserError where it is not installed."""
    try:
        return imports.load("pytorch_grad_cam")
    except ImportError as error:
        raise UserError(
            "This needs the package grad-cam: install it with pip install grad-cam, or choose"
            " Grad-CAM or LayerCAM."
        ) from error


def check_rule(split: Dataset, rule: str) -> None:
    """Raises UserError where the rule makes no mask on this data."""
    if rule != "oracle":
        cam.check_rule(rule)
    elif split.masks is None:
        raise UserError(
            f"The rule oracle needs true object masks, and {split.key} has none: take the data"
            " shapes, or the rule z>1."
        )
    if rule == "jet-compat" and split.images.shape[1] != 3:
        raise UserError(
            f"The rule jet-compat makes one mask for each of three colours, and {split.key} is"
            " grey: use the rule z>1."
        )


def mask_of(
    split: Dataset, net: nets.Classifier, spec: AttentionSpec | AttentionLevelsSpec, heat: Tensor
) -> Tensor:
    """The important pixels (1,1,H,W) of the image that is asked about, of jet-compat (1,3,H,W);
    `heat` (1,h,w) is its map.
    """
    if spec.rule == "oracle" and split.masks is not None:
        return split.masks[spec.index : spec.index + 1]
    if spec.rule == "shuffled":  # the next image's mask: the defect needs company to be seen
        other = split.take(torch.tensor([(spec.index + 1) % len(split)]))
        label = other.y if spec.of == "true" else net(other.x).argmax(1)
        heat = torch.cat([heat, class_maps(net, other.x, label, spec.method)])
    size = split.images.shape[2:]
    return cam.importance_mask(heat, spec.rule, (size[0], size[1]))[:1]


def object_of(split: Dataset, index: int) -> Bools:
    """The true object of an image (H,W), (0,0) where the data does not know it."""
    return np.zeros((0, 0), bool) if split.masks is None else split.masks[index, 0].numpy()


def without_one_colour(values: Tensor) -> np.ndarray:
    """(1,1,H,W) as (H,W), (1,3,H,W) as (3,H,W)."""
    return (values[0, 0] if values.shape[1] == 1 else values[0]).numpy()


def random_nets(run: Run, count: int, seed: int) -> Iterator[nets.Classifier]:
    """The run's network `count` times with random weights, in eval mode; its normalisation
    is kept.
    """
    trained = net_of(run)
    if isinstance(trained, Wrapped):
        for number in range(count):
            yield with_random_weights(trained, seed * 1_000_003 + number).eval()
        return
    first = _normalise(trained)
    for number in range(count):
        net = run.fresh(torch.Generator().manual_seed(seed * 1_000_003 + number))
        if first is not None and (own := _normalise(net)) is not None:
            own.mean.copy_(first.mean)
            own.std.copy_(first.std)
        yield net.eval()


def _normalise(net: nn.Module) -> Normalise | None:
    return next((part for part in net.modules() if isinstance(part, Normalise)), None)
