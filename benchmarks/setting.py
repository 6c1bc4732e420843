"""What the benchmarks of attacks share: the networks, the images, and the other libraries' attacks
with the same steps.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustviz import data, nets
from robustviz.nets.base import Classifier
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.training.config import TrainConfig, pick_device
from robustviz.training.loop import train
from robustviz.types import UserError

# the folder for networks trained for a gate; it is not part of the repository
KEPT = Path(__file__).resolve().parents[1] / ".bench"


def find_shared_data() -> None:
    """Read data sets from `shared/data` beside the repository if it exists, as `.ci/run` does."""
    lent = KEPT.parents[1] / "shared" / "data"
    if lent.is_dir():
        os.environ.setdefault("ROBUSTVIZ_DATA", str(lent))


def shipped(data_key: str, method: str) -> folder.Run:
    """The shipped run of small_resnet with this data and method, default settings and seed 0."""
    found = (
        run
        for run in folder.all_runs()
        if run.shipped
        and run.id.startswith(f"{data_key}-{method.replace('_', '-')}-small-resnet-s0")
        and not unusual(run)
    )
    return next(found)


@functools.cache
def ten_thousand() -> tuple[Classifier, Tensor, Tensor, float, str]:
    """A network and many test images, for gates on robust accuracy: (net, x, y, ε, description).

    They are the 10,000 test images of Fashion-MNIST and a PGD-AT network that is trained for this
    purpose and kept in `.bench`; if the data is not available, the 1,000 test images of shapes and
    the shipped network.
    """
    try:
        split = data.load("fashion_mnist", "test")
    except UserError:
        run = shipped("shapes", "pgd_at")
        split = data.load("shapes", "test")
        return run.net(), split.x, split.y, run.eps, f"PGD-AT on shapes, {len(split)} images"
    config = TrainConfig(data="fashion_mnist", epochs=4, n_train=10_000, device="cpu")
    return (
        kept(config),
        split.x,
        split.y,
        float(config.eps or 0),
        f"PGD-AT on Fashion-MNIST, {len(split):,} images",
    )


def kept(config: TrainConfig) -> Classifier:
    """The network of this training, in eval mode, on its device.

    It is trained once and kept in `.bench`.
    """
    path = KEPT / f"{config.run_id}.pt"
    if not path.exists():
        weights = {name: value.cpu() for name, value in trained(config).state_dict().items()}
        KEPT.mkdir(exist_ok=True)
        torch.save(weights, path)
    split = data.load(config.data, "val")
    net: Classifier = nets.build(
        config.net, len(split.classes), *split.images.shape[1:3], None, None
    )
    net.load_state_dict(torch.load(path))
    return net.eval().to(pick_device(config.device))


def trained(config: TrainConfig) -> Classifier:
    """Train the network of this configuration; returned in eval mode, on its device."""
    for record in train(config):
        last = record
    net = last.training.judged.eval()
    assert isinstance(net, Classifier)
    return net


def cifar10() -> tuple[data.Source, int, str]:
    """CIFAR-10, or as many drawn images if it is not available.

    Returns (source, number of training images, description).
    """
    return _instead("cifar10", data.Shapes(), 45_000)


def fashion_mnist() -> tuple[data.Source, int, str]:
    """As `cifar10`, for Fashion-MNIST; drawn images have the same size but three channels."""
    return _instead("fashion_mnist", data.Shapes(size=28), 54_000)


def _instead(key: str, drawn: data.Shapes, n: int) -> tuple[data.Source, int, str]:
    wanted = data.source(key)
    try:
        data.load(wanted, "test")
    except UserError:
        return (
            drawn,
            n,
            f"{n:,} drawn shapes {drawn.size}×{drawn.size}, because {wanted.label} is not here",
        )
    return wanted, n, f"{wanted.label}, {n:,} images"


def unseen(source: data.Source, learned: int, count: int) -> tuple[Tensor, Tensor]:
    """`count` images (x, y) that a training on the first `learned` images has not seen.

    These are test images; for shapes, training images beyond the first `learned`, which can be
    drawn in any number.
    """
    if isinstance(source, data.Shapes):  # any number of them can be drawn
        split = data.load(source, "train", learned + count)
        return split.x[learned:], split.y[learned:]
    split = data.load(source, "test").take(count)
    return split.x, split.y


Attacker = Callable[[Tensor, Tensor], Tensor]


def peers(
    net: nn.Module,
    eps: float,
    step: float,
    steps: int,
    shape: tuple[int, ...],
    classes: int,
    names: Sequence[str] = (),
) -> dict[str, Attacker]:
    """The L∞ PGD of each library, with a random start and the same steps, by the library's name.

    Input and output are the types that the library's users pass. `names`: only these. Raises
    ImportError for a library that is not installed.
    """
    return {name: PEERS[name](net, eps, step, steps, shape, classes) for name in names or PEERS}


def some_peers(names: Sequence[str], *settings: Any) -> tuple[dict[str, Attacker], str]:
    """The attacks of the libraries that are installed, and a sentence about the others.

    This is for machines without access to a package index.
    """
    made: dict[str, Attacker] = {}
    missing = []
    for name in names:
        try:
            made |= peers(*settings, names=(name,))
        except ImportError as error:
            missing.append(f"{name} is not here ({error}).")
    return made, " ".join(missing)


def leanest(net: nn.Module, eps: float, step: float, steps: int) -> tuple[str, Attacker]:
    """The peer with the least overhead: its name and its PGD.

    It is torchattacks or, if that is not installed, the same code written by hand.
    """
    try:
        return "torchattacks", _torchattacks(net, eps, step, steps, (), 0)
    except ImportError:
        return BY_HAND, lambda x, y: by_hand(net, x, y, eps, step, steps)


BY_HAND = "torchattacks' lines"


def by_hand(net: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    """The same computation as torchattacks' PGD.

    Each step takes the gradient of the images only, moves by its sign, and projects back into the
    ball and to [0, 1].
    """
    found = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1).detach()
    for _ in range(steps):
        found.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(found), y), found)
        change = (found.detach() + step * gradient.sign() - x).clamp(-eps, eps)
        found = (x + change).clamp(0, 1).detach()
    return found


def _torchattacks(
    net: nn.Module, eps: float, step: float, steps: int, shape: tuple[int, ...], classes: int
) -> Attacker:
    import torchattacks

    made: Attacker = torchattacks.PGD(net, eps=eps, alpha=step, steps=steps, random_start=True)
    return made


def _foolbox(
    net: nn.Module, eps: float, step: float, steps: int, shape: tuple[int, ...], classes: int
) -> Attacker:
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device=next(net.parameters()).device)
    descent = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=step, steps=steps, random_start=True
    )
    return lambda x, y: descent(model, x, y, epsilons=eps)[1]  # type: ignore[no-any-return]


def _art(
    net: nn.Module, eps: float, step: float, steps: int, shape: tuple[int, ...], classes: int
) -> Attacker:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    where = "gpu" if next(net.parameters()).is_cuda else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = PyTorchClassifier(
            net,
            nn.CrossEntropyLoss(),
            input_shape=shape[1:],
            nb_classes=classes,
            clip_values=(0, 1),
            device_type=where,
        )
        art = ProjectedGradientDescentPyTorch(
            classifier,
            np.inf,
            eps,
            step,
            max_iter=steps,
            num_random_init=1,
            batch_size=shape[0],
            verbose=False,
        )
    one_hot = np.eye(classes, dtype=np.float32)
    return lambda x, y: torch.from_numpy(art.generate(x.cpu().numpy(), one_hot[y.cpu().numpy()]))


def _cleverhans(
    net: nn.Module, eps: float, step: float, steps: int, shape: tuple[int, ...], classes: int
) -> Attacker:
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    def run(x: Tensor, y: Tensor) -> Tensor:
        found: Any = projected_gradient_descent(
            net,
            x,
            eps,
            step,
            steps,
            np.inf,
            clip_min=0,
            clip_max=1,
            y=y,
            rand_init=True,
            sanity_checks=False,
        )
        return found.detach()  # type: ignore[no-any-return]

    return run


PEERS = {"torchattacks": _torchattacks, "foolbox": _foolbox, "ART": _art, "cleverhans": _cleverhans}
