"""What everything of a kind promises, whoever wrote it: checks that `python -m robustviz contracts`
runs on a plug-in and our own tests on all that is registered.

A check takes what it tries and returns nothing, or why it does not apply; `hold` raises `Broken`.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustviz import plugins, registry
from robustviz.imports import load
from robustviz.types import JSON, UserError

Check = Callable[[Any], str | None]
NORMS = {"linf": 0.1, "l2": 1.0}  # the radii at which attacks are tried


class Broken(AssertionError):
    """A promise that is not kept, in one sentence."""


@dataclass(frozen=True)
class Promise:
    """What things of a `kind` promise (the first line of the check's text), and the check."""

    kind: str
    says: str
    check: Check


_promises: list[Promise] = []


def promise(kind: str) -> Callable[[Check], Check]:
    """A decorator: this check is a promise of all things of a kind."""

    def enter(check: Check) -> Check:
        says = " ".join((check.__doc__ or "").split()).rstrip(".")
        _promises.append(Promise(kind, says, check))
        return check

    return enter


def promises(kind: str) -> list[Promise]:
    """What things of a kind promise, as in its module here."""
    load(f"robustviz.contracts.{'data' if kind == 'data' else f'{kind}s'}")
    return [each for each in _promises if each.kind == kind]


def hold(kept: object, sentence: str) -> None:
    """Raises Broken with the sentence where a promise is not kept."""
    if not kept:
        raise Broken(sentence)


def things(kind: str, key: str) -> dict[str, Any]:
    """What is tried of a registered thing, by name: an attack in each norm that it takes, of a
    network its key, else one as it comes.
    """
    name = f"{kind}/{key}"
    if kind == "page":
        return {name: next(each for each in plugins.pages() if each.name == key)}
    if kind == "net":
        return {name: key}
    if kind != "attack":
        return {name: registry.get(kind, key)()}
    out = {}
    for norm, eps in NORMS.items():
        with contextlib.suppress(UserError):  # an attack may refuse l2
            out[f"{name} in {norm}"] = registry.get(kind, key)(norm=norm, eps=eps)
    return out


def tried(plugin: plugins.Plugin) -> Iterator[JSON]:
    """Every promise of everything that a plug-in brought: `thing`, `promise`, `kept` (None where it
    does not apply), and `said`, what is wrong or why it does not apply.
    """
    for name in plugin.things:
        kind, _, key = name.partition("/")
        for shown, thing in things(kind, key).items():
            for each in promises(kind):
                yield {"thing": shown, "promise": each.says, **_result(each.check, thing, plugin)}


def _result(check: Check, thing: Any, plugin: plugins.Plugin) -> JSON:
    try:
        why = check(thing)
    except (Broken, UserError) as error:
        return {"kept": False, "said": str(error)}
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if Path(each.filename).is_relative_to(plugin.path)]
        at = f" in line {lines[-1]}" if lines else ""
        return {"kept": False, "said": f"{type(error).__name__}{at}: {error}"}
    return {"kept": None if why else True, "said": why or ""}
