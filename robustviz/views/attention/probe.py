"""Where a network looks: one image's class activation maps, clean and attacked, and the budget that
PART makes of them.

A map by itself proves nothing, so two controls stand beside it: the same network with random
weights, whose maps should be unlike (Adebayo et al. 2018, arXiv 1810.03292), and ROAD, which paints
over what a map calls important.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import cam, nets
from robustviz.attacks import PGD
from robustviz.chance import drawn_from
from robustviz.data import Dataset
from robustviz.imports import load
from robustviz.nets import Classifier, frozen
from robustviz.nets.base import Normalise
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.stats import flat, mean_interval, spearman
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.attention.result import Attention, Road
from robustviz.views.measure import Probe, image_of, images_of, linf_net, meta_of, net_of

Method = Literal[
    "grad_cam",
    "layer_cam",
    "grad_cam_plusplus",
    "xgrad_cam",
    "hires_cam",
    "eigen_cam",
    "eigen_grad_cam",
    "score_cam",
]
Of = Literal["true", "predicted"]
PACKAGE = {  # the classes of the grad-cam package, for the methods that we have not got ourselves
    "grad_cam_plusplus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}
MAP_HELP = "How the class activation map is made."
OF_HELP = "Whose map: the true class's, or the one predicted for each image."
RULE_HELP = (
    "Which pixels matter: z>1, z>0, heat>0.5, top20%, ones, shuffled, jet-compat, or oracle"
    " (shapes: the true object)."
)
REMOVED = (20, 40, 60, 80)  # percentiles at which ROAD cuts


def class_maps(net: Classifier, x: Tensor, y: Tensor, method: str = "grad_cam") -> Tensor:
    """Raw maps (N, h, w) of images `x` for the classes `y` (N,); the network is left as it was.

    Signed where the method is; eigen_cam's sign means nothing. Raises UserError for a network
    without maps, for maps of a single cell, and where the grad-cam package is missing.
    """
    if not isinstance(getattr(net, "maps", None), nn.Module):
        raise UserError(
            "This network has no feature maps, so there is nothing to make a class activation"
            " map of."
        )
    with frozen(net), torch.no_grad():
        shape = net.maps(x[:1]).shape
    if len(shape) != 4 or shape[2:] == (1, 1):
        raise UserError(
            "The last feature map of this network has a single cell at this image size, so no place"
            " in the image stands out: take a network with a finer last map, such as small_resnet,"
            " or larger images."
        )
    if method == "grad_cam":
        return cam.grad_cam(net, x, y)
    if method == "layer_cam":
        return cam.layer_cam(net, x, y)
    if method == "score_cam":
        return _score_cam(net, x, y)
    return _of_package(net, x, y, PACKAGE[method])


def _score_cam(net: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Σ_k w_k·A_k, the weights being the softmax over k of the class's logit where map k, enlarged
    and scaled, veils the image.

    Source: Wang et al. 2020 (Score-CAM, arXiv 1910.01279). Differs: the logit itself, not its gain
    over a black image, which the softmax over k does not see; no ReLU. The package's own prints a
    progress bar for each image.
    """
    out = []
    with frozen(net), torch.no_grad():
        for image, label in zip(x, y, strict=True):
            maps = net.maps(image[None])[0]
            veil = F.interpolate(
                maps[:, None], image.shape[1:], mode="bilinear", align_corners=True
            )
            low, high = veil.amin((2, 3), keepdim=True), veil.amax((2, 3), keepdim=True)
            weight = net(image * (veil - low) / (high - low + 1e-8))[:, label].softmax(0)
            out.append((weight[:, None, None] * maps).sum(0))
    return torch.stack(out)


def _of_package(net: Classifier, x: Tensor, y: Tensor, name: str) -> Tensor:
    package, targets = _grad_cam_package(), _targets(y)
    # the package hooks a network, goes back by its weights and leaves gradients in it; the net is
    # shared, and frozen for life
    own = copy.deepcopy(net).eval().requires_grad_(True)
    with torch.enable_grad(), getattr(package, name)(model=own, target_layers=[own.maps]) as made:
        made(input_tensor=x, targets=targets)
        seen = made.activations_and_grads
        maps, gradients = (
            part[0].numpy() if part else None for part in (seen.activations, seen.gradients)
        )
        # what the package shows is cut at 0 and scaled for each image by itself, so that two could
        # not be compared
        heat = made.get_cam_image(x, own.maps, targets, maps, gradients, False)
    return torch.from_numpy(np.asarray(heat, dtype=np.float32))


def _grad_cam_package() -> Any:
    try:
        return load("pytorch_grad_cam")
    except ImportError as error:
        raise UserError(
            "This needs the package grad-cam: install it with pip install grad-cam, or choose"
            " Grad-CAM or LayerCAM."
        ) from error


def _targets(y: Tensor) -> list[Any]:
    targets = load("pytorch_grad_cam.utils.model_targets")
    return [targets.ClassifierOutputTarget(int(label)) for label in y]


def random_nets(run: Run, count: int, seed: int) -> Iterator[Classifier]:
    """The run's network `count` times with random weights, in eval mode; its normalisation
    is kept.
    """
    shape, trained = run.info["images"], net_of(run)
    first = next((part for part in trained.modules() if isinstance(part, Normalise)), None)
    mean, std = (
        (None, None)
        if first is None
        else (first.mean.flatten().tolist(), first.std.flatten().tolist())
    )
    for number in range(count):
        with drawn_from(torch.Generator().manual_seed(seed * 1_000_003 + number)):
            net = nets.build(
                run.config.net,
                int(shape["classes"]),
                int(shape["channels"]),
                int(shape["size"]),
                mean,
                std,
            )
        yield net.eval()


def mask_of(
    split: Dataset, index: Tensor, heat: Tensor, rule: str, size: tuple[int, int]
) -> Tensor:
    """The important pixels (N,1,H,W), of jet-compat (N,3,H,W), of the images with these numbers,
    whose maps are `heat`.
    """
    if rule != "oracle":
        return cam.importance_mask(heat, rule, size)
    if split.masks is None:
        raise UserError(
            f"The rule oracle needs true object masks, and {split.key} has none: take the data"
            " shapes, or the rule z>1."
        )
    return split.masks[index]


@register("probe/attention")
@dataclass(frozen=True)
class AttentionSpec(Probe[Attention]):
    """One test image's maps, untouched and attacked, PART's budget for it and an attack within that
    budget.

    Every mask rule of PART is allowed, whatever the run was trained with. Both attacks start from
    the same noise.
    """

    index: int = option(0, "Number of the test image.", low=0)
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    eps: float | None = option(None, "Radius in pixel units; empty: the run's.", low=0)
    eps_low: float | None = option(
        None, "Radius of the pixels that matter less; empty: 7/8 of ε.", low=0
    )
    rule: str = option("z>1", RULE_HELP)
    steps: int = option(20, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise and of the random weights.", low=0)
    controls: int = option(5, "How many networks with random weights.", low=1, high=50)

    result = Attention

    @property
    def cacheable(self) -> bool:
        return False

    def measure(self, run: Run) -> Attention:
        split, x, y = image_of(run, self.index)
        net, index = linf_net(run), torch.tensor([self.index])
        eps = check_eps(run.eps if self.eps is None else self.eps)
        eps_low = 7 / 8 * eps if self.eps_low is None else self.eps_low
        if self.rule != "oracle":
            cam.check_rule(self.rule)
        if self.rule == "jet-compat" and x.shape[1] != 3:
            raise UserError(
                f"The rule jet-compat makes one mask for each of three colours, and {split.key} is"
                " grey: use the rule z>1."
            )
        attack, rng = PGD(eps=eps, steps=self.steps), torch.Generator()
        x_adv = attack(net, x, y, rng=rng.manual_seed(self.seed))
        with frozen(net), torch.no_grad():
            probs = net(torch.cat([x, x_adv])).softmax(dim=1)
        labels = y.repeat(2) if self.of == "true" else probs.argmax(dim=1)
        heat = class_maps(net, torch.cat([x, x_adv]), labels, self.method)
        mask = self._mask(split, net, index, heat[:1], x)
        budget = cam.budget_map(mask, eps, eps_low)
        with frozen(net):
            x_part = attack.maximise(
                attack.objective(net, y), x, eps=budget, rng=rng.manual_seed(self.seed)
            )
            with torch.no_grad():
                probs_part = net(x_part).softmax(dim=1)
        other = np.stack(
            [
                class_maps(one, x, labels[:1], self.method)[0].numpy()
                for one in random_nets(run, self.controls, self.seed)
            ]
        )
        own, attacked = heat[0].numpy(), heat[1].numpy()
        meta = meta_of(
            run,
            split,
            steps=self.steps,
            seed=self.seed,
            index=self.index,
            cam=self.method,
            of=self.of,
            rule=self.rule,
            eps=eps,
            eps_low=eps_low,
            attack=f"PGD-{self.steps}",
        )
        found = Attention(
            x=x[0].numpy(),
            x_adv=x_adv[0].numpy(),
            x_part=x_part[0].numpy(),
            heat=own,
            heat_adv=attacked,
            heat_random=other,
            mask=_flat_colour(mask),
            budget=_flat_colour(budget),
            object=np.zeros((0, 0), bool)
            if split.masks is None
            else split.masks[self.index, 0].numpy(),
            y=int(y),
            label=int(labels[0]),
            label_adv=int(labels[1]),
            probs=probs[0].numpy(),
            probs_adv=probs[1].numpy(),
            probs_part=probs_part[0].numpy(),
            eps=eps,
            eps_low=eps_low,
            drift=spearman(own, attacked),
            control=np.array([spearman(own, one) for one in other]),
            meta=meta,
        )
        meta["summary"] = _summary(found)
        return found

    def _mask(
        self, split: Dataset, net: Classifier, index: Tensor, heat: Tensor, x: Tensor
    ) -> Tensor:
        size = (x.shape[2], x.shape[3])
        if (
            self.rule == "shuffled"
        ):  # the next test image's mask: the defect needs company to be seen
            other = split.take((index + 1) % len(split))
            label = other.y if self.of == "true" else net(other.x).argmax(1)
            heat = torch.cat([heat, class_maps(net, other.x, label, self.method)])
        return mask_of(split, index, heat, self.rule, size)[:1]


def _flat_colour(values: Tensor) -> Any:
    """(1,1,H,W) as (H,W), (1,3,H,W) as (3,H,W)."""
    return (values[0, 0] if values.shape[1] == 1 else values[0]).numpy()


def _summary(found: Attention) -> str:
    names, grid = found.meta["classes"], "×".join(map(str, found.heat.shape))
    before, after = int(found.probs.argmax()), int(found.probs_adv.argmax())
    said = (
        f"{names[before]} ({found.probs[before]:.0%}) → {names[after]}"
        f" ({found.probs_adv[after]:.0%}) under PGD-{found.meta['steps']}, ε ="
        f" {eps_text(found.eps)}; "
    )
    if flat(found.heat):
        said += f"the {grid} map of the untouched image is constant and says nothing; "
    elif flat(found.heat_adv):
        said += f"the {grid} map of the attacked image is constant and says nothing; "
    else:
        said += f"rank correlation of the clean and the attacked {grid} map {found.drift:.2f}, "
        known = found.control[np.isfinite(found.control)]
        said += (
            f"with random weights {known.mean():.2f} on average; "
            if len(known)
            else "the random networks' maps are constant; "
        )
    said += f"{found.mask.mean():.0%} of the pixels are important ({found.meta['rule']})"
    if found.object.size:
        whole, mask = (
            found.object.mean(),
            found.mask if found.mask.ndim == 2 else found.mask.mean(0),
        )
        inside = (
            f"{(mask * found.object).sum() / mask.sum():.0%} of them on the true object"
            if mask.any()
            else "none on the true object"
        )
        said += f", {inside} (it fills {whole:.0%} of the image)"
    return said


@register("probe/road")
@dataclass(frozen=True)
class RoadSpec(Probe[Road]):
    """ROAD of the first `n` test images' maps, of the same network's with random weights, and of
    random numbers.

    Source: Rong et al. 2022 (ROAD, arXiv 2202.00449) as in the grad-cam package. Differs: the raw
    maps' ranks, ties broken at random, because a map cut at 0 has no order where it is 0; the
    softmax output, not the logit.
    """

    n: int = option(20, "How many test images.", low=2, high=1000)
    method: Method = option("grad_cam", MAP_HELP)
    of: Of = option("true", OF_HELP)
    seed: int = option(0, "Seed of the random weights, the random maps and ROAD's noise.", low=0)

    result = Road

    def measure(self, run: Run) -> Road:
        _grad_cam_package()
        split, net = images_of(run), net_of(run)
        few = split.take(torch.arange(min(self.n, len(split))))
        x, size = few.x, (few.images.shape[2], few.images.shape[3])
        with frozen(net), torch.no_grad():
            y = few.y if self.of == "true" else net(x).argmax(1)
        heat = class_maps(net, x, y, self.method)
        other = class_maps(next(random_nets(run, 1, self.seed)), x, y, self.method)
        rng = torch.Generator().manual_seed(self.seed)
        kept = torch.tensor([not flat(one.numpy()) for one in heat])
        if not kept.any():
            raise UserError(
                "Every map of this network is constant, so there is no order in which pixels could"
                " be removed."
            )
        rows = [
            road(net, x[kept], y[kept], one[kept], size, rng, self.seed)
            for one in (heat, other, torch.rand(heat.shape, generator=rng))
        ]
        score, lost = np.stack(rows), int((~kept).sum())
        (mean, low, high), gap = mean_interval(score[0]), mean_interval(score[0] - score[2])
        meta = meta_of(run, split, n=len(few), cam=self.method, of=self.of, seed=self.seed)
        meta["summary"] = (
            f"ROAD {mean:.3f} [{low:.3f}, {high:.3f}] over {int(kept.sum())} images; random weights"
            f" {score[1].mean():.3f}, random maps {score[2].mean():.3f}; above random maps by"
            f" {gap[0]:.3f} [{gap[1]:.3f}, {gap[2]:.3f}]"
            + (f"; {lost} constant maps left out" if lost else "")
        )
        return Road(
            score=score, index=torch.arange(len(few))[kept].numpy(), constant=lost, meta=meta
        )


def road(
    net: Classifier,
    x: Tensor,
    y: Tensor,
    heat: Tensor,
    size: tuple[int, int],
    rng: torch.Generator,
    seed: int,
) -> np.ndarray:
    """ROAD (N,), −1 to 1, of maps (N,h,w): the mean over `REMOVED` of (least − most relevant pixels
    painted over) / 2.
    """

    def output(label: int) -> Callable[[Tensor], Tensor]:
        return lambda logits: logits.softmax(-1)[label]

    whole = F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False)[:, 0].flatten(
        1
    )
    shuffle = torch.rand(whole.shape, generator=rng).argsort(1)
    order = shuffle.gather(
        1, whole.gather(1, shuffle).argsort(dim=1, stable=True)
    )  # by value, ties by chance
    rank = torch.empty_like(whole).scatter(
        1, order, torch.linspace(0, 1, whole.shape[1]).expand_as(whole).contiguous()
    )
    with (
        frozen(net),
        drawn_from(torch.Generator().manual_seed(seed)),
    ):  # the package's noise knows no generator
        score = load("pytorch_grad_cam.metrics.road").ROADCombined(percentiles=list(REMOVED))(
            x, rank.view(len(x), *size).numpy(), [output(int(label)) for label in y], net
        )
    return np.asarray(score, dtype=np.float64)
