"""Tests the names of runs shown side by side: two runs of one method are distinguished by what
differs and never called different methods, and a finding about two networks says that it is about
networks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustviz.runs import folder
from robustviz.runs.folder import Run
from robustviz.runs.naming import SEEDS, apart, labels, unusual
from robustviz.training.config import TrainConfig
from robustviz.training.evaluation import Paired


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Run]:
    """Returns a function such as `made("trades", {"method.beta": 1.0}, seed=1)`, which creates a
    run folder on digits.
    """

    def one(method: str, sets: dict[str, Any] | None = None, name: str = "", **flags: Any) -> Run:
        config = TrainConfig.make(
            None, {"data": "digits", "method": method, **flags}, [*(sets or {}).items()]
        )
        run = Run(tmp_path / (name or config.run_id))
        run.path.mkdir()
        (run.path / "config.json").write_text(json.dumps(config.to_json()), encoding="utf-8")
        return run

    return one


NAMES: dict[str, tuple[list[tuple[str, dict[str, Any], dict[str, Any]]], list[str]]] = {
    "two methods": ([("pgd_at", {}, {}), ("trades", {}, {"seed": 1})], ["PGD-AT", "TRADES"]),
    "two seeds": (
        [("pgd_at", {}, {"seed": 1}), ("pgd_at", {}, {"seed": 0})],
        ["PGD-AT, seed 1", "PGD-AT, seed 0"],
    ),
    "two radii": (
        [("pgd_at", {}, {"eps": 8 / 255}), ("pgd_at", {}, {"eps": 4 / 255})],
        ["PGD-AT, ε 8/255", "PGD-AT, ε 4/255"],
    ),
    "two networks and as many epochs": (
        [
            ("standard", {}, {"net": "small_cnn", "epochs": 1}),
            ("standard", {}, {"net": "tiny_vit", "epochs": 40}),
        ],
        ["Standard, small_cnn, 1 epoch", "Standard, tiny_vit, 40 epochs"],
    ),
    "two settings of the method, one in its attack": (
        [("trades", {"method.beta": 1.0}, {}), ("trades", {"attack.steps": 3}, {"seed": 2})],
        ["TRADES, steps=10, beta=1, seed 0", "TRADES, steps=3, beta=6, seed 2"],
    ),
    "more than fit": (
        [
            ("pgd_at", {}, {"seed": 1, "eps": 0.1, "net": "small_cnn", "epochs": 3}),
            ("pgd_at", {}, {}),
        ],
        [
            "PGD-AT, small_cnn, ε 0.1 (26/255), seed 1, …",
            "PGD-AT, small_resnet, ε 0.15 (38/255), seed 0, …",
        ],
    ),
    "a third method beside two of one": (
        [("mart", {}, {}), ("pgd_at", {}, {}), ("pgd_at", {}, {"seed": 3})],
        ["MART", "PGD-AT, seed 0", "PGD-AT, seed 3"],
    ),
    "another data order alone": (
        [("pgd_at", {"batch_size": 32}, {}), ("pgd_at", {"batch_size": 64}, {})],
        ["PGD-AT, batch_size=32", "PGD-AT, batch_size=64"],
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_say_what_sets_networks_apart(made: Callable[..., Run], name: str) -> None:
    asked, wanted = NAMES[name]
    found = labels([made(method, sets, **flags) for method, sets, flags in asked])
    assert found == wanted and len(set(found)) == len(found)


def test_runs_of_the_same_settings_are_told_apart_by_their_ids(made: Callable[..., Run]) -> None:
    first, twin = made("pgd_at", name="first"), made("pgd_at", name="twin")
    assert labels([first, twin]) == ["PGD-AT, first", "PGD-AT, twin"]
    assert labels([first, first]) == ["PGD-AT", "PGD-AT"]  # The same network twice.
    assert labels([]) == []


def test_a_setting_that_a_run_is_older_than_does_not_set_it_apart(made: Callable[..., Run]) -> None:
    old, new = made("pgd_at"), made("pgd_at", seed=1)
    info = json.loads((old.path / "config.json").read_text(encoding="utf-8"))
    del info["method"]["attack_mode"], info["ema"], info["method"]["attack"]["restarts"]
    (old.path / "config.json").write_text(json.dumps(info), encoding="utf-8")
    assert labels([old, new]) == ["PGD-AT, seed 0", "PGD-AT, seed 1"]


def test_where_a_run_was_trained_and_whom_it_follows_is_not_said(made: Callable[..., Run]) -> None:
    one = made("model_alignment", {"method.source": "a", "threads": 1}, device="cpu")
    other = made("model_alignment", {"method.source": "b", "threads": 2}, seed=1)
    assert labels([one, other]) == ["Model alignment, seed 0", "Model alignment, seed 1"]


def test_a_radius_and_epochs_that_are_not_usual_are_part_of_a_picker_s_name(
    made: Callable[..., Run],
) -> None:
    assert unusual(made("pgd_at")) == ()
    assert unusual(made("pgd_at", eps=4 / 255)) == ("ε 4/255",)
    assert unusual(made("pgd_at", epochs=3, seed=1)) == ("3 epochs",)
    assert unusual(made("standard", n_train=100)) == ("100 training images",)


@pytest.mark.parametrize("counts", [(30, 5), (5, 30), (30, 29)])
def test_a_finding_about_two_networks_calls_them_networks(counts: tuple[int, int]) -> None:
    said = Paired(200, *counts, "PGD-20", 8 / 255).sentence("PGD-AT, seed 1", "PGD-AT, seed 0")
    first = said.split(".")[0]
    assert re.search(r"\bnetworks?\b", first) and "method" not in said
    for sentence in re.split(r"(?<=[.!?])\s", f"{said} {SEEDS}"):
        assert len(sentence.split()) <= 20, sentence
    assert "report --seeds" in SEEDS and "networks" in SEEDS


def test_a_label_is_a_network_s_name_and_stays_harmless(runs_home: Path) -> None:
    one, other, plain = (
        folder.create(TrainConfig(data="digits", seed=seed), name=f"named-{seed}", found=found)
        for seed, found in ((0, {"label": "![x](http://y.z) Mine"}), (1, {"label": "B"}), (2, {}))
    )
    assert labels([one, other, plain]) == ["!［x］(http:∕∕y.z) Mine", "B", "PGD-AT"]
    assert labels([other, folder.create(other.config, name="again", found={"label": "B"})]) == [
        "B, named-1",
        "B, again",
    ]
    # The label is not a setting and not part of the id.
    assert one.config == TrainConfig(data="digits", seed=0)
    assert plain.label == "" and one.label.startswith("!")


def test_what_else_than_the_method_differs_is_said() -> None:
    zoo = {run.id: run for run in folder.all_runs() if run.shipped}
    one = next(run for run in zoo.values() if run.architecture == "small_resnet")
    assert apart(one, one) == []
    other = folder.Run(one.path)
    other.__dict__["info"] = {**one.info, "net": "small_cnn", "epochs": 3}
    assert apart(one, other, ("It", "the other")) == [
        "It has the network small_resnet, the other small_cnn: that can matter, too.",
        f"It was trained for {one.info['epochs']} epochs, the other for 3: that can matter, too.",
    ]
