"""Turns a network and images in memory, for example in a notebook, into a run, so that probes work
on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from robustviz.data import Dataset, Source
from robustviz.data.base import Recipe
from robustviz.data.given import given
from robustviz.inputs import all_logits, check_images
from robustviz.methods import Imported
from robustviz.nets import Classifier
from robustviz.nets.attackable import copied
from robustviz.nets.wrapped import wrap
from robustviz.registry import option
from robustviz.runs.entries import UNKNOWN, Info, Status
from robustviz.runs.folder import Run
from robustviz.runs.weights import hash_of
from robustviz.training.config import TrainConfig
from robustviz.training.evaluation import Evaluation
from robustviz.types import UserError, check_eps, parse_number
from robustviz.views.result import Result


@dataclass(frozen=True)
class InMemory(Source):
    """A data set whose test split is the given images; there are no other splits."""

    images: Any = option(None, "The data set.")

    key = "given"
    label = "Images of yours"
    recipe: ClassVar[Recipe] = {}

    def load(self, split: str, n: int | None = None) -> Dataset:
        """Returns the images as the test split, all of them whatever `n` is. Raises UserError for
        any other split.
        """
        if split != "test":
            raise UserError(
                f"This needs {split} images too, but only one set of images was given: import"
                " the network as a run (robustviz.import_run), on data that has them."
            )
        return self.images  # type: ignore[no-any-return]


class Loose(Run):
    """A run without a folder: nothing is read from or written to disk, and no results are stored.
    `as_run` makes it.
    """

    def __init__(self, net: Classifier, images: Dataset, eps: float) -> None:
        self._hash = hash_of(net)
        super().__init__(Path(f"in-memory-{self._hash[:8]}"))
        self.images, self._net, self._eps = images, net, eps

    @cached_property
    def info(self) -> Info:
        x = self.images.images
        return {
            "data": {"key": "given"},
            "method": {"key": "imported"},
            "net": "imported",
            "eps": self._eps,
            "seed": 0,
            "device": "cpu",
            "images": {
                "classes": len(self.images.classes),
                "channels": x.shape[1],
                "size": x.shape[-1],
                "names": self.images.classes,
            },
        }

    @cached_property
    def config(self) -> TrainConfig:
        source = InMemory(self.images)
        return TrainConfig(data=source, method=Imported(), net="imported", eps=self._eps)

    @property
    def weights(self) -> str:
        return self._hash

    def status(self) -> Status:
        return {**UNKNOWN, "state": "imported"}

    def net(self, epoch: int | None = None, which: str = "best") -> Classifier:
        if epoch is not None:
            raise UserError("A network in memory has no epochs that were kept.")
        return self._net

    def evaluations(self) -> list[Evaluation]:
        return []

    def add_evaluation(self, evaluation: Evaluation) -> Evaluation:
        return evaluation

    def cached(self, kind: type[Result], name: str) -> None:
        return None

    def keep(self, name: str, result: Result) -> None:
        """Does nothing, because results are not stored."""


def as_run(net: nn.Module, data: Any, *, eps: float | str = 8 / 255) -> Run:
    """Returns a network and images as a run in memory, for probes and figures in a notebook:
    `figures.attention(probes.attention(as_run(net, (x, y))))`.

    `net`: any module that gives logits for images in [0, 1]; the probes use a copy of it, made now,
    on the CPU. To choose the layer whose feature maps are used, pass
    `robustviz.wrap(module, maps="layer3")`. `data`: (x, y), a DataLoader, a PyTorch data set or a
    `Dataset`, not the name of a data set; a probe's image number is the position in it. `eps`: the
    run's ε in pixel units, also "8/255". Probes that need training images or epochs need a real
    run, which `robustviz.import_run` makes. Raises UserError for an unsuitable network, images or
    ε.
    """
    images = given(data)
    shape = tuple(images.images.shape[1:])
    ours = net if isinstance(net, Classifier) else wrap(net, shape=shape)
    twin = copied(ours)
    if twin is None:
        raise UserError(
            "This network cannot be copied, so it cannot be looked at without changing it: save its"
            " weights and import them (robustviz.import_run)."
        )
    twin = twin.cpu()
    few = check_images(images.take(torch.arange(min(2, len(images)))).x)
    with torch.no_grad():
        count = all_logits(twin, few).shape[1]
    if int(images.y.max()) >= count:
        raise UserError(
            f"A label is {int(images.y.max())}, and this network has {count} classes: 0 to"
            f" {count - 1} are wanted."
        )
    names = (*images.classes, *map(str, range(len(images.classes), count)))[:count]
    made = type(images)(images.key, "test", images.images, images.y, names, images.masks)
    return Loose(twin, made, check_eps(parse_number(eps)))
