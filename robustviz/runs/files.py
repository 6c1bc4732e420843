"""Files that are never half there: every write goes to a temporary file beside its target, is
flushed to disk and renamed, so a reader sees the old file or the new one.
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

SETTLED = 2_000_000_000  # nanoseconds


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step. Raises UserError where the disk is full or the
    folder is not writable.
    """
    # two sessions of the app are two threads
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
    """Rename onto `target`, trying for two seconds where Windows says that somebody is
    reading it.
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
    """The sentence for a write that failed; what was there before is still there."""
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
    """Hold the lock file at `path` for one writer; the system lets go when a process dies. Raises
    UserError with the sentence `busy` where another has it for `patience` seconds.
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
    """The JSON object in `path`. Raises UserError where it is missing or broken."""
    whose = f"the run folder {path.parent.name} is"
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\u" in text:  # half of a character can be written so, and not be shown
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: {whose} incomplete. Remove it, or restore the file."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON: {whose} damaged. Remove it, or restore the file."
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object: {whose} damaged.")
    return value


def to_bytes(value: object) -> bytes:
    """JSON as people read it."""
    return (json.dumps(value, indent=1) + "\n").encode()


def stamp(path: Path | str) -> tuple[int, int, int]:
    """What changes whenever `write_file` replaces a file; zeros where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_ino, status.st_size


def settled(stamp: tuple[int, int, int]) -> bool:
    """Whether a file with that stamp was written so long ago that another writing has another
    stamp: a system's clock may tick a hundred times a second only.
    """
    return time.time_ns() - stamp[0] > SETTLED


def as_large(path: Path, stamp: tuple[int, int, int]) -> int:
    """About how many bytes of memory the values in a text file with that stamp take."""
    return 5 * stamp[2]


@functools.lru_cache(maxsize=8192)
def digest(path: Path, stamp: int) -> str:
    """A short hash of a file with that stamp; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
