"""A file of a published data set, downloaded: whoever waits hears how far it is, and what was
broken off is gone on with, in the same call and in the next one.
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

PIECE = 1 << 18  # bytes at a time
WAIT = 30.0  # seconds without a byte
TRIES = 4  # in one call, as long as each brings something

Tell = Callable[[int, int], object]  # bytes that are here, and of how many
_tell: ContextVar[Tell | None] = ContextVar("download", default=None)


class BrokenOff(OSError):
    """A download that did not come to its end; its text says how far it is and what then."""


@dataclass(frozen=True)
class File:
    """A published file: its address, where it lies in the data set's folder, its md5 (hex) and its
    size in bytes as published.
    """

    url: str
    path: str
    md5: str
    size: int

    @property
    def host(self) -> str:
        """Whose server it is on."""
        return urlsplit(self.url).hostname or self.url


@contextmanager
def heard(tell: Tell) -> Iterator[None]:
    """Inside, and in this thread only, `tell(bytes here, of how many)` hears of every download."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def fetch(file: File, folder: Path) -> None:
    """The file in the folder, whole and with its checksum; nothing is asked for where it is there.
    Whoever wants a file of this folder at the same time waits for it.

    What came of it lies beside it as `.part` until it is whole. Raises BrokenOff where it did not
    come to its end, and where it is not what was published; OSError where it cannot be written.
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
            f"it broke off after {megabytes(_size(part))} of {megabytes(file.size)} MB, which are"
            " kept: the same step goes on from there"
        )
    if _md5(part) != file.md5:
        part.unlink()
        raise BrokenOff(f"what came from {file.host} is not the published file, and was removed")
    os.replace(part, path)


def _go_on(file: File, part: Path) -> bool:
    """Ask for what is not in `part` yet; whether it is whole now."""
    here = _size(part)
    request = urllib.request.Request(file.url, headers={"User-Agent": "robustviz"})
    if here:
        request.add_header("Range", f"bytes={here}-")
    try:
        answer = urllib.request.urlopen(request, timeout=WAIT)
    except HTTPError as error:
        if error.code == 416 and here:  # nothing is left to ask for: the checksum decides
            return True
        raise
    with answer:
        if answer.status != 206:  # the server begins anew
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
    """A line to stderr at each tenth."""
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
    """Bytes as millions: 170, and below ten with one place."""
    return f"{count / 1e6:.0f}" if count >= 1e7 else f"{count / 1e6:.1f}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    """Hex md5, the checksum that is published: it tells a damaged copy, and guards nothing."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
