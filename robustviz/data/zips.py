"""Reads a zip file from an untrusted source safely: its content cannot decide where files are
written, how much memory is used, or how long reading takes.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

from robustviz.types import UserError, harmless

MOST_FILES = 50_000
MOST_LISTED = 16_000_000  # bytes of the table of contents, which is read as a whole
MOST_UNPACKED = 2_000_000_000  # bytes of all files in it
END, END_64 = b"PK\x05\x06", b"PK\x06\x07"
UTF_8 = 0x800  # the flag that says that a name is encoded in UTF-8


class Zip:
    """The regular files of a zip: `names` has their paths, `read(name)` the bytes of one file."""

    def __init__(self, archive: zipfile.ZipFile, infos: dict[PurePosixPath, zipfile.ZipInfo]):
        self._archive, self._infos = archive, infos
        self.names = tuple(infos)

    def size(self, name: PurePosixPath) -> int:
        """The size of a file in bytes, unpacked."""
        return self._infos[name].file_size

    def read(self, name: PurePosixPath) -> bytes:
        """The bytes of a file. Raises ValueError if they are damaged."""
        try:
            return self._archive.read(self._infos[name])
        except Exception as error:  # zipfile, zlib and struct raise many types of error
            raise ValueError("it is damaged in the zip") from error


@contextmanager
def opened(file: BinaryIO) -> Iterator[Zip]:
    """A context that yields the content of the zip `file` as a `Zip`.

    Raises UserError with one sentence if it is not a zip, has more than `MOST_FILES` files or would
    unpack to more than `MOST_UNPACKED` bytes, if a path in it leads outside, or if it has links, a
    password or an unusual compression.
    """
    _check_table(file)
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:
        raise UserError(f"This zip is damaged ({_plain(error)}): create it again.") from error
    with archive:
        yield Zip(archive, _checked(archive.infolist()))


def is_zip(head: bytes) -> bool:
    """Whether a file whose first bytes are `head` is a zip; one without files counts, too."""
    return head.startswith((b"PK\x03\x04", END))


def _check_table(file: BinaryIO) -> None:
    """Raises UserError if the zip's table of contents is missing or too long."""
    file.seek(0, 2)
    size = file.tell()
    file.seek(max(0, size - 66_000))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < 22:
        raise UserError(
            "This zip is incomplete: its table of contents is missing. Create it again."
        )
    count, listed = struct.unpack("<HI", tail[at + 10 : at + 16])
    if END_64 in tail[max(0, at - 20) : at] or listed > MOST_LISTED or count > MOST_FILES:
        raise UserError(
            f"This zip has more than {MOST_FILES:,} files: upload fewer, or name a folder on the"
            " command line with `python -m robustviz data add folder:PATH --name NAME`."
        )


def _checked(infos: list[zipfile.ZipInfo]) -> dict[PurePosixPath, zipfile.ZipInfo]:
    if len(infos) > MOST_FILES:
        raise UserError(f"This zip has {len(infos):,} files; at most {MOST_FILES:,} are allowed.")
    if (unpacked := sum(info.file_size for info in infos)) > MOST_UNPACKED:
        raise UserError(
            f"This zip would unpack to {unpacked / 1e9:.1f} GB; at most"
            f" {MOST_UNPACKED / 1e9:g} GB are allowed: upload less."
        )
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in infos:
        name = _name(info)
        shown = harmless(name[:80])
        path = PurePosixPath(name.replace("\\", "/"))
        if ".." in path.parts or path.is_absolute() or ":" in (path.parts or ("",))[0]:
            raise UserError(
                f"This zip names a file outside itself ({shown}), as none should: nothing of it was"
                " taken."
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(
                f"This zip has a link in it ({shown}) instead of a file: put the file itself there."
            )
        if info.is_dir() or not path.parts:
            continue
        if info.flag_bits & 1:
            raise UserError("This zip has a password: create one without.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError("This zip has an unusual kind of compression: create an ordinary one.")
        files[path] = info
    return files


def _name(info: zipfile.ZipInfo) -> str:
    """The path of a file in a zip. Names without the UTF-8 flag are read as UTF-8 too if they can
    be, because many programs do not set it.
    """
    if info.flag_bits & UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _plain(error: BaseException) -> str:
    return harmless(" ".join(str(error).split())[:100]) or type(error).__name__
