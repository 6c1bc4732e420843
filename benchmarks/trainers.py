"""Two trainings on the same images and from the same initial weights: ours without validation, and
one as scripts write it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import b00_roofline as roofline
from benchmarks.harness import OURS, Gate, Outcome, Racer, race, spell
from benchmarks.setting import Attacker
from robustviz import data
from robustviz.attacks import PGD
from robustviz.methods import PGDAT
from robustviz.nets.attackable import has_bf16
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right
from robustviz.training.loop import Training, learning_rate

LR = 0.01  # learning rate during a race, in which accuracy does not matter
# percentage points by which two trainings with the same settings and different noise may differ
CLOSE = 3.0
Attacking = Callable[[nn.Module], Attacker]


class Ours:
    """Steps of our `Training` in full batches, without validation.

    The peers have no validation either.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.training = Training(config)
        self.stage = self.training.plan[0][0]
        self.training._enter(self.stage, fresh=True)
        self.size = int(self.training.config.batch_size or 1)
        self.batches = self._whole()

    def turn(self, images: int) -> None:
        """Train on `images` images."""
        for _ in range(images // self.size):
            self.training.batch = (self.training.batch + 1) % len(self.batches)
            self.training._step(self.stage, self.batches[self.training.batch], LR, 0.5)

    def finish(self) -> nn.Module:
        """The network after all epochs of the configuration, ready for evaluation."""
        config, training = self.training.config, self.training
        for epoch in range(int(config.epochs or 1)):
            training.epoch = epoch
            for number, index in enumerate(self._whole()):
                training.batch = number
                share = (epoch + (number + 0.5) / len(self.batches)) / int(config.epochs or 1)
                training._step(
                    self.stage,
                    index,
                    learning_rate(str(config.schedule), float(config.lr or 0), share),
                    share,
                )
        return training.judged.eval()

    def _whole(self) -> list[Tensor]:
        return [part for part in self.training._batches() if len(part) == self.size]


class Usual:
    """Adversarial training as published scripts write it, with the weights and images of `ours`.

    Each image is augmented by itself in the worker processes of a `DataLoader`, everything is fp32
    (TF32 where torch has it on), and every step waits for its loss and its number of right
    predictions.

    `attack` makes the attack on a network; as in ours, the network is in eval mode during the
    attack. `resident`: the images are in device memory, and whole batches are augmented at once,
    which the scripts do not do.
    """

    def __init__(
        self, ours: Ours, size: int, attack: Attacking, *, workers: int = 4, resident: bool = False
    ) -> None:
        training = ours.training
        self.device, self.config, self.size = training.device, training.config, size
        self.net = copy.deepcopy(training.net).requires_grad_(True)
        self.attack = attack(self.net)
        self.optimiser = torch.optim.SGD(
            self.net.parameters(),
            lr=LR,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )
        self.images, self.y = (
            (training.images, training.y) if resident else (training.images.cpu(), training.y.cpu())
        )
        self.resident, self.workers = resident, workers
        self.loss = self.right = 0.0
        self.stream = self._stream()

    def turn(self, images: int) -> None:
        """Train on `images` images."""
        for _ in range(images // self.size):
            self._step(LR)

    def finish(self) -> nn.Module:
        """The network after all epochs, with the same learning rates as ours."""
        torch.manual_seed(self.config.seed)
        steps = int(self.config.epochs or 1) * (len(self.y) // self.size)
        for number in range(steps):
            self._step(
                learning_rate(
                    str(self.config.schedule), float(self.config.lr or 0), (number + 0.5) / steps
                )
            )
        return self.net.eval()

    def _step(self, lr: float) -> None:
        x, y = next(self.stream)
        x, y = x.to(self.device), y.to(self.device)
        self.net.eval()
        x_adv = self.attack(x, y)
        self.net.train()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        logits = self.net(x_adv)
        loss = F.cross_entropy(logits, y)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.loss += loss.item() * len(y)
        self.right += (logits.argmax(1) == y).sum().item()

    def _stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches without end, epoch after epoch."""
        moved = self.config.augment != "none"
        if self.resident:
            rng = torch.Generator(device=self.device).manual_seed(0)
            while True:
                for index in torch.randperm(len(self.y), device=self.device, generator=rng).split(
                    self.size
                ):
                    if len(index) == self.size:
                        x = (
                            data.augment(self.config.augment, self.images[index], rng)
                            if moved
                            else self.images[index]
                        )
                        yield x.float() / 255, self.y[index]
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            Pictures(self.images, self.y, moved),
            self.size,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
        )
        while True:
            yield from loader  # type: ignore[misc]


class Pictures(Dataset[tuple[Tensor, int]]):
    """One image at a time, padded with black by an eighth, cropped at random and perhaps flipped.

    It works on tensors, because PIL is slower.
    """

    def __init__(self, images: Tensor, y: Tensor, moved: bool) -> None:
        self.images, self.y, self.moved = images, y, moved

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        x = self.images[at].float() / 255
        if self.moved:
            _, h, w = x.shape
            x = F.pad(x, (w // 8,) * 2 + (h // 8,) * 2)
            down, right = (int(torch.randint(2 * (side // 8) + 1, ())) for side in (h, w))
            x = x[:, down : down + h, right : right + w]
            x = x.flip(-1) if torch.rand(()) < 0.5 else x
        return x, int(self.y[at])


def written_out(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int
) -> Tensor:
    """PGD as training scripts write it, with `loss.backward()`.

    This also computes the gradients of all weights.
    """
    change = torch.empty_like(x).uniform_(-eps, eps)
    change = (torch.clamp(x + change, 0, 1) - x).requires_grad_()
    for _ in range(steps):
        loss = F.cross_entropy(net(x + change), y)
        loss.backward()
        assert change.grad is not None
        with torch.no_grad():
            moved = torch.clamp(change + step * change.grad.sign(), -eps, eps)
            change.copy_(torch.clamp(x + moved, 0, 1) - x)
        change.grad.zero_()
    return (x + change).detach()


def race_epochs(
    key: str,
    config: TrainConfig,
    words: str,
    attack: Attacking,
    name: str,
    *,
    sizes: Sequence[int],
    turn: int,
    epoch: int,
    wanted: tuple[float, float],
    rounds: int,
    workers: int = 4,
) -> Iterator[Outcome]:
    """Compare training steps of ours with those of the usual loop, on `turn` images in each turn.

    Ours runs in the configuration's precision and in fp32; the usual loop with `attack` runs with a
    `DataLoader` in batches of `sizes`, and with images in device memory in batches as large as
    ours. All take part in one race. The first outcome is ours in the configuration's precision,
    with the ratios `wanted` for the two kinds of loop, the second is ours in fp32. The note
    extrapolates to `epoch` images; the gate is the accuracy after all epochs of `config`.
    """
    formats = tuple(dict.fromkeys((config.precision, "fp32")))
    ours = {one: Ours(dataclasses.replace(config, precision=one)) for one in formats}
    mine, size = ours[config.precision], ours[config.precision].size
    peers = {
        f"{name}, DataLoader, batch {some}": Usual(mine, some, attack, workers=workers)
        for some in sizes
    }
    ratios = dict.fromkeys(peers, wanted[0])
    resident = f"{name}, resident, batch {size}"
    peers[resident], ratios[resident] = Usual(mine, size, attack, resident=True), wanted[1]
    gates = _as_accurate(config, formats, attack, workers)
    device = mine.training.device.type
    runs = [*ours.values(), *peers.values()]
    names = [*(OURS for _ in ours), *peers]
    times = race(
        [
            Racer(who, functools.partial(one.turn, turn))
            for who, one in zip(names, runs, strict=True)
        ],
        rounds,
        device,
    )
    theirs = times[len(ours) :]
    # An attack step costs as much as two forward passes, a training step as much as three.
    flops = (
        (steps_of(config) + 1.5)
        * turn
        * roofline.step_flops(mine.training.net, mine.training.images[:2].float() / 255)
    )
    ceiling = torch.bfloat16 if has_bf16(device) else torch.float32
    for precision, time in zip(formats, times, strict=False):
        epochs = ", ".join(
            f"{one.name} {spell(one.median * epoch / turn)}" for one in (time, *theirs)
        )
        share = roofline.share(OURS, time.least, flops, device, ceiling)
        note = (
            f"An epoch of {epoch:,}, extrapolated from {turn:,} images a turn, without validation:"
            f" {epochs}. {share}"
        )
        where = f"{turn:,} images of {words}; {config.net}, batch {size}"
        yield Outcome(
            key,
            f"PGD-{steps_of(config)} adversarial training, {precision}",
            where,
            (time, *theirs),
            ratios if precision == formats[0] else {},
            (gates[precision],),
            note,
        )


def steps_of(config: TrainConfig) -> int:
    """The number of steps of the method's attack."""
    assert isinstance(config.method, PGDAT)
    return config.method.attack.steps


def _as_accurate(
    config: TrainConfig, formats: Sequence[str], attack: Attacking, workers: int
) -> dict[str, Gate]:
    """A gate for each number format: robust accuracy on the test images, at most `CLOSE` percentage
    points away from that of the usual loop after as many steps, with the same batch size and
    initial weights.
    """
    split, judge = data.load(config.data, "test"), PGD(eps=config.eps, steps=10)

    def judged(net: nn.Module) -> tuple[float, float]:
        x, y = (part.to(next(net.parameters()).device) for part in (split.x, split.y))
        clean, robust = (
            100 * float(count_right(net, x, y, one).float().mean()) for one in (None, judge)
        )
        return clean, robust

    start = Ours(config)
    usual = judged(Usual(start, start.size, attack, workers=workers).finish())
    gates = {}
    for one in formats:
        clean, robust = judged(Ours(dataclasses.replace(config, precision=one)).finish())
        says = (
            f"{config.epochs} epochs: PGD-10 {robust:.1f}%, clean {clean:.1f}%; "
            f"the usual loop {usual[1]:.1f}%, {usual[0]:.1f}% (n = {len(split):,})"
        )
        gates[one] = Gate(says, abs(robust - usual[1]) <= CLOSE)
    return gates
