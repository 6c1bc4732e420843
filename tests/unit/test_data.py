"""Tests data sets: splits, subsets, augmentation, failed downloads, and the file formats as
published.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from robustviz import data
from robustviz.data import base, batches, cifar10, idx, places, splits
from robustviz.data.given import given
from robustviz.types import UserError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of real images: $ROBUSTVIZ_DATA, otherwise shared/data beside the
    repository. The test is skipped if there is none.
    """
    named = os.environ.get("ROBUSTVIZ_DATA")
    place = Path(named) if named else REPO.parent / "shared" / "data"
    if not (place / "cifar100-subset").is_dir():
        pytest.skip(f"no real images in {place}: set ROBUSTVIZ_DATA to the shared data folder")
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(place))
    return place


@pytest.fixture
def empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(tmp_path))
    return tmp_path


# ---- mean and standard deviation


def whole_at_once(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = images.to(torch.float64) / 255
    return pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))


@pytest.mark.parametrize("key", ["digits", "shapes"])
def test_mean_and_std_are_those_of_the_whole_split_to_the_bit_that_a_network_keeps(
    key: str,
) -> None:
    images = data.load(key, "train", 2000).images
    for found, wanted in zip(data.mean_and_std(images), whole_at_once(images), strict=True):
        assert torch.equal(torch.tensor(found), wanted.float())


def test_mean_and_std_are_counted_in_pieces_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if (
                isinstance(out, torch.Tensor)
                and out.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
            ):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    images = torch.randint(
        0, 256, (301, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images[:, 1] //= 2
    wanted = data.mean_and_std(images)
    for found, exact in zip(wanted, whole_at_once(images), strict=True):
        assert found == pytest.approx(exact.tolist(), rel=1e-12)
    monkeypatch.setattr(base, "PIECE", 10 * 3 * 20 * 20)
    with Watch():
        assert data.mean_and_std(images) == wanted
    assert 0 < largest < images.numel() / 10, "something as large as the whole split was made"


def test_images_of_one_grey_have_no_spread() -> None:
    mean, std = data.mean_and_std(torch.full((2, 1, 3, 3), 51, dtype=torch.uint8))
    assert mean == [0.2] and std == [0]


# ---- splits and beginnings


def test_digits_have_the_promised_split_sizes_and_every_class_in_its_share() -> None:
    sets = {split: data.load("digits", split) for split in data.SPLITS}
    assert {split: len(s) for split, s in sets.items()} == {"train": 1257, "val": 180, "test": 360}
    whole = sum(s.y.bincount(minlength=10) for s in sets.values())
    for s in sets.values():
        assert (s.y.bincount(minlength=10) - whole * len(s) / 1797).abs().max() < 1.5
        assert s.images.dtype == torch.uint8 and s.images.shape[1:] == (1, 8, 8)
        assert s.x.dtype == torch.float32 and s.x.min() == 0 and s.x.max() == 1


def test_digit_splits_hold_each_image_once() -> None:
    from sklearn.datasets import load_digits

    ours = torch.cat([data.load("digits", split).images for split in data.SPLITS]).flatten(1)
    theirs = torch.from_numpy(load_digits().data * (255 / 16)).round().to(torch.uint8)
    rows = lambda t: sorted(map(bytes, t.numpy()))  # noqa: E731
    assert rows(ours) == rows(theirs)


def test_a_stratified_order_is_a_permutation_whose_every_beginning_is_balanced() -> None:
    y = torch.tensor([0] * 7 + [1] * 30 + [2] * 12)[
        torch.randperm(49, generator=torch.Generator().manual_seed(3))
    ]
    order = data.stratified_order(y)
    assert sorted(order.tolist()) == list(range(49))
    for n in range(1, 22):  # Until all images of the smallest class are used.
        counts = y[order[:n]].bincount(minlength=3)
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(order, data.stratified_order(y, seed=1))
    assert len(data.stratified_order(torch.zeros(0, dtype=torch.int64))) == 0


def test_take_is_nested_and_keeps_everything_together() -> None:
    whole = data.load("shapes", "train", 120)
    big, small = whole.take(100), whole.take(50)
    assert torch.equal(big.images[:50], small.images) and torch.equal(big.masks[:50], small.masks)
    assert small.y.bincount().tolist() == [5] * 10
    picked = whole.take(torch.tensor([3, 1]))
    assert torch.equal(picked.images, whole.images[[3, 1]]) and torch.equal(
        picked.y, whole.y[[3, 1]]
    )
    assert len(whole.take(10_000)) == 120


def test_a_split_is_a_data_set_of_pytorch_and_its_text_is_one_line() -> None:
    split = data.load("digits", "test")
    assert repr(split) == "Dataset(digits, test: 360 images 1x8x8, 10 classes)"
    x, y = next(iter(DataLoader(split, batch_size=5)))
    assert torch.equal(x, split.x[:5]) and torch.equal(y, split.y[:5])
    floats = given((torch.rand(4, 1, 3, 3), torch.arange(4)))
    assert torch.equal(floats[2][0], floats.images[2]) and repr(floats).startswith("Floats(given")


def test_n_limits_training_only_and_to_a_nested_balanced_beginning() -> None:
    hundred, fifty = data.load("digits", "train", 100), data.load("digits", "train", 50)
    assert torch.equal(hundred.images[:50], fifty.images)
    assert fifty.y.bincount().tolist() == [5] * 10
    assert len(data.load("digits", "train", 5000)) == 1257
    assert len(data.load("digits", "test", 5)) == 360


def test_a_held_out_tenth_has_each_class_in_proportion() -> None:
    y = torch.arange(1000) % 7 % 4
    train, val = splits.train_and_val(y, "train"), splits.train_and_val(y, "val")
    assert len(val) == 100 and sorted(torch.cat([train, val]).tolist()) == list(range(1000))
    assert (y[val].bincount() - y.bincount() / 10).abs().max() < 1


def test_the_same_question_is_answered_from_memory() -> None:
    assert data.load("digits", "val") is data.load(data.source("digits"), "val", 7)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: data.load("digits", "valid"), "train, val, test"),
        (lambda: data.load("digts"), "Did you mean digits"),
        (lambda: data.source("mnist:/tmp"), "takes no path"),
        (lambda: data.load("digits", "train", 0), "at least 1"),
        (lambda: data.source("folder:").load("train"), "folder:PATH"),
        (lambda: data.augment("crops", torch.zeros(1, 1, 8, 8), torch.Generator()), "crop"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(call, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


def test_every_source_says_what_a_form_and_a_trainer_need() -> None:
    from robustviz import registry

    eps = {"digits": 0.15, "mnist": 0.3, "fashion_mnist": 0.1, "tiny_imagenet": 4 / 255}
    assert set(registry.keys("data")) >= {
        "digits",
        "shapes",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "svhn",
        "tiny_imagenet",
        "folder",
    }
    for key in registry.keys("data"):
        made = data.source(key)
        assert made.label and made.default_eps == eps.get(key, 8 / 255)
        assert set(made.recipe) == {"epochs", "batch_size", "lr", "augment", "n_train", "net"}
        assert made.recipe["augment"] in data.AUGMENTATIONS
        assert registry.decode("data", registry.encode(made)) == made


# ---- augmentation


@pytest.fixture
def numbered() -> torch.Tensor:
    """Returns float images of shape (12, 2, 9, 7) in which every value is different."""
    return torch.arange(12 * 2 * 9 * 7, dtype=torch.float32).view(12, 2, 9, 7) / (12 * 2 * 9 * 7)


@pytest.mark.parametrize("name", data.AUGMENTATIONS)
def test_augmentation_follows_its_generator_and_leaves_its_input_alone(
    name: str, numbered: torch.Tensor
) -> None:
    before = numbered.clone()
    one = data.augment(name, numbered, torch.Generator().manual_seed(5))
    two = data.augment(name, numbered, torch.Generator().manual_seed(5))
    assert torch.equal(one, two) and one.shape == numbered.shape and torch.equal(numbered, before)
    other = data.augment(name, numbered, torch.Generator().manual_seed(6))
    assert torch.equal(one, other) == (name == "none")
    whole = data.augment(name, (numbered * 255).to(torch.uint8), torch.Generator().manual_seed(5))
    assert whole.dtype == torch.uint8


def test_a_flip_mirrors_some_samples_wholly_and_leaves_the_others(numbered: torch.Tensor) -> None:
    out = data.augment("flip", numbered, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, numbered, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(out, numbered, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True)) and any(mirrored) and any(same)


def test_a_crop_moves_each_sample_by_its_own_shift_and_repeats_the_edge() -> None:
    x = torch.arange(64 * 3 * 16 * 8).view(64, 3, 16, 8)
    out = data.augment("crop", x, torch.Generator().manual_seed(0))
    shifts = set()
    for a, b in zip(out, x, strict=True):
        matches = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-1, 2)
            if torch.equal(
                a,
                b[:, (torch.arange(16) + dy).clamp(0, 15)][
                    :, :, (torch.arange(8) + dx).clamp(0, 7)
                ],
            )
        ]
        assert len(matches) == 1
        shifts.update(matches)
    assert len(shifts) == 15  # Each of the 5 × 3 shifts occurred.


# ---- idx


def _idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + b"".join(int(d).to_bytes(4, "big") for d in array.shape)
        + array.tobytes()
    )


def _write_mnist(place: Path, packed: bool) -> np.ndarray:
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for (images, labels), n in zip(idx.FILES.values(), (100, 30), strict=True):
        pixels = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        for name, array in ((images, pixels), (labels, np.arange(n, dtype=np.uint8) % 10)):
            raw = _idx(array)
            (place / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    return pixels


@pytest.mark.parametrize("inside", ["mnist", "mnist/MNIST/raw", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_packed_or_not_wherever_they_lie(
    empty_root: Path, inside: str, packed: bool
) -> None:
    test_pixels = _write_mnist(empty_root / inside, packed)
    test = data.load("mnist", "test")
    assert np.array_equal(test.images[:, 0].numpy(), test_pixels)
    assert len(data.load("mnist", "train")) == 90 and len(data.load("mnist", "val")) == 10
    assert "checksum" in test.card and "differs" in test.card


def test_a_damaged_idx_file_is_named(empty_root: Path) -> None:
    place = empty_root / "fashion-mnist"
    _write_mnist(place, packed=True)
    images = place / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:500])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.gz cannot be used: .*delete it"):
        data.load("fashion_mnist", "test")
    images.write_bytes(gzip.compress(b"\0\0\x08\x03 too short"))
    with pytest.raises(UserError, match="not a complete idx file"):
        data.load("fashion_mnist", "test")


# ---- CIFAR's batch files


def _write_cifar10(place: Path) -> None:
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in cifar10.MD5:
        pixels = rng.integers(0, 256, (20, 3072)).astype(np.uint8)
        (place / name).write_bytes(
            pickle.dumps({b"data": pixels, b"labels": [i % 10 for i in range(20)]}, protocol=2)
        )


@pytest.mark.parametrize(
    "inside", ["cifar10", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"]
)
def test_cifar10_batches_are_read_wherever_they_lie(empty_root: Path, inside: str) -> None:
    _write_cifar10(empty_root / inside)
    train = data.load("cifar10", "train")
    assert (
        train.images.shape == (90, 3, 32, 32)
        and train.y.bincount().tolist() == [9] * 10
        and "differs" in train.card
    )
    raw = pickle.loads((empty_root / inside / "test_batch").read_bytes())
    assert np.array_equal(data.load("cifar10", "test").images.flatten(1).numpy(), raw[b"data"])


class _Malicious:
    def __reduce__(self):
        return os.system, ("echo the pickle ran",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_not_run(
    tmp_path: Path, protocol: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": _Malicious()}, protocol=protocol))
    with pytest.raises(UserError, match="wants to run"):
        batches.read(path)
    assert "the pickle ran" not in "".join(capfd.readouterr())


def test_a_pickle_cannot_reach_a_codec_that_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(UserError, match="rot13"):
        batches.read(path)


def test_a_compact_file_decodes_to_what_the_stored_format_says() -> None:
    # The reference decodes one pixel at a time, as the format is described.
    rng = np.random.default_rng(1)
    residual = rng.integers(0, 256, (3, 2, 32, 32)).astype(np.uint8)
    slow = np.zeros((2, 3, 32, 32), int)
    for i in range(2):
        for c in range(3):
            for r in range(32):
                for k in range(32):
                    left, up = (
                        (slow[i, c, r, k - 1] if k else 0),
                        (slow[i, c, r - 1, k] if r else 0),
                    )
                    diag = slow[i, c, r - 1, k - 1] if r and k else 0
                    guess = sorted((left, up, left + up - diag))[1]
                    slow[i, c, r, k] = (int(residual[c, i, r, k]) + guess) % 256
    slow[:, 0] += slow[:, 1]
    slow[:, 2] += slow[:, 1]
    assert np.array_equal(cifar10.decode(residual), slow % 256)


# ---- what is missing


def _fails(error: BaseException):
    def fetch(target: Path) -> None:
        print("noise")
        raise error

    return fetch


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written to"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written to"),
        (ConnectionResetError("reset"), "no connection"),
        (RuntimeError("Error downloading train-images-idx3-ubyte.gz"), "no connection"),
        (RuntimeError("File not found or corrupted."), "corrupted"),
    ],
)
def test_a_failed_download_says_what_why_and_what_to_do(
    empty_root: Path, error: Exception, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        places.download(
            "MNIST",
            "https://example.org/mnist",
            _fails(error),
            empty_root / "mnist",
            "the four idx files",
        )
    text = str(caught.value)
    assert (
        says in text
        and "https://example.org/mnist" in text
        and str(empty_root / "mnist") in text
        and "ROBUSTVIZ_DATA" in text
    )
    # Standard output is reserved for --json.
    assert text.count("\n") == 0 and capsys.readouterr().out == ""
    assert not (empty_root / "mnist").exists()


@pytest.mark.parametrize(
    "key", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "tiny_imagenet"]
)
def test_without_files_and_network_each_set_says_where_to_get_it(
    empty_root: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.error
    import urllib.request

    def offline(*args: object, **more: object) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(
        UserError, match=r"could not be downloaded from http.*; put .* into .*ROBUSTVIZ_DATA\.$"
    ):
        data.load(key, "test")


def test_svhn_is_read_from_its_matlab_file_with_ten_meaning_zero(empty_root: Path) -> None:
    io_ = pytest.importorskip("scipy.io")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 40)).astype(np.uint8)
    digits = (np.arange(40) % 10 + 1).astype(np.uint8)[:, None]
    (empty_root / "svhn").mkdir()
    io_.savemat(empty_root / "svhn" / "test_32x32.mat", {"X": pixels, "y": digits})
    test = data.load("svhn", "test")
    assert np.array_equal(test.images[7].numpy(), pixels[..., 7].transpose(2, 0, 1))
    assert test.y[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    (empty_root / "svhn" / "train_32x32.mat").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"train_32x32.mat cannot be used"):
        data.load("svhn", "train")


def test_the_data_root_is_the_environments_else_the_repositorys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(tmp_path))
    assert data.root() == tmp_path
    monkeypatch.delenv("ROBUSTVIZ_DATA")
    assert data.root() == REPO / "data"


# ---- real images


@pytest.mark.long
@pytest.mark.parametrize("key", ["mnist", "fashion_mnist"])
def test_real_idx_sets_are_complete_and_original(real: Path, key: str) -> None:
    test, val = data.load(key, "test"), data.load(key, "val")
    assert len(test) == 10_000 and len(val) == 6_000 and "checksum" not in test.card + val.card
    few = data.load(key, "train", 300)
    assert few.y.bincount().tolist() == [30] * 10


@pytest.mark.long
def test_real_cifar10_decodes_to_the_stored_checksum(real: Path) -> None:
    sums = dict(line.split() for line in (real / "cifar10" / "pixels.md5").read_text().splitlines())
    test = data.load("cifar10", "test")
    assert (
        hashlib.md5(
            test.images.numpy().tobytes() + test.y.numpy().astype(np.uint8).tobytes()
        ).hexdigest()
        == sums["test.xz"]
    )
    assert "23 of these images are JPEG" in test.card


@pytest.mark.long
def test_real_cifar100_subset_says_that_it_is_one(real: Path) -> None:
    test = data.load("cifar100", "test")
    assert (
        len(test.classes) == 20
        and "20 of 100 classes" in test.card
        and test.y.bincount().tolist() == [50] * 20
    )
    train, val = data.load("cifar100", "train", 200), data.load("cifar100", "val")
    assert not set(train.names) & set(val.names) and len(val) == 400


def test_real_tiny_imagenet_subset_has_readable_names_and_its_val_as_test(real: Path) -> None:
    test = data.load("tiny_imagenet", "test")
    assert (
        test.images.shape == (500, 3, 64, 64)
        and test.classes[0] == "goldfish"
        and "10 of 200 classes" in test.card
    )
    assert all(name.startswith("val/") for name in test.names)


def test_the_official_layout_of_tiny_imagenet_is_read(empty_root: Path) -> None:
    from PIL import Image

    place = empty_root / "tiny_imagenet" / "tiny-imagenet-200"
    rows = []
    for k, wordnet in enumerate(("n01443537", "n02002724")):
        (place / "train" / wordnet / "images").mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (64, 64), (i, 90 * k, 0)).save(
                place / "train" / wordnet / "images" / f"{wordnet}_{i}.JPEG"
            )
        rows.append(f"val_{k}.JPEG\t{wordnet}\t0\t0\t62\t62")
    (place / "val" / "images").mkdir(parents=True)
    for k in range(2):
        Image.new("L", (64, 64), 90 * k).save(place / "val" / "images" / f"val_{k}.JPEG")
    (place / "val" / "val_annotations.txt").write_text("\n".join(rows))
    (place / "words.txt").write_text(
        "n01443537\tgoldfish, Carassius\nn02002724\tblack stork\nn00000001\tother\n"
    )
    train, test = data.load("tiny_imagenet", "train"), data.load("tiny_imagenet", "test")
    assert (
        train.classes == ("goldfish", "black stork")
        and len(train) == 18
        and "2 of 200 classes" in train.card
    )
    assert test.y.tolist() == [0, 1] and test.images[1].float().mean() == 90


@pytest.mark.long
def test_importing_the_room_reads_no_optional_package() -> None:
    import subprocess
    import sys

    code = (
        "import sys, robustviz.data; print([m for m in ('sklearn', 'scipy', 'torchvision',"
        " 'streamlit', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
