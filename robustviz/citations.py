"""What to cite: BibTeX entries for the methods, attacks, data sets and architectures that a run
uses.

In `citations.bib` the field `keywords` of an entry lists what the entry is cited for, such as
`method/trades`. Classes of a plug-in have their entries in an attribute `bibtex`.
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
NOT_A_PAPER = ("imported", "folder", "manifest", "made")  # of one's own: no paper to cite


def used(run: Run) -> tuple[str, ...]:
    """What a run uses, as names such as `method/trades`, each once: its method and the attack
    inside it, `setting/awp` if its method uses AWP, its data set, its architecture, and the attacks
    that it was evaluated under. Raises UserError for a damaged run.
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
    """The BibTeX entries for names such as `method/trades` or `attack/pgd`, each entry once and in
    this order; empty if none of the names has one.
    """
    entries = [entry for thing in things for entry in _of(thing)]
    return "\n\n".join(dict.fromkeys(entries))


def missing(things: Iterable[str]) -> list[str]:
    """The names in `things` for which no BibTeX entry is known, except those whose key is in
    `NOT_A_PAPER`, such as `method/imported`: the user's own networks and images need no citation.
    """
    return [
        thing for thing in things if not _of(thing) and thing.partition("/")[2] not in NOT_A_PAPER
    ]


def _of(thing: str) -> list[str]:
    kind, _, key = thing.partition("/")
    entries = list(_shipped().get(thing, ()))
    if kind in registry.ROOMS and not entries:
        try:
            text = str(getattr(registry.get(kind, key), "bibtex", "")).strip()
        except UserError:  # its plug-in is not loaded
            text = ""
        entries = [text] if text else []
    return entries


@functools.cache
def _shipped() -> dict[str, list[str]]:
    """The BibTeX entries of `citations.bib` by each name that they are cited for, such as
    `method/trades`. The field `keywords` is removed from them.
    """
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n\n+(?=@)", FILE.read_text(encoding="utf-8").strip()):
        said = re.search(r"^  keywords = \{(.*)\},\n", entry, re.MULTILINE)
        for thing in said[1].split(", ") if said else ():
            found.setdefault(thing, []).append(entry.replace(said[0] if said else "", ""))
    return found
