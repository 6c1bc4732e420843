"""Tests uploads: zips, folders and single files, both good and hostile."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from robustviz import data
from robustviz.data import own, sent, singles, uploads, zips
from robustviz.types import UserError

SHADES = np.random.default_rng(0)


def picture(kind: str = "PNG", size: tuple[int, int] = (12, 10), mode: str = "RGB") -> bytes:
    """Returns a picture, a different one in each call."""
    made = Image.fromarray(SHADES.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
    out = io.BytesIO()
    made.save(out, kind)
    return out.getvalue()


def zipped(**files: bytes) -> io.BytesIO:
    """Returns a zip. `__` in a name stands for a slash."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/") + ".png", content)
    return out


def send(draft: Path, file: io.BytesIO) -> uploads.Report:
    with zips.opened(file) as inside:
        entries = [
            uploads.Entry(name, lambda name=name: inside.read(name)) for name in inside.names
        ]
        return uploads.take_in(draft, entries)


def files(*names: str, content: Callable[[], bytes] = picture) -> list[uploads.Entry]:
    return [uploads.Entry(PurePosixPath(name), content) for name in names]


@pytest.fixture
def draft(runs_home: Path) -> Path:
    return uploads.new_draft()


def everything(home: Path) -> set[str]:
    return {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}


def test_a_zip_of_photographs_becomes_a_data_set_that_is_found_by_its_name(draft, runs_home):
    names = [f"photos__{kind}__{i}" for kind in ("cat", "dog") for i in range(6)]
    report = send(draft, zipped(**{name: picture() for name in names}))
    assert report == uploads.Report(12, ())
    assert uploads.counts(draft) == {"cat": {"": 6}, "dog": {"": 6}}
    kept = uploads.keep(draft, "pets", 8)
    assert kept.uploaded and not draft.exists()
    splits = [data.load(data.source("pets"), split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 12 and splits[0].classes == ("cat", "dog")
    assert splits[0].images.shape[1:] == (3, 8, 8)
    own.remove("pets")
    assert not everything(runs_home)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x.png", "outside itself"),
        ("a/../../x.png", "outside itself"),
        ("/etc/x.png", "outside itself"),
        ("C:/x.png", "outside itself"),
        ("a\\..\\..\\x.png", "outside itself"),
    ],
)
def test_a_zip_that_leads_outside_is_refused_and_nothing_written(draft, tmp_path, name, why):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/good.png", picture())
        archive.writestr(name, picture())
    with pytest.raises(UserError, match=why):
        send(draft, out)
    assert not everything(tmp_path)


def with_info(change: Callable[[zipfile.ZipInfo], None]) -> io.BytesIO:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("a/x.png")
        change(info)
        archive.writestr(info, picture())
    return out


def a_link(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o120777 << 16


def unusual(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_LZMA


@pytest.mark.parametrize(("change", "why"), [(a_link, "a link"), (unusual, "unusual kind")])
def test_links_and_unusual_zips_are_refused(draft, change, why):
    with pytest.raises(UserError, match=why):
        send(draft, with_info(change))


def test_a_zip_with_a_password_is_refused(draft):
    content = bytearray(with_info(lambda info: None).getvalue())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(sign) + at] |= 1
    with pytest.raises(UserError, match="password"):
        send(draft, io.BytesIO(bytes(content)))


def test_a_bomb_is_refused_by_what_it_says_of_itself_and_by_what_it_is(draft, monkeypatch):
    monkeypatch.setattr(zips, "MOST_UNPACKED", 1_000_000)
    bomb = zipped(a__x=bytes(2_000_000))
    assert len(bomb.getvalue()) < 3000
    with pytest.raises(UserError, match="would unpack to"):
        send(draft, bomb)
    lying = bomb.getvalue().replace(struct.pack("<I", 2_000_000), struct.pack("<I", 20))
    with pytest.raises(UserError, match=r"None of 1 file .*damaged in the zip"):
        send(draft, io.BytesIO(lying))


def test_a_hundred_thousand_files_are_refused_before_their_table_is_read(draft, monkeypatch):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/x.png", b"")
    table = out.getvalue()
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *_: pytest.fail("it was read"))
    at = table.rindex(zips.END)
    many = table[: at + 8] + struct.pack("<HH", 60_000, 60_000) + table[at + 12 :]
    long = table[: at + 12] + struct.pack("<I", 2**31) + table[at + 16 :]
    large = table[:at] + zips.END_64 + bytes(16) + table[at:]
    for content in (many, long, large):
        with pytest.raises(UserError, match="more than 50,000 files"):
            send(draft, io.BytesIO(content))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "zip is incomplete"),
        (b"Rar!\x1a\x07", "zip is incomplete"),
        (b"PK\x03\x04 and no more", "incomplete"),
    ],
)
def test_what_is_no_zip_is_said_so(draft, content, why):
    with pytest.raises(UserError, match=why):
        send(draft, io.BytesIO(content))


def test_a_damaged_table_is_one_sentence(draft):
    content = zipped(a__x=picture(), b__y=picture()).getvalue()
    at = content.index(b"PK\x01\x02")
    with pytest.raises(UserError, match="damaged"):
        send(draft, io.BytesIO(content[:at] + b"\0" * 10 + content[at + 10 :]))


def test_names_that_are_utf_8_without_saying_so_are_read(draft):
    content = zipped(Katze__1=picture(), Hund__1=picture()).getvalue()
    # A name of the same length in UTF-8, without the flag for UTF-8.
    content = content.replace(b"Katze", "Кот"[:2].encode() + b"a")
    send(draft, io.BytesIO(content))
    assert list(uploads.counts(draft)) == ["Hund", "Коa"]


# Pictures.


def odd_pictures() -> dict[str, tuple[bytes, str]]:
    """Returns unusual pictures, and what is said about them."""
    turned, moving = io.BytesIO(), io.BytesIO()
    noise = Image.fromarray(SHADES.integers(0, 256, (10, 20, 3), dtype=np.uint8))
    exif = noise.getexif()
    exif[0x0112] = 6
    noise.save(turned, "JPEG", exif=exif)
    noise.save(moving, "GIF", save_all=True, append_images=[noise.rotate(90)])
    deep = io.BytesIO()
    Image.fromarray(SHADES.integers(0, 2**16, (9, 9), dtype=np.uint16)).save(deep, "PNG")
    return {
        "turned.jpg": (turned.getvalue(), sent.TURNED),
        "moving.gif": (moving.getvalue(), sent.MOVING),
        "deep.png": (deep.getvalue(), "of more than 8 bits, scaled to 8 bits"),
        "grey.png": (picture(mode="L"), sent.GREY),
        "print.jpg": (picture("JPEG", mode="CMYK"), sent.CMYK),
        "clear.png": (picture(mode="RGBA"), sent.CLEAR),
        "plain.webp": (picture("WEBP"), ""),
        "plain.bmp": (picture("BMP"), ""),
        "plain.tif": (picture("TIFF"), ""),
        "no-suffix": (picture("PNG"), ""),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_pictures_of_all_sorts_are_kept_as_a_network_can_see_them(tmp_path, name):
    content, said = odd_pictures()[name]
    kept = sent.read(content, tmp_path / "work")
    assert (said in kept.done) if said else not kept.done
    with Image.open(io.BytesIO(kept.png)) as shown:
        assert shown.mode == "RGB" and shown.size[0] == shown.size[1] == min(shown.size[0], 224)
        assert not shown.getexif() and not shown.info
    assert not list(tmp_path.iterdir())


def test_a_turned_picture_stands_upright(tmp_path):
    half = Image.new("RGB", (20, 20), "black")
    half.paste("white", (0, 0, 20, 10))  # The upper half is white.
    exif, out = half.getexif(), io.BytesIO()
    exif[0x0112] = 3  # EXIF says that the camera was upside down.
    half.save(out, "PNG", exif=exif)
    with Image.open(io.BytesIO(sent.read(out.getvalue(), tmp_path / "work").png)) as shown:
        assert shown.getpixel((10, 2)) == (0, 0, 0) and shown.getpixel((10, 17)) == (255,) * 3


def wide(width: int, height: int) -> bytes:
    """Returns a small PNG file whose header states this size."""
    small = bytearray(picture(size=(8, 8)))
    small[16:24] = struct.pack(">II", width, height)
    small[29:33] = struct.pack(">I", zlib.crc32(bytes(small[12:29])))
    return bytes(small)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"hello", "not a picture"),
        (b"", "the file is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (picture(size=(1, 1)), "it has 1×1 pixels"),
        (picture(size=(500, 4)), "it has 500×4 pixels"),
        (wide(20_000, 20_000), "more than 64 million pixels"),
        (wide(2**31 - 1, 2**31 - 1), "more than 64 million pixels|not a picture"),
        (picture()[:-40], "truncated|not process|broken|IDAT|incomplete"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_few_words(tmp_path, content, why):
    with pytest.raises(UserError, match=f"x.png cannot be taken: .*({why})") as error:
        sent.read_one(content, tmp_path / "work", "x.png")
    # The formats that are read help only with a file that is of none of them.
    assert ("GIF" in str(error.value)) == ("not a picture" in str(error.value))
    assert not list(tmp_path.iterdir())


def test_a_20000_pixel_panorama_is_taken(tmp_path):
    assert sent.read(picture("JPEG", (20_000, 300)), tmp_path / "work").hash


def test_one_bad_picture_is_left_out_and_named(draft):
    entries = [*files("cat/1.png", "cat/2.png", "dog/1.png")]
    entries += files("dog/fake.png", content=lambda: b"text")
    report = uploads.take_in(draft, entries)
    assert report.taken == 3 and "dog/fake.png (it is not a picture" in report.notes[-1]


def test_only_bad_pictures_are_an_error_and_leave_the_draft_alone(draft):
    uploads.take_in(draft, files("cat/1.png"))
    before = everything(draft)
    with pytest.raises(UserError, match="None of 2 files is a picture"):
        uploads.take_in(draft, files("dog/1.png", "dog/2.png", content=lambda: b"text"))
    assert everything(draft) == before


def test_looking_takes_no_longer_than_it_may(draft, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_SECONDS", 0)
    with pytest.raises(UserError, match="takes longer than"):
        uploads.take_in(draft, files("cat/1.png", "dog/1.png"))
    assert not everything(draft)


def test_the_same_picture_counts_once_and_in_two_classes_not_at_all(draft):
    same, both = picture(), picture()
    entries = [
        *files("cat/1.png", "cat/2.png", content=lambda: same),
        *files("cat/3.png", "dog/1.png", content=lambda: both),
        *files("dog/2.png"),
    ]
    report = uploads.take_in(draft, entries)
    assert uploads.counts(draft) == {"cat": {"": 1}, "dog": {"": 1}} and report.taken == 2
    assert any("in two classes left out" in note for note in report.notes)
    assert any("sent a second time" in note for note in report.notes)


# Classes and splits.


def test_classes_are_found_below_folders_that_all_share(draft):
    uploads.take_in(draft, files("a/b/cat/x/1.png", "a/b/dog/1.png", "a/b/.DS_Store", "__MACOSX/y"))
    assert list(uploads.counts(draft)) == ["cat", "dog"]


def test_non_latin_accented_and_hostile_class_names(draft):
    names = ["Кошка", "犬", "e\u0301te\u0301", "![x](http://evil.example/p.png)", "a:b*c?", "..."]
    for name in names[:5]:
        uploads.take_in(draft, files("1.png"), name)
    shown = list(uploads.counts(draft))
    assert "été" in shown and "Кошка" in shown and "犬" in shown and "abc" in shown
    assert not any(set(name) & set("[]/:*?<>") for name in shown)
    with pytest.raises(UserError, match="has no name"):
        uploads.take_in(draft, files("1.png"), names[5])


def test_one_class_whose_name_is_written_in_two_ways_is_one(draft):
    uploads.take_in(draft, files("é/1.png", "e\u0301/2.png"))
    assert uploads.counts(draft) == {"é": {"": 2}}


def test_classes_that_look_alike_are_refused(draft):
    with pytest.raises(UserError, match="Two classes are called Cat and cat"):
        uploads.take_in(draft, files("Cat/1.png", "cat/1.png"))


@pytest.mark.parametrize("order", ["train/cat", "cat/train"])
def test_train_and_test_folders_are_the_split_above_or_below_the_classes(draft, order):
    test = order.replace("train", "test")
    names = [f"set/{where}/{i}.png" for where in (order, test) for i in range(2)]
    names += [name.replace("cat", "dog") for name in names]
    report = uploads.take_in(draft, files(*names))
    assert uploads.counts(draft)["dog"] == {"train": 2, "test": 2}
    assert bool(report.notes) == order.startswith("cat")
    uploads.keep(draft, "pets", 8)
    assert len(data.load(data.source("pets"), "test")) == 4
    again = uploads.new_draft()
    uploads.take_in(again, files(*names))
    with pytest.raises(UserError, match="sort all of them, or none"):
        uploads.take_in(again, files("cow/1.png", "pig/1.png"))


def test_a_folder_one_level_too_high_is_said(draft):
    names = [f"{kind}/{sort}/1.png" for kind in ("beast", "plant") for sort in ("one", "two")]
    assert "if these are the classes" in uploads.take_in(draft, files(*names)).notes[0]


def test_pictures_without_folders_need_a_class(draft):
    with pytest.raises(UserError, match="are not in folders"):
        uploads.take_in(draft, files("1.png", "2.png"))
    uploads.take_in(draft, files("1.png", "2.png"), "cat")
    assert uploads.counts(draft) == {"cat": {"": 2}}


def test_more_files_than_allowed_are_refused_unread(draft, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_PICTURES", 3)
    unread = files("a/1.png", "a/2.png", "b/1.png", "b/2.png", content=lambda: pytest.fail("read"))
    with pytest.raises(UserError, match="These are 4 files; an upload can have at most 3"):
        uploads.take_in(draft, unread)


def test_a_draft_is_kept_under_a_good_name_only(draft):
    uploads.take_in(draft, files("cat/1.png"))
    with pytest.raises(UserError, match="one class only"):
        uploads.keep(draft, "pets", 8)
    uploads.take_in(draft, files("dog/1.png", "dog/2.png"))
    for name in ("../x", "shapes", "", "A"):
        with pytest.raises(UserError):
            uploads.keep(draft, name, 8)
    assert uploads.counts(draft)
    uploads.keep(draft, "pets", 8)
    again = uploads.new_draft()
    uploads.take_in(again, files("cat/1.png", "dog/1.png"))
    with pytest.raises(UserError, match="already"):
        uploads.keep(again, "pets", 8)


def test_a_draft_that_cannot_be_recorded_has_its_pictures_back(draft, monkeypatch):
    uploads.take_in(draft, files("cat/1.png", "dog/1.png"))
    before = uploads.counts(draft)

    def full(*given: object) -> None:
        raise UserError("The disk is full.")

    monkeypatch.setattr(uploads.own, "add", full)
    with pytest.raises(UserError, match="The disk is full"):
        uploads.keep(draft, "pets", 8)
    assert before and uploads.counts(draft) == before


def test_a_server_that_reads_some_folders_only_reads_what_was_uploaded(
    draft, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROBUSTVIZ_FOLDERS", str(tmp_path / "elsewhere"))
    uploads.take_in(draft, files(*(f"{kind}/{i}.png" for kind in "ab" for i in range(5))))
    uploads.keep(draft, "letters", 8)
    assert len(data.load(data.source("letters"), "train")) > 0


# A single picture.


def test_a_single_picture_has_a_number_of_its_own_until_it_is_removed(runs_home):
    png, digest = sent.packed(SHADES.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    one = singles.add(png, digest, "me<b>.png", "moon", "shapes")
    assert singles.is_own(one.number) and one.number < 10**9
    assert singles.get(one.number) == one and singles.every() == [one]
    assert singles.add(png, digest, "me.png", "star", "shapes").number != one.number
    assert one.pixels(3, 32).shape == (3, 32, 32) and one.pixels(1, 8).shape == (1, 8, 8)
    assert "<" not in one.name
    singles.remove(one.number)
    assert singles.get(one.number) is None
    with pytest.raises(UserError, match="add it once more"):
        one.pixels(3, 32)


def test_single_pictures_are_listed_by_number_and_not_by_its_text(runs_home):
    png, _ = sent.packed(np.zeros((9, 9, 3), np.uint8))
    added = [singles.add(png, f"{digest:x}", "x", "moon", "shapes") for digest in (0, 98_000_000)]
    assert len({len(str(one.number)) for one in added}) == 2
    assert singles.every() == sorted(added, key=lambda one: one.number)


@pytest.mark.parametrize("said", ["", "[1]", '{"name": 1}', "[" * 100_000])
def test_a_damaged_single_picture_is_passed_over(runs_home, said):
    png, digest = sent.packed(np.zeros((9, 9, 3), np.uint8))
    one = singles.add(png, digest, "x", "moon", "shapes")
    (own.home() / ".pictures" / str(one.number) / "picture.json").write_text(said)
    assert singles.every() == [] and singles.get(one.number) is None


def test_light_and_dark_can_be_exchanged():
    png, _ = sent.packed(np.full((9, 9, 3), 255, np.uint8))
    assert singles.fitted(singles.inverted(png), 1, 8).max() == 0
