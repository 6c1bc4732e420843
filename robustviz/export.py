"""What a person takes home: the lines of Python that make a figure again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustviz import registry
from robustviz.views.result import ProbeSpec


@dataclass(frozen=True)
class Recipe:
    """How a figure is made: `robustviz.figures.<figure>` of what each run answers to `spec`;
    without a figure the lines end with what was found.

    `runs`: run ids by the names that the figure prints, "A PGD-AT"; one nameless run ("") for a
    figure of one network. `options` are the figure's; whatever is not named has its default.
    """

    runs: Mapping[str, str]
    spec: ProbeSpec[Any]
    figure: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def code(self) -> str:
        """Lines of Python, to be run as they are in a notebook beside the app, that show the
        figure.
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
        return f"from robustviz import figures, open_run, probes\n{alone or several}\n" + (
            f"figures.{self.figure}(found{options}).show()" if self.figure else "found"
        )
