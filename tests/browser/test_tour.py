"""Tests the tour by keyboard alone, and a class whose phones sleep and return, in a real
browser.
"""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from robustviz.ui import networks
from robustviz.views.tour.steps import DATA, steps

STEPS = steps(*networks.defaults(networks.on(DATA)))
MOST = 60  # The most presses of the Tab key until the focus must be there.


def tab_to(page: Page, what: Locator) -> None:
    """Presses the Tab key until the element has the focus."""
    expect(what).to_be_visible()
    for _ in range(MOST):
        page.keyboard.press("Tab")
        if what.evaluate("one => one.getRootNode().activeElement === one"):
            return
    raise AssertionError(f"The Tab key does not come to {what}.")


def options(page: Page) -> Locator:
    """Returns the options that can be guessed."""
    return page.get_by_test_id("stRadio").locator("input")


def guess(page: Page, option: int) -> None:
    """Guesses by keyboard: the arrow keys choose an option."""
    expect(options(page).first).to_be_attached()
    tab_to(page, options(page).first)
    page.keyboard.press("Space")
    for place in range(option):
        page.keyboard.press("ArrowDown")
        expect(options(page).nth(place + 1)).to_be_checked()
    tab_to(page, page.get_by_role("button", name="That is my guess"))
    page.keyboard.press("Enter")


def test_the_tour_goes_by_keyboard_alone_to_its_end(page, server, settled):
    page.goto(f"{server}/tour")
    settled(page)
    for place, step in enumerate(STEPS):
        expect(page.get_by_text(step.question)).to_be_visible()
        guess(page, (step.right + place % 2) % len(step.options))
        said = "No." if place % 2 else "Yes."
        expect(page.get_by_text(f"{said} {step.told}")).to_be_visible()
        settled(page)
        if step is not STEPS[-1]:
            tab_to(page, page.get_by_role("button", name="Next step"))
            page.keyboard.press("Enter")
            settled(page)
    right = (len(STEPS) + 1) // 2
    expect(page.get_by_text(f"{right} of {len(STEPS)} guesses right")).to_be_visible()
    slider = page.locator(".screen input[type=range]")
    tab_to(page, slider)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("1")


@pytest.mark.parametrize(
    ("scheme", "width"), [("dark", 400), pytest.param("light", 1280, marks=pytest.mark.slow)]
)
def test_no_step_has_anything_that_axe_finds(scheme, width, request, server, settled):
    page: Page = request.getfixturevalue(f"{scheme}_page")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{server}/tour")
    for step in STEPS:
        expect(page.get_by_text(step.question)).to_be_visible()
        settled(page)
        for told in (False, True):
            found = Axe().run(page).response["violations"]
            assert not [
                f"{step.key}, told: {told}: {one['id']} {[node['target'] for node in one['nodes']]}"
                for one in found
                if one["impact"] in ("serious", "critical")
            ]
            wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert page.evaluate(wide)
            if not told:
                options(page).first.focus()
                page.keyboard.press("Space")
                page.get_by_role("button", name="That is my guess").press("Enter")
                expect(page.get_by_role("button", name="Continue on the page")).to_be_visible()
                settled(page)
        if step is not STEPS[-1]:
            page.get_by_role("button", name="Next step").click()


def test_a_phone_that_sleeps_and_returns_has_voted_once(
    browser, browser_context_args, fresh_server, settled
):
    server = fresh_server(ROBUSTVIZ_MODE="class").url
    step = STEPS[2]
    anna, ben = (browser.new_context(**browser_context_args) for _ in range(2))
    phone = anna.new_page()
    phone.goto(f"{server}/tour?step=3")
    settled(phone)
    guess(phone, step.right)
    expect(phone.get_by_text(f"The class: 1 of 1 say {step.options[step.right]}.")).to_be_visible()
    phone.close()
    phone = anna.new_page()
    phone.goto(f"{server}/tour?step=3")
    expect(phone.get_by_text(f"Yes. {step.told}")).to_be_visible()
    expect(phone.get_by_text("The class: 1 of 1 say")).to_be_visible()
    other = ben.new_page()
    other.goto(f"{server}/tour?step=3")
    settled(other)
    guess(other, step.right)
    for page in (other, phone):  # The page of the other student updates without being touched.
        expect(
            page.get_by_text(f"The class: 2 of 2 say {step.options[step.right]}.")
        ).to_be_visible()
    anna.set_offline(True)
    anna.set_offline(False)
    phone.reload()
    settled(phone)
    expect(phone.get_by_text("The class: 2 of 2 say")).to_be_visible()
    for context in (anna, ben):
        context.close()
