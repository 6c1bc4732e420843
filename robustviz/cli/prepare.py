"""The command `prepare`: measure in advance what the pages of a lesson show first, so that a class
gets cached results.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from robustviz import paths, registry
from robustviz.cli.terminal import Command, say, show
from robustviz.imports import load
from robustviz.runs import catalogue, folder
from robustviz.types import JSON, UserError
from robustviz.ui import absent, cache, networks
from robustviz.views import modules
from robustviz.views.result import ProbeSpec

# The view modules of a page whose address is not the name of its view.
SEVERAL = {"soft-labels": ("loss",), "features": ("features", "misalignment")}
# Parameters of an address that need no warning. A position of the ε slider needs no new
# measurement; `a-set` only tells how network A was trained.
TAKEN = ("a", "b", "a-set", "b-set", "data", "img", "eps", "present")


@dataclass(frozen=True)
class Asked:
    """What the page at an address shows.

    `questions`: the names of the views on it; `sides`: the ids of the networks, one or two;
    `image`: the index of the test image; `other`: the names of parameters in the address that are
    ignored, because only default settings are measured.
    """

    questions: tuple[str, ...]
    sides: tuple[str, ...]
    image: int
    other: tuple[str, ...]


def prepare(args: argparse.Namespace) -> int:
    """Measure what the given pages show first, unless it is cached, and show how many results were
    cached, measured, or failed. Returns the exit status 0, also if some measurements failed. Raises
    UserError, before anything is measured, for an address that names a page, run, data set or image
    that is missing.
    """
    rows: list[JSON] = []
    # all links are checked before anything is measured
    every = [(link, _asked(link)) for link in args.link]
    for link, asked in every:
        if asked.other:
            say(f"{link}: only default settings are measured; ignored: {', '.join(asked.other)}.")
        rows += [
            {"link": link} | _answered(run_id, spec)
            for run_id in asked.sides
            for spec in _specs(asked, run_id)
        ]
    failed = [row for row in rows if row["state"] == "failed"]
    known = sum(row["state"] == "kept" for row in rows)
    text = (
        f"{len(rows)} results for {len(every)} pages: {known} were cached,"
        f" {len(rows) - known - len(failed)} measured, {len(failed)} failed."
    )
    return show(args, rows, text)


def _asked(link: str) -> Asked:
    """What the address `link` shows; what it does not name is what the page would choose. Raises
    UserError if it names a page, run, data set or image that is missing.
    """
    address = urlsplit(link)
    page = address.path.rstrip("/").rpartition("/")[2]
    pages = {file.stem.replace("_", "-") for file in (paths.ROOT / "pages").glob("*.py")}
    if page and page not in pages:
        raise UserError(registry.unknown("page", page, sorted(pages)), code=2)
    questions = SEVERAL.get(page, (page,))
    said = dict(parse_qsl(address.query, keep_blank_values=True))
    every = networks.trained()
    for side in ("a", "b"):
        if said.get(side) and said[side] not in every:
            known = absent.known(said[side], said.get(f"{side}-set", ""))
            if known.exact:
                lines = "; ".join(f"`{line}`" for line in known.commands)
                raise UserError(f"{said[side]} is not here yet: {lines} trains it.", code=2)
            raise UserError(registry.unknown("run", said[side], list(every)), code=2)
    named = [networks.data_name(every[said[side]]) for side in ("a", "b") if said.get(side)]
    data = said.get("data") or next(iter(named), networks.FIRST["data"])
    if not (here := networks.on(data)):
        names = sorted({networks.data_name(run) for run in every.values()})
        raise UserError(registry.unknown("data set", data, names), code=2)
    a, b = networks.defaults(here)
    a = said["a"] if said.get("a") in here else a
    b = said["b"] if said.get("b", "-") in ("", *here) else b if b != a else ""
    image = int(text) if (text := said.get("img", "")).isdecimal() else networks.default_image(a, b)
    if image >= (count := networks.test_count(a)):
        raise UserError(f"There is no image {image}: the test split has {count}.", code=2)
    other = tuple(name for name in said if name not in TAKEN)
    return Asked(questions if page else (), tuple(filter(None, (a, b))), image, other)


def _specs(asked: Asked, run_id: str) -> list[ProbeSpec[Any]]:
    """The specs of the measurements that the first screens of a page need of one network, at the
    default ε of its data; empty if they need none.
    """
    run = folder.open_model(run_id)
    eps = float(catalogue.facts("data", run.data_key)["default_eps"] or run.eps)
    screens = [
        vars(load(module)).get("first_screen")
        for module in modules("result")
        if module.split(".")[2] in asked.questions
    ]
    return [spec for screen in screens if screen for spec in screen(asked.image, eps)]


def _answered(run_id: str, spec: ProbeSpec[Any]) -> JSON:
    """Make one measurement unless it is cached. Returns a row about it, whose `state` is `kept`
    (cached), `measured` or `failed`.
    """
    row: JSON = {"run": run_id, "probe": spec.key, "settings": registry.encode(spec)}
    began = time.monotonic()
    try:
        if cache.kept(run_id, spec) is not None:
            return row | {"state": "kept"}
        say(f"measuring {spec.key} of {run_id} …")
        result = cache.answer(run_id, spec)
        if not spec.cacheable:  # fast enough for one person, but not for a class of forty
            run = folder.open_model(run_id)
            run.keep(load("robustviz.views.measure").probe_of(spec).name(run, spec), result)
    except UserError as error:  # for example the overlap with objects without object masks
        say(str(error))
        return row | {"state": "failed", "reason": str(error)}
    return row | {"state": "measured", "seconds": round(time.monotonic() - began, 1)}


COMMANDS = (
    Command(
        "prepare",
        prepare,
        "measure in advance what pages show first, for a class",
        {
            "link": {
                "nargs": "+",
                "metavar": "LINK",
                "help": "a page's address as the browser shows it, or its end: attack?img=3",
            }
        },
    ),
)
