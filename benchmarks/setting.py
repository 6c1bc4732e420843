"""What the attack races share: the networks, the images, and the peers' attacks with the same steps."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustviz import data, runs
from robustviz.config import TrainConfig
from robustviz.nets.base import ImageNet
from robustviz.training import train
from robustviz.types import UserError

KEPT = Path(__file__).resolve().parents[1] / ".bench"  # networks trained for a gate; not part of the repository


def shipped(data_key: str, method: str) -> runs.Run:
    """The shipped small_resnet of a method, seed 0."""
    found = (run for run in runs.all_runs() if run.shipped and run.id.startswith(f"{data_key}-{method.replace('_', '-')}-small-resnet-s0"))
    return next(found)


@functools.cache
def ten_thousand() -> tuple[ImageNet, Tensor, Tensor, float, str]:
    """(net, x, y, ε, words): a network and as many test images as one can have here, for gates on robust accuracy.

    Fashion-MNIST's 10,000 and a PGD-AT network trained for the purpose, kept in `.bench`; where the data is not to be had,
    the 1,000 drawn shapes and the shipped network.
    """
    try:
        split = data.load("fashion_mnist", "test")
    except UserError:
        run = shipped("shapes", "pgd_at")
        split = data.load("shapes", "test")
        return run.net(), split.x, split.y, run.eps, f"PGD-AT on shapes, {len(split)} images"
    config = TrainConfig(data="fashion_mnist", epochs=4, n_train=10_000, device="cpu")  # type: ignore[arg-type]
    path = KEPT / f"{config.run_id}.pt"
    if not path.exists():
        for record in train(config):
            last = record
        KEPT.mkdir(exist_ok=True)
        torch.save(last.training.net.state_dict(), path)
    from robustviz import nets

    net = nets.build(config.net, len(split.classes), 1, 28, None, None)
    net.load_state_dict(torch.load(path))
    return net.eval(), split.x, split.y, float(config.eps or 0), f"PGD-AT on Fashion-MNIST, {len(split):,} images"


Attacker = Callable[[Tensor, Tensor], Tensor]


def peers(net: nn.Module, eps: float, step: float, steps: int, shape: tuple[int, ...], classes: int) -> dict[str, Attacker]:
    """Linf PGD of each library with a random start and these steps; what it takes and gives is what its users have."""
    import foolbox
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    device = next(net.parameters()).device
    leanest = torchattacks.PGD(net, eps=eps, alpha=step, steps=steps, random_start=True)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device=device)
    descent = foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=step, steps=steps, random_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = PyTorchClassifier(
            net, nn.CrossEntropyLoss(), input_shape=shape[1:], nb_classes=classes, clip_values=(0, 1), device_type="gpu" if device.type == "cuda" else "cpu"
        )  # fmt: skip
        art = ProjectedGradientDescentPyTorch(
            classifier, np.inf, eps, step, max_iter=steps, num_random_init=1, batch_size=shape[0], verbose=False
        )

    def by_art(x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(art.generate(x.cpu().numpy(), np.eye(classes, dtype=np.float32)[y.cpu().numpy()]))

    def by_cleverhans(x: Tensor, y: Tensor) -> Tensor:
        found: Any = projected_gradient_descent(
            net, x, eps, step, steps, np.inf, clip_min=0, clip_max=1, y=y, rand_init=True, sanity_checks=False
        )
        return found.detach()  # type: ignore[no-any-return]

    return {
        "torchattacks": leanest,
        "foolbox": lambda x, y: descent(model, x, y, epsilons=eps)[1],
        "ART": by_art,
        "cleverhans": by_cleverhans,
    }
