"""The promises of every probe, checked on a shipped network. Each is the docstring of its check."""

from __future__ import annotations

import numpy as np

from robustviz import plugins, registry
from robustviz.contracts import hold, promise
from robustviz.process import default_threads, threads
from robustviz.runs import folder
from robustviz.views.measure import probe_of
from robustviz.views.result import ProbeSpec, Result

Spec = ProbeSpec[Result]
DATA = ("digits", "shapes")  # data sets that need no downloaded file


def _answer(spec: Spec) -> Result:
    """The probe's result for a shipped run without a defence on `digits`, or else on `shapes`. It
    is computed anew at each call and not stored. Raises Broken if there is no such run.
    """
    found = [run for run in folder.all_runs() if run.ordinary and run.data_key in DATA]
    hold(found, "There is no shipped network to try it on.")
    with threads(default_threads()):
        return probe_of(spec).answer(min(found, key=lambda run: DATA.index(run.data_key)), spec)


@promise("probe")
def its_settings(spec: Spec) -> None:
    """The probe's settings can be saved as JSON and read again, and each has a help text."""
    again = registry.decode("probe", registry.encode(spec))
    hold(again == spec, "Its settings change when saved as JSON and read again.")
    for name, known in registry.options(type(spec)).items():
        hold(known.help, f"The setting {name} has no help: declare it with option(default, help).")


@promise("probe")
def its_answer(spec: Spec) -> None:
    """The result has the declared type, names its run, and is the same, byte for byte in its file,
    when computed again.
    """
    result = _answer(spec)
    kind = type(spec).result
    hold(
        type(result) is kind,
        f"It returns a {type(result).__name__}, but its `result` names {kind.__name__}.",
    )
    hold(result.meta.get("run"), "Its result does not say which run it is about: use meta_of.")
    hold(
        _answer(spec).to_npz() == result.to_npz(),
        "Computed a second time, its result differs: use a fixed seed.",
    )


@promise("probe")
def it_is_kept(spec: Spec) -> None:
    """The result can be saved to a file and read again unchanged."""
    result = _answer(spec)
    again = type(result).from_npz(result.to_npz())
    for name, value in vars(result).items():
        other = getattr(again, name)
        same = np.array_equal(value, other) if isinstance(value, np.ndarray) else value == other
        hold(same, f"{name} has changed when it is read from the file again.")


@promise("probe")
def its_figure(spec: Spec) -> str | None:
    """The probe's figure has an alternative text and a sentence that says what it shows."""
    draw = plugins.figures().get(spec.key)
    if draw is None:
        return f"It has no figure: @plugins.figure({spec.key!r}) above a function makes one."
    said = draw(_answer(spec)).layout.meta or {}
    hold(said.get("alt"), "It has no alternative text: end with theme.finish(…).")
    hold(said.get("sentence"), "It has no sentence that says what the figure shows.")
    return None
