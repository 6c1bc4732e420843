"""B9: Grad-CAM of a batch, against a plain forward pass, torchcam, pytorch-grad-cam, and image by
image as PART's code does it.

There are three races, because the peers return different things: raw maps (torchcam), scaled maps
of the images' size (pytorch-grad-cam), and PART's masks. Each has its own copy of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_grad_cam import GradCAM as PackageCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torchcam.methods import GradCAM as TorchCAM

from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from robustviz import cam
from robustviz.nets.base import Classifier, frozen
from robustviz.runs import folder
from robustviz.views.measure import images_of

# (run, batch size): 512, and 128, with which PART makes its masks
SETTINGS = (
    ("shapes-pgd-at-small-resnet-s0-89b8cc89", 512),
    ("shapes-pgd-at-small-resnet-s0-89b8cc89", 128),
    ("shapes-standard-small-cnn-s0-67af4565", 512),
    ("digits-standard-tiny-vit-s0-035ae614", 512),
)
PLAIN, TORCHCAM, PACKAGE, PART = (
    "plain forward pass",
    "torchcam",
    "pytorch-grad-cam",
    "PART's way, image by image",
)
# Of the batch sizes 16, 32 … 512, the one at which all of them take the least time per image on a
# CPU of two cores, within 4%.
BEST = 128


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    for number, (name, n) in enumerate(SETTINGS):
        run = folder.open_run(name)
        net, split = run.net().to(device).eval(), images_of(run)
        index = torch.arange(n) % len(split)
        x, y = split.x[index].to(device), split.y[index].to(device)
        setting = f"{run.architecture}, {run.data_key}, batch {n}"
        yield raw(net, x, y, setting, device, rounds or 9)
        yield shown(net, x, y, setting, device, rounds or 5)
        if number == 1:
            yield masks(net, x, y, setting, device, rounds or 5)


def raw(net: Classifier, x: Tensor, y: Tensor, setting: str, device: str, rounds: int) -> Outcome:
    own = copy.deepcopy(net)
    with TorchCAM(own, own.maps) as hooked:

        def forward(batch: int) -> Tensor:
            with frozen(net), torch.no_grad():
                return torch.cat([net(part) for part in x.split(batch)])

        def torchcam(batch: int) -> Tensor:
            return torch.cat(
                [
                    hooked(b.tolist(), own(a), normalized=False)[0]
                    for a, b in zip(x.split(batch), y.split(batch), strict=True)
                ]
            )

        racers = [
            Racer(OURS, lambda: cam.grad_cam(net, x, y)),
            Racer(PLAIN, lambda: forward(len(x))),
            Racer(TORCHCAM, lambda: torchcam(len(x))),
        ]
        if device == "cpu" and len(x) > BEST:
            racers += [
                Racer(f"{PLAIN} (best batch)", lambda: forward(BEST)),
                Racer(f"{TORCHCAM} (best batch)", lambda: torchcam(BEST)),
            ]
        times = race(racers, rounds, device)
        off = float((cam.grad_cam(net, x, y).relu() - torchcam(len(x)).detach()).abs().max())
    return Outcome(
        "B9",
        "Grad-CAM, raw maps",
        setting,
        times,
        {PLAIN: 0.91},
        (Gate(f"maps equal torchcam's within {off:.0e}", off <= 1e-5),),
    )


def shown(net: Classifier, x: Tensor, y: Tensor, setting: str, device: str, rounds: int) -> Outcome:
    own = copy.deepcopy(net)
    with PackageCAM(model=own, target_layers=[own.maps]) as hooked:

        def ours() -> Tensor:
            heat = _scaled(cam.grad_cam(net, x, y).relu()[:, None])
            return _scaled(F.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False))[
                :, 0
            ]

        def package(batch: int) -> np.ndarray:
            parts = zip(x.split(batch), y.split(batch), strict=True)
            return np.concatenate(
                [
                    hooked(
                        input_tensor=a, targets=[ClassifierOutputTarget(int(label)) for label in b]
                    )
                    for a, b in parts
                ]
            )

        racers = [
            Racer(OURS, lambda: ours().cpu().numpy()),
            Racer(PACKAGE, lambda: package(len(x))),
        ]
        racers += (
            [Racer(f"{PACKAGE} (best batch)", lambda: package(BEST))]
            if device == "cpu" and len(x) > BEST
            else []
        )
        times = race(racers, rounds, device)
        off = float(np.abs(ours().cpu().numpy() - package(len(x))).max())
    gate = Gate(f"maps equal the package's within {off:.0e}", off <= 1e-5)
    return Outcome(
        "B9",
        "Grad-CAM, scaled and enlarged",
        setting,
        times,
        {PACKAGE: 3.0, f"{PACKAGE} (best batch)": 3.0},
        (gate,),
    )


def masks(net: Classifier, x: Tensor, y: Tensor, setting: str, device: str, rounds: int) -> Outcome:
    own = copy.deepcopy(net)
    with TorchCAM(own, own.maps) as hooked:

        def ours() -> Tensor:
            return cam.importance_mask(
                cam.grad_cam(net, x, y), "jet-compat", (x.shape[2], x.shape[3])
            )

        def part() -> Tensor:
            return image_by_image(own, hooked, x, y)

        times = race([Racer(OURS, ours), Racer(PART, part)], rounds, device)
        heat = cam.grad_cam(net, x, y).relu().flatten(1)
        informed = (
            heat.amax(1) - heat.amin(1) > 1e-6 * heat.amax(1)
        ).cpu()  # a constant map marks all pixels in our masks and none in theirs
        same = float((ours().cpu() == part())[informed].float().mean())
    return Outcome(
        "B9",
        "PART's masks",
        setting,
        times,
        gates=(Gate(f"{100 * same:.2f}% of the marks are the same", same >= 0.999),),
    )


def image_by_image(net: Classifier, hooked: TorchCAM, x: Tensor, y: Tensor) -> Tensor:
    """Masks made by the steps of the authors' `utils.py`, one image at a time.

    Each image takes a forward pass, resizing of the map by PIL, the colour map jet, and z-scores on
    the CPU.
    """
    jet = matplotlib.colormaps["jet"]
    out = []
    for image, label in zip(x, y, strict=True):
        heat = hooked(label.item(), net(image[None]))[0][0]
        # PIL's bilinear filter instead of their bicubic one, so that both give the same masks
        large = Image.fromarray(heat.cpu().numpy(), mode="F").resize(
            (x.shape[3], x.shape[2]), Image.Resampling.BILINEAR
        )
        colours = jet(np.asarray(large) ** 2)[:, :, :3]
        out.append((colours - colours.mean()) / colours.std() > 1)
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


def _scaled(heat: Tensor) -> Tensor:
    """Each map scaled to [0, 1], as pytorch-grad-cam does before it enlarges the map and again
    afterwards.
    """
    heat = heat - heat.amin((2, 3), keepdim=True)
    return heat / (heat.amax((2, 3), keepdim=True) + 1e-7)
