"""Tiny-Classifier: 200 classes of photographs at 64x64, from the official archive's layout or from
class folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from robustviz.data import pictures, places
from robustviz.data.base import Dataset, Recipe, Source, check_split
from robustviz.data.cifar100 import class_folders, distinct, from_folders
from robustviz.data.splits import official
from robustviz.registry import register

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ARCHIVE = "tiny-imagenet-200"


@register("data/tiny_imagenet")
@dataclass(frozen=True)
class TinyImageNet(Source):
    """100,000 + 10,000 photographs of 200 classes, 3x64x64; its labelled val is our test. Source:
    Stanford CS231n.
    """

    label = "Tiny-Classifier"
    default_eps = 4 / 255
    recipe: ClassVar[Recipe] = {
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "augment": "crop_flip",
        "n_train": 10_000,
        "net": "small_resnet",
    }

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split: images (N, 3, 64, 64); classes in the order of their WordNet ids."""
        check_split(split)
        place = _official()
        some = class_folders("tiny_imagenet", ARCHIVE, "train", "val")
        if place is None and some is not None:
            return from_folders(
                "tiny_imagenet",
                "Tiny-Classifier",
                some,
                "train",
                "val",
                split,
                n,
                size=64,
                of=200,
                titles=_titles(some),
            )
        if place is None:
            target = places.root() / "tiny_imagenet"
            places.download(
                "Tiny-Classifier", URL, _fetch, target, f"the unpacked folder {ARCHIVE}"
            )
            place = _official() or target / ARCHIVE
        return _load(place, split, n)


def _official() -> Path | None:
    inner = "val/val_annotations.txt"
    return (
        places.find((inner,), places.folders("tiny_imagenet", ARCHIVE))
        if places.root().is_dir()
        else None
    )


def _fetch(target: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(URL, str(target), md5=MD5, remove_finished=True)


def _titles(place: Path) -> dict[str, str]:
    """The first English name of each WordNet id that `classes.tsv` or `words.txt` lists."""
    for name in ("classes.tsv", "words.txt"):
        if (place / name).is_file():
            rows = (
                line.split("\t", 1)
                for line in (place / name).read_text("utf-8").splitlines()
                if "\t" in line
            )
            return {wordnet: names.split(",")[0].strip() for wordnet, names in rows}
    return {}


def _load(place: Path, split: str, n: int | None) -> Dataset:
    train = pictures.list_classes(place / "train")
    if len(train.classes) < 2:
        raise places.damaged(place / "train", "it has pictures in fewer than two class folders")
    files: Sequence[Path] = train.files
    y = train.y
    if split == "test":
        number = {name: k for k, name in enumerate(train.classes)}
        rows = [
            line.split("\t")
            for line in (place / "val" / "val_annotations.txt").read_text("utf-8").splitlines()
            if line.strip()
        ]
        rows = [row for row in rows if len(row) > 1 and row[1] in number]
        files = [place / "val" / "images" / row[0] for row in rows]
        y = torch.tensor([number[row[1]] for row in rows], dtype=torch.int64)
    where = official(y, split, n)
    chosen = [files[i] for i in where.tolist()]
    images, kept, notes = pictures.read(chosen, 64)
    titles = _titles(place)
    classes = distinct([titles.get(name, name) for name in train.classes], train.classes)
    among = "200 classes" if len(classes) == 200 else f"{len(classes)} of 200 classes"
    kind = "validation" if split == "test" else "training"
    card = (
        f"{len(kept):,} of {len(y):,} Tiny-Classifier images of the {kind} set, 64x64 RGB, {among}."
    )
    names = tuple(pictures.relative(chosen[i], place) for i in kept.tolist())
    return Dataset(
        "tiny_imagenet",
        split,
        images,
        y[where[kept]],
        classes,
        names=names,
        card=f"{card} {notes}".strip(),
    )
