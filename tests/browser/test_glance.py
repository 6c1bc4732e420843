"""Tests lectures, the menu and the slider, which a person sees and moves at a glance."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_tour import STEPS

HEIGHT = 720


def shown(page: Page, server: str, settled, name: str, **address: str) -> Page:
    """Opens the page at 1280×720 and returns it."""
    page.set_viewport_size({"width": 1280, "height": HEIGHT})
    query = "&".join(f"{key}={value}" for key, value in address.items())
    page.goto(f"{server}/{name}?{query}")
    settled(page)
    expect(page.locator(".screen .answer").first).not_to_be_empty()
    return page


@pytest.mark.parametrize("name", ["attack", "attention", "features", "soft-labels"])
def test_a_lecture_has_the_control_on_the_first_screen(page, server, settled, name):
    shown(page, server, settled, name, present="1")
    box = page.locator(".screen .control").first.bounding_box()
    assert box is not None and box["y"] + box["height"] <= HEIGHT, f"{name}: {box}"


def test_a_scrollbar_beside_the_page_leaves_the_five_pictures_in_one_row(page, server, settled):
    shown(page, server, settled, "attack")
    page.set_viewport_size({"width": 1280 - 17, "height": HEIGHT})
    tops = page.locator(".screen .pair figure").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().top)"
    )
    assert len(tops) == 5 and len(set(tops)) == 1


def test_the_resting_slider_is_in_the_address_and_comes_back(page, server, settled):
    shown(page, server, settled, "attack", img="1")
    slider = page.locator(".screen input[type=range]").first
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    said = page.locator(".screen output").first.inner_text()
    expect(page).to_have_url(re.compile("eps="))
    settled(page)
    answer = page.locator(".screen .answer").first.inner_text()
    page.goto(page.url)
    settled(page)
    expect(page.locator(".screen output").first).to_have_text(said)
    expect(page.locator(".screen .answer").first).to_have_text(answer)


def test_a_menu_click_keeps_the_page_and_starts_at_the_top(page, server, settled):
    shown(page, server, settled, "attack")
    page.evaluate("window.kept = true")
    main = page.get_by_test_id("stMain")
    main.evaluate("one => one.scrollTo(0, one.scrollHeight)")
    assert main.evaluate("one => one.scrollTop") > 0
    page.get_by_role("link", name="Contributions", exact=True).click()
    expect(
        page.get_by_role("heading", name="How many features does an answer rest on?")
    ).to_be_visible()
    settled(page)
    assert main.evaluate("one => one.scrollTop") == 0
    assert page.evaluate("window.kept")


def test_a_lecture_asks_first_and_goes_on_by_arrow_keys(page, server, settled):
    shown(page, server, settled, "attack", present="1")
    answer = page.locator(".screen .answer").first
    expect(answer).not_to_be_visible()
    expect(page.get_by_role("link", name="Attention", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Reveal").click()
    expect(answer).to_be_visible()
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="Which pixels matter")).to_be_visible()
    settled(page)
    expect(page).to_have_url(re.compile("present=1"))
    expect(page.get_by_role("button", name="Reveal")).to_be_visible()
    expect(page.locator(".screen .answer").first).not_to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".screen .answer").first).to_be_visible()
    settled(page)  # One press does one thing, also on the second page: it does not lead on as well.
    expect(page.get_by_role("heading", name="Which pixels matter")).to_be_visible()
    page.get_by_role("button", name="End lecture").click()
    expect(page.get_by_role("link", name="Attention", exact=True)).to_be_visible()
    settled(page)


@pytest.mark.parametrize("name", ["transfer", "contributions", "claims", "budget"])
def test_a_lecture_shows_no_number_of_the_answer_in_the_picture_before_it(
    page, server, settled, name
):
    shown(page, server, settled, name, present="1")
    told = page.locator(".screen .picture .told:not(.small *)")  # .small is for phones
    seen = "all => all.map((one) => one.checkVisibility({ visibilityProperty: true }))"
    expect(told.first).to_be_attached()
    assert not any(told.evaluate_all(seen))
    page.get_by_role("button", name="Reveal").click()
    assert all(told.evaluate_all(seen))


def test_a_lecture_reveals_the_steps_of_the_tour_without_a_guess(page, server, settled):
    page.set_viewport_size({"width": 1280, "height": HEIGHT})
    page.goto(f"{server}/tour?present=1")
    for step in STEPS[:2]:
        expect(page.get_by_role("button", name="Reveal", exact=True)).to_be_visible()
        settled(page)
        page.keyboard.press("ArrowRight")
        expect(page.get_by_text(step.told)).to_be_visible()
        settled(page)
        page.keyboard.press("ArrowRight")
    expect(page.get_by_text(STEPS[2].question)).to_be_visible()
    expect(page.get_by_text("guesses right")).to_have_count(0)
    settled(page)
