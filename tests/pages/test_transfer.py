"""Tests the Transfer page: the choice of sources and targets, the probe's numbers, and a sentence
wherever there is nothing to show.
"""

from __future__ import annotations

import shutil

import pytest

from robustviz import figures, probes
from robustviz.probes import FooledSpec, TransferSpec
from robustviz.runs import folder
from robustviz.ui.context import Context
from robustviz.views.screen import wordy
from robustviz.views.transfer import panel as transfer, screen_figures as first
from tests.pages.conftest import opened, ordinary, screen, sound, words
from tests.pages.test_glossary import lacking

FAST = {"data": "digits", "transfer-steps": 3}


def test_the_first_screen_counts_all_images_before_and_after_soft_labels(visit):
    app = sound(visit("transfer", data="digits"))
    a, b = ordinary("digits", "standard"), ordinary("digits", "pgd_at")
    found = probes.fooled(a, FooledSpec())
    assert found.n == found.meta["of"] == 360
    # The run's own evaluation stops at an image's first misclassification and must count the same.
    evaluation = a.evaluation()
    misread = int((found.fooled(a.id) | found.misread(a.id)).sum())
    assert abs(evaluation.n - evaluation.robust_k - misread) <= 2
    bars = first.targets(found, b.id, "B PGD-AT")
    wanted = first.screen(found, a.id, bars)
    data = screen(app)
    assert data["answer"] == wanted.answer and data["sure"] == wanted.sure
    assert data["control"]["values"] == ["before", "after"] and data["control"]["start"] == 0
    assert [bar.said for bar in bars] == ["A", "its twin", "a small CNN", "a tiny ViT", "B"]
    assert sentence(figures.alignment(found, b=b.id, b_name="B PGD-AT")) in words(app)
    texts = (*wanted.answer, *wanted.sure, wanted.alt, words(app))
    assert not [line for text in texts for line in wordy(text)]
    aligned = shipped("digits", "witness_soft")
    pupil = screen(sound(visit("transfer", data="digits", a=aligned.id)))
    assert pupil["control"]["start"] == 1 and pupil["answer"][1] == wanted.answer[1]


def sentence(figure):
    return figure.layout.meta["sentence"]


def shipped(data, target):
    return next(
        run
        for run in folder.all_runs()
        if run.shipped
        and run.data_key == data
        and run.method_key == "model_alignment"
        and run.info["method"]["target"] == target
    )


def here(a, b=None):
    return Context("digits", a.id, b.id if b else "", 0)


def test_made_on_a_and_its_relatives_shown_to_b_and_to_those_who_took_no_part(runs_home):
    a, b, aligned = (
        ordinary("digits", "standard"),
        ordinary("digits", "pgd_at"),
        shipped("digits", "witness_soft"),
    )
    made_on = transfer.sources(here(a, b))
    assert list(made_on) == ["A before", "aligned", "hard labels", "true labels"]
    assert made_on["A before"] == a.id and made_on["true labels"] == shipped("digits", "label").id
    shown = transfer.targets(here(a, b), made_on)
    witness = aligned.info["method"]["witness"]
    assert (
        shown[0] == b.id
        and not {witness, *made_on.values()} & {*shown}
        and ordinary("digits", "trades").id in shown
    )
    assert list(transfer.sources(here(aligned, a))) == [
        "B before",
        "A aligned",
        "hard labels",
        "true labels",
    ]
    assert next(iter(transfer.sources(here(b)))) == "A PGD-AT" and b.id not in transfer.targets(
        here(b), transfer.sources(here(b))
    )


def test_the_sentences_are_those_of_the_probes_results(visit):
    said = words(opened(visit("transfer", **FAST), "transfer"))
    a, b = ordinary("digits", "standard"), ordinary("digits", "pgd_at")
    made_on = transfer.sources(here(a, b))
    shown = transfer.targets(here(a, b), made_on)
    spec = TransferSpec(targets=",".join(shown), eps=a.eps / 2, n=300, steps=3)
    found = {
        name: probes.transfer(folder.open_model(run_id), spec) for name, run_id in made_on.items()
    }
    for figure in (
        figures.transfer(found, b=b.id),
        figures.transfer_difference(found, of="aligned"),
        figures.prediction_kl(found["aligned"]),
    ):
        assert sentence(figure) in said and figure.layout.meta["sure"] in said
    # The larger study.
    assert "+1.6 [+0.1, +3.0] points" in said and "views.transfer.study --report" in said
    assert "\n- 6 of 6 sources come closer to the witness" in said
    assert not lacking(said) and not wordy(said)


def test_many_images_wait_for_a_button(visit):
    app = opened(visit("transfer", **FAST | {"transfer-n": 1000, "transfer-steps": 20}), "transfer")
    assert len(app.get("plotly_chart")) == 1  # The figure of what alignment changes.
    assert app.button(key="measure-transfer").label == (
        "Measure transfer on 1000 images of A before and aligned and hard labels and true labels"
        " (about 20 s each)"
    )


def test_without_aligned_copies_the_matrix_is_there_and_a_sentence_in_place_of_the_rest(
    visit, few, unpacked
):
    app = opened(visit("transfer", **FAST), "transfer")
    assert "No aligned copy of this source is trained" in words(app)
    assert "no aligned copy to compare it with" in words(app) and screen(app)["control"] is None
    assert len(app.get("plotly_chart")) == 2


def test_no_target_is_a_sentence_and_the_rest_of_the_page_goes_on(visit, few, tmp_path):
    shutil.rmtree(next((tmp_path / "zoo").glob("digits-pgd-at-*")))
    app = opened(visit("transfer", **FAST), "transfer")
    assert "No other network on this data could be a target" in words(
        app
    ) and "What does a larger study say?" in words(app)


def test_no_image_qualifies_for_a_robust_source_at_a_small_radius(visit, few):
    app = opened(
        visit(
            "transfer",
            **FAST
            | {
                "transfer-steps": 1,
                "a": ordinary("digits", "pgd_at").id,
                "b": ordinary("digits", "standard").id,
            },
        ),
        "transfer",
    )
    assert "qualif" in words(app) and app.get("plotly_chart")


@pytest.mark.parametrize(
    "address",
    [
        {"transfer-attack": "nuke"},
        {"radius": "3"},
        {"transfer-n": "1"},
        {"transfer-seed": "x"},
        {"transfer-steps": "0"},
        {"fooled-attack": "nuke", "alignment": "never", "fooled-seed": "-1"},
        {"b": ""},
    ],
    ids=str,
)
def test_no_address_breaks_the_page(visit, few, address):
    assert "Do images attacked on one network fool another?" in words(
        opened(visit("transfer", **FAST | address), "transfer")
    )
