"""The command `tidy`: free disk space by deleting what can be computed again: cached results of
shipped networks, cached results of weights that no longer exist, and files of interrupted writes.
Runs, weights and evaluations are kept.
"""

import argparse
import contextlib
import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustviz.cli.listing import summary
from robustviz.cli.terminal import Command, number, show
from robustviz.runs import folder
from robustviz.types import JSON, UserError

DAY = 86_400.0
TEMPORARY = re.compile(r"\..+\.(\d+)-\d+\.tmp")  # file names that `write_file` uses
FRESH = 60.0  # seconds: a younger temporary file may still be in use
CACHE, OTHER, KILLED = (
    "a cached result for a shipped network",
    "a cached result for other weights",
    "left by an interrupted write",
)


@dataclass(frozen=True)
class Found:
    """A file that may be deleted: its path, the reason (`why`), its size in bytes, and when it was
    last written, in seconds since 1970.
    """

    path: Path
    why: str
    bytes: int
    written: float


def tidy(args: argparse.Namespace) -> int:
    """List the files that may be deleted, as far as `--older` and `--most` allow, and delete them
    with `--yes`. Damaged runs are listed, too, but not deleted. Returns the exit status: 1 if a
    file could not be deleted, else 0.
    """
    if min(args.older or 0, args.most or 0) < 0:
        raise UserError("--older and --most are numbers from 0.", code=2)
    found = [
        each
        for each in sorted(_found(folder.home()), key=lambda each: each.written)
        if time.time() - each.written >= DAY * (args.older or 0)
    ]
    if args.most is not None:
        found = _above(found, args.most * 1e9)
    kept = [str(each.path) for each in found if args.yes and not _removed(each.path)]
    size, damaged = sum(each.bytes for each in found if str(each.path) not in kept), _damaged()
    value = {
        "removed": bool(args.yes),
        "bytes": size,
        "files": [vars(each) | {"path": str(each.path)} for each in found],
        "not_removed": kept,
        "damaged": damaged,
    }
    lines = [*_counted(found), *(f"{path} could not be removed." for path in kept)]
    lines.append(
        f"{'Removed' if args.yes else 'Can be removed'}: {size / 1e6:,.1f} MB in"
        f" {len(found) - len(kept)} files"
        f"{'.' if args.yes or not found else '; add --yes to remove them.'}"
    )
    lines += [f"Damaged: {each['reason']}\n  {each['command']}" for each in damaged]
    return show(args, value, "\n".join(lines)) or bool(kept)


def _counted(found: list[Found]) -> Iterator[str]:
    """Yields one line for each reason that occurs, with the number and total size of its files."""
    for why in (CACHE, OTHER, KILLED):
        if sizes := [each.bytes for each in found if each.why == why]:
            yield f"{len(sizes):6,} × {why}, {sum(sizes) / 1e6:,.1f} MB"


def _above(found: list[Found], limit: float) -> list[Found]:
    """The oldest files, as many as must be deleted so that the rest takes at most `limit` bytes.
    `found` must be sorted, the oldest first.
    """
    rest, out = sum(each.bytes for each in found), []
    for each in found:
        if rest > limit:
            out.append(each)
            rest -= each.bytes
    return out


def _found(home: Path) -> Iterator[Found]:
    """Yields the files that may be deleted below `home`, the folder of the user's runs: cached
    results of shipped networks, cached results of other weights than a run has now, and temporary
    files of interrupted writes.
    """
    for path in _files(home / ".zoo-cache"):
        if path.parent.name == "probes" and path.suffix == ".npz":
            yield from _entry(path, CACHE)
        elif _killed(path):
            yield from _entry(path, KILLED)
    for run in folder.all_runs(damaged=True):
        if run.shipped:
            continue
        for path in _files(run.path):
            if _killed(path):
                yield from _entry(path, KILLED)
            elif (
                path.parent == run.path / "probes"
                and path.suffix == ".npz"
                and run.weights  # a run without weights may get the right ones back later
                and _measured_on(path) != run.weights
            ):
                yield from _entry(path, OTHER)


def _files(place: Path) -> Iterator[Path]:
    """The regular files below a folder; symbolic links are not followed."""
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            if path.is_symlink():
                continue
            if path.is_dir():
                yield from _files(path)
            elif path.is_file():
                yield path


def _entry(path: Path, why: str) -> Iterator[Found]:
    with contextlib.suppress(OSError):  # another process removed the file
        status = path.stat()
        yield Found(path, why, status.st_size, status.st_mtime)


def _killed(path: Path) -> bool:
    """Whether a file is left over from an interrupted write: it has the name of a temporary file,
    is older than a minute, and the process that wrote it no longer runs.
    """
    named = TEMPORARY.fullmatch(path.name)
    with contextlib.suppress(OSError):
        return bool(
            named and time.time() - path.stat().st_mtime > FRESH and not _runs(int(named[1]))
        )
    return False


def _runs(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def _measured_on(path: Path) -> str:
    """The hash of the weights for which a cached result was measured; empty if it cannot be
    read.
    """
    with (
        contextlib.suppress(Exception),  # a damaged zip raises many types of error
        np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file,
    ):
        return str(json.loads(str(file["json"]))["meta"]["weights"])
    return ""


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    for empty in (path.parent, path.parent.parent):
        if path.parent.name != "probes" or (empty / "config.json").exists():
            break
        with contextlib.suppress(OSError):  # the folder is not empty
            empty.rmdir()
    return True


def _damaged() -> list[JSON]:
    """The user's run folders that cannot be read, each with the reason and the command that removes
    it.
    """
    return [
        {
            "id": run.id,
            "path": str(run.path),
            "reason": said["note"],
            "command": f"python -m robustviz remove {run.id}",
        }
        for run in folder.all_runs(damaged=True)
        if not run.shipped and (said := summary(run))["state"] == "damaged"
    ]


COMMANDS = (
    Command(
        "tidy",
        tidy,
        "list what can be computed again, and remove it with --yes; runs, weights and evaluations"
        " stay",
        {
            "--older": {
                "type": number,
                "metavar": "DAYS",
                "help": "only what was written longer ago",
            },
            "--most": {
                "type": number,
                "metavar": "GB",
                "help": "remove the oldest files until the rest takes at most this",
            },
            "--yes": {"action": "store_true", "help": "remove it"},
        },
    ),
)
