"""Tests the pickers: the groups are in order, names distinguish the runs, and the same two networks
are chosen at first, whatever is shipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustviz import registry
from robustviz.runs import folder as runs, naming
from robustviz.training.config import TrainConfig
from robustviz.ui import networks, widgets
from robustviz.ui.context import Context
from robustviz.views.transfer import panel as transfer
from tests.pages.conftest import picked, sound, words

IMAGES = {"classes": 10, "channels": 1, "size": 8, "names": [*"0123456789"]}


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., runs.Run]:
    """Returns a function such as `add("trades", {"method.beta": 1.0}, seed=1)`, which creates a run
    on digits, shipped unless `own=True`. Its weights are never opened.
    """
    monkeypatch.setattr(runs, "zoo", lambda: tmp_path / "zoo")
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))

    def one(
        method: str, sets: dict[str, Any] | None = None, own: bool = False, **flags: Any
    ) -> runs.Run:
        config = TrainConfig.make(
            None, {"data": "digits", "method": method, **flags}, [*(sets or {}).items()]
        )
        folder = tmp_path / ("runs" if own else "zoo") / config.run_id
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(
            json.dumps(config.to_json() | {"images": IMAGES}), encoding="utf-8"
        )
        (folder / "net.safetensors").write_bytes(b"")
        return runs.Run(folder)

    return one


def test_many_ordinary_networks_change_neither_the_first_pair_nor_what_tells_runs_apart(add):
    first, second = add("standard"), add("pgd_at")
    for net, seed in (("small_cnn", 0), ("small_resnet", 1), ("tiny_vit", 0)):
        add("standard", net=net, seed=seed)
    aligned = {
        target: add(
            "model_alignment",
            {"method.target": target, "method.source": first.id, "method.witness": "w"},
        )
        for target in ("witness_soft", "witness_hard", "label")
    }
    mine = add("pgd_at", own=True, seed=5)
    add("trades")
    here = networks.on("digits")
    assert networks.defaults(here) == (first.id, second.id)
    assert (
        networks.label(aligned["label"]) == "Model alignment · target=label · small_resnet · seed 0"
    )
    assert networks.label(aligned["witness_soft"]) == "Model alignment · small_resnet · seed 0"
    assert networks.label(mine) == f"PGD-AT · small_resnet · seed 5 · {mine.id[-8:]}"
    names = [networks.option(run) for run in here.values()]
    assert len(set(names)) == len(names) == 10
    assert names[:3] == [
        "Defence · PGD-AT · small_resnet · seed 0",
        f"Defence · {networks.label(mine)}",
        "Defence · TRADES · small_resnet · seed 0",
    ]
    assert [name.split(" · ")[0] for name in names] == ["Defence"] * 3 + [
        "No adversarial training"
    ] * 4 + ["Red team"] * 3
    nets = [name.split(" · ")[2] for name in names[3:7]]
    assert nets == sorted(nets, key=registry.keys("net").index)


@pytest.mark.parametrize(
    ("method", "sets", "said"),
    [
        ("part", {"method.eps_low": 0.0, "method.rule": "oracle"}, "eps_low=0/255, rule=oracle"),
        ("part", {"method.eps_low": 7 / 255}, "eps_low=7/255"),
        ("trades", {"attack.steps": 3, "method.beta": 1.0}, "steps=3, beta=1"),
        ("afa", {"method.projection": True, "method.head": "SLF"}, "head=SLF, projection=True"),
        ("standard", {}, ""),
    ],
)
def test_a_name_tells_what_is_not_usual(add, method, sets, said):
    assert set(naming.unusual(add(method, sets))) == set(filter(None, said.split(", ")))


def test_the_same_kind_of_network_is_taken_to_another_data_set(add):
    add("model_alignment", {"method.source": "s", "method.witness": "w"})
    hard = add(
        "model_alignment",
        {"method.target": "witness_hard", "method.source": "s", "method.witness": "w"},
    )
    one = add("standard", seed=1)
    add("standard")
    here = networks.on("digits")
    like = add(
        "model_alignment",
        {"method.target": "witness_hard", "method.source": "other", "method.witness": "v"},
        own=True,
    )
    assert networks.nearest(here, "model_alignment", like) == hard.id
    assert networks.nearest(here, "standard", one) == one.id
    assert networks.nearest(here, "trades") == ""


def test_figures_call_two_networks_of_one_method_by_what_differs(add):
    first, second, other = add("pgd_at"), add("pgd_at", seed=1), add("trades", seed=1)
    assert widgets.names(Context("digits", second.id, first.id, 0)) == {
        "A PGD-AT, seed 1": second.id,
        "B PGD-AT, seed 0": first.id,
    }
    assert list(widgets.names(Context("digits", first.id, other.id, 0))) == ["A PGD-AT", "B TRADES"]
    assert list(widgets.names(Context("digits", first.id, first.id, 0))) == ["A PGD-AT", "B PGD-AT"]
    made_on = transfer.sources(Context("digits", first.id, second.id, 0))
    assert list(made_on) == ["A PGD-AT, seed 0"]
    # A page opens with the network of the usual ε, although other ε are shipped too.
    add("standard")
    for eps in (0.01, 0.3):
        add("pgd_at", eps=eps)
    assert networks.defaults(networks.on("digits"))[1] == first.id
    names = [networks.label(run) for run in networks.on("digits").values()]
    assert "PGD-AT · ε 0.3 (76/255) · small_resnet · seed 0" in names
    assert len(set(names)) == len(names)


def test_b_is_another_network_or_none(add):
    lonely = add("standard", seed=3)
    assert networks.defaults(networks.on("digits")) == (lonely.id, "")
    other = add("standard", seed=4)
    assert networks.defaults(networks.on("digits")) == (lonely.id, other.id)
    defended = add("trades")
    assert networks.defaults(networks.on("digits")) == (lonely.id, defended.id)


def test_a_run_of_a_method_or_a_network_that_is_not_known_here_hides_nothing(add):
    known, strange, newer = add("standard"), add("trades"), add("pgd_at")
    strange_info, newer_info = (
        strange.info | {"net": "resnet9000"},
        newer.info | {"method": {"key": "tomorrow"}},
    )
    (strange.path / "config.json").write_text(json.dumps(strange_info), encoding="utf-8")
    (newer.path / "config.json").write_text(json.dumps(newer_info), encoding="utf-8")
    assert list(networks.on("digits")) == [known.id]


def test_the_title_row_picks_a_and_b_the_image_and_the_data(visit, few):
    app = sound(visit("contributions"))
    assert [box.label for box in app.selectbox][:3] == ["Network A", "Network B", "Data set"]
    assert app.session_state["data"] == "shapes"
    first = networks.default_image(app.session_state["a"], app.session_state["b"])
    assert app.session_state["img"] == first
    assert "It is the first that A misclassifies under attack and B does not." in words(app)
    picked(app, "img").set_value(first + 1).run()
    assert "It is the first that" not in words(sound(app))
    assert app.query_params["img"] == str(first + 1)
    app.selectbox(key="data").set_value("digits").run()
    assert app.session_state["img"] == networks.default_image(
        app.session_state["a"], app.session_state["b"]
    )
    assert "img" not in app.query_params  # The image number belongs to the other data set.


def test_a_lecture_has_no_menu_and_two_ways_to_go(visit, few):
    app = sound(visit("contributions", present=1))
    assert not app.get("page_link")
    assert {"lecture-1", "lecture1", "lecture-end"} <= {button.key for button in app.button}
    assert "present" in app.query_params
    app.button(key="lecture-end").click().run()
    assert "present" not in app.query_params and app.get("page_link")
