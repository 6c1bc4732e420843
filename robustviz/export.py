"""What a person takes home: the lines of Python that make a figure again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustviz import registry


@dataclass(frozen=True)
class Recipe:
    """How a figure is made: `robustviz.figures.<figure>` of what `robustviz.probes.<probe>` says of
    each run.

    `runs`: run ids by the names that the figure prints, "A PGD-AT"; one nameless run ("") for a
    figure of one network. `settings` are the probe's, `options` the figure's; whatever is not named
    has its default.
    """

    runs: Mapping[str, str]
    probe: str
    figure: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether the figure takes one result, not one by name."""
        return list(self.runs) == [""]

    def code(self) -> str:
        """Lines of Python, to be run as they are in a notebook beside the app, that show the
        figure.
        """
        spec = registry.get("probe", self.probe)
        usual = registry.encode(spec())
        settings = ", ".join(
            f"{name}={value!r}" for name, value in self.settings.items() if usual.get(name) != value
        )
        made = (
            f"probes.{self.probe}({{}}, probes.{spec.__name__}({settings}))"
            if settings
            else f"probes.{self.probe}({{}})"
        )
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        if self.single:
            run_id = self.runs[""]
            found = ["found = " + made.format(f"open_run({run_id!r})")]
        else:
            each = made.format("open_run(run)")
            found = [
                f"runs = {dict(self.runs)!r}",
                f"found = {{name: {each} for name, run in runs.items()}}",
            ]
        return "\n".join(
            [
                "from robustviz import figures, open_run, probes",
                *found,
                f"figures.{self.figure}(found{options}).show()",
            ]
        )
