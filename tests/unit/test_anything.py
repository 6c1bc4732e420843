"""Tests the evaluation of any network on any images: it counts as for a run, whatever kind of data
set or loader holds the images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import robustviz
from robustviz import data
from robustviz.attacks import FGSM, PGD
from robustviz.data import Dataset
from robustviz.data.given import Floats, given
from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.training import evaluate as module
from robustviz.training.config import TrainConfig
from robustviz.training.evaluation import Evaluation
from robustviz.types import UserError

if TYPE_CHECKING:
    from conftest import Toy

EPS = 0.025


@pytest.fixture
def no_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda *asked: ())


def alike(one: Evaluation, other: Evaluation) -> bool:
    free = {"seconds": 0.0, "weights": "", "key": "", "split": ""}
    return dataclasses.replace(one, **free) == dataclasses.replace(other, **free)


def bytes_of(toy: Toy) -> Tensor:
    return (toy.x * 255).round().to(torch.uint8)


@pytest.mark.long
def test_a_network_gives_the_numbers_of_its_run_with_all_findings(
    toy: Toy, runs_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder.create(TrainConfig(data="digits", epochs=1, eps=EPS))
    names = ("a", "b", "c", "d")
    split = Dataset("digits", "test", bytes_of(toy), toy.y, names)
    monkeypatch.setattr(Run, "net", lambda self: toy.net)
    monkeypatch.setattr(data, "load", lambda *asked: split)
    kept = module.evaluate(run, n=30)
    mine = robustviz.evaluate(toy.net, (split.x, toy.y), eps=EPS, n=30)
    assert len(mine.doctor) == 14 and alike(mine, kept)
    assert 0 < mine.robust_k < mine.n
    low, high = mine.interval
    assert low < mine.robust_acc < high
    assert mine.line in str(mine) and str(mine) in mine._repr_markdown_()
    # Evaluations of a network in memory are not saved in the run.
    assert len(run.evaluations()) == 1


@pytest.mark.long
@pytest.mark.usefixtures("no_doctor")
def test_whatever_holds_the_images_the_count_is_one(toy: Toy) -> None:
    pixels = bytes_of(toy)
    x = pixels.float() / 255
    pairs = TensorDataset(x, toy.y)
    held: list[Any] = [
        (x, toy.y),
        (x.numpy(), toy.y.numpy()),
        (pixels, toy.y),
        pairs,
        DataLoader(pairs, batch_size=7),
        DataLoader(pairs, batch_size=7, shuffle=True),
        [{"image": image, "label": int(label)} for image, label in zip(x, toy.y, strict=True)],
        Dataset("mine", "test", pixels, toy.y, ("a", "b", "c", "d")),
    ]
    found = [robustviz.evaluate(toy.net, each, eps=EPS) for each in held]
    assert found[0].n == len(x) and found[0].classes == 4
    assert all(alike(each, found[0]) for each in found)
    assert {each.weights for each in found} == {found[0].weights}
    order = data.stratified_order(toy.y)
    right = toy.net(x[order]).argmax(1) == toy.y[order]
    assert found[0].right()[0].tolist() == right.tolist()


@pytest.mark.usefixtures("no_doctor")
def test_images_between_grey_levels_are_not_rounded(toy: Toy) -> None:
    images = given((toy.x, toy.y))
    assert isinstance(images, Floats) and torch.equal(images.x, toy.x)
    mine = robustviz.evaluate(toy.net, (toy.x, toy.y), PGD(steps=3, eps=EPS))
    order = data.stratified_order(toy.y)
    right = module.count_right(toy.net, toy.x[order], toy.y[order], PGD(steps=3, eps=EPS))
    assert mine.robust_k == int(right.sum())


class Shuffling(Sampler[int]):
    """A sampler of a class that the library does not know."""

    def __iter__(self) -> Any:
        return iter(torch.randperm(64))


class ShufflingBatches(Sampler[list[int]]):
    """A batch sampler that gives whole batches in random order."""

    def __iter__(self) -> Any:
        for batch in torch.randperm(8).tolist():
            yield list(range(8 * batch, 8 * batch + 8))


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": RandomSampler(range(64))},
        {"sampler": SubsetRandomSampler(range(64))},
        {"sampler": Shuffling(), "batch_size": 7},
        {"batch_sampler": BatchSampler(RandomSampler(range(64)), 8, drop_last=False)},
        {"batch_sampler": BatchSampler(Shuffling(), 8, drop_last=False)},
        {"batch_sampler": ShufflingBatches()},
        {"sampler": list(range(64)), "batch_size": 8},
    ],
)
def test_a_loader_that_shuffles_is_read_in_order(options: dict[str, Any]) -> None:
    x = torch.arange(64, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    read = given(DataLoader(TensorDataset(x, torch.arange(64)), **options))
    assert torch.equal(read.images, x) and read.y.tolist() == list(range(64))


def test_a_loader_of_batches_that_shuffles_is_read_in_order() -> None:
    """With `batch_size=None` the data set itself gives whole batches."""
    x = torch.arange(64, dtype=torch.uint8).reshape(32, 2, 1, 1, 1).expand(-1, -1, 1, 2, 2)
    pairs = TensorDataset(x, torch.arange(64).reshape(32, 2))
    assert given(DataLoader(pairs, batch_size=None, shuffle=True)).y.tolist() == list(range(64))


def test_a_loader_of_a_part_in_fixed_order_is_read_as_it_is() -> None:
    pairs = TensorDataset(torch.zeros(9, 1, 2, 2), torch.arange(9))
    assert given(DataLoader(pairs, sampler=[5, 2, 7])).y.tolist() == [5, 2, 7]
    part = given(DataLoader(pairs, batch_size=2, sampler=SubsetRandomSampler([5, 2, 7])))
    assert part.y.tolist() == [5, 2, 7]


@pytest.mark.parametrize(
    "sampler",
    [
        WeightedRandomSampler([1.0] * 64, 64),
        RandomSampler(range(64), replacement=True),
        RandomSampler(range(64), num_samples=32),
    ],
)
def test_a_loader_that_draws_its_images_anew_is_refused(sampler: Sampler[int]) -> None:
    pairs = TensorDataset(torch.zeros(64, 1, 2, 2), torch.arange(64))
    with pytest.raises(UserError, match=type(sampler).__name__):
        given(DataLoader(pairs, sampler=sampler, batch_size=8))


def test_pictures_of_a_data_set_are_read_as_they_are() -> None:
    pictures = [Image.new("RGB", (4, 4), (0, 128, 255)), Image.new("RGB", (4, 4), (9, 9, 9))]
    found = given([(picture, at) for at, picture in enumerate([*pictures, *pictures])])
    assert found.images[0, :, 0, 0].tolist() == [0, 128, 255] and found.classes == (
        "0",
        "1",
        "2",
        "3",
    )
    grey = given([(Image.new("L", (4, 4), 7), 0)] * 4)
    assert grey.images.shape == (4, 1, 4, 4) and int(grey.images.max()) == 7


@pytest.mark.usefixtures("no_doctor")
def test_a_ladder_without_a_run(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "consult", lambda *asked: None)
    quick = (FGSM(), PGD(steps=2))
    monkeypatch.setattr("robustviz.training.anything.LADDER", quick)
    said: list[str] = []
    found = robustviz.evaluate(toy.net, (toy.x, toy.y), "ladder", eps=EPS, n=20, say=said.append)
    assert [rung.printed for rung in found.rungs] == ["FGSM", "PGD-2"] and len(said) == 2
    assert str(found).count("\n") >= 3 and found.verdict in str(found)
    assert found.worst is not None and found.worst.k == found.robust_k


@pytest.mark.usefixtures("no_doctor")
def test_few_images_may_lack_classes_and_the_network_is_left_as_it_was(toy: Toy) -> None:
    net = toy.net
    net.train()
    try:
        found = robustviz.evaluate(net, (toy.x[:3], toy.y[:3]), "fgsm", eps="6/255", device="cpu")
        assert net.training
    finally:
        net.eval()
    assert found.classes == 4 and found.eps == pytest.approx(6 / 255)


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda t: robustviz.evaluate(t.net, (t.x * 2 - 1, t.y), eps=EPS), "they look normalised"),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y)), "No ε is known for these images"),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y + 9), eps=EPS), "A label is 12, but this"),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y - 9), eps=EPS), "integers from 0 up"),
        (lambda t: robustviz.evaluate(t.net, t.x, eps=EPS), "are images without labels"),
        (
            lambda t: robustviz.evaluate(t.net.state_dict(), (t.x, t.y), eps=EPS),  # type: ignore[call-overload]
            "only the weights of a network",
        ),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y), "8/255"), "write eps='8/255'"),
        (
            lambda t: robustviz.evaluate(t.net, (t.x, t.y), 8 / 255),  # type: ignore[call-overload]
            "an ε is given as eps=",
        ),
        (lambda t: robustviz.evaluate(t.net, 5, eps=EPS), "not as int"),
        (lambda t: robustviz.evaluate(t.net, "ladder"), "not a data set: write attack='ladder'"),
        (lambda t: robustviz.evaluate(t.net, "apgd", n=5), "write attack='apgd'"),
        (lambda t: robustviz.evaluate(t.net), "needs images as well as a network"),
        (lambda t: robustviz.evaluate("x", (t.x, t.y), eps=EPS), "or a run, and this is a str"),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y), eps=8), "so write 8/255"),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y), "pgdd", eps=EPS), "Did you mean pgd"),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y), PGD(eps=0.2), eps=0.1), "say one"),
        (lambda t: robustviz.evaluate(Same(), (t.x, t.y), eps=EPS), r"return logits \(N,K\)"),
        (lambda t: robustviz.evaluate(t.net, (t.x[:0], t.y[:0]), eps=EPS), "data has no images"),
        (lambda t: robustviz.evaluate(t.net, (t.x, t.y), eps=EPS, n=0), "no images to evaluate"),
        (lambda t: given([{"a": 1}] * 3), "returns a dict with a; it"),
        (lambda t: given([(t.x[0], 1), (t.x[0, :, 1:], 2)] * 2), "images have different sizes"),
        (lambda t: given([(t.x[0], [1, 2])] * 4), "each image needs one integer"),
        (lambda t: given([(object(), 1)] * 4), "tensors, arrays or PIL"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(
    toy: Toy, ask: Callable[[Toy], object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        ask(toy)
