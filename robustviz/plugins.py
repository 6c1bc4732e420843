"""Plug-ins: methods, attacks, networks, data sets, probes and pages of other people, without a
fork.

A plug-in is a Python file, a folder or a module. Importing it registers its classes. It is imported
only if a person named it, now or earlier (see `trust`): by `--plugin`, `ROBUSTVIZ_PLUGINS`, an
installed entry point, or `use`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from robustviz import paths, registry, trusted
from robustviz.imports import load
from robustviz.types import UserError, harmless

F = TypeVar("F", bound=Callable[..., Any])

GROUP = "robustviz.plugins"  # the group of entry points
VARIABLE = "ROBUSTVIZ_PLUGINS"
# For each kind, the base class of a plug-in's classes and the attributes that pages need of them.
BASES = {
    "method": ("robustviz.methods.base", "Method", ("label", "group", "paper", "text")),
    "attack": ("robustviz.attacks.base", "Attack", ("label", "text")),
    "data": ("robustviz.data.base", "Source", ("label", "recipe")),
    "net": ("robustviz.nets.base", "Classifier", ("label",)),
    "probe": ("robustviz.views.result", "ProbeSpec", ("result",)),
}


@dataclass(frozen=True)
class Plugin:
    """A loaded plug-in. `source`: the name by which run folders list it, which is the absolute path
    of a file or folder, or a module's name. `path`: where its code is; `sha256`: the hash of the
    code. `module`: the name under which the code is imported. `things`: the names of what it
    registered, such as `method/mixed_at` or `page/mine`; its figures are not among them.
    """

    source: str
    path: Path
    sha256: str
    module: str
    things: tuple[str, ...] = ()

    def holds(self, module: str) -> bool:
        """Whether a module, given by name, is this plug-in or a submodule of it."""
        return module == self.module or module.startswith(f"{self.module}.")


@dataclass(frozen=True)
class Page:
    """A page that a plug-in adds to the menu: its `name` (in the address with dashes), its `title`,
    the question that it answers (`help`), and `show`, the function that draws it.
    """

    name: str
    title: str
    help: str
    show: Callable[[], None]


_loaded: dict[str, Plugin] = {}
# Error messages by source and SHA-256, so that a plug-in that failed is not tried again.
_failed: dict[tuple[str, str], str] = {}
_pages: dict[str, Page] = {}
_figures: dict[str, Callable[..., Any]] = {}
_turn = threading.RLock()


# Decorators for plug-ins, besides `@register` and `@probe`.


def page(name: str, title: str, help: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A decorator that adds a page to the menu; the decorated function draws the page. `name`: a
    letter a-z, then a-z, 0-9 and `_`; `help`: the question that the page answers, shown in the
    menu. Import Streamlit inside the function, because a training does not need it. Raises
    UserError for a name that is invalid or taken, by a page of ours or of another module.
    """

    def enter(show: Callable[[], None]) -> Callable[[], None]:
        ours = (paths.ROOT / "pages" / f"{name}.py", paths.PACKAGE / "views" / name)
        held = _pages.get(name)
        if any(map(Path.exists, ours)) or (held and held.show.__module__ != show.__module__):
            raise UserError(f"page/{name} exists already: give the page another name.")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(f"{name!r} cannot be the name of a page: use a-z, 0-9 and '_'.")
        _pages[name] = Page(name, title, help, show)
        return show

    return enter


def figure(name: str) -> Callable[[F], F]:
    """A decorator: the function draws the result of the probe called `name`, and becomes
    `robustviz.figures.<name>`. Raises UserError for a name that is taken, by a figure of ours or of
    another module.
    """

    def enter(draw: F) -> F:
        held = _figures.get(name)
        if held.__module__ != draw.__module__ if held else _is_ours(name):
            raise UserError(f"figure/{name} exists already: give the figure another name.")
        _figures[name] = draw
        return draw

    return enter


def _is_ours(name: str) -> bool:
    """Whether robustviz itself has a figure of this name. Reads the source files, because importing
    them would need Plotly, which a server that only trains may lack.
    """
    word = re.escape(name)
    offered = (paths.PACKAGE / "figures.py", rf"\b{word} as {word}\b")
    views = ((file, rf"^def {word}\(") for file in (paths.PACKAGE / "views").glob("*/figures.py"))
    return any(
        re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
        for file, pattern in (offered, *views)
    )


def pages() -> list[Page]:
    """The pages of all loaded plug-ins."""
    return list(_pages.values())


def figures() -> dict[str, Callable[..., Any]]:
    """The figures of all loaded plug-ins, by name."""
    return dict(_figures)


# Loading.


def loaded() -> tuple[Plugin, ...]:
    """All plug-ins that this process has loaded."""
    return tuple(_loaded.values())


def modules() -> list[str]:
    """The names of the imported modules of all loaded plug-ins, with the submodules of packages."""
    return [name for each in loaded() for name in list(sys.modules) if each.holds(name)]


def of(cls: type) -> Plugin | None:
    """The loaded plug-in that a class comes from; None if it comes from no plug-in, such as
    robustviz's own classes.
    """
    return next((each for each in loaded() if each.holds(cls.__module__)), None)


def use(source: str | os.PathLike[str], *, sha256: str = "") -> Plugin:
    """Import a plug-in, given as the path of a file or folder or as a module's name, and return it.
    A plug-in that is loaded already is not imported again. `sha256`: the SHA-256 that its code must
    have; empty: any.

    Raises UserError, without importing anything, if the plug-in is not found, if its code has
    another SHA-256 than `sha256`, or if its code has changed since this process loaded it (the
    loaded version then stays in use). Also raises UserError if the import fails, or if the plug-in
    registers a name that is taken or an invalid class; then nothing of it stays registered.
    """
    with _turn:
        name, path = trusted.find(os.fspath(source))
        sha = trusted.sha256(path)
        if sha256 and sha != sha256:
            raise UserError(f"The plug-in {name} has changed: its SHA-256 is not {sha256}.")
        if (held := _loaded.get(name)) is not None:
            if held.sha256 == sha:
                return held
            raise UserError(
                f"The plug-in {name} has changed since it was loaded: restart robustviz to use"
                " the new version."
            )
        by_path = Path(name).is_absolute()
        hashed = hashlib.sha256(name.encode()).hexdigest()[:8]
        stem = re.sub(r"\W", "_", path.stem)
        found = Plugin(name, path, sha, f"robustviz_plugin_{stem}_{hashed}" if by_path else name)
        registry.keys("probe")  # load our own probes first, so that their names are taken
        try:
            _import(found, by_path)
            things = [_checked(each) for each in registry.made_in(found.holds)]
        except BaseException as error:
            _drop(found)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UserError(_sentence(found, error)) from error
        brought = [f"page/{each.name}" for each in pages() if found.holds(each.show.__module__)]
        _loaded[name] = dataclasses.replace(found, things=(*things, *brought))
        return _loaded[name]


def trust(source: str | os.PathLike[str]) -> None:
    """Remember a plug-in and the SHA-256 of its present code, so that other commands, the app and
    trainings load it from now on. Raises UserError if it is not found, or if the list of remembered
    plug-ins cannot be read or written.
    """
    trusted.remember(source)


def take(named: Iterable[str]) -> None:
    """Load and remember the plug-ins `named`, which a person names now. Raises UserError for the
    first that cannot be loaded, or that is a file and imports files beside it, and if the list of
    remembered plug-ins cannot be read or written.
    """
    for source in named:
        _use_named(source)
        trust(source)


def load_all(
    named: Iterable[str] = (), tell: Callable[[str], object] = lambda line: _say(line)
) -> None:
    """Load all plug-ins that a person named: those in `named`, from the command line (these are
    also remembered), those in the environment variable `ROBUSTVIZ_PLUGINS`, those of entry points,
    and the remembered ones, if their code is unchanged.

    Raises UserError for one in `named` that cannot be loaded. The others may not be needed now: if
    one of them fails, `tell` is called with a sentence, which by default goes to standard error.
    """
    take(named)
    entries = importlib.metadata.entry_points(group=GROUP)
    for source in dict.fromkeys((*in_environment(), *(each.module for each in entries))):
        _try(partial(use, source), tell)
    remembered: list[str] = []
    _try(lambda: remembered.extend(trusted.every()), tell)
    for source in remembered:
        if source not in _loaded:
            _try(partial(_use_trusted, source), tell)


def in_environment() -> list[str]:
    """The plug-ins that `ROBUSTVIZ_PLUGINS` lists, separated by `:` (`;` on Windows)."""
    return [each.strip() for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each.strip()]


def resolve(source: str, *, asked_by: str = "", sha256: str = "") -> Callable[..., Any]:
    """The function that `source`, `FILE.py:make` or `pkg.mod:make`, names; its module is loaded as
    a plug-in.

    Without `asked_by`, a person at a command line names the function, and its code is loaded.
    `asked_by` says what else names it, such as `The run x`: then the code must either be loaded
    already, under this name or with this `sha256`, or be trusted on this computer and unchanged.

    Raises UserError if there is no such function, if its code is not trusted here or cannot be
    loaded, and if a person names a file that imports files beside it.
    """
    place, colon, name = source.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise UserError(
            f"{harmless(repr(source))} names no function: write FILE.py:make or pkg.mod:make.",
            code=2,
        )
    if not asked_by:
        plugin = _use_named(place)
    elif lack := lacking([{"source": place, "sha256": sha256}], asked_by):
        raise UserError(lack)
    else:
        same = [each for each in loaded() if sha256 and each.sha256 == sha256]
        plugin = _loaded.get(place) or same[0]
    made = getattr(sys.modules[plugin.module], name, None)
    if not callable(made):
        raise UserError(f"{harmless(plugin.source)} has no function called {name}.")
    return cast(Callable[..., Any], made)


# The plug-ins that a run needs.


def needed(config: object) -> list[dict[str, str]]:
    """The plug-ins that a config needs, as the run's config.json lists them (the `source` and
    `sha256` of each): those that its method, attack, data and network come from, and those with
    functions that its settings name.
    """
    found = dict.fromkeys(_behind(config))
    return [{"source": each.source, "sha256": each.sha256} for each in found]


def _behind(thing: Any) -> Iterator[Plugin]:
    """The plug-ins that a dataclass depends on: that of its own class, those of networks and
    functions that its fields name, and, recursively, those of dataclasses in its fields.
    """
    nets = registry.of_kind(type(thing), "net")
    classes = (type(thing), *(registry.get("net", getattr(thing, name)) for name in nets))
    yield from filter(None, map(of, classes))
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if dataclasses.is_dataclass(value):
            yield from _behind(value)
        elif isinstance(value, str) and (named := _loaded.get(value.rpartition(":")[0])):
            yield named


def lacking(asked: Iterable[Mapping[str, object]], whose: str) -> str:
    """A text that begins with `whose` and says which of the plug-ins `asked` is not available here,
    and why; empty if all are available. `asked` are plug-ins as a run's config.json lists them; the
    text is about the first that is missing.

    A plug-in that is not loaded yet is loaded now if a person has trusted its code on this
    computer, also if the same code is at another path. Other code is never imported.
    """
    for entry in asked:
        source, sha = str(entry.get("source", "")), entry.get("sha256")
        if source in _loaded or (sha and any(each.sha256 == sha for each in loaded())):
            continue
        name = f"{harmless(source):.200}"
        try:
            held = trusted.every()
            same = [each for each, kept in held.items() if sha and kept["sha256"] == sha]
            if source not in held and not same:
                return (
                    f"{whose} needs the plug-in {name}, which is not loaded here: if you trust its"
                    f" code, name it with --plugin {name}."
                )
            _use_trusted(source if source in held else same[0])
        except UserError as error:
            return f"{whose} needs a plug-in that is not here. {error}"
    return ""


def changed(asked: Iterable[Mapping[str, object]]) -> str:
    """One sentence that names those of the plug-ins `asked`, as a run's config.json lists them,
    that are loaded with other code than the run was made with; empty if there are none.
    """
    other = [
        held.source
        for entry in asked
        if (held := _loaded.get(str(entry.get("source")))) and held.sha256 != entry.get("sha256")
    ]
    return f"{', '.join(other)} has changed since this run was made." if other else ""


# Helpers.


def _use_named(source: str) -> Plugin:
    """Load a plug-in that a person names now. Raises UserError if it cannot be loaded, and if it is
    a file that imports another file beside it, because other processes would not find that one.
    """
    name, path = trusted.find(source)
    if Path(name).is_absolute() and (said := trusted.beside(path)):
        raise UserError(said, code=2)
    return use(source)


def _use_trusted(source: str) -> Plugin:
    """Load a remembered plug-in. If it is a module that is not found from here, the folder that
    contains it is appended to `sys.path`. Raises UserError if its code is gone, has changed or
    moved, or failed to load before.
    """
    kept = trusted.every()[source]
    path = Path(kept["path"])
    if not path.exists():
        raise UserError(
            f"The plug-in {source} no longer exists: put it back, or stop loading it with: python"
            f" -m robustviz plugins forget {source}"
        )
    if (sha := trusted.sha256(path)) != kept["sha256"]:
        raise UserError(
            f"The plug-in {source} has changed since it was named (its SHA-256 differs): if you"
            f" trust the new code, confirm it with --plugin {source}."
        )
    if said := _failed.get((source, sha)):
        raise UserError(said)
    if not Path(source).is_absolute():
        if (here := trusted.code_of(source)) is None:  # found from another folder
            sys.path.append(str(path.parents[source.count(".")]))
        elif here.resolve() != path.resolve():
            raise UserError(
                f"The plug-in {source} is now found at {here}, but was named as {path}: if you"
                f" trust it there, confirm it with --plugin {source}."
            )
    try:
        return use(source)
    except UserError as error:
        stop = f"To stop loading it: python -m robustviz plugins forget {source}"
        _failed[source, sha] = f"{error} {stop}"
        raise UserError(_failed[source, sha]) from error


def _say(line: str) -> None:
    print(f"robustviz: {line}", file=sys.stderr, flush=True)


def _try(work: Callable[[], object], tell: Callable[[str], object]) -> None:
    try:
        work()
    except UserError as error:
        tell(str(error))


def _import(found: Plugin, by_path: bool) -> None:
    if not by_path:
        load(found.module)
        return
    folder = found.path if found.path.is_dir() else None
    file = folder / "__init__.py" if folder else found.path
    spec = importlib.util.spec_from_file_location(
        found.module, file, submodule_search_locations=[str(folder)] if folder else None
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[found.module] = module
    # not by the loader, which would write a compiled file beside the source
    exec(compile(file.read_bytes(), str(file), "exec"), vars(module))


def _drop(found: Plugin) -> None:
    """Remove everything that a plug-in registered before it failed to load, and its modules."""
    for name in registry.made_in(found.holds):
        registry.drop(name)
    for name in [name for name, each in _pages.items() if found.holds(each.show.__module__)]:
        del _pages[name]
    for name in [name for name, draw in _figures.items() if found.holds(draw.__module__)]:
        del _figures[name]
    for name in [name for name in sys.modules if found.holds(name)]:
        del sys.modules[name]


def incomplete(kind: str, cls: type) -> str:
    """What `cls` lacks of the attributes that the app shows for every class of this kind, such as
    `label`, and what to write, as the end of a sentence; empty if it has all of them.
    """
    missing = [word for word in BASES[kind][2] if not getattr(cls, word, None)]
    if not missing:
        return ""
    lines = " and ".join(f"{word} = …" for word in missing)
    return f"has no {' and no '.join(missing)}: write {lines} into the class (docs/adding.md)."


def _checked(name: str) -> str:
    """Check that the class registered as `name` is valid, and return `name`, which is `kind/key`.
    Raises UserError if it is not.
    """
    kind, _, key = name.partition("/")
    cls = registry.get(kind, key)
    module, base, _ = BASES[kind]
    if not issubclass(cls, getattr(load(module), base)):
        raise UserError(f"{name} ({cls.__name__}) must be a subclass of {module}.{base}.")
    if kind != "net" and "__dataclass_fields__" not in vars(cls):
        raise UserError(
            f"{name} ({cls.__name__}) is not a dataclass: write @dataclass(frozen=True) below"
            " @register."
        )
    if said := incomplete(kind, cls):
        raise UserError(f"{name} ({cls.__name__}) {said}")
    usual = None if kind == "net" else cls()  # this works because every setting has a default
    attack = getattr(usual, "attack", None)
    if attack is not None and not hasattr(attack, "key"):
        raise UserError(
            f"{name} ({cls.__name__}) has a field attack without a default: write attack: Attack"
            " = option(PGD, …) in it."
        )
    return name


def _sentence(found: Plugin, error: BaseException) -> str:
    """The error message for the plug-in `found`, which raised `error` while it was loaded; it gives
    the line of the plug-in's code if that is known.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = [each.lineno for each in frames if Path(each.filename).is_relative_to(found.path)]
    line = error.lineno if isinstance(error, SyntaxError) else next(reversed(inside), None)
    where = f"The plug-in {found.source} cannot be loaded"
    if isinstance(error, ModuleNotFoundError):
        return f"{where}: " + (
            trusted.beside(found.path, error.name)
            or f"it needs the package {error.name}, which is not installed."
        )
    if isinstance(error, (UserError, registry.Taken)):
        return f"{where}: {error}"
    said = harmless(error.msg if isinstance(error, SyntaxError) else error)
    at = f" in line {line}" if line else ""
    return f"{where}: {type(error).__name__}{at}: {said or 'it has no message'}."


def line_of(error: BaseException) -> str:
    """Returns the innermost line of a loaded plug-in's code in the error's traceback, such as `line
    12 of /home/me/mine.py`; empty if there is none.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(Path(frame.filename).is_relative_to(one.path) for one in loaded()):
            return f"line {frame.lineno} of {frame.filename}"
    return ""
