"""What every data set looks like from outside. Images are kept as uint8, a quarter of the memory of
float32, and turned into [0, 1] where they are used; a source is a frozen dataclass whose fields are
its dials, so that a config file, a form and a cache key can name it.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from robustviz import registry
from robustviz.data.splits import stratified_order
from robustviz.training.evaluation import UNEQUAL

Recipe = Mapping[str, object]
PIECE = 2**24  # grey values that are counted at once


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, in memory, on the CPU.

    images: uint8 (N, C, H, W); y: int64 (N,), positions in `classes`; masks: bool (N, 1, H, W),
    true on the object, or None; names: the files' relative names, or None; card: one to three
    sentences for a person.
    """

    key: str
    split: str
    images: torch.Tensor
    y: torch.Tensor
    classes: tuple[str, ...]
    masks: torch.Tensor | None = None
    names: tuple[str, ...] | None = None
    card: str = ""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x(self) -> torch.Tensor:
        """(N, C, H, W) float32 in [0, 1], made anew on each call."""
        return self.images.float().div_(255)

    def take(self, which: int | torch.Tensor) -> Dataset:
        """The first `which` of the seed-0 stratified permutation, or the images at these positions.

        Beginnings are nested: `take(50)` is the beginning of `take(100)`. More than there are: all.
        """
        if isinstance(which, int):
            which = stratified_order(self.y)[: max(which, 0)]
        which = which.to(self.y.device)
        return replace(
            self,
            images=self.images[which],
            y=self.y[which],
            masks=None if self.masks is None else self.masks[which],
            names=self.names
            and tuple(self.names[i] for i in torch.arange(len(self))[which].tolist()),
        )


def unequal(split: Dataset) -> str:
    """A sentence where the largest class of a split has five times as many images as the smallest,
    or more; else an empty text.
    """
    counts = torch.bincount(split.y, minlength=len(split.classes)).tolist()
    least, most = min(counts, default=0), max(counts, default=0)
    if most < UNEQUAL * max(least, 1):
        return ""
    rare, common = (split.classes[counts.index(count)] for count in (least, most))
    return (
        f"The classes are of very unequal size ({common} {most:,}, {rare} {least:,}). A network can"
        " neglect small ones and still look accurate. The balanced accuracy counts all classes"
        " alike."
    )


def mean_and_std(images: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of `images` uint8 (N, C, H, W), in [0, 1], by
    counting grey levels: exact, and in little memory whatever N is.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in torch.split(images, max(1, PIECE // max(1, images[0].numel()))):
        for count, channel in zip(counts, part.unbind(1), strict=True):
            count += torch.bincount(channel.flatten(), minlength=256).cpu()
    levels = torch.arange(256, dtype=torch.float64) / 255
    n = float(counts[0].sum())
    mean = counts @ levels / n
    variance = (counts * (levels - mean[:, None]).square()).sum(1) / max(1.0, n - 1)
    return mean.tolist(), variance.sqrt().tolist()


@dataclass(frozen=True)
class Source(registry.Spec):
    """A place that images come from. Subclasses are registered frozen dataclasses; their fields are
    the dials.

    `key` is the registered name, `label` the one a person reads, `default_eps` the radius (in [0,
    1]) at which attacks on this data tell something, `recipe` the training settings that suit a
    laptop without a GPU. `at_hand`: whether its images are there without a file or a download;
    `has_masks`: whether they come with the true object.
    """

    kind = "data"
    label: ClassVar[str]
    default_eps: ClassVar[float] = 8 / 255
    # depends on the data only, so that methods compare like for like
    recipe: ClassVar[Recipe]
    at_hand: ClassVar[bool] = False
    has_masks: ClassVar[bool] = False

    @property
    def pixels(self) -> int:
        """Height and width of an image where they are a dial, else 0: those of the sets that have
        no dial are small.
        """
        return int(getattr(self, "size", 0))

    @property
    def called(self) -> str:
        """The name that the user gave it (`own`), else its key."""
        return str(getattr(self, "name", "") or self.key)

    def placed(self) -> Self:
        """The same source wherever it is asked from: paths in it are absolute ones."""
        places = {
            name: os.path.abspath(os.path.expanduser(getattr(self, name)))
            for name in registry.of_kind(type(self), "folder")
            if getattr(self, name)
        }
        return replace(self, **places) if places else self

    @abstractmethod
    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, read or drawn or downloaded. `n` limits the training split to a balanced
        beginning; None: all.

        Raises UserError with one sentence: what is wrong, why, what to do.
        """
