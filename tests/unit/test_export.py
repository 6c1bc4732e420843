"""Tests what *Take home* gives: Python code, a table of numbers and a page that needs no network
all match what the page shows.
"""

from __future__ import annotations

import base64
import csv
import io

import numpy as np
import plotly.graph_objects as go
import pytest

from robustviz import figures, probes
from robustviz.export import Recipe
from robustviz.probes import AccuracyCurveSpec, AdversarialSpec, TrajectorySpec
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.types import UserError
from robustviz.views.theme import blank, finish


def shown(code: str, monkeypatch: pytest.MonkeyPatch) -> go.Figure:
    """Runs Python code and returns the figure it shows."""
    seen: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: seen.append(figure))
    exec(code, {})
    assert len(seen) == 1
    return seen[0]


@pytest.fixture
def pair(runs_home) -> dict[str, folder.Run]:
    found = [
        run
        for run in folder.all_runs()
        if run.shipped
        and not unusual(run)
        and run.data_key == "digits"
        and run.architecture == "small_resnet"
    ]
    return {
        f"{side} {method}": next(run for run in found if run.method_key == method)
        for side, method in (("A", "standard"), ("B", "pgd_at"))
    }


@pytest.mark.long
def test_the_lines_make_the_same_figure_of_two_networks(pair, monkeypatch):
    spec = AccuracyCurveSpec(n=20, steps=3, seed=0)
    runs = {name: run.id for name, run in pair.items()}
    recipe = Recipe(runs, spec, "accuracy_curve", {"here": 0.1})
    found = {name: probes.accuracy_curve(run, spec) for name, run in pair.items()}
    assert "seed" not in recipe.code()  # Settings at their default are left out.
    assert shown(recipe.code(), monkeypatch) == figures.accuracy_curve(found, here=0.1)


def test_the_lines_make_the_same_figure_of_one_network(pair, monkeypatch):
    run = pair["A standard"]
    recipe = Recipe({"": run.id}, TrajectorySpec(index=3), "trajectory")
    assert len(recipe.code().splitlines()) <= 5
    assert shown(recipe.code(), monkeypatch) == figures.trajectory(
        probes.trajectory(run, TrajectorySpec(index=3))
    )


def made() -> go.Figure:
    figure = blank("robustviz_light", "t")
    figure.add_scatter(x=[1, 2], y=[3.5, 4.5], name="dots", customdata=[[7], [9]])
    figure.add_heatmap(x=[0, 1], y=[5, 6], z=np.array([[1, 2], [3, 4]]), name="map")
    return finish(figure, "A figure.", {"run": "r", "classes": ["a"]}, "Three <of> four & more.")


def test_the_table_holds_each_point_that_is_drawn():
    rows = list(csv.DictReader(io.StringIO(figures.csv(made()).decode())))
    assert [row for row in rows if row["trace"] == "dots"] == [
        {"trace": "dots", "x": "1", "y": "3.5", "z": "", "data0": "7"},
        {"trace": "dots", "x": "2", "y": "4.5", "z": "", "data0": "9"},
    ]
    assert [(row["x"], row["y"], row["z"]) for row in rows if row["trace"] == "map"] == [
        ("0", "5", "1"),
        ("1", "5", "2"),
        ("0", "6", "3"),
        ("1", "6", "4"),
    ]


def test_the_page_needs_no_network_has_no_cloud_button_and_says_what_is_seen():
    page = figures.html(made()).decode()
    assert "<script src=" not in page and len(page) > 1_000_000
    assert '"showSendToCloud": false' in page or '"showSendToCloud":false' in page
    assert "Three &lt;of&gt; four &amp; more." in page


def test_the_alternative_text_ends_with_the_sentence():
    meta = made().layout.meta
    assert (
        meta["alt"] == "A figure. Three <of> four & more."
        and "classes" not in meta
        and meta["run"] == "r"
    )


def test_figures_behind_a_slider_are_the_figures_themselves(pair):
    run = pair["A standard"]
    each = {
        f"{level}/255": probes.adversarial(run, AdversarialSpec(index=2, eps=level / 255))
        for level in (0, 20, 40)
    }
    drawn = {label: figures.adversarial(found) for label, found in each.items()}
    film = figures.slides(drawn, name="ε")
    assert (
        [step.label for step in film.layout.sliders[0].steps]
        == [frame.name for frame in film.frames]
        == list(each)
    )
    for frame, figure in zip(film.frames, drawn.values(), strict=True):
        assert list(frame.data) == list(figure.data)
    assert film.data == drawn["0/255"].data
    assert f"ε 20/255: {each['20/255'].meta['summary']}." in film.layout.meta["sentence"]


def test_a_slider_over_nothing_or_over_different_figures_is_a_sentence(pair):
    with pytest.raises(UserError, match="no figure"):
        figures.slides({})
    one = figures.adversarial(probes.adversarial(pair["A standard"]))
    with pytest.raises(UserError, match="same kinds of traces"):
        figures.slides({"a": one, "b": made()})


def test_a_picture_keeps_its_pixels_and_its_shape():
    png = figures.sheet([np.full((1, 8, 8), 0.5), np.zeros((1, 8, 8))], 64)
    figure = figures.picture(png, "Two pictures", "Grey and black.")
    assert base64.b64decode(figure.data[0].source.split(",")[1]) == png
    assert list(figure.layout.xaxis.range) == [-0.5, 2 * 64 + 6 - 0.5] and list(
        figure.layout.yaxis.range
    ) == [63.5, -0.5]
    assert figure.layout.meta["sentence"] == "Grey and black."
