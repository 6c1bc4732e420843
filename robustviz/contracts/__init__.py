"""The promises that every attack, method, network, data set, probe and page must keep.
`python -m robustviz contracts` checks them for a plug-in, our own tests for everything registered.
A check takes the thing to test and returns None, or a sentence that says why it does not apply to
this thing. It calls `hold`, which raises `Broken` if a promise is not kept.
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
NORMS = {"linf": 0.1, "l2": 1.0}  # norm -> the radius ε with which attacks are tested


class Broken(AssertionError):
    """Raised if a promise is not kept; the message is one sentence that says what is wrong."""


@dataclass(frozen=True)
class Promise:
    """A promise that all things of `kind` must keep: what it `says`, and the `check` of it.

    `says` is the docstring of `check` without the full stop.
    """

    kind: str
    says: str
    check: Check


_promises: list[Promise] = []


def promise(kind: str) -> Callable[[Check], Check]:
    """A decorator that registers a check as a promise of all things of `kind`, such as `attack`."""

    def enter(check: Check) -> Check:
        _promises.append(Promise(kind, " ".join((check.__doc__ or "").split()).rstrip("."), check))
        return check

    return enter


def promises(kind: str) -> list[Promise]:
    """All promises of things of `kind`, such as `attack`, in the order of their definition."""
    load(f"robustviz.contracts.{'data' if kind == 'data' else f'{kind}s'}")
    return [each for each in _promises if each.kind == kind]


def hold(kept: object, sentence: str) -> None:
    """Raises Broken with the message `sentence` if `kept` is false."""
    if not kept:
        raise Broken(sentence)


def things(kind: str, key: str) -> dict[str, Any]:
    """What to pass to the checks of the registered thing `kind`/`key`: {name to display: object}.

    For an attack there is one instance for each norm in `NORMS` that it accepts, with the radius
    that stands there. For a network the object is its key, for a page the `Page`, and for anything
    else, also for an attack that accepts no such norm, an instance with default settings. Raises
    UserError if no class is registered under this name.
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
    return out or {name: registry.get(kind, key)()}


def tried(plugin: plugins.Plugin) -> Iterator[JSON]:
    """Yields a result for each thing that a plug-in registered and each promise of its kind.

    A result is a dict. `thing`: the name to display; `promise`: what is promised; `kept`: True,
    False, or None if the promise does not apply; `said`: what is wrong, or why the promise does not
    apply, and empty if it is kept. An error that a check raises makes a result, too, with `kept`
    False.
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
