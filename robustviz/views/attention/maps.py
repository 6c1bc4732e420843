"""Class activation maps by every supported method, PART's mask of an image, and networks with
random weights whose maps serve as a control.
"""

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

PACKAGE = {  # classes of the grad-cam package, for the methods not implemented here
    "grad_cam_plusplus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}


def class_maps(net: nets.Classifier, x: Tensor, y: Tensor, method: str = "grad_cam") -> Tensor:
    """Returns raw class activation maps (N, h, w) of images `x` (N,C,H,W) for the classes `y` (N,).

    Raw means neither cut at 0 nor scaled: values below 0 are evidence against the class, except
    with eigen_cam, whose sign has no meaning. `method`: a key of `METHODS`. The network is used in
    eval mode and left unchanged. Raises UserError for a network without feature maps, for feature
    maps of a single cell, and if the method needs the grad-cam package, which is not installed.
    """
    cam.check_maps(net)
    with nets.frozen(net), torch.no_grad():
        shape = (net.parts(x[:1]).maps if isinstance(net, Wrapped) else net.maps(x[:1])).shape
    if len(shape) != 4 or shape[2:] == (1, 1):
        raise UserError(
            "The last feature map of this network has a single cell at this image size, so no"
            " place in the image stands out: use a network with a finer last map, such as"
            " small_resnet, or larger images."
        )
    return OWN[method](net, x, y) if method in OWN else _of_package(net, x, y, PACKAGE[method])


def _score_cam(net: nets.Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Returns Score-CAM maps (N, h, w) of images `x` for classes `y`: Σ_k w_k·A_k over the feature
    maps A_k.

    To get the weights w, each feature map is enlarged and scaled to [0, 1], and the image is
    multiplied by it; w is the softmax over k of the class's logits for these images. Source: Wang
    et al. 2020 (Score-CAM, arXiv 1910.01279). Differs: no ReLU; the logit is used, not its gain
    over that of a black image, which would give the same softmax. The grad-cam package's own
    version is not used because it prints a progress bar for each image.
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
    # Only the package's formula is used. If it ran the network, it would add hooks and leave
    # gradients in the weights; it would also cut each map at 0 and scale it by itself, so that two
    # maps could not be compared.
    nobody = nn.ParameterList([torch.zeros(1)])
    with make(model=nobody, target_layers=[]) as method:
        heat = method.get_cam_image(x, nobody, targets, maps, gradients, False)
    return torch.from_numpy(np.asarray(heat, dtype=np.float32))


def grad_cam_package() -> Any:
    """Import and return the grad-cam package, which some CAM methods and ROAD need. Raises
    UserError if it is not installed.
    """
    try:
        return imports.load("pytorch_grad_cam")
    except ImportError as error:
        raise UserError(
            "This needs the package grad-cam: install it with pip install grad-cam, or choose"
            " Grad-CAM or LayerCAM."
        ) from error


def check_rule(split: Dataset, rule: str) -> None:
    """Raises UserError for an unknown mask rule, for `oracle` on data without object masks, and
    for `jet-compat` on images that do not have three channels.
    """
    if rule != "oracle":
        cam.check_rule(rule)
    elif split.masks is None:
        raise UserError(
            f"The rule oracle needs true object masks, but {split.key} has none: use the data"
            " set shapes, or the rule z>1."
        )
    if rule == "jet-compat" and split.images.shape[1] != 3:
        raise UserError(
            "The rule jet-compat makes one mask per colour channel, but the images of"
            f" {split.key} have a single channel: use the rule z>1."
        )


def mask_of(
    split: Dataset, net: nets.Classifier, spec: AttentionSpec | AttentionLevelsSpec, heat: Tensor
) -> Tensor:
    """Returns which pixels of the image with index `spec.index` in `split` are important by PART's
    mask rule `spec.rule`: (1,1,H,W) bool, or (1,3,H,W) for jet-compat; for the rule oracle, the
    pixels of the true object. `heat` (1,h,w): the image's class activation map. `net` is needed
    only for the rule shuffled, to compute the map of the next image of the split (after the last
    image, the first one's).
    """
    if spec.rule == "oracle" and split.masks is not None:
        return split.masks[spec.index : spec.index + 1]
    if spec.rule == "shuffled":  # this rule takes the next image's mask, so its map is needed too
        other = split.take(torch.tensor([(spec.index + 1) % len(split)]))
        label = other.y if spec.of == "true" else net(other.x).argmax(1)
        heat = torch.cat([heat, class_maps(net, other.x, label, spec.method)])
    size = split.images.shape[2:]
    return cam.importance_mask(heat, spec.rule, (size[0], size[1]))[:1]


def object_of(split: Dataset, index: int) -> Bools:
    """Returns which pixels of the image `index` belong to the true object, (H,W) bool; an array of
    shape (0,0) if the data has no object masks.
    """
    return np.zeros((0, 0), bool) if split.masks is None else split.masks[index, 0].numpy()


def without_one_colour(values: Tensor) -> np.ndarray:
    """Convert a tensor (1,1,H,W) to a NumPy array (H,W), or one of (1,3,H,W) to (3,H,W)."""
    return (values[0, 0] if values.shape[1] == 1 else values[0]).numpy()


def random_nets(run: Run, count: int, seed: int) -> Iterator[nets.Classifier]:
    """Yield `count` networks with the architecture and input normalisation of the run's network, in
    eval mode. Each has its own random weights, which are the same for the same `seed`.
    """
    trained = net_of(run)
    if isinstance(trained, Wrapped):
        for number in range(count):
            yield with_random_weights(trained, (seed * 1_000_003 + number) % 2**63).eval()
        return
    first = _normalise(trained)
    for number in range(count):
        net = run.fresh(torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63))
        if first is not None and (own := _normalise(net)) is not None:
            own.mean.copy_(first.mean)
            own.std.copy_(first.std)
        yield net.eval()


def _normalise(net: nn.Module) -> Normalise | None:
    return next((part for part in net.modules() if isinstance(part, Normalise)), None)
