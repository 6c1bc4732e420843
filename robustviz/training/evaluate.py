"""Measures accuracy under attack. Training, command line and pages all use this code, and each
result holds everything needed to repeat it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustviz import data, progress, registry
from robustviz.attacks import CW, FGSM, PGD, Attack, AutoAttack
from robustviz.attacks.base import answers
from robustviz.data import Dataset
from robustviz.inputs import Trial, check_images, check_labels, try_out
from robustviz.nets.attackable import attackable, device_of, keep
from robustviz.process import threads
from robustviz.runs.folder import Run
from robustviz.training.config import norm_of as norm_of, pick_device
from robustviz.training.doctor import Consult, consult, examine
from robustviz.training.evaluation import Evaluation, by_class, pack
from robustviz.training.ladder import Ladder, climb
from robustviz.types import UserError, plain

# Images that share one generator for their noise. Fixed, so that the noise does not depend on how
# many images are computed at once.
BATCH = 250
DOCTOR_IMAGES = 100
# Weakest first; each should leave at most as many images right as those before, else something is
# wrong. CW is not stronger than PGD but different, so it is compared with clean images and FGSM.
LADDER: tuple[Attack, ...] = (
    FGSM(),
    PGD(steps=20),
    PGD(steps=100, restarts=5),
    CW(steps=100),
    AutoAttack(),
)

Tick = Callable[[], object]
# called with a block's clean images (B,C,H,W), the attacked images that the network was shown, and
# its predictions (B,) for both
Seen = Callable[[Tensor, Tensor, Tensor, Tensor], object]


def seen(ticks: int, n: int) -> tuple[int, int]:
    """Returns the progress of an evaluation on `n` images at tick number `ticks` (from 0), as
    (images done, images in total). `measure` ticks before each block of clean images, before each
    block of attacked ones, once after these, and before each of the five attacks of
    `doctor.consult` (four in l2). The total is n, for the attacked images, plus six times the first
    `DOCTOR_IMAGES` images, for the doctor. Clean images take next to no time and are not counted.
    """
    blocks, few = -(-n // BATCH), min(DOCTOR_IMAGES, n)
    done = ticks - blocks
    after = max(0, done - blocks)
    return min(n, max(0, done) * BATCH) + min(after, 6) * few, n + 6 * few


def left(images: int, n: int) -> float:
    """Returns how much work is left in an evaluation with PGD-20 on `n` images when `images` are
    done, counted as `seen` does. The unit is the work of PGD-10 on one image. Each of the n images
    takes 2, and each of the first `DOCTOR_IMAGES` another 33 for the doctor: 12 for PGD and CW in
    `doctor.consult`, the rest for Square and the planted examples.
    """
    few = min(DOCTOR_IMAGES, n)
    return 2 * (n - min(images, n)) + 33 * (few - max(0, images - n) / 6)


def count_right(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack | None = None,
    seed: int = 0,
    tick: Tick | None = None,
    *,
    bf16: bool = False,
) -> Tensor:
    """Returns which images `net` classifies correctly, as (N,) bool on the CPU: under `attack`, or
    clean if that is None.

    `x` (N,C,H,W) in [0,1] and `y` (N,), of any integer dtype, are on the network's device. Each
    block of 250 images draws its noise from (seed, block number), and `tick` is called before it.
    How many images are computed at once depends on their size and changes no result. Most attacks
    stop at an image soon after it is first misclassified (`Attack.search`); an image with NaN
    logits counts as misclassified. `bf16`: gradients may be computed in bf16 where the processor is
    fast at it; the predictions that count still come from the network in fp32, and a count differs
    by a few in 1,000.

    Raises UserError for a targeted attack or one without ε, for unsuitable images, labels or
    networks (for most attacks, a network without gradients), and if the prediction for an image
    depends on its batch.
    """
    _untargeted(attack, "counted")
    with _ready(net, x, y) as task:
        blocks = _blocks(task, attack, seed, tick, search=True, bf16=bf16)
        return torch.cat([torch.zeros(0, dtype=torch.bool), *(right for right, _ in blocks)])


def _untargeted(attack: Attack | None, done: str) -> None:
    if getattr(attack, "targeted", False):
        raise UserError(
            f"Accuracy under attack is {done} with untargeted attacks; set targeted to false.",
            code=2,
        )


def attacked(net: nn.Module, x: Tensor, y: Tensor, attack: Attack, seed: int = 0) -> Tensor:
    """Returns the attacked images (N,C,H,W) at the end of the complete attack, with the same random
    numbers as in `count_right`. That function stops at an image's first misclassification, so for
    about one image in hundreds its result differs from the prediction for the image returned here.
    Raises UserError as `count_right` does, but allows targeted attacks, for which `y` holds the
    targets.
    """
    with _ready(net, x, y) as task:
        return torch.cat(
            [shown for _, shown in _blocks(task, attack, seed, None, search=False)] or [task.x]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    """The checked images and labels, the network to attack, and `trial`, the result of `try_out` on
    these images. `net` is a copy if possible, else the caller's network; both give the same outputs
    bit for bit.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    trial: Trial


@contextmanager
def _ready(net: nn.Module, x: Tensor, y: Tensor) -> Iterator[_Task]:
    """A context manager that checks images, labels and network and yields them as a `_Task`. Raises
    UserError if they do not fit.
    """
    with torch.inference_mode(False), attackable(net, fused=False) as own:
        if own is not net:
            keep(own)  # all blocks share one copy
        x = check_images(x)
        trial = try_out(own, x)
        yield _Task(own, x, check_labels(y, len(x), trial.classes, x), trial)


def _blocks(
    task: _Task,
    attack: Attack | None,
    seed: int,
    tick: Tick | None,
    search: bool,
    bf16: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two things for each block of up to 250 images: which are classified correctly (bool, on
    the CPU), and the images that the network was shown, attacked unless `attack` is None. `tick` is
    called before each block. `search`: stop at an image's first misclassification. Raises UserError
    for an invalid attack or seed.
    """
    seed = plain(seed)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"seed={seed!r} is not a whole number.", code=2)
    if attack is not None and not isinstance(attack, Attack):
        raise UserError(
            f"{attack!r} is no attack; use one of robustviz.attacks, e.g. PGD(eps=8/255).", code=2
        )
    for number, start in enumerate(range(0, len(task.x), BATCH)):
        if tick:
            tick()
        images, labels = task.x[start : start + BATCH], task.y[start : start + BATCH]
        if attack is not None:
            rng = torch.Generator(device=images.device).manual_seed(
                (seed * 1_000_003 + number) % 2**63
            )
            shown = (
                attack.search(task.net, images, labels, rng, bf16)
                if search
                else attack(task.net, images, labels, rng)
            )
            if not isinstance(shown, Tensor) or shown.shape != images.shape:
                kind = tuple(shown.shape) if isinstance(shown, Tensor) else type(shown).__name__
                raise UserError(
                    f"The attack {attack.key} returned {kind} for images of shape"
                    f" {tuple(images.shape)}; it must return images of the same shape."
                )
            images = shown
            progress.count(len(images))
        yield (answers(task.net, images, task.trial.at_once) == labels).cpu(), images


def _told(
    blocks: Iterator[tuple[Tensor, Tensor]], task: _Task, seen: Seen
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the blocks unchanged, after calling `seen` with each block's clean and attacked images
    and the predictions for both.
    """
    at = 0
    for right, shown in blocks:
        x = task.x[at : at + len(shown)]
        seen(x, shown, *(answers(task.net, each, task.trial.at_once) for each in (x, shown)))
        yield right, shown
        at += len(shown)


def measure(
    net: nn.Module,
    split: Dataset,
    attack: Attack,
    *,
    seed: int = 0,
    tick: Tick | None = None,
    consulted: Consult | None = None,
    seen: Seen | None = None,
) -> Evaluation:
    """Measure the accuracy of `net` on a split, clean and under `attack` (which must have its ε),
    and check with `training.doctor`, on the first 100 images, whether the result can be believed.

    An image counts as robust if the attacked image is classified as its true class. Networks
    without a gradient are evaluated too: gradient attacks then leave the images unchanged, and the
    doctor calls the number unreliable. `consulted`: the result of `doctor.consult` for this
    network, norm and ε; None: it is computed. `seen` is called for each block of attacked images
    (see `Seen`); for `tick` see the function `seen`. Raises UserError for an empty split, and as
    `count_right` does.
    """
    if not len(split):
        raise UserError("There are no images to evaluate on: choose another split or a larger n.")
    _untargeted(attack, "measured")
    device = device_of(net)
    started = time.perf_counter()
    x, y = split.x.to(device), split.y.to(device)
    with _ready(net, x, y) as task:
        clean = torch.cat([right for right, _ in _blocks(task, None, seed, tick, search=True)])
        # Without gradients a gradient attack changes nothing, so the result is an upper bound.
        stuck = getattr(attack, "needs_gradient", False) and not task.trial.has_gradient
        blocks = _blocks(task, None if stuck else attack, seed, tick, search=True)
        if seen:
            blocks = _told(blocks, task, seen)
        right, few = next(blocks)
        robust = torch.cat([right, *(right for right, _ in blocks)])
        if tick:
            tick()
        n, k = min(DOCTOR_IMAGES, len(few)), len(split.classes)
        findings = examine(
            task.net, task.x[:n], task.y[:n], few[:n], attack, k, seed, consulted, tick
        )
    return Evaluation(
        attack=registry.encode(attack),
        eps=float(attack.eps or 0),
        n=len(split),
        clean_k=int(clean.sum()),
        robust_k=int(robust.sum()),
        seed=seed,
        split=split.split,
        seconds=round(time.perf_counter() - started, 3),
        device=device.type,
        doctor=findings,
        clean_right=pack(clean.numpy()),
        robust_right=pack(robust.numpy()),
        images=fingerprint(split),
        classes=len(split.classes),
        by_class=by_class(split.y.cpu().numpy(), clean.numpy(), robust.numpy(), len(split.classes)),
        image_bytes=task.trial.image_bytes,
        at_once=task.trial.at_once if task.trial.at_once < min(BATCH, len(split)) else 0,
    )


def fingerprint(split: Dataset) -> str:
    """Returns a hash (16 hex digits) of the split's images and labels, in order. Evaluations with
    the same hash can be compared image by image.
    """
    digest = hashlib.sha256(split.images.cpu().numpy().tobytes())
    digest.update(split.y.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def evaluate(
    run: Run,
    attack: Attack | None = None,
    *,
    eps: float | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str = "auto",
    tick: Tick | None = None,
    seen: Seen | None = None,
) -> Evaluation:
    """Evaluate a run's best weights on its test split, write the result into its `eval.json`, and
    return it.

    `attack` None: PGD-20 in the run's norm. `eps`: for an attack without an ε of its own; None: the
    run's. `n`: only the first n images of a seed-0 stratified permutation; None: all. Shipped runs
    are read-only; their evaluations are written to `.zoo-cache` in the folder of the user's runs.
    `tick`, `seen` and errors as in `measure`.
    """
    with _opened(run, eps, n, device) as (net, split, radius):
        attack = (attack or PGD(steps=20, norm=norm_of(run.config))).bound(radius)
        return run.add_evaluation(measure(net, split, attack, seed=seed, tick=tick, seen=seen))


@contextmanager
def _opened(
    run: Run, eps: float | None, n: int | None, device: str
) -> Iterator[tuple[nn.Module, Dataset, float]]:
    """Inside the block, yield the run's best network on the device, the first `n` images of its
    test split (None: all), and `eps`, or the run's ε if that is None. Meanwhile torch uses as many
    threads as the run's config says.
    """
    config = run.config
    with threads(int(config.threads or 1)):
        split = data.load(config.data, "test")
        yield (
            run.net().to(pick_device(device)),
            split.take(len(split) if n is None else n),
            float((config.eps if eps is None else eps) or 0),
        )


def ladder(
    run: Run,
    *,
    eps: float | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str = "auto",
    tick: Tick | None = None,
    say: Callable[[str], object] | None = None,
    rungs: Sequence[Attack] | None = None,
    again: bool = False,
) -> Ladder:
    """Evaluate a run under the attacks of `LADDER` (or `rungs`, weakest first), all on the same
    test images, and return the `Ladder`. Each attack's evaluation is written into the run's
    `eval.json` when it is finished; one that is already in this file for these weights, images,
    settings and seed is repeated only if `again` is set.

    `eps` and `n` as in `evaluate`, `tick` as in `measure`; the norm is the run's. `say` is called
    with one line per attack. An attack that is not defined for so few classes (AutoAttack needs
    four) is left out, and `Ladder.left_out` says so.
    """
    with _opened(run, eps, n, device) as (net, split, radius):
        norm = norm_of(run.config)
        return climbed(
            net,
            split,
            [dataclasses.replace(rung, norm=norm).bound(radius) for rung in rungs or LADDER],
            seed=seed,
            tick=tick,
            say=say,
            found=tuple if again else run.evaluations,
            keep=run.add_evaluation,
            method=run.method_key,
        )


def climbed(
    net: nn.Module,
    split: Dataset,
    rungs: Sequence[Attack],
    *,
    seed: int = 0,
    tick: Tick | None = None,
    say: Callable[[str], object] | None = None,
    found: Callable[[], Sequence[Evaluation]] = tuple,
    keep: Callable[[Evaluation], Evaluation] = lambda row: row,
    method: str = "",
) -> Ladder:
    """Evaluate `net` under each attack in `rungs` (weakest first, all with the same norm and ε) and
    return the ladder. `found` returns earlier evaluations: one with the same attack, seed and
    images is used instead of a new one. `keep` saves an evaluation and returns what was saved.
    `say` is called with one line per attack; `tick` as in `measure`, `method` as in `climb`.
    Attacks that are not defined for so few classes are left out. Raises UserError if none remains.
    """
    rows: list[Evaluation] = []
    consulted: Consult | None = None
    left_out = ""
    few = split.take(torch.arange(min(DOCTOR_IMAGES, len(split))))
    x, y, images = few.x.to(device_of(net)), few.y.to(device_of(net)), fingerprint(split)
    for attack in rungs:
        try:
            attack.check(len(split.classes))
        except UserError as error:
            left_out = f"{attack.label} is left out: {error}"
            continue
        asked = (registry.encode(attack), seed, images)
        row = next((e for e in found() if (e.attack, e.seed, e.images) == asked), None)
        if row is None:
            consulted = consulted or consult(net, x, y, attack, seed)
            row = measure(net, split, attack, seed=seed, tick=tick, consulted=consulted)
        new = climb([*rows, row], method).rungs[-1]
        rows.append(new if new.key and new == row else keep(new))
        if say:
            say(rows[-1].line)
    if not rows:
        raise UserError(left_out or "A ladder needs at least one attack.")
    return climb(rows, method, left_out)
