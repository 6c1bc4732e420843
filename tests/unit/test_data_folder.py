"""Tests a person's own pictures: which are read, which are skipped, and the message for those that
cannot be used.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustviz import data
from robustviz.data import pictures, splits
from robustviz.data.folder import Folder
from robustviz.types import UserError


def _fill(folder: Path, n: int, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)).save(
            folder / f"{i:03d}.png"
        )


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Creates a folder with three classes of 30, 30 and 3 pictures."""
    for seed, (name, n) in enumerate((("dog", 30), ("cat", 30), ("axolotl", 3))):
        _fill(tmp_path / "pets" / name, n, seed)
    return tmp_path / "pets"


def _load(place: Path, size: int = 16) -> dict[str, data.Dataset]:
    return {split: Folder(path=str(place), size=size).load(split) for split in data.SPLITS}


def test_a_flat_folder_is_split_by_content_with_each_class_in_each_split(flat: Path) -> None:
    sets = _load(flat)
    assert sets["train"].classes == ("axolotl", "cat", "dog")
    assert sum(map(len, sets.values())) == 63
    names = [name for s in sets.values() for name in s.names]
    assert len(set(names)) == 63
    for s in sets.values():
        assert s.y.bincount(minlength=3).min() >= 1
        assert s.images.shape[1:] == (3, 16, 16) and "resized" in s.card and "cropped" in s.card
        assert all(
            name.split("/")[0] == s.classes[k]
            for name, k in zip(s.names, s.y.tolist(), strict=True)
        )
    assert len(sets["train"]) > 0.55 * 63


def test_renaming_moving_and_adding_pictures_moves_none_to_another_split(
    flat: Path, tmp_path: Path
) -> None:
    before = {
        name: split
        for split, s in _load(flat).items()
        for name in s.names
        if not name.startswith("axolotl")
    }
    copy = tmp_path / "elsewhere"
    for name in before:
        target = copy / Path(name).parent / ("renamed-" + Path(name).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(flat / name, target)
    _fill(copy / "newt", 20, 9)
    after = {
        name.replace("renamed-", ""): split for split, s in _load(copy).items() for name in s.names
    }
    assert before == {name: after[name] for name in before}


def test_equal_files_are_in_one_split_and_a_class_too_small_is_named() -> None:
    # All hashes are tiny numbers, so by hash alone all images would be in the training split.
    hashes = [f"{k:064x}" for k in (1, 2, 3, 4, 5, 5, 6, 7)]
    which, small = splits.by_content(hashes, [0, 0, 0, 0, 1, 1, 1, 2])
    assert sorted(set(which[:4])) == [0, 1, 2]
    assert which[4] == which[5] and {which[4], which[6]} == {0, 2}
    assert which[7] == 0 and small == [1, 2]


def test_a_picture_in_two_classes_takes_no_split_from_either() -> None:
    hashes = [f"{k:064x}" for k in (1, 2, 3, 1)]
    which, small = splits.by_content(hashes, [0, 0, 0, 1])
    assert which == [0, 2, 1, 0] and small == [1]
    # Two pictures that two classes share are all that they have.
    which, small = splits.by_content([*hashes[:2], *hashes[:2]], [0, 0, 1, 1])
    assert which == [2, 0, 2, 0] and small == [0, 1]


def test_pictures_of_every_mode_become_upright_rgb_squares(tmp_path: Path) -> None:
    red = Image.new("RGB", (60, 40), (200, 30, 20))
    red.save(tmp_path / "rgb.jpg", quality=95)
    Image.new("L", (20, 50), 120).save(tmp_path / "grey.png")
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("RGBA", (33, 33), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("P", (16, 16)).save(tmp_path / "palette.gif")
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(tmp_path / "deep.png")
    read = {path.name: pictures.read_picture(path, 16) for path in pictures.pictures(tmp_path)}
    assert len(read) == 6 and all(
        pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8 for pixels, _ in read.values()
    )
    colour = {name: pixels.reshape(3, -1).mean(1) for name, (pixels, _) in read.items()}
    assert np.allclose(colour["rgb.jpg"], (200, 30, 20), atol=4)
    assert np.allclose(colour["grey.png"], 120)
    assert colour["cmyk.jpg"][0] > 200 and colour["cmyk.jpg"][1] < 80
    assert np.allclose(colour["clear.png"], 255)  # Transparent pixels become white.
    assert np.allclose(colour["deep.png"], 156)  # 16-bit values are scaled, not clipped.
    assert not read["palette.gif"][1] and read["rgb.jpg"][1]


RAMP = np.tile(np.linspace(0, 1, 16), (16, 1))


def _tiff(values: np.ndarray, *, sign: int, bits: int = 0, black: int = 1) -> bytes:
    """Returns a TIFF with one channel, as a camera writes it. `sign`: 1 unsigned, 2 signed, 3
    floating point; `black`: 0 if 0 is white.
    """
    end = ">" if values.dtype.byteorder == ">" else "<"
    height, width = values.shape
    content = values.tobytes()
    depth = bits or 8 * values.itemsize
    entries = {
        256: width,
        257: height,
        258: depth,
        259: 1,
        262: black,
        273: 8 + 2 + 10 * 12 + 4,
        277: 1,
        278: height,
        279: len(content),
        339: sign,
    }
    head = {"<": b"II*\0", ">": b"MM\0*"}[end] + struct.pack(f"{end}IH", 8, len(entries))
    return (
        head
        + b"".join(struct.pack(f"{end}HHII", tag, 4, 1, value) for tag, value in entries.items())
        + bytes(4)
        + content
    )


def _png(values: np.ndarray, colour: int, exif: bytes = b"") -> bytes:
    """Returns a PNG with 16 bits per channel. `colour` is the PNG colour type: 0 grey, 2 RGB, 4
    grey with alpha.
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + (chunk(b"eXIf", exif) if exif else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _pgm(values: np.ndarray, most: int) -> bytes:
    return b"P5\n16 16\n%d\n" % most + values.astype(">u2").tobytes()


TYPE, OWN = {pictures.DEEP}, {pictures.DEEP, pictures.OWN_RANGE}
TWELVE = np.frombuffer(
    np.packbits(
        (np.rint(RAMP * 4095).astype(int)[..., None] >> np.arange(11, -1, -1)) & 1
    ).tobytes(),
    "u1",
).reshape(16, 24)
DEEP = {
    "16 bits little-endian.tif": (_tiff((RAMP * 65535).astype("<u2"), sign=1), TYPE),
    "16 bits big-endian.tif": (_tiff((RAMP * 65535).astype(">u2"), sign=1), TYPE),
    "16 bits, 0 is white.tif": (_tiff(((1 - RAMP) * 65535).astype("<u2"), sign=1, black=0), TYPE),
    "16 bits grey.png": (_png(RAMP * 65535, 0), TYPE),
    "16 bits grey with alpha.png": (
        _png(np.stack([RAMP * 65535, np.full_like(RAMP, 65535)], 2), 4),
        set(),
    ),
    "16 bits RGB.png": (_png(np.repeat(RAMP[..., None] * 65535, 3, 2), 2), set()),
    "16 bits.pgm": (_pgm(RAMP * 65535, 65535), TYPE),
    "10 bits.pgm": (_pgm(RAMP * 1023, 1023), TYPE),
    "10 bits RGB.ppm": (
        b"P6\n16 16\n1023\n" + np.repeat(RAMP[..., None] * 1023, 3, 2).astype(">u2").tobytes(),
        set(),
    ),
    "plain.pgm": (
        b"P2 16 16 4000 " + b" ".join(b"%d" % value for value in (RAMP * 4000).astype(int).ravel()),
        TYPE,
    ),
    "32 bits signed.tif": (_tiff((RAMP * 4000 - 1000).astype("<i4"), sign=2), OWN),
    "32 bits unsigned.tif": (_tiff((RAMP * (2**32 - 1)).astype("<u4"), sign=1), OWN),
    "16 bits signed.tif": (_tiff((RAMP * 4000 - 1000).astype("<i2"), sign=2), OWN),
    "16 bits signed big-endian.tif": (_tiff((RAMP * 4000 - 1000).astype(">i2"), sign=2), OWN),
    "8 bits signed.tif": (_tiff((RAMP * 255 - 128).astype("i1"), sign=2), OWN),
    "floats to 1.tif": (_tiff(RAMP.astype("<f4"), sign=3), TYPE),
    "floats to 1, big-endian.tif": (_tiff(RAMP.astype(">f4"), sign=3), TYPE),
    "floats to 255.tif": (_tiff((RAMP * 255).astype("<f4"), sign=3), OWN),
    "floats below 0.tif": (_tiff((RAMP * 2 - 1).astype("<f4"), sign=3), OWN),
    "huge floats.tif": (_tiff((RAMP * 2 - 1).astype("<f4") * np.float32(3e38), sign=3), OWN),
    "floats, 0 is white.tif": (_tiff((1 - RAMP).astype("<f4"), sign=3, black=0), TYPE),
}


def _colour_tiff(values: np.ndarray, packed: bool = False) -> bytes:
    """Returns a TIFF of an (H, W, 3) array with 16 bits per channel: as `_tiff`, with two more
    tags.
    """
    end, (height, width, bands) = "<" if values.dtype.byteorder != ">" else ">", values.shape
    content = zlib.compress(values.tobytes()) if packed else values.tobytes()
    at = 8 + 2 + 10 * 12 + 4
    entries = (
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, at),
        (259, 4, 1, 8 if packed else 1),
        (262, 4, 1, 2),
        (273, 4, 1, at + 6),
        (277, 4, 1, bands),
        (278, 4, 1, height),
        (279, 4, 1, len(content)),
        (284, 4, 1, 1),
    )
    head = {"<": b"II*\0", ">": b"MM\0*"}[end] + struct.pack(f"{end}IH", 8, len(entries))
    body = b"".join(struct.pack(f"{end}HHII", *entry) for entry in entries)
    return head + body + bytes(4) + struct.pack(f"{end}3H", 16, 16, 16) + content


def _dark(most: int) -> np.ndarray:
    return np.rint(RAMP * most)


DARK = {
    **{f"{bits} of 16 bits.png": _png(_dark(2**bits - 1), 0) for bits in (8, 10, 12, 13)},
    "12 of 16 bits.tif": _tiff(_dark(4095).astype("<u2"), sign=1),
    "12 of 16 bits big-endian.tif": _tiff(_dark(4095).astype(">u2"), sign=1),
    "12 of 16 bits, 0 is white.tif": _tiff(_dark(4095)[:, ::-1].astype("<u2"), sign=1, black=0),
    "12 of 16 bits.pgm": _pgm(_dark(4095), 65535),
    "12 of 16 bits, plain.pgm": (
        b"P2 16 16 65535 " + b" ".join(b"%d" % value for value in _dark(4095).astype(int).ravel())
    ),
    "12 of 16 bits RGB.png": _png(np.repeat(_dark(4095)[..., None], 3, 2), 2),
    "10 of 16 bits RGB.png": _png(np.repeat(_dark(1023)[..., None], 3, 2), 2),
    "12 of 16 bits grey with alpha.png": _png(
        np.stack([_dark(4095), np.full_like(RAMP, 65535)], 2), 4
    ),
    "12 of 16 bits grey with alpha of 12.png": _png(
        np.stack([_dark(4095), np.full_like(RAMP, 4095)], 2), 4
    ),
    "12 of 16 bits RGBA.png": _png(np.stack([*[_dark(4095)] * 3, np.full_like(RAMP, 65535)], 2), 6),
    "12 of 16 bits RGBA of 12.png": _png(
        np.stack([*[_dark(4095)] * 3, np.full_like(RAMP, 4095)], 2), 6
    ),
    "12 of 16 bits RGB.tif": _colour_tiff(np.repeat(_dark(4095)[..., None], 3, 2).astype("<u2")),
    "12 of 16 bits RGB, big-endian.tif": _colour_tiff(
        np.repeat(_dark(4095)[..., None], 3, 2).astype(">u2")
    ),
    "12 of 16 bits RGB, packed.tif": _colour_tiff(
        np.repeat(_dark(4095)[..., None], 3, 2).astype("<u2"), packed=True
    ),
    "12 of 16 bits RGB, packed big-endian.tif": _colour_tiff(
        np.repeat(_dark(4095)[..., None], 3, 2).astype(">u2"), packed=True
    ),
    "floats to a millionth.tif": _tiff((RAMP * 1e-6).astype("<f4"), sign=3),
}


@pytest.mark.parametrize("name", DARK)
def test_files_that_use_few_of_their_bits_are_scaled_by_their_own_largest_value(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(DARK[name])
    pixels, found = pictures.read_picture(tmp_path / name, 16)
    assert np.abs(pixels / 255 - RAMP).max() < 1.01 / 255 and found == OWN
    assert (
        "1 picture of more than 8 bits was scaled to 8 bits, 1 of them by the file's own range of"
        " values." in pictures.read([tmp_path / name], 16)[2]
    )


def test_colours_of_few_bits_keep_their_hue_place_and_transparency(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (16, 16, 3))
    values[0, 0, 0] = 4095
    (tmp_path / "a.png").write_bytes(_png(values, 2))
    (tmp_path / "a.ppm").write_bytes(b"P6\n16 16\n65535\n" + values.astype(">u2").tobytes())
    wanted = (values / 4095).transpose(2, 0, 1)
    turned = Image.Exif()
    turned[0x0112] = 3  # Rotated by 180 degrees.
    (tmp_path / "turned.png").write_bytes(
        _png(values, 2, turned.tobytes().removeprefix(b"Exif\0\0"))
    )
    assert (
        np.abs(
            pictures.read_picture(tmp_path / "turned.png", 16)[0][:, ::-1, ::-1] / 255 - wanted
        ).max()
        < 0.51 / 255
    )
    assert (
        np.abs(pictures.read_picture(tmp_path / "a.png", 16)[0] / 255 - wanted).max() < 0.51 / 255
    )
    assert np.abs(pictures.read_picture(tmp_path / "a.ppm", 16)[0] / 255 - wanted).max() < 2.1 / 255
    for opaque in (4095, 65535):
        alpha = np.full((16, 16, 1), opaque)
        alpha[:, 8:] = 0
        (tmp_path / "b.png").write_bytes(_png(np.concatenate([values, alpha], 2), 6))
        pixels = pictures.read_picture(tmp_path / "b.png", 16)[0]
        assert (pixels[:, :, 8:] == 255).all() and np.abs(pixels / 255 - wanted)[
            :, :, :8
        ].max() < 0.51 / 255


@pytest.mark.parametrize(
    ("content", "name", "found"),
    [
        (_png(_dark(8192), 0), "an eighth.png", 32),
        (_png(_dark(0), 0), "black.png", 0),
        (_pgm(_dark(100), 1023), "dark by its own head.pgm", 25),
        (_png(np.repeat(_dark(8192)[..., None], 3, 2), 2), "an eighth RGB.png", 32),
        (_png(np.zeros((16, 16, 3)), 2), "black RGB.png", 0),
        (_tiff((RAMP / 100).astype("<f4"), sign=3), "floats to a hundredth.tif", 3),
        (_tiff((RAMP * 0).astype("<f4"), sign=3), "no floats.tif", 0),
        (b"P1 16 16 " + b"0 1 " * 128, "bits.pbm", 255),
        (b"P3 16 16 1023 " + b"0 0 0 100 100 100 " * 128, "dark by its own head.ppm", 25),
        (
            _colour_tiff(np.repeat(_dark(65535)[..., None], 3, 2).astype("<u2"), packed=True),
            "full.tif",
            255,
        ),
    ],
)
def test_files_that_use_enough_of_their_range_keep_it(
    tmp_path: Path, content: bytes, name: str, found: int
) -> None:
    (tmp_path / name).write_bytes(content)
    pixels, _ = pictures.read_picture(tmp_path / name, 16)
    assert pixels.max() == found and pixels.min() == 0


@pytest.mark.parametrize("name", DEEP)
def test_grey_values_of_any_depth_keep_black_grey_and_white(tmp_path: Path, name: str) -> None:
    content, done = DEEP[name]
    (tmp_path / name).write_bytes(content)
    pixels, found = pictures.read_picture(tmp_path / name, 16)
    assert np.abs(pixels / 255 - RAMP).max() < 1.01 / 255 and found == done


def test_twelve_packed_bits_are_twelve_bits(tmp_path: Path) -> None:
    content = bytearray(_tiff(TWELVE, sign=1, bits=12))
    content[8 + 2 + 8 : 8 + 2 + 12] = struct.pack("<I", 16)  # Two values are packed in three bytes.
    (tmp_path / "packed.tif").write_bytes(content)
    pixels, found = pictures.read_picture(tmp_path / "packed.tif", 16)
    assert np.abs(pixels / 255 - RAMP).max() < 1.01 / 255 and found == TYPE


@pytest.mark.parametrize(
    ("values", "sign", "grey"),
    [
        (0.2, 3, 51),
        (0.0, 3, 0),
        (1.0, 3, 255),
        (7.5, 3, 0),
        (-7.5, 3, 0),
        (70_000, 2, 0),
        (-3, 2, 0),
    ],
)
def test_a_picture_of_one_grey_is_that_grey_where_its_type_says_so_and_else_black(
    tmp_path: Path, values: float, sign: int, grey: int
) -> None:
    (tmp_path / "one.tif").write_bytes(
        _tiff(np.full((16, 16), values, "<f4" if sign == 3 else "<i4"), sign=sign)
    )
    pixels, _ = pictures.read_picture(tmp_path / "one.tif", 16)
    assert (pixels == grey).all()


def test_the_card_counts_deep_pictures_and_leaves_out_what_is_no_number(flat: Path) -> None:
    for name in ("16 bits.pgm", "16 bits signed.tif", "floats to 1.tif"):
        (flat / "cat" / name).write_bytes(DEEP[name][0])
    hole = RAMP.astype("<f4")
    hole[2, 3:5] = np.nan, np.inf
    (flat / "dog" / "hole.tif").write_bytes(_tiff(hole, sign=3))
    files = sorted((flat / "cat").iterdir()) + sorted((flat / "dog").iterdir())
    images, kept, told = pictures.read(files, 16)
    assert len(images) == len(kept) == 63
    assert (
        "3 pictures of more than 8 bits were scaled to 8 bits, 1 of them by the file's own range of"
        " values." in told
    )
    assert told.endswith("1 unreadable file was left out, the first: hole.tif.")
    assert (
        "1 picture of more than 8 bits was scaled to 8 bits."
        in pictures.read([flat / "cat" / "16 bits.pgm"], 16)[2]
    )
    with pytest.raises(
        UserError, match=r"hole\.tif \(2 of its 256 grey values are NaN or infinite\)"
    ):
        pictures.read([flat / "dog" / "hole.tif"], 16)
    assert sum("of more than 8 bits" in one.card for one in _load(flat).values()) >= 1


def test_the_cameras_orientation_is_applied(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:4] = 255  # A white bar at the top.
    exif = Image.Exif()
    # The picture must be rotated by 90 degrees clockwise, so the bar belongs on the right.
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    pixels, _ = pictures.read_picture(tmp_path / "turned.png", 16)
    assert pixels[:, :, 12:].min() == 255 and pixels[:, :, :12].max() == 0


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert pictures.read_picture(tmp_path / "wide.png", 10)[0].min() == 255


def test_what_is_no_picture_is_passed_over(flat: Path) -> None:
    (flat / "cat" / "notes.txt").write_text("no picture")
    (flat / "cat" / ".hidden.png").write_bytes(b"no picture")
    (flat / "cat" / "Thumbs.db").write_bytes(b"no picture")
    (flat / ".DS_Store").write_bytes(b"no picture")
    _fill(flat / "__MACOSX", 2, 5)
    (flat / "nothing").mkdir()
    sets = _load(flat)
    assert sets["train"].classes == ("axolotl", "cat", "dog") and sum(map(len, sets.values())) == 63
    assert "Folders without pictures were left out: nothing." in sets["train"].card


def test_few_broken_pictures_are_counted_and_many_are_an_error(flat: Path) -> None:
    good = (flat / "dog" / "000.png").read_bytes()
    (flat / "cat" / "broken.png").write_bytes(good[: len(good) // 2])
    sets = _load(flat)
    assert sum(map(len, sets.values())) == 63
    assert (
        sum(
            "1 unreadable file was left out, the first: broken.png" in s.card for s in sets.values()
        )
        == 1
    )
    for i in range(30):
        (flat / "cat" / f"broken{i}.png").write_bytes(b"\x89PNG and nothing else, number %d" % i)
    with pytest.raises(
        UserError, match=r"of \d+ pictures cannot be read, the first is .*broken.*\.png"
    ):
        Folder(path=str(flat)).load("train")


def test_a_picture_that_would_fill_the_memory_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "big.png")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 800)
    with pytest.raises(ValueError, match="million pixels"):
        pictures.read_picture(tmp_path / "big.png", 8)


@pytest.mark.parametrize(
    ("test_name", "val_name"), [("test", None), ("val", None), ("test", "val"), ("Test", "valid")]
)
def test_ready_folders_keep_their_own_test(
    tmp_path: Path, test_name: str, val_name: str | None
) -> None:
    for seed, name in enumerate(("a", "b")):
        _fill(tmp_path / "train" / name, 20, seed)
        _fill(tmp_path / test_name / name, 5, 10 + seed)
        if val_name:
            _fill(tmp_path / val_name / name, 3, 20 + seed)
    sets = _load(tmp_path)
    assert {name.split("/")[0] for name in sets["test"].names} == {test_name} and len(
        sets["test"]
    ) == 10
    assert (len(sets["train"]), len(sets["val"])) == ((40, 6) if val_name else (36, 4))
    assert not set(sets["train"].names) & set(sets["val"].names)


def test_a_class_that_only_the_test_folder_has_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _fill(tmp_path / "train" / name, 3, 0)
    _fill(tmp_path / "test" / "c", 3, 1)
    with pytest.raises(UserError, match="the class 'c', which the training folder does not have"):
        Folder(path=str(tmp_path)).load("test")


def test_a_folder_with_less_than_two_classes_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pictures"):
        Folder(path=str(tmp_path)).load("train")
    Image.new("L", (9, 9)).save(tmp_path / "loose.png")
    with pytest.raises(UserError, match="has pictures but no class folders"):
        Folder(path=str(tmp_path)).load("train")
    _fill(tmp_path / "cat", 3, 0)
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match=r"one class only \(cat\).*at least two"):
        Folder(path=str(tmp_path)).load("train")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        data.load(f"folder:{tmp_path / 'file'}")
    with pytest.raises(UserError, match="size=4 is out of range"):
        Folder(path=str(tmp_path), size=4)


@pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0,
    reason="needs a system and user that permissions bind",
)
def test_a_folder_without_permission_says_so(flat: Path) -> None:
    flat.chmod(0)
    try:
        with pytest.raises(UserError, match="permissions"):
            Folder(path=str(flat)).load("train")
    finally:
        flat.chmod(0o700)


def test_n_limits_the_training_pictures_to_a_balanced_beginning(flat: Path) -> None:
    few = data.load(f"folder:{flat}", "train", 3)
    assert sorted(few.y.tolist()) == [0, 1, 2] and few.images.shape == (3, 3, 32, 32)
    assert torch.equal(data.load(f"folder:{flat}", "train", 2).images, few.images[:2])


@pytest.mark.skipif(os.name == "nt", reason="pipes and links are another thing there")
@pytest.mark.timeout(30)
def test_pipes_devices_and_links_to_nowhere_are_passed_over(flat: Path) -> None:
    os.mkfifo(flat / "cat" / "pipe.png")
    (flat / "cat" / "device.png").symlink_to("/dev/zero")
    (flat / "cat" / "gone.png").symlink_to(flat / "nothing.png")
    (flat / "cat" / "folder.png").mkdir()
    (flat / "nobody").symlink_to(flat / "nowhere")
    sets = _load(flat)
    assert sets["train"].classes == ("axolotl", "cat", "dog") and sum(map(len, sets.values())) == 63


def test_what_lies_elsewhere_is_not_read_where_folders_are_named(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path / "secret" / "wolf", 30, 9)
    (flat / "wolf").symlink_to(tmp_path / "secret" / "wolf", target_is_directory=True)
    (flat / "cat" / "wolf.png").symlink_to(tmp_path / "secret" / "wolf" / "000.png")
    assert "wolf" in _load(flat)["train"].classes  # On one's own computer links are followed.
    monkeypatch.setenv("ROBUSTVIZ_FOLDERS", os.pathsep.join(["/nowhere", str(flat)]))
    sets = _load(flat)
    assert sets["train"].classes == ("axolotl", "cat", "dog") and sum(map(len, sets.values())) == 63
    for path in (tmp_path, flat / "..", Path("/etc")):
        with pytest.raises(UserError, match="is not below /nowhere or"):
            Folder(path=str(path)).load("train")
    monkeypatch.setenv("ROBUSTVIZ_FOLDERS", os.pathsep)  # Set, but it names no folder.
    with pytest.raises(UserError, match="is not below"):
        Folder(path=str(flat)).load("train")


def test_a_file_that_would_fill_the_memory_is_counted_and_not_read(
    flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(flat / "cat" / "huge.png", "wb") as file:
        file.truncate(30_000_000)  # A sparse file takes no space on the disk.
    monkeypatch.setattr(pictures, "MOST_BYTES", 20_000_000)
    assert any("unreadable file was left out" in s.card for s in _load(flat).values())
