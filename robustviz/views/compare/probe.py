"""Measures the same images at several epochs of a training run: predictions, attacked pictures,
class activation maps and features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustviz import registry
from robustviz.attacks import PGD
from robustviz.nets import Classifier
from robustviz.runs.folder import Run
from robustviz.types import UserError
from robustviz.views.attention.maps import class_maps
from robustviz.views.compare.result import Alongside, AlongsideSpec
from robustviz.views.features import embedding
from robustviz.views.features.probe import features_of
from robustviz.views.measure import image_of, images_of, meta_of, net_of, probe, radius


# The name of the stored result contains the last snapshot's epoch: a run that trains on may get new
# snapshots while its best weights, which are checked before a result is used, stay the same.
@probe(
    AlongsideSpec, name=lambda run, spec: f"{registry.key(spec)}-{max(run.snapshots, default=0)}"
)
def alongside(run: Run, spec: AlongsideSpec) -> Alongside:
    """Measure how a run's network classifies the same test images with the weights of its stored
    epochs, and last with the run's best weights. Raises UserError if there is no image with index
    `spec.index`, or if it is a picture that the user added.
    """
    split = images_of(run)
    image_of(run, spec.index)  # raises UserError if there is no such image
    if spec.index >= len(split):
        raise UserError("Networks are put side by side on test images: choose one of the test set.")
    rest = [at for at in range(min(spec.n, len(split))) if at != spec.index]
    index = torch.tensor([spec.index, *rest][: spec.n])
    few = split.take(index)
    every = run.snapshots
    places = np.linspace(0, len(every) - 1, min(len(every), spec.frames))
    epochs = sorted({every[round(at)] for at in places})
    attack = PGD(eps=radius(run), steps=spec.steps)
    shots = [_shot(run.net(epoch=each), few.x, few.y, attack, spec) for each in epochs]
    shots.append(_shot(net_of(run), few.x, few.y, attack, spec))
    preds, preds_adv, clean, adversarial, x_adv, heat = zip(*shots, strict=True)
    axes, origin, _ = embedding.centre_plane(clean[-1], few.y, len(split.classes))
    flat = [torch.stack([(z - origin) @ axes for z in part]) for part in (clean, adversarial)]
    return Alongside(
        epochs=np.array([*epochs, 0]),
        index=index.numpy(),
        y=few.y.numpy(),
        pred=np.stack(preds),
        pred_adv=np.stack(preds_adv),
        clean=flat[0].float().numpy(),
        adversarial=flat[1].float().numpy(),
        x=_bytes(few.x[: spec.shown]),
        x_adv=np.stack(x_adv),
        heat=np.stack(heat),
        meta=meta_of(
            run,
            split,
            n=len(index),
            seed=spec.seed,
            eps=attack.eps,
            attack=registry.encode(attack),
            summary=f"{len(epochs)} kept epochs and the chosen weights on {len(index)} images",
        ),
    )


def _bytes(x: Tensor) -> np.ndarray:
    return np.asarray((255 * x).round().to(torch.uint8).numpy())


def _shot(
    net: Classifier, x: Tensor, y: Tensor, attack: PGD, spec: AlongsideSpec
) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor, np.ndarray, np.ndarray]:
    """One frame: what one network predicts, and the attack on it.
    Returns the predictions, clean and attacked, (n,) each; the features of both, (n, D) each; the
    first s attacked images (s, C, H, W) as uint8; and the class activation maps of the first s
    clean images (s, h, w), with h = w = 0 if the network has none.
    """
    x_adv = attack(net, x, y, rng=torch.Generator().manual_seed(spec.seed))
    clean, logits = features_of(net, x)
    moved, logits_adv = features_of(net, x_adv)
    try:
        heat = class_maps(net, x[: spec.shown], y[: spec.shown]).numpy()
    except UserError:  # a network without maps, or with 1 × 1 maps
        heat = np.zeros((len(x[: spec.shown]), 0, 0), np.float32)
    before, after = (each.argmax(dim=1).numpy() for each in (logits, logits_adv))
    return before, after, clean.double(), moved.double(), _bytes(x_adv[: spec.shown]), heat
