"""Tests that a page's address has everything that was chosen on it and nothing else, and that a
page says what an address asked for in vain.
"""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from robustviz.ui import networks
from robustviz.views.screen import wordy
from tests.pages.conftest import screen, sound, words

VAIN = "The address asked for"


def moved(app: AppTest, key: str, value: str) -> AppTest:
    """Moves a first screen's slider as the browser does, and reruns the page."""
    app.session_state[key] = value
    return sound(app.run())


def address(app: AppTest) -> dict[str, str]:
    return {
        name: value[0] if isinstance(value, list) else value
        for name, value in app.query_params.items()
    }


def shown(app: AppTest) -> str:
    """Returns the value at which the first screen's slider stands."""
    control = screen(app)["control"]
    return str(control["values"][control["start"]])


@pytest.mark.parametrize(
    ("where", "key", "value"), [("claims", "claims-data", "digits"), ("budget", "squares", "0.1")]
)
def test_a_moved_slider_is_in_the_address_and_the_address_moves_it(visit, where, key, value):
    app = sound(visit(where))
    usual = shown(app)
    assert usual != value and not address(app)
    app = moved(app, key, value)
    assert shown(app) == value and address(app) == {key: value}
    assert shown(sound(visit(where, **{key: value}))) == value
    assert not address(moved(app, key, usual))


def test_claims_shows_the_data_that_the_address_names_and_leads_to_it(visit):
    assert shown(sound(visit("claims"))) == "shapes"  # as the other pages
    app = sound(visit("claims", data="digits"))
    assert shown(app) == "digits" and address(app) == {"claims-data": "digits"}
    app = moved(app, "claims-data", "shapes")  # it may show other data than the other pages
    assert shown(app) == "shapes" and not address(app)
    assert shown(sound(visit("claims", data="shapes", **{"claims-data": "cifar10"}))) == "cifar10"
    assert VAIN not in words(app)


def test_claims_and_budget_follow_the_data_of_the_other_pages(visit, few):
    app = sound(visit("attack", data="digits"))
    go = "../../pages/{}.py".format
    app = sound(app.switch_page(go("claims")).run())
    assert shown(app) == "digits" and address(app) == {"claims-data": "digits"}
    app = moved(app, "claims-data", "shapes")
    app = sound(app.switch_page(go("budget")).run())
    assert "PGD-AT on digits" in screen(app)["picture"] and VAIN not in words(app)


@pytest.mark.parametrize(
    ("where", "said", "key", "usual"),
    [
        ("attack", "99", "eps", "8"),
        ("attack", "abc", "eps", "8"),
        ("attack", "cats", "data", "shapes"),
        ("attack", "![x](http://evil.example/x.png)", "attack", "pgd"),
        ("attention", "-1", "steps", "10"),
        ("claims", "cats", "data", "shapes"),
        ("budget", "9", "squares", ""),
        ("tour", "8", "step", "1"),
    ],
)
def test_what_the_address_asks_for_in_vain_is_said_once(visit, few, where, said, key, usual):
    app = sound(visit(where, **{key: said}))
    (told,) = [each.value for each in app.info if VAIN in each.value]
    asked, _, instead = told.partition("which is not there")
    assert f"`{key}=" in asked and f"`{key}={usual}" in instead
    assert "](" not in told and not wordy(told)
    left = sound(app.switch_page("../../pages/glossary.py").run())
    assert VAIN not in words(left) and key not in address(left)


def test_features_says_that_it_has_no_eps_of_its_own(visit, few):
    app = sound(visit("features", data="digits", eps="abc", **{"map-n": 50, "map-steps": 2}))
    (told,) = [each.value for each in app.info if VAIN in each.value]
    assert told == "The address asked for `eps=abc`, which is not there: the page left it out."
    assert told in words(sound(app.run()))  # Still there after another interaction.


def test_an_address_without_a_mistake_or_with_settings_of_other_pages_is_not_blamed(visit, few):
    app = visit("attack", img=0, eps=2, b="", step=3, squares="0.1", nonsense="x")
    assert VAIN not in words(sound(app))


def test_a_network_of_other_data_is_said_to_be_elsewhere(visit, few):
    a = networks.defaults(networks.on("digits"))[0]
    assert f"`a={a}`" in words(sound(visit("attack", data="shapes", a=a)))
    assert VAIN not in words(sound(visit("attack", a="not-here-s0")))  # the page explains that one


def test_a_setting_below_more_is_told_when_it_is_opened(visit, few):
    app = sound(visit("soft_labels", data="digits", **{"weights-grid": "7"}))
    assert VAIN not in words(app)
    app.session_state["more-loss"] = True
    assert "`weights-grid=7`" in words(sound(app.run()))


def test_a_run_in_the_address_brings_its_data_for_good(visit, few):
    a = networks.defaults(networks.on("digits"))[0]
    app = sound(visit("attack", a=a))
    assert address(app) == {"data": "digits"}
    assert app.session_state["data"] == "digits" == sound(app.run()).session_state["data"]


def test_the_next_page_of_a_lecture_gets_only_settings_that_it_has(visit, few):
    app = sound(visit("tour", step=3, present=1, img=4, data="digits"))
    app.button(key="lecture1").click().run()
    assert address(sound(app)) == {"present": "1", "img": "4", "data": "digits"}
    app = sound(app.switch_page("../../pages/tour.py").run())
    assert app.session_state["step"] == 3 and address(app)["step"] == "3"
