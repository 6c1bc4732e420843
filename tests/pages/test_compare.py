"""Tests the Compare page: the scoreboard, its table, and the drawer in which A and B are chosen."""

from __future__ import annotations

import re
import shutil

from robustviz.runs import folder as runs
from robustviz.views.compare import panel
from robustviz.views.screen import wordy
from tests.pages.conftest import ordinary, screen, screens, sound, words

A, B = "shapes-standard-small-resnet-s0-66d1d3f3", "shapes-pgd-at-small-resnet-s0-89b8cc89"


def test_the_scoreboard_says_which_holds_and_the_table_has_every_network(visit):
    app = sound(visit("compare"))
    data = screen(app)
    assert data["answer"][-1] == (
        "B is more robust: it is right on 136 of 200 images under all 5 attacks, A on 15."
        " Each has one training seed."
    )
    assert data["control"]["values"][0] == "none" and data["control"]["start"] == 5
    table = app.dataframe[0].value
    shipped = [run for run in runs.all_runs() if run.shipped and run.data_key == "shapes"]
    assert len(table) == len(shipped) and not table["yours"].any()
    row = table[table["side"] == "B"].iloc[0]
    assert (row["kept"], row["of"], row["attacks"], row["hardest"]) == (136, 200, 5, "AutoAttack")
    sip = table[table["network"].str.startswith("SIP-AT")].iloc[0]
    assert sip["hardest"] == "PGD-100×5", "CW-100 comes after it and leaves more images right"
    assert row["under attack"] == 136 / 200 and row["untouched"] == 979 / 1000
    assert row["trained at ε"] == row["attacked at ε"] == 8 and row["s an epoch"] > 0


def test_the_address_keeps_where_the_control_stands(visit):
    app = sound(visit("compare", attacks="FGSM", data="digits"))
    data = screen(app)
    assert data["control"]["start"] == 1 and "332 of 360" in data["answer"][1]


def test_a_network_of_the_user_s_is_there_and_marked(visit):
    own = runs.home() / "my-trades"
    shutil.copytree(ordinary("shapes", "trades").path, own)
    app = sound(visit("compare"))
    assert ">yours<" in screen(app)["picture"]
    table = app.dataframe[0].value
    assert table["yours"].sum() == 1


def test_a_click_makes_a_and_the_next_one_b(visit, monkeypatch):
    app = sound(visit("compare"))
    assert "to make it :blue[**A**]" in words(app)
    here = panel.Context("shapes", A, B, 0)
    state: dict[str, str] = {}
    monkeypatch.setattr(panel.st, "session_state", state)
    monkeypatch.setattr(panel.st, "rerun", lambda: None)
    panel._take("a", "other", here)
    assert state == {"a": "other"}
    panel._take("b", A, here)  # Choosing the other side's network swaps the two.
    assert (state["a"], state["b"]) == (B, A)


def test_the_pickers_open_the_scoreboard(visit):
    app = sound(visit("compare"))
    app.button(key="board-b").click().run()
    sound(app)
    assert "Click a mark to make it B." in words(app)
    assert screens(app)[1]["answer"] == screen(app)["answer"]


def test_all_evaluations_are_one_step_deeper(visit):
    app = sound(visit("compare"))
    assert len(app.dataframe) == 1
    app.session_state["more-compare"] = True
    app.run()
    assert len(sound(app).dataframe) == 3
    every = app.dataframe[2].value
    assert {"FGSM", "PGD-20", "AutoAttack"} <= set(every["attack"]) and len(every) > 100
    classes = app.dataframe[1].value
    whole, alike, *rows = classes.to_dict("records")
    assert (whole["images"], whole["A attacked"], whole["B untouched"]) == (1000, 0.121, 0.979)
    assert len(rows) == 10 and sum(row["images"] for row in rows) == 1000
    assert abs(sum(row["B attacked"] for row in rows) / 10 - alike["B attacked"]) < 1e-9
    kept = sum(row["A attacked"] * row["images"] for row in rows)
    assert abs(kept - 121) < 1e-6 and "A: PGD-20, 1000 images." in words(app)


def test_two_networks_side_by_side_are_moved_by_one_epoch_scrubber(visit, monkeypatch):
    monkeypatch.setattr(panel, "BESIDE", {"n": 12, "frames": 2, "steps": 2})
    app = sound(visit("compare", **{"net-c": SEED_1}))  # The parameter `net-c` opens the drawer.
    next(each for each in app.button if each.label.startswith("Measure the kept")).click()
    sound(app.run())
    data = screens(app)[1]
    assert data["control"]["values"] == [*map(str, range(1, 21)), "chosen"]
    assert len(data["answer"]) == 21
    assert data["answer"][-1].startswith("B is more robust: it is right on")
    assert "Epoch 20:" in data["answer"][19]
    assert data["picture"].count('class="side"') == 3
    shown = data["moves"]["A0"][1]
    assert shown[0] == "" and shown[-1] == "off" and data["moves"]["A2"][1][-1] == ""
    # A network without stored weights of earlier epochs shows its final weights at every epoch.
    assert set(data["moves"]["C0"][1]) == {""}
    moved = re.findall(r'data-move="([^"]*)"', data["picture"])
    assert set(moved) == set(data["moves"]) and {"now840-x", "now380-x"} <= set(moved)
    assert all(len(values) == 21 for _, values in data["moves"].values())
    for text in (*data["answer"], *data["sure"]):
        assert not wordy(text), text
    said = words(app)
    assert "**A and B.** Same seed, same batches: what differs is the method." in said
    assert "**A and C.** Same settings, different seeds: any difference is due to chance." in said
    assert "Both have the same method, so methods are not compared." in said
    assert "2 seeds were trained with both methods" in said or "3 seeds" in said
    assert "Tango, paired" in said


def test_one_network_alone_is_not_put_side_by_side(visit):
    app = visit("compare", b="")
    app.session_state["more-together"] = True
    sound(app.run())
    assert "Choose two networks of one data set" in words(app)


SEED_1 = "shapes-standard-small-resnet-s1-83fe2aef"
