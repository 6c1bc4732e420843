"""Whom to cite: BibTeX of the methods, attacks, data sets and architectures that a run uses.

`citations.bib` says of each entry, in its `keywords`, what it is cited for. A thing from a plug-in
has its entries in the class's own `bibtex`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from robustviz import registry
from robustviz.runs.folder import Run
from robustviz.types import UserError

FILE = Path(__file__).with_suffix(".bib")
NOT_A_PAPER = ("imported", "folder", "manifest", "made")  # a person's own


def used(run: Run) -> tuple[str, ...]:
    """What a run uses, as `method/trades`: its method and what this attacks with, its data, its
    architecture, and the attacks that it was evaluated under. Raises UserError where it is damaged.
    """
    info = run.info
    method = info["method"]
    found = [f"method/{method['key']}", *_attacks(method)]
    if method.get("awp"):
        found.append("setting/awp")
    found += [f"data/{run.data_key}", f"net/{run.architecture}"]
    found += [f"attack/{each.attack.get('key')}" for each in run.evaluations()]
    return tuple(dict.fromkeys(found))


def _attacks(settings: Mapping[str, object]) -> Iterator[str]:
    inner = settings.get("attack")
    if isinstance(inner, Mapping):
        yield f"attack/{inner.get('key')}"


def bibtex(things: Iterable[str]) -> str:
    """The entries for things such as `method/trades` or `attack/pgd`, each once, in their order;
    empty where nothing is to be cited.
    """
    entries = [entry for thing in things for entry in _of(thing)]
    return "\n\n".join(dict.fromkeys(entries))


def missing(things: Iterable[str]) -> list[str]:
    """Those that nothing is known to cite for, a person's own left out."""
    return [
        thing for thing in things if not _of(thing) and thing.partition("/")[2] not in NOT_A_PAPER
    ]


def _of(thing: str) -> list[str]:
    kind, _, key = thing.partition("/")
    entries = list(_shipped().get(thing, ()))
    if kind in registry.ROOMS and not entries:
        try:
            text = str(getattr(registry.get(kind, key), "bibtex", "")).strip()
        except UserError:  # of a plug-in that is not here
            text = ""
        entries = [text] if text else []
    return entries


@functools.cache
def _shipped() -> dict[str, list[str]]:
    """The shipped entries by what they are cited for."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n\n+(?=@)", FILE.read_text(encoding="utf-8").strip()):
        said = re.search(r"^  keywords = \{(.*)\},\n", entry, re.MULTILINE)
        for thing in said[1].split(", ") if said else ():
            found.setdefault(thing, []).append(entry.replace(said[0] if said else "", ""))
    return found
