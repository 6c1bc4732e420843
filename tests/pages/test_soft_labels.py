"""Soft labels & loss: the page shows what the probes say, of an alignment where there is one, and
no address breaks it.
"""

from __future__ import annotations

import json
import shutil

import pytest

from robustviz import probes
from robustviz.probes import SoftLabelsSpec
from robustviz.runs import folder
from robustviz.views.loss.figures import soft_labels
from tests.aligned import aligned, origin
from tests.pages.conftest import ordinary, sound, words
from tests.pages.test_glossary import lacking

ALIGNED = aligned().id
CONTROL = aligned("label").id
BEFORE, WITNESS = origin(aligned())


def specs(app):
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def test_it_opens_with_the_shipped_alignment_and_its_numbers(visit):
    app = sound(visit("soft_labels", data="digits", img=3))
    said = words(app)
    found = {
        name: probes.soft_labels(folder.open_run(run_id), SoftLabelsSpec(index=3))
        for name, run_id in (
            ("witness", WITNESS),
            ("source before", BEFORE),
            ("source after", ALIGNED),
        )
    }
    assert soft_labels(found, witness="witness").layout.meta["sentence"] in said
    evaluation = folder.open_run(ALIGNED).evaluation()
    assert (
        f"{100 * evaluation.robust_acc:.1f} %" in said
        and "The witness is frozen" in said
        and "not decided" in said
    )
    _, surface, _ = specs(app)
    contours = [
        trace for trace in surface["data"] if trace["type"] == "contour" and trace.get("coloraxis")
    ]
    assert (
        len(contours) == 6
        and len({(trace["contours"]["start"], trace["contours"]["end"]) for trace in contours}) == 1
    )
    assert "A slice of a million-dimensional shape: compare, do not navigate." in said
    assert not lacking(said)


def test_a_and_b_are_compared_when_asked_for(visit):
    app = sound(visit("soft_labels", data="digits", compared="sides"))
    said = words(app)
    assert "B PGD-AT is more robust than A Standard" in said and "witness" in said
    assert "frozen" not in said


def test_an_aligned_run_in_the_sidebar_is_the_one_shown_and_a_control_is_called_one(visit):
    assert "This is a control" in words(sound(visit("soft_labels", data="digits", b=CONTROL)))
    assert "This is a control" not in words(sound(visit("soft_labels", data="digits", b=ALIGNED)))


def test_without_an_alignment_a_sentence_and_a_and_b(visit, few):
    said = words(sound(visit("soft_labels", data="digits")))
    assert "No model alignment has been trained on digits yet" in said and "A Standard" in said
    assert "Train one on the Train page" in said and "is more robust than" in said


def test_an_alignment_whose_witness_is_gone_is_a_sentence(visit, few, tmp_path):
    shutil.copytree(folder.REPOSITORY / "checkpoints" / "zoo" / ALIGNED, tmp_path / "zoo" / ALIGNED)
    said = words(sound(visit("soft_labels", data="digits")))
    assert f"{ALIGNED} cannot be shown with what it was made of" in said and "A Standard" in said


def test_the_temperature_and_the_attack_change_the_bars(visit):
    app = visit("soft_labels", data="digits", img=3, compared="sides")
    before = specs(app)[0]
    app.slider(key="T").set_value(1).run()
    assert "At T = 1" in words(sound(app)) and specs(app)[0] != before
    app.button_group(key="state").set_value("attacked").run()
    assert "under its own attack" in words(sound(app))


@pytest.mark.parametrize(
    "address",
    [
        {"T": "999", "img": "99999"},
        {"T": "0", "surface": "4d"},
        {"T": "abc", "compared": "nobody", "direction": "up"},
        {"grid": "20", "plane": "-1"},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, few, address):
    assert "What changes when the target is less sure?" in words(
        sound(visit("soft_labels", data="digits", **address))
    )


def test_no_view_has_more_than_four_canvases_and_each_can_be_drawn(visit):
    app = sound(visit("soft_labels", data="digits", surface="3d-soft", direction="pgd", grid=41))
    assert sum(trace["type"] == "surface" for spec in specs(app) for trace in spec["data"]) == 3
    assert (
        "to the witness's soft label" in words(app)
        and len(specs(app)[1]["data"][0]["x"]["bdata"]) > 400
    )


def test_a_soft_target_without_a_witness_is_a_sentence_and_the_page_goes_on(visit, few):
    said = words(sound(visit("soft_labels", data="digits", surface="3d-soft")))
    assert "There is no witness" in said and "is more robust than" in said


def test_one_network_alone(visit, few):
    assert "not decided" not in words(
        sound(visit("soft_labels", data="digits", a=ordinary("digits", "pgd_at").id, b=""))
    )
