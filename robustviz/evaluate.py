"""Accuracy under attack, counted once and written down with everything needed to repeat it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from robustviz import data, registry
from robustviz.attacks import PGD, Attack
from robustviz.config import TrainConfig, pick_device
from robustviz.data import Dataset
from robustviz.doctor import examine
from robustviz.nets.base import frozen
from robustviz.results import Evaluation
from robustviz.runs import Run
from robustviz.types import UserError

BATCH = 250  # fixed, so that the attack's noise for an image does not depend on the machine
DOCTOR_IMAGES = 100


def count_right(
    net: nn.Module, x: Tensor, y: Tensor, attack: Attack | None = None, seed: int = 0, tick: Callable[[], object] | None = None
) -> Tensor:
    """Which samples the net gets right, (N,) bool on the CPU: attacked with `attack`, or clean where that is None.

    `x` (N,C,H,W) in [0,1] and `y` on the net's device. Each batch of 250 draws its noise from (seed, batch number).
    """
    out = []
    for number, start in enumerate(range(0, len(x), BATCH)):
        if tick:
            tick()
        images, labels = x[start : start + BATCH], y[start : start + BATCH]
        if attack is not None:
            images = attack(net, images, labels, rng=_noise(seed, number, x.device))
        with frozen(net), torch.no_grad():
            out.append((net(images).argmax(dim=1) == labels).cpu())
    return torch.cat(out) if out else torch.zeros(0, dtype=torch.bool)


def _noise(seed: int, number: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed * 1_000_003 + number)


def measure(net: nn.Module, split: Dataset, attack: Attack, *, seed: int = 0, tick: Callable[[], object] | None = None) -> Evaluation:
    """The accuracy of `net` on a split, clean and under `attack` (which must have its ε), with the doctor's findings.

    An image counts as robust when the attacked image is classified as its true class. Raises UserError for no images.
    """
    if not len(split):
        raise UserError("There are no images to evaluate on: choose another split or a larger n.")
    device = next(net.parameters()).device
    started = time.perf_counter()
    x, y = split.x.to(device), split.y.to(device)
    clean = count_right(net, x, y, None, seed, tick)
    robust = count_right(net, x, y, attack, seed, tick)
    few = slice(0, DOCTOR_IMAGES)
    x_adv = attack(net, x[few], y[few], rng=_noise(seed, 0, device))
    if tick:
        tick()
    findings = examine(net, x[few], y[few], x_adv, attack, len(split.classes), seed)
    return Evaluation(
        attack=registry.encode(attack), eps=float(attack.eps or 0), n=len(split), clean_k=int(clean.sum()),
        robust_k=int(robust.sum()), seed=seed, split=split.split, seconds=round(time.perf_counter() - started, 3),
        device=device.type, doctor=findings,
    )  # fmt: skip


def evaluate(
    run: Run, attack: Attack | None = None, *, eps: float | None = None, n: int | None = None, seed: int = 0,
    device: str = "auto", tick: Callable[[], object] | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluate a run's best weights on its test split and write the result into its `eval.json`.

    Without arguments: PGD-20 at the run's ε on the whole split, seed 0. `n`: the first n of a seed-0 stratified
    permutation. A shipped run is read-only; what is evaluated of it is kept in `runs/.zoo-cache`.
    """
    config = run.config
    torch.set_num_threads(int(config.threads or 1))
    radius = config.eps if eps is None else eps
    attack = (attack or PGD(steps=20, norm=norm_of(config))).bound(float(radius or 0))
    split = data.load(config.data, "test")
    split = split.take(len(split) if n is None else n)
    net = run.net().to(pick_device(device))
    result = measure(net, split, attack, seed=seed, tick=tick)
    return run.add_evaluation(result)


def norm_of(config: TrainConfig) -> Literal["linf", "l2"]:
    """The norm in which the run's method was attacked; linf for methods without an attack."""
    attack: Attack | None = getattr(config.method, "attack", None)
    return attack.norm if attack is not None else "linf"
