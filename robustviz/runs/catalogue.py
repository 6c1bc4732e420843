"""Names and usual settings of methods, data sets and networks, without importing torch. For shipped
ones they are in `checkpoints/story/catalogue.json`; for others the registry is asked. `make story`
writes the file, and a test checks that it agrees with the registry.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustviz import paths, registry
from robustviz.runs.files import read_json, stamp
from robustviz.types import JSON, UserError

if TYPE_CHECKING:
    from robustviz.runs.inside import Inside

FILE = paths.ROOT / "checkpoints" / "story" / "catalogue.json"
KINDS = ("method", "data", "net")


def keys(kind: str, *needed: str) -> list[str]:
    """Returns the keys of a kind ("method", "data" or "net") in the order of the registry: those of
    robustviz and, if one of the keys `needed` is not among them, also those of the loaded plug-ins.
    Keys that are hidden from lists of choices are included only if they are in `needed`.
    """
    shipped = _shipped(stamp(FILE)).get(kind, {})
    known = [
        key
        for key, facts in shipped.items()
        if key in needed or not facts.get("unasked")  # known from the file, without the registry
    ]
    if known and set(needed) <= set(known):
        return known
    return [key for key in registry.every(kind) if key in needed or registry.offered(kind, key)]


def known(kind: str, key: str) -> bool:
    """Whether this version of robustviz, with the plug-ins loaded, has this key of a method, data
    set or network.
    """
    return key in keys(kind, key)


def facts(kind: str, key: str) -> JSON:
    """Returns the facts about one method, data set or network, as `described` does, but from the
    shipped file if it has the key. Raises UserError for an unknown key.
    """
    shipped = _shipped(stamp(FILE)).get(kind, {})
    return shipped[key] if key in shipped else described(kind, key)


def is_l2(run: Inside) -> bool:
    """Whether the attack of a run's training had the norm l2, so that the run's ε cannot be given
    in grey levels; False if its method has no attack.
    """
    return run.norm != "linf"


def radius(run: Inside) -> float:
    """Returns the linf ε with which views attack a run's network by default: the run's own ε, or
    its data's default ε if it was trained in l2.
    """
    return float(facts("data", run.data_key)["default_eps"]) if is_l2(run) else run.eps


def images(data: str) -> int | None:
    """Returns how many test images the shipped runs on a data set use; None if there are no such
    runs.
    """
    count: int | None = _shipped(stamp(FILE)).get("images", {}).get(data)
    return count


def described(kind: str, key: str) -> JSON:
    """Returns the facts about a method, data set or network, from the registry. Raises UserError
    for an unknown key.

    A method has its names and texts, its `recipe`, its settings at their defaults (`usual`), and
    the `kinds` of these (`Option.kind`). A data set has its `recipe`, its `default_eps`,
    `train_only` (the settings that leave the test images unchanged) and `folders` (the settings
    that name a folder). A network has no facts. `unasked` is True for a key that is hidden from
    lists of choices, else missing.
    """
    told = dict(_TELL[kind](registry.get(kind, key)))
    return told if registry.offered(kind, key) else told | {"unasked": True}


def found(images: dict[str, int]) -> JSON:
    """Returns the whole catalogue, made from the registry, as the shipped file holds it. `images`:
    the number of test images by data set.
    """
    every = {kind: {key: described(kind, key) for key in registry.every(kind)} for kind in KINDS}
    return {**every, "images": images}


@functools.lru_cache(maxsize=1)
def _shipped(now: tuple[int, int, int]) -> JSON:
    try:
        return read_json(FILE)
    except UserError:
        return {}


def _method(cls: Any) -> JSON:
    usual = cls()
    return {
        **{name: getattr(cls, name) for name in ("label", "group", "text", "paper", "choices")},
        "recipe": registry.encode(cls.recipe),
        "usual": registry.encode(usual),
        "kinds": _kinds(usual),
    }


def _kinds(thing: Any) -> JSON:
    """Returns the kind (`Option.kind`) of each setting that has one, by name. For a setting that
    has settings of its own, it is a dictionary of their kinds.
    """
    kinds: JSON = {}
    for name, option in registry.options(type(thing)).items():
        value = getattr(thing, name)
        kinds[name] = _kinds(value) if dataclasses.is_dataclass(value) else option.kind
    return {name: kind for name, kind in kinds.items() if kind}


def _data(cls: Any) -> JSON:
    dials = registry.options(cls)
    return {
        "recipe": registry.encode(getattr(cls, "recipe", {})),
        "default_eps": cls.default_eps,
        "train_only": [name for name, option in dials.items() if option.train_only],
        "folders": list(registry.of_kind(cls, "folder")),
    }


_TELL: dict[str, Callable[[Any], JSON]] = {"method": _method, "data": _data, "net": lambda cls: {}}
