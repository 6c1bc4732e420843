"""Where files lie, and how they get there: the data root, the folder names that a data set may have
in it, the download, and the sentence for each thing that can go wrong with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from robustviz import paths
from robustviz.data.fetch import BrokenOff
from robustviz.types import UserError


def root() -> Path:
    """The data root: the folder that ROBUSTVIZ_DATA names, else `data/` in the repository, else (an
    installed copy) the system's folder for programs' data. It may not exist yet.
    """
    return paths.users("data", "ROBUSTVIZ_DATA", "data")


def folders(key: str, *inner: str) -> Iterator[Path]:
    """The existing folders under the root that may hold the files of `key`, the likeliest first.

    Names: the key, the key with `-`; in each, and in the root, the folders `inner` that the
    official archive or torchvision makes.
    """
    likely = sorted(
        {root() / k / name for k in (key, key.replace("_", "-")) for name in (*inner, ".")},
        key=lambda place: (-len(place.parts), str(place)),
    )
    yield from filter(Path.is_dir, (*likely, *(root() / name for name in inner)))


def find(names: Iterable[str], places: Iterator[Path]) -> Path | None:
    """The first of the places that holds all the files `names`, packed (`.gz`) or not; None: none
    does.
    """
    return next(
        (
            place
            for place in places
            if all((place / name).is_file() or (place / f"{name}.gz").is_file() for name in names)
        ),
        None,
    )


def md5(content: bytes) -> str:
    """Hex md5, the checksum that the archives publish. It tells copies apart; it guards nothing."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def damaged(path: Path, why: str) -> UserError:
    """The error for a file that is there but is not what it should be."""
    return UserError(
        f"{path} cannot be used: {why}; delete it, so that it is downloaded again, or put a good"
        " copy there."
    )


def download(
    what: str, url: str, fetch: Callable[[Path], object], target: Path, by_hand: str
) -> Path:
    """`target`, once `fetch(target)` has downloaded into this folder; what it prints goes to
    stderr.

    what, url, by_hand: for the sentence, e.g. "MNIST", "https://…", "the four idx files". Raises
    UserError saying what is missing, why, from where it comes and where to put it.
    """
    new = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        # torchvision prints to stdout, which belongs to the answer of a `--json` command
        with contextlib.redirect_stdout(sys.stderr):
            fetch(target)
        return target
    except ImportError as error:
        raise UserError(
            f"{what} is downloaded by torchvision, which cannot be imported ({error}): install it."
        ) from error
    except Exception as error:
        # urllib, ssl, zipfile, tarfile and torchvision raise a dozen kinds; each means: not there
        if new:
            with contextlib.suppress(OSError):  # only an empty folder is taken away again
                target.rmdir()
        raise UserError(
            f"{what} is not on this computer and could not be downloaded from {url}"
            f" ({_why(error)}); put {by_hand} into {target}, or name a folder that has it in"
            " ROBUSTVIZ_DATA."
        ) from error


def _why(error: BaseException) -> str:
    if isinstance(error, BrokenOff):
        return str(error)
    number = getattr(error, "errno", None)
    # 112 and 39 are what Windows says for a full disk
    if number in (errno.ENOSPC, getattr(errno, "EDQUOT", -1)) or getattr(
        error, "winerror", None
    ) in (112, 39):
        return "the disk is full: make room"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "the folder cannot be written to"
    if (
        "URLError" in type(error).__name__
        or isinstance(error, (ConnectionError, TimeoutError))
        or "rror downloading" in str(error)
    ):
        return "no connection to it"
    return " ".join(str(error).split())[:120] or type(error).__name__
