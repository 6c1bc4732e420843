"""The plug-ins that a person has trusted on this computer, with the SHA-256 of their code. They are
saved in `.plugins.json` in the user's folder of runs. Nothing is imported to find a plug-in's code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from robustviz import paths, registry
from robustviz.types import UserError, harmless


def find(source: str) -> tuple[str, Path]:
    """Locate a plug-in without importing it. Returns its name as run folders store it, which is an
    absolute path or a module's name, and the path of its code: a file, or the folder of a package.
    Raises UserError if there is no such plug-in.
    """
    path = Path(source).expanduser()
    if source.endswith(".py") or path.is_dir() or {os.sep, os.altsep} & set(source):
        path = path.resolve()
        if not (path / "__init__.py").is_file() and not (path.is_file() and path.suffix == ".py"):
            what = (
                "has no __init__.py"
                if path.is_dir()
                else "is not a Python file"
                if path.exists()
                else "does not exist"
            )
            raise UserError(
                f"{path} {what}, so it is not a plug-in: name a file FILE.py, a folder with an"
                " __init__.py, or a module.",
                code=2,
            )
        return str(path), path
    code = code_of(source) if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", source) else None
    if code is None:
        raise UserError(
            f"There is no module called {harmless(source)} here: name a file by its path, like"
            " ./mine.py, or put the module's folder on PYTHONPATH.",
            code=2,
        )
    return source, code


def code_of(module: str) -> Path | None:
    """The path of a module's code, without importing the module or its parent packages; None if it
    is not found or has no Python code.
    """
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    for base in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(base, *rest)
        if (folder / "__init__.py").is_file():
            return folder
        if rest and (file := folder.with_name(f"{folder.name}.py")).is_file():
            return file
    file = Path(spec.origin) if spec and spec.origin else Path()
    return file if not rest and file.suffix == ".py" and file.is_file() else None


def beside(path: Path, only: str | None = "") -> str:
    """Two sentences, which say what is wrong and what to do, if a Python file imports, at its top
    level, a module that lies beside it and is not found from other folders; empty if it imports
    none. `only`: the one module to look for; "": any.
    """
    try:
        nodes = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # a folder, or a file that `use` will refuse
        return ""
    imported = [
        *(str(each.module) for each in nodes if isinstance(each, ast.ImportFrom) if not each.level),
        *(each.name for node in nodes if isinstance(node, ast.Import) for each in node.names),
    ]
    elsewhere = sys.path[sys.path[0] in ("", os.getcwd()) :]
    for name in (each.partition(".")[0] for each in imported):
        if (
            only in ("", name)
            and name not in {"robustviz", *sys.stdlib_module_names}
            and (path.with_name(f"{name}.py").is_file() or any(path.parent.glob(f"{name}/**/*.py")))
            and not any(finder.find_spec(name, elsewhere) for finder in sys.meta_path)
        ):
            return (
                f"{path} imports {name}, which lies beside it and is not found from other folders."
                + (
                    f" In that folder, write {path.stem} instead of {path.name}."
                    if re.fullmatch(r"[A-Za-z_]\w*", path.stem)
                    and path.stem not in sys.stdlib_module_names
                    else f" Rename {path.name}, for example to mine.py, and write mine in that"
                    " folder."
                )
            )
    return ""


def sha256(path: Path) -> str:
    """The hex SHA-256 of a file's bytes; for a folder, of the relative paths and SHA-256 of all
    Python files in it, in sorted order. Raises UserError if the file or folder cannot be read.
    """
    try:
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        if not path.is_dir():
            raise UserError(f"{path} cannot be read (there is no such file or folder).")
        whole = hashlib.sha256()
        for file in sorted(path.rglob("*.py")):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(f"{file.relative_to(path).as_posix()} {digest}\n".encode())
        return whole.hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error


def _memory() -> Path:
    return paths.users("runs", "ROBUSTVIZ_RUNS", "checkpoints/runs") / ".plugins.json"


def every() -> dict[str, dict[str, str]]:
    """All remembered plug-ins, by name as `find` returns it: for each the `path` and `sha256` of
    its code. Empty if none was ever remembered. Raises UserError if the list of them,
    `.plugins.json`, cannot be read or is damaged.
    """
    path = _memory()
    try:
        held = json.loads(path.read_text(encoding="utf-8"))["plugins"]
        return {
            str(each["source"]): {"path": str(each["path"]), "sha256": str(each["sha256"])}
            for each in held
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read: remove it, and name your plug-ins again with --plugin."
        ) from error


def remember(source: str | os.PathLike[str]) -> None:
    """Remember a plug-in and the SHA-256 of its present code, so that other commands, the app and
    trainings load it from now on. Raises UserError if there is no such plug-in, and if the list of
    remembered plug-ins cannot be read or written.
    """
    name, path = find(os.fspath(source))
    entry = {"path": str(path), "sha256": sha256(path)}
    if every().get(name) != entry:
        _write(every() | {name: entry})


def forget(source: str | os.PathLike[str]) -> None:
    """Forget a plug-in, given by its name or path: it is no longer loaded by itself. Its code is
    left as it is. Raises UserError if the plug-in is not remembered, and if the list of remembered
    plug-ins cannot be read or written.
    """
    text, held = os.fspath(source), every()
    name = text if text in held else str(Path(text).expanduser().resolve())
    if name not in held:
        raise UserError(registry.unknown("remembered plug-in", text, held), code=2)
    del held[name]
    _write(held)


def _write(held: Mapping[str, Mapping[str, str]]) -> None:
    path, rows = _memory(), [{"source": name, **kept} for name, kept in held.items()]
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps({"plugins": rows}, indent=1) + "\n", encoding="utf-8")
        os.replace(half, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}), so plug-ins cannot be"
            " remembered: check that the folder is writable, or set ROBUSTVIZ_RUNS."
        ) from error
