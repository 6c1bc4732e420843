"""Accuracy under attack, counted once and written down with everything needed to repeat it."""

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

# images that draw their noise together: fixed, so that it does not depend on how many are computed
# at once
BATCH = 250
DOCTOR_IMAGES = 100
# Weakest first; each leaves at most as many images right as those before, or something is wrong. CW
# is another attack than PGD rather than a stronger one, so it is held against FGSM only.
LADDER: tuple[Attack, ...] = (
    FGSM(),
    PGD(steps=20),
    PGD(steps=100, restarts=5),
    CW(steps=100),
    AutoAttack(),
)

Tick = Callable[[], object]
# images, what the network was shown of them under attack, and its answers to both
Seen = Callable[[Tensor, Tensor, Tensor, Tensor], object]


def seen(ticks: int, n: int) -> tuple[int, int]:
    """(so many images, of so many in all) at this tick of an evaluation on `n` images, from 0. It
    ticks before each block of untouched and of attacked images, once more, and before each of the
    doctor's five attacks; the untouched ones take next to no time and are not counted.
    """
    blocks, few = -(-n // BATCH), min(DOCTOR_IMAGES, n)
    done = ticks - blocks
    after = max(0, done - blocks)
    return min(n, max(0, done) * BATCH) + min(after, 6) * few, n + 6 * few


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
    """Which samples the net gets right, (N,) bool on the CPU: attacked with `attack`, or clean
    where that is None.

    `x` (N,C,H,W) in [0,1] and `y` (N,), of any integer dtype, on the net's device. Each block of
    250 draws its noise from (seed, block number); how many images are computed at once follows from
    their size and changes no result. An image that is found to be misread on the way goes no
    further (`Attack.search`), and one whose logits are not numbers counts as misread. `bf16`:
    gradients may be computed in bf16, where the processor is fast at it; the verdict on what was
    found is the net's own, in fp32, and a count differs by a few in 1,000.

    Raises UserError for images, labels or a network of another kind, and where an image's answer
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
    """x_adv (N,C,H,W): each image where the attack ends, with the noise that `count_right` draws.
    That one leaves an image where it is first found to be misread, so a verdict may differ by an
    image in hundreds. Raises UserError as it does.
    """
    with _ready(net, x, y) as task:
        return torch.cat(
            [shown for _, shown in _blocks(task, attack, seed, None, search=False)] or [task.x]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    """Checked images and labels, and a network that computes what the caller's does, to the bit,
    and that nobody else has.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    trial: Trial


@contextmanager
def _ready(net: nn.Module, x: Tensor, y: Tensor) -> Iterator[_Task]:
    """The task of counting on these images. Raises UserError where they, the labels or the network
    do not fit.
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
    """Block by block: which samples are right, on the CPU, and the images the net was shown. Raises
    UserError for what is no attack or no seed.
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
                    f"The attack {attack.key} gave {kind} for images of shape"
                    f" {tuple(images.shape)}: as many images are wanted."
                )
            images = shown
            progress.count(len(images))
        yield (answers(task.net, images, task.trial.at_once) == labels).cpu(), images


def _told(
    blocks: Iterator[tuple[Tensor, Tensor]], task: _Task, seen: Seen
) -> Iterator[tuple[Tensor, Tensor]]:
    """The blocks as they are, each told to `seen` first."""
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
    """The accuracy of `net` on a split, clean and under `attack` (which must have its ε), with the
    doctor's findings.

    An image counts as robust when the attacked image is classified as its true class. A network
    without a gradient is evaluated too: an attack that needs one leaves its images as they are, and
    the doctor calls the number unreliable. `consulted`: what the doctor found about this net
    before, at the same ε. `seen` is told each block of images, see `training.images`. Raises
    UserError for no images and for a targeted attack.
    """
    if not len(split):
        raise UserError("There are no images to evaluate on: choose another split or a larger n.")
    _untargeted(attack, "measured")
    device = device_of(net)
    started = time.perf_counter()
    x, y = split.x.to(device), split.y.to(device)
    with _ready(net, x, y) as task:
        clean = torch.cat([right for right, _ in _blocks(task, None, seed, tick, search=True)])
        # An attack by gradients leaves the images of a network without any: an upper bound.
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
    """A short hash of the images and labels, in order: two evaluations with the same one can be
    compared in pairs.
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
    """Evaluate a run's best weights on its test split and write the result into its `eval.json`.

    Without arguments: PGD-20 at the run's ε on the whole split, seed 0. `n`: the first n of a
    seed-0 stratified permutation. A shipped run is read-only; what is evaluated of it is kept in
    `runs/.zoo-cache`.
    """
    with _opened(run, eps, n, device) as (net, split, radius):
        attack = (attack or PGD(steps=20, norm=norm_of(run.config))).bound(radius)
        return run.add_evaluation(measure(net, split, attack, seed=seed, tick=tick, seen=seen))


@contextmanager
def _opened(
    run: Run, eps: float | None, n: int | None, device: str
) -> Iterator[tuple[nn.Module, Dataset, float]]:
    """The run's net on the device, the beginning of its test split, and the ε; inside, torch has as
    many threads as the run asks for.
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
) -> Ladder:
    """Climb `LADDER` (or `rungs`, weakest first) on the same images: each rung is written into
    `eval.json` when it is finished, and one that is there already for these weights, images and
    settings is not computed again.

    `n` as in `evaluate`; the norm is the run's. `say` gets one line a rung. An attack that is not
    defined for so few classes (AutoAttack needs four) is left out, and the ladder says so.
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
            found=run.evaluations,
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
    """The ladder of these attacks, which have their ε, on a split. `found`: what is known already
    and not computed again; `keep` writes a rung down and gives back what was written.
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
    return climb(rows, method, left_out)
