"""Tests the section "Why is a class misaligned?" on the Features page: it shows the probe's
results, a class can be chosen, and no input breaks it.
"""

from __future__ import annotations

import pytest

from robustviz import probes
from robustviz.probes import MisalignmentSpec
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.views.features import embedding, panel as features
from robustviz.views.misalignment import panel as misaligned
from tests.pages.conftest import ordinary, picked, sound, words

AT = {"data": "digits", "map-n": 100, "map-steps": 5}
SPEC = MisalignmentSpec(n=100, steps=5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    """Replaces UMAP, which is tested elsewhere and would compile for ten seconds here."""
    monkeypatch.setattr(embedding, "umap", lambda z, **settings: z[:, :2])
    monkeypatch.setattr(features, "GRACE", 60.0)


def opened(visit, **address):
    """Returns the page with *More* open."""
    app = visit("features", **AT | address)
    app.session_state["more-features"] = True
    return sound(app.run())


def test_a_cause_and_three_images_a_network_are_seen_at_once(visit, monkeypatch) -> None:
    monkeypatch.setattr(misaligned, "everything", None)
    app = sound(visit("features", **AT))
    said = words(app)
    assert "worst class first" not in said
    for side, method in (("a", "standard"), ("b", "pgd_at")):
        found = probes.misalignment(ordinary("digits", method), SPEC)
        c = found.order[0]
        kind, _, text = found.cause(c).partition(": ")
        assert f", {found.meta['classes'][c]}: **{kind}**: {text}" in said
        for row in found.telling(c):
            clean, attacked = (
                found.meta["classes"][each[row]] for each in (found.pred, found.pred_adv)
            )
            button = app.button(key=f"telling-{side}-{found.index[row]}")
            assert button.label == f"{found.index[row]}: {clean} → {attacked}"
    button.click().run()
    assert sound(app).session_state["img"] == found.index[row]


def test_it_says_what_the_probe_says_of_both_networks(visit) -> None:
    said = words(opened(visit))
    for method in ("standard", "pgd_at"):
        found = probes.misalignment(ordinary("digits", method), SPEC)
        for c in found.order[: misaligned.SHOWN]:
            assert f"{found.meta['classes'][c]}: **{found.kind[c]}**: {found.sentence[c]}" in said
    area = probes.misalignment(ordinary("digits", "pgd_at"), SPEC).auc[0]
    assert f"AUC {area:.2f}" in said


def test_a_class_is_chosen_in_the_address_and_its_misread_images_are_offered(visit) -> None:
    app = opened(visit, **{"class": "3"})
    found = probes.misalignment(ordinary("digits", "pgd_at"), SPEC)
    assert found.sentence[3] in words(app)
    wrong = misaligned.misread(found, 3)
    assert wrong and all(found.y[list(found.index).index(i)] == 3 for i in wrong)
    app.button(key=f"misread-b-{wrong[0]}").click().run()
    assert picked(sound(app), "img").value == wrong[0]


def test_a_row_sets_the_class_and_an_image_of_it(visit, monkeypatch) -> None:
    found = probes.misalignment(ordinary("digits", "standard"), SPEC)
    names = [found.meta["classes"][c] for c in found.order]
    state: dict = {"causes-a": {"selection": {"rows": [2]}}}
    monkeypatch.setattr(misaligned.st, "session_state", state)
    misaligned._row("causes-a", found, names)
    assert state["class"] == names[2] and found.y[state["img"]] == found.order[2]
    assert found.pred_adv[state["img"]] != found.y[state["img"]]
    state["causes-a"]["selection"]["rows"] = []
    misaligned._row("causes-a", found, names)
    assert state["class"] == names[2]


@pytest.mark.parametrize("look", ["stages", "pairs", "centres", "uniformity"])
def test_every_closer_look_is_drawn_with_a_sentence(visit, look) -> None:
    said = words(opened(visit, a=ordinary("digits", "trades").id, **{"why-look": look, "b": ""}))
    expected = {
        "stages": "the greatest fall is at",
        "pairs": "Pairs of one class are",
        "centres": "attacked centres",
        "uniformity": "kept no weights of earlier epochs",
    }
    assert expected[look] in said


@pytest.mark.parametrize(
    "address",
    [
        {"class": "cat"},
        {"why-look": "nothing"},
        {"class": "<script>", "why-look": "pairs", "pairs": "9"},
    ],
    ids=str,
)
def test_no_address_breaks_it(visit, address) -> None:
    assert "worst class first" in words(opened(visit, **address, b=""))


def test_where_it_cannot_be_measured_a_sentence_stands_in_its_place(visit, monkeypatch) -> None:
    def fails(run: folder.Run, spec: MisalignmentSpec):
        raise UserError(
            "The distance between class centres needs points of two classes or more; take more"
            " images."
        )

    monkeypatch.setattr(probes.misalignment, "answer", fails)
    # Another seed, because Streamlit caches what earlier tests asked for.
    said = words(opened(visit, **{"map-seed": 77, "b": ""}))
    assert "two classes or more" in said and "Do attacked images stay" in said
