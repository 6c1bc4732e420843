"""Where the files of published data sets are: the data root, the possible folders of a data set in
it, the download into it, and the error message for each thing that can go wrong.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from robustviz import paths
from robustviz.data.fetch import BrokenOff
from robustviz.types import UserError


def root() -> Path:
    """The data root: the folder that ROBUSTVIZ_DATA names, else `data/` in the repository; for an
    installed copy, a folder in the system's folder for application data. It may not exist yet.
    """
    return paths.users("data", "ROBUSTVIZ_DATA", "data")


def folders(key: str, *inner: str) -> Iterator[Path]:
    """Yields the existing folders that may hold the files of data set `key`, most likely first.

    These are folders in the data root named `key` (also with `-` for `_`) and, in each of them and
    in the data root itself, the folders `inner` that the official archive or torchvision makes.
    """
    likely = sorted(
        {root() / k / name for k in (key, key.replace("_", "-")) for name in (*inner, ".")},
        key=lambda place: (-len(place.parts), str(place)),
    )
    yield from filter(Path.is_dir, (*likely, *(root() / name for name in inner)))


def find(names: Collection[str], places: Iterator[Path]) -> Path | None:
    """The first of `places` that has all the files `names`, packed (`.gz`) or not; None if none
    has.
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
    """The md5 of `content` (hex), as the archives publish it.

    It detects damaged or different copies and gives no security.
    """
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def damaged(path: Path, why: str) -> UserError:
    """The error for a file that exists but has the wrong content; `why` completes the message."""
    return UserError(
        f"{path} cannot be used: {why}; delete it, so that it is downloaded again, or put a good"
        " copy there."
    )


def download(
    what: str, url: str, fetch: Callable[[Path], object], target: Path, by_hand: str
) -> Path:
    """Call `fetch(target)` to download into the folder `target`, and return `target`.

    Whatever `fetch` prints goes to stderr. what, url, by_hand: for the error message, for example
    "MNIST", "https://…", "the four idx files". Raises UserError saying what is missing, why, where
    it comes from and where to put it.
    """
    new = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        # torchvision prints to stdout, but a `--json` command may print only its answer there
        with contextlib.redirect_stdout(sys.stderr):
            fetch(target)
        return target
    except ImportError as error:
        raise UserError(
            f"{what} is downloaded by torchvision, which cannot be imported ({error}): install it."
        ) from error
    except Exception as error:
        # urllib, ssl, zipfile, tarfile and torchvision raise many types of error
        if new:
            with contextlib.suppress(OSError):  # rmdir deletes the folder only if it is empty
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
    # 112 and 39 are the Windows error codes for a full disk
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
