"""Features: the maps' sentences are the figures', a choice in a map reaches every view, and nothing
breaks the page.
"""

from __future__ import annotations

import csv
import io
import threading
import time

import pytest

from robustviz import embedder, figures, probes
from robustviz.probes import FeatureMapSpec, FeaturesSpec
from robustviz.types import UserError
from robustviz.ui import cache, widgets
from robustviz.views.features import embedding, panel as features
from tests.pages.conftest import ordinary, sound, words
from tests.pages.test_glossary import lacking

FEW = {"map-n": 50, "map-steps": 2}
SPEC = FeatureMapSpec(n=50, steps=2)


def charts(app):
    return [chart.proto for chart in app.get("plotly_chart")]


@pytest.fixture
def quick(monkeypatch):
    """UMAP itself is tested elsewhere; here it would compile for ten seconds."""
    monkeypatch.setattr(
        embedding, "umap", lambda z, **settings: z[:, :2] * (1 + settings["min_dist"])
    )
    monkeypatch.setattr(features, "GRACE", 60.0)


@pytest.fixture
def slow(monkeypatch):
    """UMAP that takes until the event is set."""
    done = threading.Event()

    def umap(z, **settings):
        assert done.wait(60)
        return z[:, :2]

    monkeypatch.setattr(embedding, "umap", umap)
    monkeypatch.setattr(features, "GRACE", 0.1)
    yield done
    done.set()


def until(fact):
    deadline = time.monotonic() + 120
    while not fact() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fact()


def test_it_opens_with_two_maps_and_the_numbers_beside_them(visit, few):
    app = sound(visit("features", data="digits", img=3, **FEW))
    said = words(app)
    for method in ("standard", "pgd_at"):
        found = probes.feature_map(ordinary("digits", method), SPEC)
        assert figures.feature_map(found).layout.meta["sentence"] in said
        assert f"Cosine to its class's centre {found.own[0, 3]:.2f} → {found.own[1, 3]:.2f}" in said
        measured = probes.features(ordinary("digits", method), SPEC.alike(FeaturesSpec)).measures
        assert (
            f"| {measured['adversarial']['own_cosine']:.2f} |"
            f" {measured['adversarial']['other_cosine']:.2f} |" in said
        )
    assert (
        "Positions in A and in B cannot be compared, and the length of a line has no unit" in said
    )
    assert "Accuracy under attack is the judge" in said
    assert len(charts(app)) == 5 and all(chart.alt for chart in charts(app)) and not lacking(said)


def test_a_choice_in_a_map_is_shown_listed_and_taken_to_every_view(visit, few):
    app = visit("features", data="digits", img=3, **FEW)
    before = charts(app)[0].spec
    app.session_state["map-a"] = {
        "selection": {
            "points": [
                {"customdata": [5, "5"]},
                {"customdata": [9, "9"]},
                {"customdata": [5, "5"]},
                {},
            ]
        }
    }
    app.run()
    assert charts(sound(app))[0].spec == before, "a brushed figure that changes loses its brush"
    assert "2 images chosen" in words(app)
    rows = app.dataframe[0].value
    assert list(rows["image"]) == [5, 9]
    found = probes.feature_map(ordinary("digits", "standard"), SPEC)
    assert [bool(one) for one in rows["A Standard: fooled"]] == [
        bool(found.fooled[at]) for at in (5, 9)
    ]
    app.button(key="lasso-9").click().run()
    assert (
        app.number_input(key="img").value == 9
        and "Image 9" in words(sound(app))
        and app.query_params["img"] == "9"
    )
    assert app.switch_page("../../pages/attack.py").run().number_input(key="img").value == 9


def test_the_file_of_the_chosen_has_a_row_an_image(few):
    found = {
        f"A {key}": probes.feature_map(ordinary("digits", key), FeatureMapSpec(n=30, steps=2))
        for key in ("standard", "pgd_at")
    }
    rows = features.table(found, [4, 29, 30])
    assert [row["image"] for row in rows] == [4, 29] and rows[0]["class"] == found[
        "A standard"
    ].meta["classes"][found["A standard"].y[4]]
    result = found["A pgd_at"]
    assert rows[1]["A pgd_at: own cosine, attacked"] == pytest.approx(result.own[1, 29], abs=1e-4)
    out = io.StringIO()
    csv.DictWriter(out, list(rows[0])).writerows(rows)
    assert out.getvalue().count("\n") == 2


def test_a_single_point_becomes_the_image_of_every_view(monkeypatch):
    state = {"map-b": {"selection": {"points": [{"customdata": [7, "x"]}]}}}
    monkeypatch.setattr(widgets.st, "session_state", state)
    widgets._brushed("map-b")
    assert state["img"] == 7


def test_the_controls_change_the_map(visit, few, quick):
    app = visit("features", data="digits", **FEW)
    first = charts(app)[0].spec
    app.button_group(key="map-colour").set_value("fooled").run()
    assert "wrong untouched" in charts(sound(app))[0].spec != first
    app.button_group(key="map-also").set_value("noise").run()
    assert "noise of the same" in charts(sound(app))[0].spec
    app.button_group(key="map-also").set_value("half").run()
    assert "attack at" in charts(sound(app))[0].spec and "put into the finished map" in words(app)
    app.session_state["class"] = "3"  # chosen where classes are explained
    app.run()
    assert "other classes (45)" in charts(sound(app))[0].spec
    app.button_group(key="map-colour").set_value("class").run()
    assert "other classes (30)" in charts(sound(app))[
        0
    ].spec and "Attacked, the 5 images of 3 are read as" in words(app)
    app.button_group(key="map").set_value("umap").run()
    assert "In UMAP axes and gaps" in words(
        sound(app)
    ) and "n_neighbors 15, min_dist 0.1, seed 0" in words(app)
    assert app.query_params["map"] == "umap" and app.query_params["map-also"] == "half"


def test_while_umap_is_computed_the_map_is_pca_and_then_umap_without_a_word(
    visit, few, slow, monkeypatch
):
    address = {"data": "digits", "map": "umap", "map-seed": 5} | FEW  # no other test's
    app = sound(visit("features", **address))
    for method in ("standard", "pgd_at"):
        stands_in = probes.feature_map(
            ordinary("digits", method), FeatureMapSpec(projection="pca", n=50, steps=2, seed=5)
        )
        assert figures.feature_map(stands_in).layout.meta["sentence"] in words(app)
    assert words(app).count(
        "takes this map's place; until then it is PCA"
    ) == 2 and "n_neighbors" not in words(app)
    pictures = [chart.spec for chart in charts(app)]
    assert [chart.spec for chart in charts(sound(app.run()))] == pictures
    asked = [
        (ordinary("digits", method).id, FeatureMapSpec(projection="umap", n=50, steps=2, seed=5))
        for method in ("standard", "pgd_at")
    ]
    again: list[int] = []
    monkeypatch.setattr(features.st, "rerun", lambda: again.append(1))
    poll = features._await.__wrapped__
    poll(*asked[0])
    assert not again
    slow.set()
    until(lambda: not any(cache.pending(*each) for each in asked))
    poll(*asked[0])
    assert again == [1]
    said = words(sound(app.run()))
    assert (
        "until then" not in said
        and said.count("The map: cosine, n_neighbors 15, min_dist 0.1, seed 5") == 2
    )
    drawn = [chart.spec for chart in charts(app)]
    monkeypatch.setattr(features, "GRACE", 0.0)
    monkeypatch.setattr(
        cache,
        "result_or_none",
        lambda *given, **named: pytest.fail("what is known was asked for again"),
    )
    assert [chart.spec for chart in charts(sound(visit("features", **address)))] == drawn
    assert again == [1]


def test_a_umap_that_fails_meanwhile_says_so(visit, few, monkeypatch):
    ready = threading.Event()

    def umap(z, **settings):
        ready.wait(60)
        raise UserError("This map cannot be made.")

    monkeypatch.setattr(embedding, "umap", umap)
    monkeypatch.setattr(features, "GRACE", 0.1)
    app = sound(visit("features", data="digits", b="", **{"map": "umap", "map-seed": 6}, **FEW))
    assert "until then it is PCA" in words(app)
    ready.set()
    monkeypatch.setattr(features, "GRACE", 60.0)
    assert "This map cannot be made." in words(sound(app.run())) and "until then" not in words(app)


@pytest.mark.parametrize(
    "address",
    [
        {"map": "tsne"},
        {"map-n": "7"},
        {"map-eps": "8/255"},
        {"map-seed": "-1"},
        {"map-dist": "nan"},
        {"map-also": "x", "map-colour": "y"},
        {"map-n": "50", "map": "pca", "map-eps": "0", "img": "49"},
        {"map-n": "50", "img": "300"},
        {"b": ""},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, few, address):
    app = sound(visit("features", data="digits", **(FEW | address)))
    assert "Do attacked images stay with their class?" in words(app) and len(charts(app)) >= 2
    if address.get("img") == "300":
        assert "It is not among the first 50 test images" in words(app)


def test_a_network_that_cannot_be_drawn_gets_a_sentence_and_the_page_goes_on(
    visit, few, monkeypatch
):
    monkeypatch.setattr(
        FeatureMapSpec, "alike", lambda self, spec: FeaturesSpec(n=9, eps=self.eps, steps=2, k=3)
    )
    # what was drawn before is remembered
    app = sound(visit("features", data="digits", **{"map-seed": 77}))
    assert "no class has two of them" in words(app) and not charts(app)


def test_a_run_without_snapshots_says_so_and_those_with_them_make_a_film(visit, monkeypatch):
    app = visit(
        "features",
        data="digits",
        a=ordinary("digits", "trades").id,
        b=ordinary("digits", "pgd_at").id,
        **FEW,
    )
    app.session_state["film-open"] = True
    app.run()
    said = words(sound(app))
    assert "kept the weights of 0 epochs" in said and "B PGD-AT**: attacked images' cosine" in said
    app.select_slider(key="map-epoch").set_value(6).run()
    assert "Epoch 6:" in words(sound(app)) and app.query_params["map-epoch"] == "6"
    spec = next(
        chart.spec for chart in charts(app) if '"frames"' in chart.spec and "Play" in chart.spec
    )
    assert "B PGD-AT: epoch 6" in spec
    monkeypatch.setattr(embedder, "layout", lambda x, *arrays, **settings: x[:, :2])
    app.button_group(key="map-film").set_value("umap").run()
    assert "UMAP from the last epoch back" in next(
        chart.spec for chart in charts(sound(app)) if '"frames"' in chart.spec
    )
    assert app.query_params["map-film"] == "umap" and "Epoch 6:" in words(app)
