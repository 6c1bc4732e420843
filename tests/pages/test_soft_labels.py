"""Tests the page *Soft labels & loss*: it shows the probes' results, those of an alignment where
there is one, and no address breaks it.
"""

from __future__ import annotations

import json
import shutil

import pytest

from robustviz import probes
from robustviz.probes import SoftLabelsSpec, WorstDirectionSpec
from robustviz.runs import folder
from robustviz.views.loss.figures import soft_labels
from robustviz.views.loss.screen_figures import alignment, verdict
from robustviz.views.screen import wordy
from tests.aligned import aligned, origin
from tests.pages.conftest import opened, ordinary, screen, sound, words
from tests.pages.test_glossary import lacking

ALIGNED = aligned().id
CONTROL = aligned("label").id
BEFORE, WITNESS = origin(aligned())


def specs(app):
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def test_it_opens_with_each_network_in_its_own_worst_direction(visit):
    app = sound(visit("soft_labels", data="digits", img=3))
    found = {
        name: probes.worst_direction(ordinary("digits", method), WorstDirectionSpec(index=3))
        for name, method in (("A Standard", "standard"), ("B PGD-AT", "pgd_at"))
    }
    shown = screen(app)
    assert shown["answer"] == [verdict(found)] and "in its worst direction" in shown["answer"][0]
    assert shown["control"]["values"] == [str(level) for level in range(77)]
    assert shown["control"]["start"] == 38 and shown["picture"].count("<image ") == 2
    app = sound(visit("soft_labels", data="digits", img=3, eps=12))
    assert screen(app)["control"]["start"] == 12
    assert [each for text in shown["sure"] for each in wordy(text)] == []
    assert "This is a 2-D slice of a space with thousands of dimensions" in words(app)
    assert not lacking(words(app))


def test_hard_or_soft_label_shows_the_shipped_alignment_and_its_numbers(visit):
    app = sound(visit("soft_labels", data="digits", img=3, compared="alignment"))
    said = words(app)
    spec = WorstDirectionSpec(index=3, eps=0.15, reference=BEFORE, witness=WITNESS)
    before, after = (
        probes.worst_direction(folder.open_run(one), spec) for one in (BEFORE, ALIGNED)
    )
    assert screen(app)["answer"] == list(alignment(before, after).answer)
    found = {
        name: probes.soft_labels(folder.open_run(run_id), SoftLabelsSpec(index=3))
        for name, run_id in (
            ("Witness", WITNESS),
            ("Source before", BEFORE),
            ("Source after", ALIGNED),
        )
    }
    assert soft_labels(found, witness="Witness").layout.meta["sentence"] in said
    assert "The witness is not trained by the alignment" in said
    surface, _ = specs(app)
    contours = [
        trace for trace in surface["data"] if trace["type"] == "contour" and trace.get("coloraxis")
    ]
    assert (
        len(contours) == 6
        and len({(trace["contours"]["start"], trace["contours"]["end"]) for trace in contours}) == 1
    )
    assert not lacking(said)
    evaluation = folder.open_run(ALIGNED).evaluation()
    assert f"{100 * evaluation.robust_acc:.1f}%" in words(opened(app, "loss"))


def test_an_image_that_the_witness_misreads_is_said_to_be_one(visit):
    run = folder.open_run(WITNESS)
    right = run.evaluation().right()[0]
    wrong = int((~right).argmax())
    app = sound(visit("soft_labels", data="digits", img=wrong, compared="alignment"))
    assert "The witness misclassifies this image as" in words(app)
    button = next(one for one in app.button if "which the witness gets right" in one.label)
    assert f"Show image {int(right.argmax())}," in button.label
    button.click().run()
    assert "The witness misclassifies" not in words(sound(app))


def test_every_visible_sentence_can_be_read_at_a_glance(visit):
    for address in ({}, {"compared": "alignment"}):
        app = opened(visit("soft_labels", data="shapes", **address), "loss")
        plain = [line for line in words(app).splitlines() if not line.startswith("|")]
        assert [each for line in plain for each in wordy(line)] == []


def test_a_and_b_are_compared_with_their_verdict(visit):
    said = words(opened(visit("soft_labels", data="digits"), "loss"))
    assert "B PGD-AT is more robust: it is right on" in said
    assert (
        "**PGD-20.** B PGD-AT is more robust" in said
        and "is not trained by the alignment" not in said
    )


def test_an_aligned_run_that_is_chosen_is_the_one_shown_and_a_control_is_called_one(visit):
    at = {"data": "digits", "compared": "alignment"}
    assert "a control" in screen(sound(visit("soft_labels", b=CONTROL, **at)))["answer"][0]
    assert "a control" not in screen(sound(visit("soft_labels", b=ALIGNED, **at)))["answer"][0]


def test_without_an_alignment_a_sentence_and_a_and_b(visit, few):
    app = sound(visit("soft_labels", data="digits", compared="alignment"))
    assert "No model alignment has been trained on digits yet" in words(app)
    assert "Train one on the Train page" in words(app)
    assert "in its worst direction" in screen(app)["answer"][0]


def test_an_alignment_whose_witness_is_gone_is_a_sentence(visit, few, tmp_path):
    shutil.copytree(folder.REPOSITORY / "checkpoints" / "zoo" / ALIGNED, tmp_path / "zoo" / ALIGNED)
    app = sound(visit("soft_labels", data="digits", compared="alignment"))
    assert f"{ALIGNED} cannot be shown with its source and its witness" in words(app)
    assert "in its worst direction" in screen(app)["answer"][0]


def test_the_temperature_and_the_attack_change_the_bars(visit):
    app = visit("soft_labels", data="digits", img=3)
    before = specs(app)[1]
    app.select_slider(key="T").set_value("1").run()
    assert "at T = 1." in words(sound(app)) and specs(app)[1] != before
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
    assert "How close is the boundary, and how steep is the loss?" in words(
        sound(visit("soft_labels", data="digits", **address))
    )


def test_no_view_has_more_than_four_canvases_and_each_can_be_drawn(visit):
    at = {"data": "digits", "compared": "alignment", "direction": "pgd", "grid": 41}
    app = sound(visit("soft_labels", surface="3d-soft", **at))
    assert sum(trace["type"] == "surface" for spec in specs(app) for trace in spec["data"]) == 3
    assert (
        "to the witness's soft label" in words(app)
        and len(specs(app)[0]["data"][0]["x"]["bdata"]) > 400
    )


def test_a_soft_target_without_a_witness_is_a_sentence_and_the_page_goes_on(visit, few):
    said = words(opened(visit("soft_labels", data="digits", surface="3d-soft"), "loss"))
    assert "There is no witness" in said and "is more robust" in said


def test_one_network_alone(visit, few):
    app = opened(
        visit("soft_labels", data="digits", a=ordinary("digits", "pgd_at").id, b=""), "loss"
    )
    assert "no significant difference" not in words(app) and "B" not in screen(app)["answer"][0]
