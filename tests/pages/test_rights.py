"""Tests who may act: everybody on their own computer, only the teacher in a class, nobody in a
demo.
"""

from __future__ import annotations

import pytest

from robustviz.types import UserError
from robustviz.ui import rights
from tests.pages.conftest import sound, words


class Session:
    """A stand-in for Streamlit's session state and request of one visitor."""

    def __init__(self, **address: str) -> None:
        self.session_state: dict[str, object] = {}
        self.query_params = dict(address)
        self.context = self
        self.headers: dict[str, str] = {"Host": "192.0.2.7:8501"}
        self.warned: list[str] = []

    def warning(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def come(monkeypatch):
    """Returns a function such as `come(teacher="…")`, which creates a visitor's session and greets
    the visitor.
    """

    def go(**address: str) -> Session:
        session = Session(**address)
        monkeypatch.setattr(rights, "st", session)
        rights.greet()
        return session

    return go


def test_on_ones_own_computer_everybody_may(come, monkeypatch):
    for name in ("ROBUSTVIZ_MODE", "ROBUSTVIZ_DEMO"):
        monkeypatch.delenv(name, raising=False)
    come(teacher="anything")
    assert rights.may_act()


def test_a_teachers_link_is_good_once_and_leaves_the_address(come, monkeypatch, capsys):
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    monkeypatch.setenv("ROBUSTVIZ_TOKEN", "first-of-this-test")
    come()
    assert not rights.may_act()
    with pytest.raises(UserError, match="Only the teacher may train here"):
        rights.check("train")
    teacher = come(teacher="first-of-this-test")
    assert rights.may_act() and "teacher" not in teacher.query_params
    again = come(teacher="first-of-this-test")
    assert not rights.may_act() and again.warned
    assert "Teachers: the terminal has your link." in rights.sentence("train")
    link = capsys.readouterr().err
    assert link.startswith("Next teacher's link: http://192.0.2.7:8501/?teacher=")
    come(teacher=link.rpartition("=")[2].strip())
    assert rights.may_act()
    come(teacher="")
    assert not rights.may_act()


def test_a_demo_has_nobody_and_an_unknown_mode_is_one(come, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_TOKEN", "t")
    for name, value in (("ROBUSTVIZ_MODE", "klass"), ("ROBUSTVIZ_DEMO", "1")):
        monkeypatch.setenv(name, value)
        come(teacher="t")
        assert not rights.may_act()
        with pytest.raises(UserError, match="Nobody may train here"):
            rights.check("train")


def test_behind_a_proxy_those_whom_it_names_may(come, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_MODE", "lab")
    monkeypatch.setenv("ROBUSTVIZ_TEACHERS", "ada, grace")
    session = come()
    session.headers["X-User"] = "ada"
    assert not rights.may_act()  # No header is trusted unless the server is configured to.
    monkeypatch.setenv("ROBUSTVIZ_USER_HEADER", "X-User")
    assert rights.may_act()
    session.headers["X-User"] = "eve"
    assert not rights.may_act()


def test_a_proxy_that_shows_the_wrong_token_is_not_believed(come, monkeypatch):
    for name, value in (
        ("ROBUSTVIZ_MODE", "lab"),
        ("ROBUSTVIZ_TEACHERS", "ada"),
        ("ROBUSTVIZ_USER_HEADER", "X-User"),
        ("ROBUSTVIZ_TOKEN", "secret"),
    ):
        monkeypatch.setenv(name, value)
    session = come(teacher="secret")  # The teacher's link makes nobody a teacher in a lab.
    session.headers["X-User"] = "ada"
    for said in (None, "", "other", "secre\u00e9"):
        session.headers |= {} if said is None else {rights.SECRET: said}
        assert not rights.may_act()
    session.headers[rights.SECRET] = "secret"
    assert rights.may_act()


def test_only_the_teachers_menu_shows_where_a_class_joins(visit, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    monkeypatch.setenv("ROBUSTVIZ_JOIN", "192.0.2.9")
    assert "Join at" not in words(sound(visit("glossary")))
    monkeypatch.setattr(rights, "may_act", lambda: True)
    assert "Join at **http://192.0.2.9:" in words(sound(visit("glossary")))
    assert "Join at **http://192.0.2.9:" in words(sound(visit("glossary", present=1)))
    monkeypatch.setenv("ROBUSTVIZ_MODE", "own")
    assert "Join at" not in words(sound(visit("glossary")))
