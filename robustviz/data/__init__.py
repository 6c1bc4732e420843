"""The data sets: one module for each source of images. A source gives fixed train, val and test
splits of uint8 images with labels and a short description (the card). Nothing is read, drawn or
downloaded before a split is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from robustviz import memory, registry
from robustviz.data import own as own
from robustviz.data.augmentation import AUGMENTATIONS as AUGMENTATIONS, augment as augment
from robustviz.data.base import (
    Dataset as Dataset,
    Source as Source,
    mean_and_std as mean_and_std,
    unequal as unequal,
)
from robustviz.data.places import root as root
from robustviz.data.splits import (
    SPLITS as SPLITS,
    check_split,
    stratified_order as stratified_order,
)
from robustviz.types import UserError

# isort: off
# one import for each source; this order is the one in which people see them
from robustviz.data.digits import Digits as Digits
from robustviz.data.shapes import Shapes as Shapes
from robustviz.data.mnist import MNIST as MNIST
from robustviz.data.fashion_mnist import FashionMNIST as FashionMNIST
from robustviz.data.cifar10 import CIFAR10 as CIFAR10
from robustviz.data.cifar100 import CIFAR100 as CIFAR100
from robustviz.data.svhn import SVHN as SVHN
from robustviz.data.tiny_imagenet import TinyImageNet as TinyImageNet
from robustviz.data.folder import Folder as Folder
from robustviz.data.manifest import Manifest as Manifest
from robustviz.data.made import Made as Made

# isort: on

FUNCTION = re.compile(r"(.+\.py|[A-Za-z_]\w*(\.\w+)*):[A-Za-z_]\w*")


def source(text: str) -> Source:
    """The source of images that `text` names. Its settings are the defaults or, for a data set that
    the user added, those saved with it.

    `text` is a registered name (`digits`, `shapes`), `folder:PATH`, `FILE.csv` (a table of path,
    label and split), `package.module:make` or `FILE.py:make` (a function that returns images), or
    the name under which the user added a data set (see `own`). Whether a path exists is not
    checked here, and the user's code is not run.

    Raises UserError for an unknown name (the message has the closest name and all names), and for a
    path after the name of a source that takes none.
    """
    name, colon, path = text.partition(":")
    if name not in registry.every("data"):
        if text.lower().endswith(".csv"):
            return Manifest(path=text)
        if FUNCTION.fullmatch(text):
            return Made(make=text)
        return own.resolve(text)
    made: type[Source] = registry.get("data", name)
    field = next(iter(registry.of_kind(made, "folder")), "")
    if colon and not field:
        raise UserError(
            f"{name} takes no path: write {name!r}, or folder:{path} for a folder of your own.",
            code=2,
        )
    return made(**({field: path} if colon else {}))


def load(source: str | Source, split: str = "train", n: int | None = None) -> Dataset:
    """The split `split` of `source`, which is a `Source` or a text as for the function `source`.

    A split that was loaded recently comes from a cache in memory, so its tensors are shared: do not
    write into them. `n` limits the training split to its first `n` images in class-balanced order;
    None, or a number larger than the split, means all (`shapes` draws exactly `n` images). `n` has
    no effect on val and test. Raises UserError for an unknown source or split, for n < 1, and if
    the images cannot be read, drawn or downloaded.
    """
    images = _source(source) if isinstance(source, str) else source
    check_split(split)
    if n is not None and n < 1:
        raise UserError(f"n={n} images is too few to train on: ask for at least 1.", code=2)
    return _recent(images, split, n if split == "train" else None, root())


_source = source


@memory.remembered(memory.WORKING)
def _recent(source: Source, split: str, n: int | None, root: Path) -> Dataset:
    return source.load(split, n)
