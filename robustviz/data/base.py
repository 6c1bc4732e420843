"""The interface that all data sets share. Images are stored as uint8, a quarter of the memory of
float32, and converted to [0, 1] on use. A source is a frozen dataclass whose fields are its
settings, so that a config file, a form and a cache key can describe it.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch.utils import data as loading

from robustviz import registry
from robustviz.data.splits import stratified_order
from robustviz.training.evaluation import UNEQUAL

Recipe = Mapping[str, object]
PIECE = 2**24  # number of pixel values counted in one step


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(loading.Dataset[tuple[torch.Tensor, int]]):
    """One split of a data set, in memory on the CPU. `images` and `y` are stored; `x` is all images
    as float32 in [0, 1], converted anew at each access. A DataLoader accepts a `Dataset`, because
    `dataset[i]` is an image, float32 in [0, 1], and its label.

    key: the name of the source; split: train, val or test (both are "given" for images in memory,
    see `data.given`). images: uint8 (N, C, H, W), or float32 in [0, 1] in the subclass
    `data.given.Floats`; y: int64 (N,), indices into `classes`; masks: bool (N, 1, H, W), true on
    the object, or None if there are none; names: the relative paths of the image files, or None if
    the images are not from files; card: a short description for people.
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

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        if not image.is_floating_point():
            image = image.float().div_(255)
        return image, int(self.y[index])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return (
            f"{type(self).__name__}({self.key}, {self.split}: {len(self):,} images {shape},"
            f" {len(self.classes)} classes)"
        )

    @property
    def x(self) -> torch.Tensor:
        """The images as float32 (N, C, H, W) in [0, 1], computed anew on each call."""
        return self.images.float().div_(255)

    def take(self, which: int | torch.Tensor) -> Dataset:
        """Part of this data set: the first `which` images in class-balanced random order, or the
        images that a tensor `which` selects.

        The order is a fixed stratified permutation (seed 0), so the selections are nested:
        `take(50)` is the beginning of `take(100)`, and a number above the size takes all images. A
        tensor holds the indices of the images (M,), whose order is kept, or is a boolean mask (N,).
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
    """A warning if the classes of a split are of very unequal size, else an empty text.

    The warning is given if the largest class has at least five times as many images as the
    smallest; a class without images counts as if it had one.
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
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), in units of [0, 1].

    Both are computed from a histogram of the grey levels, so they are exact and need little memory
    however large N is. The standard deviation is that of a sample (divided by the count − 1).
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
    """The base class of all sources of images.

    Subclasses are registered frozen dataclasses; their fields are the settings of the source. `key`
    is the registered name, `label` the name shown to people, `default_eps` the attack radius ε (for
    pixels in [0, 1]) at which methods differ clearly on this data, `recipe` the training settings
    that suit a laptop without a GPU. `at_hand`: whether the images are available without a file or
    a download; `has_masks`: whether they come with masks of the true object.
    """

    kind = "data"
    label: ClassVar[str]
    default_eps: ClassVar[float] = 8 / 255
    # set for each data set and not for each method, so that methods are compared fairly
    recipe: ClassVar[Recipe]
    at_hand: ClassVar[bool] = False
    has_masks: ClassVar[bool] = False

    @property
    def pixels(self) -> int:
        """The side of the square images if it is a setting of the source (`size`), else 0.

        With 0 the side of the images is fixed (at most 64 pixels for the data sets that come with
        robustviz) or chosen by the user's function.
        """
        return int(getattr(self, "size", 0))

    @property
    def called(self) -> str:
        """The name that the user gave to this source (see `own`), else its key."""
        return str(getattr(self, "name", "") or self.key)

    def placed(self) -> Self:
        """This source with absolute paths, so that it does not depend on the current working
        directory; the source itself if it has no path.
        """
        places = {
            name: os.path.abspath(os.path.expanduser(getattr(self, name)))
            for name in registry.of_kind(type(self), "folder")
            if getattr(self, name)
        }
        return replace(self, **places) if places else self

    @abstractmethod
    def load(self, split: str, n: int | None = None) -> Dataset:
        """Reads, draws or downloads the split `split`, and returns it.

        `n` limits the training split to its first `n` images in class-balanced order; None means
        all. Raises UserError for an unknown split, and if the images cannot be read, drawn or
        downloaded.
        """
