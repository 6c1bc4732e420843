"""Tests images in NumPy files: which arrays are images and labels, and how their values are
scaled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustviz.data import arrays, uploads, zips
from robustviz.types import UserError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 9, 8, 3), dtype=np.uint8)
MEAN, STD = (np.array(each) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.npz"


def normalised(key: str) -> np.ndarray:
    reading = arrays.READINGS[key]
    return ((BYTES / 255 * reading.white - reading.mean) / reading.std).astype(np.float32)


@pytest.mark.parametrize("key", [key for key in arrays.READINGS if key != "mnist"])
def test_what_was_done_to_pixels_is_found_and_undone(key):
    x = normalised(key)
    verdict = arrays.diagnose(x)
    assert (verdict.reading, verdict.sure) == (key, True)
    assert (arrays.to_bytes(x, verdict.reading) == BYTES).all()


def test_grey_images_normalised_as_for_mnist_are_found():
    x = ((BYTES[..., :1] / 255 - 0.1307) / 0.3081).astype(np.float64)
    assert arrays.diagnose(x).reading == "mnist"


def test_bytes_and_whole_numbers_say_it_themselves():
    assert arrays.diagnose(BYTES).reading == "grey"
    assert arrays.diagnose(BYTES.astype(np.int64)).reading == "grey"
    assert arrays.diagnose((BYTES > 99).astype(np.int64)).reading == "unit"
    assert arrays.diagnose(BYTES > 99).reading == "unit"


def test_numbers_between_grey_levels_are_said_to_be_rounded():
    # k/16, of which most are 0, and k/10 grey levels; whole levels of any float type are not.
    for x in (BYTES % 4 // 3 * (BYTES % 17) / 16, BYTES / 10 + 2, normalised("cifar") * 0.5):
        assert arrays.ROUNDED in arrays.diagnose(x).sentence
    for x in (BYTES / 255, BYTES * 1.0, normalised("cifar"), normalised("signed")):
        for kind in (np.float16, np.float32, np.float64):
            assert arrays.ROUNDED not in arrays.diagnose(x.astype(kind)).sentence
    for x in (BYTES / 10 + 2, BYTES % 4 // 3 * (BYTES % 17) / 16):
        assert arrays.ROUNDED in arrays.diagnose(x.astype(np.float16)).sentence


def test_what_fits_two_readings_is_not_sure():
    # These values are not multiples of 1/255.
    smooth = RNG.random((20, 9, 8, 3)).astype(np.float32) * 0.5 + 0.25
    verdict = arrays.diagnose((smooth - MEAN) / STD)
    assert not verdict.sure and "Look at the pictures" in verdict.sentence


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (np.full((4, 9, 9, 3), np.nan), "NaN"),
        (np.zeros((0, 9, 9, 3), np.uint8), "no images"),
        (np.full((4, 9, 9, 3), np.inf), "NaN or infinite"),
        (RNG.normal(0, 100, (4, 9, 9, 3)), "neither 0 to 1"),
        (RNG.integers(0, 5000, (4, 9, 9, 3)), "scale them"),
        (RNG.integers(-5, 5, (4, 9, 9, 3)), "scale them"),
    ],
)
def test_what_fits_nothing_is_one_sentence(x, why):
    with pytest.raises(UserError, match=why):
        arrays.diagnose(x)


def test_swapped_colours_are_suspected_and_can_be_swapped_back():
    warm = (BYTES * np.array([1.0, 0.8, 0.5])).astype(np.uint8)
    cold = warm[..., ::-1]
    assert not arrays.blue(warm / np.float32(255)) and arrays.blue(cold / np.float32(255))
    assert (arrays.to_bytes(cold, "grey", arrays.BGR) == warm).all()


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (BYTES, (20, 9, 8, 3)),
        (BYTES.transpose(0, 3, 1, 2), (20, 9, 8, 3)),
        (BYTES[..., 0], (20, 9, 8, 1)),
        (BYTES[:, None, :, :, 0], (20, 9, 8, 1)),
        (np.concatenate([BYTES, BYTES[..., :1]], 3), (20, 9, 8, 3)),
    ],
)
def test_axes_are_sorted_out(file, x, shape):
    np.savez(file, x=x, y=np.arange(20) % 2)
    (part,) = arrays.load(file).parts
    assert part.x.shape == shape and part.y is not None and part.y.shape == (20,)


def test_splits_follow_the_names_of_arrays(file):
    np.savez_compressed(
        file,
        train_images=BYTES,
        train_labels=np.arange(20)[:, None] % 2,
        test_images=BYTES[:4],
        test_labels=np.arange(4)[:, None] % 2,
        classes=np.array(["cat", "dog"]),
    )
    found = arrays.load(file)
    assert [(part.split, len(part.x)) for part in found.parts] == [("train", 20), ("test", 4)]
    assert found.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"y": np.arange(3)}, "There are no images"),
        ({"x": BYTES, "y": np.arange(3)}, "3 labels for 20 images"),
        ({"x": BYTES, "images": BYTES}, "not clear which"),
        ({"x": BYTES, "y": np.arange(20) / 3}, "one integer"),
        ({"x": BYTES, "y": np.arange(20) - 5}, "labels range from -5"),
        ({"x": BYTES, "y": np.eye(20)}, "one integer"),
        ({"x": BYTES.transpose(0, 1, 3, 2)}, "neither the second nor the last"),
        ({"x": BYTES, "y": np.arange(20), "names": np.array(["a", "b"])}, "A label is 19"),
        ({"x": np.array([{}], object)}, "Python objects"),
    ],
)
def test_what_is_not_clear_is_one_sentence(file, named, why):
    np.savez(file, **named)
    with pytest.raises(UserError, match=why):
        arrays.load(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\0", b"PK\x03\x04"])
def test_what_is_no_numpy_file_is_one_sentence(file, content):
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"NumPy file|zip is incomplete"):
        arrays.load(file)


def test_a_header_that_claims_a_lot_takes_no_memory(file):
    np.save(file.with_suffix(".npy"), BYTES)
    content = file.with_suffix(".npy").read_bytes()
    old = b"(20, 9, 8, 3), }   "
    assert old in content
    file.write_bytes(content.replace(old, b"(2000000, 9, 8, 3)}"))
    with pytest.raises(UserError, match=r"damaged|more than"):
        arrays.load(file)


def test_what_is_too_large_is_refused_zipped_or_not(file, monkeypatch):
    monkeypatch.setattr(zips, "MOST_UNPACKED", BYTES.nbytes)
    np.savez_compressed(file, x=BYTES)
    with pytest.raises(UserError, match="GB"):
        arrays.load(file)
    with open(file, "wb") as plain:
        np.save(plain, BYTES)
    with pytest.raises(UserError, match="GB"):
        arrays.load(file)


def test_arrays_become_pictures_of_their_classes(file, runs_home):
    np.savez(file, x=normalised("imagenet"), y=np.arange(20) % 2, names=np.array(["cat", "dog"]))
    draft = uploads.new_draft()
    report = uploads.take_arrays(draft, arrays.load(file), "imagenet")
    assert report.taken == 20 and uploads.counts(draft) == {"cat": {"": 10}, "dog": {"": 10}}
    kept = np.stack(
        [uploads.pictures.read_picture(p, 8)[0] for p in uploads.examples(draft, "cat", 9)]
    )
    assert kept.shape == (9, 3, 8, 8)


def test_images_without_labels_need_a_class(file, runs_home):
    np.savez(file, x=BYTES)
    draft, found = uploads.new_draft(), arrays.load(file)
    with pytest.raises(UserError, match="no labels"):
        uploads.take_arrays(draft, found, "grey")
    uploads.take_arrays(draft, found, "grey", name="cat")
    assert uploads.counts(draft) == {"cat": {"": 20}}
