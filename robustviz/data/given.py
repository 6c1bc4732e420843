"""Turns images in memory, in any form that a PyTorch program uses, into a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data as loading

from robustviz.data.base import Dataset
from robustviz.inputs import INTEGERS, SIXTEEN, check_images
from robustviz.types import UserError, harmless

# usual keys of images and labels in the dictionaries that data sets return
IMAGES = ("x", "image", "images", "img", "pixel_values")
LABELS = ("y", "label", "labels", "target", "targets")
AT_ONCE = 250  # batch size in which single images are collected


@dataclass(frozen=True, eq=False, repr=False)
class Floats(Dataset):
    """A data set whose `images` are float32 (N, C, H, W) in [0, 1] instead of uint8.

    It is used if not all of the given pixels are multiples of 1/255, so that none is rounded.
    """

    @property
    def x(self) -> Tensor:
        return self.images


def given(data: Any) -> Dataset:
    """`data` as a `Dataset` on the CPU, with the same images in the same order in every call.

    `data` is a `Dataset` (returned as it is), `(images, labels)`, `(images, labels, class names)`,
    a DataLoader or a PyTorch data set. A data set gives `(image, label)` or a dictionary with usual
    keys (`IMAGES`, `LABELS`), a DataLoader batches of these. A DataLoader whose order
    changes from pass to pass is read in the order of its data set, or with a SubsetRandomSampler in
    that of its indices; one whose order is the same in each pass, in that order. Random
    augmentation by the data set itself is not recognised: turn it off.

    Images are tensors or arrays (N, C, H, W), floats in [0, 1] or uint8; those of a data set may be
    PIL images. Nothing is rounded to 8 bits: images whose pixels are all multiples of 1/255 are
    stored as uint8, others as float32. The class names are those given, or the attribute `classes`
    of the data set; if there are none or too few, 0, 1, …. Raises UserError for anything else, and
    for a DataLoader that draws different images in each pass.
    """
    if isinstance(data, Dataset):
        return data
    if (
        isinstance(data, (tuple, list))
        and len(data) in (2, 3)
        and not isinstance(data[0], (tuple, list, Mapping))
    ):
        x, y, *names = data
        return _dataset([(read(x), read(y))], names[0] if names else None)
    if isinstance(data, (Tensor, np.ndarray)):
        raise UserError("These are images without labels: give both, as (x, y).")
    if isinstance(data, loading.DataLoader):
        return _dataset(map(_pair, _ordered(data)), getattr(data.dataset, "classes", None))
    if isinstance(data, loading.Dataset) or (
        hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping)
    ):
        return _dataset(_stacked(_items(data)), getattr(data, "classes", None))
    raise UserError(
        "Images must be given as (x, y), a DataLoader, a PyTorch data set or the name of a data"
        f" set, not as {type(data).__name__}."
    )


def _ordered(loader: loading.DataLoader[Any]) -> loading.DataLoader[Any]:
    """`loader`, or a DataLoader of the same images in the order of the data set if it shuffles.

    Raises UserError if it draws different images in each pass.
    """
    if isinstance(loader.dataset, loading.IterableDataset):  # has no sampler
        return loader
    batches = loader.batch_sampler
    plain = batches is None or type(batches) is loading.BatchSampler
    sampler = getattr(batches, "sampler", loader.sampler) if plain else batches
    if (indices := _shuffled(sampler, in_batches=not plain)) is None:
        return loader
    size = loader.batch_size or getattr(batches, "batch_size", AT_ONCE)
    return loading.DataLoader(
        loader.dataset,
        batch_size=None if batches is None else size,
        sampler=indices,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
    )


def _shuffled(sampler: Any, in_batches: bool) -> Sequence[Any] | None:
    """The indices that `sampler` shuffles, unshuffled; None if it yields the same order every time.

    A sampler of an unknown class is run twice to find out; its indices are returned sorted. With
    `in_batches` it yields lists of indices. Raises UserError if each pass draws other indices.
    """
    if isinstance(sampler, loading.SequentialSampler):
        return None
    if isinstance(sampler, loading.SubsetRandomSampler):
        return list(map(int, sampler.indices))
    if isinstance(sampler, loading.RandomSampler):
        count = len(sampler.data_source)
        if not sampler.replacement and sampler.num_samples == count:
            return range(count)
    elif not isinstance(sampler, loading.WeightedRandomSampler):
        first, again = (
            [
                index.item() if isinstance(index, Tensor) else index
                for drawn in sampler
                for index in (drawn if in_batches else (drawn,))
            ]
            for _ in range(2)
        )
        if first == again:
            return None
        if sorted(first) == sorted(again):
            return sorted(first)
    raise UserError(
        f"This DataLoader draws different images in each pass ({type(sampler).__name__}), so its"
        " result would change from call to call: give its data set, or another sampler."
    )


def _items(data: Any) -> Iterator[Any]:
    if isinstance(data, loading.IterableDataset):
        yield from data
        return
    for at in range(len(data)):
        yield data[at]


def _stacked(items: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of `AT_ONCE` images and labels, stacked from single ones. Raises UserError if
    the images differ in size, or if a label is not one number.
    """
    held: list[tuple[Tensor, Tensor]] = []
    for item in items:
        held.append(_pair(item))
        first, now = tuple(held[0][0].shape), tuple(held[-1][0].shape)
        if now != first or held[-1][1].numel() != 1:
            raise UserError(
                f"The images have different sizes ({first} and {now}): resize them in the data set."
                if now != first
                else f"A label has shape {tuple(held[-1][1].shape)}: each image needs one integer."
            )
        if len(held) == AT_ONCE:
            yield torch.stack([x for x, _ in held]), torch.stack([y.reshape(()) for _, y in held])
            held = []
    if held:
        yield torch.stack([x for x, _ in held]), torch.stack([y.reshape(()) for _, y in held])


def _pair(item: Any) -> tuple[Tensor, Tensor]:
    """Image and label, or a batch of each, from one item of a data set or a DataLoader.

    The item is a pair, or a dictionary with usual keys. Raises UserError if it is neither.
    """
    if isinstance(item, Mapping):
        keys = [next((key for key in known if key in item), None) for known in (IMAGES, LABELS)]
        if None not in keys:
            return read(item[keys[0]]), read(item[keys[1]])
    elif isinstance(item, (tuple, list)) and len(item) >= 2:
        return read(item[0]), read(item[1])
    said = f"a {type(item).__name__}" + (
        f" with {', '.join(map(harmless, item))}" if isinstance(item, Mapping) else ""
    )
    raise UserError(f"This data set returns {said}; it must return (image, label).")


def read(value: Any) -> Tensor:
    """A tensor (detached, not copied), an array, a number or a list of numbers as a tensor; a PIL
    image as uint8 (C, H, W), with C = 1 for mode L, else 3.

    Raises UserError for anything else.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Image.Image):
        pixels = np.array(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"Images or labels are of type {type(value).__name__}; they must be tensors, arrays or"
            " PIL images."
        ) from error


def _dataset(batches: Iterable[tuple[Tensor, Tensor]], names: Any) -> Dataset:
    parts, labels = list[Tensor](), list[Tensor]()
    for x, y in batches:
        parts.append(_kept(x.cpu()))
        labels.append(y.cpu())
    if not parts or not sum(map(len, parts)):
        raise UserError("The data has no images: give at least one.")
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise UserError(
            f"The images have different sizes ({shapes[0]} and {shapes[1]}): resize them."
        )
    exact = all(part.dtype == torch.uint8 for part in parts)
    images = torch.cat(
        [part if exact or part.dtype != torch.uint8 else part / 255 for part in parts]
    )
    y = torch.cat(labels)
    if y.dtype not in INTEGERS or y.shape != (len(images),) or bool((y < 0).any()):
        hint = "; for one-hot rows use y.argmax(1)" if y.ndim == 2 else ""
        raise UserError(
            f"The labels have type {str(y.dtype).removeprefix('torch.')} and shape"
            f" {tuple(y.shape)}; {len(images)} images need {len(images)} integers from 0 up{hint}."
        )
    count = int(y.max()) + 1
    listed = isinstance(names, (list, tuple)) and len(names) >= count
    classes = tuple(map(harmless, names)) if listed else tuple(map(str, range(count)))
    made = Dataset if exact else Floats
    return made("given", "given", images, y.to(torch.int64), classes)


def _kept(x: Tensor) -> Tensor:
    """Images as uint8 if all pixels are multiples of 1/255, so that `Dataset.x` gives back the same
    values, else as float32. Raises UserError if they are not images in [0, 1].
    """
    if x.dtype == torch.uint8 and x.ndim == 4:
        return x
    x = check_images(x.float() if x.dtype in (*SIXTEEN, torch.float64) else x)
    levels = (x * 255).round().to(torch.uint8)
    return levels if torch.equal(levels.float().div_(255), x) else x
