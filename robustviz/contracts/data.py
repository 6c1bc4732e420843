"""The promises of every data set, each the docstring of the function that checks it."""

from __future__ import annotations

import torch

from robustviz import registry
from robustviz.contracts import hold, promise
from robustviz.data import Dataset, Source
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

SPLITS = ("train", "val", "test")


@promise("data")
def images_and_labels(source: Source) -> None:
    """Each split holds at least one image, all square, uint8, of at least 8×8 pixels and with 1 or
    3 channels, one int64 label per image that is an index into at least two class names, all of
    them different, and a `card` that is not empty; the images' shape and the class names are the
    same in all splits.
    """
    shapes = set()
    for split in SPLITS:
        found = source.load(split)
        hold(isinstance(found, Dataset), f"{split} is a {type(found).__name__}, not a Dataset.")
        x, y, n = found.images, found.y, len(found.classes)
        hold(
            x.dtype == torch.uint8 and x.ndim == 4,
            f"{split}: the images must be uint8 (N, C, H, W).",
        )
        hold(
            x.shape[2] == x.shape[3] >= 8,
            f"{split}: the images have {tuple(x.shape[2:])} pixels; they must be square, from 8"
            " up.",
        )
        hold(x.shape[1] in (1, 3), f"{split}: {x.shape[1]} channels; grey has 1, colour 3.")
        hold(y.dtype == torch.int64 and y.shape == (len(x),), f"{split}: y must be int64 (N,).")
        hold(len(x) and y.min() >= 0 and y.max() < n, f"{split}: a label is outside 0 to {n - 1}.")
        hold(
            len(set(found.classes)) == n >= 2,
            f"{split}: {n} class names; at least two are needed, all different.",
        )
        hold(
            found.card,
            f"{split}: its card is empty; it must say in a sentence what the data set is.",
        )
        shapes.add((tuple(x.shape[1:]), found.classes))
    hold(len(shapes) == 1, "The splits differ in shapes or classes.")


@promise("data")
def the_same_again(source: Source) -> None:
    """Each split is the same every time it is loaded."""
    for split in SPLITS:
        one, two = source.load(split), source.load(split)
        same = torch.equal(one.images, two.images) and torch.equal(one.y, two.y)
        hold(same, f"{split} differs at the second call: draw it from a fixed seed.")


@promise("data")
def apart(source: Source) -> None:
    """No test image is also in the training or validation split."""
    rows = {
        split: {each.numpy().tobytes() for each in source.load(split).images} for split in SPLITS
    }
    for split in ("train", "val"):
        both = len(rows["test"] & rows[split])
        hold(not both, f"{both} test images are also in {split}.")


@promise("data")
def a_balanced_beginning(source: Source) -> None:
    """`n` limits the training split to n images, with at most one image of each class more or less
    than its proportion; the other splits stay whole.
    """
    whole = source.load("train")
    n = len(whole) // 2
    some = source.load("train", n)
    hold(len(some) == n, f"With n={n} it gives {len(some)} training images.")
    count = torch.bincount(some.y, minlength=len(whole.classes))
    share = torch.bincount(whole.y, minlength=len(whole.classes)) * n / len(whole)
    hold(
        (count - share).abs().max() <= 1,
        f"With n={n} the classes have {count.tolist()} images, which is not in proportion.",
    )
    hold(
        all(len(source.load(name, n)) == len(source.load(name)) for name in ("val", "test")),
        "n also limits the val or the test split.",
    )


@promise("data")
def a_split_that_is_none(source: Source) -> None:
    """An unknown split raises a UserError."""
    try:
        source.load("nonsense")
    except UserError:
        return
    hold(False, "It has a split called nonsense: begin with check_split(split).")


@promise("data")
def it_can_be_trained(source: Source) -> None:
    """A training config with this data can be saved as JSON and read again, and names a registered
    network.
    """
    config = TrainConfig(data=source)
    hold(
        TrainConfig.from_json(config.to_json()) == config,
        "Its settings change when saved as JSON and read again.",
    )
    registry.get("net", config.net)
