"""Tests the Features page: its first screen shows the probes' results, the sentences at the maps
are those of the figures, a choice in a map reaches every view, and no address breaks the page.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import threading

import numpy as np
import pytest
from conftest import eventually

from robustviz import embedder, figures, probes
from robustviz.data import sent, singles
from robustviz.probes import FeatureMapSpec, FeaturesSpec
from robustviz.types import UserError
from robustviz.ui import cache, networks, stage, widgets
from robustviz.views.features import embedding, panel as features
from robustviz.views.features.result import FeatureTilesSpec
from robustviz.views.misalignment.result import MisalignmentSpec
from robustviz.views.screen import wordy
from tests.pages.conftest import opened, ordinary, picked, screens, sound, words
from tests.pages.test_glossary import lacking

FEW = {"map-n": 50, "map-steps": 2}
SPEC = FeatureMapSpec(n=50, steps=2)


def charts(app):
    return [chart.proto for chart in app.get("plotly_chart")]


@pytest.fixture
def quick(monkeypatch):
    """Replaces UMAP, which is tested elsewhere and would compile for ten seconds here."""
    monkeypatch.setattr(
        embedding, "umap", lambda z, **settings: z[:, :2] * (1 + settings.get("min_dist", 0))
    )
    monkeypatch.setattr(features, "GRACE", 60.0)


@pytest.fixture
def slow(monkeypatch):
    """Replaces UMAP by a function that waits until the yielded event is set."""
    done = threading.Event()

    def umap(z, **settings):
        assert done.wait(60)
        return z[:, :2]

    monkeypatch.setattr(embedding, "umap", umap)
    monkeypatch.setattr(features, "GRACE", 0.1)
    yield done
    done.set()


def test_it_opens_with_one_line_two_maps_causes_and_distances(visit, few, quick):
    app = sound(visit("features", data="digits", img=3, **FEW))
    said, (screen, *rest) = words(app), screens(app)
    asked = dataclasses.replace(SPEC, projection="umap")
    found = {
        f"{side.upper()} {name}": probes.feature_map(ordinary("digits", method), asked)
        for side, name, method in (("a", "Standard", "standard"), ("b", "PGD-AT", "pgd_at"))
    }
    kept = [50 - int(result.astray[1]) for result in found.values()]
    assert not rest and screen["answer"] == [
        f"With B, {kept[1]} of 50 attacked images stay nearest to their own class, with A only"
        f" {kept[0]}."
    ]
    assert screen["control"]["values"][0] == "untouched" and screen["control"]["start"] == 10
    for side, method in (("a", "standard"), ("b", "pgd_at")):
        tiles = probes.feature_tiles(ordinary("digits", method), SPEC.alike(FeatureTilesSpec))
        right = int((tiles.pred_adv == tiles.y).sum())
        assert screen["moves"][f"count-{side}"][1][-1] == f"{right} of 50 classified correctly"
        assert "clean: predicted <b>" in screen["moves"][f"near-{side}"][1][0]
    assert screen["picture"].count('class="pt"') == 100
    causes = probes.misalignment(ordinary("digits", "standard"), SPEC.alike(MisalignmentSpec))
    kind, _, text = causes.cause(causes.order[0]).partition(": ")
    assert f"**{kind}**: {text}" in said
    figure = figures.features(found)
    assert figure.layout.meta["sentence"] in said and "accuracy under attack decides" in said
    assert len(charts(app)) == 1 and charts(app)[0].alt and not lacking(said)
    for text in (said, *screen["answer"], *screen["sure"], screen["alt"]):
        assert not wordy(text)


def test_a_point_that_is_clicked_becomes_the_image_of_every_view(visit, few, quick, monkeypatch):
    app = visit("features", data="digits", img=3, **FEW)
    seen = stage.Seen(10, "7")
    monkeypatch.setattr(features.stage, "show", lambda key, screen: seen)
    chosen = []
    monkeypatch.setattr(features, "choose", chosen.append)
    monkeypatch.setattr(features.st, "rerun", lambda: None)
    sound(app.run())
    assert chosen == [7]


def test_more_has_the_maps_that_are_brushed_and_the_numbers(visit, few, quick):
    app = opened(visit("features", data="digits", img=3, **FEW), "features")
    said = words(app)
    for method in ("standard", "pgd_at"):
        found = probes.feature_map(ordinary("digits", method), SPEC)
        assert figures.feature_map(found).layout.meta["sentence"] in said
        assert (
            f"Cosine to its class's centre: {found.own[0, 3]:.2f} → {found.own[1, 3]:.2f}" in said
        )
        measured = probes.features(ordinary("digits", method), SPEC.alike(FeaturesSpec)).measures
        assert (
            f"| {measured['adversarial']['own_cosine']:.2f} |"
            f" {measured['adversarial']['other_cosine']:.2f} |" in said
        )
    assert "Positions in A and in B cannot be compared" in said
    assert all(chart.alt for chart in charts(app)) and not lacking(said)


def test_a_choice_in_a_map_is_shown_listed_and_taken_to_every_view(visit, few, quick):
    app = opened(visit("features", data="digits", img=3, **FEW), "features")
    before = charts(app)[1].spec
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
    assert charts(sound(app))[1].spec == before, "a brushed figure that changes loses its brush"
    assert "2 images chosen" in words(app)
    rows = app.dataframe[0].value
    assert list(rows["image"]) == [5, 9]
    found = probes.feature_map(ordinary("digits", "standard"), SPEC)
    assert [bool(one) for one in rows["A Standard: fooled"]] == [
        bool(found.fooled[at]) for at in (5, 9)
    ]
    app.button(key="lasso-9").click().run()
    assert (
        picked(app, "img").value == 9
        and "Image 9" in words(sound(app))
        and app.query_params["img"] == "9"
    )
    assert picked(app.switch_page("../../pages/attack.py").run(), "img").value == 9


def test_the_file_of_the_chosen_has_a_row_an_image(few):
    found = {
        f"A {key}": probes.feature_map(ordinary("digits", key), FeatureMapSpec(n=30, steps=2))
        for key in ("standard", "pgd_at")
    }
    rows = features.chosen_rows(found, [4, 29, 30])
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
    app = opened(visit("features", data="digits", **FEW), "features")
    first = charts(app)[1].spec
    app.button_group(key="map-colour").set_value("fooled").run()
    assert "misclassified untouched" in charts(sound(app))[1].spec != first
    app.button_group(key="map-also").set_value("noise").run()
    assert "noise of the same" in charts(sound(app))[1].spec
    app.button_group(key="map-also").set_value("half").run()
    assert "attack at" in charts(sound(app))[1].spec and "placed in the finished map" in words(app)
    app.session_state["class"] = "3"  # A class chosen where the page explains classes.
    app.run()
    assert "other classes (45)" in charts(sound(app))[1].spec
    app.button_group(key="map-colour").set_value("class").run()
    assert "other classes (30)" in charts(sound(app))[
        1
    ].spec and "Attacked images of 3 are most often classified as" in words(app)
    app.button_group(key="map").set_value("umap").run()
    assert (
        "In UMAP, axes and gaps" in words(sound(app))
        and "n_neighbors 15, min_dist 0.1, seed 0" in charts(app)[1].spec
    )
    assert app.query_params["map"] == "umap" and app.query_params["map-also"] == "half"


def test_while_umap_is_computed_the_map_is_pca_and_then_umap_without_a_word(
    visit, few, slow, monkeypatch
):
    # No other test uses this seed, so nothing is cached.
    address = {"data": "digits", "map-seed": 5} | FEW
    app = sound(visit("features", **address))
    assert words(app).count("will replace this map. Until then the map is a PCA") == 2
    first = screens(app)[0]
    assert any("A plane shows only part" in text for text in first["sure"])
    assert screens(sound(app.run()))[0]["picture"] == first["picture"]
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
    assert eventually(lambda: not any(cache.pending(*each) for each in asked))
    poll(*asked[0])
    assert again == [1]
    assert "Until then" not in words(sound(app.run()))
    drawn = screens(app)[0]
    assert any("UMAP shows only which points are neighbours" in text for text in drawn["sure"])
    assert drawn["picture"] != first["picture"] and drawn["answer"] == first["answer"]
    monkeypatch.setattr(features, "GRACE", 0.0)
    monkeypatch.setattr(
        cache,
        "result_or_none",
        lambda *given, **named: pytest.fail("what is known was asked for again"),
    )
    assert screens(sound(visit("features", **address)))[0]["picture"] == drawn["picture"]
    assert again == [1]


def test_a_umap_that_fails_meanwhile_says_so(visit, few, monkeypatch):
    ready = threading.Event()

    def umap(z, **settings):
        ready.wait(60)
        raise UserError("This map cannot be made.")

    monkeypatch.setattr(embedding, "umap", umap)
    monkeypatch.setattr(features, "GRACE", 0.1)
    app = sound(visit("features", data="digits", b="", **{"map-seed": 6}, **FEW))
    assert "Until then the map is a PCA" in words(app)
    ready.set()
    monkeypatch.setattr(features, "GRACE", 60.0)
    assert "This map cannot be made." in words(sound(app.run())) and "Until then" not in words(app)


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
        {"way": "99%"},
        {"map-n": "50", "img": "300"},
        {"b": ""},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, few, quick, address):
    app = opened(visit("features", data="digits", **(FEW | address)), "features")
    assert "Do attacked images stay with their class?" in words(app) and len(charts(app)) >= 2
    assert not wordy(screens(app)[0]["answer"][0])
    if address.get("img") == "300":
        assert "It is not among the first 50 test images" in words(app)
        assert (
            "Image 300 is not among the 50 images of this map"
            in screens(app)[0]["moves"]["near-a"][1][0]
        )


def test_an_own_picture_leaves_the_map_as_it_is_with_a_sentence(visit, few, quick):
    png, digest = sent.packed(np.zeros((20, 20, 3), np.uint8))
    one = singles.add(png, digest, "mine.png", "3", "digits")
    app = sound(visit("features", data="digits", img=one.number, **FEW))
    said, drawn = words(app), screens(app)[0]
    assert "The maps have only test images, not your own picture." in said
    assert not wordy(said) and str(one.number) not in said + str(drawn)
    run = ordinary("digits", "standard")
    mark = networks.default_image(run.id, ordinary("digits", "pgd_at").id)
    assert f"Marked is test image {mark}." in said
    assert str(one.number) not in words(opened(app, "features"))
    shipped = screens(sound(visit("features", data="digits", img=mark, **FEW)))[0]
    assert (drawn["picture"], drawn["moves"]) == (shipped["picture"], shipped["moves"])


def test_in_a_class_a_larger_map_than_is_measured_is_replaced_by_the_usual_one(
    visit, few, quick, monkeypatch
):
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    many = {"map-n": 300}
    app = sound(visit("features", data="digits", img=3, **many))
    said = words(app)
    assert "The map of 300 images after 20 steps of PGD is not measured yet. Only the" in said
    assert "Here are 200 images after 20 steps." in said and not wordy(said)
    shown = screens(app)[0]
    assert shown["answer"] == screens(visit("features", data="digits", img=3))[0]["answer"]
    monkeypatch.delenv("ROBUSTVIZ_MODE")
    sound(visit("features", data="digits", img=3, **many))  # On one's own computer it is measured.
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    app = sound(visit("features", data="digits", img=3, **many))
    assert "not measured yet" not in words(app) and " of 300 " in screens(app)[0]["answer"][0]


def test_in_a_class_a_network_that_cannot_be_read_is_left_out_alone(visit, few, quick, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    broken, kept = ordinary("digits", "pgd_at").id, cache.kept

    def damaged(run_id, spec):
        if run_id == broken:
            raise UserError("The weights cannot be read.")
        return kept(run_id, spec)

    monkeypatch.setattr(cache, "kept", damaged)
    # Another seed, because Streamlit caches what earlier tests drew.
    app = sound(visit("features", data="digits", img=3, **{"map-n": 300, "map-seed": 78}))
    said, moves = words(app), screens(app)[0]["moves"]
    assert "The weights cannot be read." in said and "Here are 200 images after 20 steps." in said
    assert "near-a" in moves and "near-b" not in moves


def test_a_network_that_cannot_be_drawn_gets_a_sentence_and_the_page_goes_on(
    visit, few, quick, monkeypatch
):
    monkeypatch.setattr(
        FeatureMapSpec, "alike", lambda self, spec: FeaturesSpec(n=9, eps=self.eps, steps=2, k=3)
    )
    # Another seed, because Streamlit caches what earlier tests drew.
    app = sound(visit("features", data="digits", **{"map-seed": 77}))
    assert "no class has two of them" in words(app) and not charts(app)


def test_a_run_without_snapshots_says_so_and_those_with_them_make_a_film(visit, quick, monkeypatch):
    app = opened(
        visit(
            "features",
            data="digits",
            a=ordinary("digits", "trades").id,
            b=ordinary("digits", "pgd_at").id,
            **FEW,
        ),
        "features",
    )
    said = words(app)
    assert "kept the weights of 0 epochs" in said and "B PGD-AT**: attacked images" in said
    film = screens(app)[1]
    assert film["control"]["values"] == [str(epoch) for epoch in range(2, 21, 2)]
    assert film["control"]["start"] == 9 and film["answer"][-1].startswith("Epoch 20,")
    assert app.slider == [] or "Epoch" not in [each.label for each in app.slider]
    app = opened(
        visit(
            "features",
            **{
                name: value[-1] if isinstance(value, list) else value
                for name, value in app.query_params.items()
            }
            | {"map-epoch": "6"},
        ),
        "features",
    )
    assert screens(app)[1]["control"]["start"] == 2
    assert app.query_params["map-epoch"] in ("6", ["6"])
    monkeypatch.setattr(embedder, "layout", lambda x, *arrays, **settings: x[:, :2])
    app.button_group(key="map-film").set_value("umap").run()
    assert any("UMAP from the last epoch back" in text for text in screens(sound(app))[1]["sure"])
    assert app.query_params["map-film"] in ("umap", ["umap"])
