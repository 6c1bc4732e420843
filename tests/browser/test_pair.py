"""Tests two trainings side by side in a real browser: by keyboard, in light and dark, and at a
phone's width.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_journeys import serious
from tests.pages.conftest import ordinary


@pytest.mark.parametrize(("theme", "width"), [("light", 400), ("dark", 1280)])
def test_the_pair_is_accessible_and_leads_to_compare_by_keyboard(
    request, theme, width, server, settled
):
    page: Page = request.getfixturevalue(f"{theme}_page")
    page.set_viewport_size({"width": width, "height": 900})
    a, b = ordinary("digits", "standard").id, ordinary("digits", "pgd_at").id
    page.goto(f"{server}/train?job={b}&beside={a}")
    settled(page)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(2)
    expect(
        page.get_by_text("These are two networks: with other seeds the result may differ.")
    ).to_be_visible()
    found = serious(page)
    assert not found, "\n".join(found)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    button = page.get_by_role("button", name="Compare them")
    button.focus()
    button.press("Enter")
    expect(page.get_by_role("heading", name="Which network is robust")).to_be_visible()
    settled(page)
    expect(page).to_have_url(re.compile(r"data=digits"))
