"""Runs as zip files, for moving them to another computer. A zip holds the files of one run and
nothing else. On import its size and content are limited; it is unpacked into a temporary folder and
checked before it becomes a run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from robustviz.runs import queue
from robustviz.runs.files import cannot_write, read_json, rename, to_bytes, write_file
from robustviz.runs.folder import ID, Run, home
from robustviz.runs.inside import OVER
from robustviz.types import UserError, harmless

MB = 1_000_000
# The files that a run's folder may hold, with the largest size of each in bytes.
FILES = {
    r"(config|status)\.json": 10 * MB,
    r"metrics\.jsonl": 500 * MB,
    r"log\.txt": 500 * MB,
    r"eval\.json": 500 * MB,
    r"live\.npz": 100 * MB,
    r"(net|last)\.safetensors": 8_000 * MB,
    r"state/state\.safetensors": 32_000 * MB,
    r"snapshots/epoch-\d{4,6}\.safetensors": 8_000 * MB,
    r"probes/[a-z0-9_-]{1,80}\.npz": 500 * MB,
}
MOST = 32_000 * MB  # bytes of all files together, unpacked
MANY = 12_000  # files: one snapshot per epoch, and probes
PIECE = MB


def export(run: Run, path: str | os.PathLike[str]) -> Path:
    """Write the run's folder into a zip file, with the evaluations and probe results made here, and
    return the file's path. Of the evaluations only those of the present weights are included.
    Raises UserError if the run is being trained, and if the file exists or cannot be written.
    """
    path = Path(path).expanduser()
    if queue.at_work(run, run.status()):
        raise UserError(f"The run {run.id} is running; pause or stop it first.")
    if path.exists():
        raise UserError(f"{path} exists: choose another name.", code=2)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    status = {**run.status(), "pid": None}
    evaluations = {"evaluations": [each.to_json() for each in run.evaluations()]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as pack:
            for name, file in files(run):
                tensors = file.suffix in (".safetensors", ".npz")  # hardly compressible
                how = zipfile.ZIP_STORED if tensors else zipfile.ZIP_DEFLATED
                if name not in ("status.json", "eval.json"):
                    pack.write(file, f"{run.id}/{name}", how)
            pack.writestr(f"{run.id}/status.json", to_bytes(status))
            if evaluations["evaluations"]:
                pack.writestr(f"{run.id}/eval.json", to_bytes(evaluations))
        rename(aside, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return path


def files(run: Run) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) for each file of a run, the name relative to the run's folder. For a
    shipped run those written on this computer come first and replace shipped ones of the same name.
    """
    seen = set()
    for folder in dict.fromkeys((run.notes, run.path)):
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if most_bytes(name) and name not in seen and file.is_file() and not file.is_symlink():
                seen.add(name)
                yield name, file


def most_bytes(name: str) -> int:
    """Returns the largest size in bytes allowed for a file of this name, relative to a run's
    folder; 0 if a run has no such file.
    """
    return next((most for pattern, most in FILES.items() if re.fullmatch(pattern, name)), 0)


def import_zip(
    path: str | os.PathLike[str],
    *,
    name: str = "",
    say: Callable[[str], object] = lambda line: None,
) -> Run:
    """Import the run in a zip file that `export` wrote: add it to the user's runs, under its own id
    or `name`, and return it. `say` is called with a sentence if the run needs a plug-in that is
    missing here.

    Raises UserError, without leaving anything behind, if the file is no such zip, holds anything
    else or too much, or holds a damaged run, and if a run of that name exists.
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as pack:
            return _unpacked(pack, path.name, name, say)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise UserError(f"{harmless(path.name)} is damaged, or no zip file.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error


def _unpacked(pack: zipfile.ZipFile, file: str, name: str, say: Callable[[str], object]) -> Run:
    parts = _checked(pack, harmless(file))
    run_id = name or next(iter(parts)).filename.partition("/")[0]
    if not ID.fullmatch(run_id):
        raise UserError(f"{run_id!r} is no run id: use 1 to 64 of a-z, 0-9 and '-'.", code=2)
    target = home() / run_id
    if target.exists():
        raise UserError(
            f"A run named {run_id} exists: choose another --name, or remove it first.", code=2
        )
    aside = home() / f".import-{os.getpid()}-{run_id}"
    run = Run(aside / run_id)
    try:
        for part, inside in parts.items():
            _write(pack, part, run.path / inside, most_bytes(inside), file)
        _settle(run, file)
        os.rename(run.path, target)
    except UserError as error:
        raise UserError(str(error).replace(f"{aside}{os.sep}", "")) from error
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    run = Run(target)
    if run.lacks:
        say(run.lacks)
    return run


def _checked(pack: zipfile.ZipFile, file: str) -> dict[zipfile.ZipInfo, str]:
    """Returns the entries of a zip with their names inside a run's folder. Raises UserError unless
    they are all plain files of one run, not too many and not too large.
    """
    every = [part for part in pack.infolist() if not part.is_dir()]
    if len(every) > MANY:
        raise UserError(f"{file} holds {len(every):,} files; a run has at most {MANY:,}.")
    tops = {part.filename.partition("/")[0] for part in every}
    parts = {part: part.filename.partition("/")[2] for part in every}
    for part, inside in parts.items():
        kind = stat.S_IFMT(part.external_attr >> 16)  # 0 if the zip does not say
        if not most_bytes(inside) or len(tops) > 1 or kind not in (0, stat.S_IFREG):
            raise UserError(
                f"{file} contains {harmless(part.filename)!r:.100}, which does not belong to a run:"
                " only files written by `run export` can be imported."
            )
        if part.flag_bits & 1:
            raise UserError(f"{file} is encrypted: unpack it, and pack it anew without a password.")
    if len({*parts.values()}) < len(parts) or "config.json" not in parts.values():
        raise UserError(f"{file} holds no run: its config.json is missing, or it holds one twice.")
    if sum(part.file_size for part in every) > MOST:
        raise UserError(f"{file} is larger than {MOST // 1000 // MB} GB unpacked.")
    return parts


def _write(pack: zipfile.ZipFile, part: zipfile.ZipInfo, path: Path, most: int, file: str) -> None:
    """Unpack one file to `path`. Raises UserError if it has more bytes than `most` or than the zip
    says, because the sizes stated in a zip may be wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with pack.open(part) as source, open(path, "wb") as target:
        while piece := source.read(PIECE):
            written += len(piece)
            if written > min(most, part.file_size):
                raise UserError(
                    f"{harmless(file)} contains {harmless(part.filename)!r:.100}, which is larger"
                    f" than stated or than allowed for such a file ({most // MB:,} MB)."
                )
            target.write(piece)


def _settle(run: Run, file: str) -> None:
    """Check an unpacked run, and set its state so that no training starts by itself: `queued` and
    `running` become `interrupted`. Raises UserError if the run is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        _ = run.info, run.evaluations()
        status = run.path / "status.json"
        asked = read_json(status) if status.exists() else {}
        state = run.status()["state"]
        if state not in (*OVER, "paused", "stopped", "failed", "interrupted"):
            state = "interrupted"
        write_file(status, to_bytes({**asked, "state": state, "pid": None}))
        for weights in run.path.rglob("*.safetensors"):
            with safe_open(weights, framework="np") as held:
                held.keys()
    except (UserError, SafetensorError) as error:
        raise UserError(f"{harmless(file)} holds a damaged run: {error}") from error
