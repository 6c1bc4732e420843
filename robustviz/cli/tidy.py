"""`tidy`: make room on the disk. What goes can be computed again: answers about shipped networks,
answers about weights that are no longer there, what a killed write left. A run, weights and
evaluations stay.
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
TEMPORARY = re.compile(r"\..+\.(\d+)-\d+\.tmp")  # as `write_file` calls them
FRESH = 60.0  # seconds: a temporary file as young as this may be being written
CACHE, OTHER, KILLED = (
    "an answer about a shipped network",
    "an answer about other weights",
    "left by a write that was killed",
)


@dataclass(frozen=True)
class Found:
    """A file that may go, and why; when it was written, in seconds since 1970."""

    path: Path
    why: str
    bytes: int
    written: float


def tidy(args: argparse.Namespace) -> int:
    """List what may go, and remove it with `--yes`."""
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
        f"{'Removed' if args.yes else 'May go'}: {size / 1e6:,.1f} MB in"
        f" {len(found) - len(kept)} files{'.' if args.yes or not found else '; add --yes.'}"
    )
    lines += [f"Damaged: {each['reason']}\n  {each['command']}" for each in damaged]
    return show(args, value, "\n".join(lines)) or bool(kept)


def _counted(found: list[Found]) -> Iterator[str]:
    """A line for each reason."""
    for why in (CACHE, OTHER, KILLED):
        if sizes := [each.bytes for each in found if each.why == why]:
            yield f"{len(sizes):6,} × {why}, {sum(sizes) / 1e6:,.1f} MB"


def _above(found: list[Found], limit: float) -> list[Found]:
    """Of files, oldest first, those that must go so that the others take at most `limit` bytes."""
    rest, out = sum(each.bytes for each in found), []
    for each in found:
        if rest > limit:
            out.append(each)
            rest -= each.bytes
    return out


def _found(home: Path) -> Iterator[Found]:
    """Everything below the user's runs that can be computed again."""
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
                and run.weights  # one without weights may get its own back
                and _measured_on(path) != run.weights
            ):
                yield from _entry(path, OTHER)


def _files(place: Path) -> Iterator[Path]:
    """The ordinary files below a folder; links lead elsewhere and are left alone."""
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            if path.is_symlink():
                continue
            if path.is_dir():
                yield from _files(path)
            elif path.is_file():
                yield path


def _entry(path: Path, why: str) -> Iterator[Found]:
    with contextlib.suppress(OSError):  # somebody else removed it
        status = path.stat()
        yield Found(path, why, status.st_size, status.st_mtime)


def _killed(path: Path) -> bool:
    """Whether a file is what a write left that nobody goes on with."""
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
    """The hash of the weights that an answer was measured on; empty where it cannot be read."""
    with (
        contextlib.suppress(Exception),  # a damaged zip raises a dozen kinds
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
        with contextlib.suppress(OSError):  # something else lies in it
            empty.rmdir()
    return True


def _damaged() -> list[JSON]:
    """The user's run folders that cannot be read: the reason, and what removes them."""
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
                "help": "the oldest of it, until the rest takes no more",
            },
            "--yes": {"action": "store_true", "help": "remove it"},
        },
    ),
)
