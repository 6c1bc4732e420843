"""Downloads the files of published data sets and reports progress. An interrupted download is
resumed, by the same call or by the next one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

PIECE = 1 << 18  # bytes read at a time
WAIT = 30.0  # seconds without data after which a connection counts as broken
TRIES = 4  # most attempts in one call; one that receives no data is the last

Tell = Callable[[int, int], object]  # called with the bytes received so far and their total
_tell: ContextVar[Tell | None] = ContextVar("download", default=None)


class BrokenOff(OSError):
    """Raised for a download that is incomplete or not the published file; its text says which."""


@dataclass(frozen=True)
class File:
    """A published file.

    `url` is its address, `path` its path in the folder of the data set, `md5` its checksum (hex),
    and `size` its size in bytes.
    """

    url: str
    path: str
    md5: str
    size: int

    @property
    def host(self) -> str:
        """The name of the server that has the file."""
        return urlsplit(self.url).hostname or self.url


@contextmanager
def heard(tell: Tell) -> Iterator[None]:
    """A context in which downloads of this thread call `tell(bytes received, total bytes)`.

    Outside such a context they print lines to stderr.
    """
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def fetch(file: File, folder: Path) -> None:
    """Download `file` to `folder / file.path`, unless it is there with the right checksum.

    A lock lets only one process at a time download into a folder; others wait. An incomplete
    download is kept beside the file with the suffix `.part`, and the next call continues it. Raises
    BrokenOff if the download did not finish or its checksum is wrong; OSError if the server cannot
    be reached or the file cannot be written.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        _fetch(file, folder / file.path)


def _fetch(file: File, path: Path) -> None:
    if path.is_file() and _md5(path) == file.md5:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for _ in range(TRIES):
        before = _size(part)
        try:
            whole = _go_on(file, part)
        except HTTPError:
            raise
        except (ConnectionError, TimeoutError, http.client.HTTPException):
            whole = False
        if whole or _size(part) <= before:
            break
    if not whole:
        raise BrokenOff(
            f"it was interrupted after {megabytes(_size(part))} of {megabytes(file.size)} MB; the"
            " next attempt continues from there"
        )
    if _md5(part) != file.md5:
        part.unlink()
        raise BrokenOff(
            f"the file from {file.host} is not the published one and was deleted: try again"
        )
    os.replace(part, path)


def _go_on(file: File, part: Path) -> bool:
    """Download the rest of `file` into `part`; returns whether `part` has all bytes now."""
    here = _size(part)
    request = urllib.request.Request(file.url, headers={"User-Agent": "robustviz"})
    if here:
        request.add_header("Range", f"bytes={here}-")
    try:
        answer = urllib.request.urlopen(request, timeout=WAIT)
    except HTTPError as error:
        if error.code == 416 and here:  # the range is empty: all is here, the checksum decides
            return True
        raise
    with answer:
        if answer.status != 206:  # the server ignored the range and sends the whole file
            here = 0
        length = answer.headers.get("Content-Length")
        total = here + int(length) if length else file.size
        tell = _tell.get() or _lines(file)
        with part.open("ab" if here else "wb") as out:
            while piece := answer.read(PIECE):
                out.write(piece)
                here += len(piece)
                tell(here, total)
    return here >= total


def _lines(file: File) -> Tell:
    """A progress callback that prints a line to stderr at each tenth of the download."""
    said = -1

    def tell(here: int, total: int) -> None:
        nonlocal said
        tenth = 10 * here // max(1, total)
        if tenth != said:
            said = tenth
            name = Path(file.path).name
            print(f"{name}: {megabytes(here)} of {megabytes(total)} MB", file=sys.stderr)

    return tell


def megabytes(count: int) -> str:
    """A number of bytes in millions, as text: `170`, and with one decimal below ten: `9.9`."""
    return f"{count / 1e6:.0f}" if count >= 1e7 else f"{count / 1e6:.1f}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    """The md5 of a file (hex), as published: it detects damaged copies and gives no security."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
