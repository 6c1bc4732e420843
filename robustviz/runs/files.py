"""Writes files so that they are never half written: every write goes to a temporary file next to
its target, is flushed to disk and then renamed, so a reader sees either the old file or the new
one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from robustviz.types import JSON, UserError

OF_A_RUN = ("config.json", "status.json", "eval.json", "control.json")
SETTLED = 2_000_000_000  # nanoseconds, see `settled`


def write_file(path: Path, content: bytes) -> None:
    """Replace the content of `path` in one atomic step; missing folders are created. Raises
    UserError if the disk is full or the folder is not writable.
    """
    # with the thread's id, because two sessions of the app are two threads of one process
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def rename(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing `target`. On Windows, where this fails while another
    process reads the target, try again for about two seconds. Raises OSError if it fails.
    """
    for patience in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, None):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if patience is None or os.name != "nt":
                raise
            time.sleep(patience)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Returns the UserError for a failed write to `path`; it says why, and what to do."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return UserError(
            f"The disk is full, so {path.name} in {path.parent} could not be written; free some"
            " space and resume the run."
        )
    return UserError(
        f"{path} could not be written ({error.strerror or error}); check that the folder is"
        " writable, or set ROBUSTVIZ_RUNS."
    )


@contextlib.contextmanager
def held(path: Path, patience: float, busy: str) -> Iterator[None]:
    """A context manager: inside it the lock file at `path` is held; the system releases it when the
    process dies. Raises UserError with the text `busy` if another process still holds the lock
    after `patience` seconds, and if the file cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(path, timeout=patience).acquire()
    except Timeout as error:
        raise UserError(busy) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    with lock:
        yield


def read_json(path: Path) -> JSON:
    """Returns the JSON object in `path`. Raises UserError if the file is missing or damaged, or
    holds another kind of value.
    """
    run = f"the run folder {path.parent.name} is"
    whose, advice = (
        (run, "Remove it, or restore the file")
        if path.name in OF_A_RUN
        else ("it is", "Restore the file")
    )
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\u" in text:  # an escape may be half a character, which cannot be shown
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {whose} incomplete. {advice}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {whose} damaged. {advice}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object: {whose} damaged. {advice}.")
    return value


def to_bytes(value: object) -> bytes:
    """Returns `value` as indented JSON with a line break at the end, in bytes."""
    return (json.dumps(value, indent=1) + "\n").encode()


def stamp(path: Path | str) -> tuple[int, int, int]:
    """Returns a file's modification time in nanoseconds, inode and size; zeros if there is no file.
    When `write_file` replaces the file, its stamp changes, with certainty if the old stamp was
    `settled`.
    """
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_ino, status.st_size


def settled(stamp: tuple[int, int, int]) -> bool:
    """Whether the file with this `stamp` was last written more than two seconds ago. Only then is a
    rewrite certain to change the stamp: within one tick of the file system's clock the time would
    be the same.
    """
    return time.time_ns() - stamp[0] > SETTLED


def as_large(path: Path, stamp: tuple[int, int, int]) -> int:
    """Returns about how many bytes of memory the values read from a text file with that `stamp`
    take: five times the file's size. `path` is not used.
    """
    return 5 * stamp[2]


@functools.lru_cache(maxsize=8192)
def digest(path: Path, stamp: int) -> str:
    """Returns a hash (16 hex digits) of a file's content; empty if it cannot be read. `stamp` is
    the file's modification time: with the same path and time the hash comes from a cache.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
