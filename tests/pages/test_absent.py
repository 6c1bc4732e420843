"""Tests links to a network that is not on this computer: every page says so and shows how to train
the network.
"""

from __future__ import annotations

import shutil

import pytest

from robustviz.runs import folder, recipes
from robustviz.training.config import TrainConfig
from tests.pages.conftest import ordinary, picked, sound, words

PAGES = ("attack", "attention", "features", "soft_labels", "transfer", "contributions", "compare")
pytestmark = pytest.mark.usefixtures("few")


def config(**sets: object) -> TrainConfig:
    return TrainConfig.make(
        None, {"data": "digits", "method": "trades"}, [("seed", 41), *sets.items()]
    )


def opened(visit, page: str, **address: object):
    """Opens a page as a link does: the address parameters are set before its first run."""
    app = visit("glossary")  # The glossary page needs no network.
    for name, value in address.items():
        app.query_params[name] = str(value)
    return sound(app.switch_page(f"../../pages/{page}.py").run())


def said(app, name: str) -> str:
    """Returns the value of an address parameter. AppTest gives a list if the page has set the
    parameter itself.
    """
    value = app.query_params[name]
    return value if isinstance(value, str) else value[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_what_trains_the_network_of_a_link(visit, page):
    usual = config()
    app = opened(visit, page, a=usual.run_id, img=5)
    assert "TRADES on digits, seed 41. It is not on this computer." in words(app)
    assert [code.value for code in app.code if " train " in code.value] == [
        "python -m robustviz train --data digits --method trades --seed 41"
    ]
    assert app.session_state["data"] == "digits" and app.session_state["img"] == 5
    # The address must still be the same link, so that it can be opened again, also on another
    # computer.
    assert said(app, "a") == usual.run_id


def test_a_run_that_is_here_but_cannot_be_opened_is_not_called_absent(visit, runs_home, tmp_path):
    waiting, strange = (folder.create(config(seed=seed)) for seed in (41, 42))
    assert "here, but no page can open it yet" in words(opened(visit, "compare", a=waiting.id))
    text = (strange.path / "config.json").read_text(encoding="utf-8")
    (strange.path / "config.json").write_text(text.replace('"trades"', '"gone"'), encoding="utf-8")
    told = words(opened(visit, "compare", a=strange.id))
    assert "not on this computer" not in told and "If its code is new, restart" in told


def test_another_network_chosen_is_the_end_of_it(visit):
    app = opened(visit, "contributions", a=config().run_id)
    picked(app, "a").set_value(ordinary("digits", "pgd_at").id).run()
    assert "not on this computer" not in words(sound(app))
    assert app.session_state["data"] == "digits" == sound(app.run()).session_state["data"]
    assert app.query_params.get("a") != config().run_id and "a-set" not in app.query_params


def test_a_link_carries_what_is_not_usual_and_an_old_one_says_what_is_known(visit):
    odd = config(**{"method.beta": 1.5})
    carried = recipes.packed(recipes.of(odd))
    app = opened(visit, "contributions", a=odd.run_id, **{"a-set": carried})
    assert "This trains exactly this network" in words(app)
    assert any("--set method.beta=1.5" in code.value for code in app.code)
    app = opened(visit, "contributions", a=odd.run_id)
    assert "the link does not tell which" in words(app)
    assert any(f"run import {odd.run_id}.zip" in code.value for code in app.code)


@pytest.mark.parametrize("nonsense", ["../../etc", "x" * 500, "![a](b)", "digits"])
def test_a_link_can_say_anything(visit, nonsense):
    app = opened(visit, "contributions", a=nonsense, **{"a-set": "data=$(rm)~" + "x" * 5000})
    assert "not here" in words(app) or "not on this computer" in words(app)
    assert not any("$(rm)" in code.value for code in app.code)


def test_a_network_of_one_s_own_is_always_in_the_address_and_shown_once_it_is_here(visit, tmp_path):
    shipped = ordinary("digits", "pgd_at")
    own = TrainConfig.make(None, {"data": "digits", "method": "pgd_at", "seed": 41})
    app = opened(visit, "compare", a=own.run_id)
    shutil.copytree(shipped.path, tmp_path / "runs" / own.run_id)
    info = (shipped.path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "runs" / own.run_id / "config.json").write_text(
        info.replace('"seed": 0', '"seed": 41'), encoding="utf-8"
    )
    assert folder.open_run(own.run_id).seed == 41
    sound(app.run())
    assert app.session_state["a"] == own.run_id and "not on this computer" not in words(app)
    assert recipes.unpacked(said(app, "a-set"))["seed"] == "41"


def test_a_job_that_is_not_here_is_explained_on_the_train_page(visit):
    usual = config()
    app = opened(visit, "train", job=usual.run_id)
    assert any(recipes.command(recipes.of(usual)) == code.value for code in app.code)
    # The page says it only once.
    assert "It is not on this computer." in words(app) and not app.warning
    app = opened(visit, "train", job="../../etc")
    assert "is no run id" in words(app) and "not on this computer" not in words(app)


def test_a_link_to_a_data_set_without_networks_says_what_trains_two(visit):
    app = opened(visit, "compare", data="cifar10")
    assert "There is no network for cifar10 on this computer." in words(app)
    assert app.code[0].value.splitlines() == [
        f"python -m robustviz train --data cifar10 --method {key}" for key in ("standard", "pgd_at")
    ]
    assert "There is no network for" not in words(opened(visit, "compare", data="<script>"))


def test_a_data_set_of_a_link_stays_at_every_click(visit):
    app = opened(visit, "compare", data="digits")
    assert sound(app.run()).session_state["data"] == "digits" == said(app, "data")
