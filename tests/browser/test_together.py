"""Tests networks side by side in a real browser: by keyboard, in light and dark, and at a phone's
width.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_journeys import serious
from tests.pages.conftest import ordinary


@pytest.mark.parametrize(
    ("theme", "width"), [("light", 400), pytest.param("dark", 1280, marks=pytest.mark.slow)]
)
def test_one_scrubber_moves_three_networks_by_keyboard(request, theme, width, server, settled):
    page: Page = request.getfixturevalue(f"{theme}_page")
    page.set_viewport_size({"width": width, "height": 900})
    a, b, c = (ordinary("digits", key).id for key in ("standard", "pgd_at", "fgsm_at"))
    page.goto(f"{server}/compare?data=digits&a={a}&b={b}&net-c={c}")
    settled(page)
    button = page.get_by_role("button", name="Measure the kept epochs")
    plane = page.get_by_role("img", name="Feature map of C")
    expect(button.or_(plane)).to_be_visible(timeout=60_000)
    if button.is_visible():
        button.press("Enter")
    expect(plane).to_be_visible(timeout=120_000)
    settled(page)
    slider = page.get_by_role("slider", name="Epoch")
    slider.focus()
    slider.press("Home")
    expect(page.get_by_text("Epoch 1: ")).to_be_visible()
    # A vertical line has no width, so Playwright does not count it as visible.
    line = page.locator("svg:visible [data-move^=now]").first
    first = line.get_attribute("transform")
    for _ in range(8):
        slider.press("ArrowRight")
    expect(page.get_by_text("Epoch 9: ")).to_be_visible()
    assert line.get_attribute("transform") != first
    expect(page.get_by_text("predictions of the weights of epoch 6:")).to_have_count(2)
    expect(page.get_by_text("predictions of the chosen weights:")).to_have_count(1)
    slider.press("End")
    expect(page.get_by_text("predictions of the chosen weights:")).to_have_count(3)
    settled(page)
    found = serious(page)
    assert not found, "\n".join(found)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
