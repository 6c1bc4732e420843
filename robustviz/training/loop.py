"""The training loop as a generator of epochs, shared by the command line, the worker and tests.
Every random number comes from a generator whose seed is made from the run's seed, a purpose and, in
training, epoch and batch. So a resume restores no generator, and methods with the same seed see the
same batches, except those that need `balanced` ones.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustviz import data, nets
from robustviz.attacks import PGD
from robustviz.data import Dataset
from robustviz.methods.base import FindRun, Loss, Stage, Terms, check_terms
from robustviz.nets.attackable import keep
from robustviz.nets.base import frozen
from robustviz.process import threads
from robustviz.runs.folder import find_run
from robustviz.training import awp
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import count_right, norm_of
from robustviz.training.order import balanced_order, learning_rate, planned, seed_of
from robustviz.training.progress import (
    ANSWERS,
    Answer as Answer,
    Diverged as Diverged,
    EpochRecord as EpochRecord,
    Tick as Tick,
)
from robustviz.training.start import start_from
from robustviz.training.world import ALONE, World
from robustviz.types import JSON, Batch, UserError
from robustviz.views.attack.result import Strip

# Validation images, at most. So many give the accuracy to ±3 percentage points; more would make
# an epoch longer.
VALIDATE_ON = 1000
STRIP = 8


def train(
    config: TrainConfig, on_batch: Callable[[Tick], Answer] | None = None
) -> Iterator[EpochRecord]:
    """Train `config` from the start and yield an `EpochRecord` after each epoch; the network at
    that moment is the record's `training.judged`.

    `on_batch` is called before every training step and returns "go", or "pause" or "stop", which
    end the iteration before that step. It is also called during validation, where its answer is
    ignored. Raises UserError if the data, network or settings do not fit, and `Diverged` if the
    loss becomes NaN or infinite.
    """
    yield from Training(config).epochs(on_batch)


def check(config: TrainConfig, world: World = ALONE) -> None:
    """Build the training of `config` without running it. Raises UserError if it cannot start
    because its data, its network or the settings of its method do not fit.
    """
    Training(config, world)


class _Loss(nn.Module):
    """A stage's loss, with the networks it uses, as one module, because DDP wraps a module."""

    def __init__(self, loss: Loss, net: nets.Classifier, aux: nn.Module | None) -> None:
        super().__init__()
        self.loss, self.net, self.aux = loss, net, aux

    def forward(self, batch: Batch) -> Terms:
        return check_terms(self.loss(self.net, batch, self.aux))


class Training:
    """One training in progress: network, optimiser and position. `epochs()` continues it; `state()`
    returns what a resume needs. The method finds earlier runs with `find_run`.

    With several processes (`world`) each process has its own `Training`, and all of them call
    `epochs()`. They yield the same records (but for `seconds`); `on_batch` is called in the first
    process only, and only the first process's `state()` should be saved. Each process computes its
    share of every batch, with its own attack noise, and DDP averages the gradients over all images.
    Batch norm, and losses that compare images of a batch (`Method.compares`), see only this share;
    only the running statistics of the first process are saved.
    """

    def __init__(
        self, config: TrainConfig, world: World = ALONE, find_run: FindRun = find_run
    ) -> None:
        self.config = config = config.on_this_machine(find_run)
        self.world = world
        self.threads = max(1, int(config.threads or 1) // world.size)
        # with several GPUs, `world.join` has made this process's GPU the current one
        self.device = torch.device(config.device)
        self.method = config.bound_method
        with threads(self.threads):
            self._build(self._load(), find_run)
        stages, total = self.method.stages(config), int(config.epochs or 1)
        if total < len(stages):
            raise UserError(
                f"{self.method.key} trains in {len(stages)} stages and needs at least {len(stages)}"
                " epochs.",
                code=2,
            )
        self.plan = planned(stages, total)
        self.optimiser: torch.optim.Optimizer | None = None
        self.loss: nn.Module | None = None  # of the current stage
        # reading a loss would wait for the GPU, so on a GPU losses are checked once per epoch
        self.watched = self.device.type == "cpu"
        self.epoch = self.batch = self.best_epoch = 0
        self.sums: dict[str, Tensor] = {}
        self.spent = 0.0
        self.records: list[JSON] = []
        self.best: dict[str, Tensor] = {}
        self.best_score = -math.inf
        self.ended: Literal["", "done", "pause", "stop"] = ""

    def _load(self) -> Dataset:
        """Load the training images and at most 1,000 validation images, and return the training
        split. Raises UserError for too few images (in all, or per process), or too few GPUs.
        """
        config, world = self.config, self.world
        if self.device.type == "cuda" and world.rank >= torch.cuda.device_count():
            raise UserError(
                f"{world.size} processes need as many GPUs, and this machine has"
                f" {torch.cuda.device_count()}: start fewer, or use --device cpu.",
                code=2,
            )
        torch.backends.cudnn.benchmark |= self.device.type == "cuda"  # input shapes repeat
        split = data.load(config.data, "train", config.n_train or None)
        val = data.load(config.data, "val")
        self.val = val.take(min(VALIDATE_ON, len(val)))
        self.classes = split.classes
        if len(split) < 2 or not len(val):
            raise UserError(
                f"There are too few images to train on ({len(split)}) or to validate on"
                f" ({len(val)}): add some."
            )
        least = world.size * (4 if self.method.balanced else 2)
        if world.size > 1 and min(len(split), int(config.batch_size or 1)) < least:
            raise UserError(
                f"{world.size} processes need at least {least} images in a batch of"
                f" {config.method.key}, and there are {len(split)} images in batches of"
                f" {config.batch_size}: start fewer processes, or use more images and a larger"
                " batch_size.",
                code=2,
            )
        self.images, self.y = split.images.to(self.device), split.y.to(self.device)
        self.masks = (
            split.masks.to(self.device) if self.method.objects and split.masks is not None else None
        )
        return split

    def _build(self, split: Dataset, find_run: FindRun) -> None:
        """Build the network, with fresh weights or those that `init` or the method names, and the
        auxiliary and averaged ones. Raises UserError if the settings do not fit.
        """
        config, method = self.config, self.method
        mean, std = data.mean_and_std(self.images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(config.seed, "weights"))
            fresh = nets.build(
                config.net,
                len(self.classes),
                self.images.shape[1],
                self.images.shape[-1],
                mean,
                [max(spread, 1e-3) for spread in std],
            )
            self.net = method.network(fresh)
        method.check(config, split, self.net)
        if config.init:
            start_from(self.net, config, find_run)
        helper = method.initial(self.net, config, split, find_run)
        keep(self.net.to(self.device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(config.seed, "aux"))
            helper = method.aux(self.net, config) if helper is None else helper
        self.aux = None if helper is None else helper.to(self.device)
        self.ema: nets.Classifier | None = copy.deepcopy(self.net) if config.ema else None

    @property
    def judged(self) -> nets.Classifier:
        """The network that is validated and saved: if `ema` is set, the one with the running
        average of the weights, else the trained one.
        """
        return self.ema if self.ema is not None else self.net

    @property
    def settled(self) -> bool:
        """Whether early stopping ends the training: the last stage has had `patience` (above 0)
        epochs in a row without a better validation accuracy. False within an epoch.
        """
        if not self.config.patience or self.batch:
            return False
        last = self.records[self.plan[-1][1] :]
        scores = [record[f"{self.config.select}_acc"] for record in last]
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= self.config.patience

    def strip(self) -> Strip:
        """Returns up to eight fixed validation images, clean and under PGD-10 against the network
        `judged`, with that network's predictions for both.
        """
        few = self.val.take(min(STRIP, len(self.val)))
        x, y = few.x.to(self.device), few.y.to(self.device)
        attack = self._judge_attack()
        with threads(self.threads):
            x_adv = attack(self.judged, x, y, rng=self._generator("strip"))
            with frozen(self.judged), torch.no_grad():
                pred, pred_adv = self.judged(x).argmax(1), self.judged(x_adv).argmax(1)
        return Strip(
            x.cpu().numpy(),
            x_adv.cpu().numpy(),
            y.cpu().numpy(),
            pred.cpu().numpy(),
            pred_adv.cpu().numpy(),
            eps=float(attack.eps or 0),
            epoch=self.epoch,
        )

    def epochs(self, on_batch: Callable[[Tick], Answer] | None = None) -> Iterator[EpochRecord]:
        """Yield a record after each epoch, from the current position on, with `on_batch` and errors
        as in `train`. Afterwards `ended` says why the iteration stopped: "done", "pause" or "stop".
        """
        ask = (on_batch if self.world.main else None) or (lambda tick: "go")
        yield from iter(functools.partial(self._next, ask), None)

    def _next(self, ask: Callable[[Tick], Answer]) -> EpochRecord | None:
        """Train to the end of the current epoch and return its record; None if `ask` returned
        "pause" or "stop", and if all epochs are done or early stopping ends the training.
        """
        with threads(self.threads):  # left before each yield: the caller has its own thread count
            total = int(self.config.epochs or 1)
            if self.epoch >= total or self.settled:
                self.ended = "done"
                return None
            stage, first, last = next(part for part in self.plan if part[1] <= self.epoch < part[2])
            fresh = self.epoch == first and self.batch == 0
            if self.optimiser is None or fresh:
                self._enter(stage, fresh=fresh)
            batches = self._batches()
            while self.batch < len(batches):
                answer = ask(Tick(self.epoch, total, self.batch, len(batches), "train"))
                answer = ANSWERS[self.world.broadcast(ANSWERS.index(answer))[0]]
                if answer != "go":
                    self.ended = answer
                    # only the first process saves `sums`, so they must be means over all processes
                    self.sums = self.world.mean(self.sums)
                    return None
                started = time.perf_counter()
                share = (self.epoch - first + (self.batch + 0.5) / len(batches)) / (last - first)
                lr = learning_rate(str(self.config.schedule), float(self.config.lr or 0), share)
                self._step(
                    stage, batches[self.batch], lr, (self.epoch + self.batch / len(batches)) / total
                )
                self.batch += 1
                self.spent += time.perf_counter() - started
            return self._close_epoch(
                stage,
                lr,
                len(batches),
                functools.partial(
                    ask, Tick(self.epoch, total, self.batch, len(batches), "validate")
                ),
            )

    def _enter(self, stage: Stage, *, fresh: bool) -> None:
        if stage.new_head and fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.config.seed, "head", stage.name))
                self.net.head.reset_parameters()  # type: ignore[operator]
            # The best weights so far have the old head; the running average gets the new one too.
            self.best_score = -math.inf
            if self.ema is not None:
                self.ema.load_state_dict(self.net.state_dict())
        wanted = {id(parameter) for parameter in stage.trainable(self.net)}
        for parameter in self.net.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
        self.loss = loss = _Loss(stage.loss, self.net, self.aux)
        self.optimiser = torch.optim.SGD(
            [parameter for parameter in loss.parameters() if parameter.requires_grad],
            lr=0.0,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            fused=True if self.device.type == "cuda" else None,
        )
        if self.world.size > 1:
            self.loss = DistributedDataParallel(loss)

    def _batches(self) -> list[Tensor]:
        rng = torch.Generator().manual_seed(seed_of(self.config.seed, "order", self.epoch))
        order = (
            balanced_order(self.y.cpu(), rng)
            if self.method.balanced
            else torch.randperm(len(self.y), generator=rng)
        )
        size = int(self.config.batch_size or 1)
        parts = list(order.to(self.device).split(size - size % 2 if self.method.balanced else size))
        if len(parts) > 1 and len(parts[-1]) < 2 * self.world.size:
            parts.pop()  # batch norm needs two images in each process
        return parts

    def _batch(self, index: Tensor, progress: float) -> Batch:
        """Returns this process's share of the batch that consists of the training images at
        `index`.
        """
        mine = self.world.part(len(index), 2 if self.method.balanced else 1)
        x, objects = self._augmented(index, 0, mine)
        count = self.method.views
        if self.config.augment == "none":  # without augmentation all views would be identical
            count = min(count, 1)
        views = [x, *(self._augmented(index, view, mine)[0] for view in range(1, count))]
        return Batch(
            x,
            self.y[index[mine]],
            index[mine],
            self.epoch,
            progress,
            self._generator(
                "noise", self.epoch, self.batch, *([self.world.rank] if self.world.size > 1 else [])
            ),
            torch.stack(views) if count else None,
            objects,
        )

    def _step(self, stage: Stage, index: Tensor, lr: float, progress: float) -> None:
        config, optimiser = self.config, self.optimiser
        assert optimiser is not None and self.loss is not None
        batch = self._batch(index, progress)
        # DDP weights all processes equally, but their shares may differ by an image
        share = len(batch.x) * self.world.size / len(index)
        for group in optimiser.param_groups:
            group["lr"] = lr
        self.net.train()
        for name in stage.frozen_eval:
            self.net.get_submodule(name).eval()
        gamma, bf16 = self.method.weight_perturbation(progress), config.precision == "bf16"
        terms = awp.backward(self.loss, self.net, batch, share, gamma, bf16=bf16)
        optimiser.step()
        if self.ema is not None:
            torch._foreach_lerp_(
                [p.detach() for p in self.ema.parameters()],
                [p.detach() for p in self.net.parameters()],
                1 - config.ema,
            )
            for mine, theirs in zip(self.ema.buffers(), self.net.buffers(), strict=True):
                mine.copy_(theirs)
        for name, term in terms.items():
            value = share * term.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            if self.watched and not math.isfinite(float(value)):
                self._diverged()

    def _augmented(self, index: Tensor, view: int, mine: slice) -> tuple[Tensor, Tensor | None]:
        """Returns the images at `index` in [0, 1], augmented as view number `view`, and their
        object masks (None if the method uses none), augmented in the same way; of both only the
        slice `mine`. The whole batch is augmented first, so that the result does not depend on the
        number of processes.
        """
        x = self.images[index]
        if self.masks is not None:
            x = torch.cat([x, self.masks[index].to(x.dtype)], dim=1)
        if self.config.augment != "none":
            rng = self._generator(
                "augment", *([f"view {view}"] if view else []), self.epoch, self.batch
            )
            x = data.augment(self.config.augment, x, rng)
        x = x[mine]
        return (
            (x.float() / 255, None)
            if self.masks is None
            else (x[:, :-1].float() / 255, x[:, -1:].bool())
        )

    def _diverged(self) -> None:
        raise Diverged(
            f"The loss became NaN or infinite in epoch {self.epoch + 1};"
            f" {f'kept epoch {self.best_epoch}' if self.best_epoch else 'nothing was learned yet'}."
            f" Try a lower learning rate than {self.config.lr:g}."
        )

    def _close_epoch(
        self, stage: Stage, lr: float, batches: int, tick: Callable[[], object]
    ) -> EpochRecord:
        started = time.perf_counter()
        # On a GPU this waits for the training steps, so it is part of the measured time.
        means = {name: float(value) / batches for name, value in self.world.mean(self.sums).items()}
        if not all(math.isfinite(value) for value in means.values()):
            self._diverged()
        clean, robust = self.world.broadcast(
            *(self._validated(tick) if self.world.main else (0, 0))
        )
        score = {"robust": robust, "clean": clean, "last": self.epoch}[str(self.config.select)]
        best = score >= self.best_score  # ties go to the later epoch
        self.epoch, self.batch = self.epoch + 1, 0
        if best:
            self.best_score, self.best_epoch = score, self.epoch
            self.best = {
                name: value.detach().cpu().clone()
                for name, value in self.judged.state_dict().items()
            }
        seconds, n = round(self.spent + time.perf_counter() - started, 3), len(self.val)
        record = EpochRecord(
            self.epoch, stage.name, means, clean / n, robust / n, n, seconds, lr, best, self
        )
        self.sums, self.spent = {}, 0.0
        self.records.append(record.to_json())
        return record

    def _validated(self, tick: Callable[[], object]) -> tuple[int, int]:
        """Returns how many validation images the network `judged` classifies correctly, clean and
        under PGD-10.
        """
        x, y = self.val.x.to(self.device), self.val.y.to(self.device)
        count = functools.partial(
            count_right, self.judged, x, y, seed=self.config.seed, tick=tick, bf16=True
        )
        return int(count().sum()), int(count(self._judge_attack()).sum())

    def _judge_attack(self) -> PGD:
        return PGD(eps=self.config.eps, steps=10, norm=norm_of(self.config))

    def _generator(self, *purpose: object) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(seed_of(self.config.seed, *purpose))

    # Saving and restoring the state.

    def state(self) -> tuple[dict[str, Tensor], JSON]:
        """Returns everything a resume needs: tensors by name, on the CPU, and plain JSON values."""
        modules = {prefix: module.state_dict() for prefix, module in self._modules().items()}
        tensors = {
            f"{prefix}/{name}": value
            for prefix, group in (modules | {"best": self.best, "sum": self.sums}).items()
            for name, value in group.items()
        } | {
            f"momentum/{number}": memory["momentum_buffer"]
            for number, memory in enumerate(self._memories())
            if "momentum_buffer" in memory
        }
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {
            "epoch": self.epoch,
            "batch": self.batch,
            "records": self.records,
            "spent": self.spent,
            "best_score": self.best_score if self.best else None,
            "best_epoch": self.best_epoch,
            "sums": list(self.sums),
        }

    def restore(self, tensors: dict[str, Tensor], plain: JSON) -> None:
        """Put this training into the state that `state` returned, so that `epochs` continues from
        there. Raises UserError if the state is of another network or data set, or is damaged.
        """
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for path, value in tensors.items():
            prefix, _, name = path.partition("/")
            groups[prefix][name] = value
        try:
            for prefix, module in self._modules().items():
                module.load_state_dict(groups[prefix])
            self.epoch, self.batch = int(plain["epoch"]), int(plain["batch"])
            self.records, self.spent = list(plain["records"]), float(plain["spent"])
            self.best, self.best_epoch = groups["best"], int(plain["best_epoch"])
            self.best_score = -math.inf if plain["best_score"] is None else plain["best_score"]
            self.sums = {name: groups["sum"][name].to(self.device) for name in plain["sums"]}
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                "The saved state belongs to another network or data set, so this run cannot go on;"
                " start a new one."
            ) from error
        if momentum := groups["momentum"]:
            running = (stage for stage, first, last in self.plan if first <= self.epoch < last)
            self._enter(next(running, self.plan[-1][0]), fresh=False)
            for number, memory in enumerate(self._memories()):
                if str(number) in momentum:
                    memory["momentum_buffer"] = momentum[str(number)].to(self.device)

    def _modules(self) -> dict[str, nn.Module]:
        """Returns the networks of this training (trained, averaged, auxiliary) by prefix in a saved
        state.
        """
        return {
            name: module
            for name, module in (("net", self.net), ("ema", self.ema), ("aux", self.aux))
            if module is not None
        }

    def _memories(self) -> Iterator[dict[str, Tensor]]:
        """Yield the optimiser's state of each parameter, such as its momentum buffer, in order."""
        if self.optimiser is not None:
            for group in self.optimiser.param_groups:
                yield from (self.optimiser.state[parameter] for parameter in group["params"])
