"""Tests downloads: they are counted, resume where they broke off, and never leave a partial file
under the final name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from robustviz import data
from robustviz.data import fetch as fetching
from robustviz.data.fetch import BrokenOff, File, fetch, heard, megabytes
from robustviz.types import UserError
from tests.served import Served, digits, served

CONTENT = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8).tobytes()


@pytest.fixture
def server() -> Iterator[Served]:
    with served({"file": CONTENT}) as state:
        yield state


def file(server: Served) -> File:
    return File(f"{server.url}file", "in/file", hashlib.md5(CONTENT).hexdigest(), len(CONTENT))


def test_it_is_counted_whole_and_asked_for_once(server, tmp_path):
    told: list[tuple[int, int]] = []
    with heard(lambda here, of: told.append((here, of))):
        fetch(file(server), tmp_path)
        fetch(file(server), tmp_path)
    assert (tmp_path / "in" / "file").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT)) and server.asked == [""]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["file"]


def test_two_who_want_it_at_once_ask_for_it_once(server, tmp_path):
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: fetch(file(server), tmp_path), range(2)))
    assert (tmp_path / "in" / "file").read_bytes() == CONTENT and server.asked == [""]


def test_what_broke_off_goes_on_in_the_same_call(server, tmp_path):
    server.breaks = [30_000, 20_000]
    fetch(file(server), tmp_path)
    assert server.asked == ["", "bytes=30000-", "bytes=50000-"]
    assert (tmp_path / "in" / "file").read_bytes() == CONTENT


def test_what_stays_broken_off_is_kept_for_the_next_call(server, tmp_path):
    server.breaks = [30_000, 0]
    with pytest.raises(BrokenOff, match=r"0\.0 of 0\.1 MB; the next attempt"):
        fetch(file(server), tmp_path)
    assert not (tmp_path / "in" / "file").exists()
    fetch(file(server), tmp_path)
    assert server.asked[-1] == "bytes=30000-"
    assert (tmp_path / "in" / "file").read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_begins_anew(server, tmp_path):
    server.ranges, server.breaks = False, [30_000]
    fetch(file(server), tmp_path)
    assert (tmp_path / "in" / "file").read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_not_kept(server, tmp_path):
    wrong = File(f"{server.url}file", "file", "0" * 32, len(CONTENT))
    with pytest.raises(BrokenOff, match="not the published one"):
        fetch(wrong, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_in_its_place_is_replaced(server, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(CONTENT[:-1])
    fetch(file(server), tmp_path)
    assert (tmp_path / "in" / "file").read_bytes() == CONTENT


def test_a_data_set_says_whether_it_is_here_and_is_fetched_when_it_is_used(
    server, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(tmp_path))
    digits(monkeypatch, server)
    source = data.MNIST()
    # Asking whether the data is here must not download it.
    assert not source.here("test") and not list(tmp_path.iterdir())
    server.breaks = [100, 0]
    with pytest.raises(UserError, match=r"it was interrupted after .* MB; the next attempt"):
        source.load("test")
    assert not source.here("test")
    found = source.load("test")
    assert source.here("test") and len(found) == 60 and "MB" in capsys.readouterr().err
    count = len(server.asked)
    source.load("test")
    assert len(server.asked) == count


@pytest.mark.parametrize(
    "key", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "tiny_imagenet"]
)
def test_every_published_set_says_what_it_would_fetch(key, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(tmp_path))
    source = data.source(key)
    for split in ("train", "test"):
        assert not source.here(split)
        for one in source.files(split):
            assert len(one.md5) == 32 and one.size > 1000 and one.url.startswith("http")
            assert not Path(one.path).is_absolute() and one.host in one.url
    assert fetching.megabytes(source.files("test")[0].size)


def test_megabytes_are_read_at_a_glance():
    assert [megabytes(n) for n in (170_498_071, 9_912_422, 28_881)] == ["170", "9.9", "0.0"]
