"""What a user can download to repeat results: the lines of Python that make a figure again, and the
notebook that repeats a run.
"""

from __future__ import annotations

import json
import pprint
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustviz import citations, plugins, registry
from robustviz.runs.entries import FOUND_OUT
from robustviz.runs.folder import Run
from robustviz.training.evaluation import Evaluation
from robustviz.types import JSON
from robustviz.views.result import ProbeSpec


@dataclass(frozen=True)
class Recipe:
    """What is needed to write the Python lines that make a figure again. The lines measure each run
    with the probe of `spec` and draw the results with `robustviz.figures.<figure>`; without a
    `figure` the last line shows the results.

    `runs`: the ids of the runs, by the labels that the figure prints, such as "A PGD-AT"; for a
    figure of one network, one run with an empty label. `options`: arguments of the figure; those
    not given keep their defaults.
    """

    runs: Mapping[str, str]
    spec: ProbeSpec[Any]
    figure: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def code(self) -> str:
        """The lines of Python that show the figure; they run unchanged in a notebook on the app's
        computer.
        """
        usual = registry.encode(type(self.spec)())
        settings = ", ".join(
            f"{name}={value!r}"
            for name, value in registry.encode(self.spec).items()
            if usual[name] != value
        )
        asked = f", probes.{type(self.spec).__name__}({settings})" if settings else ""
        made = f"probes.{self.spec.key}({{}}{asked})"
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        several = (
            f"runs = {dict(self.runs)!r}\n"
            f"found = {{name: {made.format('open_run(run)')} for name, run in runs.items()}}"
        )
        alone = list(self.runs) == [""] and "found = " + made.format(f"open_run({self.runs['']!r})")
        return f"from robustviz import {'figures, ' * bool(self.figure)}open_run, probes\n" + (
            f"{alone or several}\n"
            + (f"figures.{self.figure}(found{options}).show()" if self.figure else "found")
        )


def notebook(run: Run) -> bytes:
    """A Jupyter notebook (`.ipynb`), as bytes, that repeats a run: it trains the same network again
    (for an imported network it reads the weights where they are stored), repeats the recorded
    evaluations, prints the old and the new numbers, and says whether they agree.

    The notebook refers to what the run needs as it is stored on this computer: the user's data by
    path, plug-ins by path and SHA-256, so that no other code is run in their place. Raises
    UserError for a damaged run, and if an attack on it is of a plug-in that is not loaded.
    """
    evaluations = sorted(run.evaluations(), key=lambda each: each.seconds)
    code: list[Any] = list(run.info.get("plugins", ()))
    for each in evaluations:
        code += plugins.needed(registry.decode("attack", each.attack))
    cells = [
        _markdown(_title(run, evaluations)),
        _code(_SETUP),
        *([_code(_plug_ins(code))] if code else []),
        _code(_again(run)),
        *([_code(_measured(evaluations))] if evaluations else []),
        _code(_PICTURE),
    ]
    if text := citations.bibtex(citations.used(run)):
        cells.append(_markdown(f"## Whom to cite\n\n```bibtex\n{text}\n```"))
    content = {
        "cells": [{"id": f"cell-{at}", **cell} for at, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


_SETUP = """\
# This notebook needs robustviz and the files that it names, nothing else.
import robustviz
from robustviz import TrainConfig, figures, open_run, plugins, probes, registry, train_run
from robustviz.runs.folder import versions"""

_PICTURE = """\
# One test image, untouched and attacked. For other figures see dir(probes) and dir(figures).
figures.adversarial(probes.adversarial(run, probes.AdversarialSpec(index=0)))"""


def _title(run: Run, evaluations: Sequence[Evaluation]) -> str:
    """The notebook's introduction in Markdown: what it repeats, how long that takes, and when the
    numbers are the same.
    """
    seconds = round(run.status()["seconds"])
    spent = f"{sum(one.seconds for one in evaluations):,.0f}"
    what = (
        "The network was imported: its weights are read from its folder."
        if run.imported
        else f"The training took {seconds:,} seconds on the original computer and starts again"
        " here."
        if seconds
        else "The training starts again here."
    )
    measured = (
        f"The {len(evaluations)} evaluations took {spent} seconds in total; the fastest come first."
        if len(evaluations) > 1
        else f"Its evaluation took {spent} seconds."
        if evaluations
        else "It was not evaluated, so there are no numbers to compare."
    )
    return (
        f"# {run.label or run.id}\n\nThis notebook repeats the run `{run.id}`. {what}"
        f" {measured}\n\nOn the same processor and with the same versions the numbers are the"
        " same. Another processor, a GPU or another version rounds differently. Then a network"
        " that is trained again is another one, about as good, and its numbers differ."
    )


def _plug_ins(code: Iterable[Mapping[str, Any]]) -> str:
    asked = {str(each.get("source", "")): str(each.get("sha256", "")) for each in code}
    return (
        "# This run or an attack on it uses plug-ins, code that is not part of robustviz. Read it"
        f" before you run this cell.\nCODE = {_literal(asked)}\n"
        "for source, sha256 in CODE.items():\n"
        "    plugins.use(source, sha256=sha256)  # and no other code\n    plugins.trust(source)"
    )


def _again(run: Run) -> str:
    """The code of the cell that trains the run again or, if the run was imported, opens it."""
    made = run.info.get("versions", {})
    said = (
        f"\nMADE_WITH = {_literal(made)}\n"
        "for name, version in versions().items():\n"
        '    there = MADE_WITH.get(name, "not recorded")\n'
        "    if there != version:\n"
        '        print(f"{name}: {version} here, {there} there")'
    )
    if run.imported:
        return f"run = open_run({str(run.path.resolve())!r}){said}"
    settings = {name: value for name, value in run.info.items() if name not in FOUND_OUT}
    if settings.get("device") != "cpu":
        settings["device"] = "auto"
    return (
        f"settings = {_literal(settings)}\n"
        f"{said.strip()}\n"
        "# the run's folder is created next to this notebook; finished parts are not repeated\n"
        "config = TrainConfig.from_json(settings)\n"
        f'run = train_run(config, out="runs", name={run.id!r}, say=print)\n'
        f"same = run.weights == {run.weights!r}\n"
        'print("The weights are", "the same, bit for bit." if same else "different.")'
    )


def _measured(evaluations: Sequence[Evaluation]) -> str:
    recorded = [
        {
            name: getattr(each, name)
            for name in ("attack", "n", "seed", "images", "clean_k", "robust_k")
        }
        for each in evaluations
    ]
    return (
        f"RECORDED = {_literal(recorded)}\n"
        "for one in RECORDED:\n"
        '    attack = registry.decode("attack", one["attack"])\n'
        '    found = robustviz.evaluate(run, attack=attack, n=one["n"], seed=one["seed"])\n'
        '    counts, before = (found.clean_k, found.robust_k), (one["clean_k"], one["robust_k"])\n'
        '    print(f"{found.printed}, ε = {found.eps:.4f}: of {found.n} images {counts[0]} right"\n'
        '          f" untouched, {counts[1]} attacked; recorded {before[0]} and {before[1]}:",\n'
        '          "the same" if counts == before else\n'
        '          "different" if found.images == one["images"] else "these are other images")'
    )


def _literal(value: object) -> str:
    """A value as readable Python source."""
    return pprint.pformat(value, width=88, sort_dicts=False)


def _markdown(text: str) -> JSON:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _code(text: str) -> JSON:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": text,
    }
