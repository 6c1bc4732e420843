"""Tests the painting canvas in a real browser: by mouse, by keyboard, from an address, on a narrow
page and on a dark page.
"""

from __future__ import annotations

import base64
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect


def studio(page: Page, address: str, settled) -> None:
    """Opens the page on digits and waits for its painting canvas: 8×8 pixels, of which the middle
    sixteen are allowed.
    """
    page.goto(address)
    settled(page)
    expect(page.get_by_role("application")).to_be_visible()
    settled(page)


def test_a_stroke_of_the_mouse_is_attacked_and_its_address_shows_the_same(
    page, server, settled, browser
):
    studio(page, f"{server}/attention?data=digits&img=4", settled)
    expect(page.get_by_text("16 of 64 pixels allowed (25%)")).to_be_visible()
    page.get_by_role("application").scroll_into_view_if_needed()
    box = page.get_by_role("application").bounding_box()
    cell = box["width"] / 8
    page.get_by_label("Brush").select_option("1")
    page.mouse.move(box["x"] + cell / 2, box["y"] + cell / 2)
    page.mouse.down()
    # The mouse jumps over the whole row, which must have no gaps.
    page.mouse.move(box["x"] + 7.5 * cell, box["y"] + cell / 2)
    page.mouse.up()
    expect(page.get_by_text("24 of 64 pixels allowed (38%)")).to_be_visible()
    # One byte per row.
    assert (
        base64.urlsafe_b64encode(bytes([0xFF, 0, 0x3C, 0x3C, 0x3C, 0x3C, 0, 0])) == b"_wA8PDw8AAA="
    )
    expect(page).to_have_url(re.compile("paint=_wA8PDw8AAA"))
    settled(page)
    page.get_by_role("button", name="Attack within this budget").click()
    expect(page.get_by_text("24 of 64 pixels (38%) may change by")).to_be_visible()
    settled(page)
    assert (
        page.get_by_text("This attack is weaker than the one used for robust accuracy").count() == 1
    )
    seen = page.get_by_test_id("stMain").inner_text().split("Centre")[1]
    other = browser.new_context().new_page()
    other.goto(page.url)
    settled(other)
    expect(other.get_by_text("24 of 64 pixels allowed (38%)")).to_be_visible()
    settled(other)
    assert other.get_by_test_id("stMain").inner_text().split("Centre")[1] == seen
    other.context.close()


def test_everything_goes_by_keyboard(page, server, settled):
    studio(page, f"{server}/attention?data=digits&img=4&paint=none", settled)
    page.get_by_label("Brush").select_option("1")
    canvas = page.get_by_role("application", name=re.compile("Test image 4"))
    canvas.focus()
    # The cursor starts in the middle, at row 5 and column 5.
    for key in ("ArrowUp", "ArrowLeft", "Space"):
        canvas.press(key)
    expect(
        page.get_by_text("Row 4, column 4: allowed. 1 of 64 pixels allowed (2%)")
    ).to_be_visible()
    canvas.press("Space")
    canvas.press("ArrowRight")
    canvas.press("Space")
    expect(page.get_by_text("Row 4, column 5: allowed. 1 of 64")).to_be_visible()
    expect(page).to_have_url(re.compile(r"paint=AAAACAAAAAA"))
    settled(page)
    page.get_by_role("button", name="Edge", exact=True).press("Enter")
    expect(page.get_by_text("28 of 64 pixels allowed (44%)")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Attack within this budget").press("Enter")
    expect(page.get_by_text("28 of 64 pixels (44%) may change by")).to_be_visible()
    page.get_by_role("button", name="Clear", exact=True).press("Enter")
    expect(page.get_by_text("The budget has changed: attack again.")).to_be_visible()
    settled(page)
    # Back to row 4, column 5: the mask is the same as before, so its result is valid again.
    for key in ("ArrowUp", "ArrowLeft", "ArrowRight", "Space"):
        canvas.press(key)
    expect(page.get_by_text("Row 4, column 5: allowed. 1 of 64")).to_be_visible()
    expect(page.get_by_text("2% of the image may change")).to_be_visible()
    expect(page).to_have_url(re.compile(r"paint=AAAACAAAAAA"))


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_accessible_and_fits_a_narrow_window(dark, request, server, settled):
    page = request.getfixturevalue("dark_page" if dark else "light_page")
    page.set_viewport_size({"width": 400, "height": 900})
    studio(page, f"{server}/attention?data=digits&img=4&paint=edge&quadrant=upper-left", settled)
    expect(page.get_by_text("28 of 64 pixels (44%) may change by")).to_be_visible()
    expect(
        page.get_by_role("heading", name=re.compile("^Puzzle: in which quarter"))
    ).to_be_visible()
    settled(page)
    assert page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    found = Axe().run(page).response["violations"]
    assert not [
        f"{one['id']}: {one['nodes'][0]['target']}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
