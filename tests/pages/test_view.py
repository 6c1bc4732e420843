"""Tests what all views have in common, on every page: *Take home* gives what the page shows, and
one chosen image applies to all views.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from robustviz import figures
from robustviz.export import Recipe
from robustviz.types import UserError
from robustviz.ui import context, shell, widgets
from tests.pages.conftest import picked, sound

VIEWS = ("attack", "attention", "features", "soft_labels", "contributions", "transfer")


@pytest.mark.parametrize("name", VIEWS)
def test_the_lines_of_python_make_each_figure_of_the_page(name, visit, few, unpacked, monkeypatch):
    drawn: list[tuple[Any, Recipe]] = []
    downloads = widgets.downloads

    def watched(figure: Any, results: Any, frame: Any, recipe: Recipe) -> None:
        drawn.append((results, recipe))
        downloads(figure, results, frame, recipe)

    monkeypatch.setattr(widgets, "downloads", watched)
    app = sound(visit(name, data="digits"))
    if name == "transfer":  # Without aligned copies its figures are one drawer deeper.
        app.session_state["more-transfer"] = True
        sound(app.run())
    assert drawn, "a view shows a figure as soon as it is opened"
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    for results, recipe in drawn:
        exec(recipe.code(), {})
        found = results[""] if list(results) == [""] else results
        seen = getattr(figures, recipe.figure)(found, **recipe.options)
        alike(shown.pop().to_plotly_json(), seen.to_plotly_json(), recipe.code())


def alike(one: Any, other: Any, code: str) -> None:
    """Checks that two figures are equal, with a tolerance for the rounding differences that a
    different batch size causes.
    """
    if isinstance(one, dict) and "bdata" in one:
        alike(
            *(np.frombuffer(base64.b64decode(x["bdata"]), x["dtype"]) for x in (one, other)), code
        )
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), code
        for key in one:
            alike(one[key], other[key], code)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), code
        for each, twin in zip(one, other, strict=True):
            alike(each, twin, code)
    elif isinstance(one, np.ndarray) and one.dtype.kind == "f":
        np.testing.assert_allclose(one, other, atol=2e-5, err_msg=code)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other), code
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=2e-5, nan_ok=True), code
    else:
        assert one == other, code


@pytest.mark.parametrize("name", VIEWS)
def test_each_figure_has_alternative_text_and_each_view_shows_the_chosen_image(name, visit, few):
    app = sound(visit(name, data="digits", img=7))
    charts = app.get("plotly_chart")
    assert charts
    for chart in charts:
        assert chart.proto.alt, "a chart without alternative text"
    assert picked(app, "img").value == 7


def test_the_chosen_points_are_those_of_the_selection(visit, monkeypatch):
    points = [{"customdata": [4, 0]}, {"customdata": 9}, {"customdata": [4, 1]}, {}]
    monkeypatch.setattr(widgets.st, "session_state", {"map": {"selection": {"points": points}}})
    assert widgets.chosen("map") == [4, 9] and widgets.chosen("another") == []


def broken(kind: type[Exception]) -> Any:
    def page(*given: Any, **named: Any) -> None:
        raise kind("A sentence that says what to do.")

    return page


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (UserError, "A sentence that says what to do."),
        (RuntimeError, "Something unexpected happened"),
    ],
)
def test_what_goes_wrong_inside_a_fragment_is_a_sentence(name, kind, said, visit, few, monkeypatch):
    monkeypatch.setattr(context, "follow", broken(kind))
    monkeypatch.setattr(widgets, "place", broken(kind))
    monkeypatch.setattr(widgets, "measured", broken(kind))
    app = visit(name, data="digits")
    assert not app.exception
    assert said in " ".join(error.value for error in app.error)


@pytest.mark.parametrize(
    ("name", "key"),
    [("soft_labels", "soft-labels"), ("contributions", "share"), ("transfer", "matrix")],
)
def test_networks_whose_names_begin_alike_are_all_taken_home(name, key, visit):
    app = visit(name, data="digits")
    app.session_state[f"home-{key}"] = app.session_state[f"more-{name}"] = True
    app.run()
    taken = [
        element.proto.label
        for element in sound(app).get("download_button")
        if element.proto.label.startswith("All measured data")
    ]
    assert len(set(taken)) == len(taken) >= 3


@pytest.mark.parametrize(
    "text",
    [
        "![x](http://evil.example/x.png)",
        "[x](http://evil.example)",
        "<http://evil.example>",
        "![x][y] [y]: http://evil.example",
        "[y] : http://evil.example",
    ],
)
def test_what_an_error_quotes_of_others_is_no_picture_and_no_link(text):
    said = shell.spoken(UserError(f"There is no {text}; run `make zoo`."))
    assert "`make zoo`" in said
    for acted_on in ("![", "](", "][", "]:", "] :"):
        assert acted_on not in said.replace("\\]", "¬")
    assert "<" not in said.replace("\\<", "")
