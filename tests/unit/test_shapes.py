"""Tests the data set of drawn shapes: the same on every machine, with correct masks, and with a
background that reveals the class only as much as `cue` says.
"""

from __future__ import annotations

import hashlib

import numpy as np
import PIL
import pytest
import torch

from robustviz import data
from robustviz.data.shapes import CLASSES, FAMILIES, Shapes
from robustviz.types import UserError

GOLDEN = "b73917b67f7695dd43f01c43e83550bf3e59f76c564b829e0ea9ad230a119a54"


@pytest.fixture(scope="module")
def some() -> data.Dataset:
    return Shapes().load("train", 200)


def test_the_first_64_images_are_the_ones_that_shipped_runs_were_trained_on(
    some: data.Dataset,
) -> None:
    digest = hashlib.sha256(
        some.images[:64].numpy().tobytes() + np.packbits(some.masks[:64].numpy()).tobytes()
    ).hexdigest()
    assert digest == GOLDEN, (
        f"shapes drew other images than before (Pillow {PIL.__version__}, NumPy {np.__version__};"
        " the hash was made with Pillow 13.0.0 and NumPy 2.4.6). If the drawing was changed on"
        f" purpose, the shipped runs must be trained again and GOLDEN set to {digest}; if only a"
        " package changed, pin it or look at the images before setting it."
    )


@pytest.mark.long
def test_splits_have_the_promised_sizes_and_balance() -> None:
    for split, count in (("train", 2000), ("val", 500), ("test", 1000)):
        s = data.load("shapes", split)
        assert len(s) == count and s.y.bincount().tolist() == [count // 10] * 10
        assert s.images.shape == (count, 3, 32, 32) and s.images.dtype == torch.uint8
        assert s.masks.shape == (count, 1, 32, 32) and s.masks.dtype == torch.bool
    assert s.classes == CLASSES and s.x.min() >= 0 and s.x.max() <= 1


def test_no_image_is_in_two_splits(some: data.Dataset) -> None:
    rows = [bytes(image.numpy()) for image in (*some.images, *Shapes().load("val").images)]
    assert len(set(rows)) == len(rows)


def test_a_smaller_set_is_the_beginning_of_a_larger_one(some: data.Dataset) -> None:
    few = Shapes().load("train", 37)
    assert (
        torch.equal(few.images, some.images[:37])
        and torch.equal(few.masks, some.masks[:37])
        and torch.equal(few.y, some.y[:37])
    )
    counts = few.y.bincount(minlength=10)
    assert counts.max() - counts.min() <= 1


def test_another_seed_draws_other_images(some: data.Dataset) -> None:
    assert not torch.equal(Shapes(seed=1).load("train", 10).images, some.images[:10])


def test_the_mask_lies_on_the_object(some: data.Dataset) -> None:
    share = some.masks.float().mean((1, 2, 3))
    assert share.min() > 0.03
    assert share.max() < 0.6
    inside = some.masks
    # The background next to the object.
    edge = torch.nn.functional.max_pool2d(inside.float(), 5, 1, 2).bool() & ~inside
    light = some.x.mean(1, keepdim=True)
    mean = lambda where: (light * where).sum((1, 2, 3)) / where.sum((1, 2, 3))  # noqa: E731
    contrast = (mean(inside) - mean(edge)).abs()
    # Most objects differ from their surroundings by more than 16/255, which is twice 8/255.
    assert (contrast > 16 / 255).float().mean() > 0.9
    # The mask of another image gives much less contrast.
    wrong = (mean(inside.roll(1, 0)) - mean(edge.roll(1, 0))).abs()
    assert contrast.mean() > 2 * wrong.mean()


def test_the_object_is_the_same_wherever_only_the_background_changes() -> None:
    told, plain = Shapes(cue=1.0).load("train", 40), Shapes(cue=0.0).load("train", 40)
    assert torch.equal(told.masks, plain.masks)
    assert not torch.equal(told.images, plain.images)
    core = -torch.nn.functional.max_pool2d(-told.masks.float(), 5, 1, 2) > 0
    same = (told.images == plain.images).all(1, keepdim=True)
    assert same[core].float().mean() > 0.99


@pytest.mark.long
@pytest.mark.parametrize("cue", [0.0, 0.5, 1.0])
def test_the_background_gives_the_class_away_as_often_as_the_dial_says_but_never_in_test(
    cue: float,
) -> None:
    made = Shapes(cue=cue)
    expected = cue + (1 - cue) / len(FAMILIES)
    for split in ("train", "val"):
        y = Shapes(cue=cue, size=16).load(split).y
        own = (made.backgrounds(split) == y).float().mean()
        assert own == pytest.approx(expected, abs=0.06)
    own = (made.backgrounds("test") == Shapes(size=16).load("test").y).float().mean()
    assert own == pytest.approx(0.1, abs=0.04)


def test_colours_do_not_give_the_class_away() -> None:
    s = Shapes(cue=0.0).load("train", 1000)
    where = s.masks.float()
    colour = (s.x * where).sum((2, 3)) / where.sum((2, 3))
    means = torch.stack([colour[s.y == k].mean(0) for k in range(10)])
    # The class means of the colour differ no more than means of 100 random draws of that colour.
    assert means.std(0).max() < 3 * colour.std(0).max() / 10


def test_the_grain_is_faint_and_only_on_the_object(some: data.Dataset) -> None:
    strength = Shapes().grain
    smooth = Shapes(grain=0.0).load("train", 200)
    apart = (some.images.int() - smooth.images.int()).abs()
    assert 0 < apart.max() <= round(strength * 255) + 1
    far = torch.nn.functional.max_pool2d(some.masks.float(), 5, 1, 2) == 0
    assert (apart.amax(1, keepdim=True)[far] == 0).all()


@pytest.mark.parametrize("size", [16, 48])
def test_other_sizes_show_the_same_scene(some: data.Dataset, size: int) -> None:
    other = Shapes(size=size).load("train", 20)
    assert other.images.shape == (20, 3, size, size)
    scaled = (
        torch.nn.functional.interpolate(
            other.masks.float(), size=32, mode="bilinear", antialias=True
        )
        > 0.5
    )
    overlap = (scaled & some.masks[:20]).sum() / (scaled | some.masks[:20]).sum()
    assert overlap > 0.85


@pytest.mark.parametrize(
    "dials", [{"cue": 1.2}, {"cue": -0.1}, {"size": 4}, {"seed": -1}, {"grain": 6.0}]
)
def test_a_dial_out_of_range_is_refused(dials: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(dials))):
        Shapes(**dials)


@pytest.mark.long
def test_the_card_says_what_the_background_and_the_grain_do() -> None:
    assert "about 50%" in Shapes(cue=0.5).load("train", 10).card
    assert "any colours and textures" in Shapes(cue=0.5).load("test").card
    assert "fine pattern" not in Shapes(grain=0.0).load("train", 10).card


@pytest.mark.long
def test_a_swapped_background_is_its_own_classs_or_anothers_and_the_object_stays() -> None:
    plain, own, other = Shapes().load("test"), Shapes().swapped(True), Shapes().swapped(False)
    for each in (own, other):
        assert torch.equal(each.y, plain.y) and torch.equal(each.masks, plain.masks)
    inside = plain.masks.expand(-1, 3, -1, -1)
    blend = (own.images.int() - other.images.int()).abs()
    # A pixel counts as object if at least half of it is; the rest of it may be background.
    assert blend[inside].float().mean() < 5 < 30 < blend[~inside].float().mean()
    assert torch.equal(own.images, Shapes(cue=0.9).swapped(True).images), "the dial is for training"


def test_the_backgrounds_of_swapped_scenes_never_and_always_fit() -> None:
    source = Shapes(size=16)
    for own in (True, False):
        scenes = source._test_scenes(own)
        fits = [scene.family == scene.label for scene in scenes]
        assert all(fits) if own else not any(fits)
        assert all(int(scene.tint * 10) == scene.family for scene in scenes)
    assert len({(scene.family - scene.label) % 10 for scene in scenes}) == 9
