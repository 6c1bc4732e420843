"""The data sets that the user added, by name. Each is a folder `.data/<name>` in the user's folder
of runs, with a file `source.json` that says where its images are; uploaded images lie beside it. So
a name is enough for a menu, a command or the id of a run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustviz import paths, registry
from robustviz.types import JSON, UserError, harmless

if TYPE_CHECKING:
    from robustviz.data.base import Source

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
FILE = "source.json"


@dataclass(frozen=True)
class Own:
    """A data set that the user added.

    `asked` is the source that reads it, encoded as JSON, `card` a description of one to three
    sentences, and `added` the time when it was added (seconds since 1970).
    """

    name: str
    asked: JSON
    card: str = ""
    added: float = 0.0

    @property
    def source(self) -> Source:
        """The source that reads the images, with `name` set. Raises UserError if its key is not
        registered or its settings are not valid.
        """
        source: Source = registry.decode("data", self.asked)
        return replace(source, name=self.name)  # type: ignore[call-arg]

    @property
    def place(self) -> str:
        """Where the images come from, as text: a path, or the function that makes them."""
        dials = (value for name, value in self.asked.items() if name in ("path", "make"))
        return harmless(next(dials, self.asked["key"]))

    @property
    def uploaded(self) -> bool:
        """Whether the images lie in `folder(name)`, so that `remove` deletes them."""
        return Path(str(self.asked.get("path", ""))).is_relative_to(folder(self.name))


def home() -> Path:
    """The folder that holds all added data sets. It may not exist yet."""
    runs = paths.users("runs", "ROBUSTVIZ_RUNS", "checkpoints/runs")
    return runs.expanduser().resolve() / ".data"


def folder(name: str) -> Path:
    """The folder of one data set; it may not exist yet. Raises UserError for an invalid name."""
    return home() / _plain(name)


def check_name(name: str) -> str:
    """Returns `name`. Raises UserError if it is not a valid name, or if a data set has it already:
    one that comes with robustviz, or one that the user added.
    """
    if _plain(name) in registry.every("data"):
        raise UserError(f"{name} is a data set that comes with robustviz: choose another name.")
    if (folder(name) / FILE).exists():
        raise UserError(
            f"There is a data set called {name} already: choose another name, or remove that one"
            f" first (python -m robustviz data remove {name})."
        )
    return name


def every() -> dict[str, Own]:
    """All data sets that the user added, by name, sorted; those whose `source.json` is damaged are
    left out.
    """
    try:
        found = {place.name: _read(place) for place in sorted(home().iterdir())}
    except OSError:  # no data set has been added yet
        return {}
    return {name: own for name, own in found.items() if own is not None}


def add(name: str, source: Source, card: str = "") -> Own:
    """Save the description of `source` as the data set `name`, with an absolute path; no image is
    read.

    Raises UserError if the name is invalid or taken, if the source needs no name (those that come
    with robustviz have one), or if the file cannot be written.
    """
    if "name" not in registry.hints(type(source)):
        raise UserError(
            f"{source.key} has its own name: only folder:PATH, FILE.csv and pkg.mod:function"
            " get one."
        )
    asked = registry.encode(source.placed())
    own = Own(check_name(name), {**asked, "name": ""}, harmless(card), time.time())
    path = folder(name) / FILE
    content = {"source": own.asked, "card": own.card, "added": own.added}
    temporary = path.with_name(f".{FILE}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): check that the folder is"
            " writable, or set ROBUSTVIZ_RUNS."
        ) from error
    return own


def remove(name: str) -> None:
    """Delete the folder of an added data set: its description, and the images uploaded for it.

    Pictures in a folder of the user's own are not deleted. Raises UserError if there is no such
    data set, or if it cannot be deleted.
    """
    place = folder(name)
    if not place.is_dir():
        raise UserError(unknown(name))
    try:
        if place.is_symlink():
            place.unlink()
        else:
            shutil.rmtree(place)
    except OSError as error:
        raise UserError(
            f"{place} could not be removed ({error.strerror or error}): close the program that uses"
            " it."
        ) from error


def resolve(name: str) -> Source:
    """The source of the data set that the user added as `name`; its paths are absolute.

    Raises UserError if there is no such data set.
    """
    own = _read(home() / name) if NAME.fullmatch(name) else None
    if own is None:
        raise UserError(unknown(name), code=2)
    return own.source


def unknown(name: str) -> str:
    """The error message if there is no data set `name`: the closest name, then all names, and a
    hint if a folder has this name.
    """
    here = f" The folder is there: write folder:{harmless(name)}." if Path(name).is_dir() else ""
    return registry.unknown("data set", name, [*registry.keys("data"), *every()]) + here


def _plain(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UserError(
            f"{harmless(repr(name))} is not a valid name for a data set: use 1 to 32 of a-z, 0-9,"
            " '-' and '_', beginning with a letter or a number.",
            code=2,
        )
    return name


def _read(place: Path) -> Own | None:
    """The data set whose folder is `place`; None if its `source.json` is missing or damaged."""
    try:
        said: dict[str, Any] = json.loads((place / FILE).read_text(encoding="utf-8"))
        asked, card, added = said["source"], said.get("card", ""), said.get("added", 0)
        if not NAME.fullmatch(place.name) or not isinstance(asked["key"], str):
            return None
        return Own(place.name, dict(asked), harmless(card), float(added))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
