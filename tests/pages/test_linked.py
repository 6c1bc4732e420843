"""Tests settings that belong to a data set: after a change of data, a setting that is out of range
or was never chosen takes the new data set's default, on the page and in the address.
"""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

PAGE = """
import streamlit as st
from robustviz.ui import shell
data = st.selectbox("Data", ["one", "two"], key="data", on_change=lambda: shell.forget("img"))
start, top = {"one": (8, 32), "two": (38, 128)}[data]
st.slider("eps", 0, top, **shell.linked("eps", start, range(top + 1)))
st.number_input("img", 0, 99, **shell.linked("img", {"one": 2, "two": 0}[data], range(100)))
shell.write_address()
"""


@pytest.fixture
def page() -> AppTest:
    return AppTest.from_string(PAGE)


def said(app: AppTest) -> tuple[int, int, dict[str, str]]:
    assert not app.exception
    return app.slider[0].value, app.number_input[0].value, dict(app.query_params)


def test_what_nobody_chose_is_the_data_s_own(page):
    assert said(page.run()) == (8, 2, {})
    assert said(page.selectbox[0].select("two").run()) == (38, 0, {})
    assert said(page.selectbox[0].select("one").run()) == (8, 2, {})


def test_what_was_chosen_stays_where_it_fits(page):
    page.run().slider[0].set_value(20).run()
    assert said(page.selectbox[0].select("two").run()) == (20, 0, {"eps": "20"})
    page.slider[0].set_value(100).run()
    assert said(page.selectbox[0].select("one").run()) == (8, 2, {})


def test_an_image_never_stays_neither_chosen_nor_in_the_address(page):
    page.query_params["img"] = "17"
    assert said(page.run()) == (8, 17, {"img": "17"})
    assert said(page.selectbox[0].select("two").run()) == (38, 0, {})
    page.number_input[0].set_value(5).run()
    assert said(page.selectbox[0].select("one").run()) == (8, 2, {})


@pytest.mark.parametrize("nonsense", ["-1", "1e9", "99999999999", "abc", "33"])
def test_an_address_can_say_anything(page, nonsense):
    page.query_params["eps"] = nonsense
    assert said(page.run()) == (8, 2, {})
