"""How to train a run again: its shell command, its recipe (the settings that differ from the
defaults, by dotted path, each as short text, so that they fit into a link), and what can be read
from the run's id alone. Importing this module needs no torch; calling `name`, `read` and `of` does.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from robustviz import registry
from robustviz.imports import load
from robustviz.runs import catalogue
from robustviz.runs.folder import ID
from robustviz.types import UserError

if TYPE_CHECKING:
    from robustviz.training.config import TrainConfig

# dotted path -> value as typed; `data` and `method` come first. Empty: there is no recipe.
Recipe = Mapping[str, str]

FLAGS = ("data", "method", "net", "epochs", "seed", "eps")  # other settings: `--set PATH=VALUE`
UNSAID = ("threads", "device", "test_n")  # these do not change what is trained
NAME = re.compile(r"([a-z0-9-]+)-s(\d{1,10})-[0-9a-f]{8}")
PATH = re.compile(r"[a-z_]+(\.[a-z_]+)*")
PLAIN = re.compile(r"[\w@#/,.+-]{0,100}")  # a value that a link may carry
LONGEST = 1500  # characters of a recipe in a link


class Name(NamedTuple):
    """The parts of a run's id. `data` may be a name that the user gave and that is unknown on other
    computers.
    """

    data: str
    method: str
    net: str
    seed: int


def name(run_id: str) -> Name | None:
    """Returns the parts of a run's id; None if the id has another form, as for imported runs, or an
    unknown method or net.
    """
    whole = NAME.fullmatch(run_id)
    if whole is None:
        return None
    said = whole[1]
    known = {key.replace("_", "-"): key for key in registry.every("data")}
    fitting = []
    for method in registry.every("method"):
        for net in registry.every("net"):
            data = said.removesuffix(f"-{method}-{net}".replace("_", "-"))
            if data != said:
                fitting.append(Name(known.get(data, data), method, net, int(whole[2])))
    # `-afa-trades` also ends in `-trades`: the longest method fits, which leaves the shortest data
    return min(fitting, key=lambda one: len(one.data), default=None)


def read(recipe: Recipe) -> TrainConfig:
    """Returns the config that a recipe stands for. Raises UserError if the recipe is not valid, if
    its data set is unknown or reads files of the user's own, and if it names weights or runs by
    anything but a run's id: a link must not access files of this computer.
    """
    given = dict(recipe)
    data = given.pop("data", "")
    if not catalogue.known("data", data) or catalogue.facts("data", data)["folders"]:
        raise UserError(
            "This link is about somebody's own images, which are not available here.", code=2
        )
    flags = {"data": data, "method": given.pop("method", None)}
    made: TrainConfig = load("robustviz.training.config").TrainConfig.make(
        None, flags, list(given.items())
    )
    runs = [
        getattr(made.method, each) for each in registry.of_kind(type(made.method), *registry.RUNS)
    ]
    named = [each.partition("#")[0] for each in (made.init, *runs) if each]
    if not all(ID.fullmatch(one) for each in named for one in each.split(",")):
        raise UserError(
            "This link starts from somebody's own weights, which are not available here.", code=2
        )
    return made


def of(config: TrainConfig) -> Recipe:
    """Returns the shortest recipe of a config: its data, its method, and each setting that differs
    from the default. Empty if no recipe gives the same run, as with images or weights of the user's
    own, or with another kind of attack than its method's default.
    """
    kind = load("robustviz.training.config").TrainConfig
    method = type(config.method)
    usual = registry.encode(kind(data=config.data, method=method()))
    usual["data"] = registry.encode(type(config.data)())
    known = dict(registry.flat(usual))
    differs = {
        path: _typed(value)
        for path, value in registry.flat(registry.encode(config))
        if path not in UNSAID and path.rpartition(".")[2] != "key" and value != known.get(path)
    }
    recipe = {"data": config.data.key, "method": config.method.key, **differs}
    try:
        return recipe if read(recipe).run_id == config.run_id else {}
    except UserError:
        return {}


def _typed(value: Any) -> str:
    """Returns a value as a person would type it, such as 8/255 for a radius."""
    if isinstance(value, float) and len(repr(value)) > 6:
        level = round(value * 255)
        return f"{level}/255" if level / 255 == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def command(recipe: Recipe, name: str = "") -> str:
    """Returns the shell command that trains a recipe. `name`: the run's id, if it is not the
    default.
    """
    words = ["python", "-m", "robustviz", "train", *(["--name", name] if name else [])]
    for path, value in recipe.items():
        words += [f"--{path}", value] if path in FLAGS else ["--set", f"{path}={value}"]
    return shlex.join(words)


def packed(recipe: Recipe) -> str:
    """Returns a recipe as one word for a URL; empty if it is too long or has unusual characters."""
    word = "~".join(f"{path}={value}" for path, value in recipe.items())
    return word if unpacked(word) == recipe else ""


def unpacked(word: str) -> Recipe:
    """Returns the recipe in a link's word, as `packed` writes it; empty if the word is not one,
    since a link may contain anything. Only the form is checked, not the settings' names and values.
    """
    pairs = [part.partition("=") for part in word.split("~")] if len(word) <= LONGEST else []
    fine = all(PATH.fullmatch(path) and PLAIN.fullmatch(value) for path, _, value in pairs)
    return {path: value for path, _, value in pairs} if fine else {}
