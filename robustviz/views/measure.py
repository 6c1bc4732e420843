"""What every probe is: a registered dataclass of settings that turns a run into a result, kept on
disk where it takes long.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch

from robustviz import data, registry
from robustviz.data import Dataset, Source
from robustviz.nets import ImageNet
from robustviz.nets.attackable import keep
from robustviz.registry import Spec
from robustviz.runs.folder import Run
from robustviz.training.config import default_threads
from robustviz.training.evaluate import norm_of
from robustviz.types import UserError
from robustviz.views.result import Result

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Probe(Spec, Generic[R]):
    """A question put to a run. The fields are its settings; `probe(run)` is the answer, from the
    run's folder where the same was asked of the same weights before. A subclass names its `result`
    class and has `measure(run)`.
    """

    result: ClassVar[type[Result]]

    def __call__(self, run: Run) -> R:
        """The answer. Raises UserError where this run cannot give it."""
        if not self.lasting:
            return self.measure(run)
        name = self.name(run)
        found: R | None = self.kept(run, name)
        if found is None:
            found = self.measure(run)
            run.keep(name, found)
        return found

    def measure(self, run: Run) -> R:
        """The answer, computed."""
        raise NotImplementedError

    @property
    def lasting(self) -> bool:
        """Whether the answer takes long enough to be kept on disk."""
        return True

    def name(self, run: Run) -> str:
        """The name under which the run keeps the answer: all that the answer depends on besides the
        run's weights.
        """
        return registry.key(self)

    def kept(self, run: Run, name: str = "") -> R | None:
        """The answer if the run's folder has it, else None; nothing is computed."""
        return run.cached(self.result, name or self.name(run))  # type: ignore[return-value]


@functools.lru_cache(maxsize=4)
def _net(path: str, stamp: int) -> ImageNet:
    torch.set_num_threads(
        default_threads()
    )  # one core stays free for the page; one image gains nothing from more
    net = Run(Path(path)).net().eval().requires_grad_(False)
    keep(net)
    return net


def net_of(run: Run) -> ImageNet:
    """The run's best network, kept in memory while its file does not change. It is shared by all
    sessions, so it stays in eval mode and without gradients of parameters for life; whoever wants
    to hook or change a network takes `copy.deepcopy` of it.
    """
    path = run.path / "net.safetensors"
    return _net(str(run.path), path.stat().st_mtime_ns if path.exists() else 0)


@functools.lru_cache(maxsize=4)
def _test_split(source: Source) -> Dataset:
    split = data.load(source, "test")
    return split.take(len(split))


def images_of(run: Run) -> Dataset:
    """The run's test split, in the seed-0 stratified order in which `--n` and every image number
    count.
    """
    return _test_split(run.config.data)


def linf_net(run: Run) -> ImageNet:
    """The run's network, for probes that measure changes in grey levels. Raises UserError for a run
    trained in l2.
    """
    if norm_of(run.config) != "linf":
        raise UserError(
            f"{run.id} was trained for the l2 norm; this view attacks in linf. Measure it with:"
            f" python -m robustviz evaluate {run.id}"
        )
    return net_of(run)


def meta_of(run: Run, split: Dataset, **more: object) -> dict[str, object]:
    """What every result says about where it comes from, and `more`."""
    return {
        "run": run.id,
        "method": run.method_key,
        "data": run.data_key,
        "classes": list(split.classes),
        "train_eps": run.eps,
        **more,
    }


def image_of(run: Run, index: int) -> tuple[Dataset, torch.Tensor, torch.Tensor]:
    """The run's test split, and of one image of it the pixels (1,C,H,W) and the class (1,)."""
    split = images_of(run)
    if not 0 <= index < len(split):
        raise UserError(
            f"There is no image {index}: the test split has {len(split)}, counted from 0.", code=2
        )
    one = split.take(torch.tensor([index]))
    return split, one.x, one.y
