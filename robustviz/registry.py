"""The registry of everything a person can choose: methods, attacks, data sets, networks, and probes
(the measurements behind the pages).

A registered class, unless it is a network, is a frozen dataclass whose fields are its settings. The
command line, the form on the Train page, the documentation and the JSON of run folders are
generated from these fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import keyword
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from robustviz.imports import load
from robustviz.types import JSON, UserError, harmless, parse_number, plain, shown

C = TypeVar("C", bound=type)
T = TypeVar("T")
V = TypeVar("V")

ROOMS = {"method": "methods", "attack": "attacks", "data": "data", "net": "nets", "probe": "views"}
# What the value of a setting is. "": nothing special; "radius": a radius in pixel units; "run": a
# run trained on the same data; "starting run": such a run, whose weights the training starts from;
# "runs": several runs; "rule": any text, such as a rule for masks (`choices` are the usual ones);
# "net": an architecture; "augmentation": how training images are augmented; "folder": a folder or
# file on this computer that holds or makes a data set (at most one such setting per registered
# class); "image": the number of a test image; "class": the name of an image class; "name": the name
# that the user gave to a data set.
Kind = Literal[
    "",
    "radius",
    "run",
    "starting run",
    "runs",
    "rule",
    "net",
    "augmentation",
    "folder",
    "image",
    "class",
    "name",
]
# How other libraries call settings, and how they are called here.
ELSEWHERE = {
    **dict.fromkeys(("alpha", "eps_iter", "eps_step", "stepsize", "step"), "step_size"),
    **dict.fromkeys(("epsilon", "radius"), "eps"),
    **dict.fromkeys(("iters", "iterations", "n_iter", "nb_iter", "num_steps", "max_iter"), "steps"),
    **dict.fromkeys(("n_restarts", "num_restarts", "nb_restarts"), "restarts"),
    **dict.fromkeys(("random_start", "rand_init", "rand_start"), "start"),
    "n_queries": "queries",
}
RUNS: tuple[Kind, ...] = ("run", "starting run", "runs")

_table: dict[str, dict[str, type]] = {kind: {} for kind in ROOMS}
_unasked: set[tuple[str, str]] = set()  # registered but not offered: runs can name them
# A decorator: caches a function of a class, because such facts are needed often.
_once: Callable[[Callable[[type], V]], Callable[[type], V]] = functools.cache


class Taken(ValueError):
    """Raised when another class already holds a name."""


def _apart(held: type, cls: type) -> bool:
    """Whether `held` and `cls` are two different classes. They count as one class if their
    qualified names are equal and they come from the same module or one of them from `__main__`,
    because a module that is run as a script is also imported under its own name.
    """
    modules = {held.__module__, cls.__module__} - {"__main__"}
    return held.__qualname__ != cls.__qualname__ or len(modules) > 1


def register(name: str, *, offered: bool = True) -> Callable[[C], C]:
    """A decorator that registers a class under `name`, which is `kind/key`, e.g.
    `@register("method/trades")`; the kind is one of `ROOMS`. With `offered` false the class is left
    out of all lists of choices, but runs can still name it.

    The class gets `kind` and `key` as class attributes. The same class, defined again, replaces its
    earlier version. Raises Taken if a different class holds the name, because silently replacing
    that class would change what an old run folder means.
    """
    kind, _, key = name.partition("/")

    def enter(cls: C) -> C:
        held = _table[kind].get(key)
        if held is not None and _apart(held, cls):
            raise Taken(f"{name} is registered already, by {held.__module__}.{held.__qualname__}")
        cls.kind, cls.key = kind, key  # type: ignore[attr-defined]
        _table[kind][key] = cls
        if not offered:
            _unasked.add((kind, key))
        return cls

    return enter


def keys(kind: str) -> tuple[str, ...]:
    """The keys that are offered for a kind, such as "attack", in the order of registration, which
    is the order in which people should see them.
    """
    return tuple(key for key in every(kind) if offered(kind, key))


def offered(kind: str, key: str) -> bool:
    """Whether `kind/key` is in the lists of choices; true also for a key that is not registered."""
    return (kind, key) not in _unasked


def every(kind: str) -> tuple[str, ...]:
    """All keys of a kind in the order of registration, also those that are not offered. First
    imports the kind's subpackage, for probes also the module `result` of each view, because these
    imports register the classes.
    """
    room = load(f"robustviz.{ROOMS[kind]}")
    for module in room.modules("result") if kind == "probe" else ():  # they define the specs
        load(module)
    return tuple(_table[kind])


def get(kind: str, name: str) -> Any:
    """The class registered as `kind/name`, after importing the kind's subpackage. Raises UserError
    if there is none; its message lists the offered keys and suggests the nearest one, if one is
    similar.
    """
    if name not in every(kind):
        raise UserError(unknown(kind, name, keys(kind)), code=2)
    return _table[kind][name]


def made_in(within: Callable[[str], bool]) -> list[str]:
    """The names `kind/key` of all registered classes whose module's name satisfies `within`."""
    return [
        f"{kind}/{key}"
        for kind, held in _table.items()
        for key, cls in held.items()
        if within(cls.__module__)
    ]


def drop(name: str) -> None:
    """Unregister the class `name`, which is `kind/key`, because its plug-in failed to load. Raises
    KeyError if there is none.
    """
    kind, _, key = name.partition("/")
    del _table[kind][key]
    _unasked.discard((kind, key))


def unknown(what: str, name: str, known: typing.Iterable[str], most: int = 0) -> str:
    """The error message for an unknown name, such as `There is no attack called 'pdg'. Did you mean
    pgd? Known: fgsm, pgd.` `what` says what is not known, such as "data set".

    The message suggests the setting that other libraries call `name` (`ELSEWHERE`), if that setting
    is in `known`; otherwise the most similar name in `known`, if one is similar enough. It lists
    all of `known`; if there are more than `most` (and `most` is not 0), only the `most` nearest
    names and how many others there are.
    """
    known = list(known)
    told = ", ".join(known) or "none"
    if 0 < most < len(known):
        few = difflib.get_close_matches(str(name), known, n=most, cutoff=0)
        told = f"{', '.join(few)} and {len(known) - most} others"
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if (ours := ELSEWHERE.get(str(name), "")) in known:
        near = [ours]
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"There is no {what} called {harmless(repr(name))}.{hint} Known: {told}."


@dataclass(frozen=True)
class Option:
    """What forms, help texts and checks need to know about a setting. `help`: its help text; `low`,
    `high`: the inclusive bounds of a number (None: no bound); `kind`: what its value is, one of
    `Kind`; `choices`: the texts that are allowed (empty: any text; for the kind `rule`, any text is
    allowed and these are the usual ones); `advanced`: hidden in forms at first; `train_only`: a
    data set's setting that changes no test image; `later`: added after runs existed, so that its
    default is not part of a run's name.
    """

    help: str = ""
    low: float | None = None
    high: float | None = None
    advanced: bool = False
    kind: Kind = ""
    choices: tuple[str, ...] = ()
    train_only: bool = False
    later: bool = False

    def check(self, name: str, value: Any, owner: type) -> None:
        """Raises UserError if a number is out of bounds, or if a text is not one of the choices. A
        text of the kind `net` must be the key of a network; one of the kind `rule` may be anything.
        Empty texts are allowed. The type is not checked here (`coerce` does that). `name` is the
        setting and `owner` its class, for the messages.
        """
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            if not low <= value <= high:
                span = (
                    f"at least {shown(low)}"
                    if math.isinf(high)
                    else f"at most {shown(high)}"
                    if math.isinf(low)
                    else f"{shown(low)} to {shown(high)}"
                )
                raise UserError(
                    f"{name}={shown(value)} is out of range for {label(owner)}: it must be {span}.",
                    code=2,
                )
        elif value and self.kind == "net":  # the class itself replaces an empty text
            get("net", value)
        elif value and self.kind != "rule" and self.choices and value not in self.choices:
            raise UserError(unknown(self.kind or name, value, self.choices), code=2)


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    advanced: bool = False,
    kind: Kind = "",
    choices: tuple[str, ...] = (),
    train_only: bool = False,
    later: bool = False,
) -> Any:
    """A dataclass field that carries the properties of an `Option`. A `default` that is callable,
    such as a class, is the field's default factory.
    """
    start: JSON = {"default_factory" if callable(default) else "default": default}
    return dataclasses.field(
        **start, metadata=vars(Option(help, low, high, advanced, kind, choices, train_only, later))
    )


@_once
def options(cls: type) -> dict[str, Option]:
    """The `Option` of each field of a dataclass, by name."""
    return {field.name: Option(**field.metadata) for field in dataclasses.fields(cls)}


def of_kind(cls: type, *kinds: Kind) -> tuple[str, ...]:
    """The names of a dataclass's fields whose `Option.kind` is one of these."""
    return tuple(name for name, option in options(cls).items() if option.kind in kinds)


class Spec:
    """Base class of registered dataclasses. When an object is created, each field is converted to
    its type (`coerce`), and its bounds and choices are checked (`Option.check`); this raises
    UserError for a value that is not allowed.
    """

    kind: typing.ClassVar[str]
    key: typing.ClassVar[str]

    def __post_init__(self) -> None:
        for name, known in options(type(self)).items():
            value = coerce(hints(type(self))[name], getattr(self, name), name)
            known.check(name, value, type(self))
            object.__setattr__(self, name, value)


def label(cls: type) -> str:
    """What people call a class: its registered key, else its class name."""
    return str(getattr(cls, "key", None) or cls.__name__)


@_once
def hints(cls: type) -> dict[str, Any]:
    """The resolved type annotation of each field of a dataclass."""
    every = typing.get_type_hints(cls)
    return {field.name: every[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def without_none(hint: Any) -> tuple[Any, bool]:
    """The type `hint` without None, and whether `hint` allows None: `str | None` gives (str, True).
    Of a union of several other types, the first is taken.
    """
    args = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else ()
    return next((arg for arg in args if arg is not type(None)), hint), type(None) in args


def _bare(text: object) -> str:
    return "".join(filter(str.isalnum, str(text).lower()))


def coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` converted to the type `hint`. If the type asks for it, whole numbers become floats
    and 3.0 becomes 3, lists become tuples, mappings become dataclasses (`decode`), the key of a
    registered class becomes an object with its default settings, and another spelling of a choice,
    such as `L-2`, becomes the usual one. NumPy numbers always become Python's. None is allowed only
    if `hint` allows it.

    Raises UserError for any other value; `path` is what most messages call the field. Text is never
    converted to a number here; the command line does that, where all values are text.
    """
    if type(value) is hint and hint in (int, str, bool):  # a shortcut: most values are these
        return value
    value = plain(value)
    hint, optional = without_none(hint)
    if optional and value is None:
        return None
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if isinstance(value, (str, bool)):  # accepts other spellings: Linf, L-2; JSON's true
            value = {_bare(arg): arg for arg in args}.get(_bare(str(value)), value)
        if value in args and not isinstance(value, bool):
            return value
        raise UserError(f"{path}={value!r} is not one of {', '.join(map(str, args))}.", code=2)
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(coerce(args[0], item, path) for item in value)
        raise UserError(f"{path}={value!r} should be a list.", code=2)
    if origin is dict and isinstance(value, Mapping):
        return {name: coerce(args[1], item, f"{path}.{name}") for name, item in value.items()}
    if hint in (Any, object):
        return value
    if dataclasses.is_dataclass(hint) or hasattr(hint, "kind"):
        if isinstance(value, Mapping):
            return decode(hint.kind, value)
        thing = get(hint.kind, value)() if isinstance(value, str) else value
        if isinstance(thing, hint):
            return thing
        raise UserError(f"{path}={value!r} is not a {hint.kind}.", code=2)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return parse_number(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    kind = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}.get(
        hint, str(hint)
    )
    raise UserError(f"{path}={value!r} should be {kind}.", code=2)


def encode(thing: Any, naming: bool = False) -> Any:
    """`thing` as plain JSON values. A dataclass becomes a dictionary of its fields, a registered
    one also with its `key`; the keys of mappings become text; tuples become lists; any other value
    is returned as it is. With `naming`, for a run's name, settings with `Option.later` are left out
    if they have their default.
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return ({"key": thing.key} if hasattr(thing, "key") else {}) | {
            field.name: encode(getattr(thing, field.name), naming)
            for field in dataclasses.fields(thing)
            if not (
                naming
                and field.metadata.get("later")
                and getattr(thing, field.name) == field.default
            )
        }
    if isinstance(thing, Mapping):
        return {str(name): encode(value, naming) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [encode(value, naming) for value in thing]
    return thing


def flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each value of nested settings with its dotted path, as ("method.beta", 6.0). `before`
    is put in front of each path.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def decode(kind: str, mapping: Mapping[str, Any]) -> Any:
    """The object that `encode` turned into `mapping`: an instance of the class registered under
    `kind` and the mapping's `key`, with the other entries as its settings. Raises UserError for an
    unknown key, and as `build` does.
    """
    fields = dict(mapping)
    return build(get(kind, str(fields.pop("key", ""))), fields)


def build(cls: type[T], fields: Mapping[str, Any]) -> T:
    """An instance of a dataclass from a mapping of its fields, with each value converted by
    `coerce`. Missing fields get their defaults. Raises UserError for an unknown field or a value
    that is not allowed, and TypeError if a field without a default is missing.
    """
    known = hints(cls)
    fields = {_field(name, known): value for name, value in fields.items()}
    if strange := [name for name in fields if name not in known]:
        names = [field.removesuffix("_") for field in known]
        raise UserError(unknown(f"setting of {label(cls)}", strange[0], names), code=2)
    return cls(**{name: coerce(known[name], value, name) for name, value in fields.items()})


def with_value(thing: Any, path: str, value: Any, whole: str | None = None) -> Any:
    """A copy of the dataclass `thing` with the field at the dotted `path`, e.g.
    `method.attack.steps`, set to `value`. `whole`: the path to name in error messages, if `path` is
    only its end.

    Raises UserError for an unknown path, with the nearest known one, and for a value that is not
    allowed.
    """
    whole = whole or path
    name, _, rest = path.partition(".")
    known = hints(type(thing))
    if not known:
        raise UserError(
            f"There is no setting called {whole!r}: {label(type(thing))} has no settings of its"
            " own.",
            code=2,
        )
    name = _field(name, known)
    if name not in known:
        raise UserError(unknown("setting", whole, _paths(thing, whole.removesuffix(path))), code=2)
    if rest:
        inner = getattr(thing, name)
        if not dataclasses.is_dataclass(inner):
            raise UserError(
                f"{whole.removesuffix('.' + rest)} has no settings inside it, so {whole} cannot be"
                " set.",
                code=2,
            )
        return dataclasses.replace(thing, **{name: with_value(inner, rest, value, whole)})
    return dataclasses.replace(thing, **{name: coerce(known[name], value, whole)})


def is_text(thing: Any, name: str) -> bool:
    """Whether a dataclass has a field of this name whose type is `str`; a type such as `str | None`
    does not count.
    """
    known = hints(type(thing))
    return known.get(_field(name, known)) is str


def _field(name: str, known: typing.Container[str]) -> str:
    """The field that a person means by `name`: `class` is a Python keyword, so its field is
    `class_`; any other name is returned as it is.
    """
    return f"{name}_" if keyword.iskeyword(name) and f"{name}_" in known else name


def _paths(thing: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted path of each setting, also of nested ones, as a person types it."""
    for field in dataclasses.fields(thing):
        yield prefix + field.name.removesuffix("_")
        if dataclasses.is_dataclass(getattr(thing, field.name)):
            yield from _paths(getattr(thing, field.name), f"{prefix}{field.name}.")


def key(thing: Any) -> str:
    """A short, stable name of settings for cache keys and file names: the class's key (or the
    class's name) in lower case with `-` for `_`, then `-` and 12 hex digits of a hash of the
    settings as JSON, such as `part-t-0f3a5c7e9b12`.

    Equal settings have the same name on every machine and in every session; the name is safe as a
    file name.
    """
    text = json.dumps(encode(thing), sort_keys=True, separators=(",", ":"))
    name = str(getattr(thing, "key", type(thing).__name__)).lower().replace("_", "-")
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
